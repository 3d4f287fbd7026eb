"""Time `Predictor.predict` on a 512 x 512 slice: `python scripts/benchmark_predict.py`.

Two networks: the embedded one, and the paper's (192 features), for which the whole `predict` is set against that
network's plain float32 forward pass alone, run in turn so that other load on the machine touches both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from scribblesegment import Predictor, Prompts, load_predictor
from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.inference.predictor import Network
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.scribble_unet import ScribbleUNet


def main() -> int:
    """Parse the arguments and print the figures."""
    parser = argparse.ArgumentParser(description="Time predictions on one slice.")
    parser.add_argument("--model", default="default", help="name or path of weights")
    parser.add_argument("--side", type=int, default=512, help="side of the slice in pixels")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    try:
        embedded = load_predictor(arguments.model, device="cpu")
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    paper = Predictor(Network(ScribbleUNet(), device="cpu", name="192 features, untrained"))
    for predictor in (embedded, paper):
        predict = _stroke_on_a_slice(predictor, arguments.side)
        forward = _plain_forward(predictor)
        times = [(_milliseconds(predict), _milliseconds(forward)) for _ in range(arguments.runs)]
        whole, alone = (sorted(column) for column in zip(*times, strict=True))
        ratio = statistics.median(plain / ours for ours, plain in times)
        print(f"{predictor.name}: {predictor.plan}, second looks on up to {predictor.focus_size} cells a side")
        print(f"  predict             {_summary(whole)}")
        print(f"  float32 forward     {_summary(alone)}")
        print(f"  forward / predict   {ratio:.1f} (median of pairs)")
    return 0


def _stroke_on_a_slice(predictor: Predictor, side: int) -> Callable[[], object]:
    predictor.set_image(np.random.default_rng(0).normal(40.0, 200.0, (side, side)).astype(np.int16))
    stroke = np.zeros((side, side), dtype=bool)
    # From side to side, so that the second look, where there is one, is as large as it gets.
    stroke[side // 2 : side // 2 + 5, side // 8 : side - side // 8] = True
    prompts = Prompts.empty((side, side)).with_scribble(stroke)
    first = predictor.predict(prompts)
    again = prompts.with_click((side // 3, side // 3), positive=False).with_mask_input(first.logits)
    return lambda: predictor.predict(again)


def _plain_forward(predictor: Predictor) -> Callable[[], object]:
    network_input = torch.rand(1, CHANNELS, predictor.size, predictor.size)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = predictor.network(network_input)
        return logits

    forward()
    return forward


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000.0 * (time.perf_counter() - started)


def _summary(times: list[float]) -> str:
    high = times[min(len(times) - 1, int(0.95 * len(times)))]
    return f"median {statistics.median(times):6.1f} ms, 95 % {high:6.1f} ms, best {times[0]:6.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
