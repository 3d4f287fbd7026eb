"""Tests of context sets drawn for training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scribblesegment.training import samples as context_samples
from scribblesegment.training.config import ContextConfig, DataConfig, TrainingConfig
from scribblesegment.training.corpus import HierarchicalSampler, Sample, SegmentationSet
from scribblesegment.training.samples import SampleDataset, as_previous, border, collate, label_mask

SIDE = 32


@pytest.fixture
def still(plain) -> ContextConfig:
    """Contexts of up to four entries in which nothing is changed."""
    return ContextConfig(
        max_size=4, copy_p=0.0, neighbour_p=0.0, silent_p=0.0, edges_p=0.0, within=plain, of_copies=plain
    )


@pytest.fixture
def with_context(tiny, plain, still) -> TrainingConfig:
    return replace(tiny, data=DataConfig(min_area=4, synthetic_p=0.0, augmentation=plain, context=still))


def same_everywhere(entry: SegmentationSet, image: np.ndarray, mask: np.ndarray, label: int) -> bool:
    """Whether an example shows one of the set's images, with that label's mask."""
    matches = [np.abs(image - other / max(other.max(), 1)).mean() < 0.1 for other in entry.images]
    overlap = [np.mean(mask == (labels == label)) > 0.98 for labels in entry.labels]
    return any(a and b for a, b in zip(matches, overlap, strict=True))


def test_examples_show_the_same_structure_in_other_images(discs, with_context):
    dataset = SampleDataset([discs], with_context)
    seen = 0
    for index in range(12):
        sample = dataset[index]
        label = 1 if sample.image[sample.mask].mean() > 0.6 else 2
        for image, mask in zip(sample.context_images, sample.context_masks, strict=True):
            assert same_everywhere(discs, image, mask, label)
            assert np.abs(image - sample.image).mean() > 0.01
            seen += 1
    assert seen > 5


def test_all_samples_of_a_step_have_contexts_of_one_size_and_steps_differ(discs, with_context):
    dataset = SampleDataset([discs], replace(with_context, steps=10))
    sizes = [[len(dataset[4 * step + number].context_images) for number in range(4)] for step in range(10)]
    assert all(len(set(step)) == 1 for step in sizes)
    assert len({step[0] for step in sizes}) > 2
    assert max(step[0] for step in sizes) <= 4


def test_a_batch_holds_targets_and_contexts(discs, with_context):
    dataset = SampleDataset([discs], with_context)
    step = next(step for step in range(6) if len(dataset[4 * step].context_images) > 0)
    batch = collate([dataset[4 * step + number] for number in range(4)])
    size = len(dataset[4 * step].context_images)
    assert batch.context_images.shape == batch.context_masks.shape == (4, size, 1, SIDE, SIDE)
    assert set(batch.context_masks.unique().tolist()) <= {0.0, 1.0}
    assert batch.previous_logits is None


def test_without_contexts_a_batch_has_none(discs, tiny):
    dataset = SampleDataset([discs], tiny)
    batch = collate([dataset[0], dataset[1]])
    assert batch.context_images is None
    assert batch.previous_logits is None


def test_the_first_look_may_have_the_context_alone_and_a_neighbour_s_mask(discs, with_context):
    context = replace(with_context.data.context, silent_p=1.0, previous_p=1.0)
    config = replace(with_context, steps=10, data=replace(with_context.data, context=context))
    dataset = SampleDataset([discs], config)
    for index in range(0, 40, 4):
        sample = dataset[index]
        if len(sample.context_images) == 0:
            assert not sample.prompts.is_empty
            assert sample.previous_logits is None
        else:
            assert sample.prompts.is_empty
            masks = [np.mean((sample.previous_logits > 0) == mask) for mask in sample.context_masks]
            assert max(masks) > 0.95
            assert collate([sample]).previous_logits.shape == (1, 1, SIDE, SIDE)


def test_examples_are_changed_alike_and_each_on_its_own(discs, with_context, plain):
    turned = replace(plain, invert_p=1.0)
    moved = replace(plain, noise_p=1.0, noise_std=(0.05, 0.05))
    context = replace(with_context.data.context, within=moved)
    config = replace(with_context, steps=10, data=replace(with_context.data, augmentation=turned, context=context))
    dataset = SampleDataset([discs], config)
    checked = 0
    for index in range(0, 40, 4):
        sample = dataset[index]
        for image, mask in zip(sample.context_images, sample.context_masks, strict=True):
            assert image[mask].mean() < image[~mask].mean()  # inverted, as the target
            checked += 1
        if len(sample.context_images) > 1:
            assert not np.allclose(sample.context_images[0], sample.context_images[1])
    assert checked > 3


@pytest.mark.parametrize("reason", ["copies", "superpixels", "shapes"])
def test_without_other_images_the_target_s_own_is_deformed(discs, with_context, plain, reason):
    shifted = replace(plain, affine_p=1.0, degrees=(0.0, 0.0), translate=0.1, scale=(1.0, 1.0))
    context = replace(with_context.data.context, of_copies=shifted, copy_p=float(reason == "copies"))
    data = replace(
        with_context.data,
        context=context,
        synthetic_p=float(reason == "superpixels"),
        superpixel_scale=(50.0, 50.0),
        shapes_p=float(reason == "shapes"),
    )
    dataset = SampleDataset([discs], replace(with_context, steps=10, data=data))
    sample = next(sample for sample in (dataset[index] for index in range(0, 40, 4)) if len(sample.context_images) > 1)
    areas = [mask.sum() for mask in (sample.mask, *sample.context_masks)]
    assert min(areas) > 0.4 * max(areas)
    assert not np.array_equal(sample.context_masks[0], sample.context_masks[1])


def a_volume(count: int = 10) -> SegmentationSet:
    """Slices of one volume in which a square moves one pixel from slice to slice, and a second subject."""
    images, labels = np.zeros((2 * count, SIDE, SIDE), np.uint8), np.zeros((2 * count, SIDE, SIDE), np.uint8)
    for index in range(2 * count):
        place = 4 + index % count
        images[index, 8:16, place : place + 8] = 200 if index < count else 120
        labels[index, 8:16, place : place + 8] = 1
    meta = {
        "subjects": ["one"] * count + ["two"] * count,
        "axis": [0] * 2 * count,
        "index": [*range(count), *range(count)],
    }
    return SegmentationSet("volume", images, labels, False, meta)


def test_neighbours_are_slices_of_the_same_volume_within_reach(still):
    volume = a_volume()
    data = DataConfig(min_area=4, context=replace(still, neighbour_p=1.0, reach=2))
    drawer = context_samples.ContextDrawer([volume], HierarchicalSampler([volume]), data, SIDE)
    drawn = context_samples.Drawn(
        volume.images[5] / np.float32(255), volume.labels[5] > 0, Sample(0, 5, 1), labels=(1,)
    )
    rows, columns = (axis.astype(np.float32) for axis in np.mgrid[:SIDE, :SIDE])
    change = context_samples.TaskChange(rows, columns, contrast_seed=0)
    plain_data = replace(data, augmentation=still.within)
    drawer._data = plain_data
    _, masks = drawer.draw(drawn, change, 20, np.random.default_rng(1))
    places = {int(np.flatnonzero(mask.any(axis=0))[0]) - 4 for mask in masks}
    assert places == {3, 4, 6, 7}


def test_a_set_that_does_not_tell_its_slices_has_no_neighbours(discs):
    assert context_samples._places(discs) == [("", 0)] * len(discs.images)


def test_all_objects_of_an_instance_set_are_a_structure_too_and_single_ones_have_copies_only(discs, with_context):
    instances = replace(discs, instances=True)
    dataset = SampleDataset([instances], with_context)
    drawn = [dataset._draw_structure(np.random.default_rng(seed)) for seed in range(20)]
    everything = [each for each in drawn if each.labels is None]
    assert 0 < len(everything) < 20
    for each in drawn:
        labels = instances.labels[each.sample.image_index]
        assert np.array_equal(each.mask, labels > 0) == (each.labels is None)
        assert each.labels in (None, ())


def test_labels_united_in_the_target_are_united_in_its_context(discs, with_context):
    data = replace(with_context.data, union_p=1.0)
    dataset = SampleDataset([discs], replace(with_context, steps=10, data=data))
    sample = next(sample for sample in (dataset[index] for index in range(0, 40, 4)) if len(sample.context_images) > 0)
    for mask in (sample.mask, *sample.context_masks):
        assert mask[:, : SIDE // 2].any()
        assert mask[:, SIDE // 2 :].any()


def test_a_label_mask_takes_some_labels_or_all():
    labels = np.array([[0, 1], [2, 3]])
    assert label_mask(labels, (1, 3)).tolist() == [[False, True], [False, True]]
    assert label_mask(labels, None).tolist() == [[False, True], [True, True]]


def test_the_border_lies_on_both_sides_of_the_outline():
    mask = np.zeros((128, 128), bool)
    mask[32:96, 32:96] = True
    outline = border(mask)
    assert outline[31, 64]
    assert outline[32, 64]
    assert not outline[34, 64]
    assert not outline[29, 64]
    assert outline.sum() < 700


def test_a_border_may_stand_for_the_structure_in_target_and_context(discs, with_context):
    context = replace(with_context.data.context, edges_p=1.0)
    dataset = SampleDataset([discs], replace(with_context, steps=10, data=replace(with_context.data, context=context)))
    for index in range(0, 40, 4):
        sample = dataset[index]
        for mask in (sample.mask, *sample.context_masks):
            rows, columns = np.nonzero(mask)
            assert not mask[round(rows.mean()), round(columns.mean())]  # hollow


def test_a_previous_prediction_is_the_softened_mask():
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    logits = as_previous(mask, np.random.default_rng(0))
    assert logits.dtype == np.float32
    assert 1.5 < logits[16, 16] <= 8.0
    assert -8.0 <= logits[0, 0] < -1.5
    assert np.mean((logits > 0) == mask) > 0.97


def test_samples_are_the_same_whenever_they_are_built(discs, with_context):
    one, other = (SampleDataset([discs], with_context) for _ in range(2))
    other[3]
    for first, second in zip(one[9].context_images, other[9].context_images, strict=True):
        assert np.array_equal(first, second)
