"""A picture of a result: the slice as a radiologist sees it, with segments, strokes, clicks and boxes on it.

Pixels are square millimetres, the slice is turned as usual in radiology, and the sides carry the letters of the
patient's directions, where the image says how it lies in the patient.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.commands.labelled_prompts import AXES, LabelBox, LabelClick, SlicePrompts
from scribblesegment.commands.slice_display import SliceDisplay, has_known_orientation
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.volume import Segment, SliceImage
from scribblesegment.io.storage import atomic_file

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

MAX_PANELS = 12
"""So many slices are shown; of more, evenly spaced ones."""

_Rgb = NDArray[np.uint8]
_Color = tuple[int, int, int]

# Long side of one panel, in screen pixels: at least the first, of several panels all together at most the second.
_SMALLEST_SIDE = 768
_LARGEST_SIDE = 1536

_FILL = 0.28  # opacity of a segment
_CHECK = 4  # side of the black and white squares of background strokes
_GAP = 4  # between panels
_LONGEST_NAME = 60  # characters of a segment's name in the legend

_WHITE: _Color = (255, 255, 255)
_BLACK: _Color = (0, 0, 0)
_TEXT: _Color = (235, 235, 235)


def draw_overlay(
    slices: Sequence[SliceImage],
    results: Sequence[NDArray[Any]],
    prompts: Sequence[SlicePrompts],
    *,
    shape: tuple[int, int, int],
    ijk_to_ras: NDArray[np.float64],
    intensity_range: IntensityRange,
    segments: Sequence[Segment],
) -> _Rgb:
    """Draw slices with their segmentation; several become tiles, and of more than `MAX_PANELS` some are chosen.

    Args:
        slices: Slices of one volume along one axis, one at least.
        results: Label map (H, W) of each slice, 0 for background.
        prompts: Prompts of each slice.
        shape: Shape (K, J, I) of the volume.
        ijk_to_ras: (4, 4) matrix of the volume.
        intensity_range: Intensities shown as black and white.
        segments: Names and colours of all labels.

    Returns:
        uint8 (rows, columns, 3), red, green and blue.
    """
    from PIL import Image

    chosen = np.linspace(0, len(slices) - 1, min(len(slices), MAX_PANELS)).round().astype(int)
    columns = math.ceil(math.sqrt(len(chosen)))
    side = _LARGEST_SIDE // columns if len(chosen) > 1 else _LARGEST_SIDE
    display = SliceDisplay.radiological(ijk_to_ras, slices[0].axis)
    sheet = _Sheet(display, slices[0], side, {segment.label: _bytes(segment.color_rgb) for segment in segments})
    letters = has_known_orientation(ijk_to_ras, shape)
    tiles = []
    for n in chosen:
        tile = sheet.panel(intensity_range.normalize(slices[n].image), results[n], prompts[n])
        if letters:
            tile = sheet.with_letters(tile)
        if shape[slices[n].axis] > 1:
            tile = sheet.with_caption(tile, f"{display.plane}  {AXES[slices[n].axis]} = {slices[n].index}")
        tiles.append(tile)
    picture = _tiled(tiles, columns)
    legend = _legend(segments, _kinds(prompts[n] for n in chosen), picture.shape[1])
    width = max(picture.shape[1], legend.shape[1])
    both = [np.asarray(Image.fromarray(part).crop((0, 0, width, part.shape[0]))) for part in (picture, legend)]
    return np.concatenate(both)


def write_picture(path: str | os.PathLike[str], picture: _Rgb) -> None:
    """Write a picture uint8 (rows, columns, 3) as PNG, whole or not at all.

    Raises:
        FileFormatError: A missing folder, or the operating system refuses to write.
    """
    from PIL import Image

    with atomic_file(path, ".png") as temporary:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)


class _Sheet:
    """Draws panels of one size: slices of one shape, turned and enlarged alike.

    Args:
        display: How slices are turned.
        example: One of the slices.
        side: Wanted length of the long side, at most, in screen pixels.
        colors: Colour of each label.
    """

    def __init__(self, display: SliceDisplay, example: SliceImage, side: int, colors: dict[int, _Color]) -> None:
        self._display = display
        self._colors = colors
        self._slice_shape = (int(example.image.shape[0]), int(example.image.shape[1]))
        self._rows, self._columns = (int(n) for n in display.turned_pair(self._slice_shape))
        row_mm, column_mm = display.turned_pair(example.spacing_mm)
        height_mm, width_mm = self._rows * row_mm, self._columns * column_mm
        finest = max(height_mm, width_mm) / min(row_mm, column_mm)  # the long side in pixels of the finer spacing
        smallest = min(_SMALLEST_SIDE, side)
        # A whole number of screen pixels per image pixel looks cleaner, where that fits.
        long_side = finest * max(1, side // math.ceil(finest)) if finest <= side else side
        scale = min(max(long_side, smallest), side) / max(height_mm, width_mm)
        self._height, self._width = max(1, round(height_mm * scale)), max(1, round(width_mm * scale))
        self._nearest = np.ix_(_nearest_indices(self._rows, self._height), _nearest_indices(self._columns, self._width))
        tile = side < _SMALLEST_SIDE
        self._line = 2 if tile else 3  # width of lines in screen pixels
        self._font = _font(15 if tile else 20)

    def panel(self, image: NDArray[np.float32], labels: NDArray[Any], prompts: SlicePrompts) -> _Rgb:
        """Draw one slice: intensities (H, W) in [0, 1], its label map, and its prompts."""
        from PIL import Image

        grey = Image.fromarray(np.ascontiguousarray(self._display.turned(np.round(image * 255).astype(np.uint8))))
        # Cubic would ring beside strokes of metal or contrast; linear shows what is there.
        resized = grey.resize((self._width, self._height), Image.Resampling.BILINEAR)
        canvas = np.repeat(np.asarray(resized, np.float32)[..., None], 3, axis=2)
        self._draw_segments(canvas, self._enlarged(labels))
        self._draw_strokes(canvas, self._enlarged(prompts.strokes), prompts.background)
        picture = Image.fromarray(np.round(canvas).astype(np.uint8))
        self._draw_gestures(picture, prompts)
        return np.asarray(picture)

    def with_letters(self, tile: _Rgb) -> _Rgb:
        """Write the patient's directions on the four sides."""
        x, y, edge = self._width / 2, self._height / 2, 6
        marks = [
            (self._display.left, (edge, y), "lm"),
            (self._display.right, (self._width - edge, y), "rm"),
            (self._display.top, (x, edge), "ma"),
            (self._display.bottom, (x, self._height - edge), "md"),
        ]
        return _written(tile, marks, self._font)

    def with_caption(self, tile: _Rgb, text: str) -> _Rgb:
        """Write a line into the upper left corner."""
        return _written(tile, [(text, (6, 6), "la")], self._font)

    def _enlarged(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Turn and enlarge a label map (H, W) to screen pixels; every label keeps its exact pixels."""
        return np.asarray(self._display.turned(labels)[self._nearest])

    def _draw_segments(self, canvas: NDArray[np.float32], labels: NDArray[Any]) -> None:
        from scipy.ndimage import binary_erosion

        for label, color in self._colors.items():
            mask = labels == label
            if not mask.any():
                continue
            canvas[mask] = (1 - _FILL) * canvas[mask] + _FILL * np.asarray(color, np.float32)
            # A segment that leaves the picture has no edge there.
            inside = binary_erosion(mask, np.ones((3, 3), bool), iterations=self._line, border_value=1)
            canvas[mask & ~inside] = color

    def _draw_strokes(self, canvas: NDArray[np.float32], strokes: NDArray[Any], background: int | None) -> None:
        from scipy.ndimage import binary_dilation

        painted = strokes > 0
        if not painted.any():
            return
        halo = binary_dilation(painted, np.ones((3, 3), bool), iterations=self._line - 1) & ~painted
        canvas[halo] = _BLACK
        for label in np.unique(strokes[painted]).tolist():
            mask = strokes == label
            if label == background:
                canvas[mask] = np.where(_checkered(mask.shape)[mask][:, None], _WHITE, _BLACK)
            else:
                canvas[mask] = _bright(self._colors.get(label, _WHITE))

    def _draw_gestures(self, picture: Any, prompts: SlicePrompts) -> None:
        from PIL import ImageDraw

        pen = ImageDraw.Draw(picture)
        for box in prompts.boxes:
            self._draw_box(pen, box)
        for click in prompts.clicks:
            self._draw_click(pen, click)

    def _draw_box(self, pen: ImageDraw.ImageDraw, box: LabelBox) -> None:
        corners = [self._screen((row - 0.5, column - 0.5)) for row, column in (box.start, box.stop)]
        (x0, x1), (y0, y1) = (sorted(values) for values in zip(*corners, strict=True))
        # Lines on the last pixel row or column would fall off the picture.
        place = (max(x0, 1), max(y0, 1), min(x1, self._width - 2), min(y1, self._height - 2))
        pen.rectangle(place, outline=_BLACK, width=self._line + 2)
        inner = (place[0] + 1, place[1] + 1, place[2] - 1, place[3] - 1)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            pen.rectangle(inner, outline=self._colors.get(box.label or 0, _WHITE), width=self._line)

    def _draw_click(self, pen: ImageDraw.ImageDraw, click: LabelClick) -> None:
        x, y = self._screen((float(click.index[0]), float(click.index[1])))
        color = _WHITE if click.label is None else _bright(self._colors.get(click.label, _WHITE))
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=color, outline=_BLACK, width=2)
        pen.line((x - 5, y, x + 5, y), fill=_BLACK, width=3)
        if click.positive:
            pen.line((x, y - 5, x, y + 5), fill=_BLACK, width=3)

    def _screen(self, point: tuple[float, float]) -> tuple[float, float]:
        """Screen position (x, y) of a position (row, column) in the slice."""
        row, column = self._display.turned_point(point, self._slice_shape)
        return (column + 0.5) * self._width / self._columns, (row + 0.5) * self._height / self._rows


def _nearest_indices(count: int, enlarged: int) -> NDArray[np.intp]:
    return ((np.arange(enlarged) + 0.5) * (count / enlarged)).astype(np.intp).clip(0, count - 1)


def _checkered(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    # Squares, because stripes vanish in a stroke that runs along them.
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows // _CHECK + columns // _CHECK) % 2 == 0)


def _bytes(color_rgb: tuple[float, float, float]) -> _Color:
    red, green, blue = (round(255 * part) for part in color_rgb)
    return red, green, blue


def _bright(color: _Color) -> _Color:
    """A lighter tone of a colour, which stands out from the segment of that colour."""
    red, green, blue = (round(0.55 * part + 0.45 * 255) for part in color)
    return red, green, blue


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _written(tile: _Rgb, marks: Iterable[tuple[str, tuple[float, float], str]], font: Any) -> _Rgb:
    from PIL import Image, ImageDraw

    picture = Image.fromarray(tile)
    pen = ImageDraw.Draw(picture)
    for text, place, anchor in marks:
        pen.text(place, text, fill=_TEXT, font=font, anchor=anchor, stroke_width=2, stroke_fill=_BLACK)
    return np.asarray(picture)


def _tiled(tiles: Sequence[_Rgb], columns: int) -> _Rgb:
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    sheet = np.zeros((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), np.uint8)
    for n, tile in enumerate(tiles):
        top, left = n // columns * (height + _GAP), n % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _kinds(prompts: Iterable[SlicePrompts]) -> tuple[bool, bool]:
    """Whether strokes of labels, and of background, are in the picture."""
    objects = background = False
    for piece in prompts:
        behind = piece.strokes == (piece.background or 0)
        objects |= bool((~behind & (piece.strokes > 0)).any())
        background |= bool((behind & (piece.strokes > 0)).any())
    return objects, background


def _legend(segments: Sequence[Segment], kinds: tuple[bool, bool], width: int) -> _Rgb:
    """Draw the names of the segments beside their colours, in as many lines as needed."""
    from PIL import Image, ImageDraw

    font, swatch, line, gap = _font(18), 16, 28, 18
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    entries: list[tuple[str, _Color | None]] = [
        (shorten(segment.name, _LONGEST_NAME, placeholder=" ..."), _bytes(segment.color_rgb)) for segment in segments
    ]
    if kinds[1]:
        entries.append(("background strokes", None))
    places, widest, x, y = [], width, gap, gap // 2
    for text, _ in entries:
        length = swatch + 8 + math.ceil(measure.textlength(text, font=font)) + gap
        if x > gap and x + length > width:
            x, y = gap, y + line
        places.append((x, y))
        x += length
        widest = max(widest, x)
    legend = Image.new("RGB", (widest, y + line + gap // 2), _BLACK)
    pen = ImageDraw.Draw(legend)
    for (text, color), (left, top) in zip(entries, places, strict=True):
        box = (left, top + 5, left + swatch, top + 5 + swatch)
        if color is None:
            squares = np.where(_checkered((swatch + 1, swatch + 1))[..., None], np.uint8(255), np.uint8(0))
            legend.paste(Image.fromarray(np.repeat(squares, 3, axis=2)), box[:2])
            pen.rectangle(box, outline=_TEXT)
        else:
            pen.rectangle(box, fill=color)
        pen.text((left + swatch + 8, top + 5 + swatch / 2), text, fill=_TEXT, font=font, anchor="lm")
    return np.asarray(legend)
