from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.label_tasks import read_label_examples

SIDE = 32


@pytest.fixture
def save(tmp_path):
    """Writes a set: for each image the labels it shows, each a square of 16 pixels; returns its folder."""

    def write(stem, images, **meta):
        labels = np.zeros((len(images), SIDE, SIDE), np.uint8)
        for image, present in zip(labels, images, strict=True):
            for n, label in enumerate(present):
                row, column = 5 * (n // 6), 5 * (n % 6)
                image[row : row + 4, column : column + 4] = label
        grey = np.full(labels.shape, 51, np.uint8)
        np.savez(tmp_path / f"{stem}.npz", images=grey, labels=labels, meta=json.dumps({"name": stem, **meta}))
        return tmp_path

    return write


def read(folder, **options):
    return read_label_examples(folder, **{"min_area": 4, **options})


def test_an_example_is_one_structure_of_one_image(save):
    folder = save("heart", [[1, 2]], label_names={"1": "LV"}, subjects=["patient 7"])
    first, second = read(folder)
    assert (first.set_name, first.task, first.subject) == ("heart", "heart/LV", "patient 7")
    assert (second.task, second.image_index, second.label) == ("heart/2", 0, 2)
    assert first.image.dtype == np.float32
    assert first.image.max() == np.float32(0.2)
    assert first.reference.dtype == bool
    assert np.argwhere(first.reference).min(axis=0).tolist() == [0, 0]
    assert np.argwhere(second.reference).min(axis=0).tolist() == [0, 5]
    assert first.reference.sum() == 16


def test_labels_are_balanced_whatever_their_frequency(save):
    examples = read(save("a", [[1]] * 20 + [[1, 2]] * 3), per_set=6)
    assert Counter(example.label for example in examples) == {1: 3, 2: 3}


def test_when_a_label_is_used_up_the_others_go_on(save):
    examples = read(save("a", [[1]] * 5 + [[1, 2]]), per_set=6)
    assert Counter(example.label for example in examples) == {1: 5, 2: 1}


def test_subjects_are_balanced(save):
    subjects = ["p"] * 8 + ["q", "r"]
    examples = read(save("a", [[1]] * 10, subjects=subjects), per_set=4)
    assert Counter(example.subject for example in examples) == {"p": 2, "q": 1, "r": 1}


def test_subjects_are_balanced_over_labels_too(save):
    examples = read(save("a", [[1, 2]] * 6, subjects=list("pqrstu")), per_set=6)
    assert sorted(example.subject for example in examples) == list("pqrstu")


def test_images_of_a_set_that_names_no_subjects_are_subjects(save):
    examples = read(save("a", [[1]] * 3), per_set=3)
    assert [example.subject for example in examples] == ["0", "1", "2"]


def test_in_instance_sets_one_object_is_the_structure_and_images_take_turns(save):
    examples = read(save("cells", [list(range(1, 31)), [1, 2]], instances=True), per_set=4)
    assert {example.task for example in examples} == {"cells/object"}
    assert Counter(example.image_index for example in examples) == {0: 2, 1: 2}
    assert all(example.reference.sum() == 16 for example in examples)
    assert len({(example.image_index, example.label) for example in examples}) == 4


def test_small_structures_and_those_that_fill_the_image_are_left_out(save, tmp_path):
    labels = np.full((2, 8, 8), 3, np.uint8)
    labels[1] = 0
    labels[1, 0, :5] = 1
    labels[1, 4, :6] = 2
    meta = json.dumps({"name": "a"})
    np.savez(tmp_path / "a.npz", images=labels, labels=labels, meta=meta)
    assert [example.label for example in read(tmp_path, min_area=6)] == [2]
    with pytest.raises(DatasetError, match="Set a shows no structure of at least 7 pixels"):
        read(tmp_path, min_area=7)


def chosen(examples, name="a"):
    return [(e.image_index, e.label) for e in examples if e.set_name == name]


def test_the_choice_depends_on_the_seed_and_on_its_own_set_alone(save):
    folder = save("a", [[1, 2, 3]] * 12)
    alone = chosen(read(folder))
    assert chosen(read(folder)) == alone
    assert any(chosen(read(folder, seed=seed)) != alone for seed in (1, 2, 3))
    save("0 comes first", [[1]] * 4)
    assert chosen(read(folder)) == alone
    assert [example.set_name for example in read(folder, per_set=1)] == ["0 comes first", "a"]


def test_sets_with_strokes_of_people_are_passed_over(save, tmp_path):
    save("a", [[1]])
    (tmp_path / "medscribble_x.npz").write_bytes(b"not even opened")
    assert [example.set_name for example in read(tmp_path)] == ["a"]
    (tmp_path / "a.npz").unlink()
    with pytest.raises(DatasetError, match="no set with label maps"):
        read(tmp_path)


def test_bad_folders_sets_and_numbers_are_refused(save, tmp_path):
    with pytest.raises(DatasetError, match="no folder"):
        read(tmp_path / "nowhere")
    folder = save("a", [[1]])
    save("b", [[1]], name="a")
    with pytest.raises(DatasetError, match="several sets of the name a"):
        read(folder)
    (folder / "b.npz").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"b\.npz"):
        read(folder)
    for wrong in ({"per_set": 0}, {"min_area": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match="at least"):
            read(folder, **wrong)
