"""Train a network: `python scripts/train.py --config scripts/configs/embedded.json --data FOLDER --output RUN`.

Run it again with the same arguments to continue after an interruption. Ctrl-C finishes the step, writes a checkpoint
and ends with exit code 130; a second Ctrl-C ends at once, and the run continues from the last checkpoint. On several
processors or GPUs: `torchrun --nproc_per_node N scripts/train.py ...`. See docs/training.md.
"""

from __future__ import annotations

import os

# Samples are prepared beside a network that keeps all cores busy: NumPy's matrix products, given threads of their own,
# then wait for each other most of the time. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.training.config import load_config
from scribblesegment.training.corpus import load_corpus, load_volume_sets
from scribblesegment.training.loop import CHECKPOINT_NAME, train

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def main() -> int:
    """Parse the arguments and train; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parse()
    shows_progress = os.environ.get("RANK", "0") == "0"
    try:
        config = load_config(arguments.config)

        def tell_skipped(reason: str) -> None:
            if shows_progress:
                print(f"skipped: {reason}", file=sys.stderr)

        sets = load_corpus(
            arguments.data, exclude=config.data.exclude, skip_bad=tell_skipped if arguments.skip_bad else None
        )
        if arguments.volumes is not None:
            sets += load_volume_sets(arguments.volumes)
        with (
            tqdm(total=config.steps, unit="step", disable=not shows_progress) as bar,
            interrupt_between_steps() as was_asked,
        ):

            def show(step: int, values: dict[str, float]) -> None:
                bar.update(step - bar.n)
                bar.set_postfix({name: f"{value:.3f}" for name, value in values.items() if name.startswith("dice")})

            path = train(
                sets,
                config,
                arguments.output,
                device=arguments.device,
                workers=arguments.workers,
                report=show,
                cancelled=was_asked,
            )
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted(arguments.output / CHECKPOINT_NAME, shows_progress)
    if was_asked():
        return _interrupted(path, shows_progress)
    if shows_progress:
        print(f"Checkpoint: {path}")
    return 0


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed; a second Ctrl-C raises KeyboardInterrupt as usual."""
    asked = False

    def ask(_: int, __: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train an interactive segmentation network.")
    parser.add_argument("--config", type=Path, required=True, help="JSON configuration")
    parser.add_argument("--data", type=Path, required=True, help="folder with training sets (*.npz)")
    parser.add_argument("--volumes", type=Path, help="folder with volumes, whose slices are more sets")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint and log")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples (default: 1)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="name damaged sets and those of another layout, and train without them"
    )
    return parser.parse_args()


def _interrupted(checkpoint: Path, speaks: bool) -> int:
    if speaks:
        way_on = f"{checkpoint} is intact: the same command continues from it"
        if not checkpoint.exists():
            way_on = "There is no checkpoint yet: the same command starts anew"
        print(f"Interrupted. {way_on}.", file=sys.stderr)
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
