from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import DatasetError
from scribblesegment.models import encoding
from scribblesegment.training import samples
from scribblesegment.training.augmentation import halve
from scribblesegment.training.config import AugmentationConfig, TrainingConfig
from scribblesegment.training.corpus import SegmentationSet
from scribblesegment.training.samples import FINE, SampleDataset, TrainingSample, collate

ONLY_SPATIAL = AugmentationConfig(
    affine_p=1.0,
    elastic_p=1.0,
    brightness_contrast_p=0.0,
    blur_p=0.0,
    noise_p=0.0,
    sharpness_p=0.0,
    flip_p=0.5,
)


@pytest.fixture
def only_real(tiny, plain) -> TrainingConfig:
    """Real labels, no augmentation."""
    return replace(tiny, data=replace(tiny.data, synthetic_p=0.0, augmentation=plain))


@pytest.fixture
def no_user(monkeypatch) -> None:
    """Leave the prompts away, which take most of a sample's time."""
    monkeypatch.setattr(samples, "simulate_first_round", lambda mask, rng, config: Prompts.empty(mask.shape))


def a_set(image: np.ndarray, labels: np.ndarray) -> SegmentationSet:
    return SegmentationSet("one image", image[None].astype(np.uint8), labels[None].astype(np.uint8), False, {})


