from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.batch.file_state import FileState
from scribblesegment.batch.records import ImageRecord, RecordFolder, StructureResult
from scribblesegment.errors import FileFormatError

STATE = FileState("stamp", 12, "content")
FOUND = StructureResult("Leber", 3, 1.5, None, 0.9, 0.25)


def a_record(name: str = "sub/a.nrrd", **changes) -> ImageRecord:
    values = {"made_by": {"context": "c", "network": "n"}, "status": "done", "structures": (FOUND,)}
    return ImageRecord(name, **(values | changes))


@pytest.fixture
def records(tmp_path) -> RecordFolder:
    folder = RecordFolder(tmp_path)
    folder.folder.mkdir()
    return folder


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=200), error=st.text(max_size=20))
def test_a_record_is_read_as_it_was_written(tmp_path, name, error):
    records = RecordFolder(tmp_path)
    records.folder.mkdir(exist_ok=True)
    for record in (
        a_record(name, source=STATE, result=STATE, seconds=2.5),
        a_record(name, status="failed", error=error),
    ):
        records.write(record)
        assert records.read(name) == record


def test_an_image_without_a_record_has_none(records):
    assert records.read("a.nrrd") is None
    records.forget("a.nrrd")  # which is no error


def test_a_record_that_was_forgotten_is_gone(records):
    records.write(a_record())
    records.forget("sub/a.nrrd")
    assert records.read("sub/a.nrrd") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\x00" * 40,
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace("sub/a.nrrd", "sub/b.nrrd"),
        lambda text: text.replace('"status"', '"states"'),
        lambda text: json.dumps({**json.loads(text), "source": {"stamp": "x"}}),
    ],
)
def test_a_damaged_or_foreign_record_counts_as_none(records, damage):
    records.write(a_record())
    (path,) = records.folder.glob("*.json")
    path.write_text(damage(path.read_text()))
    assert records.read("sub/a.nrrd") is None


def test_beginnings_without_an_end_are_counted_for_each_run(records):
    assert [records.begin("a", "first") for _ in range(3)] == [0, 1, 2]
    assert records.begin("a", "second") == 0
    assert records.begin("b", "first") == 0
    assert records.was_left("a")
    records.end("a")
    assert not records.was_left("a")
    assert records.begin("a", "first") == 0


def test_a_folder_that_is_gone_is_told_with_a_remedy(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        RecordFolder(tmp_path).write(a_record())
    with pytest.raises(FileFormatError, match="Check free space"):
        RecordFolder(tmp_path).begin("a", "run")
