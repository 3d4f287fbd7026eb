"""What the thread that runs a network and the user interface tell each other meanwhile."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class TalkState:
    """What has been said so far.

    Attributes:
        part: How much is done, from 0 to 1.
        text: What is being done.
        history: g before the first iteration, and after each one; grows.
        iteration: Number of the newest one.
        question: What the user must decide before anything goes on; None for nothing.
    """

    part: float = 0.0
    text: str = ""
    history: tuple[float, ...] = ()
    iteration: int = 0
    question: str | None = None


class RefinementTalk:
    """One conversation, for one run. Its methods may be called on any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._part, self._text = 0.0, ""
        self._history: list[float] = []
        self._iteration = 0
        self._question: str | None = None
        self._answer: bool | None = None
        self._cancelled = False

    # What the thread that computes says -------------------------------------------------------------------------

    def progress(self, part: float, text: str) -> None:
        """Say how much is done."""
        with self._changed:
            self._part, self._text = min(max(float(part), 0.0), 1.0), text

    def iteration(self, number: int, g: float) -> None:
        """Say how far the constraints are from being met: g after iteration `number`, 0 for before the first."""
        with self._changed:
            self._iteration = int(number)
            self._history.append(float(g))

    def confirm(self, reason: str) -> bool:
        """Ask the user, and wait for the answer; no when the run was cancelled."""
        with self._changed:
            self._question, self._answer = reason, None
            self._changed.wait_for(lambda: self._answer is not None or self._cancelled)
            self._question = None
            return bool(self._answer) and not self._cancelled

    @property
    def isCancelled(self) -> bool:
        """Whether the run shall end."""
        with self._changed:
            return self._cancelled

    def cancelled(self) -> bool:
        """Tell the same, as the package asks it."""
        return self.isCancelled

    # What the user interface says -------------------------------------------------------------------------------

    def answer(self, yes: bool) -> None:
        """Answer the question."""
        with self._changed:
            self._answer = yes
            self._changed.notify_all()

    def cancel(self) -> None:
        """Let the run end soon."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    @property
    def state(self) -> TalkState:
        """What has been said."""
        with self._changed:
            return TalkState(self._part, self._text, tuple(self._history), self._iteration, self._question)
