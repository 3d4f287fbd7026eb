from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.errors import DatasetError
from scribblesegment.training.corpus import HierarchicalSampler, Sample, SegmentationSet, load_corpus, modality


def a_set(labels: list[list[int]], *, instances: bool = False, side: int = 8) -> SegmentationSet:
    """One image for each inner list; each of its labels fills two rows."""
    arrays = np.zeros((len(labels), side, side), dtype=np.uint16)
    for image, present in zip(arrays, labels, strict=True):
        for row, label in enumerate(present):
            image[row * 2 : row * 2 + 2] = label
    return SegmentationSet("a set", np.zeros(arrays.shape, np.uint8), arrays, instances, {})


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
    with pytest.raises(DatasetError, match="There is no folder"):
        load_corpus(tmp_path / "nowhere")


def test_bad_sets_are_named_and_skipped_when_asked_for(save_set):
    folder = save_set("good").parent
    save_set("grey", images=np.zeros((5, 32, 32), np.float32))
    (folder / "damaged.npz").write_bytes(b"damaged")
    told = []
    assert [entry.name for entry in load_corpus(folder, skip_bad=told.append)] == ["good"]
    assert len(told) == 2
    assert "damaged.npz cannot be read" in told[0]
    assert "grey.npz: expected images uint8" in told[1]


def test_without_being_asked_for_nothing_is_skipped(save_set):
    folder = save_set("good").parent
    save_set("grey", images=np.zeros((5, 32, 32), np.float32))
    with pytest.raises(DatasetError, match=r"grey\.npz"):
        load_corpus(folder)


def test_a_corpus_of_bad_sets_only_is_refused_all_the_same(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.npz").write_bytes(b"damaged")
    told = []
    with pytest.raises(DatasetError, match="no usable training set"):
        load_corpus(tmp_path, skip_bad=told.append)
    assert len(told) == 2


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


def of_modality(modality: str) -> SegmentationSet:
    return replace(a_set([[1]]), meta={"modality": modality})


BY_MODALITY = [of_modality("MRI T1"), of_modality("T2 MRI"), of_modality("DCE-MRI breast"), of_modality("CT")]


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        (0.0, [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        (1.0, [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        (0.5, [5 / 24, 5 / 24, 5 / 24, 3 / 8]),
    ],
)
def test_modalities_count_as_much_as_configured(balance, shares):
    counts = Counter(
        sample.set_index for sample in draw(HierarchicalSampler(BY_MODALITY, modality_balance=balance), 3000)
    )
    for index, share in enumerate(shares):
        assert_share(counts[index], 3000, share)


def test_sets_that_do_not_tell_their_modality_are_one_modality():
    sets = [a_set([[1]]), a_set([[2]]), of_modality("CT")]
    counts = Counter(sample.set_index for sample in draw(HierarchicalSampler(sets, modality_balance=1.0), 2000))
    for index, share in enumerate((1 / 4, 1 / 4, 1 / 2)):
        assert_share(counts[index], 2000, share)


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("CT (2 mm iso, 48x48 patches)", "ct"),
        ("DCE-MRI breast", "mri"),
        ("MRI/CT", "mri"),
        ("phase-contrast microscopy", "microscopy"),
        ("3D fluorescence (light-sheet)", "fluorescence"),
        ("colour fundus photography", "fundus"),
        ("Chest X-ray", "x-ray"),
        ("OCT", "oct"),
        ("spectral photography", "spectral photography"),
        ("", ""),
    ],
)
def test_a_modality_is_told_by_a_word_of_its_description(described, name):
    assert modality(of_modality(described)) == name


def test_the_same_generator_draws_the_same_samples():
    sampler = HierarchicalSampler([a_set([[1, 2], [2, 3]]), a_set([[1], [1, 2]], instances=True)])
    assert draw(sampler, 30) == draw(sampler, 30)
