"""What the image says about a segment: which voxels are nearer to its accepted slices than to what is not it.

Nearness is the cost of the cheapest path through the volume, where steps cost little in even parts and much across
an edge, as in Slicer's *Grow from seeds* and geodesic segmentation (Bai and Sapiro 2007; Criminisi et al. 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import box_of
from scribblesegment.data.volume import Volume
from scribblesegment.errors import CancelledError
from scribblesegment.propagation.config import FloatArray, Mask

_STEP_COST = 0.01  # of a step along the smallest side of a voxel, besides the change of intensity, which is in [0, 1]
_DECISIVE = 0.1  # paths that differ by as much decide
_MARGIN, _MARGIN_PIXELS = 0.5, 10  # around all accepted masks, in parts of their larger side and in pixels
_MOST_VOXELS = 2_000_000  # about a second; larger boxes are computed in coarser pixels
_FAR = np.float32(1e6)  # not reached: more than any path costs
_SWEEPS = (0, 1, 2, 0)  # axes, both ways; between slices first, where seeds are missing


class GeodesicPrior:
    """The prior of one segment, computed when it is first asked for."""

    def __init__(
        self,
        volume: Volume,
        accepted: Mapping[int, Mask],
        axis: int,
        *,
        intensity_range: IntensityRange,
        scribbles: Callable[[int], Mask | None] = lambda index: None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Take the volume and the accepted masks, bool (H, W) by index, of which one at least is not empty.

        What is marked in another slice, bool (2, H, W) or None, are seeds as well.
        """
        self._scribbles, self._cancelled = scribbles, cancelled
        self._volume, self._accepted, self._axis, self._intensity_range = volume, accepted, axis, intensity_range
        self._first, self._factor = 0, 1
        self._box = (slice(0), slice(0))
        self._nearer: NDArray[np.float16] | None = None

    def in_slice(self, index: int) -> tuple[tuple[slice, slice], FloatArray] | None:
        """Rows and columns, and float32 (h, w) in [-1, 1]: 1 where the segment is much nearer, -1 where the rest is.

        None far from the accepted slices, and if there is nothing besides the segment in them. A CancelledError if it
        was given up; it is computed at the first call.
        """
        if self._nearer is None:
            self._nearer = self._compute()
        if not 0 <= index - self._first < len(self._nearer):
            return None
        rows, columns = self._box
        shape = rows.stop - rows.start, columns.stop - columns.start
        return self._box, _enlarged(self._nearer[index - self._first].astype(np.float32), shape, self._factor)

    def _compute(self) -> NDArray[np.float16]:
        masks = np.stack(list(self._accepted.values()))
        if not masks.any() or masks.all():
            return np.empty((0, 0, 0), np.float16)
        length = self._volume.shape[self._axis]
        scribbles = {index: one for index in range(length) if (one := self._scribbles(index)) is not None}
        shown = [index for index, (positive, _) in scribbles.items() if positive.any()]
        present = np.logical_or.reduce([*masks, *(scribbles[index][0] for index in shown)])
        self._box = _box_around(present)
        spacing = np.delete(self._volume.spacing_kji_mm, self._axis)
        between = self._volume.spacing_kji_mm[self._axis]
        sides = [part.stop - part.start for part in self._box]
        start, stop = min((*self._accepted, *shown)), max((*self._accepted, *shown)) + 1
        # A structure may go on beyond the outermost accepted slices as far as between them, or as far as it is wide.
        width = max((side.stop - side.start) * mm for side, mm in zip(box_of(present), spacing, strict=True))
        beyond = max(stop - start, math.ceil(width / between))
        start, stop = max(start - beyond, 0), min(stop + beyond, length)
        self._first = start
        self._factor = factor = math.ceil(math.sqrt((stop - start) * math.prod(sides) / _MOST_VOXELS))
        intensities = np.stack([self._intensities(index, factor) for index in range(start, stop)])
        seeds = np.zeros((2, *intensities.shape), np.bool_)
        for index, mask in self._accepted.items():
            seeds[:, index - start] = _seeds(mask[self._box], factor)
        for index in scribbles.keys() & set(range(start, stop)).difference(self._accepted):
            for kind, marked in enumerate(scribbles[index]):
                seeds[kind, index - start] = _averaged(marked[self._box].astype(np.float32), factor) > 0
        costs = path_costs(intensities, seeds, (between, *(factor * mm for mm in spacing)), cancelled=self._cancelled)
        return np.clip((costs[1] - costs[0]) / _DECISIVE, -1.0, 1.0).astype(np.float16)

    def _intensities(self, index: int, factor: int) -> FloatArray:
        image = self._volume.slice(self._axis, index).image[self._box]
        return _averaged(self._intensity_range.normalize(image), factor)


