from __future__ import annotations

import pickle

import numpy as np
import pytest

from scribblesegment.errors import DatasetError
from scribblesegment.evaluation.datasets import read_scribble_set, read_scribble_sets


def test_a_set_is_read_as_examples_of_every_image_and_annotator(write_set):
    entry = read_scribble_set(write_set("heart"))
    examples = list(entry.examples())
    assert [(e.task, e.subject, e.image_index, e.annotator) for e in examples] == [
        ("heart", "subject 0", 0, 0),
        ("heart", "subject 0", 0, 1),
        ("heart", "subject 1", 1, 0),
        ("heart", "subject 1", 1, 1),
    ]
    first = examples[0]
    assert (first.image.dtype, first.scribbles.dtype, first.reference.dtype) == (np.float32, np.float32, bool)
    assert (first.image.min(), first.image.max()) == (np.float32(40 / 255), 1.0)
    assert np.argwhere(first.scribbles[0]).tolist() == [[6, column] for column in range(5, 9)]
    assert np.argwhere(first.scribbles[1]).tolist() == [[1, column] for column in range(2, 14)]
    assert first.reference.sum() == 36


def test_an_annotator_who_drew_nothing_on_the_object_is_passed_over(write_set):
    scribbles = np.zeros((2, 2, 2, 16, 16), np.uint8)
    scribbles[1, 0, 0, 5, 5] = scribbles[0, 0, 1, 5, 5] = 255
    examples = list(read_scribble_set(write_set(scribbles=scribbles)).examples())
    assert [(e.image_index, e.annotator) for e in examples] == [(1, 0)]
    assert examples[0].scribbles.max() == 1.0


def test_a_set_that_names_no_subjects_is_read(write_set):
    assert read_scribble_set(write_set(meta="{}")).subjects == ("", "")
    assert read_scribble_set(write_set(meta='{"subjects": ["only one"]}')).subjects == ("", "")


def test_the_sets_of_a_folder_come_in_the_order_of_their_names(write_set, tmp_path):
    write_set("b")
    write_set("a")
    np.savez(tmp_path / "data" / "another.npz", images=0)
    assert [entry.task for entry in read_scribble_sets(tmp_path / "data")] == ["a", "b"]


def test_a_missing_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no folder"):
        read_scribble_sets(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no medscribble_\*\.npz"):
        read_scribble_sets(tmp_path)


@pytest.mark.parametrize("name", ["images", "labels", "scribbles", "meta"])
def test_a_set_that_lacks_an_array_is_refused(write_set, name):
    with pytest.raises(DatasetError, match=f"square.npz lacks {name}"):
        read_scribble_set(write_set(**{name: None}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", np.zeros((2, 16, 16), np.float32)),
        ("images", np.zeros((3, 16, 16), np.uint8)),
        ("images", np.zeros((2, 16, 16, 3), np.uint8)),
        ("labels", np.zeros((2, 16, 15), np.uint8)),
        ("labels", np.zeros((2, 16, 16))),
        ("scribbles", np.zeros((2, 2, 16, 16), np.uint8)),
        ("scribbles", np.zeros((2, 2, 3, 16, 16), np.uint8)),
        ("scribbles", np.zeros((2, 2, 2, 8, 16), np.uint8)),
        ("scribbles", np.zeros((2, 2, 2, 16, 16), bool)),
    ],
)
def test_a_set_of_another_layout_is_refused(write_set, name, value):
    with pytest.raises(DatasetError, match=r"square\.npz: expected images uint8"):
        read_scribble_set(write_set(**{name: value}))


def test_a_set_without_any_positive_stroke_is_refused(write_set):
    with pytest.raises(DatasetError, match="no annotator drew"):
        read_scribble_set(write_set(scribbles=np.zeros((2, 2, 2, 16, 16), np.uint8)))


def test_a_damaged_description_is_refused(write_set):
    with pytest.raises(DatasetError, match="cannot be read"):
        read_scribble_set(write_set(meta="{"))


@pytest.mark.parametrize("kept", [0, 10, 200, -30])
def test_a_truncated_file_is_refused(write_set, kept):
    path = write_set()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match="square"):
        read_scribble_set(path)


def test_a_single_array_is_refused(write_set):
    path = write_set()
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DatasetError, match="single array"):
        read_scribble_set(path)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_not_run(write_set):
    path = write_set(images=np.array([Trap()], dtype=object))
    with pytest.raises(DatasetError, match="cannot be read"):
        read_scribble_set(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DatasetError, match="cannot be read"):
        read_scribble_set(path)
