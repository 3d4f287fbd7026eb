"""How a batch gets on: what is done, what is left, and what went wrong, on the terminal and in the tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from scribblesegment.batch.images import BatchImage
from scribblesegment.batch.records import ImageRecord
from scribblesegment.batch.results_table import write_tables

# The tables are brought up to date this often, for whoever looks at them meanwhile.
_TABLES_EVERY_S = 30.0


class BatchProgress:
    """Takes the record of each image when it is done; a context manager that writes the tables in the end.

    Attributes:
        records: What became of the images so far, by name.
        changed: Those whose result somebody changed.
        problems: Images without a result, in this run.
        defects: Those of them that are no fault of the image.
    """

    def __init__(
        self,
        output: Path,
        images: Sequence[BatchImage],
        *,
        records: dict[str, ImageRecord],
        changed: Sequence[str],
        to_do: int,
        say: Callable[[str], None],
    ) -> None:
        """Begin with the records of what is done already."""
        self.records, self.changed = dict(records), tuple(changed)
        self.problems = self.defects = 0
        self._output, self._names, self._say = output, [image.name for image in images], say
        self._left = to_do
        # disable=None: silent unless standard error is a terminal.
        self._bar = tqdm(total=to_do, desc="segmenting", unit="image", disable=None, leave=False)
        self._show()
        self._written = time.monotonic()

    def __enter__(self) -> BatchProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        self._write()

    def done(self, record: ImageRecord) -> None:
        """Take the record of an image."""
        self.records[record.name] = record
        with tqdm.external_write_mode(file=sys.stderr):
            if record.status == "done":
                self._say(f"{record.name}: {_told(record)}")
            else:
                self.problems += 1
                self.defects += bool(record.traceback)
                print(f"{record.traceback}error: {record.name}: {record.error}", file=sys.stderr, flush=True)
        self._left -= 1
        self._bar.update()
        self._show()
        if time.monotonic() - self._written > _TABLES_EVERY_S:
            self._write()

    def _show(self) -> None:
        self._bar.set_postfix_str(f"{self._left} to go" + (f", problems: {self.problems}" if self.problems else ""))

    def _write(self) -> None:
        write_tables(self._output, self._names, self.records, self.changed)
        self._written = time.monotonic()


def _told(record: ImageRecord) -> str:
    """What was found, in one line."""
    parts = []
    for one in record.structures:
        if not one.slices:
            parts.append(f"{one.name} not found")
            continue
        size = f"{one.area_mm2:.1f} mm2" if one.volume_ml is None else f"{one.volume_ml:.1f} ml"
        parts.append(f"{one.name} {size}, confidence {one.mean_confidence:.2f}")
    return "; ".join(parts)
