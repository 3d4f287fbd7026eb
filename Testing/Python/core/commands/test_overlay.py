from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scribblesegment import FileFormatError, Segment, Volume
from scribblesegment.commands.labelled_prompts import LabelBox, LabelClick, SlicePrompts
from scribblesegment.commands.overlay import MAX_PANELS, draw_overlay, write_picture
from scribblesegment.data.preprocessing import IntensityRange

RED = Segment(1, "Red", (1.0, 0.0, 0.0))
BLUE = Segment(5, "Blue", (0.0, 0.0, 1.0))
LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
MADE_UP = LPS
PLACED = LPS.copy()
PLACED[:3, 3] = 7.0


def draw(volume, *, axis=0, indices=(0,), results=None, strokes=None, clicks=(), boxes=(), background=None):
    slices = [volume.slice(axis, index) for index in indices]
    blank = [np.zeros(piece.image.shape, np.uint8) for piece in slices]
    painted = blank if strokes is None else [strokes] * len(slices)
    return draw_overlay(
        slices,
        blank if results is None else [results] * len(slices),
        [
            SlicePrompts(axis, index, stroke, tuple(clicks), tuple(boxes), background)
            for index, stroke in zip(indices, painted, strict=True)
        ],
        shape=volume.shape,
        ijk_to_ras=volume.ijk_to_ras,
        intensity_range=IntensityRange(0.0, 1.0),
        segments=[RED, BLUE],
    )


def black(shape=(1, 24, 32), matrix=MADE_UP):
    return Volume(np.zeros(shape, np.float32), matrix)


def without_legend(picture):
    """The picture's slice: all but the legend, which is 46 rows high."""
    return picture[:-46]


def is_red(picture):
    return (picture[..., 0] > picture[..., 2].astype(int) + 40) & (picture[..., 1] < picture[..., 0])


def is_blue(picture):
    return (picture[..., 2] > picture[..., 0].astype(int) + 40) & (picture[..., 1] < picture[..., 2])


@pytest.mark.parametrize(
    ("shape", "spacing_ijk"), [((1, 24, 32), (1, 1, 1)), ((1, 7, 5), (0.5, 3.0, 1)), ((1, 1, 40), (1, 4, 1))]
)
def test_a_picture_is_square_in_millimetres_and_large_enough(shape, spacing_ijk):
    matrix = MADE_UP.copy()
    matrix[:3, :3] *= spacing_ijk
    height, width, _ = without_legend(draw(black(shape, matrix))).shape
    expected = shape[1] * spacing_ijk[1] / (shape[2] * spacing_ijk[0])
    assert max(height, width) >= 768
    assert height / width == pytest.approx(expected, rel=0.02)


def test_a_segment_is_tinted_and_outlined_on_its_own_pixels_only():
    result = np.zeros((24, 32), np.uint8)
    result[6:18, 8:20] = 5
    picture = without_legend(draw(black(), results=result))
    scale = picture.shape[0] // 24
    colored = is_blue(picture)
    assert colored[6 * scale : 18 * scale, 8 * scale : 20 * scale].all()
    assert colored.sum() == 12 * 12 * scale**2
    assert picture[6 * scale, 10 * scale].tolist() == [0, 0, 255]
    assert 0 < picture[12 * scale, 14 * scale, 2] < 128
    assert not is_red(picture).any()


def test_a_segment_that_leaves_the_picture_has_no_outline_there():
    picture = without_legend(draw(black(), results=np.full((24, 32), 1, np.uint8)))
    assert (picture[..., 0] < 128).all()


def test_intensities_are_windowed_by_the_given_range():
    values = np.array([[[0.0, 1.0], [np.nan, 9.0]]], np.float32).repeat(8, 1).repeat(8, 2)
    picture = without_legend(draw(Volume(values, MADE_UP)))
    step = picture.shape[0] // 4
    assert [picture[r * step, c * step, 0] for r in (1, 3) for c in (1, 3)] == [0, 255, 0, 255]


