"""Propagation of one segment, from accepted slices to a result, and after corrections."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from propagation_phantoms import assembled, ball, cut, dice, tube, volume_of
from slice_predictors import NETWORK_ALONE, Brightness, Constant, Follower

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.propagation import (
    AnnotatedSegment,
    PropagationConfig,
    PropagationRun,
    Propagator,
    StopReason,
    VoxelPrompts,
)

OBLIQUE = np.array([[-0.8, 0.1, 0.2, 12.0], [0.1, 0.7, 0.1, -5.0], [0.1, 0.1, 2.0, 7.0], [0, 0, 0, 1]], np.float64)
SHEARED = np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1.5, 0], [0, 0, 0, 1]], np.float64)


def shown_to(predictor):
    """Context sets that a predictor was given, in order; it is given None before an image if another set follows."""
    return [context for context in predictor.contexts if context is not None]


def run(structure, axis, *indices, predictor=None, config=None, matrix=None, **options):
    propagator = Propagator(predictor or Brightness(), config=config)
    return propagator.run(volume_of(structure, matrix), cut(structure, axis, *indices), axis, **options)


# What is found.


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("matrix", [np.eye(4), OBLIQUE, SHEARED, np.diag([0.5, 0.6, 2.0, 1.0])])
def test_a_ball_is_recovered_from_one_slice_along_any_axis_of_any_grid(axis, matrix):
    structure = ball()
    middle = structure.shape[axis] // 2
    result = run(structure, axis, middle, matrix=matrix)
    assert dice(assembled(result, structure.shape), structure) > 0.98
    assert {end.reason for end in result.stopped} == {StopReason.ENDED}
    assert [end.direction for end in result.stopped] == [-1, 1]
    assert not result.cancelled


@pytest.mark.parametrize("index", [3, 10, 25])
def test_both_arms_of_a_fork_are_followed_from_its_stem_and_its_stem_from_both_arms(index):
    k, j, i = np.indices((30, 40, 60))
    away = np.maximum(k - 10, 0) * 0.9
    fork = np.any([(j - 20) ** 2 + (i - 30 - side * away) ** 2 < 16 for side in (-1, 1)], axis=0)
    result = run(fork, 0, index)
    assert np.array_equal(assembled(result, fork.shape), fork)
    assert {end.reason for end in result.stopped} == {StopReason.RANGE}


def test_the_structure_ends_where_an_accepted_slice_is_empty_or_the_range_ends():
    structure = tube()
    shown, nothing = cut(structure, 0, 9), np.zeros((24, 30), bool)
    for annotated, index_range, slices, ends in (
        (
            shown | {4: nothing, 13: nothing},
            None,
            [5, 6, 7, 8, 10, 11, 12],
            [(5, StopReason.ABSENT), (12, StopReason.ABSENT)],
        ),
        (shown, (6, 12), [6, 7, 8, 10, 11], [(6, StopReason.RANGE), (11, StopReason.RANGE)]),
        (shown | {15: nothing}, (11, 13), [11, 12], [(9, StopReason.RANGE), (12, StopReason.RANGE)]),
        (
            cut(structure, 0, 0, 9, 10, 19),
            None,
            [*range(1, 9), *range(11, 19)],
            [(0, StopReason.RANGE), (19, StopReason.RANGE)],
        ),
    ):
        predictor = Brightness()
        result = Propagator(predictor).run(volume_of(structure), annotated, "k", index_range=index_range)
        assert list(result.slices) == slices
        assert [(end.index, end.reason) for end in result.stopped] == ends
        # What lacks the structure is no context.
        assert all(annotated[entry.index].any() for entry in shown_to(predictor)[0])


def test_the_piece_next_door_is_left_out_unless_wanted():
    structure = np.zeros((8, 30, 40), bool)
    structure[:, 10:18, 4:12] = True
    annotated = cut(structure, 0, 3)
    other = structure.copy()
    other[:, 10:18, 28:36] = True
    for only_connected, found in ((True, structure), (False, other)):
        config = PropagationConfig(only_connected=only_connected, stop_leak=1.0, least_confidence=0.0)
        result = Propagator(Brightness(), config=config).run(volume_of(other), annotated, 0)
        assert np.array_equal(assembled(result, other.shape)[4:], found[4:])


def test_a_leak_into_everything_is_no_result():
    structure = np.zeros((10, 40, 40), bool)
    structure[:, 15:22, 15:22] = True
    result = run(structure, 0, 4, predictor=Constant(5.0), config=PropagationConfig(**NETWORK_ALONE))
    assert result.slices == {}
    assert {end.reason for end in result.stopped} == {StopReason.UNCERTAIN}
    assert result.next_slice in (3, 5)


@pytest.mark.parametrize("brighter", [0.0, -0.4, 0.4])
def test_another_tissue_is_not_followed_into(brighter):
    structure = np.zeros((14, 30, 30), bool)
    structure[:, 10:20, 10:20] = True
    noise = np.random.default_rng(0).normal(0.0, 0.03, structure.shape)
    array = 0.5 * structure + noise
    array[9:] += brighter * structure[9:]
    volume = Volume(array.astype(np.float32), np.eye(4))
    config = PropagationConfig(**NETWORK_ALONE)
    intensities = IntensityRange(-0.2, 1.2)
    result = Propagator(Follower(), config=config).run(volume, cut(structure, 0, 4), 0, intensity_range=intensities)
    assert max(result.slices) == (8 if brighter else 13)
    assert min(result.confidence[index] for index in (0, 8)) > 0.7


@pytest.mark.parametrize("axis", [0, 2])
def test_a_result_becomes_a_label_volume_with_its_confidences(axis):
    structure = ball()
    result = run(structure, axis, 9, matrix=OBLIQUE)
    labels = result.to_labels()
    assert np.array_equal(labels.array == 1, assembled(result, structure.shape))
    assert np.allclose(labels.ijk_to_ras, OBLIQUE)
    assert result.confidence == {index: found.confidence for index, found in result.slices.items()}
    with pytest.raises(ConfigError, match="grid"):
        dataclasses.replace(result, grid=None).to_labels()


# What the predictor is given.


def test_each_slice_is_set_once_with_its_spacing_and_the_range_of_the_volume():
    structure = ball()
    volume = volume_of(structure, OBLIQUE, noise=3.0)
    predictor = Brightness()
    result = Propagator(predictor).run(volume, cut(structure, 2, 14), 2)
    ranges = {used for _, _, used in predictor.images}
    assert ranges == {IntensityRange.estimate(volume.array)}
    assert {spacing for _, spacing, _ in predictor.images} == {volume.slice(2, 0).spacing_mm}
    assert len(predictor.images) == len(predictor.prompts) >= len(result.slices)


def test_accepted_slices_are_the_context_beside_others_and_set_once_where_they_do_not_change():
    structure, predictor = ball(), Brightness()
    old = ContextEntry(np.zeros((24, 30), np.float32), np.ones((24, 30), bool), (1.0, 1.0), "ct", 0, 9)
    other = ContextEntry(np.zeros((20, 20), np.float32), np.ones((20, 20), bool), (1.0, 1.0), source="other")
    context = ContextSet("Ball", (old, other))
    run(structure, 0, 6, 9, 12, predictor=predictor, label_name="Ball", context=context, source="ct")
    (shown,) = shown_to(predictor)
    assert [(entry.axis, entry.index) for entry in shown] == [(0, 9), (None, None), (0, 6), (0, 12)]
    for entry in (entry for entry in shown if entry.index):  # the older self was replaced
        assert np.array_equal(entry.mask, structure[entry.index])
        assert entry.image.max() == 1.0
    assert predictor.calls[:4] == ["context", "image", "context", "predict"]
    assert predictor.contexts[0] is None  # what somebody else showed is not matched with the image
    assert all(prompts.is_empty and prompts.mask_input is not None for prompts in predictor.prompts)


def test_of_many_accepted_slices_the_nearest_ones_are_shown():
    structure = tube()
    predictor = Brightness()
    config = PropagationConfig(context_limit=2)
    run(structure, 0, 1, 5, 9, 13, 17, predictor=predictor, config=config)
    shown = [[entry.index for entry in context] for context in shown_to(predictor)]
    assert all(len(indices) == 2 for indices in shown)
    assert [1, 5] in shown
    assert [13, 17] in shown
    assert len(shown) < len(predictor.prompts)


# What must not change.

STRUCTURES = {"ball": ball(), "tube": tube()}


@settings(max_examples=25)
@given(data=st.data())
def test_accepted_and_protected_voxels_stay_and_both_directions_are_reached(data):
    structure = STRUCTURES[data.draw(st.sampled_from(sorted(STRUCTURES)))]
    axis = data.draw(st.integers(0, 2))
    shown = np.flatnonzero(np.moveaxis(structure, axis, 0).any(axis=(1, 2))).tolist()
    inner = shown[2:-2]
    indices = data.draw(st.lists(st.sampled_from(inner), min_size=1, max_size=4, unique=True))
    annotated = cut(structure, axis, *indices)
    before = {index: mask.copy() for index, mask in annotated.items()}
    protected = np.random.default_rng(data.draw(st.integers(0, 99))).random(structure.shape) < 0.05
    result = Propagator(Brightness()).run(volume_of(structure), annotated, axis, protected=protected)
    assert all(np.array_equal(annotated[index], mask) for index, mask in before.items())
    assert not set(result.slices) & set(indices)
    planes = np.moveaxis(protected, axis, 0)
    assert not any((piece.mask & planes[index]).any() for index, piece in result.slices.items())
    assert min(result.slices) < min(indices)
    assert max(result.slices) > max(indices)
    assert all(0.0 <= piece.confidence <= 1.0 for piece in result.slices.values())
    assert result.next_slice is None or result.next_slice not in indices
    # The order in which slices were accepted says nothing.
    again = Propagator(Brightness()).run(
        volume_of(structure), dict(reversed(annotated.items())), axis, protected=protected
    )
    assert list(again.slices) == list(result.slices)
    assert all(np.array_equal(again.slices[i].packed, piece.packed) for i, piece in result.slices.items())
    assert again.next_slice == result.next_slice


@settings(max_examples=20)
@given(indices=st.lists(st.integers(2, 17), min_size=1, max_size=4, unique=True), allowed=st.integers(0, 20))
def test_a_cancelled_run_is_the_beginning_of_the_full_one_and_goes_on_from_there(indices, allowed):
    structure = STRUCTURES["tube"]
    volume, annotated = volume_of(structure), cut(structure, 0, *indices)
    told = []

    def begin(**options):
        return PropagationRun(Brightness(), volume, {1: AnnotatedSegment(annotated)}, 0, **options)

    full = [(piece.index, piece.packed.tobytes()) for piece in begin(progress=lambda *one: told.append(one))]
    parts = [done for done, _ in told]
    assert parts == sorted(parts)
    assert (parts[-1], told[-1][1].endswith("per second")) == (1.0, True)
    distances = [min(abs(index - accepted) for accepted in indices) for index, _ in full]
    assert len(indices) > 1 or distances == sorted(distances)  # those next to accepted ones come first
    run = begin(cancelled=lambda: run.made >= allowed)
    part = [(piece.index, piece.packed.tobytes()) for piece in run]
    assert part == full[: len(part)]
    assert len(part) >= min(allowed, len(full)) - 1  # one slice may have been predicted and left out
    result = run.result()[1]
    assert sorted(index for index, _ in part) == list(result.slices)
    assert result.cancelled == (len(part) < len(full))
    assert result.cancelled or StopReason.CANCELLED not in {end.reason for end in result.stopped}
    predictor = Brightness()
    rest = Propagator(predictor).run(volume, annotated, 0, previous=result)
    assert rest.reused == set(result.slices)
    assert len(predictor.prompts) == len(full) - len(part)
    assert {index: piece.packed.tobytes() for index, piece in rest.slices.items()} == dict(full)
    assert rest.slices_per_second > 0 or not predictor.prompts


@pytest.mark.parametrize(("allowed", "made"), [(0, 0), (1, 0), (50, 0), (175, 7)])
def test_a_run_is_cancelled_within_a_slice_as_if_it_had_not_begun(allowed, made):
    structure, asked = STRUCTURES["tube"], iter(range(1000))
    volume, annotated = volume_of(structure), {1: AnnotatedSegment(cut(structure, 0, 9))}
    run = PropagationRun(Brightness(), volume, annotated, 0, cancelled=lambda: next(asked) >= allowed)
    part = [piece.index for piece in run]
    assert len(part) == made  # paths are looked for in 168 planes
    result = run.result()[1]
    assert (result.cancelled, sorted(part)) == (True, list(result.slices))


# What is added to the network's logits.


@pytest.mark.parametrize(
    ("settings", "least"), [({"prior_weight": 0.0, "trend": False}, 0.85), ({"image_weight": 0.0}, 0.7)]
)
def test_where_the_network_says_nothing_image_and_neighbours_decide(settings, least):
    structure, config = ball(), PropagationConfig(**settings)
    result = run(structure, 0, 6, 9, 12, predictor=Constant(0.0), config=config, keep_logits=True)
    assert dice(assembled(result, structure.shape), structure) > least
    for piece in result.slices.values():
        assert (piece.logits.shape, piece.logits.dtype) == (piece.shape, np.float32)
        assert np.abs(piece.logits).max() <= config.image_weight + 4.0 * config.prior_weight
    assert all(piece.logits is None for piece in run(structure, 0, 9).slices.values())


@pytest.mark.parametrize(
    ("change", "reused"),
    [
        ("one more", {0, 1, 2, 4, 5, 6, 7, 16, 17, 18, 19}),
        ("in a tail", {*range(3), *range(4, 8), *range(9, 15), 16}),
        ("another mask", {0, 1, 2, 16, 17, 18, 19}),
        ("taken away", {0, 1, 2, 16, 17, 18, 19}),
    ],
)
def test_a_correction_leaves_alone_what_it_cannot_reach(change, reused):
    structure = tube()
    annotated, volume, predictor = cut(structure, 0, 3, 8, 15), volume_of(structure), Brightness()
    first = Propagator(Brightness()).run(volume, annotated, 0)
    if change == "taken away":
        del annotated[8]
    else:
        index = {"one more": 11, "in a tail": 18, "another mask": 8}[change]
        annotated[index] = structure[index] & (np.arange(30) > 12)
    second = Propagator(predictor).run(volume, annotated, 0, previous=first)
    assert second.reused == (reused - {16} if change == "in a tail" else reused)
    assert len(predictor.prompts) == len(set(second.slices) - second.reused)
    assert set(second.slices) == set(range(20)) - set(annotated)
    assert all(np.array_equal(second.slices[i].mask, first.slices[i].mask) for i in second.reused)
    assert second.stopped == first.stopped or change == "in a tail"


# Strokes of other views.


def marks(*boxes, positive=True):
    """Prompts of the voxels in boxes of a volume."""
    kji = np.concatenate([np.argwhere(region(box)) for box in boxes])
    return VoxelPrompts(kji, np.full(len(kji), positive))


def region(box):
    mask = np.zeros((20, 24, 30), bool)
    mask[box] = True
    return mask


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("capabilities", [("scribbles", "context"), ("scribbles",)])
def test_a_stroke_is_a_prompt_in_every_slice_that_it_crosses(axis, capabilities):
    structure, predictor = ball((20, 24, 30)), Brightness(capabilities=capabilities)
    marked = np.stack([region(np.s_[3:17, 11, 15]) | region(np.s_[5, 5, 2:28]), region(np.s_[8, 2:22, 27])])
    kji, positive = np.argwhere(marked.any(axis=0)), marked[0][marked.any(axis=0)]
    volume = volume_of(structure, noise=1.0)  # so that no two slices are alike
    annotated = cut(structure, axis, structure.shape[axis] // 2)
    Propagator(predictor).run(volume, annotated, axis, prompts=VoxelPrompts(kji, positive))
    planes = np.moveaxis(volume.array, axis, 0)
    indices = [next(n for n, plane in enumerate(planes) if np.array_equal(plane, one)) for one, *_ in predictor.images]
    assert len(indices) > 8
    for index, shown in zip(indices, predictor.prompts, strict=True):
        wanted = np.moveaxis(marked, 1 + axis, 1)[:, index]
        where = wanted.any(axis=0) | ("context" in capabilities)  # without one, strokes into the expected shape besides
        assert np.array_equal(shown.scribbles[:, where], wanted[:, where])
        assert shown.scribbles.any() or "context" in capabilities


def test_a_stroke_leads_across_a_gap_to_a_piece_beside_and_cuts_off_what_does_not_belong():
    near, far, beside = np.s_[2:8, 8:16, 8:16], np.s_[13:18, 8:16, 8:16], np.s_[4:7, 18:23, 20:28]
    whole = region(near) | region(far) | region(beside)
    assert np.array_equal(assembled(run(whole, 0, 3), whole.shape), region(near))
    prompts = marks(np.s_[4:16, 12, 12], np.s_[4:7, 20, 22])
    assert np.array_equal(assembled(run(whole, 0, 3, prompts=prompts), whole.shape), whole)
    # Where the network is undecided, the image around what is marked decides.
    block, left = region(np.s_[2:18, 8:16, 4:26]), region(np.s_[2:18, 8:16, 4:14])
    line, reached = np.s_[2:18, 12, 18], []
    for prompts in (marks(line, positive=False), None, marks(line)):
        found = Propagator(Brightness(contrast=6.0)).run(volume_of(block), cut(left, 0, 10), 0, prompts=prompts)
        reached.append(assembled(found, block.shape)[line].sum())
    assert reached[0] == 0 < reached[1] < reached[2]


def test_only_where_prompts_have_changed_slices_are_made_again():
    structure = tube()
    annotated, volume = cut(structure, 0, 3, 8, 15), volume_of(structure)
    first = Propagator(Brightness()).run(volume, annotated, 0, prompts=marks(np.s_[5:7, 10, 10]))
    again = Propagator(Brightness()).run(
        volume, annotated, 0, previous=first, prompts=marks(np.s_[5:7, 10, 10], np.s_[10, :, 12])
    )
    assert again.reused == {*range(3), *range(4, 8), *range(16, 20)}
    without = Propagator(Brightness()).run(volume, annotated, 0, previous=again)
    assert without.reused == {*range(3), *range(16, 20)}


# What is refused.

FULL, TRUE = np.ones((24, 30), bool), np.ones(1, bool)
OTHER = ContextSet("Ball", (ContextEntry(np.zeros((9, 9), np.float32), np.ones((9, 9), bool), (1.0, 1.0)),))
EARLIER = run(ball(), 1, 12)


@pytest.mark.parametrize(
    ("error", "match", "annotated", "axis", "options"),
    [
        (PromptError, "None of the 0 accepted slices shows 'Ball'", {}, 0, {"label_name": "Ball"}),
        (PromptError, "None of the 1 accepted slices", {3: ~FULL}, 0, {}),
        (GeometryError, "accepted slice -1 .* from 0 to 17", {-1: FULL}, 0, {}),
        (GeometryError, "accepted slice 18 .* from 0 to 17", {18: FULL}, 0, {}),
        (GeometryError, r"2\.5", {2.5: FULL}, 0, {}),
        (GeometryError, r"slice 9 has shape \(24, 30\), a slice of the volume has \(18, 24\)", {9: FULL}, "i", {}),
        (ImageError, "float64 values, expected bool", {9: FULL.astype(float)}, 0, {}),
        (GeometryError, "'x' is not an axis", {9: FULL}, "x", {}),
        *(
            (GeometryError, "range of slices", {9: FULL}, 0, {"index_range": r})
            for r in ((5, 5), (0, 19), (3.5, 9), (4,))
        ),
        (GeometryError, "protected has shape", {9: FULL}, 0, {"protected": np.zeros((18, 24, 31), bool)}),
        (ImageError, "protected holds uint8", {9: FULL}, 0, {"protected": np.zeros((18, 24, 30), np.uint8)}),
        (GeometryError, "outside the volume", {9: FULL}, 0, {"prompts": VoxelPrompts(np.array([[18, 0, 0]]), TRUE)}),
        (GeometryError, r"give \(N, 3\)", {9: FULL}, 0, {"prompts": VoxelPrompts(np.zeros((2, 3), int), TRUE)}),
        (ConfigError, "takes no context sets", {9: FULL}, 0, {"context": OTHER}),
        (ConfigError, "along axis 1", {9: FULL}, 0, {"previous": EARLIER}),
    ],
)
def test_what_cannot_be_propagated_is_refused(error, match, annotated, axis, options):
    predictor = Brightness(capabilities=("scribbles",) if "context" in options else ("scribbles", "context"))
    with pytest.raises(error, match=match):
        Propagator(predictor).run(volume_of(ball()), annotated, axis, **options)
    with pytest.raises(PromptError, match="no segment"):
        PropagationRun(predictor, volume_of(ball()), {}, 0)


@pytest.mark.parametrize(
    ("capabilities", "drawn"), [(("scribbles",), True), (("clicks",), False), (("context", "scribbles"), False)]
)
def test_a_network_without_context_gets_strokes(capabilities, drawn):
    structure = ball()
    predictor = Brightness(capabilities=capabilities)
    result = run(structure, 0, 9, predictor=predictor)
    assert {prompts.has_positive for prompts in predictor.prompts} == {drawn}
    assert ("context" in predictor.calls) == ("context" in capabilities)
    assert dice(assembled(result, structure.shape), structure) > 0.98


def test_a_setting_out_of_range_is_refused_by_name():
    names = ["context_limit", "patience", "drift", "prior_limit", "distance_power", "threshold", "stop_area", "certain"]
    for name, value in zip(names, (2.5, 0, -0.1, np.inf, np.nan, 1.0, 1.5, np.nan), strict=True):
        with pytest.raises(ConfigError, match=name):
            PropagationConfig(**{name: value})
