from __future__ import annotations

import functools
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.errors import GeometryError, ImageError, MissingDependencyError, PromptError
from scribblesegment.evaluation import baselines
from scribblesegment.evaluation.datasets import read_scribble_sets
from scribblesegment.evaluation.protocols import run_manual_scribbles
from scribblesegment.evaluation.summary import summarise

LIBRARY = {"grow_from_seeds": "slicer", "random_walker": "skimage", "grabcut": "cv2"}


@pytest.fixture(params=LIBRARY)
def method(request):
    pytest.importorskip(LIBRARY[request.param])
    return getattr(baselines, request.param)


def strokes(shape, positive=None, negative=None):
    scribbles = np.zeros((2, *shape), dtype=np.float32)
    for channel, index in enumerate((positive, negative)):
        if index is not None:
            scribbles[channel][index] = 1
    return scribbles


@pytest.fixture
def bright_disc():
    """An image with a bright disc, its mask, and a stroke in it and one beside it."""
    rows, columns = np.mgrid[:48, :48]
    disc = (rows - 20) ** 2 + (columns - 22) ** 2 < 12**2
    noise = np.random.default_rng(1).uniform(-0.05, 0.05, disc.shape)
    image = np.where(disc, 0.8, 0.3).astype(np.float32) + noise.astype(np.float32)
    return image, disc, strokes(disc.shape, (slice(18, 22), slice(16, 28)), (slice(40, 42), slice(5, 40)))


def test_a_bright_disc_is_found(method, bright_disc):
    image, disc, scribbles = bright_disc
    mask = method(image, scribbles)
    assert mask.dtype == bool
    assert mask.shape == disc.shape
    assert (mask == disc).mean() > 0.99


def test_strokes_hold(method, bright_disc):
    image, _, scribbles = bright_disc
    scribbles[1, 20, 22] = 1  # in the middle of the disc, on its positive stroke: nothing is known there
    scribbles[1, 24:26, 20:24] = 1
    mask = method(image, scribbles)
    assert mask[scribbles[0] > scribbles[1]].all()
    assert not mask[scribbles[1] > scribbles[0]].any()


def test_the_same_input_gives_the_same_mask(method, bright_disc):
    image, _, scribbles = bright_disc
    assert np.array_equal(method(image, scribbles), method(image, scribbles))


def test_inputs_are_left_as_they_are(method, bright_disc):
    image, _, scribbles = bright_disc
    before = image.copy(), scribbles.copy()
    method(image, scribbles)
    assert np.array_equal(image, before[0])
    assert np.array_equal(scribbles, before[1])


def test_without_negative_strokes_a_mask_still_comes_back(method, bright_disc):
    image, _, scribbles = bright_disc
    scribbles[1] = 0
    mask = method(image, scribbles)
    assert mask[scribbles[0] > 0].all()


def test_pixels_painted_as_both_are_no_positive_stroke(method):
    shape = (12, 12)
    with pytest.raises(PromptError, match="positive stroke"):
        method(np.zeros(shape, np.float32), strokes(shape, (3, 3), (3, 3)))


def test_only_negative_strokes_are_refused(method):
    with pytest.raises(PromptError, match="positive stroke"):
        method(np.zeros((12, 12), np.float32), strokes((12, 12), None, (3, 3)))


def test_strokes_on_another_grid_are_refused(method):
    with pytest.raises(GeometryError, match=r"\(2, 12, 13\)"):
        method(np.zeros((12, 12), np.float32), strokes((12, 13), (3, 3)))


@pytest.mark.parametrize("value", [2.0, -0.5, np.nan])
def test_intensities_outside_zero_to_one_are_refused(method, value):
    with pytest.raises(ImageError, match="0 to 1"):
        method(np.full((12, 12), value, np.float32), strokes((12, 12), (3, 3)))


def test_a_volume_is_refused(method):
    with pytest.raises(ImageError, match="2D"):
        method(np.zeros((3, 12, 12), np.float32), strokes((3, 12, 12), (1, 3, 3)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (16, 16)])
def test_small_and_constant_images_pass(method, shape):
    scribbles = strokes(shape, (0, 0))
    if shape != (1, 1):
        scribbles[1, -1, -1] = 1
    mask = method(np.full(shape, 0.5, np.float32), scribbles)
    assert mask.shape == shape
    assert mask[0, 0]
    assert shape == (1, 1) or not mask[-1, -1]


