from __future__ import annotations

import numpy as np
import pytest

from scribblesegment import FileFormatError, GeometryError, ImageError, Volume
from scribblesegment.commands.job_files import check_format_holds, check_labelmap_target, check_same_grid, listed_slices

STRAIGHT = np.diag([-0.8, -0.7, 3.0, 1.0])


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("out.xyz", r"unknown extension. Choose one of \.seg\.nrrd"),
        ("out.jpg", "unknown extension"),
        ("missing/out.nrrd", "folder .*missing does not exist"),
        ("folder.nrrd", "it is a folder"),
        ("image.nrrd", "it is the file that is read"),
        ("other/../image.nrrd", "it is the file that is read"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path, name, match):
    (tmp_path / "folder.nrrd").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(FileFormatError, match=match):
        check_labelmap_target(tmp_path / name, (tmp_path / "image.nrrd", None))


def test_an_output_that_can_be_written_is_let_pass(tmp_path):
    check_labelmap_target(tmp_path / "out.SEG.NRRD", (tmp_path / "image.nrrd", None))
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_cannot_hold_the_volume_is_refused(tmp_path):
    several = Volume(np.zeros((2, 3, 4)), STRAIGHT)
    with pytest.raises(ImageError, match="the image has 2"):
        check_format_holds(tmp_path / "o.png", several)
    sheared = STRAIGHT.copy()
    sheared[0, 1] = 0.5
    with pytest.raises(GeometryError, match=r"which \.nii\.gz cannot hold"):
        check_format_holds(tmp_path / "o.nii.gz", Volume(np.zeros((2, 3, 4)), sheared))
    check_format_holds(tmp_path / "o.nrrd", several)


def test_another_grid_is_refused_with_both_and_what_to_do(tmp_path):
    volume, other = Volume(np.zeros((2, 3, 4)), STRAIGHT), Volume(np.zeros((2, 3, 5)), STRAIGHT)
    with pytest.raises(GeometryError, match=r"\(2, 3, 5\).* against .*\(2, 3, 4\).*Resample the annotation"):
        check_same_grid(tmp_path / "a.nrrd", other, tmp_path / "i.nrrd", volume, what="annotation")


def test_a_picture_is_matched_by_its_size_alone(tmp_path):
    volume, picture = Volume(np.zeros((1, 3, 4)), STRAIGHT), Volume(np.zeros((1, 3, 4)), np.eye(4))
    check_same_grid(tmp_path / "a.png", picture, tmp_path / "i.nrrd", volume, what="strokes")
    with pytest.raises(GeometryError):
        check_same_grid(tmp_path / "a.nrrd", picture, tmp_path / "i.nrrd", volume, what="strokes")


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([4], "slice k:4"),
        ([3, 4, 5, 12], "4 slices k:3-5,12"),
        (list(range(0, 40, 2)), "20 slices k:0,2,4,6,8,10,12,14,16,18,..."),
    ],
)
def test_slices_are_listed_as_ranges(indices, text):
    assert listed_slices(0, indices) == text
