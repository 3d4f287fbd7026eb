"""What the known neighbours of a slice lead to expect: a shape, where it may be, and logits.

With one known neighbour its outline is expected again; between two, the signed distances to both outlines are averaged.
The farther the neighbours are, the softer the logits: outlines move by `PropagationConfig.drift` mm per mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.masks import inner_lines, keep_touched, signed_distance
from scribblesegment.data.prompts import box_of
from scribblesegment.propagation.config import FloatArray, Mask, PropagationConfig

_SLACK_PIXELS = 2.0  # steps that a digitised outline makes anyway, however close the slices are
_SHARPEST_PIXELS = 0.5
_LEAST_AREA_RATIO = 0.5  # beyond the end that the areas lead to expect, the image decides


@dataclass(frozen=True, eq=False)
class KnownSlice:
    """A slice whose mask, bool (H, W), is known and not empty."""

    index: int
    mask: Mask


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """What the neighbours lead to expect of a slice."""

    box: tuple[slice, slice]  # rows and columns around everything expected, (h, w)
    distance_mm: FloatArray  # (h, w), signed distance to the expected outline, positive inside
    zone: Mask  # (h, w), where the structure may be
    tolerance_mm: float  # how far from the expected outline a pixel says nothing against a mask
    logits: FloatArray  # (H, W), for `Prompts.mask_input`

    def out_of_reach(self, mask: Mask) -> float:
        """Part of a mask that lies where the structure should not be; 0 for an empty one."""
        total = int(mask.sum())
        return 1.0 - int((mask[self.box] & self.zone).sum()) / total if total else 0.0

    def connected(self, mask: Mask, marked: Mask | None = None) -> Mask:
        """The components of a mask that touch the zone or marked pixels, bool (H, W)."""
        zone = np.zeros(mask.shape, bool) if marked is None else marked.copy()
        zone[self.box] |= self.zone
        return keep_touched(mask, zone)

    def strokes(self) -> FloatArray:
        """Lines inside the expected shape and around the zone, as a user would draw them; (2, H, W), 0 or 1."""
        drawn = np.zeros((2, *self.logits.shape), np.float32)
        inside = self.distance_mm > 0
        lines = inner_lines(inside)
        if not lines.any():  # too thin for lines that stay away from the edge
            lines = inside & (self.distance_mm == self.distance_mm.max())
        drawn[0][self.box] = lines
        around = np.pad(self.zone, 1, mode="edge")
        near = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
        drawn[1][self.box] = near & ~self.zone
        return drawn


def shape_prior(
    neighbours: Sequence[KnownSlice],
    index: int,
    *,
    spacing_mm: tuple[float, float, float],
    config: PropagationConfig,
    area_ratio: float = 1.0,
) -> ShapePrior:
    """Say what is expected of a slice.

    Args:
        neighbours: The known slices next to it, one or one on each side.
        index: The slice.
        spacing_mm: Between slices, rows and columns.
        config: Settings.
        area_ratio: Part of its neighbour's area that the structure is expected to have, in (0, 1].
    """
    between, in_slice = spacing_mm[0], spacing_mm[1:]
    pixel_mm = min(in_slice)
    away_mm = np.array([abs(index - known.index) * between for known in neighbours])
    moved_mm = config.drift * float(away_mm.min())
    width_mm = max(moved_mm, _SHARPEST_PIXELS * pixel_mm)
    slack_mm = _SLACK_PIXELS * pixel_mm
    reach_mm = config.reach * float(away_mm.min()) + slack_mm
    margin_mm = max(reach_mm, config.prior_limit * width_mm) + slack_mm
    box = _box_around(np.logical_or.reduce([known.mask for known in neighbours]), margin_mm, in_slice)
    distances = [signed_distance(known.mask[box], in_slice) for known in neighbours]
    zone = np.asarray(np.maximum.reduce(distances) > -reach_mm)
    if area_ratio < 1.0:
        distances = [_shrunk(distance, area_ratio) for distance in distances]
    weights = (away_mm / away_mm.min()) ** -config.distance_power
    expected_mm = _mean(distances, weights)
    if not (expected_mm > 0).any():  # between two shapes that do not overlap: the nearer one
        expected_mm = distances[int(np.argmin(away_mm))]
    limit = np.float32(config.prior_limit)
    logits = np.full(neighbours[0].mask.shape, -limit, np.float32)
    logits[box] = np.clip(expected_mm / np.float32(width_mm), -limit, limit)
    return ShapePrior(box, expected_mm, zone, moved_mm + slack_mm, logits)


def _shrunk(distance: FloatArray, ratio: float) -> FloatArray:
    """Move an outline inwards until about this part of the area is left, one pixel at least."""
    shrunk = distance - np.float32(np.quantile(distance[distance > 0], 1.0 - ratio))
    return shrunk if (shrunk > 0).any() else distance


def _box_around(mask: Mask, margin_mm: float, spacing_mm: Sequence[float]) -> tuple[slice, slice]:
    margins = [int(np.ceil(margin_mm / mm)) + 1 for mm in spacing_mm]
    rows, columns = (
        slice(max(side.start - margin, 0), side.stop + margin)
        for side, margin in zip(box_of(mask), margins, strict=True)
    )
    return rows, columns


def _mean(maps: Sequence[FloatArray], weights: NDArray[np.float64]) -> FloatArray:
    parts = (weights / weights.sum()).astype(np.float32)
    total: FloatArray = np.sum([part * values for part, values in zip(parts, maps, strict=True) if part > 0], axis=0)
    return total


class AreaExtrapolation:
    """A parabola through the areas of accepted slices; a line where it would open upwards or there are only two."""

    def __init__(self, areas: Mapping[int, float]) -> None:
        """Fit it to areas by slice index; empty slices do not count. With one slice there is no trend."""
        present = {index: area for index, area in areas.items() if area > 0}
        self._coefficients = np.zeros(0)
        if len(present) >= 2:
            indices, sizes = np.array(list(present), float), np.array(list(present.values()), float)
            parabola = np.polyfit(indices, sizes, 2) if len(present) >= 3 else np.zeros(3)
            self._coefficients = parabola if parabola[0] < 0 else np.polyfit(indices, sizes, 1)

    def ratio(self, known: int, index: int) -> float:
        """Part of the area of slice `known` that is expected in slice `index`, in [0.5, 1]: nothing grows."""
        if not self._coefficients.size:
            return 1.0
        before, after = np.polyval(self._coefficients, [known, index])
        return _LEAST_AREA_RATIO if before <= 0 else float(np.clip(after / before, _LEAST_AREA_RATIO, 1.0))
