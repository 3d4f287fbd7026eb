"""Segmented images that serve as examples (a support set), for a network that segments in context.

A set holds pairs of image and mask of one structure, from any number of volumes (MultiverSeg, section 3). Masks are
binary: the paper finds that soft ones do not work as context.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion

from scribblesegment.context.selection import THUMBNAIL_SIDE, choose, image_descriptor, slice_grid
from scribblesegment.data import validation
from scribblesegment.errors import ContextError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

CONTEXT_LIMIT = 8
"""Most entries an interactive prediction is made from; its time grows with their number."""

# Identifiers are part of file names, also where case does not count.
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_LONGEST_TEXT = 200
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, and line ends of Unicode

# Of the outline in thumbnails. Magenta, darkened: no grey is close to it, and it is equally far from black and white.
_OUTLINE_RGB = (230, 0, 230)

_LEVELS = 65535  # images are kept and compared as 16-bit numbers


@dataclass(frozen=True, eq=False)
class ContextEntry:
    """One image with the mask of the structure, and where both come from.

    Raises:
        ContextError: shapes that disagree, intensities outside [0, 1] or NaN, a mask that is not bool, an axis without
            an index, or an identifier, source or date that is not usable.
        GeometryError: a spacing that is not two positive numbers.
    """

    image: FloatArray  # (H, W) in [0, 1], normalised with the intensity range of its volume; read-only
    mask: BoolArray  # (H, W); read-only. May be empty: a slice without the structure is an example too
    spacing_mm: tuple[float, float]  # distance of rows and of columns
    # Name of the volume or image. Slices of one volume share it and different volumes should not, since a slice with
    # the same source, axis and index replaces the older one. Of an absolute path only the file's name is kept: sets
    # are passed on, and folders tell names of users and patients.
    source: str = ""
    axis: int | None = None  # of the volume's array (K = 0, J = 1, I = 2) the slice was cut along
    index: int | None = None  # position of the slice on that axis
    # Unique in its set: lowercase letters, digits, "-" and "_"
    identifier: str = field(default_factory=lambda: uuid.uuid4().hex)
    # When the mask was accepted, ISO 8601
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        image = _checked_image(self.image)
        mask = validation.image_array(self.mask, ndim=(2,), name="mask", error=ContextError)
        if mask.dtype != np.bool_:
            raise ContextError(
                f"The mask of a context entry holds {mask.dtype} values, expected bool: soft masks do not work as "
                "context. Threshold it: (mask > 0.5), or (labels == label)."
            )
        validation.same_shape(mask.shape, image.shape, name="mask", error=ContextError)
        self._store("image", image)
        self._store("mask", validation.read_only(mask, np.bool_))
        self._store("spacing_mm", validation.spacing_mm(self.spacing_mm, 2))
        slice_grid(self.shape, self.spacing_mm, THUMBNAIL_SIDE)  # refuses what cannot be put on one scale
        self._store("source", _checked_source(self.source))
        _check_axis_and_index(self.axis, self.index)
        if self.axis is not None and self.index is not None:
            axis = validation.whole_number(self.axis, name="The axis", error=ContextError)
            index = validation.whole_number(self.index, name="The index", error=ContextError)
            if axis not in (0, 1, 2) or index < 0:
                raise ContextError(
                    f"axis {axis} and index {index} do not name a slice of a volume; axes are 0, 1 and 2, and indices "
                    "count from 0."
                )
            self._store("axis", axis)
            self._store("index", index)
        if not isinstance(self.identifier, str) or not _IDENTIFIER.fullmatch(self.identifier):
            raise ContextError(
                f"{self.identifier!r} cannot identify a context entry. Use up to 64 lowercase letters, digits, '-' and "
                "'_', or leave it out to have one made."
            )
        try:
            datetime.fromisoformat(self.created.removesuffix("Z"))  # Python 3.10 does not read the Z for UTC
        except (AttributeError, TypeError, ValueError) as cause:
            raise ContextError(
                f"created is {self.created!r}, expected an ISO 8601 date and time such as 2025-01-31T12:00:00+00:00."
            ) from cause

    def _store(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        height, width = self.image.shape
        return height, width

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that are equal when image (as 16-bit numbers) and mask are, and else differ."""
        numbers = to_uint16(self.image).astype("<u2", copy=False)
        parts = repr(self.shape).encode(), numbers.tobytes(), self.mask.tobytes()
        return hashlib.sha256(b"".join(parts)).hexdigest()[:32]

    @cached_property
    def descriptor(self) -> FloatArray:
        """float32 (D,), by which images are compared; see `image_descriptor`."""
        return image_descriptor(self.image, self.spacing_mm)

    def is_slice_of(self, source: str, axis: int | None) -> bool:
        """Whether this is a slice of the volume `source` along `axis`; False for images without a source or axis."""
        return bool(self.source) and self.axis is not None and (self.source, self.axis) == (source, axis)

    def same_slice(self, other: ContextEntry) -> bool:
        """Whether both show the same slice of the same volume, so that the newer mask replaces the older one."""
        return (
            self.is_slice_of(other.source, other.axis)
            and self.index == other.index
            and self.shape == other.shape
            and all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(self.spacing_mm, other.spacing_mm, strict=True))
        )

    def on_grid(self, size: int) -> tuple[FloatArray, BoolArray]:
        """Resample image and mask to the square grid that a network sees; the latest size is remembered.

        Args:
            size: Side of the grid of `NetworkGrid` in cells.

        Returns:
            float32 (size, size) image in [0, 1] and bool (size, size) mask, both read-only. A cell belongs to the mask
            where more than half of it does; a structure too small for any such cell keeps all cells it touches.

        Raises:
            GeometryError: `size` is not a whole number above 0.
        """
        known = self.__dict__.get("_grid")
        if known is not None and known[0].shape == (size, size):
            return known[0], known[1]
        grid = slice_grid(self.shape, self.spacing_mm, size)
        image = np.clip(grid.image_to_grid(self.image), 0, 1)  # weights add up to 1 but for rounding
        mask = grid.image_to_grid(self.mask) > 0.5
        if not mask.any():
            mask = grid.scribbles_to_grid(self.mask) > 0
        resampled = validation.read_only(image, np.float32), validation.read_only(mask, np.bool_)
        self._store("_grid", resampled)
        return resampled

    def thumbnail(self, side: int = 64) -> NDArray[np.uint8]:
        """Return the image in grey with the outline of the mask, uint8 (side, side, 3).

        The image lies centred in black with its aspect in millimetres; no structure is too small to be seen.

        Raises:
            GeometryError: `side` is not a whole number above 0.
        """
        grid = slice_grid(self.shape, self.spacing_mm, side)
        grey = np.rint(255 * np.clip(grid.image_to_grid(self.image), 0, 1)).astype(np.uint8)
        mask = grid.scribbles_to_grid(self.mask) > 0
        picture = np.repeat(grey[..., None], 3, axis=2)
        picture[mask & ~binary_erosion(mask)] = _OUTLINE_RGB
        return picture


