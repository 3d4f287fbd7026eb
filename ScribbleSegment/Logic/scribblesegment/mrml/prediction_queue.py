"""Slices that wait for their prediction, one in work at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.gestures import Gesture
from scribblesegment.mrml.edit_target import EditTarget
from scribblesegment.slice_plane import SlicePlane
from scribblesegment.slice_request import SliceInference, SliceOutcome, SliceRequest


@dataclass(frozen=True, eq=False)
class SliceJob:
    """A slice to predict.

    Attributes:
        target: Segment and image.
        plane: The slice.
        gestures: What was drawn on it when the prediction was asked for.
        added: Whether the newest gesture was added, so that the prediction goes on from the state before it; False when
            one was removed or nothing changed.
    """

    target: EditTarget
    plane: SlicePlane
    gestures: tuple[Gesture, ...]
    added: bool

    def is_for(self, target: EditTarget, plane: SlicePlane | None = None) -> bool:
        """Whether it is about a segment, and about a slice of it if one is given."""
        return self.target.same_segment(target) and (plane is None or self.plane.matches(plane))


@dataclass(frozen=True, eq=False)
class PreparedJob:
    """A job that is being predicted.

    Attributes:
        job: What it is about.
        request: What inference was given.
        anchors: bool (H, W): positive prompts and earlier content of the segment; see `CleanUp.mask`.
    """

    job: SliceJob
    request: SliceRequest
    anchors: NDArray[np.bool_]


class PredictionQueue:
    """Hands jobs to inference, newest first, so that the slice the user looks at comes before those left behind."""

    def __init__(self, inference: SliceInference, prepare: Callable[[SliceJob], PreparedJob | None]) -> None:
        """Make an empty queue.

        Args:
            inference: Where predictions are made; it may drop a request for one of somebody else.
            prepare: Called right before a job is handed over, so that it can build on the results before it; None
                drops a job that has become pointless.
        """
        self._inference = inference
        self._prepare = prepare
        # Both with the number of their turn; the waiting ones in that order.
        self._waiting: list[tuple[int, SliceJob]] = []
        self._running: tuple[int, int, PreparedJob] | None = None
        self._turns = 0

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return self._running is not None or bool(self._waiting)

    def add(self, job: SliceJob) -> None:
        """Queue a job; one that waits for the same segment and slice gives way."""
        self.drop(job.target, job.plane)
        self._turns += 1
        self._waiting.append((self._turns, job))
        self._start_next()

    def drop(self, target: EditTarget, plane: SlicePlane | None = None) -> None:
        """Take back jobs that have not begun, of a segment or of one of its slices."""
        self._waiting = [(turn, job) for turn, job in self._waiting if not job.is_for(target, plane)]

    def clear(self) -> None:
        """Take back all jobs; the outcome of the running one is ignored."""
        self._waiting.clear()
        self._running = None

    def poll(self) -> list[tuple[PreparedJob, SliceOutcome]]:
        """Give the jobs that came to an end. Follow with `go_on`, once their results are taken in."""
        ended = []
        outcomes = self._inference.poll()
        if self._running is not None:
            turn, ticket, prepared = self._running
            ended = [(prepared, outcome) for outcome in outcomes if outcome.ticket == ticket]
            if ended:
                self._running = None
            elif not self._inference.busy:
                # Replaced by a request of another user of the same inference.
                self._running = None
                self._wait_again(turn, prepared.job)
        return ended

    def go_on(self) -> None:
        """Hand over the next job."""
        self._start_next()

    def _wait_again(self, turn: int, lost: SliceJob) -> None:
        """Put a job back where it was, unless a newer one for the same slice waits."""
        if not any(job.is_for(lost.target, lost.plane) for _, job in self._waiting):
            self._waiting.append((turn, lost))
            self._waiting.sort(key=lambda entry: entry[0])

    def _start_next(self) -> None:
        while self._waiting and self._running is None:
            turn, job = self._waiting.pop()
            prepared = self._prepare(job)
            if prepared is not None:
                self._running = (turn, self._inference.submit(prepared.request), prepared)
