"""Measure methods on strokes drawn by people: `python scripts/evaluate.py --methods default random-walker -o OUT`.

Writes OUT/results.csv (every example), OUT/table.md (means) and OUT/predictions.png (an example of each task), and
prints the table. Methods are networks, by name or by the path of their weights, and the classical grow-from-seeds,
random-walker and grabcut. See docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from scribblesegment.evaluation.datasets import read_scribble_sets
from scribblesegment.evaluation.methods import classical_names, load_methods
from scribblesegment.evaluation.protocols import run_manual_scribbles
from scribblesegment.evaluation.report import make_folder, write_report
from scribblesegment.exceptions import ScribbleSegmentError

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "validation"


def main(argv: list[str] | None = None) -> int:
    """Run the evaluation; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.data is None:
            print(f"error: {DEFAULT_DATA} does not exist; name the folder of the data by --data.", file=sys.stderr)
            return 2
        output = make_folder(arguments.output)
        sets = read_scribble_sets(arguments.data)
        methods, skipped = load_methods(arguments.methods, device=arguments.device)
        for name, reason in skipped.items():
            print(f"{name} is left out: {reason}", file=sys.stderr)
        with tqdm(total=1.0, bar_format="{percentage:3.0f}% |{bar}| {elapsed}<{remaining} {desc}") as bar:

            def show(fraction: float, doing: str) -> None:
                bar.set_description_str(doing, refresh=False)
                bar.update(fraction - bar.n)

            evaluation = run_manual_scribbles(sets, methods, progress=show)
        report = write_report(output, evaluation, np.random.default_rng(arguments.seed), skipped=skipped)
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
    parser = argparse.ArgumentParser(description="Measure methods on strokes drawn by people.")
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA if DEFAULT_DATA.is_dir() else None,
        help=f"folder with medscribble_*.npz (default: {DEFAULT_DATA}, if it exists)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["default", *classical_names()],
        metavar="METHOD",
        help=f"names or paths of networks, or {', '.join(classical_names())} (default: the embedded network and these)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the report")
    parser.add_argument("--device", default="auto", help="where networks run (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
