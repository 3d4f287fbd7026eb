"""What a network file does not say about itself: labels, spacing, intensities. Read from a JSON file beside it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from torch import Tensor, nn

from scribblesegment.data import validation
from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.data.preprocessing import GridAxis
from scribblesegment.data.volume import Volume
from scribblesegment.errors import (
    ConfigError,
    FileFormatError,
    GeometryError,
    MissingPackageError,
    NetworkError,
    PromptError,
)
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling

IntArray = NDArray[np.int64]

DoubleArray = NDArray[np.float64]


# Cells; positions closer than this to a border count as on it, so that rounding errors decide nothing.
_TIE = 1e-6


def scaling(scales: ArrayLike, offsets: ArrayLike) -> DoubleArray:
    """Build the matrix of ``cell = scale * pixel + offset`` for each axis, (n + 1, n + 1), for homogeneous indices."""
    factors = np.asarray(scales, np.float64)
    matrix = np.diag([*factors, 1.0])
    matrix[:-1, -1] = offsets
    return matrix


def transfer_scribbles(
    scribbles: LabelScribbles, matrix: DoubleArray, shape: Sequence[int], *, slack: float = 0.0
) -> LabelScribbles:
    """Mark the cells of a grid that the marked pixels of an image lie in.

    A cell belongs to the pixels whose centres it holds and, where the grid is finer than the image, to the pixel that
    holds its own centre. Where these ask for different labels, most of them decide, and between equally many the label
    that has fewer marks in the image. A stroke that would lose all of its cells to others keeps the one it covers most
    of, and the smaller stroke has precedence: no correction vanishes because the grid is coarse.

    Args:
        scribbles: On the image.
        matrix: (n + 1, n + 1) from homogeneous indices of the image to those of the grid; centres are whole numbers.
        shape: Of the grid.
        slack: Pixels whose centres lie so little outside of the grid, in cells, still belong to its outermost cells.

    Returns:
        Scribbles on the grid. Marks on what it does not cover, which the network never sees, are left out.
    """
    labels = np.full(tuple(shape), UNMARKED, np.int16)
    pixels = np.argwhere(scribbles.marked)
    sides = np.asarray(labels.shape)
    exact = pixels @ matrix[:-1, :-1].T + matrix[:-1, -1]
    border = 0.5 + slack + _TIE
    near = ((exact > -border) & (exact < sides - 1 + border)).all(axis=1)
    pixels, exact = pixels[near], exact[near]
    if not len(pixels):
        return LabelScribbles(labels)
    cells = np.clip(_nearest(exact), 0, sides - 1)
    owners, voted = _votes(pixels, cells, matrix, sides)
    asked = scribbles.labels[tuple(pixels.T)].astype(np.int64)
    flat = labels.reshape(-1)
    _elect(flat, voted, asked[owners], scribbles)
    own = np.ravel_multi_index(tuple(cells.T), labels.shape)
    if (flat[own] != asked).any():
        _rescue(flat, own, asked, _strokes(scribbles, pixels))
    return LabelScribbles(labels)


def _nearest(positions: DoubleArray) -> IntArray:
    return np.floor(positions + 0.5 + _TIE).astype(np.int64)


def _votes(pixels: IntArray, cells: IntArray, matrix: DoubleArray, sides: IntArray) -> tuple[IntArray, IntArray]:
    """List which pixel speaks for which cell: numbers within `pixels`, and flat cell indices."""
    everyone = np.arange(len(pixels))
    owners, voted = [everyone], [np.ravel_multi_index(tuple(cells.T), tuple(sides))]
    # How far, in cells, a pixel reaches from its centre.
    reach = np.ceil(np.abs(matrix[:-1, :-1]).sum(axis=1) / 2 - 0.5 - _TIE).clip(0).astype(np.int64)
    inverse = np.linalg.inv(matrix)
    for step in itertools.product(*(range(-far, far + 1) for far in reach.tolist())):
        if not any(step):
            continue
        others = cells + np.asarray(step)
        back = _nearest(others @ inverse[:-1, :-1].T + inverse[:-1, -1])
        own = (back == pixels).all(axis=1) & (others >= 0).all(axis=1) & (others < sides).all(axis=1)
        owners.append(everyone[own])
        voted.append(np.ravel_multi_index(tuple(others[own].T), tuple(sides)))
    return np.concatenate(owners), np.concatenate(voted)


def _elect(flat: NDArray[np.int16], voted: IntArray, asked: IntArray, scribbles: LabelScribbles) -> None:
    """Give every cell the label that most of its pixels ask for."""
    values = np.asarray(scribbles.values())
    marks = np.array([np.count_nonzero(scribbles.labels == value) for value in values])
    numbers = np.searchsorted(values, asked)
    pairs, counts = np.unique(voted * len(values) + numbers, return_counts=True)
    cell, number = np.divmod(pairs, len(values))
    # The last of equal cells wins the assignment: few votes first, and among equals the label with many marks.
    order = np.lexsort((number, -marks[number], counts, cell))
    flat[cell[order]] = values[number[order]]


def _strokes(scribbles: LabelScribbles, pixels: IntArray) -> IntArray:
    """Number the connected pieces of each label, from 1: for each of the marked pixels (n, ndim), the number of its."""
    first, last = pixels.min(axis=0), pixels.max(axis=0)
    marked = scribbles.labels[tuple(slice(start, stop + 1) for start, stop in zip(first, last, strict=True))]
    pieces = np.zeros(marked.shape, np.int64)
    everywhere = np.ones((3,) * marked.ndim)
    for value in scribbles.values():
        found, _ = ndimage.label(marked == value, everywhere)
        pieces[found > 0] = found[found > 0] + pieces.max()
    return np.asarray(pieces[tuple((pixels - first).T)])


def _rescue(flat: NDArray[np.int16], cells: IntArray, asked: IntArray, strokes: IntArray) -> None:
    """Give strokes that lost every cell the one they cover most of; small strokes last, so that they keep it."""
    sizes = np.bincount(strokes)
    kept = np.bincount(strokes[flat[cells] == asked], minlength=len(sizes)) > 0
    lost = np.flatnonzero((sizes > 0) & ~kept)
    for stroke in lost[np.argsort(-sizes[lost], kind="stable")]:
        members = strokes == stroke
        covered, counts = np.unique(cells[members], return_counts=True)
        flat[covered[counts.argmax()]] = asked[members][0]


FloatArray = NDArray[np.float32]


# Class logit of every structure where a network does not look, against 0 for the background: beyond doubt but finite.
OUTSIDE_LOGIT = -20.0


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image on a network's grid, with the way there for corrections and back for logits.

    Attributes:
        tensor: float32 (C, *grid), the whole image as the network takes it, normalised.
        spacing_mm: Size of a cell of the grid along its axes.
        tiling: Windows of the grid that the network sees at once.
        shape: Of the image, (K, J, I), or of the slice, (H, W).
        matrix: (n + 1, n + 1) from homogeneous indices of the image to those of the grid.
        way_back: Maps class logits (labels, *grid) to (labels, *shape).
        slack: See `transfer_scribbles`.
    """

    tensor: Tensor
    spacing_mm: tuple[float, ...]
    tiling: Tiling
    shape: tuple[int, ...]
    matrix: DoubleArray
    way_back: Callable[[FloatArray], NDArray[Any]]
    slack: float = 0.0

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the grid."""
        return tuple(self.tensor.shape[1:])

    def to_grid(self, scribbles: LabelScribbles) -> LabelScribbles:
        """Bring corrections to the grid; see `transfer_scribbles`.

        Raises:
            PromptError: They are for another shape than the image's.
        """
        validation.same_shape(scribbles.shape, self.shape, name="The corrections", error=PromptError)
        return transfer_scribbles(scribbles, self.matrix, self.grid, slack=self.slack)

    def to_image(self, logits: NDArray[Any]) -> FloatArray:
        """Bring class logits back to the image, by the network's own way where it has one.

        Args:
            logits: (labels, *grid), the background first; more labels than the network's own are welcome.

        Returns:
            float32 (labels, *shape).

        Raises:
            GeometryError: They are for another shape than the grid's.
        """
        values = np.asarray(logits, np.float32)
        validation.same_shape(values.shape[1:], self.grid, name="The logits", reference="the grid", error=GeometryError)
        return np.ascontiguousarray(self.way_back(values), np.float32)


class RefinableNetwork(Protocol):
    """A network with what belongs to it: its labels, and how images get to it and results back.

    Attributes:
        name: What it is called.
        licence: Licence of the parameters; empty where unknown.
        module: Maps (B, C, *patch) to its output, in evaluation mode.
        ndim: 2 if it sees slices, 3 if it sees volumes.
        labels: Names; the index is the label, the background the first.
        output: How to read what the module returns.
        takes_scribbles: Whether its input holds what was drawn, so that it is prepared anew in every round.
    """

    name: str
    licence: str
    module: nn.Module
    ndim: int
    labels: tuple[str, ...]
    output: Output
    takes_scribbles: bool

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Bring an image to the network's grid.

        Args:
            image: The volume; a 2D image has one slice.
            axis: Axis of the array that a 2D network does not see.
            index: Which slice alone; None for all of them.
            scribbles: What was drawn, for networks that take scribbles as input; of the shape of the image, or of the
                slice.

        Raises:
            NetworkError: A slice is asked of a 3D network.
            GeometryError: No such axis or slice.
        """
        ...


