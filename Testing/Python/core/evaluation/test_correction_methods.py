from __future__ import annotations

import numpy as np
import pytest
import torch
from correction_study import TASK, write_network

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_methods import Interactive, Painting, Refinement, Variant
from scribblesegment.evaluation.correction_network import load_plain_unet
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.region_growing import GrowthConfig

SHAPE = (32, 32)


@pytest.fixture
def network(tmp_path):
    return load_plain_unet(write_network(tmp_path) / "shapes.safetensors")[0]


@pytest.fixture
def image():
    picture = np.zeros(SHAPE, np.float32)
    picture[8:24, 8:24] = 0.8
    return picture


def marks():
    bright, dark = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    bright[14:18, 14:18] = True
    dark[2:4, 2:30] = True
    return LabelScribbles.empty(SHAPE).with_scribble(bright, 1).with_scribble(dark, 0)


class Predictor:
    """Says that the structure is a disc around its positive marks, and remembers what it was asked."""

    capabilities = frozenset({"scribbles"})

    def __init__(self):
        self.images, self.asked = [], []

    def set_image(self, image, *, spacing_mm):
        self.images.append(image)

    def predict(self, prompts):
        self.asked.append(prompts)
        center = np.argwhere(prompts.scribbles[0]).mean(axis=0)
        rows, columns = np.indices(prompts.shape)
        self.logits = (6 - np.hypot(rows - center[0], columns - center[1])).astype(np.float32)
        return self


@pytest.mark.parametrize("growth", [None, GrowthConfig(threshold=0.1, reach_mm=3)])
def test_a_refinement_follows_the_marks_and_leaves_the_network_alone(network, image, growth):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    method = Refinement(network, image, RefinementConfig(layers=2, learning_rate=3e-2), growth)
    assert np.array_equal(method.start(), Painting.of(network, image).start())
    corrected = method.correct(marks())
    assert corrected.satisfied
    assert corrected.violations == 0
    assert corrected.g == 0
    assert corrected.stopped == "satisfied"
    assert corrected.labels.dtype == np.int16
    assert (corrected.labels[14:18, 14:18] == 1).all()
    assert corrected.marked == marks().count if growth is None else corrected.marked > marks().count
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_painting_changes_the_marked_pixels_and_no_other(network, image):
    method = Painting.of(network, image)
    scribbles = marks()
    corrected = method.correct(scribbles)
    assert np.array_equal(corrected.labels[scribbles.marked], scribbles.labels[scribbles.marked])
    assert np.array_equal(corrected.labels[~scribbles.marked], method.start()[~scribbles.marked])
    assert corrected.marked == scribbles.count


def test_interactive_segmentation_starts_with_nothing_and_asks_for_every_structure(image):
    predictor = Predictor()
    method = Interactive(predictor, image, None, len(TASK.labels))
    assert (method.start() == -1).all()
    second = np.zeros(SHAPE, bool)
    second[26:30, 26:30] = True
    corrected = method.correct(marks().with_scribble(second, 2))
    assert len(predictor.images) == 1
    assert len(predictor.asked) == 2
    first_asked = predictor.asked[0]
    assert np.argwhere(first_asked.scribbles[0]).min() == 14
    assert first_asked.scribbles[1].sum() == 2 * 28 + 16
    assert first_asked.mask_input is None
    assert (corrected.labels[15, 15], corrected.labels[28, 28], corrected.labels[0, 0]) == (1, 2, 0)
    method.correct(marks().with_scribble(second, 2))
    assert predictor.asked[2].mask_input is not None


def test_interactive_segmentation_of_a_result_keeps_what_is_not_marked(image):
    first = np.zeros(SHAPE, np.int16)
    first[20:30, 2:12] = 2
    predictor = Predictor()
    method = Interactive(predictor, image, first, len(TASK.labels))
    assert method.start() is first
    wrong = np.zeros(SHAPE, bool)
    wrong[20:22, 2:12] = True
    corrected = method.correct(marks().with_scribble(wrong, 0))
    assert len(predictor.asked) == 1  # label 2 has no mark of its own
    assert predictor.asked[0].mask_input is not None
    assert corrected.labels[25, 5] == 2
    assert corrected.labels[21, 5] == 0
    assert corrected.satisfied


def test_a_variant_changes_ours_or_the_paper_s_configuration():
    ours = RefinementConfig(layers=3, learning_rate=0.5)
    assert Variant("a", options={"alpha": 0.0}).refinement(ours) == RefinementConfig(
        layers=3, learning_rate=0.5, alpha=0.0
    )
    assert Variant("b", base="paper").refinement(ours) == RefinementConfig.paper(layers=3)


@pytest.mark.parametrize(
    "change", [{"kind": "magic"}, {"base": "theirs"}, {"inputs": "lasso"}, {"options": {"hue": 1}}, {"length": -1}]
)
def test_what_is_no_method_is_refused(change):
    with pytest.raises(ConfigError):
        Variant("a", **change)
