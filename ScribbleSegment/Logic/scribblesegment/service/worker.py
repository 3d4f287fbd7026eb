"""A thread for work that must not hold up the user interface; of the jobs that wait, only the newest is done.

While the caller only idles in a Qt event loop, Python threads barely run, because that loop keeps the interpreter lock.
`Worker.wait` gives it up: a timer that calls ``wait(0.006)`` while `busy` gets its result almost as fast as a script.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class JobOutcome(Generic[T]):
    """What became of one job.

    Attributes:
        ticket: What `Worker.run` returned for it.
        value: What the job returned; None when it failed.
        error: What it raised, or None.
        seconds: How long it ran.
    """

    ticket: int
    value: T | None
    error: BaseException | None
    seconds: float


class Worker(Generic[T]):
    """Runs jobs one after another on a thread of its own; of those that wait, only the newest is kept.

    The thread starts with the first job and stays until `close`; a later job starts another one. All methods are
    called from one thread, and not from a job.
    """

    def __init__(self, name: str = "ScribbleSegment") -> None:
        """Make an idle worker; `name` is the thread's."""
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        # Counts the calls of `close`: what began before one of them is not heard after it.
        self._era = 0
        self._waiting: tuple[int, Callable[[], T], bool] | None = None
        self._running = False
        self._outcomes: list[JobOutcome[T]] = []
        self._last_ticket = 0

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs, or an outcome waits for `poll`."""
        with self._changed:
            return self._active or bool(self._outcomes)

    @property
    def has_waiting(self) -> bool:
        """Whether a job waits that has not begun."""
        with self._changed:
            return self._waiting is not None

    def run(self, job: Callable[[], T], *, report: bool = True) -> int:
        """Hand over a job.

        Args:
            job: Called on the worker's thread. What it raises comes back as its outcome. It replaces a job that has
                not begun.
            report: Whether `poll` shall return its outcome.

        Returns:
            A ticket, higher than all before.
        """
        with self._changed:
            self._last_ticket += 1
            self._waiting = (self._last_ticket, job, report)
            self._closing = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._last_ticket

    def poll(self) -> list[JobOutcome[T]]:
        """Take the outcomes since the last call, in the order in which they came."""
        with self._changed:
            outcomes, self._outcomes = self._outcomes, []
            return outcomes

    def wait(self, seconds: float) -> bool:
        """Let other threads run until there is an outcome to poll, nothing is left to do, or time is up.

        Returns:
            Whether there is an outcome to poll.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._outcomes or not self._active, timeout=seconds)
            return bool(self._outcomes)

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread and drop everything that waits, outcomes included.

        A job that runs cannot be interrupted; its outcome is dropped.

        Returns:
            Whether the thread ended within `timeout_s`. If not, it ends by itself after its job, or goes on with one
            that it is given before.
        """
        with self._changed:
            thread = self._thread
            self._closing = True
            self._era += 1
            self._waiting, self._running, self._outcomes = None, False, []
            self._changed.notify_all()
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    @property
    def _active(self) -> bool:
        return self._running or self._waiting is not None

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                if self._waiting is None:
                    # Under the lock, so that a job handed over from now on finds that it needs another thread.
                    self._thread = None
                    return
                (ticket, job, report), self._waiting = self._waiting, None
                self._running = True
                era = self._era
            outcome = _outcome(ticket, job)
            del job
            with self._changed:
                if era == self._era:
                    self._running = False
                    if report:
                        self._outcomes.append(outcome)
                    self._changed.notify_all()


def _outcome(ticket: int, job: Callable[[], T]) -> JobOutcome[T]:
    began = time.perf_counter()
    try:
        return JobOutcome(ticket, job(), None, time.perf_counter() - began)
    except BaseException as error:  # SystemExit included: nothing may end the thread, or the caller would wait forever
        return JobOutcome(ticket, None, error, time.perf_counter() - began)
