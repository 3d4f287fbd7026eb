from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from refinable_networks import DependingOnValues, Returning, small_unet, state_of, unchanged

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.errors import (
    CancelledError,
    ConfigError,
    DeviceError,
    GeometryError,
    ImageError,
    NetworkError,
    PromptError,
)
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.refiner import Refiner, refine
from scribblesegment.refinement.tiling import Tiling

# Networks with random weights have nothing that is worth holding.
QUICK = RefinementConfig(layers=4, learning_rate=0.02, precision="float32", anchor=0.0, settle=0)


def discs(*, ndim: int = 2, side: int = 16) -> np.ndarray:
    """An image with a bright ball in the middle of dark noise, (1, *spatial)."""
    axes = np.meshgrid(*[np.arange(side)] * ndim, indexing="ij")
    inside = sum((axis - side / 2) ** 2 for axis in axes) < (side / 4) ** 2
    noise = np.random.default_rng(0).normal(0, 0.1, inside.shape)
    return (inside + noise)[None].astype(np.float32)


def scribbles(*, ndim: int = 2, side: int = 16) -> LabelScribbles:
    """Label 1 in the ball, background in a corner, and label 2 nowhere."""
    labels = np.full((side,) * ndim, -1, np.int16)
    middle = side // 2
    labels[(middle,) * (ndim - 1)][middle - 2 : middle + 3] = 1
    labels[(1,) * (ndim - 1)][1:6] = 0
    return LabelScribbles.from_labels(labels)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_refined_network_predicts_every_scribble_as_asked(ndim, activation):
    network = small_unet(1 if activation == "sigmoid" else 3, ndim=ndim)
    result = refine(network, discs(ndim=ndim), scribbles(ndim=ndim), config=QUICK, output=Output(activation))
    marks = scribbles(ndim=ndim)
    assert result.satisfied
    assert result.stopped == "satisfied"
    assert result.g_history[-1] == 0
    assert (result.labels[marks.marked] == marks.labels[marks.marked]).all()
    assert result.logits.shape == (2 if activation == "sigmoid" else 3, *marks.shape)
    assert np.array_equal(result.logits.argmax(0), result.labels)


def test_pixels_like_the_scribbled_ones_follow():
    result = refine(small_unet(), discs(), scribbles(), config=QUICK)
    ball = discs()[0] > 0.5
    assert (result.labels[ball] == 1).mean() > 0.9
    assert (result.labels[~ball] == 1).mean() < 0.2


@pytest.mark.parametrize("network", [small_unet(norm="batch"), DependingOnValues(small_unet())])
def test_the_network_is_bit_identical_afterwards(network):
    before = state_of(network.train())
    refine(network, discs(), scribbles(), config=QUICK)
    assert unchanged(network, before)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    network.eval()


def test_the_network_is_bit_identical_after_cancelling_and_after_an_error():
    network = small_unet()
    before = state_of(network)
    refiner = Refiner(network, discs(), config=QUICK)
    answers = itertools.chain([False] * 2, itertools.repeat(True))
    with pytest.raises(CancelledError, match="as it was before"):
        refiner.refine(scribbles(), cancelled=lambda: next(answers))

    def fail(count: int, g: float) -> None:
        if count == 2:
            raise ValueError("the display is gone")

    with pytest.raises(ValueError, match="display"):
        refiner.refine(scribbles(), on_iteration=fail)
    assert unchanged(network, before)


def test_every_refinement_begins_with_the_pretrained_weights():
    refiner = Refiner(small_unet(), discs(), config=QUICK)
    own = refiner.infer()
    first = refiner.refine(scribbles())
    second = refiner.refine(scribbles())
    assert first.g_history == second.g_history
    assert np.array_equal(first.logits, second.logits)
    assert np.array_equal(refiner.infer(), own)


def test_the_cached_refinement_is_the_same_as_that_of_the_whole_network():
    fast = refine(small_unet(), discs(), scribbles(), config=QUICK)
    slow = refine(DependingOnValues(small_unet()), discs(), scribbles(), config=QUICK)
    assert "slower" in slow.notes[0]
    assert fast.iterations == slow.iterations
    np.testing.assert_allclose(fast.logits, slow.logits, atol=1e-4)


