from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.refinement.region_growing import REACH_PIXELS, GrowthConfig, grow_scribbles
from scribblesegment.simulation import ScribbleConfig, centerline_scribble
from scribblesegment.training.corpus import load_set

FAR = 1e6


def marks_at(shape, **pixels_of_label) -> LabelScribbles:
    """Scribbles from `label_1=[(row, column), ...]`."""
    scribbles = LabelScribbles.empty(shape)
    for name, pixels in pixels_of_label.items():
        for pixel in pixels:
            scribbles = scribbles.with_point(pixel, int(name.removeprefix("label_")))
    return scribbles


def a_stripe_image() -> np.ndarray:
    """Bright columns 3 to 6 on a dark ground."""
    image = np.zeros((8, 12))
    image[:, 3:7] = 100
    return image


def test_a_scribble_fills_the_even_part_it_lies_in_and_stops_at_its_edge():
    grown = grow_scribbles(a_stripe_image(), marks_at((8, 12), label_2=[(4, 4)]), GrowthConfig(10, FAR))
    np.testing.assert_array_equal(grown.mask(2), a_stripe_image() > 0)
    assert grown.values() == (2,)


def test_a_step_must_be_below_the_threshold_and_not_equal_to_it():
    ramp = np.tile(np.arange(10.0), (3, 1))
    scribbles = marks_at(ramp.shape, label_1=[(1, 0)])
    assert grow_scribbles(ramp, scribbles, GrowthConfig(1.0, FAR)).mask(1)[:, 1:].sum() == 0
    assert grow_scribbles(ramp, scribbles, GrowthConfig(1.001, FAR)).mask(1).all()


def test_neighbours_are_compared_with_each_other_and_not_with_the_scribble():
    ramp = np.tile(np.arange(0.0, 100.0, 4.0), (2, 1))
    assert grow_scribbles(ramp, marks_at(ramp.shape, label_1=[(0, 0)]), GrowthConfig(5, FAR)).mask(1).all()


