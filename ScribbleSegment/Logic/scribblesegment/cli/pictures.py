"""Pictures of results: slices as a radiologist sees them, with segments and prompts on them, and the curve of g.

Pixels of slices are square millimetres, and slices are turned as in 3D Slicer: axial with the patient's right on the
left and the front on top, coronal with the right on the left and the head on top, sagittal with the front on the left
and the head on top. The sides carry the patient's directions, where the image says how it lies in the patient.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scribblesegment.cli.labelled_prompts import SlicePrompts
from scribblesegment.cli.options import AXES
from scribblesegment.data.volume import Segment, SliceImage, Volume
from scribblesegment.io.storage import atomic_file

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from scribblesegment.data.preprocessing import IntensityRange

MAX_PANELS = 12
"""So many slices are shown; of more, evenly spaced ones."""

_Color = tuple[int, int, int]

# Long side of one panel, in screen pixels: at least the first, of several panels all together at most the second.
_SMALLEST_SIDE = 768
_LARGEST_SIDE = 1536

_FILL = 0.28  # opacity of a segment
_CHECK = 4  # side of the black and white squares of background strokes
_GAP = 4  # between panels
_LONGEST_NAME = 60  # characters of a segment's name in the legend
_WHITE, _BLACK, _TEXT = (255, 255, 255), (0, 0, 0), (235, 235, 235)

# By the RAS axis closest to the slice's normal: name, and RAS directions of screen right and screen down.
_PLANES = (
    ("sagittal", (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    ("coronal", (-1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    ("axial", (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
)
# A direction gets a second letter from this cosine on: 20 degrees, as on the edges of DICOM viewers.
_OBLIQUE = math.sin(math.radians(20.0))


class SliceDisplay(NamedTuple):
    """How to turn a slice (H, W) as radiologists expect it: first transposed, then flipped."""

    plane: str  # "axial", "coronal" or "sagittal", whichever is closest
    transpose: bool
    flip_rows: bool
    flip_columns: bool
    letters: tuple[str, str, str, str]  # patient's side (R, L, A, P, S, I) left, right, above, below; two if oblique

    @classmethod
    def radiological(cls, ijk_to_ras: NDArray[np.float64], axis: int) -> SliceDisplay:
        """Find the customary display of the slices along an axis (0 = K, 1 = J, 2 = I) of a volume."""
        directions = ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
        rows, columns = (directions[:, 2 - other] for other in range(3) if other != axis)
        plane, right, down = _PLANES[int(np.argmax(np.abs(np.cross(rows, columns))))]
        transpose = bool(abs(rows @ right) + abs(columns @ down) > abs(columns @ right) + abs(rows @ down))
        if transpose:
            rows, columns = columns, rows
        flip_rows, flip_columns = bool(rows @ down < 0), bool(columns @ right < 0)
        to_bottom, to_right = -rows if flip_rows else rows, -columns if flip_columns else columns
        letters = (_letters(-to_right), _letters(to_right), _letters(-to_bottom), _letters(to_bottom))
        return cls(plane, transpose, flip_rows, flip_columns, letters)

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a slice (H, W, ...) as it is displayed."""
        turned = array.swapaxes(0, 1) if self.transpose else array
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def _letters(direction: NDArray[np.float64]) -> str:
    first, second, _ = np.argsort(-np.abs(direction))
    axes = (first, second) if abs(direction[second]) > _OBLIQUE else (first,)
    return "".join(("RL", "AP", "SI")[axis][int(direction[axis] < 0)] for axis in axes)


def has_known_orientation(volume: Volume) -> bool:
    """Whether a volume says how it lies in the patient.

    PNG, JPEG, TIFF and many ultrasound or X-ray files do not: they come as one slice with the matrix every reader makes
    up, and a letter "R" on them could be wrong.
    """
    made_up = np.allclose(volume.directions, np.diag((-1.0, -1.0, 1.0))) and not volume.origin_ras.any()
    return volume.shape[0] > 1 or not made_up