def test_only_the_chosen_layers_are_refined():
    result = refine(
        small_unet(), discs(), scribbles(), config=RefinementConfig(layers=("last", "head"), precision="float32")
    )
    assert result.layers == ("last.0", "head")
    assert {name.split(".")[0] for name in result.weights} == {"last", "head"}


def test_patches_and_the_whole_image_both_satisfy_the_scribbles():
    tiling = Tiling.patches((24, 24), (16, 16))
    result = refine(small_unet(), discs(side=24), scribbles(side=24), config=QUICK, tiling=tiling)
    assert result.satisfied
    assert result.logits.shape == (3, 24, 24)


def test_a_2d_network_is_refined_on_a_volume_by_scribbles_on_one_slice():
    image = np.repeat(discs()[:, None], 4, axis=1)
    labels = np.full((4, 16, 16), -1, np.int16)
    labels[1] = scribbles().labels
    tiling = Tiling.slices((4, 16, 16), 0)
    result = refine(small_unet(), image, LabelScribbles.from_labels(labels), config=QUICK, tiling=tiling)
    alone = refine(small_unet(), discs(), scribbles(), config=QUICK)
    assert result.satisfied
    # All slices are the same image, so what the one taught the network shows in all of them.
    for plane in result.labels:
        assert np.array_equal(plane, alone.labels)


def test_an_image_smaller_than_the_patch_is_refined():
    result = refine(small_unet(), discs(), scribbles(), config=QUICK, tiling=Tiling.patches((16, 16), (32, 32)))
    assert result.satisfied
    assert result.labels.shape == (16, 16)


def test_a_new_label_is_added():
    labels = np.array(scribbles().labels)
    labels[12:14, 12:15] = 3
    result = refine(small_unet(), discs(), LabelScribbles.from_labels(labels), config=QUICK, new_labels=True)
    assert result.satisfied
    assert result.logits.shape[0] == 4
    assert (result.labels[12:14, 12:15] == 3).all()


def test_a_new_structure_is_added_to_a_network_of_one_structure():
    labels = np.array(scribbles().labels)
    labels[12:14, 12:15] = 2
    result = refine(small_unet(1), discs(), LabelScribbles.from_labels(labels), config=QUICK, new_labels=True)
    assert result.satisfied
    assert result.logits.shape[0] == 3


def test_a_label_that_the_network_lacks_is_refused_unless_it_may_be_added():
    labels = np.array(scribbles().labels)
    labels[3, 3] = 3
    with pytest.raises(PromptError, match="labels 3, the network knows 0 to 2"):
        refine(small_unet(), discs(), LabelScribbles.from_labels(labels))


def test_new_labels_are_numbered_without_gaps():
    labels = np.array(scribbles().labels)
    labels[3, 3] = 5
    with pytest.raises(PromptError, match="number them from 3 on"):
        refine(small_unet(), discs(), LabelScribbles.from_labels(labels), new_labels=True)


def test_bfloat16_iterations_end_with_scribbles_that_hold_in_float32():
    config = RefinementConfig(learning_rate=0.02, precision="bfloat16")
    result = refine(small_unet(), discs(), scribbles(), config=config)
    assert result.satisfied
    assert result.logits.dtype == np.float32


def test_iterations_are_told_in_order_and_windows_as_they_are_predicted():
    told: list[tuple[int, float]] = []
    fractions: list[float] = []
    result = refine(
        small_unet(),
        discs(),
        scribbles(),
        config=QUICK,
        on_iteration=lambda count, g: told.append((count, g)),
        progress=lambda fraction, _: fractions.append(fraction),
    )
    assert [count for count, _ in told] == list(range(result.iterations + 1))
    assert tuple(g for _, g in told) == result.g_history
    assert fractions[-1] == 1


