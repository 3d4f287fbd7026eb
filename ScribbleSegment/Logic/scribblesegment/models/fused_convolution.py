"""3x3 convolutions that do the next step in the same pass over memory, where this build of torch has that.

On processors with bfloat16 units, a pass over the results takes a tenth of the time of the convolution itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def convolve_and_activate(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """Convolve with zero padding to the same size, then apply a leaky ReLU.

    Args:
        x: (N, C, H, W).
        weight: (O, C, 3, 3).
        bias: (O,), or None.
        slope: Slope of the activation below zero.

    Returns:
        (N, O, H, W).
    """
    if _may_be_fused(x, weight):
        activated: Tensor = _activating()(x, weight, bias, *_SHAPE, "leaky_relu", [slope], "")
        return activated
    return functional.leaky_relu(functional.conv2d(x, weight, bias, padding=1), slope, inplace=True)


def convolve_and_add(x: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    """Convolve with zero padding to the same size, and add other features.

    Args:
        x: (N * B, C, H, W).
        weight: (O, C, 3, 3).
        other: (B, O, H, W), added to each of the N blocks of x.

    Returns:
        (N * B, O, H, W).
    """
    if len(x) == len(other) and _may_be_fused(x, weight):
        added: Tensor = _adding()(x, other, weight, None, *_SHAPE, "add", 1.0, None, [], None)
        return added
    convolved = functional.conv2d(x, weight, padding=1)
    convolved.unflatten(0, (-1, len(other))).add_(other)
    return convolved


# Padding, stride, dilation and groups.
_SHAPE = ([1, 1], [1, 1], [1, 1], 1)


def _may_be_fused(x: Tensor, weight: Tensor) -> bool:
    # The fused operations know no gradients. In float32, where the convolution takes so much longer that a pass less is
    # not seen, the plain operations give the published results to the last digits.
    is_bfloat16 = x.dtype == torch.bfloat16 and weight.dtype == torch.bfloat16
    return is_bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled() and _fused_operations_work()


def _activating() -> Any:
    return torch.ops.mkldnn._convolution_pointwise.default


def _adding() -> Any:
    return torch.ops.mkldnn._convolution_pointwise.binary


@lru_cache(maxsize=1)
def _fused_operations_work() -> bool:
    """Try torch's operations, which its own compiler uses.

    They are not documented. Where a release lacks them or changes them, the plain ones do the same.
    """
    x = torch.arange(-16.0, 16.0).reshape(1, 2, 4, 4)
    weight = torch.arange(-27.0, 27.0).reshape(3, 2, 3, 3)
    bias, other = torch.tensor([0.5, -1.0, 2.0]), torch.arange(48.0).reshape(1, 3, 4, 4)
    convolved = functional.conv2d(x, weight, bias, padding=1)
    try:
        with torch.inference_mode():
            activated = _activating()(x, weight, bias, *_SHAPE, "leaky_relu", [0.25], "")
            added = _adding()(x, other, weight, bias, *_SHAPE, "add", 1.0, None, [], None)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    activates = torch.allclose(activated, functional.leaky_relu(convolved, 0.25))
    return activates and torch.allclose(added, convolved + other)
