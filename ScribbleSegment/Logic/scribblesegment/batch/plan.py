"""What there is to do: which images have a result that still holds, and why the others have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scribblesegment.batch.file_state import is_unchanged
from scribblesegment.batch.image_worker import is_current
from scribblesegment.batch.images import BatchImage
from scribblesegment.batch.job import BatchJob
from scribblesegment.batch.records import ImageRecord, RecordFolder


@dataclass
class BatchPlan:
    """What there is to do.

    Attributes:
        to_do: Images without a result that holds, by name; at the end those at which the program ended before.
        records: Of the images that are done, and of those whose result was changed, by name.
        changed: Images whose result somebody changed after it was written; they are left alone.
        reasons: Why images that were done are done again: how many for which reason.
    """

    to_do: list[BatchImage] = field(default_factory=list)
    records: dict[str, ImageRecord] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, images: Sequence[BatchImage], job: BatchJob, *, redo: bool) -> BatchPlan:
        """Compare images, results and records with a job.

        Args:
            images: All images, by name.
            job: How they are to be segmented.
            redo: Whether all are done again, also those whose result was changed.

        Raises:
            FileFormatError: A record cannot be removed.
        """
        folder, plan = RecordFolder(job.output), cls()
        for image in images:
            record = folder.read(image.name)
            if redo:
                folder.forget(image.name)  # what an interruption leaves to do is then known without asking again
                plan.to_do.append(image)
                plan.reasons["as --redo says"] += record is not None
                continue
            if record is not None and _was_changed(record, image, job):
                plan.records[image.name] = record
                plan.changed.append(image.name)
            elif record is not None and is_current(record, image, job):
                plan.records[image.name] = record
            else:
                plan.to_do.append(image)
                if record is not None:
                    plan.reasons[_reason(record, image, job)] += 1
        plan.to_do.sort(key=lambda image: (folder.was_left(image.name), image))
        return plan

    def tell(self, say: Callable[[str], None]) -> None:
        """Say what is done and what is not."""
        total = len(self.to_do) + len(self.records)
        done = len(self.records) - len(self.changed)
        say(f"{total} images: {done} done already, {len(self.to_do)} to do")
        for reason, count in sorted(self.reasons.items()):
            say(f"  {count} done again: {reason}")
        for name in self.changed:
            say(f"  {name}: its result was changed after it was written, and is left as it is; --redo replaces it")


def _was_changed(record: ImageRecord, image: BatchImage, job: BatchJob) -> bool:
    """Whether the result is there, but is not the file that was written."""
    if record.result is None:
        return False
    try:
        return not is_unchanged([job.output / image.result_name], record.result)
    except OSError:  # it is gone, and is made again
        return False


def _reason(record: ImageRecord, image: BatchImage, job: BatchJob) -> str:
    if record.status == "failed":
        return "they could not be segmented before"
    for kind, digest in job.made_by.items():
        if record.made_by.get(kind) != digest:
            return f"other {kind} than before"
    if not (job.output / image.result_name).is_file():
        return "the result is gone"
    return "the image has changed"
