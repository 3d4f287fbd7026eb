"""Refining a network for an image until its prediction follows the scribbles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from refinable_networks import DependingOnValues, Returning, small_unet, state_of, unchanged
from torch import nn
from torch.nn import functional

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
from scribblesegment.refinement.constraints import (
    FeatureCache,
    ScribbleConstraints,
    ScribbleTargets,
    WindowScribbles,
    runs_in_bfloat16,
)
from scribblesegment.refinement.lagrangian import RefinementConfig, agreement, constraint_loss
from scribblesegment.refinement.network_graph import TracedNetwork
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.refiner import Refiner, refine
from scribblesegment.refinement.tiling import Tiling

# Networks with random weights have nothing that is worth holding.
QUICK = RefinementConfig(layers=4, learning_rate=0.02, precision="float32", anchor=0.0, settle=0)


def a_disc(*, ndim: int = 2, side: int = 16) -> np.ndarray:
    """An image with a bright ball in the middle of dark noise, (1, *spatial)."""
    axes = np.meshgrid(*[np.arange(side)] * ndim, indexing="ij")
    inside = sum((axis - side / 2) ** 2 for axis in axes) < (side / 4) ** 2
    noise = np.random.default_rng(0).normal(0, 0.1, inside.shape)
    return (inside + noise)[None].astype(np.float32)


def scribbles(*, ndim: int = 2, side: int = 16, extra: int | None = None) -> LabelScribbles:
    """Label 1 in the ball, background in a corner, and an extra label in another."""
    labels = np.full((side,) * ndim, -1, np.int16)
    middle = side // 2
    labels[(middle,) * (ndim - 1)][middle - 2 : middle + 3] = 1
    labels[(1,) * (ndim - 1)][1:6] = 0
    if extra is not None:
        labels[12:14, 12:15] = extra
    return LabelScribbles.from_labels(labels)


def follows(result, marks: LabelScribbles) -> bool:
    return bool((result.labels[marks.marked] == marks.labels[marks.marked]).all())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_refined_network_predicts_every_scribble(ndim, activation):
    network = small_unet(1 if activation == "sigmoid" else 3, ndim=ndim)
    marks = scribbles(ndim=ndim)
    result = refine(network, a_disc(ndim=ndim), marks, config=QUICK, output=Output(activation))
    assert result.satisfied
    assert (result.stopped, result.g_history[-1]) == ("satisfied", 0)
    assert result.g_history[0] > 0
    assert follows(result, marks)
    assert result.logits.shape == (2 if activation == "sigmoid" else 3, *marks.shape)
    assert np.array_equal(result.logits.argmax(0), result.labels)


def two_discs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (1, 48, 48) of a grey and a bright disc in noise, and their labels 1 and 2."""
    rows, columns = np.ogrid[:48, :48]
    labels = ((rows - 14) ** 2 + (columns - 14) ** 2 < 81) + 2 * ((rows - 32) ** 2 + (columns - 32) ** 2 < 100)
    noise = np.random.default_rng(seed).normal(0, 0.08, labels.shape)
    return (labels / 2 + noise)[None].astype(np.float32), labels


@pytest.mark.parametrize("held", [True, False])
def test_one_stroke_does_not_turn_a_whole_label_into_another_unless_nothing_is_held(held):
    network = small_unet(3)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(120):
        image, labels = two_discs(step)
        logits = network(torch.from_numpy(image)[None])
        optimizer.zero_grad()
        functional.cross_entropy(logits, torch.from_numpy(labels)[None]).backward()
        optimizer.step()
    image, labels = two_discs(999)
    stroke = np.full(labels.shape, -1, np.int16)
    stroke[12:15, 10:14] = 2  # in the disc of label 1
    marks = LabelScribbles.from_labels(stroke)
    result = refine(network, image, marks, config=RefinementConfig() if held else RefinementConfig(anchor=0.0))
    assert follows(result, marks)
    far = labels == 1
    far[5:22, 3:22] = False
    assert (result.labels[far] == 1).mean() == pytest.approx(float(held), abs=0.1)


