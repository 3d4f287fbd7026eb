"""The reader that training and evaluation share."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.errors import DatasetError
from scribblesegment.training.corpus import SegmentationSet, load_set, read_arrays, subjects_of


@pytest.fixture
def save_set(tmp_path):
    """Writes a set; any array may be replaced, or left out by None."""

    def save(stem="discs", **changes):
        labels = np.zeros((5, 32, 32), np.uint8)
        labels[:, 4:9, 4:9] = 1
        arrays = {"images": labels * 90, "labels": labels, "meta": json.dumps({"name": stem}), **changes}
        path = tmp_path / f"{stem}.npz"
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
        return path

    return save


def test_a_set_is_read_with_its_description(save_set):
    labels = np.zeros((2, 8, 8), np.uint16)
    labels[:, 2:4] = 300
    meta = '{"name": "Cells", "instances": true, "licence": "CC0-1.0"}'
    read = load_set(save_set("file", images=np.full((2, 8, 8), 7, np.uint8), labels=labels, meta=meta))
    assert (read.name, read.instances, read.meta["licence"]) == ("Cells", True, "CC0-1.0")
    np.testing.assert_array_equal(read.labels, labels)
    assert read.images.dtype == np.uint8


def test_a_set_without_a_name_is_called_as_its_file(save_set):
    read = load_set(save_set("spleen", meta="{}"))
    assert (read.name, read.instances) == ("spleen", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "lacks labels; a set is"),
        ({"images": None, "meta": None}, "lacks images, meta"),
        ({"meta": "no json"}, "cannot be read"),
        ({"meta": "[1, 2]"}, "meta must be a JSON object, got list"),
        ({"images": np.zeros((5, 32, 32), np.float32)}, "expected images uint8 .* got images float32"),
        ({"labels": np.zeros((5, 32, 32), np.int64)}, "labels int64"),
        ({"labels": np.zeros((5, 32, 32), np.uint64)}, "labels uint64"),
        ({"labels": np.zeros((5, 16, 16), np.uint8)}, r"labels uint8 \(5, 16, 16\)"),
        ({"images": np.zeros((5, 32, 32, 3), np.uint8)}, r"images uint8 \(5, 32, 32, 3\)"),
        ({"images": np.zeros((2, 8, 9), np.uint8), "labels": np.zeros((2, 8, 9), np.uint8)}, "square"),
        ({"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros((0, 8, 8), np.uint8)}, "at least one image"),
        ({"meta": np.array([{"name": "pickled"}], dtype=object)}, "cannot be read"),
    ],
)
def test_another_layout_is_refused_with_the_file_s_name(save_set, changes, message):
    with pytest.raises(DatasetError, match=rf"discs\.npz.*{message}"):
        load_set(save_set(**changes))


class _TouchWhenLoaded:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_set_is_not_run(save_set, tmp_path):
    evil = np.array([_TouchWhenLoaded(tmp_path / "ran")], dtype=object)
    with pytest.raises(DatasetError, match=r"discs\.npz cannot be read"):
        load_set(save_set(meta=evil))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_named_as_a_set_is_not_run(tmp_path):
    path = tmp_path / "evil.npz"
    path.write_bytes(pickle.dumps(_TouchWhenLoaded(tmp_path / "ran")))
    with pytest.raises(DatasetError, match=r"evil\.npz cannot be read"):
        load_set(path)
    assert not (tmp_path / "ran").exists()


def test_a_single_array_is_refused(tmp_path):
    path = tmp_path / "array.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DatasetError, match=r"array\.npz holds a single array"):
        load_set(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"some text"])
def test_a_file_that_is_no_archive_is_named(tmp_path, content):
    path = tmp_path / "wrong.npz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"wrong\.npz"):
        load_set(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.npz"):
        load_set(tmp_path / "none.npz")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else_happens(tmp_path, data):
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 8, 8)).astype(np.uint8)
    np.savez_compressed(buffer, images=images, labels=images % 3, meta='{"name": "x"}')
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    try:
        read = load_set(path)
    except DatasetError as error:
        assert "damaged.npz" in str(error)  # noqa: PT017 (an undamaged reading is allowed too)
    else:
        assert read.images.shape == (2, 8, 8)


def test_arrays_of_any_layout_are_read_with_the_description(save_set):
    arrays, meta = read_arrays(save_set(strokes=np.arange(3)), ("strokes", "labels"))
    assert list(arrays) == ["strokes", "labels"]
    assert arrays["strokes"].tolist() == [0, 1, 2]
    assert meta == {"name": "discs"}


def test_a_label_is_called_by_its_name_or_else_its_number():
    def named(meta):
        return SegmentationSet("x", np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8), False, meta)

    assert named({"label_names": {"3": "liver"}}).label_name(3) == "liver"
    assert named({"label_names": {"3": "liver"}}).label_name(4) == "4"
    assert named({}).label_name(3) == "3"
    assert named({"label_names": ["liver"]}).label_name(3) == "3"


def test_subjects_are_read_only_if_every_image_has_one():
    assert subjects_of({"subjects": ["a", 7]}, 2) == ("a", "7")
    assert subjects_of({"subjects": ["a"]}, 2) == ("", "")
    assert subjects_of({}, 1) == ("",)
