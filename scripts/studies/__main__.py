"""Measure methods: `python -m studies EXPERIMENT -o OUT` from the folder `scripts`, or `python scripts/studies …`.

Every experiment appends its rows to OUT/EXPERIMENT.csv, so that a run that was stopped goes on, and further methods
join those that are there; tables (OUT/EXPERIMENT.md, also printed) and pictures follow. See docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a folder, which is then in the place of the one that holds the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd

from scribblesegment.errors import ConfigError, DatasetError, ScribbleSegmentError
from studies import calibration, data, experiments, methods, refinement
from studies.common import Results, Unit
from studies.plots import plot, plot_predictions
from studies.prompting import LEVELS, PROCEDURES
from studies.statistics import (
    METRICS,
    best_on,
    propagation_cases,
    sequence_totals,
    steps_to_target,
    summarise,
    to_markdown,
)

_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

_TITLES = {
    "dice": "Dice",
    "hd95": "HD95 in mm",
    "surface_dice": "Surface Dice at 1 mm",
    "steps": "Steps to 90 % Dice",
    "never": "Never at 90 % Dice",
    "change": "Change against the method alone",
    "without_steps": "No step needed",
    "dice_between": "Dice between annotated slices",
    "dice_outside": "Dice outside of them",
    "false_extent": "False extent",
    "missed_extent": "Missed extent",
    "dice_corrected": "Dice after one correction",
    "change_elsewhere": "Change in the other slices",
    "found": "Images in which something was found",
}
_PERCENT = frozenset({"never", "change", "without_steps", "false_extent", "missed_extent", "found"})

# What may differ between a run and the one that goes on: rows tell these apart, or do not depend on them.
_NOT_SETTINGS = frozenset(
    {"run", "experiment", "output", "device", "methods", "weights", "procedures", "places", "factors"}
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an experiment; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join(arguments.run(arguments)) + "\n"
        (arguments.output / f"{arguments.experiment}.md").write_text(text, "utf-8")
    except (ScribbleSegmentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print(text)
    return 0


def _manual(arguments: argparse.Namespace) -> list[str]:
    title, per_set = "Plain ellipses" if arguments.plain else "Manual scribbles", arguments.per_set
    examples = data.plain_examples(per_set=per_set, seed=arguments.seed)
    if not arguments.plain:
        examples = data.manual_examples(arguments.data, per_set=per_set, include_only=arguments.include_only)
    compared = _load(arguments)
    frame = _measure(arguments, experiments.manual(examples, compared))
    how: dict[str, Any] = {"levels": ("set",), "redraw": "image", "resamples": 5000}
    overall = summarise(frame, ["method"], **how).assign(set="mean of sets")
    summary = pd.concat([overall, summarise(frame, ["method", "set"], **how)], ignore_index=True)
    firsts = {example.task: example for example in reversed(examples)}
    pictured = [
        (one, {name: experiments.manual_turn(one, method).mask for name, method in compared.items()})
        for one in reversed(firsts.values())
    ]
    _draw(plot_predictions, arguments.output / "predictions.png", pictured)
    return [f"# {title}, {len(examples)} examples", *_tables(summary, "set"), *_times(frame)]


def _simulated(arguments: argparse.Namespace) -> list[str]:
    examples = data.label_examples(arguments.data, per_set=arguments.per_set, seed=arguments.seed)
    plan = experiments.Steps(
        arguments.steps, arguments.most_steps, repetitions=arguments.repetitions, seed=arguments.seed
    )
    units = experiments.simulated(examples, _load(arguments), arguments.procedures, plan)
    frame = _measure(arguments, units)
    shown = frame[frame.step <= plan.steps]
    summary = summarise(shown, ["procedure", "method", "step"])
    text = [f"# Simulated prompts, {len(examples)} examples", *_tables(summary, "step", rows=("procedure", "method"))]
    counted = frame[frame.procedure.isin(plan.counted)]
    if len(counted):
        arrival = steps_to_target(counted, plan.most_steps)
        text += _tables(summarise(arrival, ["procedure", "method"], ["steps", "never"]), "procedure")
    for procedure, part in shown.groupby("procedure", sort=False):
        for step in sorted({1, min(3, part.step.max()), part.step.max()}):
            after = part[part.step == step]
            text += [f"## Sets on which a method is best, {procedure}, step {step}", _plain(best_on(after))]
        text.append(to_markdown(summarise(after, ["method", "set"], ["dice"]), "method", rows=("set",)))
    curves = summary[summary.groupby("procedure").step.transform("nunique") > 1]
    for metric in METRICS:
        path, y_title = arguments.output / f"{metric}_by_step.png", _TITLES[metric]
        _draw(plot, path, curves, "step", metric=metric, panels="procedure", x_title="step", y_title=y_title)
    return text + _times(frame)


def _sequences(arguments: argparse.Namespace) -> list[str]:
    tasks, left_out = data.context_tasks(
        arguments.data, least_images=arguments.images + 1, per_set=arguments.tasks_per_set
    )
    plan = experiments.Sequences(arguments.images, arguments.simulations, arguments.least_confidence, arguments.seed)
    compared = _with_alone(arguments)
    frame = _measure(arguments, experiments.sequences(tasks, compared, plan, procedures=arguments.procedures))
    totals = sequence_totals(frame, next(iter(compared)))
    how: dict[str, Any] = {"levels": ("task",), "redraw": "task", "within": None}
    values = ["steps", "change", "without_steps", "never", "dice", "hd95"]
    text = [f"# {plan.images} images in sequence, {len(tasks)} tasks"]
    text += _tables(summarise(totals, ["procedure", "method"], values, **how), "procedure")
    by_set = totals.groupby(["procedure", "method", "set"], sort=False).change.mean().unstack("set")
    text += ["## Change by set", _plain(by_set.reset_index(), ".2f")]
    by_image = summarise(frame, ["procedure", "method", "context"], ["steps"], **how)
    path = arguments.output / "steps_by_image.png"
    _draw(plot, path, by_image, "context", metric="steps", panels="procedure", x_title="image", y_title="steps")
    return text + _left_out(left_out) + _times(frame)


def _sizes(arguments: argparse.Namespace) -> list[str]:
    tasks, left_out = data.context_tasks(
        arguments.data, least_images=arguments.images + 1, per_set=arguments.tasks_per_set
    )
    plan = experiments.Sizes(
        sizes=tuple(arguments.sizes),
        corrected=tuple(arguments.corrected),
        procedures=tuple(arguments.procedures),
        **{name: getattr(arguments, name) for name in ("steps", "targets", "draws", "seed")},
    )
    frame = _measure(arguments, experiments.sizes(tasks, _with_alone(arguments), plan))
    summary = summarise(frame, ["procedure", "method", "context", "step"], ["dice"])
    text = [f"# Context sizes, {len(tasks)} tasks"]
    for procedure, part in summary.groupby("procedure", sort=False):
        alone = procedure == experiments.CONTEXT_ALONE
        rows, columns = (("method",), "context") if alone else (("method", "context"), "step")
        text += [f"## {procedure}", to_markdown(part, columns, rows=rows)]
    first = summary[summary.procedure == experiments.CONTEXT_ALONE]
    _draw(plot, arguments.output / "dice_by_context.png", first, "context", x_title="context entries", log_base=2)
    return text + _left_out(left_out) + _times(frame)


def _propagation(arguments: argparse.Namespace) -> list[str]:
    paths, compared = data.find_volumes(arguments.data), _networks(_load(arguments))
    units = experiments.propagation(
        paths,
        compared,
        [
            name
            for name in methods.VOLUME_METHODS
            if name == methods.INTERPOLATION or importlib.util.find_spec("slicer")
        ],
        places={name: experiments.PLACES[name] for name in arguments.places},
        per_volume=arguments.per_volume,
        one_axis=arguments.one_axis,
    )
    frame = _measure(arguments, units)
    cases, by = propagation_cases(frame), ["procedure", "method"]
    how: dict[str, Any] = {"levels": ("task", "level"), "redraw": "task", "within": None}
    figures = ["dice", "dice_between", "dice_outside", "false_extent", "missed_extent"]
    summary = summarise(cases, by, [*figures, "dice_corrected", "change_elsewhere"], **how)
    text = [f"# Propagation, {cases.task.nunique()} structures", *_tables(summary, "method", rows=("procedure",))]
    by_set = cases.groupby([*by, "set"], sort=False).dice.mean().unstack("set")
    speed = cases.groupby(by, sort=False)[["seconds", "rate"]].median()
    text += ["## Dice by set", _plain(by_set.reset_index(), ".3f")]
    text += ["## Median seconds, and slices a second", _plain(speed.reset_index(), ".2f")]
    for procedure, part in cases.groupby("procedure", sort=False):
        text += [f"## Structures on which a method is best, {procedure}", _plain(best_on(part, over="task"))]
    inside = frame[(frame.step == 0) & (frame.part != experiments.BEYOND)]
    inside = inside.assign(tenth=(np.minimum((inside.position * 10).astype(int), 9) + 0.5) / 10)
    by_place = summarise(inside, [*by, "tenth"], ["dice"], levels=("task",), redraw="task", within=None)
    path, x_title = arguments.output / "dice_by_position.png", "position in the structure, from first slice to last"
    _draw(plot, path, by_place, "tenth", panels="procedure", x_title=x_title)
    return text


def _follow(arguments: argparse.Namespace) -> list[str]:
    units = experiments.follow(
        data.find_volumes(arguments.data),
        _networks(_load(arguments)),
        grows=importlib.util.find_spec("slicer") is not None,
        corrections=arguments.corrections,
        per_volume=arguments.per_volume,
        one_axis=arguments.one_axis,
        seed=arguments.seed,
    )
    frame = _measure(arguments, units)
    summary = summarise(frame, ["method", "step"], ["dice"], levels=("task", "level"), redraw="task", within=None)
    text = [f"# From strokes in one slice, {frame.task.nunique()} structures", *_tables(summary, "step")]
    for step, part in frame.groupby("step", sort=False):
        text += [
            f"## Structures on which a method is best, after {step} corrections",
            _plain(best_on(part, over="task")),
        ]
    by_set = frame[frame.step == frame.step.max()].groupby(["method", "set"], sort=False).dice.mean().unstack("set")
    return [*text, "## Dice by set, after the last correction", _plain(by_set.reset_index(), ".3f")]


def _absence(arguments: argparse.Namespace) -> list[str]:
    folders, left_out = data.absence_folders(
        arguments.data, entries=arguments.entries, per_set=arguments.tasks_per_set, seed=arguments.seed
    )
    frame = _measure(arguments, experiments.absence(folders, _networks(_load(arguments))))
    summary = summarise(frame, ["method", "part"], ["found", "dice"], levels=("set", "task"), redraw="image")
    by_task = frame.groupby(["task", "method", "part"], sort=False).found.mean().unstack("part")
    text = [f"# Nothing here, {len(folders)} folders of which half the images lack the structure"]
    text += [*_tables(summary, "part"), "## By structure", _plain(by_task.reset_index(), ".2f")]
    return text + _left_out(left_out)


def _robustness(arguments: argparse.Namespace) -> list[str]:
    examples = data.label_examples(arguments.data, per_set=arguments.per_set, seed=arguments.seed)
    frame = _measure(
        arguments, experiments.robustness(examples, _load(arguments), arguments.factors, seed=arguments.seed)
    )
    summary = summarise(frame, ["procedure", "level", "method"], ["dice"])
    text = [f"# Robustness, {len(examples)} examples"]
    for factor, part in summary.groupby("procedure", sort=False):
        text += [f"## {factor}", to_markdown(part, "level")]
        scale, path = 2 if factor in ("resolution", "gamma", "contrast") else None, f"robustness_{factor}.png"
        if factor != "inverted":
            _draw(plot, arguments.output / path, part, "level", x_title=str(factor), log_base=scale)
    return text


def _calibration(arguments: argparse.Namespace) -> list[str]:
    if arguments.write is not None:
        calibration.refuse_reported(arguments.data)
        arguments.methods = []
        if len(arguments.weights) != 1:
            raise ConfigError("Name the one file to calibrate by --weights.")
    tables, text = [], ["# Calibration"]
    for name, method in _load(arguments).items():
        sizes = [size for size in arguments.context if size == 0 or size >= (method.least_context or size + 1)]
        pixels = {}
        for size in sizes:
            rng = np.random.default_rng(arguments.seed)
            shown = _shown(arguments, size)
            pixels[size] = calibration.collect_pixels(method, shown, rng, rounds=arguments.steps)
        near = pd.concat([part[part.region == calibration.NEAR] for part in pixels.values()])
        try:
            change = calibration.fit_temperature(near.logit, near.inside, near.weight)
        except DatasetError as error:
            if arguments.write is not None:
                raise
            change = 1.0
            text.append(f"{name}: {error}")
        text.append(f"{name}: a temperature of {change:.3f} would fit these images best, with all contexts together.")
        for size, part in pixels.items():
            for when, value in (("now", 1.0), ("with it", change)):
                tables.append(calibration.calibration_table(part, value).assign(method=name, context=size, when=when))
        if arguments.write is not None:
            written = calibration.write_calibrated(Path(arguments.weights[0]), arguments.write, change)
            text.append(f"Written: {arguments.write}, temperature {written:.3f}.")
    rows = pd.concat(tables, ignore_index=True)
    rows.to_csv(arguments.output / "calibration.csv", index=False)
    by = ["method", "context", "region", "when"]
    for figure in ("ece", "nll"):
        shown = rows[rows.by != "set"].assign(of=lambda one: one.by + " " + one.value.astype(str))
        text += [f"## {figure.upper()}", _plain(shown.pivot_table(figure, by, "of", sort=False).reset_index(), ".4f")]
    of_set = rows[(rows.by == "set") & (rows.region == calibration.NEAR)]
    by_set = of_set.pivot_table("ece", ["method", "context", "when"], "value", sort=False)
    return [*text, f"## ECE by set, {calibration.NEAR}", _plain(by_set.reset_index(), ".4f")]


def _shown(arguments: argparse.Namespace, size: int) -> Iterable[tuple[data.Example, Any]]:
    """Give examples with contexts of a size; without any, the examples of simulated prompts."""
    per_set, seed = arguments.per_set, arguments.seed
    if size == 0:
        return ((one, None) for one in data.label_examples(arguments.data, per_set=per_set, seed=seed))
    tasks, _ = data.context_tasks(arguments.data, least_images=size + 1, per_set=arguments.tasks_per_set)
    chosen = [(task, task.examples[:: max(1, len(task.examples) // per_set)][:per_set]) for task in tasks]
    shown = ((one, task.context(one, 0, size, seed)) for task, targets in chosen for one in targets)
    return ((one, context) for one, context in shown if len(context) == size)


def _refinement(arguments: argparse.Namespace) -> list[str]:
    units = refinement.refinement_study(
        arguments.data,
        arguments.output / "networks",
        methods.load_predictor_of((arguments.weights or arguments.methods)[0], device=arguments.device),
        tasks=arguments.tasks,
        images=arguments.per_set,
        steps=arguments.training_steps,
        seed=arguments.seed,
    )
    frame = _measure(arguments, units, columns=refinement.COLUMNS)
    shown = frame.assign(images=np.where(frame.procedure == "none", "unchanged", "shifted"))
    by, levels = ["images", "method", "step"], ("task", "procedure", "subject")
    summary = summarise(shown, by, ["dice", "far_dice"], levels=levels)
    followed = (
        shown[shown.step > 0]
        .groupby(["images", "method"], sort=False)
        .agg(followed=("violations", lambda pixels: (pixels == 0).mean()), seconds=("seconds", "median"))
    )
    text = ["# Correcting a network's result, Dice after every interaction"]
    text.append(to_markdown(summary, "step", rows=("images", "method")))
    return [*text, "## All strokes followed, and median seconds", _plain(followed.reset_index(), ".2f")]


def _load(arguments: argparse.Namespace) -> dict[str, methods.Method]:
    loaded, skipped = methods.load_methods([*arguments.methods, *arguments.weights], device=arguments.device)
    for name, reason in skipped.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    return loaded


def _with_alone(arguments: argparse.Namespace) -> dict[str, methods.Method]:
    """Load the interactive method alone, which looks at no context, and what is compared with it."""
    alone = methods.load_method(arguments.alone, device=arguments.device, alone=True)
    return {f"{methods.short_name(arguments.alone)} alone": alone, **_load(arguments)}


def _networks(loaded: dict[str, methods.Method]) -> dict[str, methods.NetworkMethod]:
    networks = {name: method for name, method in loaded.items() if isinstance(method, methods.NetworkMethod)}
    if not networks:
        raise ConfigError("There is no network among the methods, and others cannot do this.")
    return networks


def _measure(arguments: argparse.Namespace, units: Iterable[Unit], *, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Measure what is not there yet; returns all rows that are there then."""
    settings = {name: str(value) for name, value in vars(arguments).items() if name not in _NOT_SETTINGS}
    settings["data"] = str(arguments.data.resolve())
    digests = methods.weights_digests([*arguments.methods, *arguments.weights])
    path = arguments.output / f"{arguments.experiment}.csv"
    return Results(path, settings, weights=digests, columns=columns).measure(units, title=arguments.experiment)


