"""Tests of what a running refinement and the user interface tell each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ScribbleSegmentLib.RefinementLogic import RefinementTalk, TalkState


def on_a_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def wait_for_question(talk: RefinementTalk) -> str:
    until = time.monotonic() + 5
    while talk.state.question is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    return talk.state.question


def test_at_first_nothing_has_been_said() -> None:
    assert RefinementTalk().state == TalkState()
    assert not RefinementTalk().cancelled()


def test_what_is_said_is_heard() -> None:
    talk = RefinementTalk()
    talk.progress(0.25, "Window 1 of 4")
    for number, g in enumerate((2.0, 1.5)):
        talk.iteration(number, g)
    assert talk.state == TalkState(0.25, "Window 1 of 4", (2.0, 1.5), 1)


def test_progress_stays_between_nothing_and_all() -> None:
    talk = RefinementTalk()
    for part, shown in ((-0.1, 0.0), (1.3, 1.0)):
        talk.progress(part, "")
        assert talk.state.part == shown


def test_an_earlier_state_does_not_change() -> None:
    talk = RefinementTalk()
    talk.iteration(0, 2.0)
    before = talk.state
    talk.iteration(1, 1.0)
    assert before.history == (2.0,)


def test_the_answer_reaches_the_thread_that_asked() -> None:
    for answer in (True, False):
        talk = RefinementTalk()
        thread, results = on_a_thread(lambda talk=talk: talk.confirm("It can run code."))  # type: ignore[misc]
        assert wait_for_question(talk) == "It can run code."
        talk.answer(answer)
        thread.join(5)
        assert results == [answer]
        assert talk.state.question is None


def test_a_second_question_waits_for_an_answer_of_its_own() -> None:
    talk = RefinementTalk()
    thread, results = on_a_thread(lambda: (talk.confirm("first"), talk.confirm("second")))
    wait_for_question(talk)
    talk.answer(True)
    until = time.monotonic() + 5
    while talk.state.question != "second":
        assert time.monotonic() < until
        time.sleep(0.001)
    talk.answer(False)
    thread.join(5)
    assert results == [(True, False)]


def test_cancelling_answers_an_open_question_with_no() -> None:
    talk = RefinementTalk()
    thread, results = on_a_thread(lambda: talk.confirm("It can run code."))
    wait_for_question(talk)
    talk.cancel()
    thread.join(5)
    assert results == [False]
    assert talk.cancelled()
    assert talk.isCancelled


def test_after_cancelling_no_question_is_open() -> None:
    talk = RefinementTalk()
    talk.cancel()
    assert not talk.confirm("It can run code.")