def test_a_ras_volume_shows_the_patients_right_on_the_left_and_the_front_on_top():
    result = np.zeros((24, 32), np.uint8)
    result[20:, 28:] = 1  # far right and front of a RAS volume
    ras = np.eye(4)
    picture = without_legend(draw(black((2, 24, 32), ras), results=result))
    rows, columns = np.nonzero(is_red(picture))
    assert rows.max() < picture.shape[0] / 4
    assert columns.max() < picture.shape[1] / 4


def test_strokes_are_lighter_than_their_segment_and_background_is_checkered():
    strokes = np.zeros((24, 32), np.uint8)
    strokes[4:8, 4:20] = 1
    strokes[14:20, 4:20] = 9
    picture = without_legend(draw(black(), strokes=strokes, background=9))
    scale = picture.shape[0] // 24
    red = picture[6 * scale, 10 * scale]
    assert red[0] == 255
    assert 80 < red[1] == red[2] < 180
    checkered = picture[14 * scale : 20 * scale, 4 * scale : 20 * scale]
    assert set(np.unique(checkered)) == {0, 255}
    assert 0.4 < (checkered == 255).mean() < 0.6


def test_clicks_and_boxes_lie_where_they_were_made_on_a_turned_slice():
    ras = np.eye(4)
    click, box = LabelClick((0, 0), True, 1), LabelBox((20, 0), (24, 8), 5)
    picture = without_legend(draw(black((2, 24, 32), ras), clicks=[click], boxes=[box]))
    height, width = picture.shape[:2]
    rows, columns = np.nonzero(is_red(picture))
    assert rows.min() > height * 0.9
    assert columns.min() > width * 0.9
    rows, columns = np.nonzero(is_blue(picture))
    assert rows.max() < height * 4.2 / 24
    assert columns.min() > width * 23.8 / 32


@pytest.mark.parametrize(("matrix", "expected"), [(MADE_UP, False), (PLACED, True)])
def test_letters_are_drawn_only_where_the_orientation_is_known(matrix, expected):
    assert bool(without_legend(draw(black(matrix=matrix))).any()) is expected


@pytest.mark.parametrize(("count", "panels"), [(1, 1), (3, 3), (12, 12), (40, MAX_PANELS)])
def test_several_slices_are_tiled_up_to_a_number(count, panels):
    volume = Volume(np.ones((count, 20, 20), np.float32), PLACED)
    picture = without_legend(draw(volume, indices=tuple(range(count))))
    gaps = (picture.reshape(-1, 3) == 0).all(axis=1).reshape(picture.shape[:2])
    starts = np.flatnonzero(np.diff(np.concatenate([[True], gaps.all(axis=1)]).astype(int)) == -1)
    rows = len(starts)
    columns = int(np.ceil(np.sqrt(panels)))
    assert rows == -(-panels // columns)
    assert max(picture.shape[:2]) <= 1600


def test_a_narrow_picture_is_widened_for_long_names_in_its_legend():
    volume = black((1, 400, 4))
    segments = [Segment(n, "Ganglion trigeminale Öß 中 " * 4, (0.5, 0.5, 0.5)) for n in range(1, 5)]
    picture = draw_overlay(
        [volume.slice(0, 0)],
        [np.zeros((400, 4), np.uint8)],
        [SlicePrompts(0, 0, np.zeros((400, 4), np.uint8))],
        shape=volume.shape,
        ijk_to_ras=volume.ijk_to_ras,
        intensity_range=IntensityRange(0.0, 1.0),
        segments=segments,
    )
    assert (picture == 128).all(axis=2).sum() >= 4 * 17 * 17
    text = np.flatnonzero(picture.any(axis=(0, 2)))
    assert 300 < text.max() < picture.shape[1] - 10


def test_a_picture_is_written_as_png(tmp_path):
    picture = draw(black())
    write_picture(tmp_path / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)


def test_a_picture_into_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        write_picture(tmp_path / "missing" / "a.png", draw(black()))
