"""Time and memory of refining a network on one slice: `python scripts/benchmark_refinement.py`.

A U-Net as nnU-Net configures it, with random weights, on an image of noise with strokes of three labels. It tells

- an iteration with the features in front of the last layers cached, in float32 and in the number format chosen here,
  against forward and backward passes through the whole network, for all its weights and for the same layers only;
- how far the gradients of the cached and the whole network differ;
- the whole refinement of a slice, first prediction and preparation included;
- the most memory that a refinement and a plain prediction take for tensors.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.evaluation.correction_network import PlainUNet
from scribblesegment.inference.devices import computes_bfloat16
from scribblesegment.refinement.constraints import in_bfloat16
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.network_graph import prepare_network
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.refiner import Refiner

_LABELS = 4


def main() -> int:
    """Parse the arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="of the image, in pixels")
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128, 256, 256], help="of the levels")
    parser.add_argument("--layers", type=int, default=4, help="that are refined")
    parser.add_argument("--trials", type=int, default=7, help="of which the fastest counts")
    parser.add_argument("--threads", type=int, help="of one operation; torch's own choice by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    _print_times(options)
    _print_memory(options)
    return 0


def network_of(options: argparse.Namespace) -> PlainUNet:
    """Make the network, with fixed weights."""
    torch.manual_seed(0)
    return PlainUNet(_LABELS, options.features).eval()


def strokes(side: int) -> LabelScribbles:
    """Draw three strokes of different labels, three pixels wide."""
    labels = np.full((side, side), -1, np.int16)
    for label, row in ((1, side // 8), (2, side // 2), (0, 7 * side // 8)):
        labels[row - 1 : row + 2, side // 5 : side // 2] = label
    return LabelScribbles.from_labels(labels)


def _print_times(options: argparse.Namespace) -> None:
    network, image = network_of(options), torch.rand(1, 1, options.side, options.side)
    marks = strokes(options.side)
    marked = torch.from_numpy(marks.marked)
    asked = torch.from_numpy(marks.labels[marks.marked].astype(np.int64))
    prepared, _, _, _ = prepare_network(network, image, Output())
    split = prepared.split(options.layers)
    features = split.features(image)

    def gradients(predict: Callable[[dict[str, Tensor]], Tensor], names: list[str]) -> dict[str, Tensor]:
        own = dict(network.named_parameters())
        weights = {name: own[name].detach().clone().requires_grad_() for name in names}
        functional.cross_entropy(predict(weights)[0][:, marked].T.float(), asked).backward()
        return {name: tensor.grad for name, tensor in weights.items() if tensor.grad is not None}

    def whole(weights: dict[str, Tensor]) -> Tensor:
        others = {name: tensor.detach() for name, tensor in network.named_parameters()}
        values: Tensor = torch.func.functional_call(network, {**others, **weights}, (image,))
        return values

    half = in_bfloat16(features)
    refined, everything = list(split.pretrained), [name for name, _ in network.named_parameters()]
    cases: dict[str, Callable[[], dict[str, Tensor]]] = {
        "cached, float32": lambda: gradients(lambda weights: split.run(weights, features), refined),
        "whole network, all weights": lambda: gradients(whole, everything),
        "whole network, the same layers": lambda: gradients(whole, refined),
    }
    if computes_bfloat16("cpu"):
        cases["cached, bfloat16"] = lambda: gradients(
            lambda weights: split.run({name: tensor.bfloat16() for name, tensor in weights.items()}, half), refined
        )
    cached, reference = cases["cached, float32"](), cases["whole network, all weights"]()
    difference = max(float((cached[name] - reference[name]).abs().max()) for name in refined)
    times = _fastest(cases, options.trials)
    print(
        f"U-Net {'-'.join(map(str, options.features))}, {options.side} x {options.side}, the last {options.layers} of "
        f"{len(prepared.layers)} layers, {torch.get_num_threads()} threads; milliseconds an iteration"
    )
    for name, milliseconds in times.items():
        print(f"  {name:32}{milliseconds:8.1f}   {milliseconds / times['cached, float32']:5.1f} x the cached")
    print(f"  largest difference of gradients {difference:.1e}")
    for count in (1, 2):
        began = time.perf_counter()
        refiner = Refiner(network, image[0], config=RefinementConfig(layers=options.layers))
        refiner.infer()
        result = refiner.refine(marks)
        print(
            f"  a slice, time {count}: {time.perf_counter() - began:.2f} s with preparation and first prediction, of "
            f"which {result.seconds:.2f} s are the refinement ({result.iterations} iterations, {result.stopped})"
        )


def _fastest(cases: Mapping[str, Callable[[], object]], trials: int) -> dict[str, float]:
    """Time the cases in turn, again and again, so that other load slows all of them alike."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(trials + 1):
        for name, case in cases.items():
            began = time.perf_counter()
            case()
            best[name] = min(best[name], 1000 * (time.perf_counter() - began))
    return best


def _print_memory(options: argparse.Namespace) -> None:
    network, image = network_of(options), torch.rand(1, options.side, options.side)

    def predict() -> None:
        with torch.inference_mode():
            network(image[None])

    def refine() -> None:
        Refiner(network, image, config=RefinementConfig(layers=options.layers)).refine(strokes(options.side))

    prediction, refinement = _most_allocated(predict), _most_allocated(refine)
    print(
        f"  most memory for tensors: prediction {prediction:.0f} MB, refinement {refinement:.0f} MB "
        f"({refinement / prediction:.2f} times)"
    )


def _most_allocated(work: Callable[[], None]) -> float:
    """Most megabytes that PyTorch held at once on the processor while it did some work, above those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    # The public tables give sums only; the events tell every allocation (positive) and release (negative) in order.
    events = profile.profiler.kineto_results.events()
    held = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    return float(held.max()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