def test_the_reach_ends_growing_in_millimetres_along_every_axis():
    shape = (5, 21, 21)
    scribbles = marks_at(shape, label_1=[(2, 10, 10)])
    grown = grow_scribbles(np.zeros(shape), scribbles, GrowthConfig(1, 4.0), spacing_mm=(4.0, 1.0, 2.0)).mask(1)
    extents = [np.flatnonzero(grown.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    assert [list(extent[[0, -1]]) for extent in extents] == [[1, 3], [6, 14], [8, 12]]


def test_slices_that_are_very_far_apart_grow_each_by_itself(rng):
    image = ndimage.gaussian_filter(rng.standard_normal((3, 30, 30)), 1.5)
    scribbles = marks_at(image.shape, label_1=[(1, 15, column) for column in range(10, 20)])
    grown = grow_scribbles(image, scribbles, spacing_mm=(1e9, 1, 1))
    alone = grow_scribbles(image[1], LabelScribbles.from_labels(scribbles.labels[1]))
    np.testing.assert_array_equal(grown.labels[1], alone.labels)
    assert grown.count == alone.count > scribbles.count


def test_the_default_reach_is_counted_in_pixels_of_the_finest_spacing():
    scribbles = marks_at((1, 41, 41), label_1=[(0, 20, 20)])
    grown = grow_scribbles(np.zeros((1, 41, 41)), scribbles, spacing_mm=(5.0, 0.5, 0.5)).mask(1)[0]
    assert np.flatnonzero(grown.any(0)).tolist() == list(range(20 - REACH_PIXELS, 21 + REACH_PIXELS))


def test_competing_scribbles_meet_half_way_and_leave_the_middle_unmarked():
    grown = grow_scribbles(
        np.zeros((1, 11)), marks_at((1, 11), label_0=[(0, 1)], label_3=[(0, 9)]), GrowthConfig(1, FAR)
    )
    assert grown.labels[0].tolist() == [0, 0, 0, 0, 0, UNMARKED, 3, 3, 3, 3, 3]


def test_the_meeting_place_is_in_millimetres():
    image = np.zeros((9, 1))
    scribbles = marks_at(image.shape, label_1=[(0, 0)], label_2=[(7, 0)])
    grown = grow_scribbles(image, scribbles, GrowthConfig(1, 2.0), spacing_mm=(0.5, 3.0))
    assert grown.labels[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("connectivity", ["faces", "full"])
@pytest.mark.parametrize("fence", [[(row, row) for row in range(9)], [(row, 4) for row in range(9)]])
def test_a_scribble_never_grows_across_a_thin_line_of_another_label(connectivity, fence):
    # The image keeps label 0 on its line, so that only the line can stop label 1.
    image = np.zeros((9, 9))
    image[tuple(np.transpose(fence))] = 50
    scribbles = marks_at((9, 9), label_0=fence, label_1=[(1, 7)])
    for threshold in (1, 1000):
        grown = grow_scribbles(image, scribbles, GrowthConfig(threshold, FAR, connectivity))
        rows, columns = np.nonzero(grown.mask(1))
        assert len(rows) > (5 if threshold == 1 else 0)
        assert all(columns > [fence[row][1] for row in rows])


def test_full_connectivity_reaches_over_corners_and_faces_do_not():
    image = np.array([[0, 9, 9], [9, 0, 9], [9, 9, 0]])
    scribbles = marks_at((3, 3), label_1=[(0, 0)])
    assert grow_scribbles(image, scribbles, GrowthConfig(1, FAR)).count == 1
    assert grow_scribbles(image, scribbles, GrowthConfig(1, FAR, "full")).count == 3


def test_a_diagonal_step_is_longer_than_a_straight_one():
    scribbles = marks_at((5, 5), label_1=[(2, 2)])
    assert grow_scribbles(np.zeros((5, 5)), scribbles, GrowthConfig(1, 1.2, "full")).count == 5
    assert grow_scribbles(np.zeros((5, 5)), scribbles, GrowthConfig(1, 1.5, "full")).count == 9


def test_growing_is_limited_to_what_is_allowed_and_keeps_marks_elsewhere():
    allowed = np.zeros((8, 12), bool)
    allowed[:4] = True
    scribbles = marks_at((8, 12), label_1=[(2, 4), (7, 5)])
    grown = grow_scribbles(a_stripe_image(), scribbles, GrowthConfig(10, FAR), allowed=allowed)
    np.testing.assert_array_equal(grown.mask(1), (a_stripe_image() > 0) & allowed | scribbles.mask(1))


def test_nothing_grows_over_values_that_are_not_finite():
    image = np.zeros((3, 9))
    image[:, 4] = [np.nan, np.inf, -np.inf]
    scribbles = marks_at(image.shape, label_1=[(1, 1), (1, 4)])
    for config in (GrowthConfig(1, FAR), GrowthConfig(reach_mm=FAR)):
        grown = grow_scribbles(image, scribbles, config)
        assert grown.mask(1)[:, :4].all()
        assert not grown.mask(1)[:, 5:].any()
        assert grown.mask(1)[:, 4].tolist() == [False, True, False]


def test_an_image_of_nan_only_keeps_the_marks():
    scribbles = marks_at((4, 4), label_1=[(1, 1), (1, 2)])
    assert grow_scribbles(np.full((4, 4), np.nan), scribbles).equals(scribbles)


def test_a_constant_image_grows_as_far_as_it_reaches():
    grown = grow_scribbles(np.full((31, 31), 7), marks_at((31, 31), label_1=[(15, 15)]))
    rows, columns = np.nonzero(grown.mask(1))
    assert (abs(rows - 15) + abs(columns - 15)).max() == REACH_PIXELS


def test_unsigned_and_bool_images_are_compared_as_numbers():
    image = np.zeros((4, 9), np.uint8)
    image[:, 4] = 255
    for given_image in (image, image > 0, image.astype(np.int64) * 2**40):
        grown = grow_scribbles(given_image, marks_at(image.shape, label_1=[(1, 6)]), GrowthConfig(0.5, FAR))
        np.testing.assert_array_equal(grown.mask(1), np.arange(9) > np.full((4, 1), 4))


def test_no_threshold_and_no_reach_let_nothing_grow():
    scribbles = marks_at((4, 4), label_1=[(1, 1)])
    assert grow_scribbles(np.zeros((4, 4)), scribbles, GrowthConfig(threshold=0)).equals(scribbles)
    assert grow_scribbles(np.zeros((4, 4)), scribbles, GrowthConfig(reach_mm=0)).equals(scribbles)


def test_scribbles_without_marks_stay_without():
    assert grow_scribbles(np.zeros((4, 4)), LabelScribbles.empty((4, 4))).is_empty


def test_the_estimated_threshold_follows_the_noise_near_each_label(rng):
    quiet_left = rng.normal(0, np.where(np.arange(60) < 30, 1, 20), (60, 60))
    quiet_left[:, 30:] += 200
    scribbles = marks_at((60, 60), label_1=[(30, 15)], label_2=[(30, 45)])
    for image in (quiet_left, quiet_left * 1000):  # whatever the units
        grown = grow_scribbles(image, scribbles, GrowthConfig(reach_mm=8))
        assert grown.mask(1).sum() > 5
        assert grown.mask(2).sum() > 5
        assert not grown.mask(1)[:, 30:].any()
        assert not grown.mask(2)[:, :30].any()


def test_a_label_cut_off_from_its_marks_by_another_gives_up_what_lies_behind():
    # A corridor, flat up to column 11 and then a stair. Label 1 lies in noise and so would climb the stair; label 2
    # comes in from the side, takes the middle of the corridor and stops at the stair.
    image = np.full((3, 16), np.nan)
    image[0] = np.maximum(np.arange(16) - 11, 0)
    image[1:, :4] = np.add.outer([40, 80], [0, 20, 0, 20])
    image[1:, 8] = 0
    scribbles = marks_at(image.shape, label_1=[(0, 0)], label_2=[(2, 8)])
    assert grow_scribbles(image, scribbles.without(scribbles.mask(2)), GrowthConfig(reach_mm=FAR)).mask(1)[0].all()
    grown = grow_scribbles(image, scribbles, GrowthConfig(reach_mm=FAR))
    assert grown.labels[0].tolist() == [1] * 5 + [UNMARKED] + [2] * 6 + [UNMARKED] * 4


@pytest.mark.parametrize(
    "options",
    [{"threshold": -1}, {"threshold": np.nan}, {"reach_mm": -1}, {"reach_mm": np.inf}, {"connectivity": "diagonal"}],
)
def test_configurations_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        GrowthConfig(**options)


def test_images_that_do_not_fit_the_scribbles_are_refused():
    scribbles = marks_at((4, 4), label_1=[(1, 1)])
    with pytest.raises(PromptError, match="scribbles has shape"):
        grow_scribbles(np.zeros((4, 5)), scribbles)
    with pytest.raises(PromptError, match="allowed has shape"):
        grow_scribbles(np.zeros((4, 4)), scribbles, allowed=np.ones((2, 2), bool))
    with pytest.raises(ImageError):
        grow_scribbles(np.zeros((4, 4), complex), scribbles)
    with pytest.raises(GeometryError):
        grow_scribbles(np.zeros((4, 4)), scribbles, spacing_mm=(1, 0))


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
def test_every_mark_is_kept_and_everything_added_is_joined_to_a_mark_of_its_label(scene):
    image, scribbles, config, spacing, allowed = scene
    grown = grow_scribbles(image, scribbles, config, spacing_mm=spacing, allowed=allowed)
    np.testing.assert_array_equal(grown.labels[scribbles.marked], scribbles.labels[scribbles.marked])
    assert set(grown.values()) == set(scribbles.values())
    added = grown.marked & ~scribbles.marked
    assert allowed is None or allowed[added].all()
    neighbours = ndimage.generate_binary_structure(image.ndim, 1 if config.connectivity == "faces" else image.ndim)
    for label in grown.values():
        pieces, count = ndimage.label(grown.mask(label), neighbours)
        assert set(range(1, count + 1)) <= set(pieces[scribbles.mask(label)].tolist())


@given(scenes())
def test_everything_added_is_within_reach_of_its_label(scene):
    image, scribbles, config, spacing, allowed = scene
    reach = REACH_PIXELS * min(spacing) if config.reach_mm is None else config.reach_mm
    grown = grow_scribbles(image, scribbles, config, spacing_mm=spacing, allowed=allowed)
    for label in grown.values():
        distance = ndimage.distance_transform_edt(~scribbles.mask(label), sampling=spacing)
        assert distance[grown.mask(label)].max() <= reach + 1e-4


@given(scenes(), st.integers(0, 2))
def test_growing_does_not_depend_on_the_order_of_labels_or_of_pixels(scene, axis):
    image, scribbles, config, spacing, allowed = scene
    grown = grow_scribbles(image, scribbles, config, spacing_mm=spacing, allowed=allowed)
    renamed = LabelScribbles.from_labels(np.where(scribbles.marked, 3 - scribbles.labels, UNMARKED))
    again = grow_scribbles(image, renamed, config, spacing_mm=spacing, allowed=allowed)
    np.testing.assert_array_equal(again.labels, np.where(grown.marked, 3 - grown.labels, UNMARKED))
    axis %= image.ndim
    flipped = grow_scribbles(
        np.flip(image, axis),
        LabelScribbles.from_labels(np.flip(scribbles.labels, axis)),
        config,
        spacing_mm=spacing,
        allowed=None if allowed is None else np.flip(allowed, axis),
    )
    np.testing.assert_array_equal(np.flip(flipped.labels, axis), grown.labels)


@given(scenes())
def test_a_single_label_floods_what_small_steps_connect(scene):
    """With one label and no end of reach the result is a flood fill, computed here another way."""
    image, scribbles, _, spacing, _ = scene
    marked = scribbles.marked
    one = LabelScribbles.from_labels(np.where(marked, 1, UNMARKED))
    grown = grow_scribbles(image, one, GrowthConfig(0.5, FAR), spacing_mm=spacing)
    expected = np.zeros(image.shape, bool)
    for level in np.unique(image):
        expected |= ndimage.binary_propagation(marked & (image == level), mask=image == level)
    np.testing.assert_array_equal(grown.marked, expected)


def test_far_apart_strokes_in_a_volume_grow_as_they_would_alone(rng):
    image = ndimage.gaussian_filter(rng.standard_normal((40, 30, 30)), 1.5)
    strokes = [marks_at(image.shape, label_1=[(4, 15, column) for column in range(10, 20)]),
               marks_at(image.shape, label_2=[(35, 15, column) for column in range(10, 20)])]  # fmt: skip
    both = LabelScribbles.from_masks({1: strokes[0].mask(1), 2: strokes[1].mask(2)})
    grown = grow_scribbles(image, both)
    for label, stroke in enumerate(strokes, start=1):
        np.testing.assert_array_equal(grown.mask(label), grow_scribbles(image, stroke).mask(label))


@pytest.mark.parametrize(("name", "right"), [("aorta_ct", 0.95), ("spider_lumbar_mri", 0.7), ("dsb2018_nuclei", 0.97)])
def test_on_real_images_most_of_what_grows_has_the_right_label(shared_dir, name, right):
    path = shared_dir / "data" / "train" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    data, rng = load_set(path), np.random.default_rng(3)
    added, correct, drawn = 0, 0, 0
    for number in rng.permutation(len(data.images))[:12]:
        labels = (data.labels[number] > 0) if data.instances else data.labels[number]
        near = (labels == 0) & (ndimage.distance_transform_edt(labels == 0) < 25)
        masks = {}
        for label in np.unique(labels):
            pieces, _ = ndimage.label(labels == label if label else near)
            sizes = np.bincount(pieces.ravel())[1:]
            if sizes.max(initial=0) >= 20:
                piece = pieces == sizes.argmax() + 1
                masks[int(label)] = centerline_scribble(piece, rng, config=ScribbleConfig(max_pixels=60)) >= 0.5
        scribbles = LabelScribbles.from_masks(masks, shape=labels.shape)
        grown = grow_scribbles(data.images[number], scribbles)
        new = grown.marked & ~scribbles.marked
        drawn, added = drawn + scribbles.count, added + int(new.sum())
        correct += int((grown.labels[new] == labels[new]).sum())
    assert added > 0.8 * drawn
    assert correct > right * added
