"""Train networks equally briefly and compare them.

`python scripts/compare_networks.py --data CORPUS --validation FOLDER -o OUT`

Every network of `--networks` (a JSON of names, each with a network as in a training configuration) is trained by the
same short configuration on the same samples, then measured on the `--validation` sets: after first prompts (one
positive and one negative centerline scribble) and after one correction, on the network's grid. OUT/table.md and
OUT/table.csv hold Dice, HD95 in pixels of the grid, parameters and milliseconds of one forward pass; each run has a
folder of its own beside them. Run it again to continue after an interruption.
"""

from __future__ import annotations

import os

# As in scripts/train.py: read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from scribblesegment.exceptions import ScribbleSegmentError
from scribblesegment.training.comparison import (
    EXAMPLES,
    RESULTS,
    TABLE,
    compare_networks,
    read_networks,
    validation_samples,
)
from scribblesegment.training.config import load_config
from scribblesegment.training.datasets import load_corpus

CONFIGS = Path(__file__).resolve().parent / "configs"


def main(argv: list[str] | None = None) -> int:
    """Train and measure; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        networks = read_networks(arguments.networks)
        samples = validation_samples(arguments.validation, config, arguments.examples)
        corpus = load_corpus(arguments.data, exclude=config.data.exclude)
        with tqdm(total=config.steps * len(networks), unit="step") as bar:
            order = list(networks)

            def show(name: str, step: int) -> None:
                bar.set_description_str(name, refresh=False)
                bar.update(order.index(name) * config.steps + step - bar.n)

            compare_networks(
                networks,
                corpus,
                samples,
                config,
                arguments.output,
                device=arguments.device,
                workers=arguments.workers,
                progress=show,
            )
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    print((arguments.output / TABLE).read_text(encoding="utf-8"))
    print("Written:", arguments.output / TABLE, arguments.output / RESULTS, sep="\n  ")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train networks equally briefly and compare them.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the training sets")
    parser.add_argument("--validation", type=Path, required=True, help="folder of the validation sets")
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIGS / "search.json",
        help="training configuration (default: configs/search.json)",
    )
    parser.add_argument(
        "--networks",
        type=Path,
        default=CONFIGS / "networks" / "search.json",
        help="networks to compare (default: configs/networks/search.json)",
    )
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"validation examples (default: {EXAMPLES})")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where networks are trained")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples (default: 1)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of runs and tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
