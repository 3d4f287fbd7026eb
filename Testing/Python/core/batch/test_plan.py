from __future__ import annotations

import dataclasses

import pytest
from batch_folders import BatchFolders, a_context
from batch_networks import Threshold, load_threshold

from scribblesegment.batch.image_worker import ImageWorker
from scribblesegment.batch.images import find_images
from scribblesegment.batch.job import BatchJob
from scribblesegment.batch.plan import BatchPlan
from scribblesegment.batch.records import FOLDER, RecordFolder
from scribblesegment.batch.segmentation import BatchConfig

MADE_BY = {"context": "c", "network": "n", "options": "o"}


class Started:
    """A folder of three images that were all done."""

    def __init__(self, root) -> None:
        self.folders = BatchFolders(root)
        self.output = self.folders.output
        (self.output / FOLDER).mkdir(parents=True)
        for corner, name in enumerate(("a.nrrd", "b.nrrd", "c.nrrd")):
            self.folders.add(name, corner=corner)
        self.job = BatchJob("run", self.output, "w", None, BatchConfig(), "cpu", 1, MADE_BY, load_threshold)
        worker = ImageWorker(self.job, Threshold(), [a_context()])
        for image in self.images:
            worker.do(image)

    @property
    def images(self):
        return find_images(self.folders.images, recursive=False)

    def plan(self, *, redo=False, **changes):
        made_by = MADE_BY | changes
        return BatchPlan.of(self.images, dataclasses.replace(self.job, made_by=made_by), redo=redo)

    def result(self, name):
        return self.output / f"{name}.seg.nrrd"


@pytest.fixture
def started(tmp_path) -> Started:
    return Started(tmp_path)


def to_do(plan) -> list[str]:
    return [image.name for image in plan.to_do]


def told(plan) -> list[str]:
    lines = []
    plan.tell(lines.append)
    return lines


def test_what_is_done_is_not_done_again(started):
    plan = started.plan()
    assert to_do(plan) == []
    assert sorted(plan.records) == ["a.nrrd", "b.nrrd", "c.nrrd"]
    assert told(plan) == ["3 images: 3 done already, 0 to do"]


@pytest.mark.parametrize("kind", list(MADE_BY))
def test_another_context_network_or_option_is_said_to_be_the_reason(started, kind):
    plan = started.plan(**{kind: "other"})
    assert len(to_do(plan)) == 3
    assert told(plan) == ["3 images: 0 done already, 3 to do", f"  3 done again: other {kind} than before"]


def test_images_that_changed_are_done_again_and_new_ones_are_done(started):
    started.folders.add("b.nrrd", corner=9)
    started.folders.add("d.nrrd", corner=9)
    plan = started.plan()
    assert to_do(plan) == ["b.nrrd", "d.nrrd"]
    assert told(plan) == ["4 images: 2 done already, 2 to do", "  1 done again: the image has changed"]


def test_a_result_that_is_gone_is_made_again(started):
    started.result("a.nrrd").unlink()
    assert told(started.plan())[1:] == ["  1 done again: the result is gone"]


def test_a_result_that_somebody_corrected_is_left_alone(started):
    started.result("b.nrrd").write_bytes(b"corrected by hand")
    for changes in ({}, {"context": "other"}):
        plan = started.plan(**changes)
        assert plan.changed == ["b.nrrd"]
        assert "b.nrrd" not in to_do(plan)
        assert "left as it is; --redo replaces it" in told(plan)[-1]


def test_a_result_that_was_only_copied_is_not_taken_for_corrected(started):
    content = started.result("b.nrrd").read_bytes()
    started.result("b.nrrd").unlink()
    started.result("b.nrrd").write_bytes(content)
    assert started.plan().changed == []


def test_all_is_done_again_if_wanted_also_what_somebody_corrected(started):
    started.result("b.nrrd").write_bytes(b"corrected by hand")
    plan = started.plan(redo=True)
    assert to_do(plan) == ["a.nrrd", "b.nrrd", "c.nrrd"]
    assert told(plan)[1:] == ["  3 done again: as --redo says"]
    # What an interruption leaves is known without the option.
    assert to_do(started.plan()) == ["a.nrrd", "b.nrrd", "c.nrrd"]


def test_what_failed_is_tried_again(started):
    records = RecordFolder(started.output)
    record = records.read("b.nrrd")
    records.write(dataclasses.replace(record, status="failed", result=None, error="no"))
    plan = started.plan()
    assert to_do(plan) == ["b.nrrd"]
    assert told(plan)[1:] == ["  1 done again: they could not be segmented before"]


def test_what_may_have_ended_the_program_comes_last(started):
    records = RecordFolder(started.output)
    for name in ("a.nrrd", "b.nrrd", "c.nrrd"):
        records.forget(name)
    records.begin("a.nrrd", "another run")
    assert to_do(started.plan()) == ["b.nrrd", "c.nrrd", "a.nrrd"]
