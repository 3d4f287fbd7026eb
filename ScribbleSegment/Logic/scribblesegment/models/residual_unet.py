"""A residual U-Net that works at half the resolution and returns to the full one only at its end.

At full resolution a network spends most of its time on few channels. Here a strided convolution leads to half the
resolution at once, residual blocks (He et al. 2016, with normalisation first) of growing width follow, and a short head
at full resolution compares the enlarged result with the image and the prompts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.models.cues import cue_channels, with_cues
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.layers import LEAKY_SLOPE, initialise, upsample_bilinear


@dataclass(frozen=True)
class ResidualUNetConfig:
    """Shape of a `ResidualUNet`.

    Attributes:
        features: Channels of each level, half resolution first; the last entry is the bottleneck.
        blocks: Residual blocks of each level on the way down; on the way up there is one.
        head_features: Channels of the head at full resolution.
        norm_groups: Groups of the group normalisations.
        separable: Whether 3x3 convolutions of the blocks are split into one a channel and one a pixel.
        intensity_cues: Whether the network is also given `scribblesegment.models.intensity_cues`.
        geodesic_cues: Whether it is also given `scribblesegment.models.geodesic_cues`.
    """

    features: tuple[int, ...] = (48, 64, 96, 128, 128)
    blocks: tuple[int, ...] = (1, 1, 1, 1, 1)
    head_features: int = 16
    norm_groups: int = 8
    separable: bool = False
    intensity_cues: bool = True
    geodesic_cues: bool = True

    def __post_init__(self) -> None:
        """Normalise lists from JSON and refuse impossible shapes.

        Raises:
            ConfigError: If a number is not positive, widths and blocks differ in number, or the groups do not divide.
        """
        for name in ("features", "blocks"):
            object.__setattr__(self, name, tuple(int(count) for count in getattr(self, name)))
        if len(self.features) < 2 or min(*self.features, *self.blocks, self.head_features, self.norm_groups) < 1:
            raise ConfigError(
                f"features, blocks, head_features and norm_groups must be positive, for at least two levels: {self}."
            )
        if len(self.features) != len(self.blocks):
            raise ConfigError(f"There are {len(self.features)} features and {len(self.blocks)} blocks; give as many.")
        if any(count % self.norm_groups for count in self.features):
            raise ConfigError(f"norm_groups {self.norm_groups} does not divide all of the features {self.features}.")


class ResidualBlock(nn.Module):
    """Normalisation and two convolutions, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, *, norm_groups: int, separable: bool) -> None:
        """Build a block; where the channels change, the input is brought to them by a 1x1 convolution."""
        super().__init__()
        same = in_channels == out_channels
        self.project = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.norm = nn.GroupNorm(norm_groups, out_channels)
        self.first = _convolution(out_channels, separable=separable)
        self.second = _convolution(out_channels, separable=separable)

    def start_as_identity(self) -> None:
        """Let a block with fresh parameters, whose biases are zero, pass on its input (or its projection) unchanged."""
        *_, last = (module for module in self.second.modules() if isinstance(module, nn.Conv2d))
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        x = self.project(x)
        y = self.first(functional.leaky_relu(self.norm(x), LEAKY_SLOPE))
        output: Tensor = x + self.second(functional.leaky_relu(y, LEAKY_SLOPE))
        return output


def _convolution(channels: int, *, separable: bool) -> nn.Module:
    if not separable:
        return nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False), nn.Conv2d(channels, channels, 1)
    )


class ResidualUNet(nn.Module):
    """Encoder-decoder from image and prompts to the logits of one structure."""

    def __init__(self, config: ResidualUNetConfig | None = None) -> None:
        """Build the network with freshly initialised parameters."""
        super().__init__()
        self.config = config or ResidualUNetConfig()
        features, groups = self.config.features, self.config.norm_groups
        inputs = CHANNELS + cue_channels(intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues)
        self.stem = nn.Conv2d(inputs, features[0], 4, stride=2, padding=1)
        self.downs = nn.ModuleList()
        width = features[0]
        for count, after in zip(self.config.blocks, features, strict=True):
            blocks = [self._block(width if index == 0 else after, after) for index in range(count)]
            self.downs.append(nn.Sequential(*blocks))
            width = after
        self.ups = nn.ModuleList(
            self._block(below + beside, beside)
            for below, beside in zip(reversed(features[1:]), reversed(features[:-1]), strict=True)
        )
        head = self.config.head_features
        self.norm = nn.GroupNorm(groups, features[0])
        self.to_head = nn.Conv2d(features[0], head, 1)
        self.head = nn.Sequential(
            nn.Conv2d(inputs + head, head, 3, padding=1),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
            nn.Conv2d(head, head, 3, padding=1),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
        )
        self.final_conv = nn.Conv2d(head, 1, 1)
        initialise(self, self.stem)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.start_as_identity()

    def _block(self, before: int, after: int) -> ResidualBlock:
        return ResidualBlock(before, after, norm_groups=self.config.norm_groups, separable=self.config.separable)

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits.

        Args:
            x: (B, 5, H, W); channels as in `scribblesegment.models.encoding`; H and W at least 2 ** levels.

        Returns:
            Logits (B, 1, H, W).
        """
        size = (x.shape[-2], x.shape[-1])
        inputs = with_cues(x, intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues)
        y = self.stem(inputs)
        skips: list[Tensor] = []
        for level, down in enumerate(self.downs):
            if level > 0:
                y = functional.max_pool2d(y, kernel_size=2)
            y = down(y)  # (B, features[level], H / 2**(level + 1), W / 2**(level + 1))
            skips.append(y)
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            y = upsample_bilinear(y, (skip.shape[-2], skip.shape[-1]))
            y = up(torch.cat([skip, y], dim=1))
        y = self.to_head(functional.leaky_relu(self.norm(y), LEAKY_SLOPE))
        y = self.head(torch.cat([inputs, upsample_bilinear(y, size)], dim=1))
        logits: Tensor = self.final_conv(y)
        return logits
