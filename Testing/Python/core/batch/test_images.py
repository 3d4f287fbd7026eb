from __future__ import annotations

import os
import string
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.batch.images import files_of, find_images
from scribblesegment.batch.records import RecordFolder
from scribblesegment.errors import FileFormatError

DICOM = b"\0" * 128 + b"DICM" + b"\0" * 8


def touch(folder: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(folder: Path, **options) -> list[str]:
    return [image.name for image in find_images(folder, **({"recursive": False} | options))]


def test_images_are_files_of_known_extensions(tmp_path):
    touch(tmp_path, "a.nrrd", "b.NII.GZ", "c.jpg", "d.txt", "e", "f.raw", "g.csv")
    assert names(tmp_path) == ["a.nrrd", "b.NII.GZ", "c.jpg"]


def test_segmentations_and_hidden_files_are_no_images(tmp_path):
    touch(tmp_path, "a.nrrd", "a.seg.nrrd", "b.SEG.NRRD", ".c.nrrd", ".hidden/d.nrrd")
    assert names(tmp_path, recursive=True) == ["a.nrrd"]


def test_folders_inside_are_searched_if_wanted(tmp_path):
    touch(tmp_path, "a.nrrd", "x/b.nrrd", "x/y/c.nrrd")
    assert names(tmp_path) == ["a.nrrd"]
    assert names(tmp_path, recursive=True) == ["a.nrrd", "x/b.nrrd", "x/y/c.nrrd"]


def test_a_folder_that_directly_holds_dicom_files_is_one_image(tmp_path):
    touch(tmp_path, "p1/1", "p1/2", "p2/1.dcm", "p3/deep/1.dcm", "p4/notes", content=b"x")
    touch(tmp_path, "p1/1", "p1/2", content=DICOM)
    assert names(tmp_path) == ["p1", "p2"]
    assert names(tmp_path, recursive=True) == ["p1", "p2", "p3/deep"]
    assert find_images(tmp_path, recursive=False)[0].path == tmp_path / "p1"


def test_other_images_beside_dicom_files_are_images_of_their_own(tmp_path):
    touch(tmp_path, "study/1.dcm", "study/a.nrrd", "study/more/b.nrrd")
    assert names(tmp_path, recursive=True) == ["study", "study/a.nrrd", "study/more/b.nrrd"]


def test_a_folder_of_dicom_files_can_be_given_itself(tmp_path):
    folder = tmp_path / "series"
    touch(folder, "1.dcm", "a.nrrd", "series/2.dcm")
    assert names(folder) == ["a.nrrd", "series", "series_"]


def test_results_are_not_segmented_again(tmp_path):
    touch(tmp_path, "a.nrrd", "out/a.nrrd")
    assert names(tmp_path, recursive=True, leave_out=tmp_path / "out") == ["a.nrrd"]
    assert names(tmp_path, recursive=True, leave_out=tmp_path) == ["a.nrrd", "out/a.nrrd"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need privileges")
def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "in/x/a.nrrd", "elsewhere/b.nrrd")
    (tmp_path / "in" / "x" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "broken.nrrd").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path / "in", recursive=True) == ["there/b.nrrd", "x/a.nrrd"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs permissions that hold")
def test_a_folder_that_cannot_be_listed_is_an_image_that_cannot_be_read(tmp_path):
    touch(tmp_path, "closed/a.nrrd")
    (tmp_path / "closed").chmod(0)
    assert names(tmp_path, recursive=True) == ["closed"]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="no such folder"):
        find_images(tmp_path / "missing", recursive=False)


def test_an_image_is_its_file(tmp_path):
    touch(tmp_path, "a.nrrd", "a.raw")
    assert files_of(tmp_path / "a.nrrd") == [tmp_path / "a.nrrd"]


def test_a_series_is_all_files_of_its_folder(tmp_path):
    touch(tmp_path, "s/2.dcm", "s/1.dcm", "s/deep/3.dcm")
    assert files_of(tmp_path / "s") == [tmp_path / "s" / "1.dcm", tmp_path / "s" / "2.dcm"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("ElementDataFile = a.raw\n", ["a.raw"]),
        ("ElementDataFile=a.raw", ["a.raw"]),
        ("data file: ./a.zraw\r\n", ["a.zraw"]),
        ("ElementDataFile = LIST\nx.raw\na.raw\n", ["a.raw", "x.raw"]),
        ("ElementDataFile = slice%02d.raw 1 2 1\n", ["a.raw", "a.zraw", "aa.raw", "x.raw"]),
    ],
)
def test_the_files_that_a_header_names_belong_to_the_image(tmp_path, header, expected):
    touch(tmp_path, "a.raw", "a.zraw", "aa.raw", "x.raw")
    (tmp_path / "a.mhd").write_text(header)
    assert sorted(path.name for path in files_of(tmp_path / "a.mhd")) == sorted(["a.mhd", *expected])


PARTS = st.text(alphabet=string.ascii_letters + " =-+#%&'äß漢.,;()", min_size=1, max_size=8).filter(
    lambda part: not part.startswith(".") and part.strip(" .") and (sys.platform != "win32" or part == part.strip(" ."))
)
EXTENSIONS = st.sampled_from([".nrrd", ".nii.gz", ".nii", ".mha", ".png", ".NRRD"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.lists(st.tuples(st.lists(PARTS, max_size=2), PARTS, EXTENSIONS), min_size=1, max_size=6))
def test_every_image_has_a_result_and_a_record_of_its_own_in_the_same_place(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("images")
    written = set()
    for folders, stem, extension in paths:
        path = folder.joinpath(*folders, stem + extension)
        if str(path).casefold() in {str(other).casefold() for other in written}:  # one file, where case does not count
            continue
        try:
            touch(path.parent, path.name)
        except OSError:  # a name that is a file's and a folder's
            continue
        written.add(path)
    found = find_images(folder, recursive=True)
    assert {image.path for image in found} == written
    assert found == sorted(found)
    results = [folder / image.result_name for image in found]
    assert len({os.fspath(result) for result in results}) == len(written)
    assert all(result.parent == image.path.parent for result, image in zip(results, found, strict=True))
    assert not set(results) & written
    records = {RecordFolder(folder)._path(image.name, ".json") for image in found}
    assert len({path.name.lower() for path in records}) == len(written)
    assert all(path.name.isascii() and len(path.name) < 70 and path.name[0].isalnum() for path in records)


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_is_no_valid_text_is_a_name_too(tmp_path):
    path = os.fsencode(tmp_path) + b"/a\xff\n.nrrd"
    Path(os.fsdecode(path)).write_bytes(b"x")
    assert [os.fsencode(image.path) for image in find_images(tmp_path, recursive=False)] == [path]
