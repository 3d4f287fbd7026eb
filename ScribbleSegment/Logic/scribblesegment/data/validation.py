"""Checks at the doors of the package: of arrays from outside, and of the fields of config classes.

Each function returns its argument as a numpy array, or raises the package's error with the values seen and the remedy.
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import operator
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from scribblesegment.errors import ConfigError, GeometryError, ImageError, ScribbleSegmentError

NUMERIC_KINDS = "buif"  # numpy's codes for bool, unsigned, signed and floating point

# A 3x3 matrix whose volume is this small a part of the box its columns span cannot be inverted with any use.
_DEGENERATE = 1e-6


def numeric_array(value: ArrayLike, *, name: str, error: type[ScribbleSegmentError] = ImageError) -> NDArray[Any]:
    """Return `value` as an array of real numbers (bool, integer or floating point), without copying an array."""
    try:
        array = np.asarray(value)
    except ValueError as cause:
        raise error(f"{name} is not a rectangular array: {cause}. Pass a numpy array of numbers.") from cause
    if array.dtype.kind not in NUMERIC_KINDS:
        raise error(f"{name} holds {array.dtype} values. Pass real numbers: bool, integer or floating point.")
    return array


def image_array(
    value: ArrayLike,
    *,
    ndim: Sequence[int] = (2, 3),
    name: str = "image",
    error: type[ScribbleSegmentError] = ImageError,
) -> NDArray[Any]:
    """Return `value` as a non-empty scalar image with one of the dimensions `ndim`, without copying an array."""
    array = numeric_array(value, name=name, error=error)
    if array.ndim not in ndim:
        wanted = " or ".join(f"{n}D" for n in ndim)
        raise error(
            f"{name} has {array.ndim} dimensions (shape {array.shape}), expected {wanted}. Pass one channel and one "
            "time point; a single slice becomes a volume with array[None]."
        )
    if array.size == 0:
        raise error(f"{name} is empty (shape {array.shape}). Every side needs at least one pixel.")
    return array


def same_shape(
    shape: Sequence[int],
    expected: Sequence[int],
    *,
    name: str,
    reference: str = "the image",
    error: type[ScribbleSegmentError] = GeometryError,
) -> None:
    """Raise `error` unless both shapes are equal."""
    if tuple(shape) != tuple(expected):
        raise error(
            f"{name} has shape {tuple(shape)}, {reference} has {tuple(expected)}. "
            f"Draw or resample it on the grid of {reference}."
        )


def finite_array(
    value: ArrayLike, *, name: str, error: type[ScribbleSegmentError] = GeometryError
) -> NDArray[np.float64]:
    """Return `value` as a new float64 array, all of it finite."""
    array = numeric_array(value, name=name, error=error).astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        raise error(f"{name} holds {int(bad.sum())} values that are NaN or infinite. Replace them by finite numbers.")
    return array


def unit_range(array: NDArray[Any], *, name: str, error: type[ScribbleSegmentError]) -> None:
    """Raise `error` unless every value lies in [0, 1]; NaN does not."""
    if array.size == 0 or array.dtype.kind == "b":
        return
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # written so that NaN, which fails every comparison, is caught as well
        raise error(
            f"{name} has values from {low} to {high}, expected 0 to 1. Pass a bool mask (mask > 0) or divide by the "
            "largest value."
        )


def whole_number(value: object, *, name: str, error: type[ScribbleSegmentError] = GeometryError) -> int:
    """Return a whole number, of Python or numpy, as an int; True and False are none."""
    try:
        return _index(value)
    except TypeError as cause:
        raise error(f"{name} is {value!r}; give a whole number.") from cause


def whole_numbers(
    value: Iterable[object],
    *counts: int,
    least: int = 0,
    name: str,
    error: type[ScribbleSegmentError] = GeometryError,
) -> tuple[int, ...]:
    """Return whole numbers as a tuple; there are as many as one of `counts`, and none is below `least`."""
    numbers: tuple[int, ...] = ()
    with contextlib.suppress(TypeError):
        numbers = tuple(map(_index, value))
    if len(numbers) not in counts or min(numbers) < least:
        wanted = f"{' or '.join(map(str, counts))} whole number{'s' * (max(counts) > 1)}"
        raise error(f"{name} is {value!r}; give {wanted}, each at least {least}.")
    return numbers


def _index(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("a bool is no number")
    return operator.index(value)


def spacing_mm(value: ArrayLike, count: int, *, name: str = "spacing_mm") -> tuple[float, ...]:
    """Return `count` spacings as floats in millimetres, each finite and above zero; else a GeometryError."""
    array = finite_array(value, name=name)
    if array.shape != (count,):
        raise GeometryError(f"{name} has shape {array.shape}, expected {count} values in millimetres, one per axis.")
    if (array <= 0).any():
        raise GeometryError(f"{name} is {tuple(array.tolist())}; every spacing must be above zero millimetres.")
    return tuple(array.tolist())


def affine_matrix(value: ArrayLike, *, name: str = "ijk_to_ras") -> NDArray[np.float64]:
    """Return a new 4x4 float64 matrix that maps homogeneous voxel indices to millimetres and can be inverted.

    Raises:
        GeometryError: Another shape, values that are not finite, a last row other than (0, 0, 0, 1), or columns that
            are zero or lie in one plane.
    """
    matrix = finite_array(value, name=name)
    if matrix.shape != (4, 4):
        raise GeometryError(f"{name} has shape {matrix.shape}, expected (4, 4).")
    if (np.abs(matrix[3] - (0.0, 0.0, 0.0, 1.0)) > 1e-9).any():  # products of inverses leave 1e-17 behind
        raise GeometryError(f"The last row of {name} is {matrix[3].tolist()}, expected [0, 0, 0, 1].")
    matrix[3] = (0.0, 0.0, 0.0, 1.0)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < _DEGENERATE:
        raise GeometryError(
            f"{name} cannot be inverted: its columns are {matrix[:3, :3].T.tolist()}. "
            "Each axis needs a length above zero and a direction of its own."
        )
    return matrix


def read_only(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Return a read-only array of its own memory; one that already is such is shared, which keeps edits cheap."""
    if array.dtype == dtype and array.flags.owndata and not array.flags.writeable and array.flags.c_contiguous:
        return array
    copy = np.array(array, dtype=dtype, order="C", copy=True)
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True)
class Range:
    """Limits of a number in a config class: ``weight: Annotated[float, Range(0, 1)] = 0.5``."""

    low: float = -math.inf
    high: float = math.inf
    exclusive: bool = False  # whether the limits themselves are outside

    def __contains__(self, value: float) -> bool:
        return self.low < value < self.high if self.exclusive else self.low <= value <= self.high

    def __str__(self) -> str:
        lower = "above" if self.exclusive else "from"
        parts = [f"{lower} {self.low:g}"] if self.low > -math.inf else []
        upper = "below" if self.exclusive else "to"
        return " ".join([*parts, f"{upper} {self.high:g}"] if self.high < math.inf else parts)


def check_ranges(config: Any) -> None:
    """Check the fields of a dataclass that are annotated with a `Range`; called from its ``__post_init__``.

    A field of type int takes whole numbers only; None passes where the annotation allows it.

    Raises:
        ConfigError: A field that is no finite number or outside its range.
    """
    for name, (kind, limits, optional) in _ranges(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        if value is None and optional:
            continue
        whole = kind is int
        is_number = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value not in limits:
            raise ConfigError(f"{name} is {value!r}; give a {'whole' if whole else 'finite'} number {limits}.")


@functools.cache
def _ranges(config: type) -> dict[str, tuple[type, Range, bool]]:
    found: dict[str, tuple[type, Range, bool]] = {}
    for name, hint in typing.get_type_hints(config, include_extras=True).items():
        if typing.get_origin(hint) is Annotated:
            kinds = typing.get_args(typing.get_args(hint)[0]) or (typing.get_args(hint)[0],)
            for limits in hint.__metadata__:
                if isinstance(limits, Range):
                    found[name] = (int if int in kinds else float, limits, type(None) in kinds)
    return found
