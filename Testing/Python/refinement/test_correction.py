"""The one door for applications, with a network that sees slices at half their resolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from refinable_networks import small_unet, state_of, unchanged

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import CancelledError, GeometryError, PromptError
from scribblesegment.refinement.adapters import PreparedImage
from scribblesegment.refinement.adapters.base import scaling
from scribblesegment.refinement.correction import Correction
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.region_growing import GrowthConfig
from scribblesegment.refinement.tiling import Tiling

QUICK = RefinementConfig(layers=4, learning_rate=0.02, precision="float32", anchor=0.0, settle=0)
HOPELESS = RefinementConfig(iterations=1, learning_rate=1e-9)
LABELS = ("background", "ball", "rest")


class HalvingNetwork:
    """Counts how often it prepared an image."""

    name, licence, ndim, output, labels = "halving", "", 2, Output(), LABELS

    def __init__(self, *, takes_scribbles: bool = False) -> None:
        self.module = small_unet(len(self.labels))
        self.takes_scribbles = takes_scribbles
        self.prepared: list[LabelScribbles | None] = []

    def prepare(self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles=None) -> PreparedImage:
        self.prepared.append(scribbles)
        plane = image.slice(axis, index).image
        tensor = torch.from_numpy(np.array(plane[::2, ::2], np.float32))[None]
        matrix = scaling([0.5, 0.5], [-0.25, -0.25])
        return PreparedImage(
            tensor, Tiling.whole((16, 16)), plane.shape, matrix, lambda logits: logits.repeat(2, 1).repeat(2, 2)
        )


@pytest.fixture
def volume() -> Volume:
    rows, columns = np.mgrid[:32, :32]
    ball = ((rows - 16) ** 2 + (columns - 16) ** 2 < 64).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.05, (2, 32, 32)).astype(np.float32)
    return Volume(ball + noise, np.diag([1.0, 1.0, 3.0, 1.0]))


def corrections(extra: dict[tuple[int, int], int] | None = None) -> LabelScribbles:
    labels = np.full((32, 32), -1, np.int16)
    labels[16, 12:21] = 1
    labels[2, 2:12] = 0
    for position, label in (extra or {}).items():
        labels[position] = label
    return LabelScribbles.from_labels(labels)


def test_a_correction_is_followed_on_the_image_s_own_pixels_and_the_network_stays(volume):
    network, marks = HalvingNetwork(), corrections({(28, column): 3 for column in range(20, 30)})
    before = state_of(network.module)
    correction = Correction(network, volume, index=1, device="cpu", config=QUICK)
    own = correction.segment()
    assert (own.shape, own.dtype) == ((32, 32), np.int16)
    result = correction.refine(marks, names={3: "cyst"})
    assert result.satisfied
    assert (result.labels[marks.marked] == marks.labels[marks.marked]).all()
    assert result.names == (*LABELS, "cyst")
    assert (result.violation_counts, result.grown) == ({}, 0)
    assert result.g_history[-1] == 0
    assert result.iterations == len(result.g_history) - 1 > 0
    assert unchanged(network.module, before)


@pytest.mark.parametrize("takes_scribbles", [False, True])
def test_the_image_is_prepared_once_unless_the_network_takes_the_scribbles_of_every_round(volume, takes_scribbles):
    network = HalvingNetwork(takes_scribbles=takes_scribbles)
    correction = Correction(network, volume, index=0, device="cpu", config=QUICK)
    first, second = corrections(), corrections({(30, 30): 2})
    correction.segment()
    with pytest.raises(CancelledError):
        correction.refine(first, cancelled=lambda: True)
    assert correction.refine(second).satisfied
    assert network.prepared == ([None, first, second] if takes_scribbles else [None])


def test_violations_of_drawn_corrections_are_counted_by_label_and_grown_ones_are_only_counted(volume):
    correction = Correction(HalvingNetwork(), volume, index=0, device="cpu", config=HOPELESS)
    result = correction.refine(corrections(), grow=GrowthConfig(threshold=0.5))
    wrong = corrections().marked & (result.labels != corrections().labels)
    assert np.array_equal(result.violations, wrong)
    drawn = corrections().labels[wrong]
    assert result.violation_counts == {label: int((drawn == label).sum()) for label in np.unique(drawn)} != {}
    assert not result.satisfied
    assert result.grown > 20


@pytest.mark.parametrize(
    ("index", "marks", "names", "error", "message"),
    [
        (0, corrections({(3, 3): 3}), {}, PromptError, r"label 3, which the network halving.*background, ball, rest"),
        (0, corrections({(3, 3): 3}), {3: " "}, PromptError, "Name it as a new label"),
        (0, LabelScribbles.empty((8, 8)), {}, PromptError, r"\(8, 8\)"),
        (2, corrections(), {}, GeometryError, "outside the volume"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(volume, index, marks, names, error, message):
    with pytest.raises(error, match=message):
        Correction(HalvingNetwork(), volume, index=index, device="cpu").refine(marks, names=names)
