"""What it is worth to choose context entries, rather than to take any: the same method with both, on the same targets.

Two situations are measured. *Slices*: a third of the slices of a volume are annotated, and another slice is the target.
*Images*: the target is an image of a subject of whom the context holds nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.hierarchy import hierarchical_bootstrap
from scribblesegment.evaluation.metrics import dice
from scribblesegment.evaluation.protocols import Progress
from scribblesegment.evaluation.summary import RESAMPLES, Estimate, estimate
from scribblesegment.evaluation.tables import table_lines
from scribblesegment.training.corpus import load_set, subjects_of

LIMITS = (4, 8, 16)
SLICES, IMAGES = "slices", "images"

_IMAGE, _LABEL = "_image.nii.gz", "_label.nii.gz"

# The structures that occur most often, so that a set with many does not outweigh the others in time.
_LABELS = 2
_MOST_ENTRIES = 100
_SMALLEST_PART = 1e-3  # of an image that a structure covers: smaller ones vanish on a coarse grid

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class InContextMethod(Protocol):
    """What segments an image from images that are segmented already."""

    def __call__(self, image: FloatArray, spacing_mm: tuple[float, float], context: ContextSet) -> BoolArray:
        """Segment an image (H, W) in [0, 1]; gives a mask bool (H, W)."""
        ...


@dataclass(frozen=True, eq=False)
class Situation:
    """One structure with all its images.

    Attributes:
        kind: "slices" or "images".
        set_name: The set or volume it comes from.
        task: What is segmented in what.
        entries: Images with masks; the sources are volumes or subjects.
    """

    kind: str
    set_name: str
    task: str
    entries: tuple[ContextEntry, ...]

    def cases(self, targets: int, rng: np.random.Generator) -> Iterator[tuple[ContextEntry, ContextSet]]:
        """Draw targets, each with what may be shown beside it."""
        order = rng.permutation(len(self.entries)).tolist()
        if self.kind == SLICES:
            annotated = sorted(order[: len(order) // 3])
            pool = ContextSet(self.task, tuple(self.entries[n] for n in annotated))
            for n in order[len(annotated) :][:targets]:
                yield self.entries[n], pool
            return
        for n in order[:targets]:
            target = self.entries[n]
            others = tuple(entry for entry in self.entries if entry.source != target.source)
            yield target, ContextSet(self.task, others)


@dataclass(frozen=True)
class ChoiceResult:
    """One target with one number of context entries.

    Attributes:
        kind: "slices" or "images".
        set_name: The set or volume.
        task: What is segmented in what.
        subject: Whose image the target is; in a volume, which slice.
        available: Number of entries to choose from.
        limit: Number of entries that were shown.
        random: Mean Dice with entries drawn at random.
        chosen: Dice with the entries of `ContextSet.select`.
    """

    kind: str
    set_name: str
    task: str
    subject: str
    available: int
    limit: int
    random: float
    chosen: float


@dataclass(frozen=True)
class ChoiceSummary:
    """Means over subjects, tasks and sets; `gain` is `chosen` less `random` on the same draws of subjects."""

    kind: str
    limit: int
    cases: int
    sets: int
    random: Estimate
    chosen: Estimate
    gain: Estimate


def find_sources(sets: Path | None, volumes: Path | None) -> list[Path]:
    """List the sets (`*.npz`) of one folder and the volumes (`*/*_image.nii.gz`) of another.

    Raises:
        DatasetError: There are none.
    """
    found = sorted(sets.glob("*.npz")) if sets is not None else []
    found += sorted(volumes.glob(f"*/*{_IMAGE}")) if volumes is not None else []
    if not found:
        raise DatasetError(f"There are no sets (*.npz) in {sets} and no volumes (*/*{_IMAGE}) in {volumes}.")
    return found


def read_situations(path: Path, rng: np.random.Generator) -> list[Situation]:
    """Read the most frequent structures of a set or a volume.

    Args:
        path: Of `find_sources`.
        rng: Decides which images of a large set are left out.

    Raises:
        DatasetError: The set is damaged, or a volume has no labels beside it.
        FileFormatError: A volume cannot be read.
    """
    return _volume_situations(path) if path.name.endswith(_IMAGE) else _set_situations(path, rng)


def measure_choice(
    method: InContextMethod,
    sources: Sequence[Path],
    *,
    limits: Sequence[int] = LIMITS,
    targets: int = 5,
    draws: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[ChoiceResult]:
    """Segment targets from entries that were chosen, and from as many that were drawn at random.

    Args:
        method: What segments.
        sources: Sets and volumes, of `find_sources`.
        limits: Numbers of entries to show. Where no more are available there is no choice, and nothing is measured.
        targets: Targets of each task.
        draws: How often entries are drawn at random; the mean counts.
        seed: Of targets and draws; those of a source depend on it and on the source alone.
        progress: Told the fraction done and what is being done.

    Raises:
        ConfigError: A number out of range.
        DatasetError: As `read_situations`.
        FileFormatError: As `read_situations`.
    """
    if not limits or min(limits) < 1 or targets < 1 or draws < 1 or seed < 0:
        raise ConfigError(
            f"limits, targets and draws are at least 1 and seed at least 0; got {tuple(limits)}, {targets}, {draws} "
            f"and {seed}."
        )
    results: list[ChoiceResult] = []
    for n, path in enumerate(sources):
        if progress is not None:
            progress(n / len(sources), path.name)
        rng = np.random.default_rng((seed, zlib.crc32(path.name.encode())))
        for situation in read_situations(path, rng):
            for target, pool in situation.cases(targets, rng):
                results += [
                    _result(method, situation, target, pool, limit, draws, rng) for limit in limits if limit < len(pool)
                ]
    if progress is not None:
        progress(1.0, "done")
    return results


def summarise_choice(
    results: Sequence[ChoiceResult], rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> list[ChoiceSummary]:
    """Average over subjects, tasks and sets, which count the same each, for every kind and number of entries.

    The bootstrap draws subjects; of a volume, which is one subject, it draws slices. Those are not independent, so that
    intervals of the kind "slices" are too narrow for other volumes.

    Raises:
        ConfigError: There are no results.
    """
    if not results:
        raise ConfigError("Nothing was measured: no source has more entries than are to be chosen.")
    summaries = []
    for kind, limit in sorted({(result.kind, result.limit) for result in results}):
        rows = [result for result in results if (result.kind, result.limit) == (kind, limit)]
        values = np.array([(row.random, row.chosen, row.chosen - row.random) for row in rows])
        groups = [(row.set_name, row.task, row.subject) for row in rows]
        sets = hierarchical_bootstrap(groups, values, rng, resamples)
        means = np.mean(list(sets.values()), axis=0)
        random, chosen, gain = (estimate(column) for column in means.T)
        summaries.append(ChoiceSummary(kind, limit, len(rows), len(sets), random, chosen, gain))
    return summaries


def choice_table(summaries: Sequence[ChoiceSummary]) -> list[str]:
    """Lay the means out as a Markdown table, Dice in per cent with 95 % intervals."""
    header = ("context", "entries", "sets", "targets", "random", "chosen", "gain")
    rows = [
        (s.kind, str(s.limit), str(s.sets), str(s.cases), *(_percent(one) for one in (s.random, s.chosen, s.gain)))
        for s in summaries
    ]
    return table_lines(header, rows)


def _percent(value: Estimate) -> str:
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _result(
    method: InContextMethod,
    situation: Situation,
    target: ContextEntry,
    pool: ContextSet,
    limit: int,
    draws: int,
    rng: np.random.Generator,
) -> ChoiceResult:
    def score(context: ContextSet) -> float:
        return dice(method(target.image, target.spacing_mm, context), target.mask)

    chosen = pool.select(
        target.image,
        spacing_mm=target.spacing_mm,
        limit=limit,
        axis=target.axis,
        index=target.index,
        source=target.source,
    )
    drawn = [rng.choice(len(pool), limit, replace=False).tolist() for _ in range(draws)]
    random = [score(ContextSet(pool.label_name, tuple(pool.entries[n] for n in places))) for places in drawn]
    return ChoiceResult(
        kind=situation.kind,
        set_name=situation.set_name,
        task=situation.task,
        subject=target.source if situation.kind == IMAGES else f"{'kji'[target.axis or 0]} = {target.index}",
        available=len(pool),
        limit=limit,
        random=float(np.mean(random)),
        chosen=score(chosen),
    )


def _set_situations(path: Path, rng: np.random.Generator) -> list[Situation]:
    data = load_set(path)
    subjects = [name or str(n) for n, name in enumerate(subjects_of(data.meta, len(data.images)))]
    if len(set(subjects)) < 2:
        return []  # slices of one volume, without another subject to learn from
    # In an instance set a number means one object of one image; all objects together are the structure.
    labels = np.asarray(data.labels > 0).astype(np.uint8) if data.instances else data.labels
    situations = []
    for label, places in _most_frequent(labels):
        kept = np.sort(rng.permutation(places)[:_MOST_ENTRIES])
        entries = tuple(
            ContextEntry(data.images[n] / np.float32(255), labels[n] == label, (1.0, 1.0), source=subjects[n])
            for n in kept.tolist()
        )
        name = "objects" if data.instances else data.label_name(label)
        situations.append(Situation(IMAGES, data.name, f"{data.name}/{name}", entries))
    return situations


def _volume_situations(path: Path) -> list[Situation]:
    from scribblesegment.io import read_labelmap, read_volume

    label_path = path.with_name(path.name.removesuffix(_IMAGE) + _LABEL)
    if not label_path.is_file():
        raise DatasetError(f"{path} has no label volume {label_path.name} beside it.")
    volume, labels = read_volume(path), read_labelmap(label_path)
    name = f"{path.parent.name}/{path.name.removesuffix(_IMAGE)}"
    intensity_range = IntensityRange.estimate(volume.array)
    situations = []
    for axis in range(3):
        slices = np.moveaxis(labels.array, axis, 0)
        for label, places in _most_frequent(slices):
            entries = []
            for index in places[:: -(-len(places) // _MOST_ENTRIES)].tolist():
                cut = volume.slice(axis, index)
                image = intensity_range.normalize(cut.image)
                mask = slices[index] == label
                entries.append(ContextEntry(image, mask, cut.spacing_mm, source=name, axis=axis, index=index))
            situations.append(Situation(SLICES, name, f"{name}/{label}/{'kji'[axis]}", tuple(entries)))
    return situations


def _most_frequent(labels: NDArray[np.integer]) -> list[tuple[int, NDArray[np.intp]]]:
    """Give the labels that occur in most images, with these images' places."""
    counts = np.array([np.bincount(plane.ravel(), minlength=int(labels.max()) + 1) for plane in labels])
    large = counts >= max(1.0, _SMALLEST_PART * labels[0].size)
    order = np.argsort(-large[:, 1:].sum(axis=0), kind="stable")[:_LABELS] + 1
    return [(int(label), np.flatnonzero(large[:, label])) for label in order if large[:, label].any()]