def left_and_right(image, scale):
    partition = np.zeros(image.shape, np.uint8)
    partition[:, image.shape[1] // 2 :] = 1
    return partition


def smoothed(image: np.ndarray) -> np.ndarray:
    """What linear interpolation to twice the resolution and averaging back leave of an image: 1/8, 3/4, 1/8."""
    for _ in range(2):
        padded = np.pad(image.astype(float), [(1, 1), (0, 0)], mode="edge")
        image = (0.125 * padded[:-2] + 0.75 * padded[1:-1] + 0.125 * padded[2:]).T
    return image


def assert_same(first: TrainingSample, second: TrainingSample) -> None:
    for name in ("fine_image", "fine_mask", "image", "mask"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for name in ("scribbles", "point_coords", "point_labels", "boxes"):
        np.testing.assert_array_equal(getattr(first.prompts, name), getattr(second.prompts, name))


def test_a_plain_sample_of_the_grid_s_size_is_the_image_smoothed_and_its_label(discs, only_real):
    sample = SampleDataset([discs], only_real)[0]
    matches = [
        (image, labels == label)
        for image, labels in zip(discs.images, discs.labels, strict=True)
        for label in (1, 2)
        if np.array_equal(labels == label, sample.mask)
    ]
    assert len(matches) == 1
    image, _ = matches[0]
    normalised = IntensityRange.estimate(image).normalize(image)
    np.testing.assert_allclose(sample.image, smoothed(normalised), atol=1e-5)
    assert (sample.image.dtype, sample.mask.dtype) == (np.float32, np.bool_)


def test_a_plain_sample_of_an_image_of_twice_the_grid_s_side_is_fine_and_on_the_grid_its_mean(only_real, rng):
    image = rng.integers(0, 256, (64, 64))
    labels = np.zeros((64, 64))
    labels[9:31, 20:41] = 1  # odd borders: half of a cell's pixels belong to it
    sample = SampleDataset([a_set(image, labels)], only_real)[0]
    normalised = IntensityRange.estimate(image).normalize(image)
    np.testing.assert_allclose(sample.fine_image, normalised, atol=1e-5)
    np.testing.assert_array_equal(sample.fine_mask, labels > 0)
    np.testing.assert_allclose(sample.image, halve(normalised), atol=1e-5)
    assert np.argwhere(sample.mask).min(axis=0).tolist() == [4, 10]
    assert np.argwhere(sample.mask).max(axis=0).tolist() == [15, 20]
    assert (sample.fine_image.dtype, sample.fine_mask.dtype) == (np.float32, np.bool_)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_larger_image_is_averaged_and_not_decimated(discs, only_real, factor):
    side = 32 * factor
    checkers = 255 * (np.indices((side, side)).sum(axis=0) % 2)
    labels = np.zeros((side, side))
    labels[: side // 2] = 1
    sample = SampleDataset([a_set(checkers, labels)], only_real)[0]
    np.testing.assert_allclose(sample.image, 0.5, atol=1e-5)
    np.testing.assert_array_equal(sample.mask, halve(labels, factor // 2) > 0.5)


@pytest.mark.usefixtures("no_user")
@pytest.mark.parametrize("side", [16, 33, 41, 50, 63, 97])
def test_a_structure_lies_where_it_is_in_the_image_whatever_its_side(only_real, side):
    position = (np.arange(side) + 0.5) / side
    inside = (np.abs(position[:, None] - 0.3) < 0.2) & (np.abs(position[None, :] - 0.7) < 0.2)
    sample = SampleDataset([a_set(255 * inside, inside)], only_real)[0]
    found = np.argwhere(sample.mask).mean(axis=0)
    true = (np.argwhere(inside).mean(axis=0) + 0.5) / side * 32 - 0.5
    np.testing.assert_allclose(found, true, atol=0.5)
    assert sample.mask.mean() == pytest.approx(inside.mean(), abs=0.04)


@pytest.mark.usefixtures("no_user")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), side=st.sampled_from([20, 32, 47, 64, 101]))
def test_image_and_mask_move_together(tiny, seed, side):
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), bool)
    for _ in range(3):
        top, left = rng.integers(0, side // 2, 2)
        mask[top : top + side // 3, left : left + side // 4] = True
    config = replace(tiny, seed=seed, data=replace(tiny.data, synthetic_p=0.0, augmentation=ONLY_SPATIAL))
    sample = SampleDataset([a_set(255 * mask, mask)], config)[0]
    np.testing.assert_array_equal(sample.fine_image > 0.5, sample.fine_mask)
    np.testing.assert_array_equal(sample.mask, halve(sample.fine_mask) >= 0.5)
    assert sample.prompts.shape == sample.mask.shape == (32, 32)


@pytest.mark.usefixtures("no_user")
@pytest.mark.parametrize("side", [32, 63, 64])
def test_image_and_superpixel_move_together(tiny, monkeypatch, side):
    monkeypatch.setattr(samples, "superpixels", left_and_right)
    halves = np.full((side, side), 128)
    halves[:, side // 2 :] = 255
    halves[:2] = 0
    data = replace(tiny.data, synthetic_p=1.0, augmentation=ONLY_SPATIAL)
    dataset = SampleDataset([a_set(halves, halves == 255)], replace(tiny, data=data))
    for number in range(12):
        sample = dataset[number]
        regions = (sample.image > 0.75, (sample.image > 0.25) & (sample.image <= 0.75))
        overlaps = [(region & sample.mask).sum() / (region | sample.mask).sum() for region in regions]
        # Not precisely one: the dark rows, and the halved partition's coarser border.
        assert max(overlaps) > 0.8
        assert min(overlaps) < 0.2


def test_what_lies_outside_the_image_is_exactly_zero_whatever_changes(discs, tiny, monkeypatch):
    def shifted(side, size, rng, config):
        rows, columns = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32), indexing="ij")
        return rows - 10, columns

    monkeypatch.setattr(samples, "random_coordinates", shifted)
    loud = AugmentationConfig(
        invert_p=1.0, noise_p=1.0, noise_mean=(0.05, 0.05), noise_std=(0.05, 0.05), blur_p=1.0, sharpness_p=1.0
    )
    dataset = SampleDataset([discs], replace(tiny, data=replace(tiny.data, augmentation=loud)))
    for index in range(8):
        image = dataset[index].image
        assert not image[:10].any()
        assert (image[10:] > 0).mean() > 0.5


def test_a_sample_does_not_depend_on_which_were_built_before(discs, tiny):
    config = replace(tiny, steps=5, data=replace(tiny.data, synthetic_p=0.7, superpixel_variants=2))
    forward, backward = SampleDataset([discs], config), SampleDataset([discs], config)
    numbers = list(range(len(forward)))
    in_order = [forward[number] for number in numbers]
    for number in reversed(numbers):
        assert_same(backward[number], in_order[number])
    assert_same(SampleDataset([discs], config)[7], in_order[7])
    assert_same(forward[7], in_order[7])


def test_samples_differ_by_number_and_by_seed(discs, tiny):
    dataset = SampleDataset([discs], tiny)
    assert not np.array_equal(dataset[0].image, dataset[1].image)
    other = SampleDataset([discs], replace(tiny, seed=tiny.seed + 1))
    assert not np.array_equal(dataset[0].image, other[0].image)


def test_a_run_has_as_many_samples_as_its_steps_need(discs, tiny):
    assert len(SampleDataset([discs], tiny)) == 6 * 4


@pytest.mark.usefixtures("no_user")
def test_a_superpixel_replaces_the_label_as_often_as_configured(discs, only_real, monkeypatch):
    monkeypatch.setattr(samples, "superpixels", left_and_right)
    for chance in (0.0, 0.5, 1.0):
        config = replace(only_real, steps=100, data=replace(only_real.data, synthetic_p=chance))
        dataset = SampleDataset([discs], config)
        share = np.mean([dataset[number].mask.mean() == 0.5 for number in range(400)])
        assert share == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 400))


