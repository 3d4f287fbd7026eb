from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.data import validation as checks
from scribblesegment.errors import GeometryError, ImageError, PromptError


def test_an_array_is_passed_through_without_a_copy():
    image = np.zeros((3, 4), np.int16)
    assert checks.image_array(image) is image
    assert checks.numeric_array(image, name="image") is image


@pytest.mark.parametrize("value", [np.zeros((2, 2), complex), np.array([["a"]]), np.array([[None]])])
def test_values_that_are_no_real_numbers_are_refused(value):
    with pytest.raises(ImageError, match="real numbers"):
        checks.image_array(value)


def test_a_ragged_list_is_refused():
    with pytest.raises(ImageError, match="rectangular"):
        checks.numeric_array([[1, 2], [3]], name="image")


@pytest.mark.parametrize("shape", [(), (5,), (1, 2, 3, 4)])
def test_images_of_other_dimensions_are_refused_with_their_shape(shape):
    with pytest.raises(ImageError, match=rf"{len(shape)} dimensions"):
        checks.image_array(np.zeros(shape))


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ImageError, match=r"empty.*\(0, 5\)"):
        checks.image_array(np.zeros((0, 5)))


def test_the_caller_chooses_the_type_of_error():
    with pytest.raises(PromptError, match="stroke"):
        checks.image_array(np.zeros(3), name="stroke", error=PromptError)


def test_different_shapes_are_refused_with_both_shapes():
    checks.same_shape((2, 3), (2, 3), name="mask")
    with pytest.raises(GeometryError, match=r"mask.*\(2, 3\).*\(3, 2\)"):
        checks.same_shape((2, 3), (3, 2), name="mask")


def test_the_number_of_values_that_are_not_finite_is_told():
    with pytest.raises(GeometryError, match="2 values"):
        checks.finite_array([1.0, np.nan, np.inf], name="matrix")


@pytest.mark.parametrize("values", [[0.0, 1.5], [-0.1, 0.0], [0.0, np.nan], [0, 255]])
def test_values_outside_zero_to_one_are_refused(values):
    with pytest.raises(PromptError, match="expected 0 to 1"):
        checks.unit_range(np.array(values), name="stroke", error=PromptError)


def test_bool_and_empty_arrays_are_within_zero_to_one():
    checks.unit_range(np.array([True, False]), name="stroke", error=PromptError)
    checks.unit_range(np.zeros(0), name="stroke", error=PromptError)


def test_spacings_come_back_as_floats():
    assert checks.spacing_mm(np.array([1, 2]), 2) == (1.0, 2.0)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, np.nan), (1.0, np.inf), "ab"])
def test_impossible_spacings_are_refused(spacing):
    with pytest.raises(GeometryError):
        checks.spacing_mm(spacing, 2)


def test_a_matrix_is_copied():
    matrix = np.eye(4)
    checked = checks.affine_matrix(matrix)
    checked[0, 0] = 5
    assert matrix[0, 0] == 1


def test_rounding_in_the_last_row_of_a_matrix_is_removed():
    matrix = np.eye(4)
    matrix[3, 0] = 1e-17
    assert checks.affine_matrix(matrix)[3].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        (np.eye(3), r"\(3, 3\)"),
        (np.diag((1.0, 1.0, 1.0, 2.0)), "last row"),
        (np.diag((1.0, 0.0, 1.0, 1.0)), "inverted"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "inverted"),
        (np.full((4, 4), np.nan), "NaN"),
    ],
)
def test_degenerate_matrices_are_refused(matrix, complaint):
    with pytest.raises(GeometryError, match=complaint):
        checks.affine_matrix(matrix)


def test_very_small_and_very_anisotropic_voxels_are_no_degenerate_matrix():
    checks.affine_matrix(np.diag((1e-5, 1e-5, 10.0, 1.0)))