def test_grown_scribbles_need_not_be_followed():
    grown = np.array(scribbles().labels)
    grown[9, 6:11], grown[10, 6:11] = 2, 1
    # Where something was drawn, that counts; labels that nobody drew do not grow.
    grown[scribbles().marked] = 0
    result = Refiner(small_unet(), discs(), config=QUICK).refine(scribbles(), grown=LabelScribbles.from_labels(grown))
    marks = scribbles()
    assert result.stopped == "satisfied"
    assert result.satisfied
    assert (result.labels[marks.marked] == marks.labels[marks.marked]).all()
    assert not (result.violations & ~marks.marked).any()


def test_violations_left_are_reported():
    result = refine(small_unet(), discs(), scribbles(), config=RefinementConfig(iterations=1, learning_rate=1e-9))
    assert not result.satisfied
    assert result.stopped == "iterations"
    wrong = scribbles().marked & (result.labels != scribbles().labels)
    assert wrong.any()
    assert np.array_equal(result.violations, wrong)


def test_options_and_plain_arrays_are_taken():
    result = refine(small_unet(), discs(), scribbles().labels, config=QUICK, layers=("head",), iterations=3)
    assert result.layers == ("head",)
    assert result.iterations <= 3


def test_an_unknown_option_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match=r"no option layer; .*layers"):
        refine(small_unet(), discs(), scribbles(), layer=3)


def test_prediction_can_be_cancelled():
    with pytest.raises(CancelledError, match="prediction was cancelled"):
        Refiner(small_unet(), discs()).infer(cancelled=lambda: True)


def test_gradients_that_are_not_finite_leave_a_finite_result():
    class Exploding(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    network = DependingOnValues(Returning(small_unet(), Exploding.apply))
    result = refine(network, discs(), scribbles(), config=QUICK)
    assert result.stopped == "not finite"
    assert np.isfinite(result.logits).all()


def test_a_network_without_gradients_is_refused():
    class Thresholded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_unet()
            self.eval()

        def forward(self, x):
            return (self.network(x) > 0).float()

    with pytest.raises(NetworkError, match="no gradient"):
        refine(Thresholded(), discs(), scribbles(), config=QUICK)


def test_a_lack_of_memory_is_said_as_such(monkeypatch):
    refiner = Refiner(small_unet(), discs(), config=QUICK)

    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("scribblesegment.refinement.refiner.minimise", fail)
    with pytest.raises(DeviceError, match="Refine fewer layers"):
        refiner.refine(scribbles())


def test_scribbles_of_another_shape_and_no_scribbles_are_refused():
    refiner = Refiner(small_unet(), discs())
    with pytest.raises(PromptError, match=r"\(8, 8\)"):
        refiner.refine(LabelScribbles.empty((8, 8)))
    with pytest.raises(PromptError, match="no scribbles"):
        refiner.refine(LabelScribbles.empty((16, 16)))


def test_images_that_are_no_input_of_a_network_are_refused():
    with pytest.raises(ImageError, match="channels, H, W"):
        Refiner(small_unet(), np.zeros((16, 16), np.float32))
    with pytest.raises(ImageError, match="NaN"):
        Refiner(small_unet(), np.full((1, 16, 16), np.nan, np.float32))


def test_a_tiling_of_another_image_is_refused():
    with pytest.raises(GeometryError, match="tiling is for an image"):
        Refiner(small_unet(), discs(), tiling=Tiling.whole((8, 8)))


@pytest.mark.gpu
def test_a_graphics_card_refines_as_the_processor_does():
    network = small_unet()
    labels = np.array(scribbles().labels)
    labels[12:14, 12:15] = 3
    marks = LabelScribbles.from_labels(labels)
    config = RefinementConfig(layers=4, learning_rate=0.02, precision="float32")
    there = refine(network, discs(), marks, config=config, new_labels=True, device="cuda")
    here = refine(network, discs(), marks, config=config, new_labels=True)
    assert there.satisfied
    np.testing.assert_allclose(there.g_history[:3], here.g_history[:3], rtol=1e-3)
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())