@pytest.mark.usefixtures("no_user")
def test_superpixel_scales_cover_their_range_and_maps_are_kept(discs, only_real, monkeypatch):
    scales: list[float] = []

    def record(image, scale):
        scales.append(scale)
        assert image.shape == (16, 16)
        return left_and_right(image, scale)

    monkeypatch.setattr(samples, "superpixels", record)
    data = replace(only_real.data, synthetic_p=1.0, superpixel_scale=(1.0, 500.0), superpixel_variants=8)
    dataset = SampleDataset([discs], replace(only_real, steps=100, data=data))
    for number in range(400):
        dataset[number]
    assert len(scales) == len(set(scales)) == 5 * 8
    assert min(scales) >= 1.0
    assert max(scales) <= 500.0
    assert np.histogram(scales, bins=4, range=(1.0, 500.0))[0].min() >= 3


def test_without_a_large_superpixel_the_real_label_is_taken(discs, only_real, monkeypatch):
    monkeypatch.setattr(samples, "superpixels", lambda image, scale: np.zeros(image.shape, np.uint8))
    config = replace(only_real, data=replace(only_real.data, synthetic_p=1.0))
    sample = SampleDataset([discs], config)[0]
    assert any(np.array_equal(sample.mask, labels == label) for labels in discs.labels for label in (1, 2))


@pytest.mark.usefixtures("no_user")
@pytest.mark.parametrize(("size", "is_large_enough"), [(32, False), (64, True)])
def test_the_least_area_of_a_superpixel_counts_on_the_network_s_grid(
    discs, only_real, monkeypatch, size, is_large_enough
):
    def one_small_square(image, scale):
        partition = np.zeros(image.shape, np.uint8)
        partition[4:8, 4:8] = 1  # a quarter of the side: 8 x 8 of 32, 16 x 16 of 64
        return partition

    monkeypatch.setattr(samples, "superpixels", one_small_square)
    data = replace(only_real.data, synthetic_p=1.0, min_area=100)
    dataset = SampleDataset([discs], replace(only_real, size=size, steps=20, data=data))
    shares = np.array([dataset[number].mask.mean() for number in range(40)])
    assert np.any(np.abs(shares - 1 / 16) < 0.002) == is_large_enough


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), least=st.sampled_from([1, 10, 40]))
def test_every_sample_shows_structure_and_background_and_has_a_prompt(discs, tiny, seed, least):
    augmentation = AugmentationConfig(affine_p=1.0, translate=0.5, scale=(0.5, 2.0))
    data = replace(tiny.data, min_area=least, augmentation=augmentation)
    dataset = SampleDataset([discs], replace(tiny, seed=seed, data=data))
    for number in range(4):
        sample = dataset[number]
        assert least <= sample.mask.sum() < sample.mask.size
        assert 0.0 <= sample.image.min() <= sample.image.max() <= 1.0
        assert sample.prompts.shape == sample.mask.shape
        assert sample.prompts.has_positive or len(sample.prompts.boxes)


