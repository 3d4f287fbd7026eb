"""What a network file does not say about itself: labels, spacing, intensities. Read from a JSON file beside it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from scribblesegment.exceptions import ConfigError, FileFormatError
from scribblesegment.refinement.outputs import Output

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
