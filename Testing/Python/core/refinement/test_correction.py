from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from refinable_networks import small_unet, state_of, unchanged

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import CancelledError, GeometryError, NetworkError, PromptError
from scribblesegment.refinement.adapters import ModuleNetwork
from scribblesegment.refinement.correction import Correction
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.region_growing import GrowthConfig
from scribblesegment.refinement.tiling import Tiling

QUICK = RefinementConfig(layers=4, learning_rate=0.02, precision="float32", anchor=0.0, settle=0)


@dataclass
class HalvedImage:
    """An image on a grid of half its resolution."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    tiling: Tiling = field(init=False)
    spacing_mm: tuple[float, ...] = (2.0, 2.0)

    def __post_init__(self) -> None:
        self.tiling = Tiling.whole(tuple(self.tensor.shape[1:]))

    def to_grid(self, scribbles: LabelScribbles) -> LabelScribbles:
        grid = np.full(self.tiling.shape, -1, np.int16)
        for position in np.argwhere(scribbles.marked):
            grid[tuple(position // 2)] = scribbles.labels[tuple(position)]
        return LabelScribbles.from_labels(grid)

    def to_image(self, logits: np.ndarray) -> np.ndarray:
        return logits.repeat(2, axis=1).repeat(2, axis=2)


class HalvingNetwork:
    """A network of slices that sees them at half their resolution; counts how often it prepared one."""

    name, licence, ndim, output = "halving", "", 2, Output()
    labels = ("background", "ball", "rest")

    def __init__(self, *, takes_scribbles: bool = False) -> None:
        self.module = small_unet(len(self.labels))
        self.takes_scribbles = takes_scribbles
        self.prepared: list[LabelScribbles | None] = []

    def prepare(self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles=None) -> Any:
        if index is None:
            raise NetworkError("This network sees one slice at a time.")
        self.prepared.append(scribbles)
        plane = image.slice(axis, index).image[::2, ::2]
        return HalvedImage(torch.from_numpy(np.array(plane, np.float32))[None], image.slice(axis, index).image.shape)


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


def test_the_network_s_own_result_has_the_image_s_shape():
    labels = Correction(HalvingNetwork(), volume(), index=0, device="cpu").segment()
    assert labels.shape == (32, 32)
    assert labels.dtype == np.int16


def test_a_correction_is_followed_on_the_image_s_own_pixels():
    network = HalvingNetwork()
    before = state_of(network.module)
    result = Correction(network, volume(), index=1, device="cpu", config=QUICK).refine(corrections())
    marks = corrections()
    assert result.satisfied
    assert (result.labels[marks.marked] == marks.labels[marks.marked]).all()
    assert result.names == network.labels
    assert result.violation_counts == {}
    assert result.g_history[-1] == 0
    assert unchanged(network.module, before)


def test_the_image_is_prepared_once_for_all_rounds():
    network = HalvingNetwork()
    correction = Correction(network, volume(), index=0, device="cpu", config=QUICK)
    correction.segment()
    correction.refine(corrections())
    correction.refine(corrections({(30, 30): 2}))
    assert network.prepared == [None]


def test_a_network_that_takes_scribbles_is_given_those_of_every_round():
    network = HalvingNetwork(takes_scribbles=True)
    correction = Correction(network, volume(), index=0, device="cpu", config=QUICK)
    first, second = corrections(), corrections({(30, 30): 2})
    correction.segment()
    correction.refine(first)
    correction.refine(second)
    assert network.prepared == [None, first, second]


def test_grown_corrections_are_counted_and_only_drawn_ones_are_reported():
    config = RefinementConfig(iterations=1, learning_rate=1e-9)
    correction = Correction(HalvingNetwork(), volume(), index=0, device="cpu", config=config)
    plain = correction.refine(corrections())
    grown = correction.refine(corrections(), grow=GrowthConfig(threshold=0.5))
    assert plain.grown == 0
    assert grown.grown > 20
    assert not (grown.violations & ~corrections().marked).any()


def test_violations_left_are_counted_by_label():
    config = RefinementConfig(iterations=1, learning_rate=1e-9)
    result = Correction(HalvingNetwork(), volume(), index=0, device="cpu", config=config).refine(corrections())
    asked = corrections().labels[result.violations]
    assert not result.satisfied
    assert result.violation_counts == {label: int((asked == label).sum()) for label in np.unique(asked)}


def test_a_named_new_label_is_added():
    marks = corrections({(28, column): 3 for column in range(20, 30)})
    correction = Correction(HalvingNetwork(), volume(), index=0, device="cpu", config=QUICK)
    result = correction.refine(marks, names={3: "cyst"})
    assert result.names == ("background", "ball", "rest", "cyst")
    assert (result.labels[28, 20:30] == 3).all()


def test_a_new_label_without_a_name_is_refused_with_the_network_s_labels():
    correction = Correction(HalvingNetwork(), volume(), index=0, device="cpu")
    with pytest.raises(PromptError, match=r"label 3, which the network halving does not know.*background, ball, rest"):
        correction.refine(corrections({(3, 3): 3}))


def test_corrections_of_another_shape_are_refused():
    with pytest.raises(PromptError, match=r"\(8, 8\)"):
        Correction(HalvingNetwork(), volume(), index=0, device="cpu").refine(LabelScribbles.empty((8, 8)))


def test_a_slice_that_is_not_there_is_refused():
    with pytest.raises(GeometryError, match="outside the volume"):
        Correction(HalvingNetwork(), volume(), index=2, device="cpu")


def test_cancelling_leaves_the_correction_usable():
    correction = Correction(HalvingNetwork(), volume(), index=0, device="cpu", config=QUICK)
    with pytest.raises(CancelledError):
        correction.refine(corrections(), cancelled=lambda: True)
    assert correction.refine(corrections()).satisfied


def test_corrections_for_a_network_of_slices_do_not_grow_into_other_slices():
    network = ModuleNetwork(small_unet(), ndim=2, labels=("background", "ball", "rest"))
    labels = np.full((2, 32, 32), -1, np.int16)
    labels[0] = corrections().labels
    growth = GrowthConfig(threshold=0.5)
    alone = Correction(network, volume(), index=0, device="cpu", config=QUICK).refine(corrections(), grow=growth)
    both = Correction(network, volume(), device="cpu", config=QUICK).refine(
        LabelScribbles.from_labels(labels), grow=growth
    )
    assert both.grown == alone.grown > 0


def test_a_network_that_is_not_to_be_changed_is_not():
    network = ModuleNetwork(small_unet(norm="batch"), ndim=2, labels=("background", "ball", "rest"))
    before = state_of(network.module)
    correction = Correction(network, volume(), index=0, device="cpu", config=QUICK)
    correction.segment()
    correction.refine(corrections({(28, 28): 3}), names={3: "cyst"})
    assert unchanged(network.module, before)
