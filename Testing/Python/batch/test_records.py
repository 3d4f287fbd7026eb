from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.batch.records import (
    COLUMNS,
    FOLDER,
    RESULTS,
    TIMES,
    FileState,
    ImageRecord,
    RecordFolder,
    StructureResult,
    is_unchanged,
    state_of,
    write_tables,
)
from scribblesegment.errors import FileFormatError

STATE = FileState("stamp", 12, "content")
VOLUME = StructureResult("Leber", 3, 1.23456, None, 0.91239, 0.5)
PICTURE = StructureResult("Leber", 1, None, 12.345, 0.5, 0.5)
NOTHING = StructureResult("Milz", 0, 0.0, None, None, None)
# As version 1.0 wrote it.
WRITTEN = """{"version": 1, "name": "sub/a.nrrd", "made_by": {"context": "c"}, "status": "done", "structures": [{"name":
"Leber", "slices": 3, "volume_ml": 1.23456, "area_mm2": null, "mean_confidence": 0.91239, "lowest_confidence": 0.5}],
"source": {"stamp": "stamp", "size": 12, "sha256": "content"}, "result": null, "seconds": 2.5, "error": "",
"traceback": ""}"""


def a_record(name: str = "sub/a.nrrd", *structures, **changes) -> ImageRecord:
    return ImageRecord(name, **({"made_by": {"context": "c"}, "status": "done", "structures": structures} | changes))


def test_changed_files_are_noticed(tmp_path):
    def write(first: bytes, second: bytes, names: str = "ab", folder: str = "", time: int = 1) -> list[Path]:
        paths = [tmp_path / folder / name for name in names]
        (tmp_path / folder).mkdir(exist_ok=True)
        for path, content in zip(paths, (first, second), strict=True):
            path.write_bytes(content)
            os.utime(path, (time, time))
        return paths

    state = state_of(write(b"aa", b"bb"))
    assert is_unchanged(write(b"aa", b"bb"), state)
    assert is_unchanged(write(b"xx", b"bb"), state)  # the same times spare reading
    assert is_unchanged(write(b"aa", b"bb", folder="copy", time=2), state)
    assert not is_unchanged(write(b"aa", b"bb", names="ac"), state)
    assert not is_unchanged(write(b"aa", b"cc", time=2), state)
    assert not is_unchanged(write(b"a", b"abb", time=2), state)  # content that moved to the next file
    assert not is_unchanged(write(b"aa", b"bb")[:1], state)
    with pytest.raises(OSError, match="gone"):
        is_unchanged([tmp_path / "gone"], state)


@pytest.fixture
def records(tmp_path) -> RecordFolder:
    (tmp_path / FOLDER).mkdir()
    return RecordFolder(tmp_path)


@settings(max_examples=25)
@given(name=st.text(min_size=1, max_size=200), error=st.text(max_size=20))
def test_a_record_is_read_as_it_was_written(tmp_path_factory, name, error):
    records = RecordFolder(tmp_path_factory.mktemp("output"))
    records.folder.mkdir()
    failed = a_record(name, status="failed", error=error)
    for record in (a_record(name, VOLUME, NOTHING, source=STATE, result=STATE, seconds=2.5), failed):
        records.write(record)
        assert records.read(name) == record
    for _ in range(2):
        records.remove(name)
        assert records.read(name) is None


def test_records_of_earlier_versions_are_read(records):
    records.write(a_record())
    (path,) = records.folder.glob("*.json")
    assert path.name == "sub-a-nrrd-d008cf5eaa1e8abe.json"
    path.write_text(WRITTEN)
    assert records.read("sub/a.nrrd") == a_record("sub/a.nrrd", VOLUME, source=STATE, seconds=2.5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("}", ""),
        ('"version": 1', '"version": 2'),
        ("sub/a.nrrd", "sub/b.nrrd"),
        ('"status"', '"states"'),
        ('"source": null', '"source": {"stamp": "x"}'),
        ('"structures": []', '"structures": [[]]'),
    ],
)
def test_a_damaged_or_foreign_record_counts_as_none(records, old, new):
    records.write(a_record())
    (path,) = records.folder.glob("*.json")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert records.read("sub/a.nrrd") is None


def test_beginnings_without_an_end_are_counted_for_each_run(records):
    assert [records.begin("a", "first") for _ in range(3)] == [0, 1, 2]
    assert records.begin("a", "second") == records.begin("b", "first") == 0
    assert records.was_left("a")
    records.end("a")
    assert not records.was_left("a")
    assert records.begin("a", "first") == 0


def test_what_cannot_be_written_or_removed_is_refused_with_a_remedy(tmp_path, records):
    for call, remedy in (
        (lambda: RecordFolder(tmp_path / "gone").write(a_record()), "does not exist"),
        (lambda: RecordFolder(tmp_path / "gone").begin("a", "run"), "Check free space"),
        (lambda: records.remove("a"), "Cannot remove .*Check its permissions"),
        (lambda: write_tables(tmp_path, [], {}, []), RESULTS),
    ):
        records._path("a", ".json").mkdir(exist_ok=True)
        (tmp_path / RESULTS).mkdir(exist_ok=True)
        with pytest.raises(FileFormatError, match=remedy):
            call()


def rows(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_tables_list_what_was_measured_and_why_there_is_no_result(tmp_path):
    made = {
        "a": a_record("a", VOLUME, NOTHING, seconds=1.25),
        "b": a_record("b", PICTURE),
        "c": a_record("c", status="failed", error='it is "bad",\nvery'),
        "e": a_record("e", VOLUME, seconds=3.0),
    }
    write_tables(tmp_path, [*"abcde", "=1 \u00e4,\u6f22\n\udcff"], made, ["e"])  # names of any kind
    edited = "the result was changed after it was written, and left as it is"
    assert rows(tmp_path / RESULTS) == [
        list(COLUMNS),
        ["a", "Leber", "1.2346", "", "3", "0.9124", "0.5000", "done", ""],
        ["a", "Milz", "0.0000", "", "0", "", "", "done", ""],
        ["b", "Leber", "", "12.35", "1", "0.5000", "0.5000", "done", ""],
        ["c", *[""] * 6, "failed", 'it is "bad",\nvery'],
        ["d", *[""] * 6, "to do", ""],
        ["e", *[""] * 6, "changed", edited],
        ["=1 \u00e4,\u6f22\n\\udcff", *[""] * 6, "to do", ""],
    ]
    assert rows(tmp_path / TIMES) == [["file", "seconds"], ["a", "1.2"], ["b", "0.0"], ["c", "0.0"], ["e", "3.0"]]
