"""One process or several: what `torchrun` sets up, behind a few plain values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as torch_distributed
from torch import nn

from scribblesegment.devices import device_problem
from scribblesegment.exceptions import DeviceError


@dataclass(frozen=True)
class Processes:
    """This process among all of them: its rank, their number, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes files and shows progress."""
        return self.rank == 0

    def average_gradients(self, network: nn.Module) -> None:
        """Give the parameters of all processes' networks the mean of their gradients; all of them must ask."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        torch_distributed.all_reduce(together)
        together /= self.count
        for gradient, mean in zip(gradients, together.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def any(self, value: bool) -> bool:
        """Tell whether a value is true in any of the processes; all of them must ask."""
        if self.count == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        torch_distributed.all_reduce(flag, torch_distributed.ReduceOp.MAX)
        return flag.item() > 0.0


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the process group that `torchrun` announces, if any, and leave it at the end.

    Args:
        device: "auto" (CUDA where it works), "cpu" or "cuda": one GPU for each process of this machine.

    Raises:
        DeviceError: If the device is unknown or does not compute.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    where = _choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if count == 1:
        yield Processes(0, 1, where)
        return
    torch_distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Processes(torch_distributed.get_rank(), count, where)
    finally:
        torch_distributed.destroy_process_group()


def _choose_device(name: str, local_rank: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"Training runs on the device auto, cpu or cuda, got {name!r}.")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    problem = device_problem(f"cuda:{local_rank}")
    if problem is not None:
        raise DeviceError(
            f"Training process {local_rank} cannot use cuda:{local_rank}: {problem} Use the device cpu, or start no "
            "more processes than there are GPUs."
        )
    return torch.device("cuda", local_rank)
