from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.evaluation import in_context_methods
from scribblesegment.evaluation.in_context_methods import (
    ContextFirstMethod,
    ContextFreeMethod,
    ContextNetworkMethod,
    LabelTransferMethod,
    ShownImages,
    load_in_context_methods,
)
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.label_transfer import LabelTransfer

SHAPE = (16, 16)
IMAGE = np.linspace(0, 1, 256, dtype=np.float32).reshape(SHAPE)
INSIDE = np.zeros(SHAPE, bool)
INSIDE[4:12, 4:12] = True
EMPTY = Prompts.empty(SHAPE)
CLICK = EMPTY.with_click((5, 5))


@dataclass(frozen=True)
class FixedPrediction:
    logits: np.ndarray

    def mask(self):
        return self.logits > 0

    def probabilities(self):
        return np.full(self.logits.shape, 0.25, np.float32)


class RecordingPredictor:
    """Predicts the same logits each time, and keeps what it was given."""

    def __init__(self, level=1.0, capabilities=("scribbles", "clicks", "context")):
        self.capabilities = frozenset(capabilities)
        self.logits = np.where(INSIDE, level, -level).astype(np.float32)
        self.calls = []

    def set_image(self, image, *, spacing_mm):
        self.calls.append(("image", image))

    def set_context(self, context):
        self.calls.append(("context", 0 if context is None else len(context)))

    def predict(self, prompts):
        self.calls.append(("predict", prompts))
        return FixedPrediction(self.logits)

    @property
    def contexts(self):
        return [value for kind, value in self.calls if kind == "context"]

    @property
    def prompts(self):
        return [value for kind, value in self.calls if kind == "predict"]


def a_context(entries):
    return ContextSet("disc", tuple(ContextEntry(IMAGE, INSIDE, (1.0, 1.0)) for _ in range(entries)))


def test_a_method_alone_is_never_shown_a_context():
    predictor = RecordingPredictor()
    method = ContextFreeMethod(in_context_methods.NetworkMethod(predictor))
    method.set_context(a_context(3))
    method.set_image(IMAGE)
    assert method.segment(CLICK).mask.any()
    assert predictor.contexts == []
    assert method.least_context is None
    assert method.prompts == {"scribbles", "clicks"}


def test_a_network_in_context_predicts_without_prompts_and_gets_its_logits_back():
    predictor = RecordingPredictor()
    method = ContextNetworkMethod(predictor)
    assert method.least_context == 1
    method.set_context(a_context(3))
    method.set_image(IMAGE)
    assert np.array_equal(method.segment(EMPTY).mask, INSIDE)
    method.segment(CLICK)
    assert predictor.contexts == [3]
    assert predictor.prompts[0].mask_input is None
    assert np.array_equal(predictor.prompts[1].mask_input, predictor.logits)


def test_a_new_context_makes_a_network_forget_its_last_logits():
    predictor = RecordingPredictor()
    method = ContextNetworkMethod(predictor)
    method.set_image(IMAGE)
    for entries in (1, 2):
        method.set_context(a_context(entries))
        method.segment(CLICK)
    assert [prompts.mask_input for prompts in predictor.prompts] == [None, None]


@pytest.fixture
def combined():
    interactive, first = RecordingPredictor(2.0, ("scribbles", "clicks")), RecordingPredictor(3.0, ("context",))
    return ContextFirstMethod(interactive, first, least_context=3), interactive, first


def test_the_prediction_from_the_context_is_what_the_interactive_network_starts_from(combined):
    method, interactive, first = combined
    method.set_context(a_context(3))
    method.set_image(IMAGE)
    assert np.array_equal(method.segment(EMPTY).logits, first.logits)
    assert interactive.prompts == []
    assert np.array_equal(method.segment(CLICK).logits, interactive.logits)
    method.segment(CLICK)
    assert np.array_equal(interactive.prompts[0].mask_input, first.logits)
    assert np.array_equal(interactive.prompts[1].mask_input, interactive.logits)
    assert len(first.prompts) == 1
    assert method.prompts == {"scribbles", "clicks"}


def test_prompts_that_come_at_once_are_given_with_the_prediction_from_the_context(combined):
    method, interactive, first = combined
    method.set_context(a_context(3))
    method.set_image(IMAGE)
    method.segment(CLICK)
    assert first.prompts[0].is_empty
    assert np.array_equal(interactive.prompts[0].mask_input, first.logits)


@pytest.mark.parametrize("entries", [0, 2])
def test_too_small_a_context_is_not_looked_at(combined, entries):
    method, interactive, first = combined
    method.set_context(a_context(entries))
    method.set_image(IMAGE)
    method.segment(CLICK)
    assert first.calls == []
    assert interactive.prompts[0].mask_input is None


