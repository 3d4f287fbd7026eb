"""A few annotated slices of a structure, and how well its other slices follow from them.

The slices at the first quarter, the middle and the last quarter of the structure's extent have their reference.
Propagation is compared with what needs no network, then corrected once: the slice that it proposes gets its
reference, and it goes on from its earlier result.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np

from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.baselines import Mask
from scribblesegment.evaluation.metrics import dice
from scribblesegment.evaluation.propagation_baselines import Baseline
from scribblesegment.evaluation.propagation_cases import Case, PropagationPlan, read_cases
from scribblesegment.evaluation.protocols import Progress
from scribblesegment.inference.predictor import Predictor
from scribblesegment.propagation import Propagation, PropagationConfig, Propagator

FIRST, CORRECTED = "first", "corrected"
BETWEEN, OUTSIDE, BEYOND = "between", "outside", "beyond"


@dataclass(frozen=True)
class SliceScore:
    """One slice by one method.

    Attributes:
        set_name: Name of the volume's folder.
        volume: Name of the volume.
        structure: Number of the label.
        axis: "k", "j" or "i".
        method: Its name.
        run: "first", or "corrected" after one more annotated slice.
        index: Position of the slice on the axis.
        part: "between" annotated slices, "outside" of the outermost, or "beyond" the structure.
        position: In the extent, from 0 at its first slice to 1 at its last; outside of this beyond.
        dice: In [0, 1]; 1 where nothing was to be segmented and nothing was.
        segmented: Whether anything was segmented.
    """

    set_name: str
    volume: str
    structure: int
    axis: str
    method: str
    run: str
    index: int
    part: str
    position: float
    dice: float
    segmented: bool


@dataclass(frozen=True)
class CaseResult:
    """One structure along one axis by one method. Slices that were annotated from the start never count.

    Attributes:
        set_name: Name of the volume's folder.
        volume: Name of the volume.
        structure: Number of the label.
        axis: "k", "j" or "i".
        method: Its name.
        slices: How many slices of the extent were not annotated.
        dice: Their mean Dice.
        dice_between: Mean Dice of those between annotated slices.
        dice_outside: Mean Dice of those outside of the outermost annotated ones.
        false_extent: Share of the slices looked at beyond the ends in which something was segmented; NaN if the
            structure reaches both ends of the volume.
        missed_extent: Share of the slices not annotated in which nothing was segmented although the structure is there.
        seconds: Time of the whole run.
        slices_per_second: As propagation measures it; NaN for others.
        proposed: The slice that was proposed for correction; -1 if none was.
        dice_corrected: Mean Dice after it got its reference, the slice itself counted; NaN for methods without one.
        change_elsewhere: By how much the mean Dice of all other slices changed; NaN likewise, and 0 if none was
            proposed.
    """

    set_name: str
    volume: str
    structure: int
    axis: str
    method: str
    slices: int
    dice: float
    dice_between: float
    dice_outside: float
    false_extent: float
    missed_extent: float
    seconds: float
    slices_per_second: float = nan
    proposed: int = -1
    dice_corrected: float = nan
    change_elsewhere: float = nan

    @property
    def task(self) -> str:
        """The structure of the volume, whatever the axis."""
        return f"{self.set_name}/{self.volume}/{self.structure}"


@dataclass(frozen=True)
class PropagationResults:
    """All results, and what was left out: by structure and axis, why."""

    plan: PropagationPlan
    networks: tuple[str, ...]
    baselines: tuple[str, ...]
    cases: list[CaseResult]
    slices: list[SliceScore]
    left_out: dict[str, str]


def run_propagation(
    paths: Sequence[Path],
    networks: Mapping[str, Predictor],
    baselines: Mapping[str, Baseline],
    plan: PropagationPlan | None = None,
    *,
    config: PropagationConfig | None = None,
    progress: Progress | None = None,
) -> PropagationResults:
    """Propagate every structure of volumes by every network, and by what they are compared with.

    Args:
        paths: Of `find_volumes`.
        networks: Predictors by name.
        baselines: Methods to compare with, by name.
        plan: What is propagated.
        config: Settings of propagation.
        progress: Told the fraction done and what is being done.

    Returns:
        Results in the order of volumes, structures, axes and methods, networks first.

    Raises:
        ConfigError: If there is no network, or two methods have the same name.
        DatasetError: If no structure is large enough.
        ScribbleSegmentError: What a method itself raises, and as `read_cases`.
    """
    plan = plan or PropagationPlan()
    if not networks or set(networks) & set(baselines):
        raise ConfigError(f"Give at least one network, of another name than {', '.join(baselines)}; got {[*networks]}.")
    results = PropagationResults(plan, tuple(networks), tuple(baselines), [], [], {})
    for n, path in enumerate(paths):
        volume, cases, left_out = read_cases(path, plan)
        results.left_out.update(left_out)
        for m, case in enumerate(cases):
            if progress is not None:
                done = (n + m / len(cases)) / len(paths)
                progress(done, f"{case.set_name}/{case.volume_name}, {case.structure} along {'kji'[case.axis]}")
            measured = [_propagate(name, one, volume, case, plan, config) for name, one in networks.items()]
            measured += [_compare(name, one, volume, case, plan) for name, one in baselines.items()]
            for result, scores in measured:
                results.cases.append(result)
                results.slices.extend(scores)
    if not results.cases:
        raise DatasetError("No structure is large enough to be propagated. Ask for fewer slices or pixels.")
    if progress is not None:
        progress(1.0, "done")
    return results


def _propagate(
    name: str,
    predictor: Predictor,
    volume: Volume,
    case: Case,
    plan: PropagationPlan,
    config: PropagationConfig | None,
) -> tuple[CaseResult, list[SliceScore]]:
    propagator = Propagator(predictor, config=config)
    source, label = f"{case.set_name} {case.volume_name}", f"label {case.structure}"
    started = time.perf_counter()
    first = propagator.run(volume, case.annotated(plan.annotated), case.axis, label_name=label, source=source)
    seconds = time.perf_counter() - started
    before = _scores(name, FIRST, case, plan, _masks_of(first))
    after: list[SliceScore] = []
    if first.next_slice is not None:
        annotated = case.annotated(plan.annotated) | {first.next_slice: case.slices[first.next_slice]}
        corrected = propagator.run(volume, annotated, case.axis, label_name=label, source=source, previous=first)
        masks = {**_masks_of(corrected), first.next_slice: case.slices[first.next_slice]}
        after = _scores(name, CORRECTED, case, plan, masks)
    result = _result(
        case,
        before,
        after,
        seconds=seconds,
        slices_per_second=first.slices_per_second or nan,
        proposed=-1 if first.next_slice is None else first.next_slice,
        corrects=True,
    )
    return result, before + after


def _masks_of(propagation: Propagation) -> dict[int, Mask]:
    return {index: found.mask for index, found in propagation.slices.items()}


def _compare(
    name: str, baseline: Baseline, volume: Volume, case: Case, plan: PropagationPlan
) -> tuple[CaseResult, list[SliceScore]]:
    measured = case.measured(plan.beyond)
    started = time.perf_counter()
    masks = baseline(volume, case.annotated(plan.annotated), case.axis, (measured.start, measured.stop))
    seconds = time.perf_counter() - started
    scores = _scores(name, FIRST, case, plan, masks)
    return _result(case, scores, [], seconds=seconds), scores


def _scores(name: str, run: str, case: Case, plan: PropagationPlan, masks: Mapping[int, Mask]) -> list[SliceScore]:
    """Compare masks with the reference, slices that were annotated from the start left out."""
    annotated, (start, stop) = case.annotated(plan.annotated), case.extent
    nothing = np.zeros(case.slices.shape[1:], bool)
    scores = []
    for index in case.measured(plan.beyond):
        if index in annotated:
            continue
        mask = masks.get(index, nothing)
        inside = min(annotated) < index < max(annotated)
        scores.append(
            SliceScore(
                set_name=case.set_name,
                volume=case.volume_name,
                structure=case.structure,
                axis="kji"[case.axis],
                method=name,
                run=run,
                index=index,
                part=BETWEEN if inside else OUTSIDE if start <= index < stop else BEYOND,
                position=(index - start) / (stop - 1 - start),
                dice=dice(mask, case.slices[index]),
                segmented=bool(mask.any()),
            )
        )
    return scores


def _result(
    case: Case,
    before: Sequence[SliceScore],
    after: Sequence[SliceScore],
    *,
    seconds: float,
    slices_per_second: float = nan,
    proposed: int = -1,
    corrects: bool = False,
) -> CaseResult:
    own = [score for score in before if score.part != BEYOND]
    beyond = [score.segmented for score in before if score.part == BEYOND]
    missed = [bool(case.slices[score.index].any()) and not score.segmented for score in own]
    first = before[0]
    corrected = {score.index: score.dice for score in after} or {score.index: score.dice for score in before}
    elsewhere = [corrected[score.index] - score.dice for score in own if score.index != proposed]
    return CaseResult(
        set_name=case.set_name,
        volume=case.volume_name,
        structure=case.structure,
        axis=first.axis,
        method=first.method,
        slices=len(own),
        dice=_mean(score.dice for score in own),
        dice_between=_mean(score.dice for score in own if score.part == BETWEEN),
        dice_outside=_mean(score.dice for score in own if score.part == OUTSIDE),
        false_extent=_mean(beyond),
        missed_extent=_mean(missed),
        seconds=seconds,
        slices_per_second=slices_per_second,
        proposed=proposed,
        dice_corrected=_mean(corrected[score.index] for score in own) if corrects else nan,
        change_elsewhere=_mean(elsewhere) if corrects else nan,
    )


def _mean(values: Iterable[float]) -> float:
    array = np.fromiter(values, np.float64)
    return float(array.mean()) if array.size else nan
