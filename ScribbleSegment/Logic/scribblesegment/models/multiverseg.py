"""MultiverSeg, and UniverSeg, its baseline without prompts: segmentation in context, at any width and depth.

Source: MultiverSeg, section 3.2, equations 3 and 4 and appendix A.1; Butoi et al., ICCV 2023. Parameter names, the
number of levels, the places of the normalisation and the maximum pooling are those of the published checkpoints, which
the text describes differently. The entries of a context set are gone through in pieces, so that of each level only
those features take memory that a later block reads again.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import ConfigError, GeometryError
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.layers import initialise

SLOPE = 0.01
"""Negative slope of the published networks' activations; `layers.LEAKY_SLOPE` is that of ours."""

ENTRY_CHANNELS = 2  # image and mask
_DUMMY = 0.5  # of the one entry that stands for an empty context set (appendix A.1)

# Numbers in one feature map of a piece. In bfloat16, small pieces that stay in the processor's cache are fastest. In
# float32, where it makes no such difference, a piece is as large as takes memory from the system by itself and gives it
# back; smaller ones, kept and freed in turn, leave holes that add a third. Accelerators want much to do.
_PIECE_VALUES = {torch.bfloat16: 2**20}
_PIECE_VALUES_OTHERWISE = 2**23
_PIECE_VALUES_ELSEWHERE = 2**26


