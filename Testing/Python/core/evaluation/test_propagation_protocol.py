from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK

from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation import propagation_protocol
from scribblesegment.evaluation.propagation_cases import PropagationPlan
from scribblesegment.evaluation.propagation_protocol import BETWEEN, BEYOND, CORRECTED, FIRST, OUTSIDE, run_propagation


@dataclass(frozen=True)
class FixedPrediction:
    logits: np.ndarray


class Threshold:
    """Takes what is bright for the structure."""

    capabilities = frozenset({"context"})

    def __init__(self):
        self.contexts = []

    def set_image(self, image, *, spacing_mm=(1.0, 1.0), intensity_range=None):
        self.image = image

    def set_context(self, context):
        self.contexts.append(context)

    def predict(self, prompts):
        return FixedPrediction(np.where(self.image >= 100, 6.0, -6.0).astype(np.float32))


@pytest.fixture
def volume_path(tmp_path):
    """A bright box in slices 4 to 15 of 20."""
    labels = np.zeros((20, 16, 16), np.uint8)
    labels[4:16, 4:12, 4:12] = 1
    image = labels.astype(np.int16) * 200
    (tmp_path / "set").mkdir()
    for name, array in (("image", image), ("label", labels)):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "set" / f"one_{name}.nii.gz"))
    return tmp_path / "set" / "one_image.nii.gz"


def repeat_first(volume, annotated, axis, measured):
    """A method to compare with: the first annotated slice everywhere, but nothing in slice 10."""
    first = annotated[min(annotated)]
    return {index: first for index in range(*measured) if index != 10}


PLAN = PropagationPlan(one_axis=True)


def run(path, predictor, plan=PLAN, **options):
    return run_propagation([path], {"network": predictor}, {"repeated": repeat_first}, plan, **options)


def test_slices_are_scored_by_where_they_lie(volume_path):
    results = run(volume_path, Threshold())
    own = [score for score in results.slices if score.method == "network" and score.run == FIRST]
    # Of slices 4 to 15, those at 6.75, 9.5 and 12.25 are annotated: 7, 9 and 12.
    parts = {part: [score.index for score in own if score.part == part] for part in (BETWEEN, OUTSIDE, BEYOND)}
    assert parts[BEYOND] == [2, 3, 16, 17]
    assert parts[OUTSIDE] == [4, 5, 6, 13, 14, 15]
    assert parts[BETWEEN] == [8, 10, 11]
    assert own[2].position == 0.0
    assert {score.axis for score in own} == {"k"}


def test_a_network_that_is_right_is_right_everywhere(volume_path):
    (network, _) = run(volume_path, Threshold()).cases
    assert (network.dice, network.dice_between, network.dice_outside) == (1.0, 1.0, 1.0)
    assert (network.false_extent, network.missed_extent) == (0.0, 0.0)
    assert network.slices == 9
    assert network.slices_per_second > 0
    assert network.task == "set/one/1"


def test_what_is_segmented_beyond_the_ends_and_missed_within_is_told(volume_path):
    (_, repeated) = run(volume_path, Threshold()).cases
    assert repeated.method == "repeated"
    assert repeated.false_extent == 1.0
    assert repeated.missed_extent == pytest.approx(1 / 9)
    assert repeated.dice == pytest.approx(8 / 9)
    assert isnan(repeated.slices_per_second)
    assert isnan(repeated.dice_corrected)
    assert repeated.proposed == -1


class Planned:
    """A propagator that misses a slice, proposes one, and finds what it missed once that is corrected."""

    proposed, missed = 13, 14

    def __init__(self, predictor, *, config=None):
        self.calls = predictor.calls

    def run(self, volume, annotated, axis, *, label_name, source, previous=None):
        self.calls.append((sorted(annotated), previous))
        found = {index: volume.slice(axis, index).image >= 100 for index in range(4, 16) if index not in annotated}
        for index in (self.proposed, self.missed) if previous is None else ():
            found[index] = np.zeros((16, 16), bool)
        slices = {index: SimpleNamespace(mask=mask) for index, mask in found.items()}
        return SimpleNamespace(slices=slices, next_slice=self.proposed, slices_per_second=5.0)


@pytest.fixture
def planned(monkeypatch, volume_path):
    """Results of a propagator of which some attributes are replaced, and how it was called."""

    def make(**replaced):
        monkeypatch.setattr(propagation_protocol, "Propagator", type("Replaced", (Planned,), replaced))
        calls = []
        return run(volume_path, SimpleNamespace(calls=calls)), calls

    return make


def test_the_proposed_slice_is_corrected_and_the_change_of_the_others_told(planned):
    results, calls = planned()
    network = results.cases[0]
    assert network.proposed == 13
    assert network.dice == pytest.approx(7 / 9)
    assert network.dice_corrected == 1.0
    assert network.change_elsewhere == pytest.approx(1 / 8)  # slice 14 alone, of all but the corrected one
    assert network.slices_per_second == 5.0
    assert [annotated for annotated, _ in calls] == [[7, 9, 12], [7, 9, 12, 13]]
    assert calls[0][1] is None
    assert calls[1][1] is not None
    after = {score.index: score.dice for score in results.slices if score.run == CORRECTED}
    assert set(after) == {2, 3, 4, 5, 6, 8, 10, 11, 13, 14, 15, 16, 17}


def test_a_proposal_beyond_the_structure_is_answered_with_nothing(planned):
    results, calls = planned(proposed=17, missed=14)
    network = results.cases[0]
    assert calls[1][0] == [7, 9, 12, 17]
    assert network.change_elsewhere == pytest.approx(1 / 9)


def test_where_nothing_is_proposed_nothing_changes(planned):
    def run(self, *arguments, **options):
        found = Planned.run(self, *arguments, **options)
        found.next_slice = None
        return found

    results, calls = planned(run=run)
    network = results.cases[0]
    assert len(calls) == 1
    assert network.proposed == -1
    assert network.dice_corrected == network.dice
    assert network.change_elsewhere == 0.0
    assert not any(score.run == CORRECTED for score in results.slices)


def test_the_annotated_slices_are_the_context(volume_path):
    predictor = Threshold()
    run(volume_path, predictor)
    assert 3 in [len(context) for context in predictor.contexts if context is not None]


def test_progress_reaches_the_end_and_what_is_left_out_is_told(volume_path):
    told = []
    results = run(volume_path, Threshold(), progress=lambda fraction, _: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert results.left_out == {}
    with pytest.raises(DatasetError, match="large enough"):
        run(volume_path, Threshold(), PropagationPlan(least_slices=13, one_axis=True))


def test_networks_are_needed_under_names_of_their_own(volume_path):
    with pytest.raises(ConfigError, match="at least one network"):
        run_propagation([volume_path], {}, {"repeated": repeat_first}, PLAN)
    with pytest.raises(ConfigError, match="another name"):
        run_propagation([volume_path], {"repeated": Threshold()}, {"repeated": repeat_first}, PLAN)
