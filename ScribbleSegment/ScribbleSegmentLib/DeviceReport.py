"""What a device can do, found out by computing on it."""

from __future__ import annotations

from dataclasses import dataclass

from scribblesegment.devices import device_problem, resolve_device


@dataclass(frozen=True)
class DeviceReport:
    """Result of a check.

    Attributes:
        device: The device that was checked; for "auto", the one that would be used.
        hardware: What it is called, where it has a name.
        problem: Why it cannot compute, in PyTorch's words, or None.
        unused: Why a graphics card is there and not used, in PyTorch's words, or None.
    """

    device: str
    hardware: str = ""
    problem: str | None = None
    unused: str | None = None


def checkDevice(name: str) -> DeviceReport:
    """Run a convolution on a device. Imports PyTorch, which takes seconds.

    Args:
        name: "auto" or a torch device name.

    Raises:
        ImportError: PyTorch is missing or damaged.
        OSError: PyTorch's libraries cannot be loaded.
    """
    if name != "auto":
        problem = device_problem(name)
        return DeviceReport(name, "" if problem else _hardware(name), problem)
    import torch

    device = resolve_device("auto")
    unused = device_problem("cuda") if device == "cpu" and torch.cuda.is_available() else None
    return DeviceReport(device, _hardware(device), None, unused)


def _hardware(device: str) -> str:
    import torch

    return str(torch.cuda.get_device_name(device)) if device.startswith("cuda") else ""