def _tables(summary: pd.DataFrame, columns: str, *, rows: Sequence[str] = ("method",)) -> list[str]:
    """Give a table for each metric of a summary, under its title."""
    text = []
    for metric in dict.fromkeys(summary.metric):
        table = to_markdown(summary, columns, rows=rows, metric=metric, percent=metric in _PERCENT)
        text += [f"## {_TITLES[metric]}", table]
    return text


def _plain(frame: pd.DataFrame, floats: str = "g") -> str:
    return str(frame.to_markdown(index=False, floatfmt=floats))


def _times(frame: pd.DataFrame) -> list[str]:
    times = frame.groupby("method", sort=False)[["seconds", "prepare_seconds"]].median().mul(1000).reset_index()
    failed = frame[frame.failure != ""].groupby(["method", "failure"], sort=False).size()
    text = ["## Median ms of a prediction, and of taking image and context", _plain(times, ".0f")]
    return text + [f"- {method} failed {count} times: {why}" for (method, why), count in failed.items()]


def _left_out(left_out: dict[str, str]) -> list[str]:
    """Tell what was left out, a line for each set."""
    of_sets: dict[str, list[str]] = {}
    for name, why in left_out.items():
        set_name, _, structure = name.partition("/")
        of_sets.setdefault(set_name, []).append(f"{structure} ({why})")
    return (
        ["## Left out", "\n".join(f"- {name}: {'; '.join(all_)}" for name, all_ in of_sets.items())] if of_sets else []
    )


