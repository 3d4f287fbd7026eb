"""Tests of scribblesegment.mrml.slice_segmenter, also as a state machine: no job is ever lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.data.drawing import Click
from scribblesegment.data.geometry import SlicePlane
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ImageError, ScribbleSegmentError
from scribblesegment.mrml.slice_segmenter import PredictionQueue, PreparedJob, SliceJob
from scribblesegment.mrml.target import EditTarget
from scribblesegment.service.service import SliceRequest
from scribblesegment.service.worker import Task

SHAPE = (3, 4)
NODE = object()


def a_target(segment: str = "liver", node: object = NODE) -> EditTarget:
    """As every call makes a new one, segments are told apart by what they hold."""
    return EditTarget(None, node, segment, None, None, None)


def a_plane(index: int = 0) -> SlicePlane:
    return SlicePlane(SHAPE, (0, 0, index), (0, 1, 0), (1, 0, 0), (0, index))


def a_job(index: int = 0, segment: str = "liver", number: int = 0) -> SliceJob:
    return SliceJob(a_target(segment), a_plane(index), (Click((number, 0, index)),), True)


def prepared(job: SliceJob) -> PreparedJob:
    request = SliceRequest(np.zeros(SHAPE, np.float32), job, (1, 1), None, Prompts.empty(SHAPE))
    return PreparedJob(job, request, np.zeros(SHAPE, bool))


class ManualInference:
    """Answers when told to, and is ended like the application's service."""

    def __init__(self) -> None:
        self.submitted: list[SliceJob] = []
        self.task: Task[np.ndarray] = Task()

    def segment_slice(self, request: SliceRequest) -> Task[np.ndarray]:
        self.submitted.append(request.image_token)
        self.task = Task()
        return self.task

    def finish(self, error: ScribbleSegmentError | None = None) -> None:
        """Let what was handed over last come to its end."""

        def work(task: Task[np.ndarray]) -> np.ndarray:
            if error is not None:
                raise error
            return np.zeros(SHAPE, np.float32)

        self.task.run(work)

    def end(self) -> None:
        """End the service before what was handed over has begun."""
        self.task.cancel()


@pytest.fixture
def inference():
    return ManualInference()


@pytest.fixture
def queue(inference):
    return PredictionQueue(inference, prepared)


def answers(queue: PredictionQueue) -> list[SliceJob]:
    """As the controller does."""
    ended = queue.poll()
    queue.go_on()
    return [preparation.job for preparation, _ in ended]


def run_dry(queue: PredictionQueue, inference: ManualInference) -> list[SliceJob]:
    answered = []
    for _ in range(100):
        if not queue.busy:
            return answered
        inference.finish()
        answered += answers(queue)
    raise AssertionError("the queue never comes to its end")


# One after another --------------------------------------------------------------------------------------------------


def test_an_empty_queue_has_nothing_to_do(queue, inference):
    assert not queue.busy
    assert answers(queue) == []
    assert inference.submitted == []


def test_a_job_is_handed_over_at_once_and_comes_back_with_its_outcome(queue, inference):
    job = a_job()
    queue.add(job)
    assert inference.submitted == [job]
    assert queue.busy
    inference.finish()
    ((preparation, task),) = queue.poll()
    assert preparation.job is job
    assert preparation.request.image_token is job
    assert task.result().shape == SHAPE
    assert not queue.busy


def test_what_failed_comes_back_with_its_error_and_is_not_tried_again(queue, inference):
    queue.add(a_job())
    error = ScribbleSegmentError("No network.")
    inference.finish(error)
    ((_, task),) = queue.poll()
    assert task.exception() is error
    queue.go_on()
    assert not queue.busy
    assert len(inference.submitted) == 1


def test_only_one_job_is_in_work_at_a_time(queue, inference):
    jobs = [a_job(index) for index in range(3)]
    for job in jobs:
        queue.add(job)
    assert inference.submitted == jobs[:1]
    inference.finish()
    queue.poll()
    assert inference.submitted == jobs[:1], "the results of the first must be taken in before the next is prepared"
    queue.go_on()
    assert len(inference.submitted) == 2


def test_the_newest_job_comes_first(queue, inference):
    jobs = [a_job(index) for index in range(4)]
    for job in jobs:
        queue.add(job)
    assert run_dry(queue, inference) == [jobs[0], jobs[3], jobs[2], jobs[1]]


def test_a_waiting_job_gives_way_to_a_newer_one_of_its_slice(queue, inference):
    first, older, other, newer = a_job(0), a_job(1, number=1), a_job(2), a_job(1, number=2)
    for job in (first, older, other, newer):
        queue.add(job)
    assert run_dry(queue, inference) == [first, newer, other]