@pytest.mark.usefixtures("no_user")
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_labels_are_united_only_when_asked_to(discs, only_real, chance):
    dataset = SampleDataset([discs], replace(only_real, data=replace(only_real.data, union_p=chance)))
    unions = [any(np.array_equal(dataset[number].mask, labels > 0) for labels in discs.labels) for number in range(12)]
    assert all(unions) if chance else not any(unions)


@pytest.mark.usefixtures("no_user")
def test_instances_are_segmented_one_at_a_time(only_real):
    labels = np.zeros((32, 32), np.uint8)
    labels[2:8, 2:8], labels[12:20, 4:10], labels[20:30, 20:30] = 3, 8, 17
    nuclei = SegmentationSet("nuclei", 200 * (labels[None] > 0).astype(np.uint8), labels[None], True, {})
    dataset = SampleDataset([nuclei], replace(only_real, steps=10))
    areas = {int(dataset[number].mask.sum()) for number in range(40)}
    assert areas == {36, 48, 100}


def test_a_corpus_whose_structures_fill_their_images_is_refused(only_real):
    full = a_set(np.random.default_rng(0).integers(0, 255, (32, 32)), np.ones((32, 32)))
    with pytest.raises(DatasetError, match="None of 200 drawn structures covers at least 4 pixels, and not everything"):
        SampleDataset([full], only_real)[0]


def test_samples_become_a_batch_and_the_batch_the_network_s_input(rng):
    image = rng.random((2, 8, 8), dtype=np.float32)
    fine_image, fine_mask = np.kron(image, np.ones((1, 2, 2), np.float32)), rng.random((2, 16, 16)) > 0.5
    mask = image > 0.5
    stroke = np.zeros((8, 8), bool)
    stroke[2, 2:5] = True
    prompts = Prompts.empty((8, 8)).with_scribble(stroke).with_click((6, 6), positive=False).with_box((1, 1), (4, 6))
    batch = collate(
        [
            TrainingSample(fine_image[0], fine_mask[0], mask[0], prompts),
            TrainingSample(fine_image[1], fine_mask[1], mask[1], Prompts.empty((8, 8))),
        ]
    )
    np.testing.assert_array_equal(batch.masks[:, 0].numpy(), mask)
    np.testing.assert_array_equal(batch.fine_images[:, 0].numpy(), fine_image)
    np.testing.assert_array_equal(batch.fine_masks[:, 0].numpy(), fine_mask)
    assert batch.fine_masks.dtype == torch.float32
    assert batch.images.shape == batch.masks.shape == (2, 1, 8, 8)
    assert batch.masks.dtype == torch.float32
    previous = torch.full((2, 1, 8, 8), 3.0)
    first, second = batch.encode(None), batch.encode(previous)
    assert first.shape == (2, encoding.CHANNELS, 8, 8)
    np.testing.assert_array_equal(first[:, encoding.IMAGE].numpy(), image)
    np.testing.assert_array_equal(first[0, encoding.POSITIVE].numpy(), stroke)
    assert first[0, encoding.NEGATIVE].nonzero().tolist() == [[6, 6]]
    assert first[0, encoding.BOX].sum() == 3 * 5
    assert not first[1, encoding.BOX :].any()
    assert not first[:, encoding.PREVIOUS_LOGITS].any()
    assert (second[:, encoding.PREVIOUS_LOGITS] == 3.0).all()
    torch.testing.assert_close(second[:, : encoding.PREVIOUS_LOGITS], first[:, : encoding.PREVIOUS_LOGITS])


@pytest.fixture
def only_shapes(only_real) -> TrainingConfig:
    """Synthetic images alone, and few of them."""
    return replace(only_real, steps=50, data=replace(only_real.data, shapes_p=1.0, shapes_pool=3))


