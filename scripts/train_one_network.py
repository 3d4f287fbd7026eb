"""Train the network for prompts and examples: `python scripts/train_one_network.py CONFIG --data FOLDER -o RUN`.

Run it again with the same arguments to continue. Ctrl-C or SIGTERM finishes the step and writes a checkpoint. A GPU is
used where there is one (`--device`); samples are prepared in `--workers` processes beside it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: its threads get in the way of torch's

import argparse
import signal
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.training.corpus import load_corpus, load_volume_sets
from scribblesegment.training.groups import load_negatives
from scribblesegment.training.loop import keep_freed_memory
from scribblesegment.training.one_network import OneNetworkConfig, train


def main() -> int:
    """Train; returns 0, 2 after an error, or 130 after an interruption."""
    parser = argparse.ArgumentParser(description="Train the network for prompts and examples.", allow_abbrev=False)
    parser.add_argument("config", type=Path, help="JSON configuration")
    parser.add_argument("--data", type=Path, required=True, help="folder with training sets (*.npz)")
    parser.add_argument("--volumes", type=Path, help="folder with volumes, whose slices are more sets")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for checkpoint and log")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples")
    parser.add_argument("--until", type=int, default=0, help="stop after this step of the run")
    arguments = parser.parse_args()
    stopped = False

    def stop(number: int, _: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    keep_freed_memory()
    try:
        config = OneNetworkConfig.read(arguments.config)
        sets = load_corpus(arguments.data)
        load_negatives(sets, arguments.data)
        if arguments.volumes is not None:
            sets += load_volume_sets(arguments.volumes)
        with tqdm(total=config.steps, unit="step", mininterval=10) as bar:

            def show(step: int, values: dict[str, float]) -> None:
                bar.update(step - bar.n)
                bar.set_postfix({name: f"{value:.3f}" for name, value in values.items() if name.startswith("dice")})

            path = train(
                sets,
                config,
                arguments.output,
                device=device,
                workers=arguments.workers,
                report=show,
                cancelled=lambda: stopped,
                until=arguments.until,
            )
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Checkpoint: {path}")
    return 130 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
