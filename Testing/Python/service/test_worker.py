"""Tasks and the thread that does the newest of them first; the threads are real."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, InvalidStateError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.service.worker import Progress, Task, Worker

LONG = 20.0  # seconds that no test reaches unless it fails


@pytest.fixture
def worker():
    worker = Worker("test worker")
    yield worker
    assert worker.close(LONG)
    assert threads() == []


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "test worker"]


class Gate:
    """Work that ends when it is told to."""

    def __init__(self, worker, value=None):
        self.began, self.opened, self.value = threading.Event(), threading.Event(), value
        self.task = worker.submit(self)
        assert self.began.wait(LONG)

    def __call__(self, task):
        self.began.set()
        assert self.opened.wait(LONG)
        return self.value


def fail(error):
    def work(task):
        raise error

    return work


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# The worker ---------------------------------------------------------------------------------------------------------


def test_the_newest_comes_first_and_supersedes_waiting_ones_about_the_same_but_not_the_running_one(worker):
    gate, order = Gate(worker), []
    older, other, newer = (
        worker.submit(lambda task, n=n: order.append(n), supersede=key) for n, key in enumerate(("a", "b", "a"))
    )
    assert (older.done, older.cancelled) == (True, True)
    assert not worker.wait(0.02)
    assert worker.busy
    gate.opened.set()
    assert worker.wait(LONG)
    assert other.wait(LONG)
    assert newer.wait(LONG)
    assert order == [2, 1]
    assert not gate.task.cancelled
    assert [thread.daemon for thread in threads()] == [True]


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_what_a_task_raises_is_kept_and_the_thread_lives_on(worker, error):
    task = worker.submit(fail(error))
    assert task.wait(LONG)
    assert task.exception() is error
    with pytest.raises(type(error)):
        task.result()
    alive = worker.submit(lambda task: "alive")
    assert alive.wait(LONG)
    assert alive.result() == "alive"
    assert alive.exception() is None


def test_close_cancels_everything_and_tasks_never_overlap_even_when_the_thread_was_given_up(worker):
    gate, ran = Gate(worker, "too late"), threading.Event()
    waiting = worker.submit(lambda task: ran.set())
    assert not worker.close(0.01)
    assert (gate.task.cancelled, waiting.done, worker.busy) == (True, True, False)
    assert not worker.wait(LONG)
    again = worker.submit(lambda task: "again")
    assert not again.wait(0.05)
    assert len(threads()) == 1
    gate.opened.set()
    assert again.wait(LONG)
    assert (again.result(), gate.task.result()) == ("again", "too late")
    assert worker.close(LONG)
    assert threads() == []
    assert not ran.is_set()


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["submit", "fail", "same", "cancel", "wait", "close"]), max_size=15))
def test_every_task_comes_to_an_end_and_the_newest_is_done(steps):
    worker, tasks = Worker("test worker"), []
    for step in steps:
        if step in ("submit", "fail", "same"):
            work = fail(ValueError()) if step == "fail" else lambda task: "done"
            tasks.append(worker.submit(work, supersede="key" if step == "same" else None))
        elif step == "cancel" and tasks:
            tasks[-1].cancel()
        elif step == "wait":
            worker.wait(LONG)
        elif step == "close":
            assert worker.close(LONG)
    while worker.busy:
        worker.wait(LONG)
    assert all(task.done for task in tasks)
    assert all(isinstance(task.exception(), (ValueError, type(None))) for task in tasks if not task.cancelled)
    assert worker.close(LONG)
    assert threads() == []


# A task -------------------------------------------------------------------------------------------------------------


def test_a_task_that_is_cancelled_never_runs_or_ends_itself_and_keeps_its_result():
    task, ran, running = Task(), [], Task()
    assert (task.progress, task.question, task.value, task.take()) == (Progress(), None, None, [])
    for ask in (task.result, task.exception):
        with pytest.raises(InvalidStateError, match="not done"):
            ask()
    task.cancel()
    task.run(ran.append)
    assert (task.done, task.begun, ran) == (True, False, [])
    with pytest.raises(CancelledError, match="before it began"):
        task.result()
    running.run(lambda mine: (mine.cancel(), mine is running, mine.begun, mine.done, mine.cancelled)[1:])
    assert running.result() == (True, True, False, True)


@pytest.mark.parametrize("answers", [(True, False), (False, True), "cancel", "close"])
def test_each_question_waits_for_an_answer_of_its_own_or_no_when_the_work_is_to_end(worker, answers):
    task = worker.submit(lambda task: (task.ask("first"), task.ask("second")))
    until(lambda: task.question == "first")
    if answers == "cancel":
        task.cancel()
    elif answers == "close":
        assert worker.close(LONG)
    else:
        task.answer(answers[0])
        until(lambda: task.question == "second")
        task.answer(answers[1])
    assert task.wait(LONG)
    assert task.result() == (answers if isinstance(answers, tuple) else (False, False))
    assert task.question is None
