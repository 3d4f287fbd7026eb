from __future__ import annotations

import io
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.exceptions import DatasetError
from scribblesegment.training.datasets import HierarchicalSampler, Sample, SegmentationSet, load_corpus, load_set


def a_set(labels: list[list[int]], *, instances: bool = False, side: int = 8) -> SegmentationSet:
    """One image for each inner list; each of its labels fills two rows."""
    arrays = np.zeros((len(labels), side, side), dtype=np.uint16)
    for image, present in zip(arrays, labels, strict=True):
        for row, label in enumerate(present):
            image[row * 2 : row * 2 + 2] = label
    return SegmentationSet("a set", np.zeros(arrays.shape, np.uint8), arrays, instances, {})


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


def test_a_folder_is_read_in_the_order_of_its_names(save_set):
    folder = save_set("b").parent
    save_set("a")
    save_set("c")
    assert [entry.name for entry in load_corpus(folder)] == ["a", "b", "c"]


def test_excluded_sets_are_not_even_opened(save_set):
    folder = save_set("a").parent
    (folder / "b.npz").write_bytes(b"damaged")
    assert [entry.name for entry in load_corpus(folder, exclude=["b"])] == ["a"]
    with pytest.raises(DatasetError, match=r"b\.npz"):
        load_corpus(folder)


def test_an_excluded_set_that_does_not_exist_is_named(save_set):
    with pytest.raises(DatasetError, match=r"not in .*: aortha, liver"):
        load_corpus(save_set("aorta").parent, exclude=["liver", "aortha"])


def test_a_folder_without_sets_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"No training set \(\*\.npz\)"):
        load_corpus(tmp_path / "nowhere")


def draw(sampler: HierarchicalSampler, count: int) -> list[Sample]:
    rng = np.random.default_rng(11)
    return [sampler.draw(rng) for _ in range(count)]


def assert_share(hits: int, trials: int, share: float) -> None:
    """Within four standard deviations of a binomial count."""
    assert abs(hits - trials * share) < 4 * np.sqrt(trials * share * (1 - share))


def test_sets_are_equally_likely_whatever_their_size():
    samples = draw(HierarchicalSampler([a_set([[1]] * 30), a_set([[1, 2]]), a_set([[4]] * 3)]), 3000)
    counts = Counter(sample.set_index for sample in samples)
    for index in range(3):
        assert_share(counts[index], 3000, 1 / 3)


def test_labels_of_a_set_are_equally_likely_whatever_their_frequency():
    samples = draw(HierarchicalSampler([a_set([[1]] * 20 + [[1, 7]])]), 2000)
    assert_share(sum(sample.label == 7 for sample in samples), 2000, 1 / 2)
    assert {sample.image_index for sample in samples if sample.label == 7} == {20}
    assert {sample.image_index for sample in samples if sample.label == 1} == set(range(21))


def test_images_that_show_a_label_are_equally_likely():
    samples = [sample for sample in draw(HierarchicalSampler([a_set([[1], [1, 2], [2], [1]])]), 4000)]
    of_one = Counter(sample.image_index for sample in samples if sample.label == 1)
    assert set(of_one) == {0, 1, 3}
    for image in of_one:
        assert_share(of_one[image], of_one.total(), 1 / 3)


def test_in_instance_sets_images_are_equally_likely_and_then_their_objects():
    samples = draw(HierarchicalSampler([a_set([[1], [1, 2, 3, 9]], instances=True)]), 4000)
    in_second = [sample.label for sample in samples if sample.image_index == 1]
    assert_share(len(in_second), 4000, 1 / 2)
    counts = Counter(in_second)
    assert set(counts) == {1, 2, 3, 9}
    for label in counts:
        assert_share(counts[label], len(in_second), 1 / 4)


@given(st.lists(st.lists(st.integers(1, 500), max_size=4, unique=True), min_size=1, max_size=5), st.booleans())
def test_every_sample_shows_its_structure(labels, instances):
    if not any(labels):
        labels = [*labels, [3]]
    entry = a_set(labels, instances=instances)
    sampler = HierarchicalSampler([entry], min_fraction=0.25)
    for sample in draw(sampler, 20):
        assert np.mean(entry.labels[sample.image_index] == sample.label) >= 0.25
        assert sampler.labels_of(sample) == sorted(set(labels[sample.image_index]))


def test_small_structures_are_left_out():
    entry = a_set([[1, 2]])
    entry.labels[0, 2:4] = 0
    entry.labels[0, 2, 0] = 2
    samples = draw(HierarchicalSampler([entry], min_fraction=2 / 64), 50)
    assert {sample.label for sample in samples} == {1}
    assert {sample.label for sample in draw(HierarchicalSampler([entry], min_fraction=1 / 64), 50)} == {1, 2}


def test_a_set_without_a_usable_structure_is_named():
    with pytest.raises(DatasetError, match="Set a set shows no structure"):
        HierarchicalSampler([a_set([[1]]), a_set([[], []])])


def test_the_same_generator_draws_the_same_samples():
    sampler = HierarchicalSampler([a_set([[1, 2], [2, 3]]), a_set([[1], [1, 2]], instances=True)])
    assert draw(sampler, 30) == draw(sampler, 30)