@dataclass(frozen=True, eq=False)
class ContextSet:
    """Segmented images of one structure, in the user's order; frozen, every change returns a new set.

    Raises:
        ContextError: a blank or too long label name, something else than entries, or two that exclude each other.
    """

    label_name: str  # name of the structure
    entries: tuple[ContextEntry, ...] = ()  # no two have the same identifier or show the same slice

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_name", checked_name(self.label_name, "label name"))
        object.__setattr__(self, "entries", tuple(self.entries))
        identifiers: set[str] = set()
        slices: dict[tuple[str, int, int], ContextEntry] = {}
        for entry in self.entries:
            if not isinstance(entry, ContextEntry):
                raise ContextError(f"A context set holds ContextEntry objects, not {type(entry).__name__}.")
            if entry.identifier in identifiers:
                raise ContextError(
                    f"Two context entries have the identifier {entry.identifier!r}. Leave it out, and each gets one."
                )
            identifiers.add(entry.identifier)
            if entry.source and entry.axis is not None and entry.index is not None:
                other = slices.setdefault((entry.source, entry.axis, entry.index), entry)
                if other is not entry and other.same_slice(entry):
                    raise ContextError(
                        f"Two context entries show slice {entry.index} of {entry.source!r} along axis {entry.axis}. "
                        "Use add(), which replaces the older one."
                    )

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ContextEntry]:
        return iter(self.entries)

    def get(self, identifier: str) -> ContextEntry:
        """Return the entry of this identifier, or raise ContextError."""
        return self.entries[self._position(identifier)]

    def add(self, entry: ContextEntry) -> ContextSet:
        """Add an entry at the end, or in the place of the one that shows the same slice.

        Raises:
            ContextError: another entry has its identifier.
        """
        for position, other in enumerate(self.entries):
            if other.same_slice(entry):
                return self._with((*self.entries[:position], entry, *self.entries[position + 1 :]))
        return self._with((*self.entries, entry))

    def remove(self, identifier: str) -> ContextSet:
        """Leave out the entry of this identifier, or raise ContextError."""
        position = self._position(identifier)
        return self._with(self.entries[:position] + self.entries[position + 1 :])

    def move(self, identifier: str, to: int) -> ContextSet:
        """Put the entry of this identifier at position `to`, from 0.

        Raises:
            ContextError: no entry has this identifier, or there is no such position.
        """
        entry = self.get(identifier)
        position = validation.whole_number(to, name="The position", error=ContextError)
        if not 0 <= position < len(self):
            raise ContextError(f"There is no position {position} in a set of {len(self)} entries; count from 0.")
        others = [other for other in self.entries if other is not entry]
        return self._with((*others[:position], entry, *others[position:]))

    def select(
        self,
        image: ArrayLike,
        *,
        spacing_mm: tuple[float, float],
        limit: int,
        axis: int | None = None,
        index: int | None = None,
        source: str = "",
    ) -> ContextSet:
        """Choose the entries that help most with a target: near slices and similar images first, then diverse ones.

        How they are chosen is described in `scribblesegment.context.selection`.

        Args:
            image: target, (H, W) in [0, 1], normalised with the intensity range of its volume.
            spacing_mm: its distance of rows and of columns.
            limit: most entries to choose, 0 or above.
            axis: axis the target was cut along, if it is a slice of `source`.
            index: its position on that axis.
            source: name of its volume, as in the entries.

        Returns:
            This set if it has no more than `limit` entries; else `limit` of them, the best first.

        Raises:
            ContextError: an image that is no target, a negative limit, or an axis without an index.
            GeometryError: a spacing that is not two positive numbers.
        """
        most = validation.whole_number(limit, name="The limit", error=ContextError)
        if most < 0:
            raise ContextError(f"limit is {most}; give the largest number of entries, 0 or above.")
        _check_axis_and_index(axis, index)
        row_mm, column_mm = validation.spacing_mm(spacing_mm, 2)
        target = image_descriptor(_checked_image(image), (row_mm, column_mm))
        if len(self) <= most:
            return self
        volume = _checked_source(source)
        offsets = [
            float(entry.index - index)
            if index is not None and entry.index is not None and entry.is_slice_of(volume, axis)
            else math.nan
            for entry in self.entries
        ]
        chosen = choose(self._descriptors, target, np.array(offsets), most)
        return self._with(tuple(self.entries[position] for position in chosen))

    def to_grid(self, size: int) -> tuple[FloatArray, FloatArray]:
        """Resample all entries to the network's grid, each by its own shape and spacing; see `ContextEntry.on_grid`.

        Returns:
            Images float32 (S, 1, size, size) in [0, 1] and masks float32 (S, 1, size, size), 0 or 1.

        Raises:
            GeometryError: `size` is not a whole number above 0.
        """
        side = slice_grid((1, 1), (1.0, 1.0), size).size  # refuses what is no size
        images = np.zeros((len(self), 1, side, side), np.float32)
        masks = np.zeros_like(images)
        for position, entry in enumerate(self.entries):
            images[position, 0], masks[position, 0] = entry.on_grid(side)
        return images, masks

    @cached_property
    def _descriptors(self) -> FloatArray:
        return np.stack([entry.descriptor for entry in self.entries])

    def _with(self, entries: tuple[ContextEntry, ...]) -> ContextSet:
        return dataclasses.replace(self, entries=entries)

    def _position(self, identifier: str) -> int:
        for position, entry in enumerate(self.entries):
            if entry.identifier == identifier:
                return position
        raise ContextError(f"No entry of the context set {self.label_name!r} has the identifier {identifier!r}.")


