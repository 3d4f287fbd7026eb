"""Measure what choosing context entries is worth against drawing them: `python scripts/measure_context_selection.py`.

Prints Dice of a method that needs no network, or of a network by `--network`, with entries chosen by
`ContextSet.select` and with as many drawn at random, and how long a choice among 500 entries takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.evaluation.context_choice import (
    LIMITS,
    ChoiceResult,
    InContextMethod,
    choice_table,
    find_sources,
    measure_choice,
    summarise_choice,
)
from scribblesegment.evaluation.in_context_methods import load_context_predictor
from scribblesegment.evaluation.label_transfer import LabelTransfer
from scribblesegment.evaluation.progress import progress_bar
from scribblesegment.evaluation.tables import csv_text, write_text

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def main(argv: list[str] | None = None) -> int:
    """Run the measurement; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        sources = find_sources(arguments.sets, arguments.volumes)
        with progress_bar() as show:
            results = measure_choice(
                LabelTransfer() if arguments.network is None else _network(arguments.network),
                sources,
                limits=arguments.limits,
                targets=arguments.targets,
                seed=arguments.seed,
                progress=show,
            )
        summaries = summarise_choice(results, np.random.default_rng(arguments.seed))
        if arguments.output is not None:
            write_text(arguments.output, csv_text(ChoiceResult, results))
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130
    print(
        "Dice in per cent, means over subjects, tasks and sets with 95 % intervals:", *choice_table(summaries), sep="\n"
    )
    print(_timing(np.random.default_rng(arguments.seed)))
    return 0


def _network(name: str) -> InContextMethod:
    """Let a network segment from the context alone."""
    predictor = load_context_predictor(name)

    def segment(image: FloatArray, spacing_mm: tuple[float, float], context: ContextSet) -> BoolArray:
        predictor.set_context(None)  # else the last one would be matched with this image
        predictor.set_image(image, spacing_mm=spacing_mm)
        predictor.set_context(context)
        return predictor.predict(Prompts.empty(image.shape)).mask()

    return segment


def _timing(rng: np.random.Generator, entries: int = 500, limit: int = 64) -> str:
    mask = np.ones((256, 256), bool)
    images = rng.random((entries + 1, 256, 256), np.float32)
    pool = ContextSet("random", tuple(ContextEntry(image, mask, (1.0, 1.0)) for image in images[1:]))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        pool.select(images[0], spacing_mm=(1.0, 1.0), limit=limit)
        seconds.append(time.perf_counter() - start)
    return (
        f"Choosing {limit} of {entries} entries of 256 x 256: {1e3 * np.median(seconds[1:]):.1f} ms, the first time "
        f"{1e3 * seconds[0]:.0f} ms."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure what choosing context entries is worth.")
    for name, folder, content in (
        ("--sets", DATA / "train", "image sets (*.npz)"),
        ("--volumes", DATA / "volumes" / "train", "volumes (*/*_image.nii.gz with *_label.nii.gz)"),
    ):
        default = folder if folder.is_dir() else None
        parser.add_argument(
            name, type=Path, default=default, help=f"folder of {content} (default: {folder}, if it exists)"
        )
    parser.add_argument("--network", metavar="NAME", help="name or weights of a network that segments in context")
    parser.add_argument(
        "--limits", type=int, nargs="+", default=list(LIMITS), help=f"numbers of entries (default: {LIMITS})"
    )
    parser.add_argument("--targets", type=int, default=5, help="targets of each task (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of targets and draws (default: 0)")
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the result of every target")
    return parser


if __name__ == "__main__":
    sys.exit(main())