def outside_logits(shape: Sequence[int]) -> FloatArray:
    """Make class logits (labels, ...) that say background everywhere."""
    logits = np.full(tuple(shape), OUTSIDE_LOGIT, np.float32)
    logits[0] = 0.0
    return logits


def require_slices(ndim: int, index: int | None, name: str) -> None:
    """Refuse one slice for a network that sees volumes.

    Raises:
        NetworkError: As said.
    """
    if ndim == 3 and index is not None:
        raise NetworkError(
            f"The network {name} sees volumes, so that it cannot be run on slice {index} alone. Correct the volume."
        )


def copies_of_image(channels: int, ndim: int, name: str) -> int:
    """Tell how often an image of one channel is repeated: 3 times for a 2D network of colour images, else once.

    Raises:
        NetworkError: The network takes several images, such as several MRI sequences.
    """
    if channels == 1 or (channels == 3 and ndim == 2):
        return channels
    raise NetworkError(
        f"The network {name} takes {channels} channels, such as several sequences of one patient; an image here has "
        "one. Only networks of one channel, and 2D networks of red, green and blue, can be corrected."
    )


@dataclass(frozen=True)
class ImageGrid:
    """The map between an image and a grid of another spacing; both have the same outer borders.

    Attributes:
        axes: Each axis of the image laid out on one of the grid.
        spacing_mm: Size of a cell along each axis.
    """

    axes: tuple[GridAxis, ...]
    spacing_mm: tuple[float, ...]

    @classmethod
    def lay_out(cls, shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float | None]) -> ImageGrid:
        """Find the grid whose spacing is nearest to the one that is wanted.

        Args:
            shape: Of the image.
            spacing_mm: Of the image.
            wanted_mm: Of the grid; None leaves an axis as it is.
        """
        axes, cells_mm = [], []
        for side, mm, wanted in zip(shape, spacing_mm, wanted_mm, strict=True):
            cells = side if wanted is None else max(1, round(side * mm / wanted))
            axes.append(GridAxis(side, cells / side, 0, cells))
            cells_mm.append(mm * side / cells)
        return cls(tuple(axes), tuple(cells_mm))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        return tuple(axis.stop for axis in self.axes)

    @property
    def matrix(self) -> DoubleArray:
        """(n + 1, n + 1) from homogeneous indices of the image to those of the grid."""
        scales = [axis.scale for axis in self.axes]
        return scaling(scales, [axis.grid_centre - axis.centre * axis.scale for axis in self.axes])

    def image_to_grid(self, image: FloatArray) -> FloatArray:
        """Resample an image (*shape) to the grid, smoothed where the grid is coarser."""
        return self._resampled(image, [axis.image_matrix if axis.scale != 1 else None for axis in self.axes])

    def logits_from_grid(self, logits: FloatArray) -> FloatArray:
        """Resample logits (labels, *grid) to the image's pixels by linear interpolation."""
        return self._resampled(logits, [axis.from_grid_matrix if axis.scale != 1 else None for axis in self.axes])

    @staticmethod
    def _resampled(values: FloatArray, matrices: Sequence[csr_array | None]) -> FloatArray:
        """Apply a matrix to each of the last axes."""
        for axis, matrix in enumerate(matrices, start=values.ndim - len(matrices)):
            if matrix is None:
                continue
            first = np.moveaxis(values, axis, 0)
            product = matrix @ np.ascontiguousarray(first).reshape(len(first), -1)
            values = np.moveaxis(product.reshape(-1, *first.shape[1:]), 0, axis)
        return np.ascontiguousarray(values, np.float32)