class ConvolutionOp(nn.Module):
    """A convolution that keeps channels and size, an activation, and a normalisation where the network has one."""

    def __init__(self, features: int, *, normalise: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.norml = nn.GroupNorm(1, features) if normalise else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, features, H, W) to the same shape."""
        x = functional.leaky_relu(self.conv(x), SLOPE, inplace=True)
        return x if self.norml is None else self.norml(x)


class CrossBlock(nn.Module):
    """Mixes a target with context entries (equation 4 and appendix A.1).

    The published normalisation differs from equation 4: there is none after the cross-convolution, and those of the
    two other convolutions run over channels and pixels together with a scale and shift for each channel, which is a
    group normalisation with one group.
    """

    def __init__(
        self, target_channels: int, entry_channels: int, features: int, *, normalise: bool, cross_activation: bool
    ) -> None:
        """Build the three convolutions; an activation may follow the first one, normalisations the two others."""
        super().__init__()
        self.target_channels = target_channels
        self.cross_activation = cross_activation
        self.cross = nn.Sequential(
            OrderedDict(cross_conv=nn.Conv2d(target_channels + entry_channels, features, kernel_size=3, padding=1))
        )
        self.target, self.support = (
            nn.Sequential(OrderedDict(vmapped=ConvolutionOp(features, normalise=normalise))) for _ in range(2)
        )

    @property
    def cross_conv(self) -> nn.Conv2d:
        """The convolution of target and entry side by side; target first."""
        return cast("nn.Conv2d", self.cross[0])

    def forward(self, target: Tensor, entries: Iterable[Tensor], kept: deque[Tensor] | None) -> Tensor:
        """New features (B, features, H, W) of a target (B, target_channels, H, W).

        Entries come in pieces (N * B, entry_channels, H, W), at least one entry in all. Their new features, (N * B,
        features, H, W), are appended to `kept` piece by piece, unless nobody reads them.
        """
        weight = self.cross_conv.weight
        # Equation 3, split (appendix A.1): the target's part is the same for all entries.
        asked = functional.conv2d(target, weight[:, : self.target_channels], self.cross_conv.bias, padding=1)
        entry_weight = weight[:, self.target_channels :].clone()  # else each convolution would copy the part cut out
        # The last of many entries would be lost in the rounding of bfloat16.
        total, count = torch.zeros_like(asked, dtype=torch.promote_types(asked.dtype, torch.float32)), 0
        for piece in entries:
            mixed = functional.conv2d(piece, entry_weight, padding=1)
            mixed.unflatten(0, (-1, len(asked))).add_(asked)
            if self.cross_activation:
                functional.leaky_relu(mixed, SLOPE, inplace=True)
            for entry in mixed.split(len(asked)):
                total += entry
                count += 1
            if kept is not None:
                kept.append(self.support(mixed))
        output: Tensor = self.target((total / count).to(asked))
        return output


class CrossUNet(nn.Module):
    """Encoder-decoder of CrossBlocks from a target and a context set to the logits of one structure."""

    piece_values: int | None = None
    """Numbers in one feature map of the entries gone through at once; None chooses. Results do not depend on it."""

    def __init__(
        self, features: Sequence[int], target_channels: int, *, normalise: bool, cross_activation: bool
    ) -> None:
        """Build the network, for targets of which it reads the first channels."""
        super().__init__()
        self.target_channels = target_channels
        block = partial(CrossBlock, normalise=normalise, cross_activation=cross_activation)
        inputs = ((target_channels, ENTRY_CHANNELS), *((width, width) for width in features))
        self.enc_blocks = nn.ModuleList(block(*pair, width) for pair, width in zip(inputs, features, strict=False))
        self.dec_blocks = nn.ModuleList()
        below = features[-1]
        for width in reversed(features[:-1]):
            self.dec_blocks.append(block(below + width, below + width, width))
            below = width
        self.out_conv = nn.Sequential(OrderedDict(conv=nn.Conv2d(below, 1, kernel_size=1)))
        blocks = cast("list[CrossBlock]", [*self.enc_blocks, *self.dec_blocks])
        initialise(self, blocks[0].cross_conv, slope=SLOPE)
        if not cross_activation:
            # Where no activation halves the variance, weights must not make up for one.
            with torch.no_grad():
                for one in blocks:
                    one.cross_conv.weight.mul_(math.sqrt(0.5))

    def encode_context(self, images: Tensor, masks: Tensor) -> tuple[Tensor]:
        """Lay a context set out on the network's device and in its number format: one tensor (S, B, 2, H, W), S >= 1.

        Features of context and target see each other in every block, so none of the context's can be kept.

        Raises:
            GeometryError: If images and masks are not of one shape (B, S, 1, H, W).
        """
        if images.ndim != 5 or images.shape[2] != 1 or images.shape != masks.shape:
            raise GeometryError(
                f"A context set has images and masks of one shape (B, S, 1, H, W), got {tuple(images.shape)} and "
                f"{tuple(masks.shape)}."
            )
        weight = cast(CrossBlock, self.enc_blocks[0]).cross_conv.weight
        if images.shape[1] == 0:
            batch, _, _, height, width = images.shape
            return (weight.new_full((1, batch, ENTRY_CHANNELS, height, width), _DUMMY),)
        return (torch.cat([images, masks], dim=2).transpose(0, 1).to(weight),)

    def forward(self, x: Tensor, context: tuple[Tensor] | None = None) -> Tensor:
        """Predict logits (B, 1, H, W) from (B, C, H, W), whose first `target_channels` are read.

        H and W are at least 2 ** (levels - 1). The context comes from `encode_context` of this network, for the same B,
        H and W; None is an empty set.

        Raises:
            GeometryError: If the target has too few channels or pixels, or does not fit the context set.
        """
        smallest = 2 ** (len(self.enc_blocks) - 1)
        if x.ndim != 4 or x.shape[1] < self.target_channels or min(x.shape[2:]) < smallest:
            raise GeometryError(
                f"This network reads targets (B, C, H, W) of {self.target_channels} channels and at least {smallest} x "
                f"{smallest} pixels, got {tuple(x.shape)}."
            )
        if context is None:
            nothing = x.new_empty((len(x), 0, 1, *x.shape[2:]))
            context = self.encode_context(nothing, nothing)
        (entries,) = context
        if (len(x), *x.shape[2:]) != (entries.shape[1], *entries.shape[3:]):
            raise GeometryError(
                f"The context set is for {entries.shape[1]} targets of {entries.shape[3]} x {entries.shape[4]} pixels, "
                f"the targets have shape {tuple(x.shape)}. Encode it for the same batch and grid."
            )
        target = x[:, : self.target_channels]
        pieces: Iterable[Tensor] = [piece.flatten(0, 1) for piece in entries.split(self._entries_at_once(x))]
        skips: list[tuple[Tensor, deque[Tensor]]] = []  # features of the target and of the entries at each level
        for block in self.enc_blocks:
            if skips:
                target, pieces = functional.max_pool2d(target, 2), (functional.max_pool2d(p, 2) for p in skips[-1][1])
            kept: deque[Tensor] = deque()
            target = block(target, pieces, kept)
            skips.append((target, kept))
        _, below = skips.pop()
        for block in self.dec_blocks:
            beside, entries_beside = skips.pop()
            kept = deque()
            pieces = map(_join, _drain(below), _drain(entries_beside))
            target = block(_join(target, beside), pieces, kept if skips else None)
            below = kept
        logits: Tensor = self.out_conv(target)
        return logits

    def _entries_at_once(self, x: Tensor) -> int:
        limit = self.piece_values
        if limit is None and x.device.type == "cpu":
            limit = _PIECE_VALUES.get(x.dtype, _PIECE_VALUES_OTHERWISE)
        widest = cast(CrossBlock, self.enc_blocks[0]).cross_conv.out_channels * len(x) * x.shape[2] * x.shape[3]
        return max(1, (limit or _PIECE_VALUES_ELSEWHERE) // widest)


def _join(below: Tensor, beside: Tensor) -> Tensor:
    """Enlarge features of the level below and put those of this level beside them."""
    below = functional.interpolate(below, beside.shape[2:], mode="bilinear", align_corners=True)
    return torch.cat([below, beside], dim=1)


def _drain(pieces: deque[Tensor]) -> Iterator[Tensor]:
    """Go through pieces, and leave their memory to whoever takes them."""
    while pieces:
        yield pieces.popleft()


def _check_features(features: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(int(count) for count in features)  # lists, from JSON
    if len(widths) < 2 or min(widths) < 1:
        raise ConfigError(f"features needs at least two positive widths, got {widths}.")
    return widths


@dataclass(frozen=True)
class MultiverSegConfig:
    """Shape of a `MultiverSeg`; ConfigError if it is impossible."""

    features: tuple[int, ...] = (256, 256, 256, 256)  # channels of each level, full resolution first
    in_channels: int = CHANNELS  # of the target: image, box, positive and negative prompts, previous logits

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _check_features(self.features))
        if self.in_channels < 1:
            raise ConfigError(f"in_channels must be positive, got {self.in_channels}.")


class MultiverSeg(CrossUNet):
    """Encoder-decoder from image, prompts and a context set to the logits of one structure."""

    def __init__(self, config: MultiverSegConfig | None = None) -> None:
        config = config or MultiverSegConfig()
        super().__init__(config.features, config.in_channels, normalise=True, cross_activation=True)
        self.config = config


@dataclass(frozen=True)
class UniverSegConfig:
    """Shape of a `UniverSeg`; ConfigError if it is impossible."""

    features: tuple[int, ...] = (64, 64, 64, 64)  # channels of each level, full resolution first

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _check_features(self.features))


class UniverSeg(CrossUNet):
    """Encoder-decoder from an image and a context set to the logits of one structure, without prompts.

    Of the channels in `scribblesegment.models.encoding` it reads the image only. The method knows no empty context set;
    one is replaced by an entry of 0.5 as in MultiverSeg, and says nothing about the structure.
    """

    def __init__(self, config: UniverSegConfig | None = None) -> None:
        config = config or UniverSegConfig()
        super().__init__(config.features, 1, normalise=False, cross_activation=False)
        self.config = config
