"""Tables in Markdown and CSV, and text files that appear whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scribblesegment.io.storage import atomic_file


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table so that it also reads well as plain text; every row is as long as the header."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in escaped
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def csv_text(kind: type, results: Sequence[Any]) -> str:
    """Give one line for each result, under the names of the fields of `kind`, their dataclass."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(entry.name for entry in dataclasses.fields(kind))
    writer.writerows(dataclasses.astuple(result) for result in results)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 with plain line ends, whole or not at all.

    Raises:
        FileFormatError: If it cannot be written.
    """
    with atomic_file(path, path.suffix) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
