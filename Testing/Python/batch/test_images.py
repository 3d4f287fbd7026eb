from __future__ import annotations

import os
import string
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.batch.images import files_of, find_images
from scribblesegment.batch.records import RecordFolder
from scribblesegment.errors import FileFormatError

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
    ],
    ids=["extensions", "hidden", "folders", "DICOM series", "DICOM and others", "a series itself"],
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
