"""Where and how a network runs: the device, and the number format, memory layout and thread count on it.

What a device can do is found by computing, not by its name: a graphics driver may list one that cannot run a kernel.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scribblesegment.errors import DeviceError

if TYPE_CHECKING:
    import torch
    from torch import nn

ResultT = TypeVar("ResultT")

# Runs with either number of threads; the first of them also warms up.
_THREAD_TRIALS = 3

# How long a choice between one thread and all holds.
_CHOICE_HOLDS_S = 20.0


@dataclass(frozen=True)
class ExecutionPlan:
    """How a network is run."""

    device: str = "cpu"  # or "cuda", "cuda:1", "mps"
    bfloat16: bool = False  # whether parameters and activations are bfloat16 instead of float32
    channels_last: bool = False  # whether activations are stored with channels last
    threads: int | None = None  # of one operation on the processor; None leaves torch's own setting

    @classmethod
    def usual(cls, device: str, *, threads: int | None = None) -> ExecutionPlan:
        """The fastest way nearly everywhere: bfloat16 where the hardware multiplies it, channels last."""
        return cls(device, bfloat16=computes_bfloat16(device), channels_last=True, threads=threads)


@lru_cache(maxsize=1)
def torch_problem() -> str | None:
    """Say why torch cannot be used: it is missing, or its installation is broken; None where it can."""
    try:
        from torch import nn  # noqa: F401 - what is left of a package that was removed can be imported, too
    except ModuleNotFoundError as error:
        return "PyTorch is not installed." if error.name == "torch" else f"PyTorch cannot be loaded: {error}."
    except Exception as error:  # broken libraries raise whatever they like
        return f"PyTorch cannot be loaded: {str(error).strip() or type(error).__name__}"
    return None


def resolve_device(name: str = "auto") -> str:
    """Find a device that really computes: a torch device name on which a convolution was just run.

    Args:
        name: "auto" (CUDA or Apple's GPU when they work, else the processor), or a torch device name. Without PyTorch
            there is the processor alone.

    Raises:
        DeviceError: A device was asked for by name and cannot run a convolution.
    """
    missing = torch_problem()
    if missing is not None and name in ("auto", "cpu"):
        return "cpu"
    if name == "auto":
        import torch

        candidates = (["cuda"] if torch.cuda.is_available() else []) + (
            ["mps"] if torch.backends.mps.is_available() else []
        )
        return next((candidate for candidate in candidates if device_problem(candidate) is None), "cpu")
    problem = missing or device_problem(name)
    if problem is not None:
        raise DeviceError(
            f"Device {name!r} cannot run the network: {problem} Choose 'auto' or 'cpu', or install a torch build that "
            "supports it."
        )
    return name


def device_problem(name: str) -> str | None:
    """Run a small convolution on a device; return what went wrong, or None if it computed."""
    import torch

    try:
        device = torch.device(name)
        result = torch.nn.functional.conv2d(
            torch.ones(1, 1, 4, 4, device=device), torch.ones(1, 1, 3, 3, device=device)
        )
        torch.linalg.solve(torch.eye(2, device=device), torch.ones(2, 1, device=device))
        torch.nn.functional.grid_sample(
            torch.ones(1, 1, 4, 4, device=device),
            torch.zeros(1, 2, 2, 2, device=device),
            padding_mode="border",
            align_corners=False,
        )
        return None if float(result.sum()) == 36.0 else "a test convolution gave a wrong result."
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # torch raises AssertionError when it was built without the backend that was asked for.
        return f"{str(error).strip().splitlines()[0].rstrip('.')}."


def has_bfloat16_units() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware; where it is emulated, it is only slower."""
    import torch

    # Private, and the only word torch has on it; where a release lacks it, float32 is used, which is never wrong.
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())


def computes_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":  # `is_bf16_supported` counts emulation, too
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    return kind == "cpu" and has_bfloat16_units()


