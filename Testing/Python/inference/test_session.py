"""A session: feedback of logits, and a history in which prompts and predictions go back together."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy import ndimage

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError
from scribblesegment.inference.session import InteractiveSession

SHAPE = (12, 17)


class NearestPrompt:
    """Gives every pixel to the nearest prompt, adds the image, and leans towards the previous logits."""

    def __init__(self):
        self.settings, self.contexts, self.requests, self.newest = [], [], [], []
        self.image = self.image_token = None

    def set_image(self, image, **settings):
        self.image, self.image_token = image, None
        self.settings.append(settings)

    def set_context(self, context):
        self.contexts.append(context)

    def predict(self, prompts, *, newest=None):
        self.requests.append(prompts)
        self.newest.append(newest)
        marks = np.stack([prompts.positive_pixels(), prompts.scribbles[1] > 0])
        marks[1][tuple(prompts.point_coords[prompts.point_labels == 0].T)] = True
        far = np.full(prompts.shape, float(sum(prompts.shape)))
        positive, negative = (ndimage.distance_transform_edt(~mark) if mark.any() else far for mark in marks)
        logits = (negative - positive) / 4 + self.image
        if prompts.mask_input is not None:
            logits = logits + 0.5 * prompts.mask_input
        logits = logits.astype(np.float32)
        logits.flags.writeable = False
        return SimpleNamespace(logits=logits, mask=lambda: logits > 0)


@pytest.fixture
def predictor():
    return NearestPrompt()


@pytest.fixture
def image():
    return np.random.default_rng(11).normal(0, 0.1, SHAPE)


@pytest.fixture
def session(predictor, image):
    return InteractiveSession(predictor, image)


def stroke(row, start=2, stop=6):
    mask = np.zeros(SHAPE, bool)
    mask[row, start:stop] = True
    return mask


def bits(state):
    """Everything a user would see of a state, comparable to the bit."""
    prompts, prediction = state.prompts, state.prediction
    arrays = [prompts.scribbles, prompts.point_coords, prompts.point_labels, prompts.boxes]
    if prediction is not None:
        arrays += [prediction.logits, prediction.mask()]
    return (*((a.shape, a.dtype, a.tobytes()) for a in arrays), prompts.mask_input is None, state.accepted)


# Predicting ---------------------------------------------------------------------------------------------------------


def test_image_and_prompts_reach_the_predictor(predictor, image):
    intensities = IntensityRange(0.0, 1.0)
    session = InteractiveSession(predictor, image, spacing_mm=(0.5, 5.0), intensity_range=intensities)
    session.reset_prompts()  # nothing, and no step
    assert not session.undo()
    session.add_scribble(stroke(3), positive=False)
    session.add_click((5, 6))
    session.add_box((0, 1), (4, 5))
    for _ in range(2):
        session.predict()
    assert predictor.settings == [{"spacing_mm": (0.5, 5.0), "intensity_range": intensities}]
    assert predictor.image is image
    asked = predictor.requests[-1]
    assert asked.equals(session.state.prompts)
    assert asked.scribbles[1, 3, 2:6].all()
    assert (asked.point_coords.tolist(), asked.boxes.tolist()) == ([[5, 6]], [[[0, 1], [4, 5]]])
    predictor.set_image(None)  # by somebody else
    session.predict()
    assert predictor.image is image


def test_the_logits_before_the_newest_prompt_are_fed_back(session, predictor):
    session.add_click((3, 4))
    first = session.predict()
    np.testing.assert_array_equal(session.predict().logits, first.logits)
    session.add_click((5, 5), positive=False)
    session.add_click((6, 6), positive=False)
    second = session.predict()
    np.testing.assert_array_equal(session.predict().logits, second.logits)
    fed = [request.mask_input for request in predictor.requests]
    assert fed[0] is fed[1] is None
    np.testing.assert_array_equal(fed[2:], [first.logits] * 2)
    assert session.state.prompts.mask_input is None
    session.reset_prompts()
    session.add_click((3, 4))
    np.testing.assert_array_equal(session.predict().logits, first.logits)
    assert predictor.requests[-1].mask_input is None


def test_prompts_of_one_kind_since_the_last_prediction_change_it_in_their_direction_alone(session, predictor):
    session.add_click((3, 4))
    for draw in (
        lambda: session.add_click((5, 5), positive=False),
        lambda: (session.add_click((6, 6)), session.add_scribble(stroke(8))),
        lambda: (session.add_click((7, 7)), session.add_scribble(stroke(9), positive=False), session.add_click((1, 1))),
        lambda: session.add_box((0, 1), (4, 5)),
        lambda: (session.undo(), session.add_click((2, 2))),
    ):
        session.predict()
        draw()
        session.predict()
    assert predictor.newest[1::2] == [False, True, None, None, True]


def test_what_says_nothing_is_refused_and_negative_prompts_may_correct(session, predictor, image):
    with pytest.raises(PromptError, match="nothing to predict from"):
        session.predict()
    session.add_click((3, 4), positive=False)
    with pytest.raises(PromptError, match="Only background is marked"):
        session.predict()
    session.add_click((8, 9))
    session.predict()
    session.add_scribble(stroke(8, 5, 13), positive=False)  # takes the only positive one away
    assert not session.state.prompts.has_positive
    assert session.predict() is session.state.prediction
    entry = ContextEntry(np.zeros((4, 4), np.float32), np.eye(4, dtype=bool), (1.0, 1.0))
    for entries in ((entry,), ()):  # with a context, the first prediction needs no prompts
        session = InteractiveSession(predictor, image, context=ContextSet("liver", entries))
        if entries:
            assert session.predict() is session.state.prediction
            session.add_click((1, 1), positive=False)
            session.predict()
    with pytest.raises(PromptError, match="nothing to predict from"):
        session.predict()


# History ------------------------------------------------------------------------------------------------------------


def test_refused_prompts_and_failed_predictions_leave_everything_as_it_was(session, predictor, monkeypatch):
    session.add_click((3, 4))
    session.predict()
    session.add_click((5, 5))
    session.undo()
    before = bits(session.state)
    for draw in (
        lambda: session.add_scribble(np.zeros(SHAPE)),
        lambda: session.add_scribble(np.ones((3, 3))),
        lambda: session.add_click((12, 0)),
        lambda: session.add_box((4, 4), (4, 8)),
    ):
        with pytest.raises(PromptError):
            draw()
    monkeypatch.setattr(predictor, "predict", lambda prompts, **how: prompts.nonsense)
    with pytest.raises(AttributeError):
        session.predict()
    assert bits(session.state) == before
    assert session.redo()


def test_accepting_marks_this_prediction_alone(session):
    session.add_click((3, 4))
    prediction = session.predict()
    np.testing.assert_array_equal(session.accept(), prediction.mask())
    assert session.state.accepted
    session.add_click((5, 5))
    with pytest.raises(PromptError, match="predict first"):
        session.accept()
    session.undo()
    assert session.state.accepted
    session.predict()
    assert not session.state.accepted


class AnyOrder(RuleBasedStateMachine):
    """Compares a session with the plainest history there is: a list of what was seen, and a position in it."""

    MOST = 8

    @initialize()
    def start(self):
        image = np.linspace(-0.2, 0.2, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
        self.session = InteractiveSession(NearestPrompt(), image, max_history=self.MOST)
        self.seen, self.position = [bits(self.session.state)], 0

    @rule(row=st.integers(0, 8), column=st.integers(0, 12), side=st.integers(1, 4), positive=st.booleans())
    def draw(self, row, column, side, positive):
        draw = (
            lambda: self.session.add_scribble(stroke(row, column, column + side), positive),
            lambda: self.session.add_click((row, column), positive),
            lambda: self.session.add_box((row, column), (row + side, column + side)),
            self.session.reset_prompts,
        )[(row + column) % 4]
        if draw != self.session.reset_prompts or not self.session.state.prompts.is_empty:
            draw()
            self.seen = [*self.seen[: self.position + 1], bits(self.session.state)][-self.MOST - 1 :]
            self.position = len(self.seen) - 1

    @precondition(lambda self: self.session.state.prompts.has_positive)
    @rule(accept=st.booleans())
    def predict(self, accept):
        assert self.session.predict() is self.session.state.prediction
        if accept:
            self.session.accept()
        self.seen[self.position] = bits(self.session.state)

    @rule()
    def undo(self):
        assert self.session.undo() == (self.position > 0)
        self.position = max(0, self.position - 1)

    @rule()
    def redo(self):
        assert self.session.redo() == (self.position < len(self.seen) - 1)
        self.position = min(len(self.seen) - 1, self.position + 1)

    @invariant()
    def it_shows_what_was_seen_at_this_position(self):
        state = self.session.state
        assert bits(state) == self.seen[self.position]
        assert (state.can_undo, state.can_redo) == (self.position > 0, self.position < len(self.seen) - 1)


AnyOrder.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# Sessions and predictors --------------------------------------------------------------------------------------------


def test_sessions_on_one_predictor_do_not_mix_images_and_contexts(predictor):
    context = ContextSet("x", (ContextEntry(np.zeros((4, 4), np.float32), np.eye(4, dtype=bool), (1.0, 1.0)),))
    dark = InteractiveSession(predictor, np.full(SHAPE, -100.0), context=context)
    bright = InteractiveSession(predictor, np.full(SHAPE, 100.0))
    for session in (dark, bright):
        session.add_click((3, 4))
    assert [session.predict().mask().any() for session in (dark, bright, dark)] == [False, True, False]
    assert predictor.contexts == [context, None, context, None, context]
    dark.predict()
    assert len(predictor.settings) == 5


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        *(({"image": np.zeros(shape)}, ImageError) for shape in ((3, 4, 5), (4,), (0, 4))),
        ({"spacing_mm": (0.0, 1.0)}, GeometryError),
        ({"max_history": -1}, ConfigError),
    ],
)
def test_unusable_arguments_are_refused(predictor, image, changes, error):
    with pytest.raises(error):
        InteractiveSession(predictor, **{"image": image, **changes})