def _draw(draw: Any, path: Path, *arguments: Any, **options: Any) -> None:
    """Draw a picture, if there is something to draw."""
    try:
        draw(path, *arguments, **options)
    except ConfigError as error:
        print(f"There is no {path.name}: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    known = ", ".join((*methods.CLASSICAL, methods.LABEL_FUSION))
    corrected = [name for name, procedure in PROCEDURES.items() if procedure.correct is not None]
    sequences, sizes, steps = experiments.Sequences(), experiments.Sizes(), experiments.Steps()

    def add(run: Any, text: str, folder: str, names: Sequence[str], **options: Any) -> argparse.ArgumentParser:
        """Add an experiment with the options of all, and further whole numbers by their defaults and help."""
        command = commands.add_parser(
            run.__name__[1:], help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        command.set_defaults(run=run)
        command.add_argument("-o", "--output", type=Path, required=True, help="folder for rows, tables and pictures")
        command.add_argument("--data", type=Path, default=_DATA / folder, help="folder of the sets or volumes")
        listed = f"networks by name, FILE.py:FUNCTION, INTERACTIVE+IN_CONTEXT, or {known}"
        command.add_argument("--methods", nargs="*", default=list(names), metavar="METHOD", help=listed)
        command.add_argument(
            "--weights", nargs="+", default=[], metavar="PATH", help="further networks, by their files"
        )
        command.add_argument("--device", default="auto", help="where networks run")
        command.add_argument("--seed", type=int, default=0, help="of everything random")
        for name, (default, meaning) in options.items():
            command.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=meaning)
        return command

    def choose(command: argparse.ArgumentParser, option: str, names: Iterable[str], default: Iterable[str]) -> None:
        choices = list(names)
        command.add_argument(
            option, nargs="+", choices=choices, default=list(default), metavar="NAME", help=", ".join(choices)
        )

    classical, a_set = ("default", "grow-from-seeds", "random-walker"), (6, "examples of each set")
    per_set, in_context = (None, "most structures of a set, those of the most images"), ("default",)
    images = (sequences.images, "images after the first; structures that fewer show are left out")

    validation = "validation"
    shown = (None, "most images of a set")
    command = add(_manual, "strokes of people", validation, ("default", *methods.CLASSICAL), per_set=shown)
    command.add_argument("--include-only", action="store_true", help="leave out the strokes on the background")
    command.add_argument("--plain", action="store_true", help="strokes on ellipses that are plain to see, made by code")
    command = add(
        _simulated,
        "simulated prompts, step by step",
        validation,
        classical,
        per_set=a_set,
        steps=(steps.steps, "steps of a procedure"),
        most_steps=(steps.most_steps, "where counting to 90 %% Dice ends"),
        repetitions=(steps.repetitions, "of each example, with other random numbers"),
    )
    choose(command, "--procedures", PROCEDURES, PROCEDURES)
    simulations = (sequences.simulations, "sequences of each task")
    text = "images in sequence, what is done serving as context"
    command = add(
        _sequences, text, validation, in_context, images=images, simulations=simulations, tasks_per_set=per_set
    )
    choose(command, "--procedures", corrected, experiments.SEQUENCE_PROCEDURES)
    confidence = "expected Dice from which a prediction from the context alone is shown; 0 for all"
    command.add_argument("--least-confidence", type=float, default=sequences.least_confidence, help=confidence)
    command.add_argument("--alone", default="default", metavar="METHOD", help="the method that looks at no context")
    command = add(
        _sizes,
        "Dice by the number of context entries",
        validation,
        ("default", methods.LABEL_FUSION),
        images=images,
        steps=(sizes.steps, "corrections"),
        targets=(sizes.targets, "images of each task"),
        draws=(sizes.draws, "random contexts of each target"),
        tasks_per_set=per_set,
    )
    choose(command, "--procedures", corrected, sizes.procedures)
    command.add_argument("--sizes", type=int, nargs="+", default=list(sizes.sizes), help="entries, without prompts")
    entries = "entries, with corrections"
    command.add_argument("--corrected", type=int, nargs="*", default=list(sizes.corrected), help=entries)
    command.add_argument("--alone", default="default", metavar="METHOD", help="the method that looks at no context")
    largest = (None, "most structures of a volume, the largest ones")
    text = "from three annotated slices, and from one"
    command = add(_propagation, text, "volumes/validation", in_context, per_volume=largest)
    choose(command, "--places", experiments.PLACES, experiments.PLACES)
    command.add_argument("--one-axis", action="store_true", help="only along the first axis")
    corrections = (3, "slices that are corrected where propagation proposes it")
    text = "from strokes in one slice to the whole structure"
    command = add(_follow, text, "volumes/validation", in_context, per_volume=largest, corrections=corrections)
    command.add_argument("--one-axis", action="store_true", help="only along the first axis")
    text = "folders of which half the images lack the structure, through what a batch accepts"
    add(_absence, text, validation, in_context, entries=(8, "context entries"), tasks_per_set=per_set)
    command = add(_robustness, "sloppy strokes and changed images", validation, classical, per_set=a_set)
    choose(command, "--factors", LEVELS, LEVELS)
    command = add(
        _calibration,
        "whether probabilities mean what they say",
        validation,
        in_context,
        per_set=(12, "examples of each set, and of each task with a context"),
        steps=(5, "rounds of prompts"),
        tasks_per_set=per_set,
    )
    command.add_argument("--context", type=int, nargs="+", default=[0, 4], help="numbers of context entries")
    text = "write a copy of the one file of --weights with the temperature that fits --data"
    command.add_argument("--write", type=Path, metavar="FILE", help=text)
    training = (300, "steps of each network's training")
    text = "correcting networks by refinement, a small study"
    command = add(_refinement, text, "train", in_context, per_set=(2, "images of each task"), training_steps=training)
    choose(command, "--tasks", refinement.TASKS, refinement.TASKS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