@dataclass(frozen=True, eq=False)
class SliceContext:
    """A context set, and where the slice that is predicted lies in the volumes of its entries."""

    entries: ContextSet  # frozen, so it may be handed to another thread
    source: str = ""  # name of the slice's volume, as in the entries; empty if it is no slice along one of its axes
    axis: int | None = None  # of the array the slice was cut along
    index: int | None = None  # its position on that axis

    def chosen(self, image: ArrayLike, *, spacing_mm: tuple[float, float], limit: int = CONTEXT_LIMIT) -> ContextSet:
        """Choose the entries the network is given, see `ContextSet.select`.

        An entry of the slice itself is left out: the network would repeat what the user is about to correct.

        Args:
            image: the slice, (H, W) in [0, 1], normalised with the intensity range of its volume.
            spacing_mm: its distance of rows and of columns.
            limit: most entries to choose.

        Returns:
            The chosen entries in the order of the set, so that equal choices for two slices are seen to be equal.

        Raises:
            ContextError: an image or a position that is none.
        """
        offered = self.entries
        itself = [e for e in offered if e.is_slice_of(self.source, self.axis) and e.index == self.index]
        for entry in itself:
            offered = offered.remove(entry.identifier)
        if len(offered) <= limit:
            return offered
        selected = offered.select(
            image, spacing_mm=spacing_mm, limit=limit, axis=self.axis, index=self.index, source=self.source
        )
        taken = {entry.identifier for entry in selected}
        return ContextSet(offered.label_name, tuple(entry for entry in offered if entry.identifier in taken))