def test_every_image_starts_from_its_own_prediction_from_the_context(combined):
    method, _, first = combined
    method.set_context(a_context(4))
    for image in (IMAGE, 1 - IMAGE):
        method.set_image(image)
        method.segment(EMPTY)
    assert [image[0, 0] for kind, image in first.calls if kind == "image"] == [0.0, 1.0]
    assert len(first.prompts) == 2


def test_the_combination_needs_an_image_and_a_context_of_one_at_least(combined):
    with pytest.raises(PromptError, match="set_image"):
        combined[0].segment(CLICK)
    with pytest.raises(ConfigError, match="at least 1"):
        ContextFirstMethod(combined[1], combined[2], least_context=0)


def test_labels_are_transferred_without_prompts():
    method = LabelTransferMethod(LabelTransfer(size=16))
    method.set_context(a_context(2))
    method.set_image(IMAGE)
    found = method.segment(EMPTY).mask
    assert (found & INSIDE).sum() > 0.8 * INSIDE.sum()
    assert not method.prompts
    with pytest.raises(PromptError, match="not understood"):
        method.segment(CLICK)
    with pytest.raises(PromptError, match="set_context"):
        LabelTransferMethod().segment(EMPTY)


def test_entries_show_images_as_the_predictor_sees_them():
    image = IMAGE * 0.5
    shown = ShownImages()
    example = LabelExample("set", "set/disc", "p", 3, 1, image, INSIDE)
    entry, other = (shown.entry(example, mask) for mask in (INSIDE, ~INSIDE))
    assert entry.image.max() == 1.0
    assert entry.image is other.image
    assert entry.source == "set 3"
    assert np.array_equal(other.mask, ~INSIDE)
    assert image.flags.writeable


@pytest.fixture
def networks(monkeypatch):
    """Networks by their paths, as they would be loaded."""
    known = {
        "runs/both.safetensors": RecordingPredictor(),
        "runs/plain.safetensors": RecordingPredictor(capabilities=("scribbles", "clicks")),
        "runs/universeg.pt": RecordingPredictor(capabilities=("context",)),
    }

    def load(name, *, device):
        if name not in known:
            raise ConfigError(f"No method {name!r}.")
        return known[name]

    monkeypatch.setattr(in_context_methods, "load_network", load)
    monkeypatch.setattr(in_context_methods, "load_interactive", lambda name, device: load(name, device=device))
    return known


def test_methods_are_called_by_their_files(networks):
    found = load_in_context_methods(
        "runs/plain.safetensors", ["runs/both.safetensors", "label-transfer"], universeg="runs/universeg.pt"
    )
    assert found.alone == "plain alone"
    assert list(found.methods) == ["plain alone", "both", "label-transfer", "universeg", "plain + universeg"]
    assert [method.least_context for method in found.methods.values()] == [None, 1, 1, 1, 5]


def test_the_same_network_is_compared_with_and_without_context(networks):
    found = load_in_context_methods("runs/both.safetensors", ["runs/both.safetensors"], least_context=2)
    assert list(found.methods) == ["both alone", "both"]


def test_methods_that_cannot_be_told_apart_or_take_no_context_are_refused(networks):
    with pytest.raises(ConfigError, match="called the same"):
        load_in_context_methods("runs/plain.safetensors", ["runs/both.safetensors"] * 2)
    with pytest.raises(ConfigError, match="takes no context sets, only clicks, scribbles"):
        load_in_context_methods("runs/plain.safetensors", ["runs/plain.safetensors"])
    with pytest.raises(ConfigError, match="No method"):
        load_in_context_methods("runs/plain.safetensors", ["runs/other.safetensors"])


def test_real_networks_put_together_segment_in_context():
    from scribblesegment.inference.predictor import Network, Predictor
    from scribblesegment.models.factory import build_network
    from scribblesegment.models.universeg import UniverSeg, UniverSegConfig

    plain = Predictor(Network(build_network("scribble_unet", {"features": [4, 4]}), size=32, device="cpu"))
    first = Predictor(Network(UniverSeg(UniverSegConfig((4, 4))), capabilities=("context",), size=32, device="cpu"))
    method = ContextFirstMethod(plain, first, least_context=1)
    method.set_context(a_context(2))
    method.set_image(IMAGE)
    assert method.segment(EMPTY).logits.shape == SHAPE
    assert method.segment(EMPTY.with_click((1, 1), positive=False)).mask.dtype == bool
