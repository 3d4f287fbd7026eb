from __future__ import annotations

import json

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.in_context_tasks import ALL_OBJECTS, read_context_tasks


@pytest.fixture
def write(tmp_path):
    """Writes a set of images that show squares of these labels (a list for each image)."""

    def make(name, shown, *, file=None, **meta):
        labels = np.zeros((len(shown), 32, 32), np.uint8)
        for image, present in enumerate(shown):
            for label in present:
                labels[image, 10 * label - 8 : 10 * label, 2:12] = label
        np.savez(
            tmp_path / (file or f"{name}.npz"),
            images=labels * 80,
            labels=labels,
            meta=json.dumps({"name": name, **meta}),
        )
        return tmp_path

    return make


def test_structures_that_enough_images_show_are_tasks(write):
    folder = write("b", [[1, 2], [1], [1, 2], []], label_names={"1": "left"}, subjects=["p", "p", "q", "r"])
    write("a", [[1]] * 3)
    choice = read_context_tasks(folder, least_images=3)
    assert [task.name for task in choice.tasks] == ["a/1", "b/left"]
    assert choice.left_out == {"b/2": "2 images show it, 3 are needed"}
    left = choice.tasks[1]
    assert [(one.image_index, one.subject, one.label) for one in left.examples] == [
        (0, "p", 1),
        (1, "p", 1),
        (2, "q", 1),
    ]
    assert left.examples[0].reference.sum() == 80
    assert left.examples[0].image.dtype == np.float32
    assert left.examples[0].image.max() == np.float32(160 / 255)


def test_all_objects_of_an_image_are_one_structure_in_instance_sets(write):
    choice = read_context_tasks(write("cells", [[1, 2], [2]], instances=True), least_images=2)
    (task,) = choice.tasks
    assert task.name == "cells/objects"
    assert [example.reference.sum() for example in task.examples] == [160, 80]
    assert task.examples[0].label == ALL_OBJECTS


def test_the_structures_of_the_most_images_are_kept(write):
    choice = read_context_tasks(write("s", [[1, 2], [2, 3], [2, 3], [1]]), least_images=2, per_set=2)
    assert [task.name for task in choice.tasks] == ["s/1", "s/2"]
    assert choice.left_out == {"s/3": "others of its set are shown by more images"}


def test_small_structures_and_those_that_fill_their_image_do_not_count(write):
    folder = write("s", [[1], [1]])
    with pytest.raises(DatasetError, match="at least 81 pixels"):
        read_context_tasks(folder, least_images=1, min_area=81)
    full = np.ones((2, 8, 8), np.uint8)
    np.savez(folder / "s.npz", images=full, labels=full, meta="{}")
    with pytest.raises(DatasetError, match="No structure"):
        read_context_tasks(folder, least_images=1)


def test_sets_with_strokes_of_people_are_passed_over(write):
    folder = write("strokes", [[1]], file="medscribble_strokes.npz")
    with pytest.raises(DatasetError, match="no set with label maps"):
        read_context_tasks(folder, least_images=1)


def test_two_sets_of_one_name_are_refused(write):
    folder = write("s", [[1]])
    write("s", [[1]], file="again.npz")
    with pytest.raises(DatasetError, match="several sets of the name s"):
        read_context_tasks(folder, least_images=1)


@pytest.mark.parametrize("options", [{"least_images": 0}, {"least_images": 1, "per_set": 0}])
def test_numbers_out_of_range_are_refused(write, options):
    with pytest.raises(ConfigError, match="at least 1"):
        read_context_tasks(write("s", [[1]]), **options)
