from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scribblesegment import Segment, Volume
from scribblesegment.cli import pictures
from scribblesegment.cli.labelled_prompts import SlicePrompts, read_box, read_click
from scribblesegment.data.preprocessing import IntensityRange

SEGMENTS = [Segment(1, "Red", (1.0, 0.0, 0.0)), Segment(5, "Blue", (0.0, 0.0, 1.0))]
MADE_UP = np.diag((-1.0, -1.0, 1.0, 1.0))
PLACED = np.array([[-1.0, 0, 0, 7], [0, -1, 0, 7], [0, 0, 1, 7], [0, 0, 0, 1]])


def matrix(sides: str) -> np.ndarray:
    """Matrix whose indices i, j, k grow towards the given sides, such as "LPS"."""
    ijk_to_ras = np.zeros((4, 4))
    ijk_to_ras[3, 3] = 1
    for column, side in enumerate(sides):
        row = next(n for n, pair in enumerate(("RL", "AP", "SI")) if side in pair)
        ijk_to_ras[row, column] = (1 if side in "RAS" else -1) * (1 + column)
    return ijk_to_ras


def draw(shape=(1, 24, 32), grid=MADE_UP, *, value=0.0, axis=0, results=0, strokes=0, marks=(), background=None):
    """The picture without its legend, which is 46 rows high."""
    volume = Volume(np.broadcast_to(np.asarray(value, np.float32), shape), grid)
    images = [volume.slice(axis, index) for index in range(shape[axis])]
    filled = np.zeros(images[0].image.shape, np.uint8)
    prompts = [SlicePrompts(axis, piece.index, filled + strokes, tuple(marks), background) for piece in images]
    picture = pictures.draw_overlay(
        images, [filled + results] * len(images), prompts, volume, IntensityRange(0, 1), SEGMENTS
    )
    return np.asarray(picture)[:-46]


def painted(shape, places):
    labels = np.zeros(shape, np.uint8)
    for (rows, columns), label in places:
        labels[rows, columns] = label
    return labels


# How slices are turned.


OBLIQUE = Rotation.from_euler("x", 30, degrees=True).as_matrix()


@pytest.mark.parametrize(
    ("sides", "axis", "plane", "letters", "turn"),
    [
        ("LPS", 0, "axial", "R L A P", None),
        ("RAS", 0, "axial", "R L A P", None),
        ("RAI", 1, "coronal", "R L S I", None),
        ("PSR", 0, "sagittal", "A P S I", None),
        ("LPS", 0, "axial", "R L AS PI", OBLIQUE),  # rows grow to the back and to the feet
    ],
)
def test_slices_lie_as_radiologists_expect_with_letters_unless_the_orientation_is_made_up(
    sides, axis, plane, letters, turn
):
    grid = matrix(sides)
    if turn is not None:
        grid[:3, :3] = turn @ grid[:3, :3]
    display = pictures.SliceDisplay.radiological(grid, axis)
    assert (display.plane, " ".join(display.letters)) == (plane, letters)
    for origin, slices in ((0, 1), (5, 1), (0, 2)):
        grid[0, 3] = origin
        known = (sides, origin, slices) != ("LPS", 0, 1) or turn is not None
        assert pictures.has_known_orientation(Volume(np.zeros((slices, 5, 5)), grid)) is known
        assert bool(draw((slices, 5, 5), grid).any()) is known


@given(st.tuples(*[st.floats(-180, 180)] * 3), st.booleans(), st.integers(0, 2))
def test_any_volume_is_displayed_upright(rotation, mirrored, axis):
    directions = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() * ((-1 if mirrored else 1), 1, 1)
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = directions * (0.5, 2, 3)
    display = pictures.SliceDisplay.radiological(ijk_to_ras, axis)
    rows, columns = (directions[:, 2 - other] for other in range(3) if other != axis)
    # Where each pixel of a slice lies in the patient goes the same way as the slice.
    shown = display.turned(np.arange(2)[:, None, None] * rows + np.arange(2)[:, None] * columns)
    right, down = {"axial": ("LP"), "coronal": ("LI"), "sagittal": ("PI")}[display.plane]
    assert (shown[0, 1] - shown[0, 0]) @ matrix(right * 3)[:3, 0] >= -1e-9
    assert (shown[1, 0] - shown[0, 0]) @ matrix(down * 3)[:3, 0] >= -1e-9


# What is on the picture.


