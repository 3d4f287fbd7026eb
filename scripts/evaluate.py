"""Measure methods on strokes drawn by people and on simulated prompts: `python scripts/evaluate.py -o OUT`.

Writes OUT/manual_scribbles.csv and OUT/simulated_steps.csv (every result), OUT/table.md (means), OUT/predictions.png
(an example of each task) and OUT/*_by_step.png (curves), and prints the table. Methods are networks, by name or by the
path of their weights, and the classical grow-from-seeds, random-walker and grabcut. See docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from scribblesegment.evaluation.datasets import PREFIX, read_scribble_sets
from scribblesegment.evaluation.label_tasks import EXAMPLES_PER_SET, read_label_examples
from scribblesegment.evaluation.methods import classical_names
from scribblesegment.evaluation.procedures import PROCEDURES
from scribblesegment.evaluation.progress import progress_bar
from scribblesegment.evaluation.protocols import run_manual_scribbles
from scribblesegment.evaluation.report import Report, make_folder, write_report
from scribblesegment.evaluation.simulated import SimulationPlan, run_simulated
from scribblesegment.evaluation.stepwise import load_interactive_methods, one_prediction
from scribblesegment.exceptions import ConfigError, ScribbleSegmentError

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "validation"
MANUAL = "manual-scribbles"


def main(argv: list[str] | None = None) -> int:
    """Run the evaluation; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        report = _evaluate(arguments)
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130
    print(report.table)
    for note in report.notes:
        print(note)
    print("Written:", *report.files, sep="\n  ")
    return 0


def _evaluate(arguments: argparse.Namespace) -> Report:
    if arguments.data is None:
        raise ConfigError(f"{DEFAULT_DATA} does not exist; name the folder of the data by --data.")
    output = make_folder(arguments.output)
    procedures = arguments.procedures or _possible(arguments.data)
    simulated = tuple(name for name in procedures if name != MANUAL)
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
    if MANUAL in procedures:
        sets = read_scribble_sets(arguments.data)
    methods, skipped = load_interactive_methods(arguments.methods, device=arguments.device)
    for name, reason in skipped.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    manual = simulation = None
    if sets:
        with progress_bar("manual") as show:
            singly = {name: one_prediction(method) for name, method in methods.items()}
            manual = run_manual_scribbles(sets, singly, progress=show)
    if plan is not None:
        with progress_bar("simulated") as show:
            simulation = run_simulated(examples, methods, plan, progress=show)
    rng = np.random.default_rng(arguments.seed)
    return write_report(output, rng, manual=manual, simulation=simulation, skipped=skipped)


def _possible(folder: Path) -> list[str]:
    """Name the protocols that the files of a folder allow; all, where there is nothing, so that the lack is told."""
    with_strokes = {path.name.startswith(PREFIX) for path in folder.glob("*.npz")} or {True, False}
    return [MANUAL] * (True in with_strokes) + list(PROCEDURES) * (False in with_strokes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure methods on strokes drawn by people and on simulated prompts.",
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
    parser.add_argument(
        "--procedures",
        nargs="+",
        choices=[MANUAL, *PROCEDURES],
        metavar="NAME",
        help=f"among {', '.join([MANUAL, *PROCEDURES])}; without it all that the data allow",
    )
    plan = SimulationPlan()
    parser.add_argument("--per-set", type=int, default=EXAMPLES_PER_SET, help="simulated: examples of each set")
    parser.add_argument("--steps", type=int, default=plan.steps, help="simulated: steps")
    parser.add_argument(
        "--most-steps", type=int, default=plan.most_steps, help="simulated: where counting to 90 %% Dice ends"
    )
    parser.add_argument(
        "--repetitions", type=int, default=plan.repetitions, help="simulated: random runs of an example"
    )
    parser.add_argument("--device", default="auto", help="where networks run")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    return parser


if __name__ == "__main__":
    sys.exit(main())
