from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.evaluation.conditions import (
    DEFAULT_CONDITION,
    Condition,
    change_intensities,
    draw_sketch,
    paint,
    show,
    slip,
)


@pytest.fixture
def reference():
    rows, columns = np.ogrid[:256, :256]
    return (rows - 120) ** 2 / 60**2 + (columns - 140) ** 2 / 40**2 <= 1


@pytest.fixture
def image(reference):
    return np.where(reference, np.float32(0.75), np.float32(0.25))


@pytest.fixture
def sketch(reference, rng):
    return draw_sketch(reference, rng, strokes=6)


def with_(**changes):
    return dataclasses.replace(DEFAULT_CONDITION, **changes)


def positive(scene):
    return scene.prompts.scribbles[0] > 0


def test_paths_are_thin_and_on_their_side_of_the_boundary(reference, sketch):
    assert len(sketch.positive) == 6
    for path in sketch.positive:
        assert path.any()
        assert not (path & ~reference).any()
        assert not ndimage.binary_erosion(path, np.ones((2, 2))).any()
        assert path.sum() <= 256
    assert sketch.negative.any()
    assert not (sketch.negative & reference).any()
    assert len({path.tobytes() for path in sketch.positive}) == 6


def test_the_same_seed_draws_the_same(reference):
    first, second = (draw_sketch(reference, np.random.default_rng([1, 2]), strokes=2) for _ in range(2))
    assert np.array_equal(first.positive, second.positive)
    assert np.array_equal(first.negative, second.negative)
    assert np.array_equal(first.noise, second.noise)


@pytest.mark.parametrize("thickness", range(1, 10))
def test_a_straight_line_is_as_thick_as_asked_for(thickness):
    path = np.zeros((40, 60), dtype=bool)
    path[20, 15:45] = True
    painted = paint(path, thickness)
    assert (painted[:, 20:40].sum(axis=0) == thickness).all()
    assert painted[20].sum() == 30 + thickness - 1
    assert np.array_equal(paint(path.T, thickness).sum(axis=0), painted.T.sum(axis=0))


def test_a_thick_brush_is_round():
    dot = np.zeros((15, 15), dtype=bool)
    dot[7, 7] = True
    painted = paint(dot, 9)
    assert painted[7, 3]
    assert painted[3, 7]
    assert not painted[3, 3]
    assert painted.sum() == pytest.approx(np.pi * 4.5**2, rel=0.1)


def test_thicker_strokes_hold_thinner_ones_and_end_at_the_boundary(image, reference, sketch):
    drawn = [positive(show(image, reference, sketch, with_(thickness=thickness))) for thickness in (1, 3, 5, 7, 9)]
    assert np.array_equal(drawn[0], sketch.positive[0])
    for thin, thick in itertools.pairwise(drawn):
        assert not (thin & ~thick).any()
        assert thick.sum() > thin.sum()
    assert not (drawn[-1] & ~reference).any()


def test_more_strokes_hold_fewer_and_the_negative_stroke_stays(image, reference, sketch):
    scenes = [show(image, reference, sketch, with_(strokes=count)) for count in range(1, 7)]
    drawn = [positive(scene) for scene in scenes]
    for few, many in itertools.pairwise(drawn):
        assert not (few & ~many).any()
    assert drawn[5].sum() > drawn[0].sum()
    assert all(np.array_equal(scene.prompts.scribbles[1], scenes[0].prompts.scribbles[1]) for scene in scenes)
    assert scenes[0].prompts.scribbles[1].any()


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.1, 0.2, 1.0])
def test_the_part_outside_is_the_part_that_was_asked_for(image, reference, sketch, fraction):
    before = positive(show(image, reference, sketch, DEFAULT_CONDITION))
    after = positive(show(image, reference, sketch, with_(off_target=fraction)))
    assert after.sum() == before.sum()
    assert (after & ~reference).sum() == round(fraction * before.sum())
    assert not (after & reference & ~before).any()


def test_a_slip_goes_straight_outwards_from_where_the_stroke_is_nearest_to_the_boundary():
    structure = np.zeros((60, 60), dtype=bool)
    structure[10:40, 10:50] = True
    stroke = np.zeros_like(structure)
    stroke[20:37, 29:32] = True  # three pixels wide, four from the lower boundary
    slipped = slip(stroke, structure, 12 / stroke.sum(), thickness=3)
    # The lower left corner of the stroke is (the first of) its nearest pixels: below it the brush leaves three columns.
    assert np.argwhere(slipped & ~structure).tolist() == [[r, c] for r in range(40, 44) for c in (28, 29, 30)]
    assert np.argwhere(stroke & ~slipped).tolist() == [[r, c] for r in range(20, 24) for c in (29, 30, 31)]


def test_a_slip_takes_what_there_is():
    structure = np.ones((9, 9), dtype=bool)
    structure[0, 0] = False
    stroke = np.zeros_like(structure)
    stroke[4] = True
    slipped = slip(stroke, structure, 1.0, thickness=1)
    assert (slipped & ~structure).sum() == 1
    assert slipped.sum() == stroke.sum()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 9))
