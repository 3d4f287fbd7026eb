"""The interactive network with a context set: it is also shown what the context says about the target.

Where MultiverSeg (section 3.2.1) lets features of target and context meet at every level of the network, here they meet
before it, in a few channels beside the prompts (see `docs/decisions/0004`). What the context says depends on the
target's image but not on its prompts, so it is computed once an image, and a prediction takes as long with 64 context
entries as with none. Without a context the channels are zero, and the network is the interactive one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.models.context_matching import CHANNELS_PER_HEAD, ContextMatching
from scribblesegment.models.cues import with_cues
from scribblesegment.models.encoding import IMAGE
from scribblesegment.models.in_context import ContextState
from scribblesegment.models.intensity_cues import (
    INTENSITY_CHANNELS,
    Appearance,
    compare,
    filter_image,
    learn_appearance,
)
from scribblesegment.models.layers import without_autocast
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig

# Of the context images every second row and column is enough to learn how the structure looks.
_STRIDE = 2


@dataclass(frozen=True)
class ContextUNetConfig(ScribbleUNetConfig):
    """Shape of a `ContextUNet`.

    Attributes:
        heads: Ways in which the target is matched with the context.
    """

    heads: int = 3

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ConfigError: If there is no head, or the network's shape is impossible.
        """
        super().__post_init__()
        if self.heads < 1:
            raise ConfigError(f"heads must be at least 1, got {self.heads}.")


class ContextUNet(ScribbleUNet):
    """Encoder-decoder from image, prompts and context to the logits of one structure."""

    config: ContextUNetConfig

    def __init__(self, config: ContextUNetConfig | None = None) -> None:
        """Build the network with freshly initialised parameters."""
        config = config or ContextUNetConfig()
        self.context_channels = CHANNELS_PER_HEAD * config.heads + INTENSITY_CHANNELS
        super().__init__(config, added_channels=self.context_channels)
        self.matching = ContextMatching(config.heads)

    def encode_context(self, images: Tensor, masks: Tensor) -> ContextState:
        """Describe the context: patches with their masks, and how the structure looks.

        Args:
            images: (B, S, 1, H, W) in [0, 1]; S may be 0. Sides divisible by 16.
            masks: (B, S, 1, H, W), 0 or 1.
        """
        if images.shape[1] == 0:
            return ()
        with torch.no_grad(), without_autocast(images.device):
            filtered = filter_image(images.flatten(0, 1).float()).unflatten(0, images.shape[:2])
            values = filtered[..., ::_STRIDE, ::_STRIDE].transpose(1, 2).flatten(2)  # (B, K, S pixels)
            inside = masks[:, :, 0, ::_STRIDE, ::_STRIDE].float().flatten(1)
            appearance = learn_appearance(values, inside, 1.0 - inside)
        return (*self.matching.encode(images, masks), *appearance)

    def context_maps(self, image: Tensor, context: ContextState) -> Tensor:
        """Compute what the context says about a target.

        Args:
            image: (B, 1, H, W) in [0, 1].
            context: From `encode_context`, for the same batch.

        Returns:
            (B, context_channels, H, W), float32; zeros for an empty context.
        """
        if not context:
            return torch.zeros((len(image), self.context_channels, *image.shape[-2:]), device=image.device)
        keys, values, ratios, factors = context
        with torch.no_grad(), without_autocast(image.device):
            looks = compare(Appearance(ratios, factors), filter_image(image.float()))
        return torch.cat([self.matching(image, keys, values), looks], dim=1)

    def forward(self, x: Tensor, context: ContextState | Tensor | None = None) -> Tensor:
        """Predict logits.

        Args:
            x: (B, in_channels, H, W); channels as in `scribblesegment.models.encoding`.
            context: From `encode_context`, or from `context_maps`; None for an empty set.

        Returns:
            Logits (B, 1, H, W).
        """
        maps = context if isinstance(context, Tensor) else self.context_maps(x[:, IMAGE : IMAGE + 1], context or ())
        inputs = with_cues(x, intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues)
        return self.segment(torch.cat([inputs, maps.to(inputs.dtype)], dim=1))


def crop_maps(maps: Tensor, rows: tuple[float, float], columns: tuple[float, float], size: int) -> Tensor:
    """Show a part of context maps on a grid of its own.

    Args:
        maps: (B, C, H, W).
        rows: Start and stop of the part, as fractions of the height; it may reach beyond [0, 1].
        columns: Start and stop as fractions of the width.
        size: Side of the new grid.

    Returns:
        (B, C, size, size), interpolated linearly; beyond the maps their border.
    """
    axes = []
    for start, stop in (rows, columns):
        steps = (torch.arange(size, device=maps.device, dtype=maps.dtype) + 0.5) / size
        axes.append(2.0 * (start + (stop - start) * steps) - 1.0)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)
    return functional.grid_sample(
        maps, grid[None].expand(len(maps), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
