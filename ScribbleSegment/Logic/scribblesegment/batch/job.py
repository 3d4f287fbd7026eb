"""What a batch does: the network it uses, what its results depend on, and which images are still to do."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scribblesegment.batch.images import BatchImage
from scribblesegment.batch.records import ImageRecord, RecordFolder
from scribblesegment.batch.segmentation import BatchConfig
from scribblesegment.context.context_set import ContextSet
from scribblesegment.errors import ConfigError, WeightsError
from scribblesegment.inference.devices import ExecutionPlan, resolve_device, torch_problem
from scribblesegment.inference.predictor import Network, Predictor, read_network

# `load_for_batch`, or a stand-in for it. Other processes import it by its name.
LoadNetwork = Callable[..., Predictor]

# Raised when the same image, context, network and options would give another result than before.
_METHOD = 2


@dataclass(frozen=True)
class BatchJob:
    """What a process needs to know to segment images; small, and sent to other processes."""

    run: str  # differs from those of other runs of the program
    output: Path
    weights: str  # name or path of the network
    axis: int | None  # of the array, along which slices are taken; None leaves it to each volume
    config: BatchConfig
    device: str  # "auto" or a torch device name
    threads: int  # of the processor, for each process
    made_by: dict[str, str]  # from `fingerprints`
    load: LoadNetwork
    series: str | None = None  # number or UID of the DICOM series that is taken from folders with several
    contexts: tuple[Path, ...] = ()  # where other processes find the context sets


def fingerprints(
    contexts: Sequence[ContextSet],
    network_digest: str,
    *,
    axis: int | None,
    config: BatchConfig,
    threads: int,
    series: str | None = None,
) -> dict[str, str]:
    """Digests of all a result depends on besides the image, by the words in which a change is reported."""

    def digest(value: object) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]

    # Who made a context set, and when, does not change results.
    sets = [[one.label_name, [[e.digest, *map(repr, e.spacing_mm), e.axis] for e in one]] for one in contexts]
    options = {"method": _METHOD, "axis": axis, "threads": threads, "series": series, **asdict(config)}
    return {"context": digest(sets), "network": network_digest, "options": digest(options)}


def weights_digest(path: Path) -> str:
    """32 hexadecimal digits that distinguish weights files; WeightsError if the file cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError as cause:
        raise WeightsError(
            f"Cannot read the weights file {path}: {cause.strerror or cause}. Check the path."
        ) from cause


def load_for_batch(weights: Path, /, *, device: str, threads: int) -> Predictor:
    """Load a network that segments in context, run so that the same image always gives the same result.

    Raises:
        WeightsError: The file is missing, damaged or unsafe.
        DeviceError: The device cannot run a network.
        ConfigError: The network takes no context sets.
    """
    device = resolve_device(device)
    network, description = read_network(weights)
    # With another number of threads the last digits of the logits differ: an image segmented after an interruption
    # would not be as without it.
    plan = ExecutionPlan.usual(device, threads=threads) if torch_problem() is None else None
    predictor = Predictor(Network.described(network, description, plan=plan, name=weights.stem))
    check_takes_context(predictor, str(weights))
    return predictor


def check_takes_context(predictor: Predictor, called: str) -> None:
    """Raise ConfigError if a network cannot segment in context."""
    if "context" not in predictor.capabilities:
        raise ConfigError(
            f"The network {called} takes no context sets. Give --weights a network that does: see scribblesegment info."
        )


@dataclass
class BatchPlan:
    """Which images are to be segmented, and why."""

    to_do: list[BatchImage] = field(default_factory=list)  # by name; last those at which the program ended before
    records: dict[str, ImageRecord] = field(default_factory=dict)  # of images that are done, or edited by hand
    edited: list[str] = field(default_factory=list)  # whose result was changed after it was written; left as they are
    reasons: Counter[str] = field(default_factory=Counter)  # why images that were done are done again

    @classmethod
    def of(cls, images: Sequence[BatchImage], job: BatchJob, *, redo: bool) -> BatchPlan:
        """Compare images, results and records with a job; `redo` takes all images, also those edited by hand.

        Raises:
            FileFormatError: A record cannot be removed.
        """
        folder, plan = RecordFolder(job.output), cls()
        for image in images:
            record = folder.read(image.name)
            if redo:
                folder.remove(image.name)  # after an interruption the rest is done without --redo
                plan.to_do.append(image)
                plan.reasons["as --redo says"] += record is not None
            elif record is not None and record.result_was_edited(image, job.output):
                plan.records[image.name] = record
                plan.edited.append(image.name)
            elif record is not None and record.is_current(image, job.output, job.made_by):
                plan.records[image.name] = record
            else:
                plan.to_do.append(image)
                if record is not None:
                    plan.reasons[_reason(record, image, job)] += 1
        plan.to_do.sort(key=lambda image: (folder.was_left(image.name), image))
        return plan

    def describe(self) -> list[str]:
        """What is done and what is not, line by line."""
        done, total = len(self.records) - len(self.edited), len(self.to_do) + len(self.records)
        lines = [f"{total} images: {done} done already, {len(self.to_do)} to do"]
        lines += [f"  {count} done again: {reason}" for reason, count in sorted(self.reasons.items())]
        lines += [
            f"  {name}: its result was changed after it was written, and is left as it is; --redo replaces it"
            for name in self.edited
        ]
        return lines


def _reason(record: ImageRecord, image: BatchImage, job: BatchJob) -> str:
    if record.status == "failed":
        return "they could not be segmented before"
    for kind, digest in job.made_by.items():
        if record.made_by.get(kind) != digest:
            return f"other {kind} than before"
    if not (job.output / image.result_name).is_file():
        return "the result is gone"
    return "the image has changed"
