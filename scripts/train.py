"""Train the embedded network, or fine-tune it: `python scripts/train.py CONFIG --data FOLDER -o RUN`.

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
from pathlib import Path

from tqdm import tqdm

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.training.corpus import SegmentationSet, load_corpus
from scribblesegment.training.loop import TrainingConfig, train

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def main() -> int:
    """Train; returns 0, 2 after an error, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description="Train the embedded network.", allow_abbrev=False)
    parser.add_argument("config", type=Path, help="JSON configuration, for instance scripts/configs/embedded.json")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders that hold training sets")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for checkpoint, log and weights")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    parser.add_argument("--until", type=int, default=0, metavar="STEP", help="stop after this step of the run")
    parser.add_argument("--skip-bad", action="store_true", help="pass over files that cannot be read")
    arguments = parser.parse_args()
    is_main = os.environ.get("RANK", "0") == "0"
    stopped = False

    def stop(number: int, _: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(number, signal.SIG_DFL)

    def tell_skipped(reason: str) -> None:
        if is_main:
            print(f"skipped: {reason}", file=sys.stderr)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        config = TrainingConfig.read(arguments.config)
        sets: list[SegmentationSet] = []
        for folder in arguments.data:
            sets += load_corpus(folder, skip_bad=tell_skipped if arguments.skip_bad else None)
        with tqdm(total=config.steps, unit="step", disable=not is_main) as bar:

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
                cancelled=lambda: stopped,
                until=arguments.until,
            )
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if is_main:
        print(f"Stopped. The same command continues from {path}." if stopped else f"Finished: {path.parent}")
    return INTERRUPTED if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
