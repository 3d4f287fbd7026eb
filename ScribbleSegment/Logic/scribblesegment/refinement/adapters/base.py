"""What every kind of network shares: the adapter's protocol, the way to its grid and back, settings, and consent."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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
    NetworkError,
    PromptError,
    ScribbleSegmentError,
)
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

Confirm = Callable[[str], bool]  # shows its argument, the reason, to the user; returns whether to go on

# Class logit of every structure where a network does not look, against 0 for the background: beyond doubt but finite.
OUTSIDE_LOGIT = -20.0

NORMALISATIONS = ("robust", "zscore", "none")

# Cells; positions closer than this to a border count as on it, so that rounding errors decide nothing.
_TIE = 1e-6


# The adapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image on a network's grid, with the way there for corrections and back for logits."""

    tensor: Tensor  # float32 (C, *grid), the whole image as the network takes it, normalised
    tiling: Tiling  # windows of the grid that the network sees at once
    shape: tuple[int, ...]  # of the image, (K, J, I), or of the slice, (H, W)
    matrix: DoubleArray  # (n + 1, n + 1) from homogeneous indices of the image to those of the grid
    way_back: Callable[[FloatArray], NDArray[Any]]  # maps class logits (labels, *grid) to (labels, *shape)
    slack: float = 0.0  # see `resample_scribbles`

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the grid."""
        return tuple(self.tensor.shape[1:])

    def to_grid(self, scribbles: LabelScribbles) -> LabelScribbles:
        """Bring corrections of the image's shape to the grid; raises PromptError for those of another shape."""
        validation.same_shape(scribbles.shape, self.shape, name="The corrections", error=PromptError)
        return resample_scribbles(scribbles, self.matrix, self.grid, slack=self.slack)

    def to_image(self, logits: NDArray[Any]) -> FloatArray:
        """Bring class logits (labels, *grid), added labels included, back to the image: float32 (labels, *shape).

        Raises:
            GeometryError: They are for another shape than the grid's.
        """
        values = np.asarray(logits, np.float32)
        validation.same_shape(values.shape[1:], self.grid, name="The logits", reference="the grid", error=GeometryError)
        return np.ascontiguousarray(self.way_back(values), np.float32)

    def to_labels(self, logits: NDArray[Any]) -> NDArray[np.int16]:
        """The likeliest label, by class logits on the grid, of every pixel of the image."""
        # One label after the other, each with the background, so that memory does not grow with their number.
        best = self.to_image(logits[:2])
        labels, best = best.argmax(axis=0).astype(np.int16), best.max(axis=0)
        for label in range(2, len(logits)):
            found = self.to_image(np.stack([logits[0], logits[label]]))[1]
            labels[found > best] = label
            np.maximum(best, found, out=best)
        return labels


