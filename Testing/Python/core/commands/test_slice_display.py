from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scribblesegment.commands.slice_display import SliceDisplay, has_known_orientation

SCREEN = {
    "axial": ((-1, 0, 0), (0, -1, 0)),
    "coronal": ((-1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, -1, 0), (0, 0, -1)),
}


def matrix(i: str, j: str, k: str) -> np.ndarray:
    """Matrix whose indices grow towards the given sides, such as "L", "P", "S"."""
    toward = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = 0
    for column, side in enumerate((i, j, k)):
        row, sign = toward[side]
        ijk_to_ras[row, column] = sign * (1 + column)
    return ijk_to_ras


@pytest.mark.parametrize(
    ("sides", "axis", "plane", "left_right_top_bottom"),
    [
        ("LPS", 0, "axial", "RLAP"),
        ("RAS", 0, "axial", "RLAP"),
        ("LPS", 1, "coronal", "RLSI"),
        ("RAI", 1, "coronal", "RLSI"),
        ("LPS", 2, "sagittal", "APSI"),
        ("PSR", 0, "sagittal", "APSI"),
        ("LIA", 0, "coronal", "RLSI"),
        ("ALS", 0, "axial", "RLAP"),
    ],
)
def test_slices_lie_as_radiologists_expect(sides, axis, plane, left_right_top_bottom):
    display = SliceDisplay.radiological(matrix(*sides), axis)
    assert display.plane == plane
    assert display.left + display.right + display.top + display.bottom == left_right_top_bottom


def test_an_image_as_scanners_store_it_is_not_turned():
    image = np.arange(6).reshape(2, 3)
    assert np.array_equal(SliceDisplay.radiological(matrix("L", "P", "S"), 0).turned(image), image)


def test_a_ras_volume_is_turned_by_half_in_axial_slices():
    image = np.arange(6).reshape(2, 3)
    assert np.array_equal(SliceDisplay.radiological(matrix("R", "A", "S"), 0).turned(image), image[::-1, ::-1])


def test_an_oblique_slice_gets_two_letters():
    ijk_to_ras = matrix("L", "P", "S")
    tilt = Rotation.from_euler("x", 30, degrees=True).as_matrix()
    ijk_to_ras[:3, :3] = tilt @ ijk_to_ras[:3, :3]
    display = SliceDisplay.radiological(ijk_to_ras, 0)
    assert (display.left, display.right) == ("R", "L")
    assert {display.top, display.bottom} == {"AS", "PI"}


@given(
    rotation=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 10)] * 3),
    mirrored=st.booleans(),
    axis=st.integers(0, 2),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    data=st.data(),
)
def test_any_volume_is_displayed_upright_and_points_follow_pixels(rotation, spacing, mirrored, axis, shape, data):
    ijk_to_ras = np.eye(4)
    directions = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
    ijk_to_ras[:3, :3] = directions * spacing * ((-1 if mirrored else 1), 1, 1)
    display = SliceDisplay.radiological(ijk_to_ras, axis)

    image = np.arange(shape[0] * shape[1]).reshape(shape)
    point = tuple(data.draw(st.integers(0, side - 1)) for side in shape)
    row, column = display.turned_point(point, shape)
    assert display.turned(image)[int(row), int(column)] == image[point]
    assert display.turned(image).shape == display.turned_pair(shape)

    kji = [other for other in range(3) if other != axis]
    rows, columns = (directions[:, 2 - other] * (-1 if mirrored and other == 2 else 1) for other in kji)
    if display.transpose:
        rows, columns = columns, rows
    right, down = (np.array(direction) for direction in SCREEN[display.plane])
    assert columns @ right * (-1 if display.flip_columns else 1) >= 0
    assert rows @ down * (-1 if display.flip_rows else 1) >= 0


@pytest.mark.parametrize(
    ("sides", "origin", "slices", "known"),
    [("LPS", 0, 1, False), ("LPS", 5, 1, True), ("RAS", 0, 1, True), ("LPS", 0, 2, True)],
)
def test_a_made_up_orientation_is_told_from_a_real_one(sides, origin, slices, known):
    ijk_to_ras = matrix(*sides)
    ijk_to_ras[0, 3] = origin
    assert has_known_orientation(ijk_to_ras, (slices, 5, 5)) is known
