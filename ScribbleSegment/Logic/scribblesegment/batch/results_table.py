"""The tables of a batch, made anew from the records of its images: what was found, and how long it took.

What was found is the same however often a batch was interrupted; how long it took is not, and has a table of its own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from scribblesegment.batch.records import ImageRecord, StructureResult
from scribblesegment.io.storage import atomic_file

RESULTS, TIMES = "results.csv", "times.csv"

COLUMNS = (
    *("file", "structure", "volume_ml", "area_mm2", "slices", "mean_confidence", "lowest_confidence"),
    *("status", "error"),
)

TO_DO, CHANGED = "to do", "changed"


def write_tables(output: Path, names: Iterable[str], records: dict[str, ImageRecord], changed: Iterable[str]) -> None:
    """Write results.csv and times.csv, each whole or not at all.

    Args:
        output: Folder to write to.
        names: All images, in the order of the table.
        records: What became of them, by name; the others are still to do.
        changed: Those whose result somebody changed after it was written. What the record says does not hold for it.

    Raises:
        FileFormatError: The operating system refuses to write.
    """
    apart = set(changed)
    rows: list[Sequence[str]] = []
    times = []
    for name in names:
        record = records.get(name)
        if name in apart:
            rows.append(_row(name, CHANGED, error="the result was changed after it was written, and left as it is"))
        elif record is None:
            rows.append(_row(name, TO_DO))
        elif record.status == "failed":
            rows.append(_row(name, "failed", error=record.error))
        else:
            rows += [_row(name, "done", one) for one in record.structures]
        if record is not None:
            times.append((name, f"{record.seconds:.1f}"))
    _write(output / RESULTS, COLUMNS, rows)
    _write(output / TIMES, ("file", "seconds"), times)


def _row(name: str, status: str, found: StructureResult | None = None, *, error: str = "") -> tuple[str, ...]:
    if found is None:
        return (name, "", "", "", "", "", "", status, error)
    return (
        name,
        found.name,
        _number(found.volume_ml, 4),
        _number(found.area_mm2, 2),
        str(found.slices),
        _number(found.mean_confidence, 4),
        _number(found.lowest_confidence, 4),
        status,
        error,
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # backslashreplace: names of files need not be valid text on Linux.
    with (
        atomic_file(path, ".csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
