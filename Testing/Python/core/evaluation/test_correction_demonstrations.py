from __future__ import annotations

import dataclasses

import pytest
from correction_study import TASK, write_network, write_shapes

from scribblesegment.errors import DatasetError
from scribblesegment.evaluation.correction_config import Experiment, StudyConfig
from scribblesegment.evaluation.correction_demonstrations import find_missing_label, take_new_label, write_demonstration
from scribblesegment.evaluation.correction_methods import Variant
from scribblesegment.evaluation.correction_study import Study
from scribblesegment.evaluation.correction_tasks import read_task
from scribblesegment.evaluation.correction_user import CorrectingUser
from scribblesegment.refinement.lagrangian import RefinementConfig

USER = CorrectingUser(length=20, least_error=10)
QUICK = RefinementConfig(iterations=5, layers=2)


# Random weights find something of everything: here, less than all of it counts as missed.
@pytest.fixture
def _misses_everything(monkeypatch):
    monkeypatch.setattr("scribblesegment.evaluation.correction_demonstrations._MISSED", 1.0)


@pytest.fixture
def study(tmp_path):
    write_shapes(tmp_path)
    write_network(tmp_path / "networks")
    experiment = Experiment("main", "main", (Variant("refinement"),), (TASK.name,), ("none",))
    return Study(StudyConfig((TASK,), (experiment,)), tmp_path / "networks")


@pytest.fixture
def images(tmp_path, study):
    read = read_task(tmp_path, TASK)
    return dataclasses.replace(read, other_test=read.test)


@pytest.mark.usefixtures("_misses_everything")
def test_a_structure_that_the_network_misses_is_found_and_drawn(study, images, tmp_path):
    shown = find_missing_label(study, images)
    assert shown.names == TASK.labels
    assert (shown.truth == shown.shown).sum() >= 400
    reached = write_demonstration(tmp_path / "picture.png", shown, QUICK, USER, seed=0)
    assert (tmp_path / "picture.png").stat().st_size > 0
    assert reached[0] < 1
    assert 2 <= len(reached) <= 6


@pytest.mark.usefixtures("_misses_everything")
def test_images_of_the_network_s_own_scanner_demonstrate_nothing(study, tmp_path):
    with pytest.raises(DatasetError, match="misses no structure"):
        find_missing_label(study, read_task(tmp_path, TASK))


def test_a_structure_of_another_set_is_a_label_more(study, tmp_path):
    shown = take_new_label(study, TASK, "spleen", tmp_path, "shapes.npz")
    assert shown.names == (*TASK.labels, "spleen")
    assert shown.truth.max() == len(TASK.labels)
    reached = write_demonstration(tmp_path / "picture.png", shown, QUICK, USER, seed=0)
    assert reached[0] == 0
    assert max(reached[1:]) > 0
