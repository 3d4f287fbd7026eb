"""Measure how many prompt sets the simulated user draws a second: `python scripts/benchmark_simulation.py`.

One prompt set is what a training sample of two rounds needs: the first round (positive and negative scribbles, clicks
and boxes for one mask) and one correction round (for one wrong prediction), on a 128 x 128 grid with the default
habits. The goal is 150 sets a second on two cores. On a machine that does other work too, the CPU time tells more than
the rate does: n free cores draw about n sets in that time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path
from threading import Barrier

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.simulation import simulate_corrections, simulate_first_round
from scribblesegment.simulation.fields import gaussian_blur, smooth_noise
from scribblesegment.training.corpus import HierarchicalSampler, load_corpus

BoolArray = NDArray[np.bool_]
SIZE = 128
GOAL = 150
_CASES = 200  # masks and predictions that are gone through again and again
_WARM_UP = 20
_START_TIMEOUT = 300  # seconds after which processes stop waiting for one that failed


def main() -> int:
    """Parse the arguments and print the figures."""
    parser = argparse.ArgumentParser(description="Measure the speed of the simulated user.")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: number of cores")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the measurement")
    parser.add_argument("--data", type=Path, help="folder with training sets (*.npz) whose labels are used; else blobs")
    arguments = parser.parse_args()
    if arguments.processes < 1 or arguments.seconds <= 0:
        parser.error("--processes must be at least 1 and --seconds positive.")
    try:
        masks = _blobs() if arguments.data is None else _real_labels(arguments.data)
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cases = [(mask, _wrong_prediction(mask, np.random.default_rng(index))) for index, mask in enumerate(masks)]
    # Each process has one core for itself: matrix products must not start threads of their own. Read at start-up.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        start = manager.Barrier(arguments.processes)
        with context.Pool(arguments.processes) as pool:
            work = [(cases, seed, arguments.seconds, start) for seed in range(arguments.processes)]
            results = pool.starmap(_measure, work)
    sets = sum(count for count, *_ in results)
    rate = sum(count / seconds for count, seconds, *_ in results)
    first, correction = (1000 * sum(result[index] for result in results) / sets for index in (2, 3))
    source = "blobs" if arguments.data is None else f"labels of {arguments.data}"
    print(f"{sets} prompt sets (first round and one correction round, {SIZE} x {SIZE}, {source})")
    print(f"rate      {rate:7.1f} sets a second with {arguments.processes} processes (goal: {GOAL} with two cores)")
    print(f"CPU time  {first + correction:7.2f} ms a set: first round {first:.2f} ms, correction {correction:.2f} ms")
    return 0


def _measure(
    cases: list[tuple[BoolArray, BoolArray]], seed: int, seconds: float, start: Barrier
) -> tuple[int, float, float, float]:
    """Draw prompt sets for some seconds; returns their number, the seconds taken, and the CPU seconds of each round."""
    rng = np.random.default_rng(seed)
    for mask, prediction in cases[:_WARM_UP]:
        simulate_corrections(simulate_first_round(mask, rng), mask, prediction, rng)
    start.wait(timeout=_START_TIMEOUT)
    count, first, correction = 0, 0.0, 0.0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        mask, prediction = cases[(count + seed * len(cases) // 2) % len(cases)]
        before = time.process_time()
        prompts = simulate_first_round(mask, rng)
        between = time.process_time()
        simulate_corrections(prompts, mask, prediction, rng)
        first += between - before
        correction += time.process_time() - between
        count += 1
    return count, time.perf_counter() - started, first, correction


def _blobs() -> list[BoolArray]:
    """Smooth masks of one to several parts that cover 3 to 40 % of the image."""
    rng = np.random.default_rng(0)
    fields = [smooth_noise((SIZE, SIZE), rng.uniform(4, 16), rng) for _ in range(_CASES)]
    return [field > np.quantile(field, rng.uniform(0.6, 0.97)) for field in fields]


def _real_labels(folder: Path) -> list[BoolArray]:
    """Structures of a training corpus, drawn as in training, cut to the grid by taking the nearest pixels."""
    sets = load_corpus(folder)
    sampler = HierarchicalSampler(sets, min_fraction=0.001)
    rng = np.random.default_rng(0)
    masks: list[BoolArray] = []
    while len(masks) < _CASES:
        sample = sampler.draw(rng)
        labels = sets[sample.set_index].labels[sample.image_index]
        rows, columns = (np.linspace(0, side - 1, SIZE).round().astype(np.intp) for side in labels.shape)
        mask = labels[np.ix_(rows, columns)] == sample.label
        if mask.any():
            masks.append(np.asarray(mask, dtype=np.bool_))
    return masks


def _wrong_prediction(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    """A prediction with a shifted boundary, missing parts and surplus ones."""
    noise = smooth_noise(mask.shape, 6.0, rng)
    return np.asarray(gaussian_blur(mask, 2.0) + 0.25 * noise > 0.5, dtype=np.bool_)


if __name__ == "__main__":
    sys.exit(main())
