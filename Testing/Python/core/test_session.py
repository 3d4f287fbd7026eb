"""Tests of scribblesegment.inference.session: feedback of logits, and a history of prompts and predictions."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy import ndimage

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.inference.session import InteractiveSession, SessionState, release_predictor

SHAPE = (12, 17)


@dataclass(frozen=True, eq=False)
class NearestPrediction:
    logits: np.ndarray

    def mask(self, threshold: float = 0.5) -> np.ndarray:
        return np.asarray(self.logits > np.log(threshold / (1 - threshold)))


class NearestPromptPredictor:
    """Gives every pixel to the nearest prompt, adds the image, and leans towards the previous logits."""

    def __init__(self) -> None:
        self.image: np.ndarray | None = None
        self.settings: list[dict[str, Any]] = []
        self.requests: list[Prompts] = []

    def set_image(self, image: np.ndarray, **settings: Any) -> None:
        self.image = image
        self.settings.append(settings)

    def predict(self, prompts: Prompts) -> NearestPrediction:
        assert self.image is not None
        self.requests.append(prompts)
        marks = prompts.scribbles > 0
        for (row, column), label in zip(prompts.point_coords, prompts.point_labels, strict=True):
            marks[1 - label, row, column] = True
        for start, stop in prompts.boxes:
            marks[0, start[0] : stop[0], start[1] : stop[1]] = True
        far = np.full(prompts.shape, float(sum(prompts.shape)))
        positive, negative = (ndimage.distance_transform_edt(~mark) if mark.any() else far for mark in marks)
        logits = (negative - positive) / 4 + self.image
        if prompts.mask_input is not None:
            logits = logits + 0.5 * prompts.mask_input
        result = logits.astype(np.float32)
        result.flags.writeable = False
        return NearestPrediction(result)


@pytest.fixture
def predictor() -> NearestPromptPredictor:
    return NearestPromptPredictor()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(11).normal(0, 0.1, SHAPE)


@pytest.fixture
def session(predictor: NearestPromptPredictor, image: np.ndarray) -> InteractiveSession[NearestPrediction]:
    return InteractiveSession(predictor, image)


def stroke(row: int, start: int = 2, stop: int = 6) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[row, start:stop] = True
    return mask


def bits(state: SessionState[NearestPrediction]) -> tuple[Any, ...]:
    """Everything a user would see of a state, comparable to the bit."""
    prompts, prediction = state.prompts, state.prediction
    arrays: list[np.ndarray] = [prompts.scribbles, prompts.point_coords, prompts.point_labels, prompts.boxes]
    if prediction is not None:
        arrays += [prediction.logits, prediction.mask()]
    return (*((a.shape, a.dtype, a.tobytes()) for a in arrays), prompts.mask_input is None, state.accepted)


# --- Predicting -------------------------------------------------------------------------------------------------------


def test_the_image_is_set_once_with_its_spacing_and_range(predictor: NearestPromptPredictor, image: np.ndarray) -> None:
    intensities = IntensityRange(0.0, 1.0)
    session = InteractiveSession(predictor, image, spacing_mm=(0.5, 5.0), intensity_range=intensities)
    session.add_click((3, 4))
    session.predict()
    session.add_click((5, 6), positive=False)
    session.predict()
    assert predictor.settings == [{"spacing_mm": (0.5, 5.0), "intensity_range": intensities}]
    assert predictor.image is image


def test_strokes_clicks_and_boxes_reach_the_predictor(
    session: InteractiveSession[NearestPrediction], predictor: NearestPromptPredictor
) -> None:
    session.add_scribble(stroke(3))
    session.add_scribble(stroke(9), positive=False)
    session.add_click((1, 2))
    session.add_click((10, 16), positive=False)
    session.add_box((2, 1), (6, 9))
    prediction = session.predict()
    (request,) = predictor.requests
    expected = (
        Prompts.empty(SHAPE)
        .with_scribble(stroke(3))
        .with_scribble(stroke(9), positive=False)
        .with_click((1, 2))
        .with_click((10, 16), positive=False)
        .with_box((2, 1), (6, 9))
    )
    assert request.equals(expected)
    assert session.state.prediction is prediction
    assert prediction.mask()[3, 2:6].all()
    assert not prediction.mask()[9, 2:6].any()


def test_logits_of_the_newest_prediction_before_the_newest_prompts_are_fed_back(
    session: InteractiveSession[NearestPrediction], predictor: NearestPromptPredictor
) -> None:
    session.add_click((3, 4))
    first = session.predict()
    session.add_click((9, 9), positive=False)
    session.add_click((10, 10), positive=False)  # two gestures, no prediction in between
    second = session.predict()
    session.predict()
    session.add_click((0, 0))
    session.predict()
    fed_back = [request.mask_input for request in predictor.requests]
    assert fed_back[0] is None
    np.testing.assert_array_equal(fed_back[1], first.logits)
    np.testing.assert_array_equal(fed_back[2], first.logits)  # predicting again: not its own result
    np.testing.assert_array_equal(fed_back[3], second.logits)
    assert session.state.prompts.mask_input is None


def test_predicting_twice_gives_the_same_twice_and_no_undo_step(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_click((3, 4))
    first = session.predict()
    second = session.predict()
    np.testing.assert_array_equal(first.logits, second.logits)
    assert session.undo()
    assert not session.state.can_undo


def test_after_undo_the_logits_that_were_current_then_are_fed_back(
    session: InteractiveSession[NearestPrediction], predictor: NearestPromptPredictor
) -> None:
    session.add_click((3, 4))
    first = session.predict()
    session.add_click((9, 9), positive=False)
    session.predict()
    session.undo()
    session.add_click((10, 2), positive=False)
    session.predict()
    np.testing.assert_array_equal(predictor.requests[-1].mask_input, first.logits)


def test_a_gesture_leaves_no_prediction_for_prompts_it_was_not_made_from(
    session: InteractiveSession[NearestPrediction],
) -> None:
    session.add_click((3, 4))
    session.predict()
    session.add_click((5, 5))
    assert session.state.prediction is None


def test_predicting_without_prompts_is_refused(
    session: InteractiveSession[NearestPrediction], predictor: NearestPromptPredictor
) -> None:
    with pytest.raises(PromptError, match="nothing to predict from"):
        session.predict()
    assert predictor.requests == []


def test_predicting_from_only_negative_prompts_is_refused(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_scribble(stroke(3), positive=False)
    with pytest.raises(PromptError, match="All prompts are negative"):
        session.predict()


def test_negative_prompts_may_correct_an_earlier_prediction(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_scribble(stroke(3))
    session.predict()
    session.add_scribble(stroke(3), positive=False)  # takes the place of the positive stroke
    assert not session.state.prompts.has_positive
    assert not session.predict().mask()[3, 2:6].any()


def test_a_failing_prediction_changes_nothing(
    session: InteractiveSession[NearestPrediction], predictor: NearestPromptPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.add_click((3, 4))
    session.predict()
    session.add_click((5, 5))
    before = bits(session.state)

    def fail(prompts: Prompts) -> NearestPrediction:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(predictor, "predict", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.predict()
    assert bits(session.state) == before
    session.predict()


REFUSED_GESTURES: list[Callable[[InteractiveSession[NearestPrediction]], None]] = [
    lambda s: s.add_scribble(np.zeros(SHAPE, bool)),
    lambda s: s.add_scribble(np.ones((3, 3), bool)),
    lambda s: s.add_scribble(np.full(SHAPE, np.nan)),
    lambda s: s.add_click((12, 0)),
    lambda s: s.add_click((1, 2, 3)),
    lambda s: s.add_box((4, 4), (4, 9)),
    lambda s: s.add_box((0, 0), (99, 9)),
]


@pytest.mark.parametrize("gesture", REFUSED_GESTURES)
def test_a_refused_gesture_changes_nothing(
    session: InteractiveSession[NearestPrediction], gesture: Callable[[InteractiveSession[NearestPrediction]], None]
) -> None:
    session.add_click((3, 4))
    session.add_click((5, 5))
    session.undo()
    before = session.state
    with pytest.raises(PromptError):
        gesture(session)
    after = session.state
    assert bits(after) == bits(before)
    assert after.can_redo


# --- History ----------------------------------------------------------------------------------------------------------


def test_undo_and_redo_say_whether_there_was_anything(session: InteractiveSession[NearestPrediction]) -> None:
    assert not session.undo()
    assert not session.redo()
    session.add_click((3, 4))
    assert not session.redo()
    assert session.undo()
    assert not session.undo()
    assert session.redo()


def test_undo_restores_prompts_and_prediction_together(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_scribble(stroke(3))
    session.predict()
    first = session.state
    session.add_scribble(stroke(8), positive=False)
    session.predict()
    second = session.state
    assert (first.prediction is not None, second.prediction is not None) == (True, True)
    session.undo()
    assert bits(session.state) == bits(first)
    session.redo()
    assert bits(session.state) == bits(second)


def test_twenty_gestures_go_back_and_forth_to_the_bit(session: InteractiveSession[NearestPrediction]) -> None:
    rng = np.random.default_rng(12)
    seen = [bits(session.state)]
    for number in range(20):
        if number % 3 == 0:
            session.add_scribble(rng.random(SHAPE) < 0.05, positive=number % 2 == 0)
        elif number % 3 == 1:
            session.add_click(rng.integers(0, SHAPE).tolist(), positive=number % 2 == 1)
        else:
            session.add_box((number % 5, 1), (number % 5 + 4, 9))
        session.predict()
        seen.append(bits(session.state))
    assert len(set(seen)) == 21
    for expected in reversed(seen[:-1]):
        assert session.undo()
        assert bits(session.state) == expected
    assert not session.state.can_undo
    for expected in seen[1:]:
        assert session.redo()
        assert bits(session.state) == expected
    assert not session.state.can_redo


def test_a_gesture_after_undo_drops_what_could_be_redone(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_click((1, 1))
    session.add_click((2, 2))
    session.undo()
    session.add_click((3, 3))
    assert not session.state.can_redo
    np.testing.assert_array_equal(session.state.prompts.point_coords, [[1, 1], [3, 3]])


def test_predicting_after_undo_keeps_what_can_be_redone(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_click((1, 1))
    session.add_click((2, 2))
    session.undo()
    session.predict()
    assert session.redo()
    np.testing.assert_array_equal(session.state.prompts.point_coords, [[1, 1], [2, 2]])


def test_only_the_newest_gestures_are_remembered(predictor: NearestPromptPredictor, image: np.ndarray) -> None:
    session = InteractiveSession(predictor, image, max_history=3)
    for row in range(10):
        session.add_click((row, 0))
    undone = 0
    while session.undo():
        undone += 1
    assert undone == 3
    assert len(session.state.prompts.point_coords) == 7
    assert [session.redo() for _ in range(4)] == [True, True, True, False]
    assert len(session.state.prompts.point_coords) == 10


def test_a_session_without_history_still_predicts(predictor: NearestPromptPredictor, image: np.ndarray) -> None:
    session = InteractiveSession(predictor, image, max_history=0)
    session.add_click((1, 1))
    first = session.predict()
    session.add_click((2, 2))
    session.predict()
    assert not session.undo()
    np.testing.assert_array_equal(predictor.requests[-1].mask_input, first.logits)


def test_reset_starts_over_and_can_be_undone(
    session: InteractiveSession[NearestPrediction], predictor: NearestPromptPredictor
) -> None:
    session.add_scribble(stroke(3))
    session.predict()
    before = bits(session.state)
    session.reset_prompts()
    assert session.state.prompts.is_empty
    assert session.state.prediction is None
    session.undo()
    assert bits(session.state) == before
    session.redo()
    session.add_click((1, 1))
    session.predict()
    assert predictor.requests[-1].mask_input is None


def test_resetting_nothing_adds_no_undo_step(session: InteractiveSession[NearestPrediction]) -> None:
    session.reset_prompts()
    assert not session.state.can_undo
    session.add_click((1, 1))
    session.undo()
    session.reset_prompts()
    assert session.state.can_redo


def test_a_state_is_a_snapshot(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_scribble(stroke(3))
    state = session.state
    before = bits(state)
    session.add_scribble(stroke(8))
    session.predict()
    session.undo()
    session.predict()
    assert bits(state) == before
    with pytest.raises(AttributeError):
        state.accepted = True  # type: ignore[misc]


def test_a_stroke_changed_by_its_owner_does_not_change_the_history(
    session: InteractiveSession[NearestPrediction],
) -> None:
    mask = stroke(3).astype(np.float32)
    session.add_scribble(mask)
    before = bits(session.state)
    mask[:] = 1
    assert bits(session.state) == before


# --- Accepting --------------------------------------------------------------------------------------------------------


def test_accepting_returns_the_mask_and_marks_the_state(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_scribble(stroke(3))
    prediction = session.predict()
    before = session.state
    mask = session.accept()
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, prediction.mask())
    assert (before.accepted, session.state.accepted) == (False, True)
    assert session.state.prediction is prediction


def test_what_follows_an_accepted_prediction_is_not_accepted(session: InteractiveSession[NearestPrediction]) -> None:
    session.add_scribble(stroke(3))
    session.predict()
    session.accept()
    states = [session.state]
    session.add_click((9, 9), positive=False)
    states.append(session.state)
    session.undo()
    states.append(session.state)
    session.predict()
    states.append(session.state)
    assert [state.accepted for state in states] == [True, False, True, False]


def test_accepting_without_a_prediction_is_refused(session: InteractiveSession[NearestPrediction]) -> None:
    with pytest.raises(PromptError, match="predict first"):
        session.accept()
    session.add_click((3, 4))
    session.predict()
    session.add_click((5, 5))
    with pytest.raises(PromptError, match="predict first"):
        session.accept()
    assert not session.state.accepted


# --- Sessions and predictors ------------------------------------------------------------------------------------------


def test_two_sessions_on_one_predictor_do_not_mix_their_images(predictor: NearestPromptPredictor) -> None:
    dark, bright = (InteractiveSession(predictor, np.full(SHAPE, value)) for value in (-100.0, 100.0))
    for session in (dark, bright):
        session.add_click((3, 4))
    assert not dark.predict().mask().any()
    assert bright.predict().mask().all()
    assert not dark.predict().mask().any()
    assert len(predictor.settings) == 5
    dark.predict()
    assert len(predictor.settings) == 5


def test_a_session_keeps_neither_itself_nor_its_predictor_alive(image: np.ndarray) -> None:
    predictor = NearestPromptPredictor()
    session = InteractiveSession(predictor, image)
    predictor_seen: weakref.ref[Any] = weakref.ref(predictor)
    session_seen: weakref.ref[Any] = weakref.ref(session)
    del predictor, session
    gc.collect()
    assert predictor_seen() is None
    assert session_seen() is None


def test_an_image_that_could_not_be_set_is_set_again_before_predicting(
    predictor: NearestPromptPredictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = InteractiveSession(predictor, image)
    session.add_click((3, 4))
    with monkeypatch.context() as patched:

        def fail(image: np.ndarray, **settings: Any) -> None:
            predictor.image = None
            raise RuntimeError("out of memory")

        patched.setattr(predictor, "set_image", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            InteractiveSession(predictor, image)
    session.predict()
    assert predictor.image is image


@pytest.mark.parametrize("shape", [(3, 4, 5), (4,), (0, 4)])
def test_images_that_are_no_slices_are_refused(predictor: NearestPromptPredictor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="shape"):
        InteractiveSession(predictor, np.zeros(shape))


def test_unusable_spacing_is_refused(predictor: NearestPromptPredictor, image: np.ndarray) -> None:
    with pytest.raises(GeometryError, match="spacing"):
        InteractiveSession(predictor, image, spacing_mm=(0.0, 1.0))


def test_a_negative_history_is_refused(predictor: NearestPromptPredictor, image: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="max_history is -1"):
        InteractiveSession(predictor, image, max_history=-1)


# --- Any order of gestures --------------------------------------------------------------------------------------------


class ContextPredictor(NearestPromptPredictor):
    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[ContextSet | None] = []

    def set_context(self, context: ContextSet | None) -> None:
        self.contexts.append(context)

    def predict(self, prompts: Prompts) -> NearestPrediction:
        return super().predict(prompts if prompts.has_positive else prompts.with_click((0, 0)))


def a_context() -> ContextSet:
    entry = ContextEntry(np.zeros((4, 4), np.float32), np.eye(4, dtype=bool), spacing_mm=(1.0, 1.0))
    return ContextSet("liver", (entry,))


def test_with_a_context_the_first_prediction_needs_no_prompts(image: np.ndarray) -> None:
    predictor, context = ContextPredictor(), a_context()
    session = InteractiveSession(predictor, image, context=context)
    assert predictor.contexts == [context]
    session.predict()
    session.add_click((1, 1), positive=False)
    session.predict()
    assert session.state.prediction is not None


def test_an_empty_context_says_nothing(image: np.ndarray) -> None:
    session = InteractiveSession(ContextPredictor(), image, context=ContextSet("liver"))
    with pytest.raises(PromptError, match="nothing to predict from"):
        session.predict()


def test_sessions_on_one_predictor_hand_their_contexts_over(image: np.ndarray) -> None:
    predictor, context = ContextPredictor(), a_context()
    first = InteractiveSession(predictor, image, context=context)
    second = InteractiveSession(predictor, image)
    assert predictor.contexts == [context, None]
    first.predict()
    second.add_click((1, 1))
    second.predict()
    assert predictor.contexts == [context, None, context, None]


def test_a_released_predictor_is_given_image_and_context_again(image: np.ndarray) -> None:
    predictor, context = ContextPredictor(), a_context()
    session = InteractiveSession(predictor, image, context=context)
    release_predictor(predictor)
    session.predict()
    assert predictor.contexts == [context, context]
    release_predictor(ContextPredictor())  # of which no session knows


def test_a_context_for_a_predictor_that_takes_none_is_refused(
    predictor: NearestPromptPredictor, image: np.ndarray
) -> None:
    with pytest.raises(ConfigError, match="NearestPromptPredictor takes no context set"):
        InteractiveSession(predictor, image, context=a_context())


class AnyOrderOfGestures(RuleBasedStateMachine):
    """Compares a session with the plainest history there is: a list of what was seen, and a position in it."""

    MAX_HISTORY = 8
    seen: list[tuple[Any, ...]]

    @initialize()
    def start(self) -> None:
        image = np.linspace(-0.2, 0.2, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
        self.session = InteractiveSession(NearestPromptPredictor(), image, max_history=self.MAX_HISTORY)
        self.seen = [bits(self.session.state)]
        self.position = 0

    def gesture_was_made(self) -> None:
        self.seen = [*self.seen[: self.position + 1], bits(self.session.state)][-self.MAX_HISTORY - 1 :]
        self.position = len(self.seen) - 1

    @rule(row=st.integers(0, 11), start=st.integers(0, 16), length=st.integers(1, 9), positive=st.booleans())
    def draw_a_stroke(self, row: int, start: int, length: int, positive: bool) -> None:
        self.session.add_scribble(stroke(row, start, start + length), positive)
        self.gesture_was_made()

    @rule(row=st.integers(0, 11), column=st.integers(0, 16), positive=st.booleans())
    def click(self, row: int, column: int, positive: bool) -> None:
        self.session.add_click((row, column), positive)
        self.gesture_was_made()

    @rule(row=st.integers(0, 8), column=st.integers(0, 12), side=st.integers(1, 4))
    def draw_a_box(self, row: int, column: int, side: int) -> None:
        self.session.add_box((row, column), (row + side, column + side))
        self.gesture_was_made()

    @rule()
    def click_outside(self) -> None:
        with pytest.raises(PromptError):
            self.session.add_click((99, 0))

    @precondition(lambda self: not self.session.state.prompts.is_empty)
    @rule()
    def reset(self) -> None:
        self.session.reset_prompts()
        self.gesture_was_made()

    @precondition(lambda self: self.session.state.prompts.has_positive)
    @rule()
    def predict(self) -> None:
        prediction = self.session.predict()
        assert self.session.state.prediction is prediction
        self.seen[self.position] = bits(self.session.state)

    @precondition(lambda self: self.session.state.prediction is not None)
    @rule()
    def accept(self) -> None:
        self.session.accept()
        self.seen[self.position] = bits(self.session.state)

    @rule()
    def undo(self) -> None:
        assert self.session.undo() == (self.position > 0)
        self.position = max(0, self.position - 1)

    @rule()
    def redo(self) -> None:
        assert self.session.redo() == (self.position < len(self.seen) - 1)
        self.position = min(len(self.seen) - 1, self.position + 1)

    @invariant()
    def the_session_shows_what_was_seen_at_this_position(self) -> None:
        state = self.session.state
        assert bits(state) == self.seen[self.position]
        assert state.can_undo == (self.position > 0)
        assert state.can_redo == (self.position < len(self.seen) - 1)


AnyOrderOfGestures.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestAnyOrderOfGestures = AnyOrderOfGestures.TestCase
