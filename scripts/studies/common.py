"""What all studies share: figures of agreement, rows on disk that a later run goes on from, random numbers."""

from __future__ import annotations

import csv
import io
import json
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from scribblesegment.errors import ConfigError, FileFormatError

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]
Row = dict[str, Any]

# The sets hold resampled pictures that do not say how large a pixel was.
PIXEL_MM = (1.0, 1.0)

INSTALL = 'Install what studies need with: pip install "scribblesegment[studies]".'

# The columns of every table of results; experiments leave empty what they do not measure.
WORDS = ("procedure", "set", "task", "subject", "level", "method", "part", "failure")
COUNTS = ("image", "label", "draw", "context", "step")
FIGURES = (
    "position",  # of a slice in its structure, 0 at its first slice and 1 at its last
    "dice",
    "hd95",  # mm, a pixel taken for 1 x 1 mm
    "surface_dice",  # at 1 mm, likewise
    "found",  # whether anything was segmented
    "expected_dice",  # what the method expects itself
    "steps",  # until the target
    "reached",  # whether the target was
    "seconds",  # of one prediction
    "prepare_seconds",  # of taking context and image
    "rate",  # slices a second
)
COLUMNS = (*WORDS, *COUNTS, *FIGURES)


def dice(mask: Mask, reference: Mask) -> float:
    """Give twice the overlap over the sum of both areas; two empty masks agree entirely: 1."""
    total = int(mask.sum()) + int(reference.sum())
    return 2.0 * int((mask & reference).sum()) / total if total else 1.0


def agreement(mask: Mask, reference: Mask) -> Row:
    """Give Dice, 95 % Hausdorff distance, and surface Dice at one pixel, from MONAI's outlines and their distances.

    The percentile is that of the distances of both ways together, where MONAI's own metric takes the larger one of two
    percentiles; surface Dice is MONAI's. Two empty masks agree. Where only one is empty, the distance is the diagonal
    of the image: a failure then costs the mean what it should, where leaving it out would reward it.
    """
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)  # an argument of MONAI's own

    if not mask.any() or not reference.any():
        alike = not mask.any() and not reference.any()
        return {
            "dice": float(alike),
            "hd95": 0.0 if alike else float(np.linalg.norm(np.subtract(mask.shape, 1))),
            "surface_dice": float(alike),
        }
    _, distances, _ = get_edge_surface_distance(torch.from_numpy(mask), torch.from_numpy(reference), symmetric=True)
    pooled = np.concatenate([np.asarray(part, np.float64) for part in distances])
    return {
        "dice": dice(mask, reference),
        "hd95": float(np.percentile(pooled, 95)),
        "surface_dice": float(np.mean(pooled <= 1.0)),
    }


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Give the random numbers of one place in a study; they know nothing of the method, nor of any other place."""
    return np.random.default_rng((seed, *(zlib.crc32(one.encode()) if isinstance(one, str) else one for one in parts)))


@dataclass(frozen=True)
class Unit:
    """What is measured at once: all of its rows are written, or none."""

    key: Row  # what tells it from the others; part of each of its rows
    rows: Callable[[], Iterable[Row]]  # measures when it is called


class Results:
    """Rows of one experiment in a CSV file, which a later run goes on from.

    Args:
        path: The file; settings stand beside it, in a file of the same name that ends in `.json`.
        settings: What rows depend on besides their keys.
        weights: By method, a digest of its parameters.
        columns: Of the table, after `COLUMNS`.

    Raises:
        ConfigError: If what is there was measured with other settings or other weights.
        FileFormatError: If it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        weights: Mapping[str, str] | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        self.path, self.columns = path, (*COLUMNS, *columns)
        described = path.with_suffix(".json")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_bytes() if path.exists() else b""
            if text and not text.endswith(b"\n"):  # a run was killed while it wrote: the last line is none
                path.write_bytes(text[: text.rfind(b"\n") + 1])
            before = json.loads(described.read_text("utf-8")) if described.exists() and text else {}
            _check_same(path, before, settings or {}, weights or {})
            merged = {"settings": dict(settings or {}), "weights": {**before.get("weights", {}), **(weights or {})}}
            described.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n", "utf-8")
        except (OSError, json.JSONDecodeError) as cause:
            raise FileFormatError(f"Cannot use {path} and {described.name}: {cause}. Choose another folder.") from cause
        self.frame = self._read()
        self._there: dict[tuple[str, ...], set[tuple[str, ...]]] = {}

    def has(self, key: Row) -> bool:
        """Whether there are rows of a unit."""
        columns = tuple(key)
        if columns not in self._there:
            texts = self.frame.reindex(columns=columns).astype(object).itertuples(index=False)
            self._there[columns] = {tuple(map(_text, values)) for values in texts}
        return tuple(_text(value) for value in key.values()) in self._there[columns]

    def measure(self, units: Iterable[Unit], *, title: str = "", quiet: bool = False) -> pd.DataFrame:
        """Measure the units that are not there yet; returns all rows that are there then."""
        with tqdm(units, desc=title, disable=True if quiet else None) as bar:  # None: shown on a terminal
            for unit in bar:
                if not self.has(unit.key):
                    bar.set_postfix_str(f"{unit.key.get('task', '')} {unit.key.get('method', '')}")
                    self._append([{**unit.key, **row} for row in unit.rows()])
        self.frame, self._there = self._read(), {}
        return self.frame

    def _append(self, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        if not self.path.exists() or not self.path.stat().st_size:
            writer.writeheader()
        writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
        try:
            with open(self.path, "ab", buffering=0) as file:  # all rows of a unit in one call of the system
                file.write(text.getvalue().encode())
        except OSError as cause:
            raise FileFormatError(f"Cannot write {self.path}: {cause.strerror}. Choose another folder.") from cause

    def _read(self) -> pd.DataFrame:
        return read_rows(self.path) if self.path.exists() and self.path.stat().st_size else _typed(pd.DataFrame())


def read_rows(path: Path) -> pd.DataFrame:
    """Read a table of results: text, whole numbers (Int64) and figures (float64, NaN where there is none).

    Raises:
        FileFormatError: If it cannot be read.
    """
    try:
        return _typed(pd.read_csv(path, dtype=str, keep_default_na=False))
    except (OSError, ValueError) as cause:
        raise FileFormatError(f"Cannot read {path}: {cause}.") from cause


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give every column of `COLUMNS`, and any further one, its type."""
    frame = frame.reindex(columns=list(dict.fromkeys((*COLUMNS, *frame.columns))), fill_value="")
    for name in frame.columns:
        if name in WORDS:
            frame[name] = frame[name].astype(object)
        else:
            figures = pd.to_numeric(frame[name].replace({"": None}))
            frame[name] = figures.astype("Int64" if name in COUNTS else "float64")
    return frame


def _text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    return str(value)


def _check_same(path: Path, before: Row, settings: Mapping[str, Any], weights: Mapping[str, str]) -> None:
    old, new = before.get("settings"), json.loads(json.dumps(dict(settings)))
    if old is not None and old != new:
        changed = [
            f"{name} {old.get(name)} then, {new.get(name)} now"
            for name in {*old, *new}
            if old.get(name) != new.get(name)
        ]
        raise ConfigError(
            f"{path} was measured with other settings ({', '.join(sorted(changed))}). Choose another folder."
        )
    other = [name for name, digest in weights.items() if before.get("weights", {}).get(name, digest) != digest]
    if other:
        raise ConfigError(f"{path} has rows of {', '.join(other)} with other weights. Choose another folder.")
