"""Labels carried over from a context set: every part of the target takes the mask of what looks like it there.

Patch-based label fusion (Coupé et al. 2011) with learnt descriptors instead of intensities: a small network describes
each patch of 4 x 4 pixels, a patch of the target attends to those of all context images (scaled dot products; Vaswani
et al. 2017), and what it takes from them are their masks and, to tell how well they match, their images. Each head also
prefers nearby places by an amount of its own: neighbouring slices lie on each other, other patients' do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.models.layers import LEAKY_SLOPE, without_autocast

# Side of a patch in pixels; the target's sides are multiples of four patches.
PATCH = 4

# Numbers that describe a patch in one head, its place not counted.
_DESCRIPTION = 28

# Preference for the same place at the start, for each head in turn: odds fall by exp(-preference * distance squared),
# the image's side being one; 300 is a few pixels, 1 is anywhere.
_FIRST_PREFERENCES = (300.0, 30.0, 1.0)

# Largest similarity of two descriptions at the start.
_FIRST_SCALE = 12.0

# Contrast of the difference between the target and what it was matched with.
_GAIN = 2.0

# Part of the target's patches that gradients flow through in training.
_TAUGHT = 0.2

CHANNELS_PER_HEAD = 2


class ContextMatching(nn.Module):
    """Carries masks of a context set over to a target."""

    def __init__(self, heads: int = 3, features: tuple[int, int, int, int] = (16, 24, 32, 48)) -> None:
        """Build the descriptor network.

        Args:
            heads: Ways of matching.
            features: Its channels at 1/2, 1/4, 1/8 and 1/16 of the resolution.
        """
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
        """Describe context images.

        Args:
            images: (B, S, 1, H, W) in [0, 1]; sides divisible by 16.
            masks: (B, S, 1, H, W) in [0, 1].

        Returns:
            Keys (B, heads, S * patches, D) and values (B, S * patches, 2 * PATCH ** 2), both float32.
        """
        batch, size = images.shape[:2]
        places, descriptions = self._described(images.flatten(0, 1))
        preferences = self._per_head(self.preferences)
        nearness = (-preferences * places.square().sum(dim=-1, keepdim=True)).expand(batch * size, -1, -1, -1)
        placed = places.expand(batch * size, self.heads, -1, -1)
        keys = torch.cat([descriptions, placed, nearness], dim=-1)  # (B S, heads, patches, D)
        keys = keys.unflatten(0, (batch, size)).transpose(1, 2).flatten(2, 3)
        carried = torch.cat([masks, images], dim=2).flatten(0, 1).float()
        values = functional.pixel_unshuffle(carried, PATCH).flatten(2).mT  # (B S, patches, 2 PATCH ** 2)
        return keys, values.unflatten(0, (batch, size)).flatten(1, 2)

    def forward(self, image: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Match a target with the context.

        Args:
            image: (B, 1, H, W) in [0, 1].
            keys: From `encode`.
            values: From `encode`.

        Returns:
            (B, 2 heads, H, W): for each head the carried mask in [-1, 1], then for each head how much brighter the
            target is than what it was matched with.
        """
        places, descriptions = self._described(image)
        preferences = self._per_head(self.preferences)
        # With the keys' part, minus preference * squared distance, up to a constant that the softmax takes away.
        wanted = 2.0 * preferences * places
        wanted = wanted.expand(len(image), -1, -1, -1)
        scale = self._per_head(self.scales)
        queries = torch.cat([scale * descriptions, wanted, torch.ones_like(wanted[..., :1])], dim=-1)
        taken = self._attend(_padded(queries), _padded(keys), values[:, None].expand(-1, self.heads, -1, -1))
        height, width = image.shape[-2] // PATCH, image.shape[-1] // PATCH
        carried = taken.mT.unflatten(3, (height, width)).flatten(1, 2)  # (B, heads 2 PATCH ** 2, h, w)
        masks, images = functional.pixel_shuffle(carried, PATCH).unflatten(1, (self.heads, 2)).unbind(dim=2)
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

    def _described(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the places (1, 1, patches, 2) and the descriptions of length one (N, heads, patches, D), float32."""
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
        # What all patches of an image have in common tells none of them from the others.
        descriptions = descriptions - descriptions.mean(dim=2, keepdim=True)
        rows, columns = (
            (torch.arange(count, device=images.device) + 0.5) / count - 0.5 for count in described.shape[-2:]
        )
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)[None, None]
        return places, functional.normalize(descriptions, dim=-1)

    @staticmethod
    def _per_head(logarithms: Tensor) -> Tensor:
        return logarithms.float().exp()[None, :, None, None]


def _padded(x: Tensor) -> Tensor:
    """Make queries and keys as long as the values, which attention without a table of all pairs asks for."""
    return functional.pad(x, (0, 2 * PATCH**2 - x.shape[-1]))
