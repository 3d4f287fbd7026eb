"""Tests of the thread that does the newest of the waiting jobs; the threads are real."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.service.worker import JobOutcome, Worker

LONG = 20.0  # seconds that no test reaches unless it fails


@pytest.fixture
def worker() -> Iterator[Worker[object]]:
    worker: Worker[object] = Worker("test worker")
    yield worker
    assert worker.close(LONG)


class Gate:
    """A job that says when it began and ends when it is told to."""

    def __init__(self, value: object = None) -> None:
        self.began = threading.Event()
        self.opened = threading.Event()
        self.value = value

    def __call__(self) -> object:
        self.began.set()
        assert self.opened.wait(LONG)
        return self.value


def next_outcome(worker: Worker[object]) -> JobOutcome[object]:
    assert worker.wait(LONG)
    [outcome] = worker.poll()
    return outcome


def all_outcomes(worker: Worker[object]) -> list[JobOutcome[object]]:
    outcomes = []
    while worker.busy:
        assert worker.wait(LONG)
        outcomes += worker.poll()
    return outcomes


def started(worker: Worker[object], value: object = None) -> Gate:
    gate = Gate(value)
    worker.run(gate)
    assert gate.began.wait(LONG)
    return gate


def fail(error: BaseException) -> Callable[[], object]:
    def job() -> object:
        raise error

    return job


def test_the_thread_starts_with_the_first_job(worker: Worker[object]) -> None:
    before = set(threading.enumerate())
    assert not worker.busy
    assert not worker.wait(LONG)
    assert set(threading.enumerate()) == before
    worker.run(threading.current_thread)
    thread = next_outcome(worker).value
    assert {thread} == set(threading.enumerate()) - before
    assert isinstance(thread, threading.Thread)
    assert thread.daemon


def test_all_jobs_run_on_the_same_thread(worker: Worker[object]) -> None:
    idents = set()
    for _ in range(3):
        worker.run(threading.get_ident)
        idents.add(next_outcome(worker).value)
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_of_the_waiting_jobs_only_the_newest_is_done(worker: Worker[object]) -> None:
    gate = started(worker, "first")
    tickets = [worker.run(lambda n=n: n) for n in range(5)]
    gate.opened.set()
    first, last = all_outcomes(worker)
    assert first.value == "first"
    assert (last.ticket, last.value) == (tickets[-1], 4)
    assert not worker.busy
    assert worker.poll() == []


def test_tickets_rise(worker: Worker[object]) -> None:
    tickets = [worker.run(int) for _ in range(4)]
    assert tickets == sorted(set(tickets))


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_what_a_job_raises_comes_back_and_the_thread_lives_on(worker: Worker[object], error: BaseException) -> None:
    ticket = worker.run(fail(error))
    outcome = next_outcome(worker)
    assert (outcome.ticket, outcome.value, outcome.error) == (ticket, None, error)
    worker.run(lambda: "alive")
    assert next_outcome(worker).value == "alive"


def test_it_is_busy_until_the_outcome_is_polled(worker: Worker[object]) -> None:
    gate = started(worker)
    assert worker.busy
    gate.opened.set()
    assert worker.wait(LONG)
    assert worker.busy
    worker.poll()
    assert not worker.busy


def test_a_job_that_waits_is_told_from_one_that_runs(worker: Worker[object]) -> None:
    gate = started(worker)
    assert not worker.has_waiting
    worker.run(int)
    assert worker.has_waiting
    gate.opened.set()
    assert len(all_outcomes(worker)) == 2


def test_wait_gives_up_in_time(worker: Worker[object]) -> None:
    gate = started(worker)
    began = time.perf_counter()
    assert not worker.wait(0.02)
    assert 0.01 < time.perf_counter() - began < LONG
    gate.opened.set()


def test_waiting_lets_the_worker_compute(worker: Worker[object]) -> None:
    worker.run(lambda: sum(range(200_000)))
    began = time.perf_counter()
    while not worker.wait(0.005):
        assert time.perf_counter() - began < LONG
    assert worker.poll()[0].value == sum(range(200_000))


def test_the_outcome_of_an_unreported_job_is_not_kept(worker: Worker[object]) -> None:
    done = threading.Event()
    worker.run(done.set, report=False)
    assert not worker.wait(LONG)
    assert done.is_set()
    assert worker.poll() == []
    assert not worker.busy


def test_close_joins_the_thread_and_drops_what_waits(worker: Worker[object]) -> None:
    before = set(threading.enumerate())
    gate = started(worker)
    ran = threading.Event()
    worker.run(ran.set)
    threading.Timer(0.02, gate.opened.set).start()
    assert worker.close(LONG)
    assert {thread for thread in threading.enumerate() if thread.name == "test worker"} <= before
    assert not ran.is_set()
    assert not worker.busy
    assert worker.poll() == []


def test_close_does_not_wait_longer_than_asked(worker: Worker[object]) -> None:
    gate = started(worker, "too late")
    assert not worker.close(0.01)
    assert not worker.close(0.01)
    gate.opened.set()
    assert not worker.wait(LONG)
    assert worker.poll() == []


def test_close_may_come_first_and_twice(worker: Worker[object]) -> None:
    assert worker.close()
    worker.run(int)
    assert next_outcome(worker).value == 0
    assert worker.close(LONG)
    assert worker.close()


def test_a_job_after_close_starts_the_thread_again(worker: Worker[object]) -> None:
    first = worker.run(int)
    next_outcome(worker)
    worker.close(LONG)
    second = worker.run(lambda: "again")
    outcome = next_outcome(worker)
    assert (outcome.ticket, outcome.value) == (second, "again")
    assert second > first


def test_jobs_never_overlap_even_when_the_thread_was_given_up(worker: Worker[object]) -> None:
    gate = started(worker)
    assert not worker.close(0.01)
    began = threading.Event()
    worker.run(began.set)
    assert not began.wait(0.05)
    assert len([thread for thread in threading.enumerate() if thread.name == "test worker"]) == 1
    gate.opened.set()
    assert began.wait(LONG)
    assert next_outcome(worker).error is None


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["run", "fail", "poll", "wait", "close"]), max_size=15))
def test_the_newest_job_is_always_answered(steps: list[str]) -> None:
    worker: Worker[object] = Worker("test worker")
    newest, outcomes = None, []
    for step in steps:
        if step in ("run", "fail"):
            newest = worker.run(int if step == "run" else fail(ValueError()))
        elif step == "poll":
            outcomes += worker.poll()
        elif step == "wait":
            worker.wait(LONG)
        else:
            assert worker.close(LONG)
            newest = None
    while worker.busy:
        worker.wait(LONG)
        outcomes += worker.poll()
    tickets = [outcome.ticket for outcome in outcomes]
    assert tickets == sorted(set(tickets))
    assert newest is None or tickets[-1] == newest
    assert worker.close(LONG)
    assert not [thread for thread in threading.enumerate() if thread.name == "test worker"]
