from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from correction_study import TASK, tiny_study

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_config import Experiment, NetworkTraining, Shift, StudyConfig, quick_study
from scribblesegment.evaluation.correction_methods import Variant
from scribblesegment.training.config import read_config

STUDY = Path(__file__).resolve().parents[4] / "scripts" / "configs" / "refinement" / "study.json"


def test_the_background_is_the_first_label():
    assert TASK.labels == ("background", "square", "bar")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"classes": ()}, "at least one class"),
        ({"tune": 0.0}, "shares above 0"),
        ({"test": 0.9}, "shares above 0"),
        ({"other_brightness": (0.5,)}, "range"),
        ({"subject": "(a)(b)"}, "exactly one group"),
        ({"subject": "("}, "no regular expression"),
        ({"block": -1}, "at least 0"),
        ({"target": 0.0}, "target"),
        ({"shifts": (Shift("none"), Shift("none"))}, "twice"),
    ],
)
def test_a_task_out_of_range_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TASK, **change)


def test_an_unknown_shift_is_refused():
    with pytest.raises(ConfigError, match="No shift 'hue'"):
        Shift("hue")


@pytest.mark.parametrize("change", [{"steps": 0}, {"features": (4,)}, {"learning_rate": 0.0}, {"ema_decay": 1.0}])
def test_a_training_out_of_range_is_refused(change):
    with pytest.raises(ConfigError):
        NetworkTraining(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": ()}, "needs tasks"),
        ({"variants": (Variant("a"), Variant("a"))}, "different names"),
        ({"part": "train"}, "tune or test"),
        ({"rounds": 0}, "at least 1"),
        ({"axis": "hue"}, "axis is one of"),
    ],
)
def test_an_experiment_that_cannot_be_run_is_refused(change, message):
    values = {"name": "main", "title": "t", "variants": (Variant("a"),), "tasks": ("shapes",), "shifts": ("none",)}
    with pytest.raises(ConfigError, match=message):
        Experiment(**{**values, **change})


def test_a_study_knows_its_tasks():
    assert tiny_study().task("shapes") is TASK
    with pytest.raises(ConfigError, match="No task spleen"):
        tiny_study(tasks=("spleen",))
    with pytest.raises(ConfigError, match="two tasks of one name"):
        StudyConfig((TASK, TASK))


def test_the_quick_study_is_smaller_and_has_the_same_parts():
    study = dataclasses.replace(tiny_study(images=9, rounds=5), training=NetworkTraining(steps=1000))
    quick = quick_study(study)
    assert quick.training.steps == 20
    assert [(one.name, one.images, one.rounds) for one in quick.experiments] == [("main", 2, 2)]


def test_the_study_of_the_repository_can_be_read():
    study = read_config(STUDY, StudyConfig)
    kinds = {task.set.split("/")[-1].removesuffix(".npz") for task in study.tasks if not task.research}
    assert {"spider_lumbar_mri", "aorta_ct", "dsb2018_nuclei"} <= kinds
    assert {variant.kind for one in study.experiments for variant in one.variants} >= {"refinement", "painting"}
