"""Networks of the kinds that hospitals have, made small, for tests of refinement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class SmallUNet(nn.Module):
    """A U-Net of two levels in 2D or 3D, with a skip connection and in-place activations."""

    def __init__(self, labels: int, *, ndim: int, norm: str, width: int = 8) -> None:
        super().__init__()
        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        norms = {
            ("instance", 2): nn.InstanceNorm2d,
            ("instance", 3): nn.InstanceNorm3d,
            ("batch", 2): nn.BatchNorm2d,
            ("batch", 3): nn.BatchNorm3d,
        }

        def block(channels: int) -> nn.Sequential:
            norm_layer = norms[norm, ndim](width, affine=True)
            return nn.Sequential(conv(channels, width, 3, padding=1), norm_layer, nn.LeakyReLU(0.1, inplace=True))

        self.first = block(1)
        self.down = nn.Sequential(block(width), nn.Dropout(0.5))
        self.up = (nn.ConvTranspose2d if ndim == 2 else nn.ConvTranspose3d)(width, width, 2, 2)
        self.last = block(2 * width)
        self.head = conv(width, labels, 1)
        self.pool = (nn.MaxPool2d if ndim == 2 else nn.MaxPool3d)(2)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        return self.head(self.last(torch.cat([skip, self.up(self.down(self.pool(skip)))], dim=1)))


def small_unet(labels: int = 3, *, ndim: int = 2, norm: str = "instance", seed: int = 0) -> SmallUNet:
    """Make one with fixed weights, in evaluation mode."""
    torch.manual_seed(seed)
    network = SmallUNet(labels, ndim=ndim, norm=norm)
    network.eval()
    return network


class Returning(nn.Module):
    """A network whose output is changed by a function."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network = network
        self.change = change
        self.train(network.training)

    def forward(self, x: Tensor) -> Any:
        return self.change(self.network(x))


class DependingOnValues(nn.Module):
    """A network that no tracer can follow: it looks at the image before it decides what to do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if x.mean() > 0 else self.network(-x)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and buffers."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def unchanged(network: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether all parameters and buffers are bit-identical to a copy."""
    after = network.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())
