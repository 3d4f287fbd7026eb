"""Checks of arrays and of config classes at the doors of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from scribblesegment.data import validation
from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError


def test_an_array_is_passed_through_without_a_copy_and_a_matrix_is_copied():
    image, matrix = np.zeros((3, 4), np.int16), np.eye(4)
    assert validation.image_array(image) is image
    matrix[3, 0] = 1e-17  # rounding, which is removed
    checked = validation.affine_matrix(matrix)
    assert checked[3].tolist() == [0, 0, 0, 1]
    checked[0, 0] = 5
    assert matrix[0, 0] == 1
    assert validation.spacing_mm(np.array([1, 2]), 2) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *((value, "real numbers") for value in (np.zeros((2, 2), complex), np.array([["a"]]), np.array([[None]]))),
        ([[1, 2], [3]], "rectangular"),
        *((np.zeros(shape), f"{len(shape)} dimensions") for shape in ((), (5,), (1, 2, 3, 4))),
        (np.zeros((0, 5)), r"empty.*\(0, 5\)"),
    ],
)
def test_what_is_no_image_is_refused_with_the_error_of_the_caller(value, words):
    for error in (ImageError, PromptError):
        with pytest.raises(error, match=f"(stroke.*)?{words}"):
            validation.image_array(value, name="stroke", error=error)


def test_different_shapes_and_values_that_are_not_finite_are_told():
    validation.same_shape((2, 3), (2, 3), name="mask")
    with pytest.raises(GeometryError, match=r"mask.*\(2, 3\).*\(3, 2\)"):
        validation.same_shape((2, 3), (3, 2), name="mask")
    with pytest.raises(GeometryError, match="2 values"):
        validation.finite_array([1.0, np.nan, np.inf], name="matrix")


def test_values_outside_zero_to_one_are_refused():
    for values in ([0.0, 1.5], [-0.1, 0.0], [0.0, np.nan], [0, 255]):
        with pytest.raises(PromptError, match="expected 0 to 1"):
            validation.unit_range(np.array(values), name="stroke", error=PromptError)
    for fine in (np.array([True, False]), np.zeros(0), np.array([0, 1])):
        validation.unit_range(fine, name="stroke", error=PromptError)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, np.nan), (1.0, np.inf), "ab"])
def test_impossible_spacings_are_refused(spacing):
    with pytest.raises(GeometryError):
        validation.spacing_mm(spacing, 2)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3), r"\(3, 3\)"),
        (np.diag((1.0, 1.0, 1.0, 2.0)), "last row"),
        (np.diag((1.0, 0.0, 1.0, 1.0)), "inverted"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "inverted"),
        (np.full((4, 4), np.nan), "NaN"),
    ],
)
def test_degenerate_matrices_are_refused_and_anisotropic_ones_are_none(matrix, words):
    validation.affine_matrix(np.diag((1e-5, 1e-5, 10.0, 1.0)))
    with pytest.raises(GeometryError, match=words):
        validation.affine_matrix(matrix)


def test_an_array_is_shared_only_if_nobody_can_change_it():
    own = np.zeros(3, np.float32)
    assert validation.read_only(own, np.float32) is not own
    own.flags.writeable = False
    assert validation.read_only(own, np.float32) is own
    for other in (own.astype(np.float64), own[:], np.zeros((2, 3), np.float32).T):
        kept = validation.read_only(other, np.float32)
        assert not np.shares_memory(kept, other)
        assert not kept.flags.writeable
        assert kept.flags.c_contiguous


@dataclass(frozen=True)
class Config:
    weight: Annotated[float, Range(0, 1)] = 0.5
    share: Annotated[float, Range(0, 1, exclusive=True)] = 0.5
    count: Annotated[int, Range(1)] = 1
    limit: Annotated[float | None, Range(high=9)] = None
    name: str = "x"

    def __post_init__(self):
        check_ranges(self)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight": -0.1}, "weight is -0.1; give a finite number from 0 to 1"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": "1"}, "weight is '1'"),
        ({"share": 0.0}, "share is 0.0; give a finite number above 0 below 1"),
        ({"share": 1.0}, "share is 1.0"),
        ({"count": 0}, "count is 0; give a whole number from 1"),
        ({"count": 1.0}, "count is 1.0"),
        ({"count": True}, "count is True"),
        ({"count": None}, "count is None"),
        ({"limit": 10}, "limit is 10; give a finite number to 9"),
    ],
)
def test_fields_of_a_config_outside_their_ranges_are_refused(fields, words):
    Config(weight=0, share=0.01, count=np.int64(7), limit=9)
    Config(weight=np.float32(1))
    with pytest.raises(ConfigError, match=words):
        Config(**fields)
