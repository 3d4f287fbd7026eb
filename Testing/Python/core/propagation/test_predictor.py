"""Propagation with the predictor that is used in earnest, around a network one can reason about."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from propagation_phantoms import assembled, ball, cut, dice, volume_of
from torch import Tensor, nn

from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.inference.predictor import Network, Predictor
from scribblesegment.models.encoding import IMAGE, POSITIVE, PREVIOUS_LOGITS
from scribblesegment.propagation import Propagator


class BrightAsInContext(nn.Module):
    """Sees what is as bright as the structure in its context (or under strokes), near what is expected."""

    def __init__(self) -> None:
        super().__init__()
        self.contrast = nn.Parameter(torch.tensor(16.0))

    def encode_context(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        return ((images * masks).sum() / masks.sum() / 2,)

    def forward(self, x: Tensor, context: tuple[Tensor, ...] | None = None) -> Tensor:
        image, strokes = x[:, IMAGE : IMAGE + 1], x[:, POSITIVE : POSITIVE + 1]
        under_strokes = ((image * strokes).sum() / strokes.sum().clamp(1)).clamp(0.5)
        threshold = context[0] if context is not None else under_strokes / 2
        return self.contrast * (image - threshold) + 0.5 * x[:, PREVIOUS_LOGITS : PREVIOUS_LOGITS + 1]


@pytest.mark.parametrize("capabilities", [("scribbles", "context"), ("scribbles",)])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_ball_is_recovered_by_a_predictor(capabilities, axis):
    structure = ball()
    predictor = Predictor(Network(BrightAsInContext(), capabilities=capabilities, size=32, plan=ExecutionPlan()))
    middle = structure.shape[axis] // 2
    volume = volume_of(structure, np.diag([1.1, 0.9, 1.3, 1.0]), noise=4.0)
    result = Propagator(predictor).run(volume, cut(structure, axis, middle), axis)
    assert dice(assembled(result, structure.shape), structure) > 0.9
    assert min(result.slices) < middle < max(result.slices)
