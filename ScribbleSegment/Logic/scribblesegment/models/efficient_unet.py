"""Efficient-UNetV2 of Interactive Scribble Segmentation (section 3.2, figure 3), at any width.

A U-Net whose encoder and decoder consist of the blocks of EfficientNetV2 (Tan and Le 2021): fused inverted residual
blocks (a 3x3 convolution that widens, a 1x1 that narrows) at high resolutions, and inverted residual blocks with a
depthwise convolution and squeeze-and-excitation at low ones. Average pooling leads down, bilinear upsampling up, as in
the source. Group normalisation takes the place of batch normalisation, so that nothing depends on other samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.models.cues import cue_channels, with_cues
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.layers import initialise

# SiLU, the activation of EfficientNetV2, has about ReLU's gain.
_SLOPE = 0.0

# Squeezed channels as a fraction of a block's input (Tan and Le 2021).
_SQUEEZE = 4


@dataclass(frozen=True)
class EfficientUNetConfig:
    """Shape of an `EfficientUNet`; ConfigError if it is impossible."""

    features: tuple[int, ...] = (16, 32, 64, 96, 128, 160)  # channels of each level, full resolution to bottleneck
    expansion: int = 2  # how many times wider a block is inside
    fused_levels: int = 3  # levels from the top whose blocks are fused
    norm_groups: int = 8  # groups of the group normalisations
    intensity_cues: bool = True  # whether `intensity_cues` are computed as further input
    geodesic_cues: bool = True  # whether `geodesic_cues` are

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(int(count) for count in self.features))  # lists, from JSON
        if len(self.features) < 2 or min(*self.features, self.expansion, self.norm_groups) < 1:
            raise ConfigError(f"features, expansion and norm_groups must be positive, for at least two levels: {self}.")
        if self.fused_levels < 0:
            raise ConfigError(f"fused_levels must be at least 0, got {self.fused_levels}.")
        if any(count % self.norm_groups for count in self.features):
            raise ConfigError(f"norm_groups {self.norm_groups} does not divide all of the features {self.features}.")


class _SqueezeExcitation(nn.Module):
    """Weighs channels by what their means say (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.excite(functional.silu(self.squeeze(x.mean(dim=(2, 3), keepdim=True))))
        return x * torch.sigmoid(weights)


class InvertedResidual(nn.Module):
    """MBConv, or Fused-MBConv: wide inside, narrow outside, added to its input where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, fused: bool, norm_groups: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        wide += -wide % norm_groups
        self.adds = in_channels == out_channels
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, wide, 3 if fused else 1, padding=1 if fused else 0, bias=False),
            nn.GroupNorm(norm_groups, wide),
            nn.SiLU(inplace=True),
        ]
        if not fused:
            layers += [
                nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
                nn.GroupNorm(norm_groups, wide),
                nn.SiLU(inplace=True),
                _SqueezeExcitation(wide, max(1, in_channels // _SQUEEZE)),
            ]
        self.block = nn.Sequential(
            *layers, nn.Conv2d(wide, out_channels, 1, bias=False), nn.GroupNorm(norm_groups, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        y: Tensor = self.block(x)
        return x + y if self.adds else y


class EfficientUNet(nn.Module):
    """Encoder-decoder from image and prompts to the logits of one structure."""

    def __init__(self, config: EfficientUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or EfficientUNetConfig()
        features = self.config.features
        inputs = CHANNELS + cue_channels(intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues)
        self.stem = nn.Conv2d(inputs, features[0], 3, padding=1)
        self.downs = nn.ModuleList(
            self._block(features[max(0, level - 1)], features[level], level) for level in range(len(features))
        )
        self.ups = nn.ModuleList(
            self._block(features[level + 1] + features[level], features[level], level)
            for level in reversed(range(len(features) - 1))
        )
        self.final_conv = nn.Conv2d(features[0], 1, 1)
        initialise(self, self.stem, slope=_SLOPE)

    def _block(self, before: int, after: int, level: int) -> InvertedResidual:
        return InvertedResidual(
            before,
            after,
            expansion=self.config.expansion,
            fused=level < self.config.fused_levels,
            norm_groups=self.config.norm_groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits (B, 1, H, W) from (B, 5, H, W), the channels of `scribblesegment.models.encoding`.

        H and W are at least 2 ** (levels - 1).
        """
        x = with_cues(x, intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues)
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, down in enumerate(self.downs):
            if level > 0:
                x = functional.avg_pool2d(x, kernel_size=2)
            x = down(x)
            skips.append(x)
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            x = functional.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=True)
            x = up(torch.cat([skip, x], dim=1))
        logits: Tensor = self.final_conv(x)
        return logits
