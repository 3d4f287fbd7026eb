"""Time the published network in context, and weigh it: `python scripts/benchmark_context.py`.

MultiverSeg with 256 features (parameters are random: neither time nor memory depends on them) as this package runs it,
against its plain float32 forward pass as published, in turn, so that other load on the machine touches both. Ours runs
in the way that a predictor would choose by trying. Memory is measured in a process of its own. Linux and macOS.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.inference.devices import ExecutionPlan, choose_plan, compute, has_bfloat16_units, prepare, run
from scribblesegment.models.cross_block import SLOPE, CrossBlock
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.multiverseg import MultiverSeg, MultiverSegConfig

_GB = 1e9
# Linux counts in KiB, macOS in bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> int:
    """Parse the arguments and print the figures."""
    arguments = _arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    bfloat16 = has_bfloat16_units() if arguments.format == "auto" else arguments.format == "bfloat16"
    plan = ExecutionPlan("cpu", bfloat16=bfloat16, channels_last=True)
    try:
        if arguments.weigh is not None:
            _weigh(arguments.features, arguments.size, arguments.weigh, plan)
            return 0
        # First, while this process is small: a new process starts with the peak of the one that starts it.
        if arguments.memory_entries > 0:
            code = _memory_of_a_process(arguments.memory_entries, plan)
            if code != 0:
                print(f"error: the measurement of memory failed with exit code {code}", file=sys.stderr)
                return 2
        if arguments.runs > 0:
            _time(arguments, plan)
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[1, 8], help="sizes of context sets to time")
    parser.add_argument("--memory-entries", type=int, default=64, help="size of the set to weigh; 0: do not weigh")
    parser.add_argument("--features", type=int, nargs="+", default=list(MultiverSegConfig().features))
    parser.add_argument("--size", type=int, default=128, help="side of the network's grid")
    parser.add_argument("--runs", type=int, default=5, help="pairs of forward passes; 0: do not time")
    parser.add_argument("--threads", type=int, help="threads of both; default: torch's own choice")
    parser.add_argument("--format", choices=("auto", "bfloat16", "float32"), default="auto", help="of ours")
    parser.add_argument("--weigh", type=int, metavar="ENTRIES", help=argparse.SUPPRESS)  # what the new process does
    arguments = parser.parse_args()
    if min(arguments.entries) < 0 or arguments.memory_entries < 0 or arguments.runs < 0:
        parser.error("numbers of entries and runs must not be negative.")
    return arguments


def _time(arguments: argparse.Namespace, plan: ExecutionPlan) -> None:
    """Time both ways with each number of entries."""
    network = _network(arguments.features)
    if arguments.format == "auto":
        plan = choose_plan(network, torch.zeros(1, CHANNELS, arguments.size, arguments.size))
    prepared = cast(MultiverSeg, prepare(network, plan))
    print(
        f"features {tuple(arguments.features)}, {arguments.size} x {arguments.size}, {torch.get_num_threads()} threads"
    )
    print(f"ours: {plan}\npublished: float32; medians of {arguments.runs} pairs")
    print(f"{'entries':>7} {'published':>12} {'ours':>12} {'ratio':>6}   {'encoding':>9}   difference of logits")
    for entries in arguments.entries:
        print(_row(network, prepared, plan, _case(entries, arguments.size), arguments.runs), flush=True)


def _row(
    network: MultiverSeg, prepared: MultiverSeg, plan: ExecutionPlan, case: tuple[Tensor, Tensor, Tensor], runs: int
) -> str:
    x, images, masks = case
    encode = partial(compute, prepared.encode_context, plan, images, masks)
    context = encode()
    ours, theirs = partial(run, prepared, x, plan, context), partial(published_forward, network, x, images, masks)
    exact = theirs()
    difference = float((ours() - exact).std() / exact.std())
    pairs = [(_seconds(theirs), _seconds(ours)) for _ in range(runs)]
    before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(plain / fast for plain, fast in pairs)
    return (
        f"{images.shape[1]:7d} {1 / before:10.2f}/s {1 / after:10.2f}/s {ratio:6.1f}   "
        f"{1000 * _seconds(encode):6.1f} ms   {difference:.1%} of their deviation"
    )


@torch.inference_mode()
def published_forward(network: MultiverSeg, x: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """Run a network the way the published implementation does: all entries at once, one operation after the other.

    It splits the cross-convolution too (appendix A.1), so the convolutions of the target are not repeated. Like it, the
    features of the entries after the last block are computed, which nobody reads.

    Args:
        network: The network; its own forward pass is not used.
        x: (1, 5, H, W).
        images: (1, S, 1, H, W).
        masks: (1, S, 1, H, W).

    Returns:
        Logits (1, 1, H, W).
    """

    def crossed(block: CrossBlock, target: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, channels = block.cross_conv.weight, block.cross_conv.bias, block.target_channels
        asked = functional.conv2d(target, weight[:, :channels], bias, padding=1)
        mixed = functional.leaky_relu(asked + functional.conv2d(entries, weight[:, channels:], padding=1), SLOPE)
        return block.target(mixed.mean(dim=0, keepdim=True)), block.support(mixed)

    def joined(below: Tensor, beside: Tensor) -> Tensor:
        size = beside.shape[2:]
        enlarged = functional.interpolate(below, size=size, mode="bilinear", align_corners=True)
        return torch.cat([enlarged, beside], dim=1)

    if images.shape[1] == 0:
        images = masks = torch.full((1, 1, *x.shape[1:]), 0.5)[:, :, :1]
    target, entries = x, torch.cat([images, masks], dim=2)[0]
    skips: list[tuple[Tensor, Tensor]] = []
    for block in cast("list[CrossBlock]", list(network.enc_blocks)):
        if skips:
            target, entries = (functional.max_pool2d(features, 2) for features in (target, entries))
        target, entries = crossed(block, target, entries)
        skips.append((target, entries))
    skips.pop()
    for block in cast("list[CrossBlock]", list(network.dec_blocks)):
        beside, entries_beside = skips.pop()
        target, entries = crossed(block, joined(target, beside), joined(entries, entries_beside))
    logits: Tensor = network.out_conv(target)
    return logits


def _memory_of_a_process(entries: int, plan: ExecutionPlan) -> int:
    """Weigh in a process of its own, with the other arguments of this one; returns its exit code."""
    number_format = "bfloat16" if plan.bfloat16 else "float32"
    command = [sys.executable, __file__, *sys.argv[1:], "--weigh", str(entries), "--format", number_format]
    return subprocess.run(command, check=False).returncode


def _weigh(features: list[int], size: int, entries: int, plan: ExecutionPlan) -> None:
    prepared = cast(MultiverSeg, prepare(_network(features), plan))
    x, images, masks = _case(entries, size)
    before = _resident()
    started = time.perf_counter()
    run(prepared, x, plan, compute(prepared.encode_context, plan, images, masks))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    print(
        f"memory with {entries} entries, {'bfloat16' if plan.bfloat16 else 'float32'}: the process's peak is "
        f"{peak / _GB:.2f} GB, {(peak - before) / _GB:.2f} GB above before ({time.perf_counter() - started:.1f} s)",
        flush=True,
    )


def _resident() -> int:
    """Bytes of this process that are in memory now; where the system does not tell, at most until now."""
    statistics_file = Path("/proc/self/statm")
    if statistics_file.exists():
        return int(statistics_file.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def _network(features: list[int]) -> MultiverSeg:
    torch.manual_seed(0)
    return MultiverSeg(MultiverSegConfig(tuple(features))).eval().requires_grad_(False)


def _case(entries: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(1, entries, 1, size, size, generator=rng)
    return torch.rand(1, CHANNELS, size, size, generator=rng), images, (images > 0.5).float()


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
