from __future__ import annotations

from pathlib import Path

import pytest

from scribblesegment.batch import progress
from scribblesegment.batch.images import BatchImage
from scribblesegment.batch.progress import BatchProgress
from scribblesegment.batch.records import ImageRecord, StructureResult
from scribblesegment.batch.results_table import RESULTS

FOUND = StructureResult("Leber", 3, 1.23, None, 0.912, 0.5)
FLAT = StructureResult("Leber", 1, None, 12.34, 0.5, 0.5)
NOTHING = StructureResult("Milz", 0, 0.0, None, None, None)
IMAGES = [BatchImage(name, Path(name)) for name in "abc"]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def shown(tmp_path, lines) -> BatchProgress:
    return BatchProgress(tmp_path, IMAGES, records={}, changed=[], to_do=3, say=lines.append)


def test_each_image_is_told_in_one_line(shown, lines):
    with shown:
        shown.done(ImageRecord("a", {}, "done", (FOUND, NOTHING)))
        shown.done(ImageRecord("b", {}, "done", (FLAT,)))
    assert lines == ["a: Leber 1.2 ml, confidence 0.91; Milz not found", "b: Leber 12.3 mm2, confidence 0.50"]


def test_problems_go_to_standard_error_and_are_counted(shown, lines, capsys):
    with shown:
        shown.done(ImageRecord("a", {}, "failed", error="damaged"))
        shown.done(ImageRecord("b", {}, "failed", error="KeyError: x", traceback="Traceback ...\n"))
    assert lines == []
    assert capsys.readouterr().err == "error: a: damaged\nTraceback ...\nerror: b: KeyError: x\n"
    assert (shown.problems, shown.defects) == (2, 1)


def test_the_bar_tells_what_is_left_and_what_went_wrong(shown):
    assert shown._bar.postfix == "3 to go"
    with shown:
        shown.done(ImageRecord("a", {}, "done", (FOUND,)))
        shown.done(ImageRecord("b", {}, "failed", error="damaged"))
        assert shown._bar.postfix == "1 to go, problems: 1"


def test_the_tables_are_written_whatever_happens(shown, tmp_path):
    shown.done(ImageRecord("a", {}, "done", (FOUND,)))
    with pytest.raises(KeyboardInterrupt), shown:
        raise KeyboardInterrupt
    assert (tmp_path / RESULTS).read_text().count("to do") == 2


def test_the_tables_are_brought_up_to_date_now_and_then(shown, tmp_path, monkeypatch):
    shown.done(ImageRecord("a", {}, "done", (FOUND,)))
    assert not (tmp_path / RESULTS).exists()
    monkeypatch.setattr(progress, "_TABLES_EVERY_S", 0.0)
    shown.done(ImageRecord("b", {}, "done", (FOUND,)))
    assert (tmp_path / RESULTS).read_text().count("done") == 2