def test_a_fully_painted_image_comes_back_as_painted(method):
    scribbles = strokes((8, 8), np.s_[:, :4], np.s_[:, 4:])
    mask = method(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), scribbles)
    assert np.array_equal(mask, scribbles[0] > 0)


@settings(max_examples=25)
@given(st.integers(2, 14), st.integers(2, 14), st.integers(0, 10**6))
def test_a_random_walk_warns_of_nothing_and_keeps_every_stroke(height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((height, width), dtype=np.float32)
    scribbles = (rng.random((2, height, width)) < 0.15).astype(np.float32)
    scribbles[:, 0, 0] = 1, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = baselines.random_walker(image, scribbles)
    assert mask[scribbles[0] > scribbles[1]].all()
    assert not mask[scribbles[1] > scribbles[0]].any()


def test_a_random_walk_on_a_constant_image_ends_at_the_nearest_stroke():
    mask = baselines.random_walker(np.zeros((5, 10), np.float32), strokes((5, 10), np.s_[:, 0], np.s_[:, 9]))
    assert np.array_equal(mask, np.broadcast_to(np.arange(10) < 5, (5, 10)))


def test_a_larger_beta_makes_edges_hinder_more():
    columns = np.broadcast_to(np.arange(32), (32, 32))
    image = np.where(columns < 24, 0.6, 0.5).astype(np.float32)
    scribbles = strokes(image.shape, np.s_[10:20, 2], np.s_[:, 31])
    errors = [(baselines.random_walker(image, scribbles, beta=beta) != (columns < 24)).sum() for beta in (1.0, 1000.0)]
    assert errors[1] < errors[0]


def test_grabcut_can_take_pixels_without_stroke_for_object():
    pytest.importorskip("cv2")
    image = np.full((24, 24), 0.2, np.float32)
    image[4:12, 4:12] = 0.9
    scribbles = strokes(image.shape, np.s_[6:9, 6:9], np.s_[14, :])
    small = baselines.grabcut(image, scribbles, unmarked="background")
    large = baselines.grabcut(image, scribbles, unmarked="object")
    assert small.sum() == 64
    assert large.sum() >= small.sum()


def test_grabcut_finds_an_unmarked_object_in_a_frame_of_background():
    pytest.importorskip("cv2")
    image = np.full((24, 24), 0.2, np.float32)
    image[6:14, 6:14] = 0.9
    scribbles = strokes(image.shape, None, np.s_[:, :])
    scribbles[1, 4:17, 4:17] = 0
    assert np.array_equal(baselines.grabcut(image, scribbles, unmarked="object"), image > 0.5)


def test_grabcut_refuses_an_image_that_is_background_all_over():
    pytest.importorskip("cv2")
    scribbles = strokes((24, 24), None, np.s_[:, :])
    with pytest.raises(PromptError, match="Everything is marked as background"):
        baselines.grabcut(np.zeros((24, 24), np.float32), scribbles, unmarked="object")


@pytest.mark.parametrize(
    ("name", "library", "words"),
    [("grow_from_seeds", "slicer", "slicer-core"), ("grabcut", "cv2", "OpenCV")],
)
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, name, library, words):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "scribblesegment.mrml.grow_from_seeds", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"{words}.*scribblesegment\[evaluation\]"):
        getattr(baselines, name)(np.zeros((4, 4), np.float32), strokes((4, 4), (1, 1)))


# Measured once by other code, with plain settings, on the tasks in the order of their names.
KNOWN = {
    "grow_from_seeds": ({}, (0.837, 0.894, 0.656, 0.833, 0.280)),
    "random_walker": ({"beta": 90}, (0.761, 0.834, 0.559, 0.810, 0.250)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_known_figures_on_manual_scribbles_are_met(name, shared_dir, rng):
    pytest.importorskip(LIBRARY[name])
    options, expected = KNOWN[name]
    method = functools.partial(getattr(baselines, name), **options)
    evaluation = run_manual_scribbles(read_scribble_sets(shared_dir / "data" / "validation"), {name: method})
    (summary,) = summarise(evaluation.results, rng)
    assert list(summary.tasks) == ["CAMUS", "CHAOS", "OASIS", "PAXRay", "STARE"]
    assert [scores.dice.mean for scores in summary.tasks.values()] == pytest.approx(expected, abs=0.03)
