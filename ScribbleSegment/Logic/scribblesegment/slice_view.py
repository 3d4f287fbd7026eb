"""A part of a slice on the network's grid, and which part deserves a second look at finer pixels.

The network sees a square of few pixels, a CT slice has 512 x 512. After a first look at the whole slice, `focus_view`
gives the part around prompts and prediction at finer pixels, and None where a second look could not show more.
Prediction and training take their second looks by these same functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scribblesegment import checks
from scribblesegment.exceptions import GeometryError
from scribblesegment.preprocessing import SliceGrid
from scribblesegment.prompts import Prompts

FloatArray = NDArray[np.float32]
Region = tuple[tuple[int, int], tuple[int, int]]
"""Half-open ranges of rows and of columns: ((row_start, row_stop), (column_start, column_stop))."""

# Grids larger than the first have a multiple of this many cells a side, so that every level of a network divides them.
_GRID_STEP = 32

# Context around what is looked at: a fraction of its larger side, and at least so many cells of the first look.
_MARGIN, _MARGIN_CELLS = 0.2, 6

# Pixels of the slice for one cell of the grid, at least: beyond, a finer grid shows only interpolation.
_FINEST = 0.5

# A second look must have pixels finer than the first by this factor to be worth its time.
_WORTHWHILE = 1.2


@dataclass(frozen=True)
class SliceView:
    """A region of a slice, laid out on a square grid.

    Attributes:
        region: The part of the slice, in its pixels.
        spacing_mm: Distance of rows and of columns.
        size: Side of the grid in cells.
        grid: The map between the region's pixels and the grid.
    """

    region: Region
    spacing_mm: tuple[float, float]
    size: int
    grid: SliceGrid = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Lay out the grid.

        Raises:
            GeometryError: If the region is empty, or the spacing or size is not usable.
        """
        (top, bottom), (left, right) = self.region
        if bottom <= top or right <= left:
            raise GeometryError(f"The region {self.region} is empty; give half-open ranges of rows and columns.")
        object.__setattr__(self, "grid", SliceGrid((bottom - top, right - left), self.spacing_mm, self.size))

    @property
    def slices(self) -> tuple[slice, slice]:
        """The region as an index into (..., H, W)."""
        (top, bottom), (left, right) = self.region
        return slice(top, bottom), slice(left, right)

    def image_to_grid(self, image: FloatArray) -> FloatArray:
        """Bring the region of a normalised image (H, W) to the grid, (size, size)."""
        return self.grid.image_to_grid(image[self.slices])

    def logits_from_grid(self, logits: FloatArray) -> FloatArray:
        """Bring logits (size, size) to the region's pixels."""
        return self.grid.logits_from_grid(logits)

    def prompts_to_grid(self, prompts: Prompts) -> Prompts:
        """Bring prompts of the whole slice to the grid; those outside the region are dropped, boxes are cut."""
        cropped = crop_prompts(prompts, self.region)
        logits = cropped.mask_input
        return Prompts(
            scribbles=self.grid.scribbles_to_grid(cropped.scribbles),
            point_coords=self.grid.points_to_grid(cropped.point_coords),
            point_labels=cropped.point_labels,
            boxes=self.grid.boxes_to_grid(cropped.boxes),
            mask_input=None if logits is None else self._logits_to_grid(logits),
        )

    def _logits_to_grid(self, logits: FloatArray) -> FloatArray:
        """Bring logits to the grid; around the image they are background, as the network itself predicts there."""
        content = self.grid.logits_to_grid(logits)
        padded = np.full_like(content, min(float(logits.min()), 0.0))
        rows, columns = self.grid.content
        padded[rows, columns] = content[rows, columns]
        return padded


def crop_prompts(prompts: Prompts, region: Region) -> Prompts:
    """Bring prompts to the pixels of a region; those outside of it are dropped, boxes are cut."""
    (top, bottom), (left, right) = region
    if (bottom - top, right - left) == prompts.shape:
        return prompts
    start, stop = np.array([top, left]), np.array([bottom, right])
    inside = ((prompts.point_coords >= start) & (prompts.point_coords < stop)).all(axis=1)
    boxes = np.clip(prompts.boxes, start, stop) - start
    boxes = boxes[(boxes[:, 1] > boxes[:, 0]).all(axis=1)]
    return Prompts(
        scribbles=prompts.scribbles[:, top:bottom, left:right],
        point_coords=prompts.point_coords[inside] - start,
        point_labels=prompts.point_labels[inside],
        boxes=boxes,
        mask_input=None if prompts.mask_input is None else prompts.mask_input[top:bottom, left:right],
    )


def focus_view(
    mask: NDArray[np.bool_],
    prompts: Prompts,
    *,
    spacing_mm: tuple[float, float],
    first_cell_mm: float,
    size: int,
    max_size: int,
) -> SliceView | None:
    """Choose what to look at a second time.

    Args:
        mask: (H, W) bool, the first prediction.
        prompts: On the same slice; positive ones belong to what is looked at.
        spacing_mm: Distance of rows and of columns.
        first_cell_mm: Side of a grid cell of the first look.
        size: Smallest grid of a second look, in cells a side.
        max_size: Largest one.

    Returns:
        A view of prediction and positive prompts with a margin, or None where there is nothing to look at or its pixels
        would not be noticeably finer.

    Raises:
        GeometryError: If mask and prompts differ in shape.
    """
    checks.same_shape(mask.shape, prompts.shape, name="mask", reference="the prompts", error=GeometryError)
    extent = _extent(mask, prompts)
    if extent is None:
        return None
    pixel_mm = min(spacing_mm)
    least_mm = size * _FINEST * pixel_mm
    sides_mm = [float(stop - start) * mm for (start, stop), mm in zip(extent, spacing_mm, strict=True)]
    margin_mm = max(_MARGIN * max(sides_mm), _MARGIN_CELLS * first_cell_mm)
    side_mm = max(max(sides_mm) + 2 * margin_mm, least_mm)
    region = tuple(
        _enlarged(start, stop, side_mm / mm, margin_mm / mm, length)
        for (start, stop), mm, length in zip(extent, spacing_mm, mask.shape, strict=True)
    )
    larger_mm = max((stop - start) * mm for (start, stop), mm in zip(region, spacing_mm, strict=True))
    cells = size
    if larger_mm > size * pixel_mm:
        cells = min(max(math.ceil(larger_mm / pixel_mm / _GRID_STEP) * _GRID_STEP, size), max_size)
    if larger_mm / cells * _WORTHWHILE > first_cell_mm:
        return None
    return SliceView((region[0], region[1]), spacing_mm, cells)


def _extent(mask: NDArray[np.bool_], prompts: Prompts) -> Region | None:
    marked = mask | prompts.positive_pixels()
    if not marked.any():
        return None
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _enlarged(start: int, stop: int, wanted: float, margin: float, length: int) -> tuple[int, int]:
    """Enlarge an interval to a wanted length, inside [0, length); a long side keeps at least its margins."""
    wanted = max(wanted, stop - start + 2 * margin)
    if wanted >= length:
        return 0, length
    first = round((start + stop - wanted) / 2)
    first = min(max(first, 0), length - math.ceil(wanted))
    return first, first + math.ceil(wanted)
