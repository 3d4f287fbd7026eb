"""Which images a folder holds, and what is kept of each: records and tables."""

from __future__ import annotations

import csv
import os
import string
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.batch.images import files_of, find_images
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

# Images --------------------------------------------------------------------------------------------------------------

DICOM = b"\0" * 128 + b"DICM" + b"\0" * 8


def touch(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(DICOM if name.endswith("DICOM") else content)


def names(folder: Path, **options) -> list[str]:
    return [image.name for image in find_images(folder, **({"recursive": False} | options))]


@pytest.mark.parametrize(
    ("files", "direct", "recursive"),
    [
        ("a.nrrd b.NII.GZ c.jpg d.txt e f.raw g.csv", "a.nrrd b.NII.GZ c.jpg", ""),
        ("a.nrrd a.seg.nrrd b.SEG.NRRD .c.nrrd .hidden/d.nrrd", "a.nrrd", ""),
        ("a.nrrd x/b.nrrd x/y/c.nrrd", "a.nrrd", "x/b.nrrd x/y/c.nrrd"),
        ("p1/1DICOM p1/2DICOM p2/1.dcm p3/deep/1.dcm p4/notes", "p1 p2", "p3/deep"),
        ("study/1.dcm study/a.nrrd study/more/b.nrrd", "study", "study/a.nrrd study/more/b.nrrd"),
        ("1.dcm a.nrrd in/2.dcm", "a.nrrd in in_", ""),
        ("p1/DICOMDIR p1/DICOM/1.dcm", "", "p1/DICOM"),
    ],
    ids=["extensions", "hidden", "folders", "DICOM series", "DICOM and others", "a series itself", "a disc"],
)
def test_images_are_found(tmp_path, files, direct, recursive):
    touch(tmp_path / "in", *files.split())
    assert names(tmp_path / "in") == direct.split()
    assert names(tmp_path / "in", recursive=True) == sorted(f"{direct} {recursive}".split())


@pytest.mark.skipif(sys.platform == "win32", reason="links need privileges")
def test_results_are_not_segmented_again_and_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "in/x/a.nrrd", "in/out/a.nrrd", "elsewhere/b.nrrd")
    (tmp_path / "in" / "x" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "broken.nrrd").symlink_to(tmp_path / "nowhere")
    found = ["there/b.nrrd", "x/a.nrrd"]
    assert names(tmp_path / "in", recursive=True, leave_out=tmp_path / "in" / "out") == found
    assert names(tmp_path / "in", recursive=True, leave_out=tmp_path / "in") == ["out/a.nrrd", *found]


def test_what_cannot_be_listed_is_refused_or_an_image_that_will_fail(tmp_path, monkeypatch):
    touch(tmp_path, "closed/a.nrrd")
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(tmp_path, recursive=True) == ["closed"]
    for folder, problem in (("closed", "Check its permissions"), ("missing", "no such folder")):
        with pytest.raises(FileFormatError, match=problem):
            names(tmp_path / folder)


@pytest.mark.parametrize(
    ("image", "header", "expected"),
    [
        ("a.raw", "", "a.raw"),
        ("a.mhd", "ElementDataFile = a.raw\n", "a.mhd a.raw"),
        ("a.mhd", "ElementDataFile=a.raw", "a.mhd a.raw"),
        ("a.nhdr", "data file: ./a.zraw\r\n", "a.nhdr a.zraw"),
        ("a.mhd", "ElementDataFile = LIST\nx.raw\na.raw\n", "a.mhd a.raw x.raw"),
        ("a.mhd", "ElementDataFile = slice%02d.raw 1 2 1\n", "a.mhd a.raw a.zraw aa.raw x.raw"),
        ("", "", "a.raw a.zraw aa.raw x.raw"),
    ],
)
def test_an_image_consists_of_its_series_or_of_what_its_header_names(tmp_path, image, header, expected):
    touch(tmp_path, "a.raw", "a.zraw", "aa.raw", "x.raw", "deep/b.raw")
    if header:
        (tmp_path / image).write_text(header)
    assert [path.name for path in files_of(tmp_path / image)] == expected.split()


PARTS = st.text(alphabet=string.ascii_letters + " =-+#%&'äß漢.,;()", min_size=1, max_size=8).filter(
    lambda part: not part.startswith(".") and part.strip(" .") and (sys.platform != "win32" or part == part.strip(" ."))
)
EXTENSIONS = st.sampled_from([".nrrd", ".nii.gz", ".nii", ".mha", ".png", ".NRRD"])


@settings(max_examples=40)
@given(paths=st.lists(st.tuples(st.lists(PARTS, max_size=2), PARTS, EXTENSIONS), min_size=1, max_size=6))
def test_every_image_has_a_result_and_a_record_of_its_own(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("images")
    written = {}
    for folders, stem, extension in paths:
        path = folder.joinpath(*folders, stem + extension)
        with suppress(OSError):  # a name that is a file's and a folder's
            if str(path).casefold() not in written:  # one file, where case does not count
                touch(path.parent, path.name)
                written[str(path).casefold()] = path
    found = find_images(folder, recursive=True)
    assert found == sorted(found)
    assert {image.path for image in found} == set(written.values())
    results = [folder / image.result_name for image in found]
    assert len(set(results)) == len(written)
    assert not set(results) & set(written.values())
    assert all(result.parent == image.path.parent for result, image in zip(results, found, strict=True))
    records = {RecordFolder(folder)._path(image.name, ".json") for image in found}
    assert len({path.name.lower() for path in records}) == len(written)
    assert all(path.name.isascii() and len(path.name) < 70 and path.name[0].isalnum() for path in records)


# Records and tables --------------------------------------------------------------------------------------------------

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