@pytest.mark.parametrize(
    ("shape", "spacing_ijk"), [((1, 24, 32), (1, 1, 1)), ((1, 7, 5), (0.5, 3.0, 1)), ((1, 1, 40), (1, 4, 1))]
)
def test_a_picture_is_square_in_millimetres_and_large_enough(shape, spacing_ijk):
    height, width, _ = draw(shape, MADE_UP * (*spacing_ijk, 1)).shape
    assert max(height, width) >= 768
    assert height / width == pytest.approx(shape[1] * spacing_ijk[1] / (shape[2] * spacing_ijk[0]), rel=0.02)


def test_a_segment_is_tinted_and_outlined_on_its_own_pixels_only():
    picture = draw(results=painted((24, 32), [((slice(6, 18), slice(8, 20)), 5)]))
    scale = picture.shape[0] // 24
    inside = picture[6 * scale : 18 * scale, 8 * scale : 20 * scale]
    assert (inside[..., 2] > 40).all()
    assert np.count_nonzero(picture) == np.count_nonzero(inside) == 12 * 12 * scale**2
    assert inside[0, 0].tolist() == [0, 0, 255]
    assert 0 < inside[6 * scale, 6 * scale, 2] < 128
    assert (draw(results=1)[..., 0] < 128).all()  # a segment that leaves the picture has no outline there


def test_strokes_are_lighter_than_their_segment_and_background_is_checkered():
    marks = [((slice(4, 8), slice(4, 20)), 1), ((slice(14, 20), slice(4, 20)), 9)]
    picture = draw(strokes=painted((24, 32), marks), background=9)
    scale = picture.shape[0] // 24
    red = picture[6 * scale, 10 * scale]
    assert red[0] == 255
    assert 80 < red[1] == red[2] < 180
    checkered = picture[14 * scale : 20 * scale, 4 * scale : 20 * scale]
    assert set(np.unique(checkered)) == {0, 255}
    assert 0.4 < (checkered == 255).mean() < 0.6


@pytest.mark.parametrize("sides", ["RAS", "PLS"])  # turned by half, and with rows and columns changed
def test_everything_lies_where_it_was_made_on_a_turned_slice(sides):
    grid = matrix(sides)
    display = pictures.SliceDisplay.radiological(grid, 0)
    for row, column in ((2, 30), (20, 3)):
        where = painted((24, 32), [((slice(row, row + 1), slice(column, column + 1)), 1)])
        expected = (np.argwhere(display.turned(where))[0] + 0.5) / display.turned(where).shape
        click, box = read_click(f"{row},{column},+1"), read_box(f"{row},{column},{row + 1},{column + 1},+1")
        for drawn in ({"results": where}, {"strokes": where}, {"marks": [click]}, {"marks": [box]}):
            picture = draw((1, 24, 32), grid, **drawn).astype(int)
            reddish = (picture[..., 0] > picture[..., 2] + 40) & (picture[..., 1] < picture[..., 0])
            assert np.argwhere(reddish).mean(axis=0) / picture.shape[:2] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("count", "panels"), [(1, 1), (3, 3), (12, 12), (40, pictures.MAX_PANELS)])
def test_several_slices_are_tiled_up_to_a_number(count, panels):
    picture = draw((count, 20, 20), PLACED, value=1.0)
    rows = np.flatnonzero(np.diff(np.concatenate([[False], picture.any(axis=(1, 2))]).astype(int)) == 1)
    assert len(rows) == -(-panels // int(np.ceil(np.sqrt(panels))))
    assert max(picture.shape[:2]) <= 1600


# The curve of g.


@pytest.mark.parametrize(
    "history", [[2.0, 1.0, 0.5, 0.0], [0.7], [0.7, np.nan, 0.2], [np.nan], [1e-12, 0.0], [3e5] * 300]
)
def test_every_history_can_be_drawn(history):
    picture = np.asarray(pictures.draw_loss_curve(history))
    assert picture.shape == (pictures.CURVE_SIZE[1], pictures.CURVE_SIZE[0], 3)
    pixels = np.argwhere((picture == (31, 119, 180)).all(axis=2))
    assert bool(len(pixels)) == bool(np.isfinite(history[-1]))
    if len(history) == 4:  # it falls from left to right
        assert pixels[pixels[:, 1].argmin(), 0] < 60
        assert pixels[pixels[:, 1].argmax(), 0] > 320
