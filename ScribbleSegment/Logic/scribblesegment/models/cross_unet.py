"""Encoder-decoder of CrossBlocks: what MultiverSeg and UniverSeg share.

The entries of a context set are gone through in pieces, so that of each level only those features take memory that a
later block reads again.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import ConfigError, GeometryError
from scribblesegment.models.cross_block import SLOPE, CrossBlock
from scribblesegment.models.in_context import ContextState
from scribblesegment.models.layers import initialise

# Image and mask.
ENTRY_CHANNELS = 2

# Image and mask of the one entry that stands for an empty context set (MultiverSeg, appendix A.1).
_DUMMY = 0.5

# Numbers in one feature map of a piece. In bfloat16, small pieces that stay in the processor's cache are fastest. In
# float32, where it makes no such difference, a piece is as large as takes memory from the system by itself and gives it
# back; smaller ones, kept and freed in turn, leave holes that add a third. Accelerators want much to do.
_PIECE_VALUES = {torch.bfloat16: 2**20}
_PIECE_VALUES_OTHERWISE = 2**23
_PIECE_VALUES_ELSEWHERE = 2**26


def check_features(features: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of all levels as whole numbers.

    Raises:
        ConfigError: If there are fewer than two levels or a width is not positive.
    """
    widths = tuple(int(count) for count in features)
    if len(widths) < 2 or min(widths) < 1:
        raise ConfigError(f"features needs at least two positive widths, got {widths}.")
    return widths


class EntryReader:
    """Regroups pieces of context entries into the numbers of entries that are asked for.

    Pieces are (N * B, C, H, W), entries first: any number of whole entries is then one block of memory.
    """

    def __init__(self, pieces: Iterator[Tensor], batch: int) -> None:
        """Read from pieces for `batch` targets; none is asked for before it is needed."""
        self._pieces = pieces
        self._batch = batch
        self._rest: Tensor | None = None

    def take(self, count: int) -> Tensor:
        """Return the next `count` entries, (count * B, C, H, W)."""
        taken: list[Tensor] = []
        missing = count * self._batch
        while missing > 0:
            piece = next(self._pieces) if self._rest is None else self._rest
            self._rest = piece[missing:] if len(piece) > missing else None
            taken.append(piece[:missing])
            missing -= len(taken[-1])
        return taken[0] if len(taken) == 1 else torch.cat(taken)


