"""ScribblePrompt-UNet: the interactive network, at any width and depth.

Source: ScribblePrompt, section 3.4 and appendix B.2. The published network has four downsampling levels, one
convolution a level, 192 features throughout, PReLU and no normalisation. Parameter names are those of the published
checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.models.cues import cue_channels, with_cues
from scribblesegment.models.layers import ACTIVATIONS, LEAKY_SLOPE, initialise


@dataclass(frozen=True)
class ScribbleUNetConfig:
    """Shape of a `ScribbleUNet`; ConfigError if it is impossible."""

    features: tuple[int, ...] = (192, 192, 192, 192, 192)  # channels of each level, full resolution to bottleneck
    convolutions: int = 1  # 3x3 convolutions a level, each followed by an activation
    in_channels: int = 5  # image, box, positive and negative prompts, previous logits
    activation: str = "prelu"  # as published, or "leaky_relu" (fixed slope 0.1), which trains faster on processors
    # Groups of a group normalisation before the activations below full resolution, where it would cost as much time as
    # the convolutions; zero (published) for none.
    norm_groups: int = 0
    intensity_cues: bool = False  # whether `intensity_cues` are computed as further input (published: no)
    geodesic_cues: bool = False  # whether `geodesic_cues` are (published: no)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(int(count) for count in self.features))  # lists, from JSON
        if len(self.features) < 2 or min(self.features) < 1:
            raise ConfigError(f"features needs at least two positive widths, got {self.features}.")
        if self.convolutions < 1 or self.in_channels < 1:
            raise ConfigError(
                f"convolutions and in_channels must be positive, got {self.convolutions} and {self.in_channels}."
            )
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation is one of {', '.join(ACTIVATIONS)}, got {self.activation!r}.")
        if self.norm_groups < 0 or any(count % max(1, self.norm_groups) for count in self.features[1:]):
            raise ConfigError(f"norm_groups {self.norm_groups} does not divide all of the features {self.features}.")


class ConvBlock(nn.Module):
    """Convolutions that keep the image size, each followed by an activation unless it is None."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        convolutions: int = 1,
        kernel_size: int = 3,
        activation: str | None = "prelu",
        norm_groups: int = 0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(convolutions):
            channels = in_channels if index == 0 else out_channels
            layers.append(nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2))
            if norm_groups > 0:
                layers.append(nn.GroupNorm(norm_groups, out_channels))
            if activation is not None:
                layers.append(ACTIVATIONS[activation]())
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        output: Tensor = self.conv(x)
        return output


class ScribbleUNet(nn.Module):
    """Encoder-decoder from image and prompts to the logits of one structure."""

    def __init__(self, config: ScribbleUNetConfig | None = None, *, added_channels: int = 0) -> None:
        """Build the network; a derived one may append channels of its own behind the cues."""
        super().__init__()
        self.config = config or ScribbleUNetConfig()
        *levels, bottleneck = self.config.features
        block = partial(ConvBlock, convolutions=self.config.convolutions, activation=self.config.activation)
        groups = self.config.norm_groups
        cues = cue_channels(intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues)
        inputs = [self.config.in_channels + cues + added_channels, *levels]
        self.downs = nn.ModuleList(
            block(before, after, norm_groups=groups if level > 0 else 0)
            for level, (before, after) in enumerate(zip(inputs[:-1], levels, strict=True))
        )
        self.bottleneck = block(levels[-1], bottleneck, norm_groups=groups)
        self.ups = nn.ModuleList()
        below = bottleneck
        for level, width in reversed(list(enumerate(levels))):
            # The published checkpoint numbers the parameterless upsampling too: blocks are ups.1, ups.3, ...
            self.ups.append(nn.Identity())
            self.ups.append(block(width + below, width, norm_groups=groups if level > 0 else 0))
            below = width
        self.final_conv = ConvBlock(levels[0], 1, kernel_size=1, activation=None)
        first = next(module for module in self.downs.modules() if isinstance(module, nn.Conv2d))
        initialise(self, first, slope=0.25 if self.config.activation == "prelu" else LEAKY_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits (B, 1, H, W) from (B, in_channels, H, W), the channels of `scribblesegment.models.encoding`.

        H and W are at least 2 ** (levels - 1).
        """
        return self.segment(with_cues(x, intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues))

    def segment(self, x: Tensor) -> Tensor:
        """Predict logits (B, 1, H, W) from the input with all its cues, (B, C, H, W)."""
        skips: list[Tensor] = []
        for down in self.downs:
            x = down(x)  # (B, features[level], H / 2**level, W / 2**level)
            skips.append(x)
            x = functional.max_pool2d(x, kernel_size=2)
        x = self.bottleneck(x)
        for block, skip in zip(list(self.ups)[1::2], reversed(skips), strict=True):
            x = functional.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=True)  # as published
            x = block(torch.cat([skip, x], dim=1))
        logits: Tensor = self.final_conv(x)
        return logits