@pytest.mark.parametrize("network", [small_unet(norm="batch"), DependingOnValues(small_unet(norm="batch"))])
def test_the_network_is_bit_identical_afterwards_also_when_it_ends_early(network):
    before = state_of(network.train())
    refiner = Refiner(network, a_disc(), config=QUICK)
    refiner.refine(scribbles())
    answers = itertools.chain([False] * 2, itertools.repeat(True))
    with pytest.raises(CancelledError, match="as it was before"):
        refiner.refine(scribbles(), cancelled=lambda: next(answers))

    def fail(count: int, g: float) -> None:
        if count == 2:
            raise ValueError("the display is gone")

    with pytest.raises(ValueError, match="display"):
        refiner.refine(scribbles(), on_iteration=fail)
    assert unchanged(network, before)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_every_refinement_begins_with_the_pretrained_weights():
    refiner = Refiner(small_unet(), a_disc(), config=QUICK)
    own = refiner.infer()
    first, second = refiner.refine(scribbles()), refiner.refine(scribbles())
    assert first.g_history == second.g_history
    assert np.array_equal(first.logits, second.logits)
    assert np.array_equal(refiner.infer(), own)
    assert np.array_equal(own, small_unet()(torch.from_numpy(a_disc())[None])[0].detach().numpy())


def test_the_cached_refinement_is_the_same_as_that_of_the_whole_network():
    fast = refine(small_unet(), a_disc(), scribbles(), config=QUICK)
    slow = refine(DependingOnValues(small_unet()), a_disc(), scribbles(), config=QUICK)
    assert "slower" in slow.notes[0]
    assert fast.iterations == slow.iterations
    np.testing.assert_allclose(fast.logits, slow.logits, atol=1e-4)


def test_only_the_chosen_layers_are_refined():
    result = refine(small_unet(), a_disc(), scribbles().labels, config=QUICK, layers=("last", "head"), iterations=3)
    assert result.layers == ("last.0", "head")
    assert {name.split(".")[0] for name in result.weights} == {"last", "head"}
    assert result.iterations <= 3
    with pytest.raises(ConfigError, match=r"no option layer; .*layers"):
        refine(small_unet(), a_disc(), scribbles(), layer=3)


def test_a_2d_network_is_refined_on_a_volume_by_scribbles_on_one_slice():
    image = np.repeat(a_disc()[:, None], 4, axis=1)
    labels = np.full((4, 16, 16), -1, np.int16)
    labels[1] = scribbles().labels
    tiling = Tiling.slices((4, 16, 16), 0)
    result = refine(small_unet(), image, LabelScribbles.from_labels(labels), config=QUICK, tiling=tiling)
    alone = refine(small_unet(), a_disc(), scribbles(), config=QUICK)
    # All slices are the same image, so what the one taught the network shows in all of them.
    assert all(np.array_equal(plane, alone.labels) for plane in result.labels)


@pytest.mark.parametrize("known", [1, 3])
def test_a_new_label_is_added(known):
    new = known + 1 if known == 1 else known
    marks = scribbles(extra=new)
    result = refine(small_unet(known), a_disc(), marks, config=QUICK, new_labels=True)
    assert result.satisfied
    assert follows(result, marks)
    assert result.logits.shape[0] == new + 1


def test_bfloat16_iterations_end_with_scribbles_that_hold_in_float32():
    config = RefinementConfig(learning_rate=0.02, precision="bfloat16")
    result = refine(small_unet(), a_disc(), scribbles(), config=config)
    assert result.satisfied
    assert follows(result, scribbles())
    assert result.logits.dtype == np.float32


def test_what_holds_in_bfloat16_only_is_finished_in_float32():
    marks = scribbles()
    bonus = torch.zeros(1, 3, 16, 16)
    for row, column in np.argwhere(marks.marked):
        bonus[0, marks.labels[row, column], row, column] = 100.0
    favoured = Returning(
        small_unet(), lambda logits: logits + bonus.bfloat16() if logits.dtype == torch.bfloat16 else logits
    )
    counts: list[int] = []
    config = RefinementConfig(layers=99, learning_rate=0.02, precision="bfloat16", anchor=0.0)
    result = refine(
        DependingOnValues(favoured), a_disc(), marks, config=config, on_iteration=lambda count, _: counts.append(count)
    )
    assert result.satisfied
    assert follows(result, marks)
    assert result.g_history[0] > 0 == result.g_history[-1]
    assert counts == [0, *range(result.iterations + 1)]  # it began again where bfloat16 had ended at once


