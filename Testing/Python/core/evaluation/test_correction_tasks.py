from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from correction_study import TASK, write_shapes

from scribblesegment.errors import DatasetError
from scribblesegment.evaluation.correction_config import TissueClass
from scribblesegment.evaluation.correction_tasks import read_task


def parts(images):
    return [{one.subject for one in part} for part in (images.train, images.tune, images.test)]


def test_no_subject_is_in_two_parts(tmp_path):
    images = read_task(write_shapes(tmp_path), TASK)
    train, tune, test = parts(images)
    assert (len(train), len(tune), len(test)) == (4, 2, 2)
    assert len(train | tune | test) == 8
    assert len(images.train) == 8
    assert images.licence == "CC0"


def test_the_split_is_always_the_same(tmp_path):
    write_shapes(tmp_path)
    assert parts(read_task(tmp_path, TASK)) == parts(read_task(tmp_path, TASK))


def test_numbers_of_the_set_become_classes(tmp_path):
    one = read_task(write_shapes(tmp_path), TASK).train[0]
    assert np.unique(one.labels).tolist() == [0, 1, 2]
    assert one.labels.dtype == np.uint8
    assert one.image.dtype == np.float32
    assert 0 <= one.image.min() < one.image.max() <= 1
    every = dataclasses.replace(TASK, classes=(TissueClass("anything"),))
    assert np.array_equal(read_task(tmp_path, every).train[0].labels > 0, one.labels > 0)


def test_slices_of_a_block_stay_together(tmp_path):
    write_shapes(tmp_path)
    blocks = dataclasses.replace(TASK, subject=r"p(\d+)-", block=2)
    images = read_task(tmp_path, blocks)
    assert sorted(set().union(*parts(images))) == ["0", "1", "2", "3"]
    assert sum(len(part) for part in (images.train, images.tune, images.test)) == 16


def test_images_with_little_to_see_are_left_out(tmp_path):
    with pytest.raises(DatasetError, match="leave nothing for"):
        read_task(write_shapes(tmp_path), dataclasses.replace(TASK, least_pixels=5000))


def test_brighter_images_are_another_scanner(tmp_path):
    write_shapes(tmp_path)
    with np.load(tmp_path / "shapes.npz") as archive:
        content = dict(archive)
    content["images"][8:] = np.maximum(content["images"][8:], 150)
    np.savez(tmp_path / "shapes.npz", **content)
    images = read_task(tmp_path, dataclasses.replace(TASK, brightness=(0, 0.4), other_brightness=(0.5, 1)))
    others = {one.subject for one in images.other_tune + images.other_test}
    assert others == {"p4", "p5", "p6", "p7"}
    assert set().union(*parts(images)) == {"p0", "p1", "p2", "p3"}
    assert not {one.subject for one in images.other_tune} & {one.subject for one in images.other_test}


def test_subjects_of_another_form_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="does not begin"):
        read_task(write_shapes(tmp_path), dataclasses.replace(TASK, subject=r"(\d+)"))
