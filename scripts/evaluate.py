"""Measure methods: `python scripts/evaluate.py -o OUT`, on strokes drawn by people and on simulated prompts.

Writes OUT/manual_scribbles.csv and OUT/simulated_steps.csv (every result), OUT/table.md (means), OUT/predictions.png
(an example of each task) and OUT/*_by_step.png (curves), and prints the table. Methods are networks, by name or by the
path of their weights, and the classical grow-from-seeds, random-walker and grabcut.

With `--procedures` in-context-sequences, in-context-sizes or propagation, networks that segment in context are measured
instead; they write files of their own. See docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from scribblesegment.errors import ConfigError, ScribbleSegmentError
from scribblesegment.evaluation.datasets import PREFIX, read_scribble_sets
from scribblesegment.evaluation.in_context_methods import LABEL_TRANSFER, LEAST_CONTEXT, load_in_context_methods
from scribblesegment.evaluation.in_context_report import write_in_context
from scribblesegment.evaluation.in_context_sequences import SequencePlan, run_sequences
from scribblesegment.evaluation.in_context_sizes import SizePlan, run_sizes
from scribblesegment.evaluation.in_context_tasks import read_context_tasks
from scribblesegment.evaluation.label_tasks import EXAMPLES_PER_SET, read_label_examples
from scribblesegment.evaluation.methods import classical_names, load_network
from scribblesegment.evaluation.picture import short_name
from scribblesegment.evaluation.procedures import PROCEDURES
from scribblesegment.evaluation.progress import progress_bar
from scribblesegment.evaluation.propagation_baselines import load_baselines
from scribblesegment.evaluation.propagation_cases import PropagationPlan, find_volumes
from scribblesegment.evaluation.propagation_protocol import run_propagation
from scribblesegment.evaluation.propagation_report import write_propagation
from scribblesegment.evaluation.protocols import run_manual_scribbles
from scribblesegment.evaluation.report import Report, make_folder, write_report
from scribblesegment.evaluation.simulated import SimulationPlan, run_simulated
from scribblesegment.evaluation.stepwise import load_interactive_methods, one_prediction

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DEFAULT_DATA = _DATA / "validation"
DEFAULT_VOLUMES = _DATA / "volumes" / "validation"
MANUAL = "manual-scribbles"
SEQUENCES, SIZES, PROPAGATION = "in-context-sequences", "in-context-sizes", "propagation"


def main(argv: list[str] | None = None) -> int:
    """Run the evaluation; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        reports = _evaluate(arguments)
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; what was not done is not written.", file=sys.stderr)
        return 130
    for report in reports:
        print(report.table)
        for note in report.notes:
            print(note)
    print("Written:", *(path for report in reports for path in report.files), sep="\n  ")
    return 0


def _evaluate(arguments: argparse.Namespace) -> list[Report]:
    if arguments.data is None and arguments.procedures != [PROPAGATION]:
        raise ConfigError(f"{DEFAULT_DATA} does not exist; name the folder of the data by --data.")
    output = make_folder(arguments.output)
    procedures = arguments.procedures or _possible(arguments.data)
    simulated = tuple(name for name in procedures if name in PROCEDURES)
    reports = []
    if simulated or MANUAL in procedures:
        reports.append(_interactive(arguments, output, simulated, manual=MANUAL in procedures))
    if SEQUENCES in procedures or SIZES in procedures:
        reports.append(_in_context(arguments, output, sequences=SEQUENCES in procedures, sizes=SIZES in procedures))
    if PROPAGATION in procedures:
        reports.append(_propagation(arguments, output))
    return reports


def _interactive(arguments: argparse.Namespace, output: Path, simulated: tuple[str, ...], *, manual: bool) -> Report:
    plan, sets, examples = None, [], []
    if simulated:
        plan = SimulationPlan(
            simulated,
            steps=arguments.steps,
            most_steps=arguments.most_steps,
            repetitions=arguments.repetitions,
            seed=arguments.seed,
        )
        examples = read_label_examples(arguments.data, per_set=arguments.per_set, seed=arguments.seed)
    if manual:
        sets = read_scribble_sets(arguments.data)
    methods, skipped = load_interactive_methods(arguments.methods, device=arguments.device)
    for name, reason in skipped.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    evaluation = simulation = None
    if sets:
        with progress_bar("manual") as show:
            singly = {name: one_prediction(method) for name, method in methods.items()}
            evaluation = run_manual_scribbles(sets, singly, progress=show)
    if plan is not None:
        with progress_bar("simulated") as show:
            simulation = run_simulated(examples, methods, plan, progress=show)
    rng = np.random.default_rng(arguments.seed)
    return write_report(output, rng, manual=evaluation, simulation=simulation, skipped=skipped)


def _in_context(arguments: argparse.Namespace, output: Path, *, sequences: bool, sizes: bool) -> Report:
    fast = arguments.fast
    sequence_plan = SequencePlan(
        images=arguments.images,
        simulations=1 if fast else arguments.simulations,
        least_confidence=arguments.least_confidence,
        seed=arguments.seed,
    )
    size_plan = SizePlan(
        sizes=tuple(arguments.sizes),
        steps=arguments.steps,
        targets=min(arguments.targets, 2) if fast else arguments.targets,
        draws=1 if fast else arguments.draws,
        seed=arguments.seed,
    )
    choice = read_context_tasks(
        arguments.data, least_images=arguments.images + 1, per_set=1 if fast else arguments.tasks_per_set
    )
    if not arguments.in_context and arguments.universeg is None:
        raise ConfigError("There is no method in context to measure. Name one by --in-context or --universeg.")
    methods = load_in_context_methods(
        arguments.interactive,
        arguments.in_context,
        universeg=arguments.universeg,
        least_context=arguments.least_context,
        device=arguments.device,
    )
    gone_through = measured = None
    if sequences:
        with progress_bar(SEQUENCES) as show:
            gone_through = run_sequences(choice.tasks, methods, sequence_plan, progress=show)
    if sizes:
        with progress_bar(SIZES) as show:
            measured = run_sizes(choice.tasks, methods, size_plan, progress=show)
    rng = np.random.default_rng(arguments.seed)
    return write_in_context(output, rng, sequences=gone_through, sizes=measured, left_out=choice.left_out)