class CrossUNet(nn.Module):
    """Encoder-decoder of CrossBlocks from a target and a context set to the logits of one structure.

    Attributes:
        piece_values: Numbers in one feature map of the entries that are gone through at once; None for a choice by
            device. Results do not depend on it.
    """

    def __init__(
        self, features: Sequence[int], target_channels: int, *, normalise: bool, cross_activation: bool
    ) -> None:
        """Build the network with freshly initialised parameters.

        Args:
            features: Channels of each resolution level, full resolution first.
            target_channels: Channels of the target that the network reads.
            normalise: Whether the convolutions after the cross-convolution are normalised.
            cross_activation: Whether an activation follows the cross-convolution.
        """
        super().__init__()
        self.piece_values: int | None = None
        self.target_channels = target_channels
        block = partial(CrossBlock, normalise=normalise, cross_activation=cross_activation)
        self.enc_blocks = nn.ModuleList()
        inputs = (target_channels, ENTRY_CHANNELS)
        for width in features:
            self.enc_blocks.append(block(*inputs, width))
            inputs = (width, width)
        self.dec_blocks = nn.ModuleList()
        below = features[-1]
        for width in reversed(features[:-1]):
            self.dec_blocks.append(block(below + width, below + width, width, below_channels=below))
            below = width
        self.out_conv = nn.Sequential(OrderedDict(conv=nn.Conv2d(below, 1, kernel_size=1)))
        self._initialise(cross_activation)

    def encode_context(self, images: Tensor, masks: Tensor) -> ContextState:
        """Lay a context set out on the network's device and in its number format.

        Only the first convolution of the entries does not depend on the target. It reads two channels, and doing it
        again for every target takes no longer than reading its results back.

        Args:
            images: (B, S, 1, H, W) in [0, 1]; S may be 0.
            masks: (B, S, 1, H, W), 0 or 1.

        Returns:
            One tensor (S, B, 2, H, W), S >= 1: images and masks.

        Raises:
            GeometryError: If the shapes differ from those above or from each other.
        """
        if images.ndim != 5 or images.shape[2] != 1 or images.shape != masks.shape:
            raise GeometryError(
                f"A context set has images and masks of one shape (B, S, 1, H, W), got {tuple(images.shape)} and "
                f"{tuple(masks.shape)}."
            )
        weight = self._blocks(self.enc_blocks)[0].cross_conv.weight
        if images.shape[1] == 0:
            batch, _, _, height, width = images.shape
            return (weight.new_full((1, batch, ENTRY_CHANNELS, height, width), _DUMMY),)
        return (torch.cat([images, masks], dim=2).transpose(0, 1).to(weight),)

    def forward(self, x: Tensor, context: ContextState | None = None) -> Tensor:
        """Segment targets.

        Args:
            x: (B, C, H, W); the first `target_channels` are read. H and W are at least 2 ** (levels - 1).
            context: From `encode_context` of this network, for the same B, H and W; None for an empty set.

        Returns:
            Logits (B, 1, H, W).

        Raises:
            GeometryError: If the target has too few channels or pixels, or does not fit the context set.
        """
        self._check_target(x)
        if context is None:
            nothing = x.new_empty((len(x), 0, 1, *x.shape[2:]))
            context = self.encode_context(nothing, nothing)
        (entries,) = context
        _check_match(x, entries)
        count, batch = entries.shape[:2]
        target = x[:, : self.target_channels]
        pieces: Iterator[Tensor] = iter([entries.flatten(0, 1)])
        skips: list[tuple[Tensor, deque[Tensor]]] = []  # features of the target and of the entries at each level
        for block in self._blocks(self.enc_blocks):
            if skips:
                target, pieces = _halved(target), map(_halved, skips[-1][1])
            mixed = self._mix(block, block.read_target(target), count, EntryReader(pieces, batch))
            kept: deque[Tensor] = deque()
            target = block(mixed, batch, kept.append)
            skips.append((target, kept))
        _, below = skips.pop()
        for block in self._blocks(self.dec_blocks):
            beside, kept = skips.pop()
            readers = (EntryReader(_forgetting(each), batch) for each in (kept, below))
            mixed = self._mix(block, block.read_target(beside, target), count, *readers)
            below = deque()
            target = block(mixed, batch, below.append if skips else None)
        logits: Tensor = self.out_conv(target)
        return logits

    def _mix(self, block: CrossBlock, target: Tensor, count: int, *readers: EntryReader) -> Iterator[Tensor]:
        """Mix `count` entries with what `read_target` made of the target, as many at once as fit in a piece."""
        convolution = block.entry_convolution()
        for number in self._portions(target, count):
            yield convolution(target, *(reader.take(number) for reader in readers))

    def _portions(self, features: Tensor, count: int) -> Iterator[int]:
        """Numbers of entries, `count` in all, that are gone through at once where the target has these features."""
        if self.piece_values is not None:
            limit = self.piece_values
        elif features.device.type == "cpu":
            limit = _PIECE_VALUES.get(features.dtype, _PIECE_VALUES_OTHERWISE)
        else:
            limit = _PIECE_VALUES_ELSEWHERE
        at_once = max(1, limit // features.numel())
        for start in range(0, count, at_once):
            yield min(at_once, count - start)

    def _check_target(self, x: Tensor) -> None:
        smallest = 2 ** (len(self.enc_blocks) - 1)
        if x.ndim != 4 or x.shape[1] < self.target_channels or min(x.shape[2:]) < smallest:
            raise GeometryError(
                f"This network reads targets (B, C, H, W) of {self.target_channels} channels and at least {smallest} x "
                f"{smallest} pixels, got {tuple(x.shape)}."
            )

    @staticmethod
    def _blocks(modules: nn.ModuleList) -> list[CrossBlock]:
        return cast("list[CrossBlock]", list(modules))

    def _initialise(self, cross_activation: bool) -> None:
        blocks = [*self._blocks(self.enc_blocks), *self._blocks(self.dec_blocks)]
        initialise(self, blocks[0].cross_conv, slope=SLOPE)
        if not cross_activation:
            # Where no activation halves the variance, weights must not make up for one.
            with torch.no_grad():
                for block in blocks:
                    block.cross_conv.weight.mul_(math.sqrt(0.5))


def _check_match(x: Tensor, entries: Tensor) -> None:
    if (len(x), *x.shape[2:]) != (entries.shape[1], *entries.shape[3:]):
        raise GeometryError(
            f"The context set is for {entries.shape[1]} targets of {entries.shape[3]} x {entries.shape[4]} pixels, the "
            f"targets have shape {tuple(x.shape)}. Encode it for the same batch and grid."
        )


def _halved(features: Tensor) -> Tensor:
    return functional.max_pool2d(features, 2)


def _forgetting(pieces: deque[Tensor]) -> Iterator[Tensor]:
    """Go through pieces, and leave their memory to whoever takes them."""
    while pieces:
        yield pieces.popleft()