def test_a_job_in_work_is_answered_although_a_newer_one_of_its_slice_waits(queue, inference):
    older, newer = a_job(number=1), a_job(number=2)
    queue.add(older)
    queue.add(newer)
    assert run_dry(queue, inference) == [older, newer]


@pytest.mark.parametrize(
    "other", [a_job(2), a_job(1, "spleen"), SliceJob(a_target(node=object()), a_plane(1), (), True)]
)
def test_jobs_of_other_slices_segments_and_segmentations_wait_side_by_side(queue, inference, other):
    first, job = a_job(0), a_job(1)
    for added in (first, job, other):
        queue.add(added)
    assert run_dry(queue, inference) == [first, other, job]


def test_a_job_is_about_its_segment_and_its_slice():
    job = a_job(3)
    assert job.is_for(a_target())
    assert job.is_for(a_target(), a_plane(3))
    assert not job.is_for(a_target(), a_plane(2))
    assert not job.is_for(a_target("spleen"), a_plane(3))
    assert not job.is_for(a_target(node=object()))


# Preparing ----------------------------------------------------------------------------------------------------------


def test_a_job_is_prepared_only_when_it_is_its_turn(inference):
    asked = []
    queue = PredictionQueue(inference, lambda job: asked.append(job) or prepared(job))
    first, second = a_job(0), a_job(1)
    queue.add(first)
    queue.add(second)
    assert asked == [first]
    inference.finish()
    queue.poll()
    assert asked == [first]
    queue.go_on()
    assert asked == [first, second]


def test_a_job_that_has_become_pointless_is_passed_over(inference):
    pointless = a_job(2)
    queue = PredictionQueue(inference, lambda job: None if job is pointless else prepared(job))
    first, last = a_job(0), a_job(1)
    for job in (first, last, pointless):
        queue.add(job)
    assert run_dry(queue, inference) == [first, last]


def test_a_queue_of_pointless_jobs_is_done(inference):
    queue = PredictionQueue(inference, lambda job: None)
    queue.add(a_job())
    assert not queue.busy
    assert inference.submitted == []


def test_a_job_that_cannot_be_prepared_is_told_and_the_others_go_on(inference):
    broken = a_job(2)

    def prepare(job):
        if job is broken:
            raise ImageError("The image has gone.")
        return prepared(job)

    queue = PredictionQueue(inference, prepare)
    first, last = a_job(0), a_job(1)
    for job in (first, last, broken):
        queue.add(job)
    inference.finish()
    assert [preparation.job for preparation, _ in queue.poll()] == [first]
    with pytest.raises(ImageError, match="has gone"):
        queue.go_on()
    assert queue.busy
    assert run_dry(queue, inference) == [last]


# Taking back --------------------------------------------------------------------------------------------------------


def test_the_waiting_job_of_a_slice_can_be_taken_back(queue, inference):
    jobs = [a_job(0), a_job(1), a_job(2), a_job(1, "spleen")]
    for job in jobs:
        queue.add(job)
    queue.drop(a_target(), a_plane(1))
    assert run_dry(queue, inference) == [jobs[0], jobs[3], jobs[2]]


def test_all_waiting_jobs_of_a_segment_can_be_taken_back(queue, inference):
    jobs = [a_job(0), a_job(1), a_job(1, "spleen"), a_job(2)]
    for job in jobs:
        queue.add(job)
    queue.drop(a_target())
    assert run_dry(queue, inference) == [jobs[0], jobs[2]]


def test_after_clearing_nothing_is_to_come_and_the_outcome_under_way_is_ignored(queue, inference):
    for index in range(3):
        queue.add(a_job(index))
    queue.clear()
    assert not queue.busy
    inference.finish()
    assert answers(queue) == []
    assert len(inference.submitted) == 1


def test_a_job_added_after_clearing_gets_its_own_outcome(queue, inference):
    old, new = a_job(number=1), a_job(number=2)
    queue.add(old)
    given_up = inference.task
    queue.clear()
    queue.add(new)
    assert given_up.cancelled
    assert answers(queue) == []
    assert queue.busy
    assert run_dry(queue, inference) == [new]


# When the service is ended ------------------------------------------------------------------------------------------


def test_a_job_that_the_service_gave_up_is_handed_over_again(queue, inference):
    job = a_job()
    queue.add(job)
    inference.end()
    assert answers(queue) == []
    assert inference.submitted == [job, job]
    assert run_dry(queue, inference) == [job]


