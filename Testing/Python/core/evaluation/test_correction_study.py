from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from correction_study import TASK, tiny_study, write_network, write_shapes

from scribblesegment.errors import WeightsError
from scribblesegment.evaluation.correction_config import Shift
from scribblesegment.evaluation.correction_methods import Variant
from scribblesegment.evaluation.correction_study import (
    LEAST_STRUCTURE,
    Study,
    choose_images,
    class_dice,
    list_jobs,
    mean_dice,
)
from scribblesegment.evaluation.correction_tasks import read_task
from scribblesegment.refinement.lagrangian import RefinementConfig

PAINTING = Variant("painting", kind="painting")


@pytest.fixture
def images(tmp_path):
    return {"shapes": read_task(write_shapes(tmp_path), TASK)}


@pytest.fixture
def start(tmp_path, images):
    """Makes a study and the jobs of its experiment."""

    def make(*variants, **options):
        config = tiny_study(*variants, **options)
        study = Study(config, write_network(tmp_path / "networks"))
        return study, list_jobs(config.experiments[0], images)

    return make


def test_every_method_meets_the_same_images(start):
    study, jobs = start(PAINTING, Variant("again", kind="painting"))
    assert len(jobs) == 2 * 2 * 2
    shown = {(job.variant.name, job.shift.name, job.image.index) for job in jobs}
    assert len(shown) == len(jobs)
    assert np.array_equal(study.shown_image(jobs[0]), study.shown_image(jobs[1]))
    assert not np.array_equal(study.shown_image(jobs[0]), study.shown_image(jobs[-1]))


def test_subjects_take_turns():
    images = [dataclasses.make_dataclass("One", ["subject", "index"])(name, n) for n, name in enumerate("aabbcc")]
    assert sorted(one.subject for one in choose_images(images, 3)) == ["a", "b", "c"]
    assert len(choose_images(images, 100)) == 6


def test_only_images_that_show_enough_are_corrected(images):
    images = {"shapes": dataclasses.replace(images["shapes"], task=dataclasses.replace(TASK, least_tested=10**6))}
    assert list_jobs(tiny_study().experiments[0], images) == []


def test_dice_is_the_mean_of_the_structures_that_are_there():
    truth = np.zeros((20, 20), int)
    truth[:10] = 1
    truth[0, :3] = 2
    assert LEAST_STRUCTURE > 3
    first, second = class_dice(truth, truth, 3)
    assert first == 1
    assert math.isnan(second)
    assert mean_dice(np.zeros_like(truth), truth, 3) == 0
    assert math.isnan(mean_dice(truth, truth, 3, np.arange(20)[:, None] + 0 * truth >= 10))
    left = np.indices(truth.shape)[1] < 10
    assert mean_dice(np.where(left, truth, 0), truth, 3, left) == 1


def test_painting_gains_by_every_interaction_and_changes_nothing_far_away(start):
    study, jobs = start(PAINTING, rounds=3)
    rounds = study.run(jobs[0])
    assert [entry.interaction for entry in rounds] == [0, 1, 2, 3]
    dice = [entry.dice for entry in rounds]
    assert dice == sorted(dice)
    assert dice[-1] > dice[0]
    assert rounds[0].strokes == 0 < rounds[1].strokes
    assert rounds[-1].far_wrong == rounds[-1].far_wrong_before
    assert rounds[-1].far_pixels < rounds[0].far_pixels == 64 * 64
    assert rounds[1].satisfied


def test_a_run_is_the_same_again(start):
    study, jobs = start(Variant("refinement", options={"layers": 1, "iterations": 5}))
    first, again = study.run(jobs[0]), study.run(jobs[0])
    assert [entry.dice for entry in first] == [entry.dice for entry in again]
    assert first[1].iterations <= 5
    assert first[1].seconds > 0
    assert first[1].stopped in ("satisfied", "iterations")


def test_a_correct_segmentation_needs_no_stroke(start, monkeypatch):
    study, jobs = start(PAINTING)
    truth = jobs[0].image.labels.astype(np.int16)
    monkeypatch.setattr("scribblesegment.evaluation.correction_methods.Painting.start", lambda self: truth)
    rounds = study.run(jobs[0])
    assert [entry.strokes for entry in rounds] == [0, 0, 0]
    assert [entry.dice for entry in rounds] == [1, 1, 1]
    assert [entry.iterations for entry in rounds] == [0, 0, 0]


def test_the_key_tells_what_a_result_depends_on(start):
    refinement = Variant("refinement")
    study, jobs = start(refinement, PAINTING)
    keys = {study.key(job) for job in jobs}
    assert len(keys) == len(jobs)
    other, _ = start(refinement, PAINTING, refinement=RefinementConfig(learning_rate=0.5))
    changed = {job.variant.name for job in jobs if other.key(job) not in keys}
    assert changed == {"refinement"}
    elsewhere = dataclasses.replace(jobs[0], shift=Shift("none", 2.0))
    assert study.key(elsewhere) != study.key(jobs[0])


def test_a_study_without_its_network_says_so(start, tmp_path):
    study, jobs = start(PAINTING)
    lost = Study(study.config, tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="Train it"):
        lost.run(jobs[0])


def test_the_interactive_network_takes_part(start):
    study, jobs = start(Variant("interactive", kind="interactive"), rounds=1)
    first, second = study.run(jobs[0])
    assert first.dice == 0
    assert second.strokes == 3
    assert second.dice > 0.5