def draw_overlay(
    images: Sequence[SliceImage],
    results: Sequence[NDArray[Any]],
    prompts: Sequence[SlicePrompts],
    grid: Volume,
    intensity_range: IntensityRange,
    segments: Sequence[Segment],
) -> Picture:
    """Draw slices with their segmentation; several become tiles, and of more than `MAX_PANELS` some are chosen.

    They are slices of one volume, whose place in the patient `grid` tells, along one axis, one at least. `results` are
    their label maps (H, W), 0 for background.
    """
    from PIL import Image, ImageDraw

    chosen = np.linspace(0, len(images) - 1, min(len(images), MAX_PANELS)).round().astype(int)
    across = math.ceil(math.sqrt(len(chosen)))
    side = _LARGEST_SIDE // across if len(chosen) > 1 else _LARGEST_SIDE
    small = side < _SMALLEST_SIDE
    font, line = _font(15 if small else 20), 2 if small else 3
    height, width = _panel_size(images[0], side)
    axis = images[0].axis
    display = SliceDisplay.radiological(grid.ijk_to_ras, axis)
    colors = {segment.label: _bytes(segment.color_rgb) for segment in segments}
    tiles = []
    for n in chosen:
        pixels = intensity_range.normalize(images[n].image)
        panel = _panel(pixels, results[n], prompts[n], (height, width), line, colors, upright=not display.transpose)
        tile = Image.fromarray(np.ascontiguousarray(display.turned(np.asarray(panel))))
        right, bottom, edge = tile.width, tile.height, 6
        texts: list[tuple[tuple[float, float], str, str]] = []
        if has_known_orientation(grid):
            places = [(edge, bottom / 2), (right - edge, bottom / 2), (right / 2, edge), (right / 2, bottom - edge)]
            texts += zip(places, display.letters, ("lm", "rm", "ma", "md"), strict=True)
        if grid.shape[axis] > 1:
            texts.append(((edge, edge), f"{display.plane}  {AXES[axis]} = {images[n].index}", "la"))
        for place, text, anchor in texts:
            ImageDraw.Draw(tile).text(place, text, _TEXT, font, anchor=anchor, stroke_width=2, stroke_fill=_BLACK)
        tiles.append(tile)
    right, bottom = tiles[0].width + _GAP, tiles[0].height + _GAP
    sheet_width, sheet_height = across * right - _GAP, math.ceil(len(tiles) / across) * bottom - _GAP
    painted = np.concatenate([np.unique(prompts[n].strokes) for n in chosen])
    legend = _legend(segments, sheet_width, background=prompts[0].background in painted.tolist())
    sheet = Image.new("RGB", (max(sheet_width, legend.width), sheet_height + legend.height), _BLACK)
    for n, tile in enumerate(tiles):
        sheet.paste(tile, (n % across * right, n // across * bottom))
    sheet.paste(legend, (0, sheet_height))
    return sheet


def write_picture(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        FileFormatError: A missing folder, or the operating system refuses to write.
    """
    with atomic_file(path, ".png") as temporary:
        picture.save(temporary, "PNG", optimize=True)


def _panel_size(example: SliceImage, side: int) -> tuple[int, int]:
    """Height and width of a slice in screen pixels, the long one `side` at most."""
    height_mm, width_mm = np.multiply(example.image.shape, example.spacing_mm)
    long_mm = max(height_mm, width_mm)
    finest = long_mm / min(example.spacing_mm)  # the long side in pixels of the finer spacing
    # A whole number of screen pixels per image pixel looks cleaner, where that fits.
    long_side = finest * max(1, side // math.ceil(finest)) if finest <= side else side
    scale = min(max(long_side, _SMALLEST_SIDE), side) / long_mm
    return max(1, round(height_mm * scale)), max(1, round(width_mm * scale))


def _panel(
    pixels: NDArray[np.float32],
    labels: NDArray[Any],
    prompts: SlicePrompts,
    size: tuple[int, int],
    line: int,
    colors: dict[int, _Color],
    *,
    upright: bool,
) -> Picture:
    """Draw one slice as it is stored: intensities (H, W) in [0, 1], its label map, and its prompts."""
    from PIL import Image, ImageDraw
    from scipy.ndimage import binary_dilation, binary_erosion

    (height, width), square = size, np.ones((3, 3), bool)
    grey = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    # Cubic would ring beside strokes of metal or contrast; linear shows what is there.
    canvas = np.repeat(np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR), np.float32)[..., None], 3, 2)
    # Every label keeps its exact pixels.
    nearest = np.ix_(*(((np.arange(n) + 0.5) * (m / n)).astype(int) for n, m in zip(size, labels.shape, strict=True)))
    result, strokes = labels[nearest], prompts.strokes[nearest]
    for label in np.unique(labels[labels > 0]).tolist():
        mask, color = result == label, colors[label]
        canvas[mask] = (1 - _FILL) * canvas[mask] + _FILL * np.asarray(color, np.float32)
        # A segment that leaves the picture has no edge there.
        canvas[mask & ~binary_erosion(mask, square, iterations=line, border_value=1)] = color
    painted = strokes > 0
    canvas[binary_dilation(painted, square, iterations=line - 1) & ~painted] = _BLACK
    for label in np.unique(prompts.strokes[prompts.strokes > 0]).tolist():
        mask = strokes == label
        color = _bright(colors.get(label, _WHITE))
        canvas[mask] = _checkered(height, width)[mask] if label == prompts.background else color
    picture = Image.fromarray(np.round(canvas).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    row_scale, column_scale = height / labels.shape[0], width / labels.shape[1]
    for box in (mark for mark in prompts.marks if mark.is_box):
        # Lines on the last pixel row or column would fall off the picture.
        y0, y1 = (min(max(row * row_scale, 1), height - 2) for row in (box.start[0], box.stop[0]))
        x0, x1 = (min(max(column * column_scale, 1), width - 2) for column in (box.start[1], box.stop[1]))
        pen.rectangle((x0, y0, x1, y1), outline=_BLACK, width=line + 2)
        if x1 - x0 > 2 and y1 - y0 > 2:
            pen.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=colors.get(box.label or 0, _WHITE), width=line)
    for click in (mark for mark in prompts.marks if not mark.is_box):
        y, x = (click.start[0] + 0.5) * row_scale, (click.start[1] + 0.5) * column_scale
        color = _WHITE if click.label is None else _bright(colors.get(click.label, _WHITE))
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=color, outline=_BLACK, width=2)
        if upright or click.positive:  # a minus must lie after the slice was turned
            pen.line((x - 5, y, x + 5, y), fill=_BLACK, width=3)
        if not upright or click.positive:
            pen.line((x, y - 5, x, y + 5), fill=_BLACK, width=3)
    return picture


def _checkered(height: int, width: int) -> NDArray[np.uint8]:
    """Black and white squares (height, width, 3), because stripes vanish in a stroke that runs along them."""
    rows, columns = np.ogrid[:height, :width]
    return np.repeat(np.uint8(255) * ((rows // _CHECK + columns // _CHECK) % 2 == 0)[..., None], 3, axis=2)


def _bytes(color_rgb: tuple[float, float, float]) -> _Color:
    red, green, blue = (round(255 * part) for part in color_rgb)
    return red, green, blue


def _bright(color: _Color) -> _Color:
    """A lighter tone of a colour, which stands out from the segment of that colour."""
    red, green, blue = (round(0.55 * part + 0.45 * 255) for part in color)
    return red, green, blue


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _legend(segments: Sequence[Segment], width: int, *, background: bool) -> Picture:
    """Draw the names of the segments beside their colours, in as many lines as needed."""
    from PIL import Image, ImageDraw

    font, swatch, line, gap = _font(18), 16, 28, 18
    squares = Image.fromarray(_checkered(swatch + 1, swatch + 1))
    entries = [
        (
            shorten(segment.name, _LONGEST_NAME, placeholder=" ..."),
            Image.new("RGB", squares.size, _bytes(segment.color_rgb)),
        )
        for segment in segments
    ]
    if background:
        ImageDraw.Draw(squares).rectangle((0, 0, swatch, swatch), outline=_TEXT)
        entries.append(("background strokes", squares))
    places, widest, x, y = [], width, gap, gap // 2
    for text, _ in entries:
        length = swatch + 8 + math.ceil(font.getlength(text)) + gap
        if x > gap and x + length > width:
            x, y = gap, y + line
        places.append((x, y + 5))
        x += length
        widest = max(widest, x)
    legend = Image.new("RGB", (widest, y + line + gap // 2), _BLACK)
    for (text, sample), (left, top) in zip(entries, places, strict=True):
        legend.paste(sample, (left, top))
        ImageDraw.Draw(legend).text((left + swatch + 8, top + swatch / 2), text, _TEXT, font, anchor="lm")
    return legend


CURVE_SIZE = (640, 400)
"""Columns and rows of the picture of a curve."""

_INK, _GRID, _CURVE = (60, 60, 60), (225, 225, 225), (31, 119, 180)
_TICKS = 6


def draw_loss_curve(g_history: Sequence[float]) -> Picture:
    """Draw how the constraint loss g fell, as in figure 4 of Sambaturu et al.; what is not finite leaves a gap.

    Args:
        g_history: g before the first update, and after each one; at least one value.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", CURVE_SIZE, "white")
    pen, font = ImageDraw.Draw(picture), _font(14)
    last = max(len(g_history) - 1, 1)
    steps = _ticks(last, whole=True)
    heights = _ticks(max((value for value in g_history if math.isfinite(value)), default=0.0) or 1.0)
    left, top, right, bottom = 72, 44, CURVE_SIZE[0] - 24, CURVE_SIZE[1] - 56

    def place(step: float, value: float) -> tuple[float, float]:
        return left + (right - left) * step / last, bottom - (bottom - top) * value / heights[-1]

    for value in heights:
        pen.line([place(0, value), place(last, value)], _GRID)
        pen.text((left - 8, place(0, value)[1]), f"{value:g}", _INK, font, "rm")
    for step in steps:
        if step <= last:
            pen.text((place(step, 0)[0], bottom + 8), f"{step:g}", _INK, font, "mt")
    pen.line([(left, top), (left, bottom), (right, bottom)], _INK)
    pen.text(((left + right) / 2, CURVE_SIZE[1] - 12), "updates of the network", _INK, font, "mb")
    end = f"constraint loss g: {g_history[-1]:.3g} after {len(g_history) - 1} updates"
    pen.text((left, 14), end, _INK, font, "lt")
    points = [place(step, value) if math.isfinite(value) else None for step, value in enumerate(g_history)]
    for first, second in pairwise(points):
        if first is not None and second is not None:
            pen.line([first, second], _CURVE, 2)
    if points[-1] is not None:
        x, y = points[-1]
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], _CURVE)
    return picture


def _ticks(highest: float, *, whole: bool = False) -> list[float]:
    """Give round numbers from 0 to at least `highest`, about `_TICKS` of them."""
    magnitude = 10.0 ** math.floor(math.log10(highest / _TICKS))
    step = next(size * magnitude for size in (1, 2, 5, 10) if size * magnitude * _TICKS >= highest)
    step = max(1.0, step) if whole else step
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]
