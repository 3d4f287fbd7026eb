from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.evaluation import stepwise
from scribblesegment.evaluation.stepwise import ClassicalMethod, NetworkMethod, load_interactive, one_prediction

SHAPE = (12, 14)


@dataclass(frozen=True)
class FixedPrediction:
    logits: np.ndarray

    def mask(self):
        return self.logits > 0

    def probabilities(self):
        return np.full(self.logits.shape, 0.25, np.float32)


class RecordingPredictor:
    """Predicts the positive strokes, at a higher level each time, and keeps what it was given."""

    capabilities = frozenset({"scribbles", "boxes", "context"})

    def __init__(self):
        self.images, self.prompts = [], []

    def set_image(self, image, *, spacing_mm):
        self.images.append((image, spacing_mm))

    def predict(self, prompts):
        self.prompts.append(prompts)
        return FixedPrediction((prompts.scribbles[0] - 0.5) * len(self.prompts))


def stroke(row, columns):
    mask = np.zeros(SHAPE, bool)
    mask[row, columns] = True
    return mask


def test_a_network_gets_its_last_logits_back_with_all_prompts():
    predictor = RecordingPredictor()
    method = NetworkMethod(predictor)
    method.set_image(np.zeros(SHAPE, np.float32))
    first = Prompts.empty(SHAPE).with_scribble(stroke(2, slice(1, 5)))
    second = first.with_scribble(stroke(8, slice(1, 5)), positive=False)
    answers = [method.segment(first), method.segment(second)]
    assert predictor.prompts[0].mask_input is None
    assert np.array_equal(predictor.prompts[1].mask_input, answers[0].logits)
    assert np.array_equal(predictor.prompts[1].scribbles, second.scribbles)
    assert np.array_equal(answers[1].mask, stroke(2, slice(1, 5)))
    assert (answers[1].probabilities == 0.25).all()
    assert answers[1].logits.max() == 1.0


def test_a_new_image_makes_a_network_forget_its_last_logits():
    predictor = RecordingPredictor()
    method = NetworkMethod(predictor)
    prompts = Prompts.empty(SHAPE).with_scribble(stroke(2, slice(1, 5)))
    for value in (0.0, 1.0):
        method.set_image(np.full(SHAPE, value, np.float32))
        method.segment(prompts)
    assert [prompts.mask_input for prompts in predictor.prompts] == [None, None]
    assert [(image.max(), spacing) for image, spacing in predictor.images] == [(0.0, (1.0, 1.0)), (1.0, (1.0, 1.0))]


def test_a_network_uses_the_prompts_that_it_understands():
    assert NetworkMethod(RecordingPredictor()).prompts == {"scribbles", "boxes"}


@pytest.fixture
def classical():
    """A method that keeps the strokes it was given, with and without a way to start from a box."""
    seen = []

    def paint(image, scribbles):
        seen.append(scribbles)
        if not scribbles[0].any():
            raise PromptError("no positive stroke")
        return scribbles[0] > 0

    def fill(image, scribbles):
        seen.append(None)
        return scribbles[1] == 0

    def make(*, boxes=False):
        method = ClassicalMethod(paint, from_box=fill if boxes else None)
        method.set_image(np.zeros(SHAPE, np.float32))
        return method

    make.seen = seen
    return make


def test_strokes_reach_a_classical_method_unchanged(classical):
    prompts = Prompts.empty(SHAPE).with_scribble(stroke(2, slice(1, 5)) * 0.5).with_scribble(stroke(8, 3), False)
    answer = classical().segment(prompts)
    assert np.array_equal(classical.seen[0], prompts.scribbles)
    assert np.array_equal(answer.mask, stroke(2, slice(1, 5)))
    assert answer.logits is None
    assert answer.probabilities is None


def test_a_click_becomes_a_disc_of_seeds(classical):
    classical().segment(Prompts.empty(SHAPE).with_click((5, 6)))
    positive, negative = classical.seen[0]
    assert positive.sum() == 13
    assert {tuple(index) for index in np.argwhere(positive).tolist()} >= {(3, 6), (7, 6), (5, 4), (5, 8), (6, 7)}
    assert not negative.any()


def test_a_disc_is_cut_at_the_border(classical):
    classical().segment(Prompts.empty(SHAPE).with_click((0, 0)))
    assert classical.seen[0][0].sum() == 6


