"""Propagation of one segment, from accepted slices to a result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from propagation_phantoms import assembled, ball, cut, dice, tube, volume_of
from slice_predictors import NETWORK_ALONE, Brightness, Constant, Follower

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.masks import interpolate_slices
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.propagation import PropagationConfig, Propagator, StopReason

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


@pytest.mark.parametrize("indices", [(10,), (2, 17), (0, 9, 19), (5, 6, 12)])
def test_a_wandering_tube_is_followed_in_both_directions(indices):
    structure = tube()
    result = run(structure, 0, *indices)
    assert dice(assembled(result, structure.shape), structure) > 0.97
    assert sorted([*result.slices, *indices]) == list(range(20))
    assert list(result.slices) == sorted(result.slices)


def test_in_a_wandering_tube_looking_at_the_image_is_better_than_interpolating_shapes():
    structure = tube()
    annotated = cut(structure, 0, 2, 10, 17)
    result = run(structure, 0, 2, 10, 17)
    interpolated = interpolate_slices(annotated)
    ours = np.mean([dice(result.slices[index].mask, structure[index]) for index in interpolated])
    assert ours > np.mean([dice(mask, structure[index]) for index, mask in interpolated.items()]) + 0.1


def test_a_network_that_sees_nothing_new_interpolates_between_accepted_slices():
    structure = ball()
    annotated = cut(structure, 0, 5, 11)
    config = PropagationConfig(nearness=1.0, neighbour="distance", **NETWORK_ALONE)
    result = Propagator(Follower(), config=config).run(volume_of(structure), annotated, 0, index_range=(6, 11))
    for index, mask in interpolate_slices(annotated).items():
        assert dice(result.slices[index].mask, mask) > 0.95


def test_the_structure_ends_where_an_accepted_slice_is_empty():
    structure = tube()
    annotated = cut(structure, 0, 9)
    annotated[13] = annotated[4] = np.zeros((24, 30), bool)
    result = Propagator(Brightness()).run(volume_of(structure), annotated, "k")
    assert list(result.slices) == [5, 6, 7, 8, 10, 11, 12]
    assert [(end.index, end.reason) for end in result.stopped] == [(5, StopReason.ABSENT), (12, StopReason.ABSENT)]


def test_nothing_beyond_the_range_is_segmented():
    result = run(tube(), 0, 9, index_range=(6, 12))
    assert list(result.slices) == [6, 7, 8, 10, 11]
    assert {end.reason for end in result.stopped} == {StopReason.RANGE}


def test_a_range_away_from_the_accepted_slices_is_segmented_too():
    structure = np.zeros((12, 20, 20), bool)
    structure[:, 5:14, 6:15] = True
    assert list(run(structure, 0, 1, index_range=(6, 9)).slices) == [6, 7, 8]


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


def test_logits_are_kept_only_if_asked_for():
    assert all(piece.logits is None for piece in run(ball(), 0, 9).slices.values())
    kept = run(ball(), 0, 9, keep_logits=True).slices
    assert all(piece.logits.shape == piece.shape and piece.logits.dtype == np.float32 for piece in kept.values())


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


def test_a_network_in_context_gets_expected_logits_and_no_strokes():
    predictor = Brightness()
    run(ball(), 0, 9, predictor=predictor)
    assert all(prompts.is_empty and prompts.mask_input is not None for prompts in predictor.prompts)


@pytest.mark.parametrize(
    ("capabilities", "strokes", "drawn"),
    [
        (("scribbles",), "auto", True),
        (("scribbles",), "never", False),
        (("clicks",), "auto", False),
        (("context", "scribbles"), "auto", False),
        (("context", "scribbles"), "always", True),
    ],
)
def test_a_network_without_context_gets_strokes(capabilities, strokes, drawn):
    structure = ball()
    predictor = Brightness(capabilities=capabilities)
    result = run(structure, 0, 9, predictor=predictor, config=PropagationConfig(strokes=strokes))
    assert {prompts.has_positive for prompts in predictor.prompts} == {drawn}
    assert ("context" in predictor.calls) == ("context" in capabilities)
    assert dice(assembled(result, structure.shape), structure) > 0.98


def test_accepted_slices_are_the_context_and_set_once_where_they_do_not_change():
    structure = ball()
    predictor = Brightness()
    run(structure, 0, 6, 9, 12, predictor=predictor, label_name="Ball")
    (context,) = shown_to(predictor)
    assert context.label_name == "Ball"
    assert [(entry.axis, entry.index) for entry in context] == [(0, 6), (0, 9), (0, 12)]
    for entry in context:
        assert np.array_equal(entry.mask, structure[entry.index])
        assert entry.image.max() == 1.0
    assert predictor.calls[:4] == ["context", "image", "context", "predict"]
    assert predictor.contexts[0] is None  # what somebody else showed is not matched with the image


def test_accepted_slices_without_the_structure_are_no_context():
    structure = ball()
    annotated = cut(structure, 0, 9)
    annotated[0] = np.zeros((24, 30), bool)
    predictor = Brightness()
    Propagator(predictor).run(volume_of(structure), annotated, 0)
    assert [entry.index for entry in shown_to(predictor)[0]] == [9]


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


def test_context_from_other_patients_is_shown_beside_the_accepted_slices():
    structure = ball()
    other = ContextEntry(np.zeros((20, 20), np.float32), np.ones((20, 20), bool), (1.0, 1.0), source="other")
    predictor = Brightness()
    run(structure, 0, 9, predictor=predictor, context=ContextSet("Ball", (other,)))
    (context,) = shown_to(predictor)
    assert [entry.index for entry in context] == [None, 9]


def test_an_accepted_slice_replaces_its_older_self_in_the_context():
    structure = ball()
    old = ContextEntry(np.zeros((24, 30), np.float32), np.ones((24, 30), bool), (1.0, 1.0), "ct", 0, 9)
    predictor = Brightness()
    run(structure, 0, 9, predictor=predictor, context=ContextSet("Ball", (old,)), source="ct")
    (entry,) = shown_to(predictor)[0]
    assert np.array_equal(entry.mask, structure[9])


def test_confident_propagated_slices_join_the_context_if_wanted():
    structure = ball()
    predictor = Brightness()
    run(structure, 0, 9, predictor=predictor, config=PropagationConfig(propagated_context=2))
    last = [entry.index for entry in shown_to(predictor)[-1]]
    assert len(last) == 3
    assert 9 in last
    strict = Brightness()
    config = PropagationConfig(propagated_context=2, context_confidence=1.0)
    run(structure, 0, 9, predictor=strict, config=config)
    assert len(shown_to(strict)) == 1


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
@given(data=st.data())
def test_a_cancelled_run_is_the_beginning_of_the_full_one(data):
    structure = STRUCTURES["tube"]
    indices = data.draw(st.lists(st.integers(2, 17), min_size=1, max_size=4, unique=True))
    annotated = cut(structure, 0, *indices)
    full = [(p.index, p.packed.tobytes()) for p in Propagator(Brightness()).iterate(volume_of(structure), annotated, 0)]
    allowed = data.draw(st.integers(0, len(full)))
    asked = iter(range(1000))
    run = Propagator(Brightness()).iterate(volume_of(structure), annotated, 0, cancelled=lambda: next(asked) >= allowed)
    part = [(p.index, p.packed.tobytes()) for p in run]
    assert part == full[: len(part)]
    assert len(part) >= min(allowed, len(full)) - 1  # one slice may have been predicted and left out
    result = run.result()[1]
    assert sorted(index for index, _ in part) == list(result.slices)
    assert result.cancelled == (len(part) < len(full))
    if result.cancelled:
        assert len(part) == allowed
    tails = [end for end in result.stopped if end.reason is StopReason.CANCELLED]
    assert bool(tails) <= result.cancelled


def test_the_slices_next_to_accepted_ones_come_first():
    structure = tube()
    order = [piece.index for piece in Propagator(Brightness()).iterate(volume_of(structure), cut(structure, 0, 10), 0)]
    distance = [abs(index - 10) for index in order]
    assert distance == sorted(distance)


# Progress.


def test_progress_grows_to_the_end_and_tells_the_speed():
    told = []
    result = run(ball(), 0, 9, progress=lambda done, text: told.append((done, text)))
    parts = [done for done, _ in told]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert told[-1][1].endswith("per second")
    assert result.slices_per_second > 0


def test_the_speed_does_not_count_what_the_caller_does_between_slices(monkeypatch):
    import scribblesegment.propagation.propagator as module

    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    class Slow(Brightness):
        def predict(self, prompts):
            clock[0] += 0.25
            return super().predict(prompts)

    structure = tube()
    run = Propagator(Slow()).iterate(volume_of(structure), cut(structure, 0, 9), 0)
    for _ in run:
        clock[0] += 10.0
    assert run.slices_per_second == 4.0


# What is refused.


def test_without_an_accepted_slice_that_shows_the_structure_there_is_nothing_to_go_on():
    with pytest.raises(PromptError, match="None of the 0 accepted slices shows 'Ball'"):
        run(ball(), 0, label_name="Ball")
    with pytest.raises(PromptError, match="None of the 2 accepted slices"):
        run(ball(), 0, 0, 17)


@pytest.mark.parametrize("index", [-1, 18])
def test_an_accepted_slice_outside_the_volume_is_refused(index):
    with pytest.raises(GeometryError, match=f"accepted slice {index} .* from 0 to 17"):
        Propagator(Brightness()).run(volume_of(ball()), {index: np.ones((24, 30), bool)}, 0)


def test_an_accepted_slice_that_is_no_number_is_refused():
    with pytest.raises(GeometryError, match=r"2\.5"):
        Propagator(Brightness()).run(volume_of(ball()), {2.5: np.ones((24, 30), bool)}, 0)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(GeometryError, match=r"slice 9 has shape \(24, 30\), a slice of the volume has \(18, 24\)"):
        Propagator(Brightness()).run(volume_of(ball()), {9: np.ones((24, 30), bool)}, "i")


def test_logits_for_a_mask_are_refused():
    with pytest.raises(ImageError, match="float64 values, expected bool"):
        Propagator(Brightness()).run(volume_of(ball()), {9: np.ones((24, 30))}, 0)


def test_an_unknown_axis_is_refused():
    with pytest.raises(GeometryError, match="'x' is no axis"):
        Propagator(Brightness()).run(volume_of(ball()), {9: np.ones((24, 30), bool)}, "x")


@pytest.mark.parametrize("index_range", [(5, 5), (-1, 4), (0, 19), (3.5, 9), (4,)])
def test_a_range_outside_the_volume_is_refused(index_range):
    with pytest.raises(GeometryError, match="range of slices"):
        run(ball(), 0, 9, index_range=index_range)


def test_a_protection_of_another_shape_or_kind_is_refused():
    with pytest.raises(GeometryError, match="protected has shape"):
        run(ball(), 0, 9, protected=np.zeros((18, 24, 31), bool))
    with pytest.raises(ImageError, match="protected holds uint8"):
        run(ball(), 0, 9, protected=np.zeros((18, 24, 30), np.uint8))


def test_context_for_a_network_that_takes_none_is_refused():
    other = ContextEntry(np.zeros((20, 20), np.float32), np.ones((20, 20), bool), (1.0, 1.0))
    with pytest.raises(ConfigError, match="takes no context sets"):
        run(ball(), 0, 9, predictor=Brightness(capabilities=("scribbles",)), context=ContextSet("Ball", (other,)))


def test_an_earlier_result_along_another_axis_is_refused():
    earlier = run(ball(), 1, 12)
    with pytest.raises(ConfigError, match="along axis 1"):
        run(ball(), 0, 9, previous=earlier)


# What is added to the network's logits.


@pytest.mark.parametrize(
    ("settings", "least"), [({"expected_weight": 0.0, "trend": False}, 0.85), ({"image_weight": 0.0}, 0.7)]
)
def test_where_the_network_says_nothing_image_and_neighbours_decide(settings, least):
    structure = ball()
    result = run(structure, 0, 6, 9, 12, predictor=Constant(0.0), config=PropagationConfig(**settings))
    assert dice(assembled(result, structure.shape), structure) > least


def test_what_is_added_is_what_the_slices_logits_say_more_than_the_network():
    structure = tube()
    config = PropagationConfig(image_weight=2.0, expected_weight=0.25)
    result = run(structure, 0, 9, predictor=Constant(1.0), config=config, keep_logits=True)
    inside, outside = structure[10] & structure[9], ~structure[10] & ~structure[9]
    logits = result.slices[10].logits
    assert 1.0 < logits[inside].min() <= logits[inside].max() <= 1.0 + 2.0 + 0.25 * 4.0
    assert logits[outside].max() < 1.0
    alone = run(structure, 0, 9, predictor=Constant(1.0), config=PropagationConfig(**NETWORK_ALONE), keep_logits=True)
    assert not alone.slices