def same_entries(first: ContextSet | None, second: ContextSet | None) -> bool:
    """Whether two sets hold the very same entries in the same order; None is an empty set."""
    one, other = first or (), second or ()
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def to_uint16(image: FloatArray) -> NDArray[np.uint16]:
    """Turn intensities in [0, 1] into 16-bit numbers; `from_uint16` of the result gives the same numbers again."""
    return np.rint(image * np.float32(_LEVELS)).astype(np.uint16)


def from_uint16(numbers: NDArray[np.uint16]) -> FloatArray:
    """Turn 16-bit numbers into intensities in [0, 1]."""
    return numbers.astype(np.float32) / np.float32(_LEVELS)


def checked_name(name: str, what: str) -> str:
    """Return a name a user may give, without spaces around it.

    Raises:
        ContextError: not a text, blank, longer than 200 characters, or with control characters in it.
    """
    if not isinstance(name, str) or not name.strip():
        raise ContextError(f"The {what} is {name!r}. Give it a text that is not blank.")
    return _plain_text(name.strip(), f"The {what}")


def _checked_source(source: str) -> str:
    if not isinstance(source, str):
        raise ContextError(f"The source is {source!r}, expected the name of the volume, or an empty text.")
    path = PureWindowsPath(source)  # takes both kinds of separators
    if path.name != source and (path.anchor or source.startswith(("~", "file:"))):
        return _checked_source(path.name)  # which may name a drive in turn, and is to stay the same when read again
    return _plain_text(source, "The source, the name of a volume,")


def _plain_text(text: str, what: str) -> str:
    if len(text) > _LONGEST_TEXT or any(unicodedata.category(character) in _NO_TEXT for character in text):
        raise ContextError(
            f"{what} {text[:40]!r} has {len(text)} characters. Use at most {_LONGEST_TEXT}, without line breaks and "
            "control characters."
        )
    return text


def _checked_image(image: ArrayLike) -> FloatArray:
    values = validation.image_array(image, ndim=(2,), name="image", error=ContextError)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # written so that NaN, which fails every comparison, is caught as well
        raise ContextError(
            f"The image has values from {low} to {high}, expected 0 to 1. Normalise it with the intensity range of its "
            "volume: IntensityRange.estimate(volume).normalize(image)."
        )
    return validation.read_only(values, np.float32)


def _check_axis_and_index(axis: int | None, index: int | None) -> None:
    if (axis is None) != (index is None):
        raise ContextError(f"axis is {axis!r} and index is {index!r}; a slice has both, another image has neither.")