NORMALISATIONS = ("robust", "zscore", "none")


@dataclass(frozen=True)
class NetworkSettings:
    """How a network wants its images, and what its output means.

    Attributes:
        name: What it is called; the file's name by default.
        labels: Names of its labels, the background first; found by a trial run, and numbered, by default.
        ndim: 2 if it sees slices, 3 if it sees volumes; found from its parameters by default.
        channels: Its input channels; found from its parameters by default.
        spacing_mm: Size of pixels it was trained with: (row, column) or (K, J, I). Images are resampled to it. None
            leaves them as they are.
        normalise: Intensities: "robust" maps the volume's 0.5 and 99.5 percentiles to 0 and 1, "zscore" subtracts the
            volume's mean and divides by its standard deviation, "none" changes nothing, and two numbers (low, high) are
            mapped to 0 and 1, with what is beyond clipped.
        patch_size: Pixels it sees at once; by default a whole slice, and of a volume at most 128 along each axis.
        overlap: Least overlap of neighbouring patches, a fraction of their side.
        multiple_of: Without `patch_size`, inputs are padded with zeros to a multiple of this.
        activation: "softmax" for labels that exclude each other, "sigmoid" for one channel a structure, no background.
        probabilities: Whether it already applies its activation; None finds out.
        output: Index or key of the logits if it returns several outputs; None for the first.
        function: What makes it, "file.py:function" or "package.module:function"; for files that hold parameters only.
            The path is relative to the file these settings belong to.
        weights: File of its parameters, for networks that a function makes; relative likewise.
        licence: Licence of the parameters.

    Raises:
        ConfigError: A value of another type, or out of range.
    """

    name: str = ""
    labels: tuple[str, ...] = ()
    ndim: int | None = None
    channels: int | None = None
    spacing_mm: tuple[float, ...] | None = None
    normalise: str | tuple[float, float] = "robust"
    patch_size: tuple[int, ...] | None = None
    overlap: float = 0.5
    multiple_of: int = 16
    activation: str = "softmax"
    probabilities: bool | None = None
    output: int | str | None = None
    function: str = ""
    weights: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        """Check every value; they may come from a file that people write."""
        for name in ("name", "function", "weights", "licence"):
            _require(isinstance(getattr(self, name), str), name, getattr(self, name), "a text")
        labels = _tuple(self.labels)
        named = labels is not None and all(isinstance(entry, str) and entry.strip() for entry in labels)
        _require(named and len(labels or ()) != 1, "labels", self.labels, "a list of at least two names")
        object.__setattr__(self, "labels", labels)
        _require(self.ndim in (None, 2, 3), "ndim", self.ndim, "2 or 3")
        _require(self.channels is None or _whole(self.channels), "channels", self.channels, "a whole number from 1")
        _require(_whole(self.multiple_of), "multiple_of", self.multiple_of, "a whole number from 1")
        for name, fits in (("spacing_mm", _positive), ("patch_size", _whole)):
            value = getattr(self, name)
            sides = None if value is None else _tuple(value)
            wanted = (2, 3) if self.ndim is None else (self.ndim,)
            good = value is None or (sides is not None and len(sides) in wanted and all(map(fits, sides)))
            _require(good, name, value, f"{' or '.join(map(str, wanted))} numbers above zero, one for each axis")
            object.__setattr__(self, name, sides)
        _require(_number(self.overlap) and 0 <= self.overlap < 1, "overlap", self.overlap, "from 0 to below 1")
        _require(self.probabilities in (None, True, False), "probabilities", self.probabilities, "true or false")
        object.__setattr__(self, "normalise", _normalisation(self.normalise))
        self.reading()

    def reading(self) -> Output:
        """Give how the network's output is read.

        Raises:
            ConfigError: An unknown activation.
        """
        return Output(self.activation, self.probabilities, self.output)

    def replaced(self, **changes: Any) -> NetworkSettings:
        """Return these settings with some of them changed.

        Raises:
            ConfigError: An unknown setting, or a value out of range.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise ConfigError(f"There are no network settings {', '.join(unknown)}; known are {', '.join(known)}.")
        return dataclasses.replace(self, **changes)


def settings_path(source: Path) -> Path:
    """Tell where the settings of a network file lie: beside it, its name with .json added."""
    return source.with_name(source.name + ".json")


def read_settings(source: Path) -> NetworkSettings:
    """Read the settings of a network file; defaults where there is no file of them.

    Raises:
        FileFormatError: The file is there and cannot be read.
        ConfigError: It holds an unknown setting, or a value out of range; the message names the file.
    """
    path = settings_path(source)
    if not path.is_file():
        return NetworkSettings()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}. It must be a JSON object.") from error
    if not isinstance(values, dict):
        raise FileFormatError(f"{path} holds {type(values).__name__}; it must be a JSON object.")
    try:
        return NetworkSettings().replaced(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _require(fits: bool, name: str, value: object, expected: str) -> None:
    if not fits:
        raise ConfigError(f"The setting {name} of a network must be {expected}, got {value!r}.")


def _tuple(value: object) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, (list, tuple)) else None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: object) -> bool:
    return _number(value) and value > 0


def _normalisation(value: object) -> str | tuple[float, float]:
    if isinstance(value, str) and value in NORMALISATIONS:
        return value
    bounds = _tuple(value)
    if bounds is None or len(bounds) != 2 or not all(map(_number, bounds)) or not bounds[0] < bounds[1]:
        raise ConfigError(
            f"The setting normalise of a network must be {', '.join(NORMALISATIONS)}, or two numbers (low, high) with "
            f"low < high, got {value!r}."
        )
    return float(bounds[0]), float(bounds[1])


Confirm = Callable[[str], bool]

"""Shows its argument, the reason, to the user; returns whether to go on."""


def require_confirmation(confirm: Confirm | None, reason: str) -> None:
    """Ask whether code that comes with a network may run.

    Args:
        confirm: Asks the user; None is a no.
        reason: What would run, and why.

    Raises:
        NetworkError: The answer is no.
    """
    if confirm is None:
        raise NetworkError(
            f"{reason} Nothing was run. If you trust where it comes from, confirm it (confirm=... of load_network, "
            "--trust on the command line)."
        )
    if not confirm(reason):
        raise NetworkError(f"{reason} It was not confirmed, so nothing was run.")


def require_package(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Its dotted name.
        package: Name of the package for pip.
        purpose: What needs it; the message begins with this.

    Raises:
        MissingPackageError: It is not installed, or cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as cause:
        raise MissingPackageError(
            f"{purpose} needs the Python package {package}, which cannot be imported here ({cause}). Install it with: "
            f"pip install {package}",
            package,
        ) from cause
