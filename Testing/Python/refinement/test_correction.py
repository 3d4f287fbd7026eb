"""The one door for applications, and the growing of scribbles before them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refinable_networks import small_unet, state_of, unchanged
from scipy import ndimage

from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import CancelledError, ConfigError, GeometryError, ImageError, NetworkError, PromptError
from scribblesegment.refinement.adapters import PreparedImage
from scribblesegment.refinement.adapters.base import scaling
from scribblesegment.refinement.correction import Correction
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.region_growing import REACH_PIXELS, GrowthConfig, grow_scribbles
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


@pytest.mark.parametrize("labels", [LABELS[:-1], (*LABELS, "too many")])
def test_all_labels_of_a_network_are_named(volume, labels):
    network = HalvingNetwork()
    network.labels = labels
    with pytest.raises(NetworkError, match=f"predicts {len(LABELS)} labels, .* and {len(labels)} are named"):
        Correction(network, volume, index=1, device="cpu", config=QUICK).segment()


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


# Growing of scribbles: where it stops, who wins, and what holds for every image -------------------------------------


FAR = 1e6


def marks_at(shape, **pixels_of_label) -> LabelScribbles:
    """Scribbles from `label_1=[(row, column), ...]`."""
    labels = np.full(shape, UNMARKED, np.int16)
    for name, pixels in pixels_of_label.items():
        labels[tuple(np.transpose(pixels))] = int(name.removeprefix("label_"))
    return LabelScribbles.from_labels(labels)


def test_the_reach_ends_growing_in_millimetres_along_every_axis():
    shape = (5, 21, 21)
    scribbles = marks_at(shape, label_1=[(2, 10, 10)])
    grown = grow_scribbles(np.zeros(shape), scribbles, GrowthConfig(1, 4.0), spacing_mm=(4.0, 1.0, 2.0)).mask(1)
    extents = [np.flatnonzero(grown.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    assert [list(extent[[0, -1]]) for extent in extents] == [[1, 3], [6, 14], [8, 12]]
    scribbles = marks_at((1, 41, 41), label_1=[(0, 20, 20)])
    grown = grow_scribbles(np.zeros((1, 41, 41)), scribbles, spacing_mm=(5.0, 0.5, 0.5)).mask(1)[0]
    assert np.flatnonzero(grown.any(0)).tolist() == list(range(20 - REACH_PIXELS, 21 + REACH_PIXELS))


def test_competing_scribbles_meet_half_way_in_millimetres_and_leave_the_middle_unmarked():
    scribbles = marks_at((1, 11), label_0=[(0, 1)], label_3=[(0, 9)])
    grown = grow_scribbles(np.zeros((1, 11)), scribbles, GrowthConfig(1, FAR))
    assert grown.labels[0].tolist() == [0, 0, 0, 0, 0, UNMARKED, 3, 3, 3, 3, 3]
    scribbles = marks_at((9, 1), label_1=[(0, 0)], label_2=[(7, 0)])
    grown = grow_scribbles(np.zeros((9, 1)), scribbles, GrowthConfig(1, 2.0), spacing_mm=(0.5, 3.0))
    assert grown.labels[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("connectivity", ["faces", "full"])
@pytest.mark.parametrize("fence", [[(row, row) for row in range(9)], [(row, 4) for row in range(9)]])
def test_a_scribble_never_grows_across_a_thin_line_of_another_label(connectivity, fence):
    # The image keeps label 0 on its line, so that only the line can stop label 1.
    image = np.zeros((9, 9))
    image[tuple(np.transpose(fence))] = 50
    scribbles = marks_at((9, 9), label_0=fence, label_1=[(1, 7)])
    for threshold in (1, 1000):
        rows, columns = np.nonzero(grow_scribbles(image, scribbles, GrowthConfig(threshold, FAR, connectivity)).mask(1))
        assert len(rows) > (5 if threshold == 1 else 0)
        assert all(columns > [fence[row][1] for row in rows])


@pytest.mark.parametrize(
    ("image", "config", "count"),
    [
        (np.tile(np.arange(10.0), (3, 1)), GrowthConfig(1.0, FAR), 3),  # a step has to be below the threshold
        (np.tile(np.arange(10.0), (3, 1)), GrowthConfig(1.001, FAR), 30),
        ([[0, 9, 9], [9, 0, 9], [9, 9, 0]], GrowthConfig(1, FAR), 1),
        ([[0, 9, 9], [9, 0, 9], [9, 9, 0]], GrowthConfig(1, FAR, "full"), 3),
        (np.zeros((5, 5)), GrowthConfig(1, 1.2, "full"), 3),  # a diagonal step is longer than a straight one
        (np.zeros((5, 5)), GrowthConfig(1, 1.5, "full"), 4),
        (np.zeros((5, 5)), GrowthConfig(threshold=0), 1),
        (np.zeros((5, 5)), GrowthConfig(reach_mm=0), 1),
        (np.full((5, 5), np.nan), GrowthConfig(), 1),
        (np.full((31, 31), 7), GrowthConfig(), 21),  # a constant image grows as far as it reaches
        (np.array([[0, 0, 255]], np.uint8), GrowthConfig(0.5, FAR), 2),
        (np.array([[0, 0, 2**40]]), GrowthConfig(0.5, FAR), 2),
        (np.array([[False, False, True]]), GrowthConfig(0.5, FAR), 2),
    ],
)
def test_connectivity_reach_and_kinds_of_images_decide_how_many_pixels_there_are(image, config, count):
    shape = np.shape(image)
    assert grow_scribbles(image, marks_at(shape, label_1=[(0, 0)]), config).count == count
    assert grow_scribbles(image, LabelScribbles.empty(shape), config).is_empty


def test_nothing_grows_over_values_that_are_not_finite():
    image = np.zeros((3, 9))
    image[:, 4] = [np.nan, np.inf, -np.inf]
    scribbles = marks_at(image.shape, label_1=[(1, 1), (1, 4)])
    for config in (GrowthConfig(1, FAR), GrowthConfig(reach_mm=FAR)):
        grown = grow_scribbles(image, scribbles, config).mask(1)
        assert grown[:, :4].all()
        assert not grown[:, 5:].any()
        assert grown[:, 4].tolist() == [False, True, False]


def test_the_estimated_threshold_follows_the_noise_near_each_label(rng):
    quiet_left = rng.normal(0, np.where(np.arange(60) < 30, 1, 20), (60, 60))
    quiet_left[:, 30:] += 200
    scribbles = marks_at((60, 60), label_1=[(30, 15)], label_2=[(30, 45)])
    for image in (quiet_left, quiet_left * 1000):  # whatever the units
        grown = grow_scribbles(image, scribbles, GrowthConfig(reach_mm=8))
        assert min(grown.mask(1).sum(), grown.mask(2).sum()) > 5
        assert not grown.mask(1)[:, 30:].any()
        assert not grown.mask(2)[:, :30].any()


def test_a_label_cut_off_from_its_marks_by_another_gives_up_what_lies_behind():
    # A corridor, flat up to column 11 and then a stair. Label 1 lies in noise and so would climb the stair; label 2
    # comes in from the side, takes the middle of the corridor and stops at the stair.
    image = np.full((3, 16), np.nan)
    image[0] = np.maximum(np.arange(16) - 11, 0)
    image[1:, :4] = np.add.outer([40, 80], [0, 20, 0, 20])
    image[1:, 8] = 0
    alone = marks_at(image.shape, label_1=[(0, 0)])
    assert grow_scribbles(image, alone, GrowthConfig(reach_mm=FAR)).mask(1)[0].all()
    scribbles = marks_at(image.shape, label_1=[(0, 0)], label_2=[(2, 8)])
    grown = grow_scribbles(image, scribbles, GrowthConfig(reach_mm=FAR))
    assert grown.labels[0].tolist() == [1] * 5 + [UNMARKED] + [2] * 6 + [UNMARKED] * 4


@pytest.mark.parametrize(
    ("error", "image", "options"),
    [
        (PromptError, np.zeros((4, 5)), {}),
        (PromptError, np.zeros((4, 4)), {"allowed": np.ones((2, 2), bool)}),
        (ImageError, np.zeros((4, 4), complex), {}),
        (GeometryError, np.zeros((4, 4)), {"spacing_mm": (1, 0)}),
        *(
            (ConfigError, np.zeros((4, 4)), {"config": options})
            for options in ({"threshold": -1}, {"threshold": np.nan}, {"reach_mm": -1}, {"reach_mm": np.inf})
        ),
        (ConfigError, np.zeros((4, 4)), {"config": {"connectivity": "diagonal"}}),
    ],
)
def test_images_and_options_that_do_not_fit_are_refused(error, image, options):
    with pytest.raises(error):
        grow_scribbles(image, marks_at((4, 4), label_1=[(1, 1)]), GrowthConfig(**options.pop("config", {})), **options)


@st.composite
def scenes(draw):
    """An image of few levels, so that there are flat parts and edges, with marks of up to four labels on it."""
    ndim = draw(st.integers(2, 3))
    shape = tuple(draw(st.lists(st.integers(1, 9 if ndim == 2 else 5), min_size=ndim, max_size=ndim)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = rng.integers(0, draw(st.integers(1, 4)), shape).astype(float)
    labels = np.where(rng.random(shape) < draw(st.floats(0.02, 0.5)), rng.integers(0, 4, shape), UNMARKED)
    spacing = tuple(draw(st.lists(st.sampled_from([0.5, 1.0, 2.5]), min_size=ndim, max_size=ndim)))
    config = GrowthConfig(
        draw(st.sampled_from([None, 0.5, 1.5, 10.0])),
        draw(st.sampled_from([None, 1.0, 3.0, FAR])),
        draw(st.sampled_from(["faces", "full"])),
    )
    allowed = draw(st.sampled_from([None, rng.random(shape) < 0.7]))
    return image, LabelScribbles.from_labels(labels), config, spacing, allowed


@given(scenes())
def test_marks_are_kept_and_everything_added_is_joined_to_a_mark_of_its_label_within_reach(scene):
    image, scribbles, config, spacing, allowed = scene
    grown = grow_scribbles(image, scribbles, config, spacing_mm=spacing, allowed=allowed)
    np.testing.assert_array_equal(grown.labels[scribbles.marked], scribbles.labels[scribbles.marked])
    assert set(grown.values()) == set(scribbles.values())
    assert allowed is None or allowed[grown.marked & ~scribbles.marked].all()
    reach = REACH_PIXELS * min(spacing) if config.reach_mm is None else config.reach_mm
    neighbours = ndimage.generate_binary_structure(image.ndim, 1 if config.connectivity == "faces" else image.ndim)
    for label in grown.values():
        pieces, count = ndimage.label(grown.mask(label), neighbours)
        assert set(range(1, count + 1)) <= set(pieces[scribbles.mask(label)].tolist())
        distance = ndimage.distance_transform_edt(~scribbles.mask(label), sampling=spacing)
        assert distance[grown.mask(label)].max() <= reach + 1e-4


@given(scenes(), st.integers(0, 2))
def test_growing_does_not_depend_on_the_order_of_labels_or_of_pixels(scene, axis):
    image, scribbles, config, spacing, allowed = scene
    axis %= image.ndim
    turned = np.flip(np.where(scribbles.marked, 3 - scribbles.labels, UNMARKED), axis)
    again = grow_scribbles(
        np.flip(image, axis),
        LabelScribbles.from_labels(turned),
        config,
        spacing_mm=spacing,
        allowed=None if allowed is None else np.flip(allowed, axis),
    )
    grown = grow_scribbles(image, scribbles, config, spacing_mm=spacing, allowed=allowed)
    np.testing.assert_array_equal(np.flip(again.labels, axis), np.where(grown.marked, 3 - grown.labels, UNMARKED))


@given(scenes())
def test_a_single_label_floods_what_small_steps_connect_within_what_is_allowed(scene):
    """With one label and no end of reach the result is a flood fill, computed here another way."""
    image, scribbles, _, spacing, allowed = scene
    one = LabelScribbles.from_labels(np.where(scribbles.marked, 1, UNMARKED))
    grown = grow_scribbles(image, one, GrowthConfig(0.5, FAR), spacing_mm=spacing, allowed=allowed)
    open_pixels = one.marked | (True if allowed is None else allowed)
    expected = np.zeros(image.shape, bool)
    for level in np.unique(image):
        expected |= ndimage.binary_propagation(one.marked & (image == level), mask=open_pixels & (image == level))
    np.testing.assert_array_equal(grown.marked, expected)