def test_windows_smaller_and_larger_than_the_image_satisfy_the_scribbles_and_are_reported():
    calls: list[tuple[int, float]] = []
    fractions: list[float] = []
    for side, patch in ((16, 32), (24, 16)):
        calls.clear()
        fractions.clear()
        result = refine(
            small_unet(),
            a_disc(side=side),
            scribbles(side=side),
            config=QUICK,
            tiling=Tiling.patches((side, side), (patch, patch)),
            on_iteration=lambda count, g: calls.append((count, g)),
            progress=lambda fraction, _: fractions.append(fraction),
        )
        assert result.satisfied
        assert result.labels.shape == (side, side)
        assert calls == list(enumerate(result.g_history))
        assert fractions == ([0.25, 0.5, 0.75, 1] if side == 24 else [1])
    with pytest.raises(CancelledError, match="prediction was cancelled"):
        Refiner(small_unet(), a_disc()).infer(cancelled=lambda: True)


def test_grown_scribbles_need_not_be_followed():
    grown = np.array(scribbles().labels)
    grown[9, 6:11], grown[10, 6:11] = 2, 1
    grown[scribbles().marked] = 0
    result = Refiner(small_unet(), a_disc(), config=QUICK).refine(scribbles(), grown=LabelScribbles.from_labels(grown))
    # Where something was drawn, that counts; labels that nobody drew do not grow.
    grown = np.where(scribbles().marked, scribbles().labels, np.where(grown == 2, -1, grown))
    same = Refiner(small_unet(), a_disc(), config=QUICK).refine(scribbles(), grown=LabelScribbles.from_labels(grown))
    assert np.array_equal(result.logits, same.logits)
    plain = Refiner(small_unet(), a_disc(), config=QUICK).refine(scribbles())
    assert result.g_history[0] == pytest.approx(plain.g_history[0])  # g is about what was drawn
    assert not np.array_equal(result.logits, plain.logits)
    assert result.satisfied
    assert follows(result, scribbles())


def test_a_network_without_gradients_and_a_lack_of_memory_are_named(monkeypatch):
    with pytest.raises(NetworkError, match="no gradient"):
        refine(Returning(small_unet(), lambda logits: (logits > 0).float()), a_disc(), scribbles(), config=QUICK)
    refiner = Refiner(small_unet(), a_disc(), config=QUICK)

    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("scribblesegment.refinement.refiner.minimise", fail)
    with pytest.raises(DeviceError, match="Refine fewer layers"):
        refiner.refine(scribbles())


@pytest.mark.parametrize(
    ("marks", "options", "message"),
    [
        (LabelScribbles.empty((8, 8)), {}, r"\(8, 8\)"),
        (LabelScribbles.empty((16, 16)), {}, "no scribbles"),
        (scribbles(extra=3), {}, "labels 3, the network knows 0 to 2"),
        (scribbles(extra=5), {"new_labels": True}, "number them from 3 on"),
        (scribbles(), {"grown": LabelScribbles.empty((8, 8))}, "grown has shape"),
    ],
)
def test_scribbles_that_do_not_fit_are_refused(marks, options, message):
    with pytest.raises(PromptError, match=message):
        Refiner(small_unet(), a_disc()).refine(marks, **options)


@pytest.mark.parametrize(
    ("image", "tiling", "error", "message"),
    [
        (np.zeros((16, 16), np.float32), None, ImageError, "channels, H, W"),
        (np.full((1, 16, 16), np.nan, np.float32), None, ImageError, "NaN"),
        (a_disc(), Tiling.whole((8, 8)), GeometryError, "tiling is for an image"),
    ],
)
def test_images_that_are_no_input_of_a_network_are_refused(image, tiling, error, message):
    with pytest.raises(error, match=message):
        Refiner(small_unet(), image, tiling=tiling)


@pytest.mark.gpu
def test_a_graphics_card_refines_as_the_processor_does():
    network, marks = small_unet(), scribbles(extra=3)
    config = RefinementConfig(layers=4, learning_rate=0.02, precision="float32")
    there = refine(network, a_disc(), marks, config=config, new_labels=True, device="cuda")
    here = refine(network, a_disc(), marks, config=config, new_labels=True)
    assert there.satisfied
    np.testing.assert_allclose(there.g_history[:3], here.g_history[:3], rtol=1e-3)
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


# Constraints ---------------------------------------------------------------------------------------------------------