def test_where_discs_overlap_the_later_click_holds_but_no_clicked_pixel_is_lost(classical):
    classical().segment(Prompts.empty(SHAPE).with_click((5, 5)).with_click((5, 6), positive=False))
    positive, negative = classical.seen[0]
    assert positive[5, 5] == 1
    assert negative[5, 5] == 0
    assert negative[4, 5] == 1
    assert positive[5, 3] == 1
    assert not (positive * negative).any()


def test_outside_of_all_boxes_is_background(classical):
    prompts = Prompts.empty(SHAPE).with_box((1, 1), (4, 5)).with_box((6, 6), (8, 8)).with_click((2, 2))
    classical().segment(prompts)
    negative = classical.seen[0][1]
    assert negative.sum() == negative.size - 12 - 4
    assert not negative[1:4, 1:5].any()
    assert not negative[6:8, 6:8].any()


def test_a_box_alone_is_enough_only_for_a_method_that_can_start_from_it(classical):
    box = Prompts.empty(SHAPE).with_box((1, 1), (4, 5))
    assert classical(boxes=True).segment(box).mask.sum() == 12
    with pytest.raises(PromptError, match="no positive"):
        classical().segment(box)
    assert classical(boxes=True).prompts == {"scribbles", "clicks", "boxes"}
    assert classical().prompts == {"scribbles", "clicks"}


def test_a_box_with_a_positive_mark_inside_is_no_start_from_a_box(classical):
    classical(boxes=True).segment(Prompts.empty(SHAPE).with_box((1, 1), (4, 5)).with_click((2, 2)))
    (scribbles,) = classical.seen
    assert scribbles[0].any()


def test_a_classical_method_needs_an_image():
    with pytest.raises(PromptError, match="set_image"):
        ClassicalMethod(lambda image, scribbles: image > 0).segment(Prompts.empty(SHAPE).with_click((1, 1)))


def test_one_prediction_sets_the_image_and_takes_all_strokes_at_once():
    predictor = RecordingPredictor()
    scribbles = np.zeros((2, *SHAPE), np.float32)
    scribbles[0, 1, 1:3] = scribbles[1, 4, 4] = 1
    scribbles[:, 5, 5] = 1  # painted as both, as people do
    method = one_prediction(NetworkMethod(predictor))
    for value in (0.0, 1.0):
        assert np.array_equal(method(np.full(SHAPE, value, np.float32), scribbles), scribbles[0] > 0)
    assert [image.max() for image, _ in predictor.images] == [0.0, 1.0]
    assert all(np.array_equal(prompts.scribbles, scribbles) for prompts in predictor.prompts)
    assert [prompts.mask_input for prompts in predictor.prompts] == [None, None]


def test_a_network_is_loaded_by_the_name_of_no_classical_method(monkeypatch):
    loaded = []

    def load(name, *, device):
        loaded.append((name, device))
        return RecordingPredictor()

    monkeypatch.setattr(stepwise, "load_network", load)
    assert isinstance(load_interactive("mine.safetensors", device="cpu"), NetworkMethod)
    assert isinstance(load_interactive("random-walker"), ClassicalMethod)
    assert loaded == [("mine.safetensors", "cpu")]


def test_grabcut_starts_from_a_box():
    pytest.importorskip("cv2")
    method = load_interactive("grabcut")
    image = np.full((48, 48), 0.3, np.float32)
    image[15:30, 12:28] = 0.8
    method.set_image(image)
    mask = method.segment(Prompts.empty(image.shape).with_box((12, 9), (33, 31))).mask
    assert np.array_equal(mask, image > 0.5)
    assert "boxes" in method.prompts
    assert "boxes" not in load_interactive("random-walker").prompts


def test_methods_without_their_library_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    loaded, skipped = stepwise.load_interactive_methods(["random-walker", "grabcut", "random-walker"])
    assert list(loaded) == ["random-walker"]
    assert list(skipped) == ["grabcut"]
    assert "OpenCV" in skipped["grabcut"]


def test_no_method_left_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"no method to measure.*OpenCV"):
        stepwise.load_interactive_methods(["grabcut"])
    with pytest.raises(ConfigError, match="No method was named"):
        stepwise.load_interactive_methods([])