def test_with_shapes_alone_the_corpus_is_not_read(discs, only_shapes, monkeypatch):
    dataset = SampleDataset([discs], only_shapes)
    monkeypatch.setattr(dataset, "_draw_structure", None)
    for number in range(6):
        sample = dataset[number]
        assert sample.fine_image.shape == sample.fine_mask.shape == (32 * FINE, 32 * FINE)
        assert 0.0 <= sample.fine_image.min() <= sample.fine_image.max() <= 1.0
        assert 4 <= sample.mask.sum() < sample.mask.size
        assert sample.prompts.has_positive or len(sample.prompts.boxes)


def two_squares(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two labels of 64 pixels, one of a single pixel; the image tells which call it was."""
    labels = np.zeros((side, side), np.uint8)
    labels[4:12, 4:12], labels[30:38, 30:38], labels[50, 50] = 1, 2, 3
    return np.full((side, side), rng.random(), np.float32), labels


@pytest.mark.usefixtures("no_user")
def test_synthetic_images_are_kept_and_do_not_depend_on_the_sample_that_asks_first(discs, only_shapes, monkeypatch):
    sides: list[int] = []
    monkeypatch.setattr(samples, "synthetic_image", lambda side, rng: sides.append(side) or two_squares(side, rng))
    forward, backward = SampleDataset([discs], only_shapes), SampleDataset([discs], only_shapes)
    values = [forward[number].fine_image.mean() for number in range(40)]
    assert sides == [64] * 3
    assert len({round(float(value), 4) for value in values}) == 3
    assert [backward[number].fine_image.mean() for number in reversed(range(40))] == values[::-1]


@pytest.mark.usefixtures("no_user")
@pytest.mark.parametrize(("chance", "areas"), [(0.0, {16}), (1.0, {16, 32})])
def test_shapes_are_united_as_often_as_labels_and_tiny_ones_never_asked_for(
    discs, only_shapes, monkeypatch, chance, areas
):
    monkeypatch.setattr(samples, "synthetic_image", two_squares)
    config = replace(only_shapes, data=replace(only_shapes.data, union_p=chance))
    dataset = SampleDataset([discs], config)
    assert {int(dataset[number].mask.sum()) for number in range(30)} == areas


@pytest.mark.usefixtures("no_user")
def test_a_synthetic_image_without_a_usable_label_is_passed_over(discs, only_shapes, monkeypatch):
    calls = []

    def empty_at_first(side, rng):
        calls.append(side)
        image, labels = two_squares(side, rng)
        return image, labels * (len(calls) > 1)

    monkeypatch.setattr(samples, "synthetic_image", empty_at_first)
    dataset = SampleDataset([discs], only_shapes)
    assert all(dataset[number].mask.sum() == 16 for number in range(10))
    assert len(calls) > 1


@pytest.mark.usefixtures("no_user")
def test_shapes_come_as_often_as_configured(discs, only_real, monkeypatch):
    monkeypatch.setattr(samples, "synthetic_image", two_squares)
    config = replace(only_real, steps=75, data=replace(only_real.data, shapes_p=0.3))
    dataset = SampleDataset([discs], config)
    share = np.mean([dataset[number].mask.sum() == 16 for number in range(300)])
    assert share == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 300))


@pytest.mark.usefixtures("no_user")
def test_superpixels_are_united_when_asked_to(discs, only_real, monkeypatch):
    def quarters(image, scale):
        return (2 * (np.indices(image.shape)[0] >= 8) + (np.indices(image.shape)[1] >= 8)).astype(np.uint8)

    monkeypatch.setattr(samples, "superpixels", quarters)
    for chance, shares in ((0.0, {0.25}), (1.0, {0.5, 0.75})):
        data = replace(only_real.data, synthetic_p=1.0, superpixel_union_p=chance)
        dataset = SampleDataset([discs], replace(only_real, steps=10, data=data))
        assert {float(dataset[number].mask.mean()) for number in range(20)} == shares
