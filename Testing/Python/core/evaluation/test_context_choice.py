from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.context.context_set import ContextSet
from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.context_choice import (
    ChoiceResult,
    choice_table,
    find_sources,
    measure_choice,
    read_situations,
    summarise_choice,
)


def write_set(folder: Path, count: int = 12, *, subjects: list[str] | None = None, instances: bool = False) -> Path:
    """Squares; those of even images are bright and on the left, those of odd ones dark and on the right."""
    labels = np.zeros((count, 32, 32), np.uint8)
    labels[::2, 8:20, 4:14] = 1
    labels[1::2, 8:20, 18:28] = 1
    labels[::3, 24:28, 24:28] = 2
    images = np.where(labels == 1, 220, 100).astype(np.uint8)
    images[1::2] = 255 - images[1::2]
    meta = {"name": "squares", "label_names": {"1": "square"}, "instances": instances}
    meta["subjects"] = subjects or [f"s{n}" for n in range(count)]
    np.savez(folder / "squares.npz", images=images, labels=labels, meta=json.dumps(meta))
    return folder / "squares.npz"


def write_volume(folder: Path) -> Path:
    """A ball that grows and shrinks along all axes."""
    folder.mkdir(parents=True, exist_ok=True)
    kji = np.indices((20, 24, 28)).astype(float)
    ball = sum((kji[axis] - centre) ** 2 for axis, centre in enumerate((10, 12, 14))) < 81
    for name, array in (("image", np.where(ball, 200, 50).astype(np.int16)), ("label", ball.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 1.0, 2.0))
        sitk.WriteImage(image, str(folder / f"ball_{name}.nii.gz"))
    return folder / "ball_image.nii.gz"


def copies_the_first(image, spacing_mm, context: ContextSet):
    return context.entries[0].mask


def test_sources_are_found_in_both_folders(tmp_path):
    first, second = write_set(tmp_path), write_volume(tmp_path / "volumes" / "ball")
    assert find_sources(tmp_path, tmp_path / "volumes") == [first, second]
    assert find_sources(None, tmp_path / "volumes") == [second]
    with pytest.raises(DatasetError, match="no sets"):
        find_sources(tmp_path / "volumes", None)


def test_images_of_other_subjects_are_the_context(tmp_path, rng):
    path = write_set(tmp_path, subjects=["a", "b", "c"] * 4)
    square, corner = read_situations(path, rng)
    assert (square.task, corner.task) == ("squares/square", "squares/2")
    assert (len(square.entries), len(corner.entries)) == (12, 4)
    assert all(entry.mask[10, 8] or entry.mask[10, 20] for entry in square.entries)
    for target, pool in square.cases(12, rng):
        assert len(pool) == 8
        assert target.source not in {entry.source for entry in pool}


def test_all_objects_of_an_instance_set_are_one_structure(tmp_path, rng):
    (objects,) = read_situations(write_set(tmp_path, instances=True), rng)
    assert objects.task == "squares/objects"
    assert max(entry.mask.sum() for entry in objects.entries) == 120 + 16


def test_a_set_of_one_subject_has_no_others_to_learn_from(tmp_path, rng):
    assert read_situations(write_set(tmp_path, subjects=["a"] * 12), rng) == []


def test_a_third_of_the_slices_of_a_volume_is_the_context(tmp_path, rng):
    situations = read_situations(write_volume(tmp_path / "ball"), rng)
    assert [situation.task for situation in situations] == [f"ball/ball/1/{axis}" for axis in "kji"]
    along_k = situations[0]
    assert len(along_k.entries) == 17
    assert along_k.entries[0].spacing_mm == (1.0, 1.0)
    assert situations[1].entries[0].spacing_mm == (2.0, 1.0)
    for target, pool in along_k.cases(3, rng):
        assert len(pool) == 5
        assert {entry.source for entry in pool} == {target.source}
        assert target.index not in {entry.index for entry in pool}
        assert (target.image[target.mask] > 0.9).all()


def test_a_volume_without_labels_is_named(tmp_path, rng):
    path = write_volume(tmp_path / "ball")
    path.with_name("ball_label.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"ball_label\.nii\.gz"):
        read_situations(path, rng)


def test_a_choice_of_similar_images_scores_higher_than_a_draw(tmp_path):
    results = measure_choice(copies_the_first, [write_set(tmp_path)], limits=(1, 2), targets=6, draws=8)
    squares = [result for result in results if result.task == "squares/square"]
    assert [result.limit for result in squares] == [1, 2] * 6
    assert {result.chosen for result in squares} == {1.0}  # half of all squares lie elsewhere
    assert 0.2 < np.mean([result.random for result in squares]) < 0.8
    assert {result.available for result in squares} == {11}


def test_slices_of_a_volume_are_measured_along_all_axes(tmp_path):
    seen = []
    path = write_volume(tmp_path / "ball")
    results = measure_choice(
        copies_the_first, [path], limits=(2, 50), targets=2, progress=lambda fraction, text: seen.append(fraction)
    )
    assert len(results) == 3 * 2  # of 50 there is no choice
    assert {result.kind for result in results} == {"slices"}
    assert {result.subject[0] for result in results} == {"k", "j", "i"}
    assert np.mean([result.chosen - result.random for result in results]) > 0
    assert seen == [0.0, 1.0]


def test_the_same_seed_gives_the_same_results(tmp_path):
    path = write_set(tmp_path)
    first, second, other = (
        measure_choice(copies_the_first, [path], limits=(1,), draws=1, seed=seed) for seed in (3, 3, 4)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("values", [{"limits": ()}, {"limits": (0,)}, {"targets": 0}, {"draws": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(values):
    with pytest.raises(ConfigError):
        measure_choice(copies_the_first, [], **values)


def test_subjects_tasks_and_sets_count_the_same(rng):
    results = [
        ChoiceResult("images", "a", "a/1", "s0", 9, 4, 0.1, 0.5),
        ChoiceResult("images", "a", "a/1", "s0", 9, 4, 0.3, 0.5),
        ChoiceResult("images", "a", "a/1", "s1", 9, 4, 0.6, 1.0),
        ChoiceResult("images", "b", "b/1", "s0", 9, 4, 0.6, 0.65),
        ChoiceResult("slices", "v", "v/1", "k = 3", 9, 8, 0.5, 0.25),
    ]
    images, slices = summarise_choice(results, rng, resamples=200)
    assert (images.kind, images.limit, images.cases, images.sets) == ("images", 4, 4, 2)
    assert images.random.mean == pytest.approx((0.4 + 0.6) / 2)
    assert images.chosen.mean == pytest.approx((0.75 + 0.65) / 2)
    assert images.gain.mean == pytest.approx(0.2)
    assert images.gain.low <= images.gain.mean <= images.gain.high
    assert slices.gain.mean == pytest.approx(-0.25)
    header, _, *rows = choice_table([images, slices])
    assert "chosen" in header
    assert "-25.0 [-25.0, -25.0]" in rows[1]


def test_no_results_have_no_mean(rng):
    with pytest.raises(ConfigError, match="Nothing was measured"):
        summarise_choice([], rng)