def prepare(network: nn.Module, plan: ExecutionPlan) -> nn.Module:
    """Copy a network to a plan's device, number format and memory layout, ready for inference."""
    import torch

    prepared = copy.deepcopy(network).eval().requires_grad_(False)
    prepared = prepared.to(device=plan.device, dtype=torch.bfloat16 if plan.bfloat16 else torch.float32)
    if plan.channels_last:
        # The stubs of torch know this overload only for tensors.
        prepared = prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prepared


def run(prepared: nn.Module, network_input: torch.Tensor, plan: ExecutionPlan, *context: Any) -> torch.Tensor:
    """Run a network of `prepare`, with what `compute` made of a context for the same plan.

    The input is float32 (B, C, H, W) on any device, the result float32 (B, 1, H, W) on the processor.
    """
    logits: torch.Tensor = compute(lambda moved: prepared(moved, *context), plan, network_input)
    return logits.float().cpu()


def compute(function: Callable[..., ResultT], plan: ExecutionPlan, *tensors: torch.Tensor) -> ResultT:
    """Call a function of a prepared network with tensors in the device, number format and layout of its plan."""
    import torch

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(device=plan.device, dtype=torch.bfloat16 if plan.bfloat16 else torch.float32)
        is_image = plan.channels_last and tensor.ndim == 4
        return tensor.contiguous(memory_format=torch.channels_last) if is_image else tensor

    with torch.inference_mode(), limited_threads(plan.threads):
        return function(*(moved(tensor) for tensor in tensors))


class NumpyThreads:
    """Runs NumPy's matrix products on one core or on all, whichever is faster at the moment.

    OpenBLAS divides every product among all cores and waits for the last of them. While something else runs on one of
    these, a network takes twenty times as long as on one core alone.
    """

    def __init__(self) -> None:
        self._count, self._holds_until = 1, -math.inf
        self._product = [np.ones(shape, np.float32) for shape in ((64, 576), (576, 2304))]

    def run(self, work: Callable[[], ResultT]) -> ResultT:
        """Do some work on the better number of threads; every now and then it is found out which that is."""
        functions = _openblas()
        most = 1 if functions is None else functions[0]()
        if functions is None or most == 1:
            return work()
        _tell, use = functions
        try:
            if time.monotonic() > self._holds_until:
                self._count = min((1, most), key=lambda count: self._seconds(use, count))
                self._holds_until = time.monotonic() + _CHOICE_HOLDS_S
            use(self._count)
            return work()
        finally:
            use(most)  # the process's own setting: others share it

    def _seconds(self, use: Callable[[int], None], count: int) -> float:
        """Time a few products of the size that networks have, all of them: the slow ones are what matters here."""
        use(count)
        np.matmul(*self._product)
        began = time.perf_counter()
        for _ in range(4):
            np.matmul(*self._product)
        return time.perf_counter() - began


@lru_cache(maxsize=1)
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What tells and what sets OpenBLAS's number of threads; None where NumPy computes with something else."""
    folder = Path(np.__file__).parent
    files = {*folder.parent.glob("numpy.libs/*openblas*"), *folder.glob(".dylibs/*openblas*")}
    with contextlib.suppress(OSError):  # only Linux tells what is loaded; there it may be the system's
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        files |= {Path(line.split()[-1]) for line in loaded if "openblas" in line}
    for file in sorted(files):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(file))
            for prefix, suffix in (("scipy_", "64_"), ("", ""), ("", "64_"), ("scipy_", "")):
                with contextlib.suppress(AttributeError):
                    tell = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
                    return tell, getattr(library, f"{prefix}openblas_set_num_threads{suffix}")
    return None


def best_thread_count(work: Callable[[], object]) -> int | None:
    """Measure whether some work is faster with one thread (1) than with torch's own number of them (None).

    Beside other work it can be many times faster, because nobody has to wait for a second thread that is not running.
    """
    shortest: dict[int | None, float] = {None: math.inf, 1: math.inf}
    for _ in range(_THREAD_TRIALS):
        for count in shortest:
            with limited_threads(count):
                began = time.perf_counter()
                work()
                shortest[count] = min(shortest[count], time.perf_counter() - began)
    return 1 if shortest[1] < shortest[None] else None


@contextlib.contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Use a number of threads (None: torch's own), and give the process its setting back: other extensions share it."""
    import torch

    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