class NetworkAdapter(Protocol):
    """A network with what belongs to it: its labels, and how images get to it and results back."""

    name: str
    licence: str  # of the parameters; empty where unknown
    module: nn.Module  # maps (B, C, *patch) to its output, in evaluation mode
    ndim: int  # 2 if it sees slices, 3 if it sees volumes
    labels: tuple[str, ...]  # names; the index is the label, the background the first
    output: Output
    takes_scribbles: bool  # whether its input holds what was drawn, so that it is prepared for every round

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Bring an image to the network's grid.

        Args:
            image: The volume; a 2D image has one slice.
            axis: Axis of the array that a 2D network does not see.
            index: Which slice alone; None for all of them.
            scribbles: What was drawn, of the shape of the image, or of the slice; only for `takes_scribbles`.

        Raises:
            NetworkError: A slice is asked of a 3D network.
            GeometryError: No such axis or slice.
        """
        ...


def outside_logits(shape: Sequence[int]) -> FloatArray:
    """Make class logits (labels, ...) that mean background everywhere."""
    logits = np.full(tuple(shape), OUTSIDE_LOGIT, np.float32)
    logits[0] = 0.0
    return logits


def require_slices(ndim: int, index: int | None, name: str) -> None:
    """Refuse, with a NetworkError, one slice for a network that sees volumes."""
    if ndim == 3 and index is not None:
        raise NetworkError(
            f"The network {name} sees volumes, so that it cannot be run on slice {index} alone. Correct the volume."
        )


def copies_of_image(channels: int, ndim: int, name: str) -> int:
    """How often an image of one channel is repeated: 3 times for a 2D network of colour images, else once.

    Raises:
        NetworkError: The network takes several images, such as several MRI sequences.
    """
    if channels == 1 or (channels == 3 and ndim == 2):
        return channels
    raise NetworkError(
        f"The network {name} takes {channels} channels, such as several sequences of one patient; an image here has "
        "one. Only networks of one channel, and 2D networks of red, green and blue, can be corrected."
    )


# Grids -----------------------------------------------------------------------------------------------------------


def scaling(scales: ArrayLike, offsets: ArrayLike) -> DoubleArray:
    """Build the matrix of ``cell = scale * pixel + offset`` for each axis, (n + 1, n + 1), for homogeneous indices."""
    matrix = np.diag([*np.asarray(scales, np.float64), 1.0])
    matrix[:-1, -1] = offsets
    return matrix


def stacked_matrix(matrix: DoubleArray, axis: int) -> DoubleArray:
    """Extend the map (3, 3) of a slice to a volume (K, J, I), whose slices along `axis` are stacked first."""
    stacked = np.zeros((4, 4))
    stacked[0, axis] = 1.0
    stacked[np.ix_([1, 2, 3], [*(other for other in range(3) if other != axis), 3])] = matrix
    return stacked


@dataclass(frozen=True)
class ImageGrid:
    """The map between an image and a grid of another spacing; both have the same outer borders."""

    axes: tuple[GridAxis, ...]  # each axis of the image laid out on one of the grid

    @classmethod
    def lay_out(cls, shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float | None]) -> ImageGrid:
        """Find the grid for an image whose spacing is nearest to the one wanted; None leaves an axis as it is."""
        axes = []
        for side, mm, wanted in zip(shape, spacing_mm, wanted_mm, strict=True):
            cells = side if wanted is None else max(1, round(side * mm / wanted))
            axes.append(GridAxis(side, cells / side, 0, cells))
        return cls(tuple(axes))

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
        return _applied(image, [axis.image_matrix if axis.scale != 1 else None for axis in self.axes])

    def logits_from_grid(self, logits: FloatArray) -> FloatArray:
        """Resample logits (labels, *grid) to the image's pixels by linear interpolation."""
        return _applied(logits, [axis.from_grid_matrix if axis.scale != 1 else None for axis in self.axes])


def _applied(values: FloatArray, matrices: Sequence[csr_array | None]) -> FloatArray:
    """Apply a matrix to each of the last axes."""
    for axis, matrix in enumerate(matrices, start=values.ndim - len(matrices)):
        if matrix is None:
            continue
        first = np.moveaxis(values, axis, 0)
        product = matrix @ np.ascontiguousarray(first).reshape(len(first), -1)
        values = np.moveaxis(product.reshape(-1, *first.shape[1:]), 0, axis)
    return np.ascontiguousarray(values, np.float32)


