"""Measure how Dice depends on strokes and images: `python scripts/measure_robustness.py -o OUT`.

Writes OUT/results.csv (every example), OUT/table.md (means) and OUT/robustness.png (a plot for each factor), and prints
the table. See docs/calibration_and_robustness.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.evaluation.label_tasks import EXAMPLES_PER_SET, read_label_examples
from scribblesegment.evaluation.methods import classical_names
from scribblesegment.evaluation.progress import progress_bar
from scribblesegment.evaluation.report import make_folder
from scribblesegment.evaluation.robustness import FACTORS, find_factors, measure_robustness
from scribblesegment.evaluation.robustness_report import write_robustness
from scribblesegment.evaluation.stepwise import load_interactive_methods

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "validation"
DEFAULT_METHODS = ("default", "random-walker", "grow-from-seeds")


def main(argv: list[str] | None = None) -> int:
    """Run the measurement; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.data is None:
            print(f"error: {DEFAULT_DATA} does not exist; name the folder of the data by --data.", file=sys.stderr)
            return 2
        factors = find_factors(arguments.factors)
        output = make_folder(arguments.output)
        examples = read_label_examples(arguments.data, per_set=arguments.per_set, seed=arguments.seed)
        methods, skipped = load_interactive_methods(arguments.methods, device=arguments.device)
        for name, reason in skipped.items():
            print(f"{name} is left out: {reason}", file=sys.stderr)
        with progress_bar() as show:
            results = measure_robustness(methods, examples, seed=arguments.seed, factors=factors, progress=show)
        report = write_robustness(output, results, np.random.default_rng(arguments.seed), skipped=skipped)
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


def _parser() -> argparse.ArgumentParser:
    names = [factor.name for factor in FACTORS]
    parser = argparse.ArgumentParser(description="Measure how Dice depends on strokes and images.")
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA if DEFAULT_DATA.is_dir() else None,
        help=f"folder of label sets (default: {DEFAULT_DATA}, if it exists)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(DEFAULT_METHODS),
        metavar="METHOD",
        help="names or paths of networks, or "
        f"{', '.join(classical_names())} (default: {', '.join(DEFAULT_METHODS)}; the first is the embedded network)",
    )
    parser.add_argument(
        "--factors", nargs="+", default=names, metavar="FACTOR", help=f"what is changed (default: {', '.join(names)})"
    )
    parser.add_argument(
        "--per-set",
        type=int,
        default=EXAMPLES_PER_SET,
        help=f"structures taken of each set (default: {EXAMPLES_PER_SET})",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the report")
    parser.add_argument("--device", default="auto", help="where networks run (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, the strokes and the bootstrap (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
