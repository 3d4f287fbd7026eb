"""Two networks as one predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import PromptError, WeightsError
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.inference.predictor import PairedPredictor, Predictor, load_predictor
from scribblesegment.propagation import Propagator

SHAPE = (32, 32)
PLAN = ExecutionPlan()


class Alone(nn.Module):
    """Sees the structure under positive strokes only."""

    def forward(self, x: Tensor) -> Tensor:
        return 12.0 * x[:, 2:3] - 8.0


class InContext(nn.Module):
    """Sees what is in the mask of the context."""

    def encode_context(self, images: Tensor, masks: Tensor) -> Tensor:
        return masks.mean(dim=1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.full_like(x[:, :1], -1.0) if context is None else 12.0 * context - 4.0


class Loader:
    """Loads the predictor in context, and counts how often."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.loaded = error, []

    def __call__(self, plan: ExecutionPlan) -> Predictor:
        if self.error is not None:
            raise self.error
        self.loaded.append(
            Predictor(InContext(), capabilities=("scribbles", "clicks", "context"), size=32, plan=plan, name="other")
        )
        return self.loaded[-1]


def paired(loader: Loader | None = None) -> PairedPredictor:
    return PairedPredictor(
        Alone(), load_in_context=loader or Loader(), capabilities=("scribbles",), size=32, plan=PLAN, name="own"
    )


def left_half() -> ContextSet:
    mask = np.zeros(SHAPE, bool)
    mask[:, :16] = True
    return ContextSet("liver", (ContextEntry(np.zeros(SHAPE, np.float32), mask, (1.0, 1.0)),))


def stroke(column: int, positive: bool = True) -> Prompts:
    marked = np.zeros(SHAPE, bool)
    marked[4:28, column] = True
    return Prompts.empty(SHAPE).with_scribble(marked, positive)


def test_without_a_context_it_is_its_own_network_and_loads_no_other() -> None:
    loader = Loader()
    predictor = paired(loader)
    assert predictor.capabilities == {"scribbles", "context"}
    assert predictor.name == "own"
    predictor.set_image(np.zeros(SHAPE))
    assert np.array_equal(predictor.predict(stroke(20)).mask(), stroke(20).scribbles[0] > 0)
    predictor.set_context(None)
    predictor.set_context(ContextSet("liver"))
    with pytest.raises(PromptError, match="no prompts"):
        predictor.predict(Prompts.empty(SHAPE))
    assert not loader.loaded


@pytest.mark.parametrize("context_first", [True, False])
def test_from_a_context_alone_the_other_network_predicts(context_first: bool) -> None:
    loader = Loader()
    predictor = paired(loader)
    if context_first:
        predictor.set_context(left_half())
    predictor.set_image(np.zeros(SHAPE))
    if not context_first:
        predictor.set_context(left_half())
    found = predictor.predict(Prompts.empty(SHAPE))
    assert np.array_equal(found.mask(), left_half().entries[0].mask)
    predictor.set_context(left_half())
    assert len(loader.loaded) == 1
    assert loader.loaded[0].plan is predictor.plan


def test_with_prompts_the_mean_of_both_counts() -> None:
    predictor = paired()
    predictor.set_image(np.zeros(SHAPE))
    predictor.set_context(left_half())
    logits = predictor.predict(stroke(20)).logits
    assert logits[10, 20] == pytest.approx((4.0 - 4.0) / 2)
    assert logits[10, 30] == pytest.approx((-8.0 - 4.0) / 2)
    assert logits[10, 3] == pytest.approx((-8.0 + 8.0) / 2)
    predictor.set_context(None)
    assert predictor.predict(stroke(20)).logits[10, 20] == pytest.approx(4.0)


def test_where_nothing_says_where_the_structure_is_its_own_network_keeps_out() -> None:
    predictor = paired()
    predictor.set_image(np.zeros(SHAPE))
    predictor.set_context(left_half())
    wrong = stroke(3, positive=False)
    assert predictor.predict(wrong).logits[10, 3] == pytest.approx(8.0)
    again = wrong.with_mask_input(np.full(SHAPE, 2.0, np.float32))
    assert predictor.predict(again).logits[10, 3] == pytest.approx((-8.0 + 8.0) / 2)
    # In a part without the stroke there are no prompts.
    part = predictor.predict(stroke(20), region=((0, 32), (0, 16)))
    assert part.logits[10, 3] == pytest.approx(8.0)


def test_what_has_changed_is_told_across_both_networks() -> None:
    predictor = paired()
    predictor.set_image(np.zeros(SHAPE))
    assert predictor.predict(stroke(20)).changed_bbox == ((4, 28), (20, 21))
    predictor.set_context(left_half())
    assert predictor.predict(Prompts.empty(SHAPE)).changed_bbox == ((0, 32), (0, 21))
    assert predictor.predict(Prompts.empty(SHAPE)).changed_bbox is None
    predictor.set_image(np.ones(SHAPE))
    assert predictor.predict(Prompts.empty(SHAPE)).changed_bbox == ((0, 32), (0, 16))


def test_a_new_image_is_given_to_both() -> None:
    loader = Loader()
    predictor = paired(loader)
    predictor.set_image(np.zeros(SHAPE))
    predictor.set_context(left_half())
    predictor.set_image(np.zeros((40, 20)))
    assert predictor.predict(Prompts.empty((40, 20))).logits.shape == (40, 20)
    predictor.set_context(None)
    predictor.set_image(np.zeros((10, 12)))
    predictor.set_context(left_half())
    assert predictor.predict(Prompts.empty((10, 12))).logits.shape == (10, 12)


def test_if_the_other_network_cannot_be_loaded_there_is_no_context() -> None:
    predictor = paired(Loader(WeightsError("gone")))
    predictor.set_image(np.zeros(SHAPE))
    with pytest.raises(WeightsError, match="gone"):
        predictor.set_context(left_half())
    assert predictor.predict(stroke(20)).mask().any()


def test_it_propagates_through_a_volume() -> None:
    array = np.zeros((5, *SHAPE))
    array[:, 8:20, 8:20] = 1.0
    result = Propagator(paired()).run(Volume(array, np.eye(4)), {2: array[2] > 0}, 0)
    assert sorted(result.slices) == [0, 1, 3, 4]


def test_the_default_network_has_a_partner_and_a_file_has_none() -> None:
    predictor = load_predictor("default", device="cpu")
    assert isinstance(predictor, PairedPredictor)
    assert "context" in predictor.capabilities
    mask = np.zeros((64, 64), bool)
    mask[20:44, 20:44] = True
    image = np.where(mask, 0.8, 0.2).astype(np.float32)
    predictor.set_image(image)
    predictor.set_context(ContextSet("square", (ContextEntry(image, mask, (1.0, 1.0)),)))
    found = predictor.predict(Prompts.empty(mask.shape)).mask()
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9
    assert type(load_predictor("context-unet-embedded", device="cpu")) is Predictor
