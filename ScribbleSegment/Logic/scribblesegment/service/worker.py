"""Work beside a window: a `Task` for each piece of work, and a `Worker`, one thread that does the newest first.

While the window only idles in a Qt event loop, Python threads barely run, because that loop keeps the interpreter lock.
`Worker.wait` and `Task.wait` give it up: a timer that calls ``wait(0.006)`` gets a result almost as fast as a script.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, InvalidStateError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a task is."""

    fraction: float = 0.0  # of the work that is left at most, in [0, 1]
    text: str = ""  # what is being done
    count: int = 0  # steps done
    per_second: float = 0.0  # speed of the steps; 0 before the first


class Task(Generic[T]):
    """One piece of work: a future with progress, partial results and questions. Any thread may call its methods.

    Work that was cancelled before it began never runs. Work that runs is only asked to end: it looks at `cancelled`,
    and whoever cancelled it ignores what it still returns.
    """

    def __init__(self, changed: threading.Condition | None = None) -> None:
        """Make a task that nobody works on yet; those of one worker share a condition."""
        self._changed = changed or threading.Condition()
        self._begun = self._done = self._cancelled = False
        self._progress = Progress()
        self._partial: list[Any] = []
        self._value: T | None = None
        self._error: BaseException | None = None
        self._question: str | None = None
        self._answer: bool | None = None

    # For the owner ----------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the work has begun."""
        return self._begun

    @property
    def done(self) -> bool:
        """Whether nothing more will come, because the work returned, failed, or never began."""
        return self._done

    @property
    def cancelled(self) -> bool:
        """Whether the work is to end; the work itself looks at it as well."""
        return self._cancelled

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._progress

    @property
    def question(self) -> str | None:
        """What the work waits to have answered, or None."""
        return self._question

    @property
    def value(self) -> T | None:
        """The result, or what there is of it so far, also when the work failed; None before the first."""
        return self._value

    def result(self) -> T:
        """Return what the work returned, or raise what it raised.

        Raises:
            InvalidStateError: It is not done; nothing is waited for.
            CancelledError: It was cancelled before it began.
        """
        error = self.exception()
        if error is not None:
            raise error
        return cast(T, self._value)

    def exception(self) -> BaseException | None:
        """Return what the work raised, or None. Raises InvalidStateError unless it is done."""
        with self._changed:
            if not self._done:
                raise InvalidStateError("The task is not done yet; wait for it first.")
            return self._error

    def take(self) -> list[Any]:
        """Take the partial results since the last call, oldest first."""
        with self._changed:
            partial, self._partial = self._partial, []
            return partial

    def wait(self, seconds: float) -> bool:
        """Let other threads run until it is done or time is up. Returns whether it is done."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done, timeout=seconds)

    def cancel(self) -> None:
        """Let the work end soon, or not begin."""
        with self._changed:
            self._cancelled = True
            if not self._begun and not self._done:
                self._done, self._error = True, CancelledError("The task was cancelled before it began.")
            self._changed.notify_all()

    def answer(self, yes: bool) -> None:
        """Answer the question."""
        with self._changed:
            self._answer = yes
            self._changed.notify_all()

    # For the work -----------------------------------------------------------------------------------------------

    def set_progress(self, fraction: float, text: str = "", count: int = 0, per_second: float = 0.0) -> None:
        """Report how far the work is; see `Progress`."""
        self._progress = Progress(min(max(float(fraction), 0.0), 1.0), text, count, per_second)

    def put(self, partial: Any) -> None:
        """Hand over a partial result."""
        with self._changed:
            self._partial.append(partial)

    def set_result(self, value: T) -> None:
        """Keep what there is of the result so far, in case the work fails."""
        self._value = value

    def ask(self, question: str) -> bool:
        """Ask the owner and wait for the answer; no once the task is cancelled."""
        with self._changed:
            self._question, self._answer = question, None
            self._changed.wait_for(lambda: self._answer is not None or self._cancelled)
            self._question = None
            return bool(self._answer) and not self._cancelled

    def run(self, work: Callable[[Task[T]], T]) -> None:
        """Do the work on this thread, unless it was cancelled; what it raises is kept, SystemExit included."""
        with self._changed:
            if self._done:
                return
            self._begun = True
        try:
            self._value = work(self)
        except BaseException as error:  # nothing may end the thread, or the owner would wait forever
            self._error = error
        with self._changed:
            self._done = True
            self._changed.notify_all()


class Worker:
    """One daemon thread that does the newest of the waiting tasks first.

    The thread starts with the first task and stays until `close`; a later task starts another one. All methods are
    called from one thread, and not from a task.
    """

    def __init__(self, name: str = "ScribbleSegment") -> None:
        """Make an idle worker; `name` is the thread's."""
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._waiting: list[tuple[Hashable | None, Task[Any], Callable[[Task[Any]], Any]]] = []  # oldest first
        self._running: Task[Any] | None = None  # None also for a task that `close` gave up
        self._ended = self._seen = 0  # tasks that came to an end, and how many of them `wait` has returned for

    @property
    def busy(self) -> bool:
        """Whether a task waits or runs; one that runs although it was given up by `close` does not count."""
        with self._changed:
            return self._running is not None or any(not task.done for _, task, _ in self._waiting)

    def submit(self, work: Callable[[Task[T]], T], *, supersede: Hashable | None = None) -> Task[T]:
        """Hand over work.

        Args:
            work: Called on the worker's thread with the task it belongs to.
            supersede: Stands for what the work is about: tasks of the same that still wait are cancelled.
        """
        task: Task[T] = Task(self._changed)
        with self._changed:
            for about, other, _ in self._waiting:
                if supersede is not None and about == supersede:
                    other.cancel()
            self._waiting = [entry for entry in self._waiting if not entry[1].done]
            self._waiting.append((supersede, task, work))
            self._closing = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return task

    def wait(self, seconds: float) -> bool:
        """Let other threads run until a task has ended, nothing is left to do, or time is up.

        Returns:
            Whether a task has ended since the last call that said so.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended > self._seen or not self.busy, timeout=seconds)
            ended, self._seen = self._ended > self._seen, self._ended
            return ended

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread and cancel all tasks.

        Returns:
            Whether the thread ended within `timeout_s`. If not, it ends by itself after what it is doing, or goes on
            with a task that it is given before.
        """
        with self._changed:
            thread = self._thread
            self._closing = True
            for task in [self._running, *(task for _, task, _ in self._waiting)]:
                if task is not None:
                    task.cancel()
            self._waiting, self._running = [], None
            self._changed.notify_all()
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    # Under the lock, so that a task handed over from now on finds that it needs another thread.
                    self._thread = None
                    return
                _, task, work = self._waiting.pop()
                if task.done:
                    continue
                self._running = task
            task.run(work)
            with self._changed:
                if self._running is task:
                    self._running = None
                    self._ended += 1
                    self._changed.notify_all()
            del task, work  # an idle thread keeps nothing alive
