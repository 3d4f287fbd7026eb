"""Scribbles that grow over pixels of like intensity, so that short ones do (Sambaturu et al., section 3).

"We grow the region to a new neighborhood pixel, if the intensity of the new pixel differs from the current pixel by
less than a threshold T." The paper states neither T nor where growing ends. Here T is estimated near each label's
marks, and a path from a mark ends after a few pixels: a rule that compares neighbours alone creeps over soft edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse import csgraph

from scribblesegment.data import validation
from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.errors import ConfigError, PromptError

CONNECTIVITIES = ("faces", "full")

REACH_PIXELS = 5  # default reach, in pixels of the finest spacing

# The threshold is this part of the median difference between neighbours at most so many pixels from a mark. Both were
# chosen on CT, MRI and microscopy, see docs/refinement.md: nearly all that grows then carries the right label.
_PART_OF_MEDIAN = 0.75
_NOISE_PIXELS = 3

# Distances that differ by less than this part of the finest spacing are equal but for rounding.
_TIE = 1e-5

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int64]


@dataclass(frozen=True)
class GrowthConfig:
    """How scribbles grow; raises ConfigError for values out of range."""

    # Neighbours whose intensities differ by less join (the paper's T), in the image's units; 0 lets nothing grow. None:
    # for each label 0.75 times the median difference between neighbours at most 3 pixels from its marks, and at least
    # so much that equal neighbours join.
    threshold: Annotated[float | None, Range(0)] = None
    reach_mm: Annotated[float | None, Range(0)] = (
        None  # longest path from a mark; None: five pixels of the finest spacing
    )
    # "faces": pixels that share an edge (3D: a face) are neighbours. "full": a corner suffices, but no path slips
    # diagonally between marks.
    connectivity: str = "faces"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.connectivity not in CONNECTIVITIES:
            raise ConfigError(f"connectivity is {self.connectivity!r}, expected one of {', '.join(CONNECTIVITIES)}.")


_DEFAULT = GrowthConfig()


def grow_scribbles(
    image: ArrayLike,
    scribbles: LabelScribbles,
    config: GrowthConfig = _DEFAULT,
    *,
    spacing_mm: ArrayLike | None = None,
    allowed: ArrayLike | None = None,
) -> LabelScribbles:
    """Grow every label's marks along paths on which each step changes the intensity by less than the threshold.

    Labels compete: a pixel goes to the label with the shortest path to it, in millimetres, and stays unmarked where two
    are equally near. Marks stay what they are, and no path leads over a mark of another label. Every pixel that is
    added is joined by added pixels to a mark of its label. Where the image is NaN or infinite nothing grows. In flat
    parts, whose neighbours are equal, scribbles grow as far as they reach.

    Args:
        image: (H, W) or (K, J, I), real numbers.
        scribbles: Marks on the pixels of the image.
        config: Threshold, reach and connectivity.
        spacing_mm: Size of a pixel along each axis; 1 by default.
        allowed: bool, of the image's shape: only pixels where it is True are added. None: all.

    Returns:
        The grown scribbles; they hold all marks of `scribbles`.

    Raises:
        ImageError: No image of real numbers with two or three dimensions.
        PromptError: Scribbles or `allowed` of another shape than the image.
        GeometryError: Spacings of another number, or not above zero.
    """
    array = validation.image_array(image)
    validation.same_shape(scribbles.shape, array.shape, name="scribbles", error=PromptError)
    spacing = validation.spacing_mm((1.0,) * array.ndim if spacing_mm is None else spacing_mm, array.ndim)
    barred = scribbles.marked
    if allowed is not None:
        validation.same_shape(np.shape(allowed), array.shape, name="allowed", error=PromptError)
        barred = barred | ~np.asarray(allowed, bool)
    grid = _PixelGraph(array, spacing, config, barred, scribbles.marked)
    labels = scribbles.labels.ravel()
    reached = {label: grid.paths_from(np.flatnonzero(labels == label)) for label in scribbles.values()}
    return LabelScribbles(_assign_to_nearest(labels, reached, _TIE * min(spacing)).reshape(array.shape))


@dataclass(frozen=True, eq=False)
class _Paths:
    """What one label can reach."""

    pixels: _Integers  # flat indices
    distances: _Floats  # in millimetres, inf for none
    steps: sparse.csr_matrix


class _PixelGraph:
    """An image, flattened, as a graph of neighbouring pixels; `barred` ones take part only as a label's own marks."""

    def __init__(
        self,
        array: NDArray[np.generic],
        spacing: tuple[float, ...],
        config: GrowthConfig,
        barred: NDArray[np.bool_],
        marked: NDArray[np.bool_],
    ) -> None:
        self._values, self._shape = array.ravel(), array.shape
        self._spacing = spacing
        self._strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
        self._config = config
        self._reach = REACH_PIXELS * min(spacing) if config.reach_mm is None else config.reach_mm
        self._barred, self._marked = barred.ravel(), marked.ravel()

    def paths_from(self, marks: _Integers) -> _Paths:
        """Follow all admissible paths from the marks of one label, flat indices, at least one."""
        around = self._box_around(marks, self._reach)
        pixels = around[~self._barred[around] | np.isin(around, marks, assume_unique=True)]
        threshold = self._config.threshold
        if threshold is None:
            near = self._box_around(marks, _NOISE_PIXELS * min(self._spacing))
            differences = np.concatenate([difference for *_, difference, _ in self._edges(near, faces=True)])
            differences = differences[np.isfinite(differences)]
            median = float(np.median(differences)) if differences.size else 0.0
            threshold = max(_PART_OF_MEDIAN * median, float(np.finfo(np.float64).tiny))
        edges = []
        for start, stop, difference, length in self._edges(pixels, faces=self._config.connectivity == "faces"):
            close = difference < threshold
            edges.append((start[close], stop[close], np.full(int(close.sum()), length)))
        start, stop, lengths = (np.concatenate(parts) for parts in zip(*edges, strict=True))
        steps = sparse.csr_matrix((lengths, (start, stop)), shape=(pixels.size, pixels.size))
        distances = csgraph.dijkstra(
            steps,
            directed=False,
            indices=np.searchsorted(pixels, marks),
            limit=self._reach + _TIE * min(self._spacing),
            min_only=True,
        )
        return _Paths(pixels, distances, steps)

    def _box_around(self, marks: _Integers, reach: float) -> _Integers:
        """Return the flat indices, ascending, of pixels at most `reach` millimetres from a mark along every axis."""
        near = np.zeros(self._values.size, bool)
        near[marks] = True
        for side, spacing, stride in zip(self._shape, self._spacing, self._strides, strict=True):
            farthest = min(int(reach / spacing + _TIE), side - 1)
            flat = np.flatnonzero(near)
            at = flat // stride % side
            for shift in range(-farthest, farthest + 1):
                inside = (at + shift >= 0) & (at + shift < side)
                near[flat[inside] + shift * stride] = True
        return np.flatnonzero(near)

    def _edges(self, pixels: _Integers, *, faces: bool) -> list[tuple[_Integers, _Integers, _Floats, float]]:
        """Find the pairs of neighbours among `pixels`, for each direction.

        Returns:
            For each direction: positions in `pixels` of both ends, their differences of intensity (NaN where either is
            NaN or both are infinite), and the distance in millimetres.
        """
        at = np.unravel_index(pixels, self._shape)
        values = self._values[pixels].astype(np.float64)
        found = []
        for direction in product((-1, 0, 1), repeat=len(self._shape)):
            diagonal = sum(map(abs, direction)) > 1
            if direction <= (0,) * len(self._shape) or (diagonal and faces):
                continue
            inside = np.ones(pixels.size, bool)
            for position, step, side in zip(at, direction, self._shape, strict=True):
                if step:
                    inside &= (position + step >= 0) & (position + step < side)
            start = np.flatnonzero(inside)
            stop_pixels = pixels[start] + self._offset(direction)
            stop = np.minimum(np.searchsorted(pixels, stop_pixels), pixels.size - 1)
            there = pixels[stop] == stop_pixels
            if diagonal:
                # A step past a mark could cross a thin line that the mark is part of.
                for part in product(*[(0, step) if step else (0,) for step in direction]):
                    if any(part) and part != direction:
                        there &= ~self._marked[pixels[start] + self._offset(part)]
            start, stop = start[there], stop[there]
            with np.errstate(invalid="ignore"):
                difference = np.abs(values[start] - values[stop])
            found.append((start, stop, difference, float(np.linalg.norm(np.multiply(direction, self._spacing)))))
        return found

    def _offset(self, direction: tuple[int, ...]) -> int:
        return sum(step * stride for step, stride in zip(direction, self._strides, strict=True))


def _assign_to_nearest(labels: NDArray[np.int16], reached: dict[int, _Paths], tie: float) -> NDArray[np.int16]:
    """Give each pixel to the label with the shortest path; flat labels of the marks in, of the grown scribbles out."""
    owners = np.array(labels)
    nearest = np.full(labels.size, np.inf)
    for label, paths in reached.items():
        finite = np.isfinite(paths.distances)
        pixels, distances = paths.pixels[finite], paths.distances[finite]
        lead = nearest[pixels] - distances
        owners[pixels[lead > tie]] = label
        owners[pixels[np.abs(lead) <= tie]] = UNMARKED
        nearest[pixels] = np.minimum(nearest[pixels], distances)
    for label, paths in reached.items():
        # Where labels have different thresholds, one may have been cut off from its marks by a nearer one.
        own = np.flatnonzero(owners[paths.pixels] == label)
        _, pieces = csgraph.connected_components(paths.steps[own][:, own], directed=False)
        pixels = paths.pixels[own]
        rooted = np.unique(pieces[labels[pixels] == label])
        owners[pixels[~np.isin(pieces, rooted)]] = UNMARKED
    return owners
