"""What the study of refinement leaves behind: every result as CSV, the means as tables and JSON, and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scribblesegment.errors import ConfigError, MissingDependencyError
from scribblesegment.evaluation.correction_config import Experiment, StudyConfig
from scribblesegment.evaluation.correction_shifts import NONE
from scribblesegment.evaluation.correction_study import RoundResult
from scribblesegment.evaluation.correction_summary import (
    Trial,
    cost_of,
    dice_after,
    far_change,
    far_wrong_change,
    interactions_needed,
    mean_of,
    select,
    target_reached,
    trials_of,
)
from scribblesegment.evaluation.panels import Line, Panel, write_panels
from scribblesegment.evaluation.report import Report, make_folder
from scribblesegment.evaluation.summary import Estimate
from scribblesegment.evaluation.tables import csv_text, table_lines, write_text

RESULTS, TABLE, SUMMARY = "refinement_rounds.csv", "refinement_table.md", "refinement_summary.json"
PICTURE = "refinement_{experiment}.png"

_SHIFTED = "shifted"


def write_study(folder: str | Path, config: StudyConfig, results: Sequence[RoundResult]) -> Report:
    """Write the results, `refinement_table.md`, `refinement_summary.json` and a picture for each experiment.

    Args:
        folder: Where to; made when missing.
        config: The study; experiments without results are left out.
        results: Of any of its experiments.

    Raises:
        ConfigError: If there are no results.
        FileFormatError: If something cannot be written.
    """
    if not results:
        raise ConfigError("There are no results to report. Run an experiment first.")
    target = make_folder(folder)
    files, notes = [target / RESULTS, target / TABLE, target / SUMMARY], []
    write_text(files[0], csv_text(RoundResult, results))
    parts: list[str] = []
    summary: dict[str, Any] = {}
    for experiment in config.experiments:
        if all(entry.experiment != experiment.name for entry in results):
            continue
        trials = trials_of(results, experiment.name)
        parts += [*experiment_lines(experiment, trials, config), ""]
        summary[experiment.name] = experiment_figures(experiment, trials, config)
        path = target / PICTURE.format(experiment=experiment.name)
        try:
            _draw(path, experiment, trials, config)
            files.append(path)
        except MissingDependencyError as error:
            notes.append(f"There is no {path.name}: {error}")
    table = "\n".join(parts)
    write_text(files[1], table)
    write_text(files[2], json.dumps(summary, indent=1, default=vars) + "\n")
    return Report(table, tuple(files), tuple(notes))


def experiment_lines(experiment: Experiment, trials: Sequence[Trial], config: StudyConfig) -> list[str]:
    """Give the tables of one experiment, Markdown."""
    images = len({(trial.task, trial.rounds[0].image_index) for trial in trials})
    lines = [f"## {experiment.title}", "", f"{images} images of {experiment.part} subjects.", ""]
    lines += [*_overview(experiment, trials, config), ""]
    for task in experiment.tasks if experiment.axis == "interaction" else ():
        for shift in dict.fromkeys(trial.shift for trial in select(trials, task=task)):
            own = select(trials, task=task, shift=shift)
            lines += [
                f"### {config.task(task).title}: {_shift_title(shift)}",
                "",
                *_by_interaction(experiment, own),
                "",
            ]
    return lines


def experiment_figures(experiment: Experiment, trials: Sequence[Trial], config: StudyConfig) -> dict[str, Any]:
    """Give the figures of the tables as plain values: by variant, then by task and shift, and together."""
    figures: dict[str, Any] = {}
    for variant in experiment.variants:
        own = select(trials, variant=variant.name)
        parts = {"all": own, _SHIFTED: select(own, shift=_SHIFTED)}
        for trial in own:
            key = f"{trial.task}, {trial.shift}"
            parts.setdefault(key, select(own, task=trial.task, shift=trial.shift))
        figures[variant.name] = {
            name: _figures(part, experiment.rounds, config) for name, part in parts.items() if part
        }
    return figures


def _figures(trials: Sequence[Trial], rounds: int, config: StudyConfig) -> dict[str, Any]:
    targets = {task.name: task.target for task in config.tasks}
    return {
        "trials": len(trials),
        "dice": [mean_of(trials, dice_after(n)) for n in range(rounds + 1)],
        "gain": mean_of(trials, Trial.gain),
        "far_dice_change": mean_of(trials, far_change),
        "far_wrong_change": mean_of(trials, far_wrong_change),
        "interactions_to_target": mean_of(trials, interactions_needed(targets)),
        "target_reached": mean_of(trials, target_reached(targets)),
        "cost": cost_of(trials),
    }


def _overview(experiment: Experiment, trials: Sequence[Trial], config: StudyConfig) -> list[str]:
    """Tabulate all methods on all shifted images together."""
    targets = {task.name: task.target for task in config.tasks}
    shifted = select(trials, shift=_SHIFTED) or list(trials)
    header = ["method", "Dice before", "after 1", f"after {experiment.rounds}", "gain", "far: Dice", "far: wrong"]
    header += ["interactions to target", "reached", "g = 0", "iterations", "seconds (95 %)"]
    rows = []
    for variant in experiment.variants:
        own = select(shifted, variant=variant.name)
        cost = cost_of(own)
        reached = mean_of(own, target_reached(targets))
        rows.append(
            [
                variant.name,
                _plain(mean_of(own, dice_after(0))),
                _plain(mean_of(own, dice_after(1))),
                _cell(mean_of(own, dice_after(-1))),
                _cell(mean_of(own, Trial.gain), signed=True),
                _plain(mean_of(own, far_change), signed=True),
                _plain(mean_of(own, far_wrong_change), signed=True),
                _cell(mean_of(own, interactions_needed(targets)), digits=2),
                "" if reached is None else f"{100 * reached.mean:.0f} %",
                "" if cost is None else f"{100 * cost.satisfied:.1f} %",
                "" if cost is None else f"{cost.iterations:.0f}",
                "" if cost is None else f"{cost.seconds:.2f} ({cost.slowest:.2f})",
            ]
        )
    return table_lines(header, rows)


def _by_interaction(experiment: Experiment, trials: Sequence[Trial]) -> list[str]:
    header = ["method", *(str(n) for n in range(experiment.rounds + 1))]
    rows = []
    for variant in experiment.variants:
        own = select(trials, variant=variant.name)
        rows.append(
            [
                variant.name,
                *(_cell(mean_of(own, dice_after(n))) for n in range(experiment.rounds + 1)),
            ]
        )
    return table_lines(header, rows)


def _draw(path: Path, experiment: Experiment, trials: Sequence[Trial], config: StudyConfig) -> None:
    if experiment.axis == "interaction":
        keys = list(dict.fromkeys((trial.task, trial.shift) for trial in trials))
        panels = [
            Panel(f"{config.task(task).title}: {_shift_title(shift)}", _dice_lines(experiment, trials, task, shift))
            for task, shift in keys
        ]
        write_panels(path, panels, x_title="interaction", y_title="mean Dice")
        return
    targets = {task.name: task.target for task in config.tasks}
    panels = []
    for task in experiment.tasks:
        own = select(trials, task=task)
        if experiment.axis == "layers":
            lines = _lines_along(experiment, own, dice_after(-1))
        else:
            lines = _lines_along(experiment, own, interactions_needed(targets))
        panels.append(Panel(config.task(task).title, lines))
    if experiment.axis == "layers":
        title = f"mean Dice after {experiment.rounds} interactions"
        write_panels(path, panels, x_title="refined layers", y_title=title)
    else:
        write_panels(
            path, panels, x_title="scribble length in pixels", y_title="interactions to target Dice", doubling=True
        )


def _dice_lines(experiment: Experiment, trials: Sequence[Trial], task: str, shift: str) -> list[Line]:
    lines = []
    for variant in experiment.variants:
        own = select(trials, variant=variant.name, task=task, shift=shift)
        means = [mean_of(own, dice_after(n)) for n in range(experiment.rounds + 1)]
        lines.append(Line(variant.name, range(len(means)), [mean for mean in means if mean is not None]))
    return lines


def _lines_along(experiment: Experiment, trials: Sequence[Trial], value: Any) -> list[Line]:
    """Give a line with and one without growing, along what the variants differ in."""
    lines = []
    for growing in (True, False):
        points = []
        for variant in experiment.variants:
            mean = mean_of(select(trials, variant=variant.name), value)
            if variant.growing is growing and mean is not None:
                x = variant.length if experiment.axis == "length" else int(variant.options.get("layers", 0))
                points.append((x, mean))
        points.sort(key=lambda point: point[0])
        if points:
            name = "with region growing" if growing else "without region growing"
            lines.append(Line(name, [x for x, _ in points], [mean for _, mean in points]))
    return lines


def _shift_title(shift: str) -> str:
    return "not shifted" if shift == NONE else f"{shift} shift"


def _plain(value: Estimate | None, *, digits: int = 3, signed: bool = False) -> str:
    return "" if value is None else f"{value.mean:{'+' if signed else ''}.{digits}f}"


def _cell(value: Estimate | None, *, digits: int = 3, signed: bool = False) -> str:
    if value is None:
        return ""
    sign = "+" if signed else ""
    return f"{value.mean:{sign}.{digits}f} [{value.low:{sign}.{digits}f}, {value.high:{sign}.{digits}f}]"
