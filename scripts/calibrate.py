"""Calibrate a network's probabilities: `python scripts/calibrate.py WEIGHTS -o CALIBRATED --data FOLDER`.

A simulated user prompts and corrects the network on images of FOLDER; the temperature under which its probabilities fit
the references best is written into a copy of the weights file, whose parameters stay as they are. FOLDER must not be
the data that figures are reported on: those are measured by `--report-on`. See docs/calibration_and_robustness.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

from scribblesegment.errors import ConfigError, ScribbleSegmentError
from scribblesegment.evaluation.calibration_protocol import NEAR, Pixels, calibration_table, collect_pixels
from scribblesegment.evaluation.datasets import PREFIX
from scribblesegment.evaluation.label_tasks import LabelExample, read_label_examples
from scribblesegment.evaluation.progress import progress_bar
from scribblesegment.evaluation.stepwise import InteractiveMethod, load_interactive
from scribblesegment.weights.checkpoints import load_network, redescribe_network


def main(argv: list[str] | None = None) -> int:
    """Fit and write; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        _check(arguments)
        _, description = load_network(arguments.weights)
        network = load_interactive(str(arguments.weights), device=arguments.device)
        examples, unseen_examples = _read(arguments.data, arguments), _read(arguments.report_on, arguments)
        pixels = _collect(network, examples, arguments)
        # Predictions come divided by the temperature that the file has already.
        change = pixels[NEAR].fit()
        temperature = change * description.temperature
        print(f"Temperature {temperature:.3f}, fitted on {arguments.data}; before, {description.temperature:.3f}.\n")
        print(calibration_table(pixels, change))
        if unseen_examples:
            unseen = _collect(network, unseen_examples, arguments)
            print(f"The same temperature on {arguments.report_on}:\n")
            print(calibration_table(unseen, change))
        redescribe_network(
            arguments.weights, arguments.output, dataclasses.replace(description, temperature=temperature)
        )
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130
    print(f"Written: {arguments.output}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse before minutes of work what would be refused after it."""
    for path in (arguments.weights, arguments.output):
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path}: only safetensors files have a place for the temperature; name one.")
    if not arguments.output.parent.is_dir():
        raise ConfigError(f"The folder {arguments.output.parent} does not exist. Create it first.")
    if next(arguments.data.glob(f"{PREFIX}*.npz"), None) is not None:
        raise ConfigError(
            f"{arguments.data} holds {PREFIX}*.npz: this is data that figures are reported on, and a temperature "
            "that was fitted there would flatter them. Give training data by --data, and this folder by --report-on."
        )


def _read(folder: Path | None, arguments: argparse.Namespace) -> list[LabelExample]:
    if folder is None:
        return []
    examples = read_label_examples(folder, per_set=arguments.per_set, seed=arguments.seed)
    sets = sorted({example.set_name for example in examples})
    print(f"{folder}: {len(examples)} structures of {len(sets)} sets ({', '.join(sets)})")
    return examples


def _collect(
    network: InteractiveMethod, examples: list[LabelExample], arguments: argparse.Namespace
) -> dict[str, Pixels]:
    with progress_bar() as show:
        rng = np.random.default_rng(arguments.seed)
        return collect_pixels(network, examples, rng, steps=arguments.steps, progress=show)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Calibrate a network's probabilities by a temperature.")
    parser.add_argument("weights", type=Path, help="a .safetensors file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the calibrated .safetensors file")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of label sets to fit on; not those that are reported on"
    )
    parser.add_argument("--report-on", type=Path, metavar="FOLDER", help="measure before and after on these sets too")
    parser.add_argument("--per-set", type=int, default=12, help="structures taken of each set (default: 12)")
    parser.add_argument("--steps", type=int, default=5, help="rounds of prompts for each structure (default: 5)")
    parser.add_argument("--device", default="auto", help="where the network runs (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and the simulated user (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