def test_no_slip_changes_how_much_is_painted(seed, fraction, thickness):
    rng = np.random.default_rng(seed)
    structure = ndimage.gaussian_filter(rng.normal(size=(40, 40)), 4) > 0
    stroke = structure & (rng.random((40, 40)) < 0.1)
    stroke |= structure & (np.cumsum(structure).reshape(structure.shape) == 1)
    slipped = slip(stroke, structure, fraction, thickness=thickness)
    assert slipped.sum() == stroke.sum()
    assert abs((slipped & ~structure).sum() - fraction * stroke.sum()) <= 0.5 + 1e-9


def test_a_positive_stroke_holds_where_it_meets_the_negative_one(image, reference, sketch):
    crossing = dataclasses.replace(sketch, negative=~reference)
    scene = show(image, reference, crossing, with_(off_target=0.2))
    off_target = positive(scene) & ~reference
    assert off_target.any()
    assert not scene.prompts.scribbles[1][off_target].any()


def test_intensities_change_as_their_condition_says(rng):
    image = rng.random((64, 64), dtype=np.float32)
    noise = rng.standard_normal((64, 64), dtype=np.float32)
    assert np.array_equal(change_intensities(image, DEFAULT_CONDITION, noise), image)
    np.testing.assert_allclose(change_intensities(image, with_(inverted=True), noise), 1 - image)
    np.testing.assert_allclose(change_intensities(image, with_(gamma=2.0), noise), image**2)
    weak = change_intensities(image, with_(contrast=0.125), noise)
    np.testing.assert_allclose(weak, 0.5 + 0.125 * (image - 0.5), atol=0.51 / 255)
    assert len(np.unique(weak)) <= 255 * 0.125 + 2
    strong = change_intensities(image, with_(contrast=4.0), noise)
    assert (strong[image < 0.375] == 0).all()
    assert (strong[image > 0.625] == 1).all()
    for condition in (with_(noise=0.2), with_(gamma=0.5), with_(contrast=4.0)):
        changed = change_intensities(image, condition, noise)
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1


def test_noise_has_the_deviation_that_was_asked_for(reference, sketch):
    grey = np.full(reference.shape, np.float32(0.5))
    for sigma in (0.05, 0.1):
        shown = show(grey, reference, sketch, with_(noise=sigma)).image
        assert shown.std() == pytest.approx(sigma, rel=0.02)
    np.testing.assert_allclose(
        show(grey, reference, sketch, with_(noise=0.1)).image - grey,
        2 * (show(grey, reference, sketch, with_(noise=0.05)).image - grey),
        atol=1e-6,
    )


@pytest.mark.parametrize("resolution", [32, 64, 128, 512])
def test_everything_is_brought_to_the_resolution(image, reference, sketch, resolution):
    scene = show(image, reference, sketch, with_(resolution=resolution))
    shape = (resolution, resolution)
    assert scene.image.shape == scene.reference.shape == scene.prompts.shape == shape
    assert scene.reference.mean() == pytest.approx(reference.mean(), rel=0.03)
    assert scene.image[scene.reference].mean() > 0.7
    assert scene.image[~scene.reference].mean() < 0.3
    assert positive(scene).any()
    assert not (positive(scene) & ~scene.reference).any()
    assert not (scene.prompts.scribbles[1] * scene.reference).any()
    # The stroke lies where it lay: every one of its pixels is next to one of the original's.
    original = np.argwhere(positive(show(image, reference, sketch, DEFAULT_CONDITION)))
    scale = 256 / resolution
    for pixel in np.argwhere(positive(scene)):
        assert np.abs((pixel + 0.5) * scale - 0.5 - original).max(axis=1).min() <= scale


def test_a_structure_smaller_than_a_pixel_is_one_pixel_with_a_stroke_in_it(rng):
    reference = np.zeros((256, 256), dtype=bool)
    reference[101:104, 50:53] = True
    sketch = draw_sketch(reference, rng, strokes=1)
    scene = show(reference.astype(np.float32), reference, sketch, with_(resolution=32))
    assert np.argwhere(scene.reference).tolist() == [[12, 6]]
    assert np.argwhere(positive(scene)).tolist() == [[12, 6]]


@pytest.mark.parametrize(
    "changes",
    [
        {"thickness": 0},
        {"thickness": 2.5},
        {"strokes": 0},
        {"resolution": 0},
        {"off_target": -0.1},
        {"off_target": 1.1},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"gamma": 0.0},
        {"contrast": -1.0},
        {"contrast": float("inf")},
    ],
)
def test_a_condition_that_cannot_be_shown_is_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Condition(**changes)


def test_a_sketch_needs_both_sides_and_a_stroke(image, reference, sketch, rng):
    for nothing in (np.zeros((8, 8), dtype=bool), np.ones((8, 8), dtype=bool)):
        with pytest.raises(PromptError, match="is empty"):
            draw_sketch(nothing, rng, strokes=1)
    with pytest.raises(ConfigError, match="At least one stroke"):
        draw_sketch(reference, rng, strokes=0)
    with pytest.raises(ConfigError, match="6 positive paths, the condition has 7"):
        show(image, reference, sketch, with_(strokes=7))