def path_costs(
    intensities: FloatArray,
    seeds: Mask,
    spacing_mm: Sequence[float],
    *,
    cancelled: Callable[[], bool] | None = None,
) -> FloatArray:
    """Measure the cheapest paths from seeds through a volume.

    A path goes from voxel to voxel, to any of the 26 around it; each step costs the change of intensity on it and a
    little for its length. Paths are followed plane by plane, along each axis both ways: those that wind more than that
    come out too expensive.

    Args:
        intensities: float32 (K, H, W) in [0, 1].
        seeds: bool (n, K, H, W), where the paths of each of n kinds begin.
        spacing_mm: Sides of a voxel, in the order of the axes.
        cancelled: Asked for every plane whether to give up, with a CancelledError.

    Returns:
        float32 (n, K, H, W), 0 at seeds; very large where no path leads.
    """
    lengths = [_STEP_COST * mm / min(spacing_mm) for mm in spacing_mm]
    costs: FloatArray = np.where(seeds, np.float32(0), _FAR)
    for axis in _SWEEPS:
        planes = np.ascontiguousarray(np.moveaxis(costs, axis + 1, 0))
        intensity = np.ascontiguousarray(np.moveaxis(intensities, axis, 0))
        sides = [lengths[axis], *(length for other, length in enumerate(lengths) if other != axis)]
        _sweep(planes, intensity, sides, cancelled)
        _sweep(planes[::-1], intensity[::-1], sides, cancelled)
        costs = np.moveaxis(planes, 0, axis + 1)
    return costs


def _sweep(
    planes: FloatArray, intensity: FloatArray, sides: Sequence[float], cancelled: Callable[[], bool] | None
) -> None:
    """Let every plane be reached from the one before it; `planes` (K, n, H, W) is changed."""
    height, width = intensity.shape[1:]
    shifts = [(row, column) for row in range(3) for column in range(3)]
    lengths = [math.hypot(sides[0], (row - 1) * sides[1], (column - 1) * sides[2]) for row, column in shifts]
    edges = ((0, 0), (1, 1), (1, 1))
    for index in range(1, len(planes)):
        if cancelled is not None and cancelled():
            raise CancelledError("The search for paths was cancelled.")
        before = np.pad(planes[index - 1], edges, constant_values=_FAR)
        ground = np.pad(intensity[index - 1], 1, mode="edge")
        for (row, column), length in zip(shifts, lengths, strict=True):
            step = np.abs(intensity[index] - ground[row : row + height, column : column + width])
            step += np.float32(length)
            step = before[:, row : row + height, column : column + width] + step
            np.minimum(planes[index], step, out=planes[index])


def _seeds(mask: Mask, factor: int) -> Mask:
    """Mark in coarser pixels what belongs to the segment, and what does not; bool (2, h, w)."""
    part = _averaged(mask.astype(np.float32), factor)
    inside = part >= 0.5
    # What is thinner than a coarse pixel shall not get lost.
    inside = inside if inside.any() else part > 0
    return np.stack([inside, ~inside])


def _box_around(mask: Mask) -> tuple[slice, slice]:
    """The box around a mask (H, W) that is not empty, with a margin, inside the image."""
    box = box_of(mask)
    margin = _MARGIN_PIXELS + round(_MARGIN * max(side.stop - side.start for side in box))
    rows, columns = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, length in zip(box, mask.shape, strict=True)
    )
    return rows, columns


def _averaged(values: FloatArray, factor: int) -> FloatArray:
    """Average blocks of pixels; what lacks to whole blocks at the end repeats the edge."""
    if factor == 1:
        return values
    height, width = values.shape
    padded = np.pad(values, ((0, -height % factor), (0, -width % factor)), mode="edge")
    rows, columns = (side // factor for side in padded.shape)
    blocks: FloatArray = padded.reshape(rows, factor, columns, factor).mean(axis=(1, 3), dtype=np.float32)
    return blocks


def _enlarged(values: FloatArray, shape: tuple[int, int], factor: int) -> FloatArray:
    """Bring averaged blocks back to single pixels, linearly."""
    if factor == 1:
        return values
    from scipy import ndimage

    fine = ndimage.zoom(values, factor, order=1, mode="nearest", grid_mode=True)
    return np.asarray(fine[: shape[0], : shape[1]], np.float32)