IMAGES = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(5))
POSITIONS = torch.tensor([[2, 3], [8, 8], [15, 0]])
TARGETS = ScribbleTargets(torch.tensor([1, 2, 0]), torch.tensor([True, True, True]))
OUTPUT = Output("softmax", probabilities=False)
PLAIN = RefinementConfig(precision="float32", anchor=0.0)
ONE, TWO, SHARED = (
    [(0, [0, 1, 2], 1.0)],
    [(0, [0, 1], 1.0), (1, [2], 1.0)],
    [(0, [0, 1, 2], 0.25), (1, [0, 1, 2], 0.75)],
)


@pytest.mark.parametrize("config", [PLAIN, RefinementConfig.paper(), RefinementConfig.paper(likelihood="scribbles")])
@pytest.mark.parametrize("parts", [ONE, TWO, SHARED])
def test_several_windows_give_g_and_gradient_of_their_blended_prediction(config, parts):
    split = TracedNetwork(small_unet(), IMAGES[0], OUTPUT).split(2)
    weights = {name: value.clone().requires_grad_() for name, value in split.pretrained.items()}
    outputs = [split.run(weights, split.features(image)) for image in IMAGES]
    blended = torch.zeros(3, 3)
    for image, rows, share in parts:
        at = POSITIONS[rows]
        blended = blended.index_add(0, torch.tensor(rows), outputs[image][0][:, at[:, 0], at[:, 1]].T * share)
    found = agreement(blended, TARGETS.labels)
    if config.objective == "likelihood" and config.likelihood == "image":
        flat = [outputs[image][0].flatten(1).T for image, *_ in parts]
        loss = found.g * sum(-functional.cross_entropy(one, one.argmax(1)) for one in flat) / len(flat)
    else:
        loss = constraint_loss(blended, TARGETS.labels, found, config)
    (2.0 * loss).backward()
    windows = [
        WindowScribbles(
            lambda image=image: split.features(IMAGES[image]),
            POSITIONS[rows],
            torch.tensor(rows),
            torch.full((len(rows),), share),
        )
        for image, rows, share in parts
    ]
    problem = ScribbleConstraints(split, windows, TARGETS, OUTPUT, config, start=split.pretrained, known_labels=3)
    given = {name: value.clone().requires_grad_() for name, value in split.pretrained.items()}
    of_windows, add_gradient = problem.evaluate(given)
    add_gradient(2.0)
    assert of_windows.g == pytest.approx(found.g)
    for name, value in given.items():
        torch.testing.assert_close(value.grad, weights[name].grad, rtol=1e-4, atol=1e-6)


class FixedKernel(nn.Module):
    """Its second convolution has a constant kernel in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 1)
        self.register_buffer("kernel", torch.ones(3, 3, 1, 1))

    def forward(self, x):
        return functional.conv2d(self.first(x), self.kernel)


def test_bfloat16_is_used_where_it_computes():
    split, fixed = (TracedNetwork(network, IMAGES[0], OUTPUT).split(2) for network in (small_unet(), FixedKernel()))
    assert runs_in_bfloat16(split, split.features(IMAGES[0]))
    largest = torch.finfo(torch.float32).max
    assert not runs_in_bfloat16(split, tuple(torch.full_like(one, largest) for one in split.features(IMAGES[0])))
    assert not runs_in_bfloat16(fixed, fixed.features(IMAGES[0]))


@pytest.mark.parametrize(
    ("limit", "preferred", "asked", "computed", "nbytes"),
    [
        (100, [], [3, 3], [3], 4),
        (8, [], [0, 1, 2, 0, 1, 2], [0, 1, 2, 2], 8),
        (8, [2, 3], [0, 1, 2, 3, 2, 3, 0], [0, 1, 2, 3, 0], 8),
        (4, [1, 2], [1, 2, 1], [1, 2], 4),
    ],
)
def test_features_are_computed_once_up_to_a_size_and_windows_with_scribbles_stay(
    limit, preferred, asked, computed, nbytes
):
    calls: list[int] = []
    cache = FeatureCache(lambda window: (calls.append(window), torch.full((1,), float(window)))[1:], limit)
    cache.prefer(preferred)
    assert [cache.get(window)[0].item() for window in asked] == asked
    assert calls == computed
    assert cache.nbytes == nbytes