def test_a_job_that_was_given_up_gives_way_to_a_newer_one_of_its_slice(queue, inference):
    older, newer = a_job(number=1), a_job(number=2)
    queue.add(older)
    queue.add(newer)
    inference.end()
    assert run_dry(queue, inference) == [newer]


def test_a_job_that_was_given_up_and_has_become_pointless_is_dropped(inference):
    pointless = []
    queue = PredictionQueue(inference, lambda job: None if job in pointless else prepared(job))
    job = a_job()
    queue.add(job)
    pointless.append(job)
    inference.end()
    assert answers(queue) == []
    assert not queue.busy


# All that can happen, in any order ----------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Compares the queue with a list of jobs, each of which has one fate."""

    @initialize()
    def set_up(self):
        self.inference = ManualInference()
        self.pointless: set[int] = set()
        self.queue = PredictionQueue(self.inference, self.prepare)
        self.waiting: list[SliceJob] = []  # oldest first
        self.running: SliceJob | None = None
        self.added: list[SliceJob] = []
        self.fates: dict[int, str] = {}
        self.last_answered: dict[tuple[str, int], int] = {}

    def prepare(self, job: SliceJob) -> PreparedJob | None:
        assert self.running is None, "prepared while another is in work"
        assert self.waiting, "prepared although none waits"
        assert job is self.waiting[-1], "not the newest"
        self.waiting.pop()
        if self.number(job) in self.pointless:
            self.settle(job, "pointless")
            return None
        self.running = job
        return prepared(job)

    def number(self, job: SliceJob) -> int:
        return next(number for number, other in enumerate(self.added) if other is job)

    def settle(self, job: SliceJob, fate: str) -> None:
        assert self.fates.setdefault(self.number(job), fate) == fate

    @staticmethod
    def key(job: SliceJob) -> tuple[str, int]:
        return job.target.segment_id, job.plane.voxel_slice[1]

    def unaccept_slice(self, matches) -> None:
        for job in [job for job in self.waiting if matches(job)]:
            self.waiting.remove(job)
            self.settle(job, "taken back")

    @rule(index=st.integers(0, 2), segment=st.sampled_from(["liver", "spleen"]))
    def add(self, index, segment):
        job = a_job(index, segment, len(self.added))
        self.added.append(job)
        for older in [other for other in self.waiting if self.key(other) == self.key(job)]:
            self.waiting.remove(older)
            self.settle(older, "replaced")
        self.waiting.append(job)
        self.queue.add(job)

    @rule()
    def finish(self):
        self.inference.finish()

    @rule()
    def end_the_service(self):
        self.inference.end()

    @rule(go_on=st.booleans())
    def poll(self, go_on):
        running = self.running
        ended = self.queue.poll()
        assert len(ended) <= 1
        if ended:
            assert ended[0][0].job is running
            assert self.inference.submitted[-1] is running
            self.settle(running, "answered")
            assert self.last_answered.get(self.key(running), -1) < self.number(running), "older after newer"
            self.last_answered[self.key(running)] = self.number(running)
            self.running = None
        elif running is not None and self.inference.task.cancelled:
            self.running = None
            if any(self.key(other) == self.key(running) for other in self.waiting):
                self.settle(running, "replaced")
            else:
                self.waiting.append(running)
        if go_on:
            self.queue.go_on()

    @precondition(lambda self: self.added)
    @rule(data=st.data())
    def become_pointless(self, data):
        self.pointless.add(data.draw(st.integers(0, len(self.added) - 1)))

    @rule(index=st.none() | st.integers(0, 2), segment=st.sampled_from(["liver", "spleen"]))
    def drop(self, index, segment):
        self.unaccept_slice(lambda job: self.key(job)[0] == segment and index in (None, self.key(job)[1]))
        self.queue.drop(a_target(segment), None if index is None else a_plane(index))

    @rule()
    def clear(self):
        self.unaccept_slice(lambda job: True)
        if self.running is not None:
            self.settle(self.running, "taken back")
            self.running = None
        self.queue.clear()

    @invariant()
    def it_is_busy_as_long_as_a_job_has_no_fate(self):
        outstanding = [job for number, job in enumerate(self.added) if number not in self.fates]
        in_hand = [*self.waiting, *([self.running] if self.running is not None else [])]
        assert {id(job) for job in outstanding} == {id(job) for job in in_hand}
        assert self.queue.busy == bool(outstanding)

    def teardown(self):
        for _ in range(2 * len(getattr(self, "added", ())) + 2):
            self.inference.finish()
            self.poll(go_on=True)
        assert not self.queue.busy
        assert len(self.fates) == len(self.added)


TestAnyOrder = AnyOrder.TestCase
