"""Time propagation through a volume with a context of eight slices: `python scripts/benchmark_propagation.py`.

An ellipsoid in noise, 512 x 512 pixels a slice, eight slices of it accepted: all others are predicted from these. It
tells the slices a second, everything counted, what of the time is the network's, and the most memory the process took.
Linux and macOS.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scribblesegment import load_predictor
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.propagation import Propagator

# Linux counts in KiB, macOS in bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> int:
    """Parse the arguments and print the figures."""
    arguments = _arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    volume, structure = phantom(arguments.slices, arguments.side)
    shown = np.flatnonzero(structure.any(axis=(1, 2)))
    chosen = shown[np.linspace(0, len(shown) - 1, arguments.entries + 2)[1:-1].round().astype(int)]
    annotated = {int(index): structure[index] for index in chosen}
    try:
        predictor = load_predictor(arguments.model, device="cpu")
        timed: Any = _Timed(predictor)
        propagator = Propagator(timed)
        propagator.run(volume, annotated, 0, index_range=(int(chosen[0]) + 1, int(chosen[0]) + 3))  # loads what is lazy
        timed.seconds = 0.0
        result = propagator.run(volume, annotated, 0)
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = np.mean([_dice(one.mask, structure[index]) for index, one in result.slices.items()])
    made = len(result.slices)
    print(f"{predictor.name}: {made} slices from {len(annotated)} accepted ones, Dice {found:.3f}")
    print(f"  slices a second     {result.slices_per_second:.1f}")
    print(f"  of it the network   {100 * timed.seconds * result.slices_per_second / made:.0f} %")
    print(f"  most memory         {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e9:.2f} GB")
    return 0


class _Timed:
    """A predictor whose time is taken."""

    def __init__(self, predictor: Any) -> None:
        self._predictor, self.seconds = predictor, 0.0
        self.capabilities = predictor.capabilities

    def set_image(self, image: Any, **options: Any) -> None:
        self._take(self._predictor.set_image, image, **options)

    def set_context(self, context: Any) -> None:
        self._take(self._predictor.set_context, context)

    def predict(self, prompts: Any) -> Any:
        return self._take(self._predictor.predict, prompts)

    def _take(self, work: Any, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = work(*arguments, **options)
        self.seconds += time.perf_counter() - began
        return result


def phantom(slices: int, side: int) -> tuple[Volume, NDArray[np.bool_]]:
    """Make a volume with an ellipsoid that is brighter than what is around it, and its mask."""
    grid = np.meshgrid(*(np.linspace(-1.0, 1.0, count) for count in (slices, side, side)), indexing="ij", sparse=True)
    structure = (grid[0] / 0.8) ** 2 + (grid[1] / 0.3) ** 2 + (grid[2] / 0.45) ** 2 < 1.0
    noise = np.random.default_rng(0).normal(0.0, 60.0, structure.shape)
    return Volume((200.0 * structure + noise).astype(np.int16), np.diag([0.7, 0.7, 2.0, 1.0])), structure


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    total = int(first.sum() + second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 1.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time propagation through a volume.")
    parser.add_argument("--model", default="default", help="name or path of weights")
    parser.add_argument("--slices", type=int, default=80)
    parser.add_argument("--side", type=int, default=512, help="side of the slices in pixels")
    parser.add_argument("--entries", type=int, default=8, help="accepted slices, which are the context")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
