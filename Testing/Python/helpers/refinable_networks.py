"""Networks of the kinds that hospitals have, made small, for tests of refinement, and the plainest way to run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scribblesegment.refinement.adapters import NetworkAdapter, PreparedImage
from scribblesegment.refinement.tiling import Tiling


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


class SmallNet(nn.Module):
    """Two convolutions, made anew in every test; logits of the image's size."""

    def __init__(self, ndim: int = 2, channels: int = 1, labels: int = 3, seed: int = 0) -> None:
        super().__init__()
        convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = convolution(channels, 4, 3, padding=1)
            self.second = convolution(4, labels, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(image)))


class Identity(nn.Module):
    """Returns its input and the negative of it as logits of two labels."""

    def __init__(self, ndim: int = 2) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((1, 1, *(1,) * ndim)))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image, -image], dim=1) + self.unused


def blended(tiling: Tiling, image: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """Predict an image (C, *shape) window by window, and blend what comes out, in the plainest way."""
    padded, weights = tiling.padded(image), tiling.weights().double()
    parts = [tiling.placed(predict(tiling.cut(padded, number))) for number in range(len(tiling.windows))]
    summed = torch.zeros((len(parts[0]), *padded.shape[1:]), dtype=torch.float64)
    total = torch.zeros(padded.shape[1:], dtype=torch.float64)
    for window, part in zip(tiling.windows, parts, strict=True):
        summed[(slice(None), *window)] += part * weights
        total[window] += weights
    return tiling.cropped(summed / total).float()


def tiled_logits(network: NetworkAdapter, prepared: PreparedImage) -> NDArray[np.float32]:
    """Class logits (labels, *grid) of a prepared image, by the network run as the tiling says."""

    def predict(patch: Tensor) -> Tensor:
        values = network.output.tensor(network.module(patch))
        return network.output.resolved(values).class_logits(values)

    with torch.no_grad():
        return blended(prepared.tiling, prepared.tensor, predict).numpy()
