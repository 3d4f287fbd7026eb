"""The interactive network with a context set: it is also given what the context says about the target.

Where MultiverSeg (section 3.2.1) lets features of target and context meet at every level of the network, here they meet
before it, in a few channels beside the prompts (see `docs/decisions/0004`). What the context says depends on the
target's image but not on its prompts, so it is computed once an image, and a prediction takes as long with 64 context
entries as with none. Without a context the channels are zero, and the network is the interactive one.

The labels of the context are carried over by patch-based label fusion (Coupé et al. 2011) with learnt descriptors
instead of intensities: a small network describes each patch of 4 x 4 pixels, a patch of the target attends to those of
all context images (scaled dot products; Vaswani et al. 2017), and takes from them their masks and, to show how well
they match, their images. Each head also prefers nearby places by an amount of its own: neighbouring slices lie on each
other, other patients' do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.models.cues import (
    INTENSITY_CHANNELS,
    Appearance,
    compare,
    filter_image,
    learn_appearance,
    with_cues,
)
from scribblesegment.models.encoding import IMAGE
from scribblesegment.models.layers import LEAKY_SLOPE, without_autocast
from scribblesegment.models.unet import ScribbleUNet, ScribbleUNetConfig

CHANNELS_PER_HEAD = 2

_PATCH = 4  # side in pixels; the target's sides are multiples of four patches
_DESCRIPTION = 28  # numbers that describe a patch in one head, its place not counted

# Preference for the same place at the start, for each head in turn: odds fall by exp(-preference * distance squared),
# the image's side being one; 300 is a few pixels, 1 is anywhere.
_FIRST_PREFERENCES = (300.0, 30.0, 1.0)
_FIRST_SCALE = 12.0  # largest similarity of two descriptions at the start
_GAIN = 2.0  # contrast of the difference between the target and what it was matched with
_TAUGHT = 0.2  # part of the target's patches that gradients flow through in training

# Of the context images every second row and column is enough to learn how the structure looks.
_STRIDE = 2

ContextState = tuple[Any, ...]
"""What a network made of a context set; only the network that made it can read it."""


@runtime_checkable
class InContextNetwork(Protocol):
    """A module that segments in context (MultiverSeg, section 3.2)."""

    def encode_context(self, images: Tensor, masks: Tensor) -> ContextState:
        """Compute once what does not depend on the target.

        Images (B, S, 1, H, W) are in [0, 1], masks of the same shape are 0 or 1; S may be 0.
        """
        ...

    def __call__(self, x: Tensor, context: ContextState | None = None) -> Tensor:
        """Predict logits (B, 1, H, W) from (B, 5, H, W), the channels of `scribblesegment.models.encoding`.

        The context comes from `encode_context`, for the same batch; None is an empty set.
        """
        ...


@dataclass(frozen=True)
class ContextUNetConfig(ScribbleUNetConfig):
    """Shape of a `ContextUNet`; ConfigError if it is impossible."""

    heads: int = 3  # ways in which the target is matched with the context

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1:
            raise ConfigError(f"heads must be at least 1, got {self.heads}.")


class ContextUNet(ScribbleUNet):
    """Encoder-decoder from image, prompts and context to the logits of one structure."""

    config: ContextUNetConfig

    def __init__(self, config: ContextUNetConfig | None = None) -> None:
        config = config or ContextUNetConfig()
        self.context_channels = CHANNELS_PER_HEAD * config.heads + INTENSITY_CHANNELS
        super().__init__(config, added_channels=self.context_channels)
        self.matching = ContextMatching(config.heads)

    def encode_context(self, images: Tensor, masks: Tensor) -> ContextState:
        """Describe the context: patches with their masks, and how the structure looks.

        Images (B, S, 1, H, W) are in [0, 1], masks of the same shape are 0 or 1; S may be 0, sides are divisible by 16.
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
        """What the context says about a target (B, 1, H, W) in [0, 1]; it does not depend on the prompts.

        Returns:
            (B, context_channels, H, W), float32; zeros for an empty context. `forward` takes it in the context's place.
        """
        if not context:
            return torch.zeros((len(image), self.context_channels, *image.shape[-2:]), device=image.device)
        keys, values, ratios, factors = context
        with torch.no_grad(), without_autocast(image.device):
            looks = compare(Appearance(ratios, factors), filter_image(image.float()))
        return torch.cat([self.matching(image, keys, values), looks], dim=1)

    def forward(self, x: Tensor, context: ContextState | Tensor | None = None) -> Tensor:
        """Predict logits (B, 1, H, W) from (B, in_channels, H, W), the channels of `scribblesegment.models.encoding`.

        The context comes from `encode_context` or `context_maps`; None is an empty set.
        """
        maps = context if isinstance(context, Tensor) else self.context_maps(x[:, IMAGE : IMAGE + 1], context or ())
        inputs = with_cues(x, intensity=self.config.intensity_cues, geodesic=self.config.geodesic_cues)
        return self.segment(torch.cat([inputs, maps.to(inputs.dtype)], dim=1))


