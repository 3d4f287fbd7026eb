"""The windows through which a network sees an image: all of it, overlapping patches, or the slices of a volume.

Windows and weights are those of nnU-Net (Isensee et al., Nature Methods 2021): equal steps of at most half a patch, and
predictions that count less towards a patch's border, by a Gaussian of an eighth of the patch's side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from scribblesegment.data import validation
from scribblesegment.errors import ConfigError, GeometryError

Window = tuple[slice, ...]

# Least weight of a pixel relative to the patch's centre, so that a corner that only one patch sees counts.
_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class Tiling:
    """How an image is cut for the network; made by `whole`, `patches` or `slices`."""

    shape: tuple[int, ...]  # of the image, (H, W) or (D, H, W)
    patch_size: tuple[int, ...]  # of every window; a smaller image is padded with zeros around
    windows: tuple[Window, ...] = field(repr=False)  # in the padded image
    slice_axis: int | None = None  # of a volume that a 2D network does not see: windows are one voxel thick along it
    gaussian: bool = False  # whether predictions weigh less towards a window's border

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Tiling:
        """Give the network all of the image at once."""
        size = _sides(shape, "shape")
        return cls(size, size, (tuple(slice(0, side) for side in size),))

    @classmethod
    def patches(
        cls, shape: Sequence[int], patch_size: Sequence[int], *, overlap: float = 0.5, gaussian: bool = True
    ) -> Tiling:
        """Cover the image with patches that overlap by at least `overlap`, a fraction of their side in [0, 1).

        Raises:
            ConfigError: An overlap out of range.
            GeometryError: Sides below 1, or another number of them.
        """
        size, patch = _sides(shape, "shape"), _sides(patch_size, "patch_size")
        if len(size) != len(patch):
            raise GeometryError(f"A patch of {patch} does not fit an image of {size}: another number of axes.")
        return cls(size, patch, _windows(size, patch, overlap), gaussian=gaussian)

    @classmethod
    def slices(
        cls,
        shape: Sequence[int],
        axis: int,
        *,
        patch_size: Sequence[int] | None = None,
        overlap: float = 0.5,
        gaussian: bool = True,
    ) -> Tiling:
        """Give a 2D network the slices of a volume along an axis, whole or by patches (H, W).

        Raises:
            ConfigError: An overlap out of range.
            GeometryError: No volume, no such axis, or no such patch.
        """
        size = _sides(shape, "shape")
        if len(size) != 3 or axis not in (0, 1, 2):
            raise GeometryError(f"Slices along axis {axis!r} of an image of {size}: give a volume, and axis 0, 1 or 2.")
        plane = tuple(side for other, side in enumerate(size) if other != axis)
        patch = plane if patch_size is None else _sides(patch_size, "patch_size")
        if len(patch) != 2:
            raise GeometryError(f"A slice of {plane} is not covered by patches of {patch}: give (H, W).")
        full = (*patch[:axis], 1, *patch[axis:])
        return cls(size, full, _windows(size, full, overlap), axis, gaussian and patch_size is not None)

    @property
    def network_patch(self) -> tuple[int, ...]:
        """Size of the patch as the network sees it, without the slice axis."""
        return tuple(side for axis, side in enumerate(self.patch_size) if axis != self.slice_axis)

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """Shape of the image with its padding."""
        return tuple(map(max, self.shape, self.patch_size))

    @property
    def offset(self) -> tuple[int, ...]:
        """Padding before the image's first pixel, along each axis."""
        return tuple((padded - side) // 2 for padded, side in zip(self.padded_shape, self.shape, strict=True))

    @property
    def pads(self) -> list[int]:
        """Padding before and after the image, the last axis first, as `torch.nn.functional.pad` takes it."""
        pads: list[int] = []
        for side, total, before in reversed(list(zip(self.shape, self.padded_shape, self.offset, strict=True))):
            pads += [before, total - side - before]
        return pads

    def padded(self, image: Tensor) -> Tensor:
        """Pad (..., *shape) with zeros to the padded shape; the image itself where there is nothing to pad."""
        return torch.nn.functional.pad(image, self.pads) if any(self.pads) else image

    def cropped(self, padded: Tensor) -> Tensor:
        """Take the image (..., *shape) out of its padded form."""
        for axis, (before, side) in enumerate(zip(self.offset, self.shape, strict=True)):
            padded = padded.narrow(axis - len(self.shape), before, side)
        return padded

    def cut(self, padded: Tensor, index: int) -> Tensor:
        """Cut a window out of (C, *padded_shape), as the network takes it: (1, C, *patch) without the slice axis."""
        patch = padded[(slice(None), *self.windows[index])]
        return (patch if self.slice_axis is None else patch.squeeze(1 + self.slice_axis))[None]

    def placed(self, values: Tensor) -> Tensor:
        """Give a network's output (1, K, *patch) back the slice axis: (K, *patch_size)."""
        return values[0] if self.slice_axis is None else values[0].unsqueeze(1 + self.slice_axis)

    def weights(self) -> Tensor:
        """Weights of a window's pixels, float32 of the patch size, in (0, 1]."""
        if not self.gaussian:
            return torch.ones(self.patch_size)
        delta: NDArray[np.float64] = np.zeros(self.patch_size)
        delta[tuple(side // 2 for side in self.patch_size)] = 1.0
        smooth = gaussian_filter(delta, [side / 8 for side in self.patch_size], mode="constant")
        smooth /= smooth.max()
        return torch.from_numpy(np.maximum(smooth, _LEAST_WEIGHT).astype(np.float32))

    def touched(self, positions: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Find the windows that see given pixels (n, ndim) of the image.

        Yields:
            A window's index; the numbers, within `positions`, of the pixels that it sees; their places in it (m, ndim).
        """
        padded = positions + np.asarray(self.offset)
        for index, window in enumerate(self.windows):
            local = padded - [part.start for part in window]
            rows = np.flatnonzero(((local >= 0) & (local < self.patch_size)).all(axis=1))
            if rows.size:
                yield index, rows, local[rows]


def _sides(shape: Sequence[int], name: str) -> tuple[int, ...]:
    return validation.whole_numbers(shape, 2, 3, least=1, name=name)


def _windows(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> tuple[Window, ...]:
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap is a fraction from 0 to below 1, got {overlap}.")
    starts = [_starts(side, size, 1 - overlap) for side, size in zip(shape, patch, strict=True)]
    return windows_at(starts, patch)


def _starts(side: int, size: int, step: float) -> list[int]:
    """Where windows begin on one axis: evenly spaced, at most `step` of their size apart."""
    room = max(side, size) - size
    # A step below one pixel would ask for windows without end.
    count = math.ceil(room / max(1.0, size * step)) + 1
    return [round(room * number / (count - 1)) for number in range(count)] if count > 1 else [0]


def windows_at(starts: Sequence[Sequence[int]], patch: Sequence[int]) -> tuple[Window, ...]:
    """Windows of one size at every combination of starts along the axes."""
    return tuple(
        tuple(slice(start, start + size) for start, size in zip(corner, patch, strict=True))
        for corner in itertools.product(*starts)
    )
