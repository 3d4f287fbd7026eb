"""What the known neighbours of a slice lead to expect of it: a shape, where it may be, and logits to hand on.

With one known neighbour its outline is expected again; between two the signed distances to both outlines are averaged,
weighted by nearness, which moves the outline from the one to the other. The farther the neighbours are, the softer the
logits: an outline may have moved by `PropagationConfig.drift` millimetres for each millimetre between the slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.masks import inner_lines, keep_touched, signed_distance
from scribblesegment.propagation.config import FloatArray, Mask, PropagationConfig

# Steps of one pixel are what a digitised outline makes anyway, however close the slices are.
_SLACK_PIXELS = 2.0

_SHARPEST_PIXELS = 0.5


@dataclass(frozen=True, eq=False)
class KnownSlice:
    """A slice whose mask is known, with a structure in it.

    Attributes:
        index: Position on the axis.
        mask: bool (H, W), not empty.
        logits: float32 (H, W), those it was predicted with, or None for an accepted slice.
    """

    index: int
    mask: Mask
    logits: FloatArray | None = None


@dataclass(frozen=True)
class SliceSpacing:
    """Millimetres between rows, columns and slices."""

    in_slice: tuple[float, float]
    between_slices: float

    @property
    def pixel_mm(self) -> float:
        """The smaller side of a pixel."""
        return min(self.in_slice)


@dataclass(frozen=True, eq=False)
class Expectation:
    """What the neighbours lead to expect.

    Attributes:
        region: Rows and columns around everything that is expected; (h, w) pixels.
        distance_mm: float32 (h, w), signed distance to the expected outline, positive inside.
        zone: bool (h, w), where the structure may be.
        tolerance_mm: How far from the expected outline a pixel says nothing against the mask.
        logits: float32 (H, W), for `Prompts.mask_input`.
    """

    region: tuple[slice, slice]
    distance_mm: FloatArray
    zone: Mask
    tolerance_mm: float
    logits: FloatArray

    def out_of_reach(self, mask: Mask) -> float:
        """Give the part of a mask bool (H, W) that lies where the structure should not be; 0 for an empty one."""
        total = int(mask.sum())
        return 1.0 - int((mask[self.region] & self.zone).sum()) / total if total else 0.0

    def connected(self, mask: Mask) -> Mask:
        """Leave out the pieces of a mask bool (H, W) that lie nowhere near the neighbours' structure."""
        zone = np.zeros(mask.shape, bool)
        zone[self.region] = self.zone
        return keep_touched(mask, zone)

    def strokes(self) -> FloatArray:
        """Draw lines inside the expected shape and around the area where it may be, as a user would.

        Returns:
            float32 (2, H, W), 0 or 1, positive and negative strokes.
        """
        drawn = np.zeros((2, *self.logits.shape), np.float32)
        inside = self.distance_mm > 0
        lines = inner_lines(inside)
        if not lines.any():  # too thin for lines that stay away from the edge
            lines = inside & (self.distance_mm == self.distance_mm.max())
        drawn[0][self.region] = lines
        # The ring of pixels that border on the zone.
        around = np.pad(self.zone, 1, mode="edge")
        near = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
        drawn[1][self.region] = near & ~self.zone
        return drawn