class ContextMatching(nn.Module):
    """Carries masks of a context set over to a target, in several ways (heads)."""

    def __init__(self, heads: int = 3, features: tuple[int, int, int, int] = (16, 24, 32, 48)) -> None:
        """Build the descriptor network, of these channels at 1/2, 1/4, 1/8 and 1/16 of the resolution."""
        super().__init__()
        self.heads = heads
        before = (1, *features[:-1])
        self.downs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1) for inputs, outputs in zip(before, features, strict=True)
        )
        self.mixes = nn.ModuleList(nn.Conv2d(count, count, 3, padding=1) for count in features[1:])
        self.laterals = nn.ModuleList(nn.Conv2d(count, heads * _DESCRIPTION, 1) for count in features[1:])
        self.scales = nn.Parameter(torch.full((heads,), _FIRST_SCALE).log())
        preferences = [_FIRST_PREFERENCES[head % len(_FIRST_PREFERENCES)] for head in range(heads)]
        self.preferences = nn.Parameter(torch.tensor(preferences).log())

    def encode(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Describe context images (B, S, 1, H, W) with their masks.

        Returns:
            Keys (B, heads, S * patches, D) and values (B, S * patches, 2 * _PATCH ** 2), both float32.
        """
        batch, size = images.shape[:2]
        places, descriptions = self._describe(images.flatten(0, 1))
        preferences = self._per_head(self.preferences)
        nearness = (-preferences * places.square().sum(dim=-1, keepdim=True)).expand(batch * size, -1, -1, -1)
        placed = places.expand(batch * size, self.heads, -1, -1)
        keys = torch.cat([descriptions, placed, nearness], dim=-1)  # (B S, heads, patches, D)
        keys = keys.unflatten(0, (batch, size)).transpose(1, 2).flatten(2, 3)
        carried = torch.cat([masks, images], dim=2).flatten(0, 1).float()
        values = functional.pixel_unshuffle(carried, _PATCH).flatten(2).mT  # (B S, patches, 2 _PATCH ** 2)
        return keys, values.unflatten(0, (batch, size)).flatten(1, 2)

    def forward(self, image: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Match a target (B, 1, H, W) in [0, 1] with a context from `encode`.

        Returns:
            (B, 2 heads, H, W): for each head the carried mask in [-1, 1], then for each head how much brighter the
            target is than what it was matched with.
        """
        places, descriptions = self._describe(image)
        # With the keys' part, minus preference * squared distance, up to a constant that the softmax takes away.
        wanted = (2.0 * self._per_head(self.preferences) * places).expand(len(image), -1, -1, -1)
        scaled = self._per_head(self.scales) * descriptions
        queries = torch.cat([scaled, wanted, torch.ones_like(wanted[..., :1])], dim=-1)
        # As long as the values, which attention without a table of all pairs asks for.
        queries, keys = (functional.pad(one, (0, 2 * _PATCH**2 - one.shape[-1])) for one in (queries, keys))
        taken = self._attend(queries, keys, values[:, None].expand(-1, self.heads, -1, -1))
        height, width = image.shape[-2] // _PATCH, image.shape[-1] // _PATCH
        carried = taken.mT.unflatten(3, (height, width)).flatten(1, 2)  # (B, heads 2 _PATCH ** 2, h, w)
        masks, images = functional.pixel_shuffle(carried, _PATCH).unflatten(1, (self.heads, 2)).unbind(dim=2)
        return torch.cat([2.0 * masks - 1.0, _GAIN * (image.float() - images)], dim=1)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        values = values.contiguous()
        # Places need more digits than half precision has.
        with without_autocast(queries.device):
            if not (self.training and torch.is_grad_enabled()):
                return functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)
            # Differentiating takes six times as long as computing, and some of the patches teach as much as all.
            order = torch.randperm(queries.shape[2], device=queries.device)
            count = math.ceil(_TAUGHT * len(order))
            some = functional.scaled_dot_product_attention(queries[:, :, order[:count]], keys, values, scale=1.0)
            with torch.no_grad():
                rest = functional.scaled_dot_product_attention(queries[:, :, order[count:]], keys, values, scale=1.0)
            return torch.cat([some, rest], dim=2)[:, :, order.argsort()]

    def _describe(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The places (1, 1, patches, 2) and the descriptions of length one (N, heads, patches, D), float32."""
        x = images.to(self.scales.dtype) - 0.5
        levels = []
        for index, down in enumerate(self.downs):
            x = functional.leaky_relu(down(x), LEAKY_SLOPE)
            if index > 0:
                x = functional.leaky_relu(self.mixes[index - 1](x), LEAKY_SLOPE)
                levels.append(x)
        described = self.laterals[-1](levels[-1])
        for level, lateral in zip(levels[-2::-1], list(self.laterals)[-2::-1], strict=True):
            described = lateral(level) + functional.interpolate(described, size=level.shape[-2:], mode="nearest")
        descriptions = described.float().unflatten(1, (self.heads, -1)).flatten(3).mT
        # What all patches of an image have in common distinguishes none of them.
        descriptions = descriptions - descriptions.mean(dim=2, keepdim=True)
        rows, columns = (
            (torch.arange(count, device=images.device) + 0.5) / count - 0.5 for count in described.shape[-2:]
        )
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)[None, None]
        return places, functional.normalize(descriptions, dim=-1)

    @staticmethod
    def _per_head(logarithms: Tensor) -> Tensor:
        return logarithms.float().exp()[None, :, None, None]


def crop_maps(maps: Tensor, rows: tuple[float, float], columns: tuple[float, float], size: int) -> Tensor:
    """Resample a part of context maps (B, C, H, W) to (B, C, size, size), linearly.

    The part is from start to stop as fractions of height and width; beyond the maps their border continues.
    """
    axes = []
    for start, stop in (rows, columns):
        steps = (torch.arange(size, device=maps.device, dtype=maps.dtype) + 0.5) / size
        axes.append(2.0 * (start + (stop - start) * steps) - 1.0)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)
    return functional.grid_sample(
        maps, grid[None].expand(len(maps), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