def _propagation(arguments: argparse.Namespace, output: Path) -> Report:
    if arguments.volumes is None:
        raise ConfigError(f"{DEFAULT_VOLUMES} does not exist; name the folder of the volumes by --volumes.")
    paths = find_volumes(arguments.volumes)
    annotated = tuple(arguments.annotated)
    plan = PropagationPlan(per_volume=2 if arguments.fast else None, one_axis=arguments.fast, annotated=annotated)
    names = [name for name in arguments.in_context if name != LABEL_TRANSFER] or [arguments.interactive]
    networks = {short_name(name): load_network(name, device=arguments.device) for name in names}
    baselines, skipped = load_baselines()
    with progress_bar(PROPAGATION) as show:
        results = run_propagation(paths, networks, baselines, plan, progress=show)
    return write_propagation(output, results, np.random.default_rng(arguments.seed), skipped=skipped)


def _possible(folder: Path) -> list[str]:
    """Name the protocols that the files of a folder allow; all, where there is nothing, so that the lack is told."""
    with_strokes = {path.name.startswith(PREFIX) for path in folder.glob("*.npz")} or {True, False}
    return [MANUAL] * (True in with_strokes) + list(PROCEDURES) * (False in with_strokes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure methods on strokes drawn by people, on simulated prompts, in context, and in volumes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the report")
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA if DEFAULT_DATA.is_dir() else None,
        help=f"folder of the sets (*.npz); those with strokes are {PREFIX}*.npz",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["default", *classical_names()],
        metavar="METHOD",
        help=f"names or paths of networks, or {', '.join(classical_names())}",
    )
    known = [MANUAL, *PROCEDURES, SEQUENCES, SIZES, PROPAGATION]
    parser.add_argument(
        "--procedures",
        nargs="+",
        choices=known,
        metavar="NAME",
        help=f"among {', '.join(known)}; without it all that the data allow, but the last three",
    )
    plan = SimulationPlan()
    parser.add_argument("--per-set", type=int, default=EXAMPLES_PER_SET, help="simulated: examples of each set")
    parser.add_argument("--steps", type=int, default=plan.steps, help=f"simulated and {SIZES}: steps")
    parser.add_argument(
        "--most-steps", type=int, default=plan.most_steps, help="simulated: where counting to 90 %% Dice ends"
    )
    parser.add_argument(
        "--repetitions", type=int, default=plan.repetitions, help="simulated: random runs of an example"
    )
    parser.add_argument("--device", default="auto", help="where networks run")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    _add_in_context(parser)
    return parser


def _add_in_context(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("in context, and propagation")
    sequences, sizes = SequencePlan(), SizePlan()
    group.add_argument("--interactive", default="default", metavar="METHOD", help="the interactive method alone")
    group.add_argument(
        "--in-context",
        nargs="+",
        default=[],
        metavar="NETWORK",
        help=f"networks that take context sets, by names or paths, or {LABEL_TRANSFER}; these are also propagated by",
    )
    group.add_argument(
        "--universeg", metavar="PATH", help="weights of UniverSeg, compared by itself and as SP+UVS; not propagated by"
    )
    group.add_argument("--least-context", type=int, default=LEAST_CONTEXT, help="fewest entries SP+UVS looks at")
    group.add_argument("--images", type=int, default=sequences.images, help=f"{SEQUENCES}: images of a sequence")
    group.add_argument(
        "--simulations", type=int, default=sequences.simulations, help=f"{SEQUENCES}: sequences of each task"
    )
    group.add_argument(
        "--least-confidence",
        type=float,
        default=sequences.least_confidence,
        metavar="DICE",
        help=f"{SEQUENCES}: expected Dice from which a prediction from the context alone is shown; 0 for all",
    )
    group.add_argument(
        "--sizes", type=int, nargs="+", default=list(sizes.sizes), help=f"{SIZES}: numbers of context entries"
    )
    group.add_argument("--targets", type=int, default=sizes.targets, help=f"{SIZES}: targets of each task")
    group.add_argument("--draws", type=int, default=sizes.draws, help=f"{SIZES}: random contexts of each target")
    group.add_argument("--tasks-per-set", type=int, help="most tasks of a set, those of the most images first")
    group.add_argument(
        "--volumes",
        type=Path,
        default=DEFAULT_VOLUMES if DEFAULT_VOLUMES.is_dir() else None,
        help=f"{PROPAGATION}: folder of */*_image.nii.gz with *_label.nii.gz",
    )
    group.add_argument(
        "--annotated",
        type=float,
        nargs="+",
        default=list(PropagationPlan().annotated),
        metavar="PLACE",
        help=f"{PROPAGATION}: where annotated slices lie in the extent of a structure, from 0 to 1",
    )
    group.add_argument(
        "--fast",
        action="store_true",
        help="a first look: one task of each set gone through once, two targets of one context, two structures of each "
        "volume along one axis",
    )


if __name__ == "__main__":
    sys.exit(main())