def resample_scribbles(
    scribbles: LabelScribbles, matrix: DoubleArray, shape: Sequence[int], *, slack: float = 0.0
) -> LabelScribbles:
    """Mark the cells of a grid that the marked pixels of an image lie in.

    A cell belongs to the pixels whose centres it holds and, where the grid is finer than the image, to the pixel that
    holds its own centre. Where these have different labels, the majority decides, and between equally many the label
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
    sides = np.asarray(labels.shape)
    pixels = np.argwhere(scribbles.marked)
    exact = pixels @ matrix[:-1, :-1].T + matrix[:-1, -1]
    border = 0.5 + slack + _TIE
    near = ((exact > -border) & (exact < sides - 1 + border)).all(axis=1)
    pixels, exact = pixels[near], exact[near]
    if not len(pixels):
        return LabelScribbles(labels)
    cells = np.clip(_nearest(exact), 0, sides - 1)
    drawn = scribbles.labels[tuple(pixels.T)].astype(np.int64)
    flat = labels.reshape(-1)
    voters, voted = _votes(pixels, cells, matrix, sides)
    values = np.asarray(scribbles.values())
    marks = np.array([np.count_nonzero(scribbles.labels == value) for value in values])
    ballots, counts = np.unique(voted * len(values) + np.searchsorted(values, drawn[voters]), return_counts=True)
    cell, number = np.divmod(ballots, len(values))
    # The last of equal cells wins the assignment: few votes first, and among equals the label with many marks.
    order = np.lexsort((number, -marks[number], counts, cell))
    flat[cell[order]] = values[number[order]]
    own = np.ravel_multi_index(tuple(cells.T), labels.shape)
    if (flat[own] != drawn).any():
        _keep_small_strokes(flat, own, drawn, _strokes(scribbles, pixels))
    return LabelScribbles(labels)


def _nearest(positions: DoubleArray) -> IntArray:
    return np.floor(positions + 0.5 + _TIE).astype(np.int64)


def _votes(pixels: IntArray, cells: IntArray, matrix: DoubleArray, sides: IntArray) -> tuple[IntArray, IntArray]:
    """List which pixel belongs to which cell: numbers within `pixels`, and flat cell indices."""
    everyone = np.arange(len(pixels))
    voters, voted = [everyone], [np.ravel_multi_index(tuple(cells.T), tuple(sides))]
    # How far, in cells, a pixel reaches from its centre.
    reach = np.ceil(np.abs(matrix[:-1, :-1]).sum(axis=1) / 2 - 0.5 - _TIE).clip(0).astype(np.int64)
    inverse = np.linalg.inv(matrix)
    for step in itertools.product(*(range(-far, far + 1) for far in reach.tolist())):
        if not any(step):
            continue
        others = cells + np.asarray(step)
        back = _nearest(others @ inverse[:-1, :-1].T + inverse[:-1, -1])
        own = (back == pixels).all(axis=1) & (others >= 0).all(axis=1) & (others < sides).all(axis=1)
        voters.append(everyone[own])
        voted.append(np.ravel_multi_index(tuple(others[own].T), tuple(sides)))
    return np.concatenate(voters), np.concatenate(voted)


def _strokes(scribbles: LabelScribbles, pixels: IntArray) -> IntArray:
    """Number the connected pieces of each label, from 1: for each of the marked pixels (n, ndim), the number of its."""
    first, last = pixels.min(axis=0), pixels.max(axis=0)
    marked = scribbles.labels[tuple(slice(start, stop + 1) for start, stop in zip(first, last, strict=True))]
    pieces = np.zeros(marked.shape, np.int64)
    for value in scribbles.values():
        found, _ = ndimage.label(marked == value, np.ones((3,) * marked.ndim))
        pieces[found > 0] = found[found > 0] + pieces.max()
    return np.asarray(pieces[tuple((pixels - first).T)])


def _keep_small_strokes(flat: NDArray[np.int16], cells: IntArray, drawn: IntArray, strokes: IntArray) -> None:
    """Give strokes that lost every cell the one they cover most of; small strokes last, so that they keep it."""
    sizes = np.bincount(strokes)
    kept = np.bincount(strokes[flat[cells] == drawn], minlength=len(sizes)) > 0
    lost = np.flatnonzero((sizes > 0) & ~kept)
    for stroke in lost[np.argsort(-sizes[lost], kind="stable")]:
        members = strokes == stroke
        covered, counts = np.unique(cells[members], return_counts=True)
        flat[covered[counts.argmax()]] = drawn[members][0]


# Settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkSettings:
    """How a network wants its images, and what its output means; values may come from a file that people write.

    Raises:
        ConfigError: A value of another type, or out of range.
    """

    name: str = ""  # by default the file's
    labels: tuple[str, ...] = ()  # the background first; by default found by a trial run, and numbered
    ndim: int | None = None  # 2 if it sees slices, 3 if it sees volumes; by default found from its parameters
    channels: int | None = None  # of its input; by default found from its parameters
    # Size of pixels it was trained with: (row, column) or (K, J, I). Images are resampled to it; None leaves them.
    spacing_mm: tuple[float, ...] | None = None
    # "robust" maps the volume's `IntensityRange.estimate` to [0, 1], "zscore" subtracts its mean and divides by its
    # standard deviation, "none" changes nothing, and (low, high) are mapped to 0 and 1, clipping what is beyond.
    normalise: str | tuple[float, float] = "robust"
    # Pixels it sees at once; by default a whole slice, and of a volume at most 128 along each axis.
    patch_size: tuple[int, ...] | None = None
    overlap: float = 0.5  # least overlap of neighbouring patches, a fraction of their side
    multiple_of: int = 16  # without `patch_size`, inputs are padded with zeros to a multiple of this
    activation: str = "softmax"  # labels that exclude each other; "sigmoid": one channel a structure, no background
    probabilities: bool | None = None  # whether it already applies its activation; None: by its values
    output: int | str | None = None  # index or key of the logits if it returns several outputs; None: the first
    # What makes it, "file.py:function" or "package.module:function", for files that hold parameters only, and the file
    # of its parameters for networks that a function makes. Paths are relative to the file these settings belong to.
    function: str = ""
    weights: str = ""
    licence: str = ""  # of the parameters

    def __post_init__(self) -> None:
        for name in ("labels", "spacing_mm", "patch_size", "normalise"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        axes = (2, 3) if self.ndim is None else (self.ndim,)
        sides = f"{' or '.join(map(str, axes))} numbers above zero, one for each axis"

        def one_an_axis(value: object, fits: Callable[[object], bool]) -> bool:
            return value is None or (isinstance(value, tuple) and len(value) in axes and all(map(fits, value)))

        named = isinstance(self.labels, tuple) and all(isinstance(name, str) and name.strip() for name in self.labels)
        for name, fits, expected in (
            *(
                (name, isinstance(getattr(self, name), str), "a text")
                for name in ("name", "function", "weights", "licence")
            ),
            ("labels", named and len(self.labels) != 1, "a list of at least two names"),
            ("ndim", self.ndim in (None, 2, 3), "2 or 3"),
            ("channels", self.channels is None or _is_count(self.channels), "a whole number from 1"),
            ("multiple_of", _is_count(self.multiple_of), "a whole number from 1"),
            ("spacing_mm", one_an_axis(self.spacing_mm, lambda side: _is_number(side) and side > 0), sides),
            ("patch_size", one_an_axis(self.patch_size, _is_count), sides),
            ("overlap", _is_number(self.overlap) and 0 <= self.overlap < 1, "from 0 to below 1"),
            ("probabilities", self.probabilities in (None, True, False), "true or false"),
            (
                "normalise",
                _is_normalisation(self.normalise),
                f"{', '.join(NORMALISATIONS)}, or two numbers (low, high) with low < high",
            ),
        ):
            if not fits:
                raise ConfigError(f"The setting {name} of a network must be {expected}, got {getattr(self, name)!r}.")
        self.reading()

    def reading(self) -> Output:
        """How the network's output is read; raises ConfigError for an unknown activation."""
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_normalisation(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]
    return value in NORMALISATIONS


def settings_path(source: Path) -> Path:
    """Where the settings of a network file lie: beside it, its name with .json added."""
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


# Consent and foreign code --------------------------------------------------------------------------------------------


def require_consent(confirm: Confirm | None, reason: str) -> None:
    """Ask whether code that comes with a network may run; raises NetworkError for a no. No `confirm` is a no."""
    if confirm is None:
        raise NetworkError(
            f"{reason} Nothing was run. If you trust where it comes from, confirm it (confirm=... of load_network, "
            "--trust on the command line)."
        )
    if not confirm(reason):
        raise NetworkError(f"{reason} It was not confirmed, so nothing was run.")


@contextlib.contextmanager
def foreign_errors(message: str, remedy: str = "") -> Iterator[None]:
    """Turn whatever code of others raises into a NetworkError: the message, what it was, and the remedy."""
    try:
        yield
    except ScribbleSegmentError:
        raise
    except Exception as error:
        raise NetworkError(f"{message}: {type(error).__name__}: {error}.{remedy}") from error