def expect(
    neighbours: Sequence[KnownSlice],
    index: int,
    *,
    spacing: SliceSpacing,
    config: PropagationConfig,
    area_ratio: float = 1.0,
) -> Expectation:
    """Say what is expected of a slice.

    Args:
        neighbours: The known slices next to it, one or one on each side.
        index: The slice.
        spacing: Of the volume.
        config: Settings.
        area_ratio: What part of its neighbour's area the structure is expected to have, in (0, 1].
    """
    away_mm = np.array([abs(index - known.index) * spacing.between_slices for known in neighbours])
    moved_mm = config.drift * float(away_mm.min())
    width_mm = max(moved_mm, _SHARPEST_PIXELS * spacing.pixel_mm)
    slack_mm = _SLACK_PIXELS * spacing.pixel_mm
    reach_mm = config.reach * float(away_mm.min()) + slack_mm
    margin_mm = max(reach_mm, config.neighbour_limit * width_mm) + slack_mm
    region = _region_around([known.mask for known in neighbours], margin_mm, spacing.in_slice)
    distances = [signed_distance(known.mask[region], spacing.in_slice) for known in neighbours]
    zone = np.asarray(np.maximum.reduce(distances) > -reach_mm)
    if area_ratio < 1.0:
        distances = [_shrunk(distance, area_ratio) for distance in distances]
    weights = (away_mm / away_mm.min()) ** -config.nearness
    expected_mm = _mean(distances, weights)
    if not (expected_mm > 0).any():
        # Between two shapes that do not overlap the mean is positive nowhere, and nothing would be expected.
        weights = np.eye(len(neighbours))[int(np.argmin(away_mm))]
        expected_mm = _mean(distances, weights)
    handed_on = [
        _softened(known.logits[region], moved_mm, spacing.in_slice, config.neighbour_limit)
        if known.logits is not None and config.neighbour == "logits"
        else distance / np.float32(width_mm)
        for known, distance in zip(neighbours, distances, strict=True)
    ]
    limit = np.float32(config.neighbour_limit)
    logits = np.full(neighbours[0].mask.shape, -limit, np.float32)
    logits[region] = np.clip(_mean(handed_on, weights), -limit, limit)
    return Expectation(region, expected_mm, zone, moved_mm + slack_mm, logits)


def _shrunk(distance: FloatArray, ratio: float) -> FloatArray:
    """Move an outline inwards until about so large a part of the area is left, one pixel at least."""
    inside = distance[distance > 0]
    shrunk = distance - np.float32(np.quantile(inside, 1.0 - ratio))
    return shrunk if (shrunk > 0).any() else distance


def _region_around(masks: Sequence[Mask], margin_mm: float, spacing_mm: tuple[float, float]) -> tuple[slice, slice]:
    """The box around several masks, with a margin, inside the image."""
    union = np.logical_or.reduce(masks)
    sides = []
    for axis, mm in enumerate(spacing_mm):
        held = np.flatnonzero(union.any(axis=1 - axis))
        margin = int(np.ceil(margin_mm / mm)) + 1
        sides.append(slice(max(int(held[0]) - margin, 0), int(held[-1]) + 1 + margin))
    return sides[0], sides[1]


def _mean(maps: Sequence[FloatArray], weights: NDArray[np.float64]) -> FloatArray:
    parts = (weights / weights.sum()).astype(np.float32)
    total: FloatArray = np.sum([part * values for part, values in zip(parts, maps, strict=True) if part > 0], axis=0)
    return total


def _softened(logits: FloatArray, sigma_mm: float, spacing_mm: tuple[float, float], limit: float) -> FloatArray:
    from scipy import ndimage

    # Clipped first: blurred, a logit of -20 would wipe out a thin structure beside it.
    clipped = np.clip(logits, -limit, limit)
    sigma = [sigma_mm / mm for mm in spacing_mm]
    return np.asarray(ndimage.gaussian_filter(clipped, sigma, mode="nearest"), np.float32)


# From one slice to the next an area shrinks to no less than this part: beyond the end that the trend leads to expect,
# the image decides.
_LEAST = 0.5


class AreaTrend:
    """A parabola through the areas of accepted slices; a line where it would open upwards or there are only two."""

    def __init__(self, areas: Mapping[int, float]) -> None:
        """Fit it to areas by slice index; empty slices do not count. With one slice there is no trend."""
        shown = {index: area for index, area in areas.items() if area > 0}
        self._coefficients = np.zeros(0)
        if len(shown) >= 2:
            indices, sizes = np.array(list(shown), float), np.array(list(shown.values()), float)
            parabola = np.polyfit(indices, sizes, 2) if len(shown) >= 3 else np.zeros(3)
            self._coefficients = parabola if parabola[0] < 0 else np.polyfit(indices, sizes, 1)

    def ratio(self, known: int, index: int) -> float:
        """Say what part of the area of slice `known` is expected in slice `index`, in [0.5, 1]: nothing grows."""
        if not self._coefficients.size:
            return 1.0
        before, after = np.polyval(self._coefficients, [known, index])
        return _LEAST if before <= 0 else float(np.clip(after / before, _LEAST, 1.0))
