from __future__ import annotations

import csv

import pytest

from scribblesegment.batch.records import ImageRecord, StructureResult
from scribblesegment.batch.results_table import COLUMNS, RESULTS, TIMES, write_tables
from scribblesegment.errors import FileFormatError


def done(name, *structures, seconds=1.25) -> ImageRecord:
    return ImageRecord(name, {}, "done", structures, seconds=seconds)


def rows(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


VOLUME = StructureResult("Leber", 3, 1.23456, None, 0.91239, 0.5)
PICTURE = StructureResult("Leber", 1, None, 12.345, 0.5, 0.5)
NOTHING = StructureResult("Milz", 0, 0.0, None, None, None)


def test_each_structure_has_a_line_with_what_was_measured(tmp_path):
    records = {"a": done("a", VOLUME, NOTHING), "b": done("b", PICTURE)}
    write_tables(tmp_path, ["a", "b"], records, [])
    assert rows(tmp_path / RESULTS) == [
        list(COLUMNS),
        ["a", "Leber", "1.2346", "", "3", "0.9124", "0.5000", "done", ""],
        ["a", "Milz", "0.0000", "", "0", "", "", "done", ""],
        ["b", "Leber", "", "12.35", "1", "0.5000", "0.5000", "done", ""],
    ]
    assert rows(tmp_path / TIMES) == [["file", "seconds"], ["a", "1.2"], ["b", "1.2"]]


def test_images_without_a_result_have_a_line_that_says_why(tmp_path):
    failed = ImageRecord("a", {}, "failed", error='it is "bad",\nvery')
    write_tables(tmp_path, ["a", "b", "c"], {"a": failed, "c": done("c", VOLUME)}, ["c"])
    told = [(row[0], row[1], row[7]) for row in rows(tmp_path / RESULTS)[1:]]
    assert told == [("a", "", "failed"), ("b", "", "to do"), ("c", "", "changed")]
    assert rows(tmp_path / RESULTS)[1][8] == 'it is "bad",\nvery'
    assert "left as it is" in rows(tmp_path / RESULTS)[3][8]


def test_the_table_is_in_the_order_of_the_images_and_knows_no_times(tmp_path):
    records = {name: done(name, VOLUME, seconds=seconds) for seconds, name in enumerate("cab")}
    write_tables(tmp_path, list("abc"), records, [])
    first = (tmp_path / RESULTS).read_bytes()
    write_tables(tmp_path, list("abc"), {name: done(name, VOLUME, seconds=9.0) for name in "bca"}, [])
    assert (tmp_path / RESULTS).read_bytes() == first
    assert [row[0] for row in rows(tmp_path / RESULTS)[1:]] == list("abc")


def test_names_of_any_kind_are_written(tmp_path):
    names = ["ä,漢", 'q"q', "line\nbreak", "bytes\udcff", "=1+1"]
    write_tables(tmp_path, names, {}, [])
    assert [row[0] for row in rows(tmp_path / RESULTS)[1:]] == [*names[:3], "bytes\\udcff", names[4]]


def test_a_table_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / RESULTS).mkdir()
    with pytest.raises(FileFormatError, match=RESULTS):
        write_tables(tmp_path, [], {}, [])
