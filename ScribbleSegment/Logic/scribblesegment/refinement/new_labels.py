"""A label that the network was not trained for: one more output channel of its last convolution.

Source: Sambaturu et al., table 1 ("segment new organs than trained for"), which does not say how. Here the channel's
weights are fitted, by weighted ridge regression, to the features under the scribbles: its logit shall be above all
others under scribbles of the label, and below them elsewhere. Refinement then goes on from there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.network_graph import Features, Head, SplitNetwork, Weights
from scribblesegment.refinement.outputs import Output

# By how much the new logit is to be above, or below, the highest of the others.
_MARGIN = 2.0

# Pixels without a scribble count together this much of those of other labels: most of them belong to other labels, but
# some to the new one.
_UNMARKED_WEIGHT = 0.5

# Ridge relative to the mean square of a feature.
_RIDGE = 1e-2


def samples_at_head(
    head: Head, weights: Weights, features: Features, positions: Tensor, patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Read the head's input (n, C) and output (n, K), float32, under pixels (n, ndim) of a patch of a given size.

    The head may work on a coarser grid than the patch.
    """
    with torch.no_grad():
        values, raw = head.ends(*weights.values(), *features)

    def under(maps: Tensor) -> Tensor:
        grid = torch.tensor(maps.shape[2:], device=positions.device)
        index = positions * grid // torch.tensor(patch_size, device=positions.device)
        return maps[(0, slice(None), *index.T)].T.float()

    return under(values), under(raw)


def with_new_labels(
    head: Head, weights: Weights, rows: Tensor, raw: Tensor, labels: Tensor, output: Output, count: int
) -> dict[str, Tensor]:
    """Add output channels to the last convolution.

    Args:
        head: The last convolution.
        weights: Of the refined layers.
        rows: (n, C) its input under scribbled pixels and a sample of the others.
        raw: (n, K) its output there.
        labels: (n,) int64, the target labels; -1 for pixels without a scribble. Every new label occurs.
        output: How its channels are labels.
        count: Number of labels of the network, the background included; the new ones follow.

    Returns:
        All the weights, those of the head enlarged.

    Raises:
        NetworkError: The convolution's input channels are in groups.
    """
    kernel = weights[head.weight]
    if kernel.shape[1] != rows.shape[1]:
        raise NetworkError("No label can be added to this network: its last convolution works in groups of channels.")
    # A structure of a network with sigmoid outputs also competes with the background, whose logit is zero.
    highest = (raw if output.activation == "softmax" else functional.pad(raw, (1, 0))).max(dim=1).values
    bias = None if head.bias is None else weights[head.bias]
    kernels, biases = [kernel], [] if bias is None else [bias]
    for label in range(count, int(labels.max()) + 1):
        wanted = highest + torch.where(labels == label, _MARGIN, -_MARGIN)
        # The new label, the other scribbles and the rest count the same, however many pixels they are.
        sample_weights = torch.zeros(labels.shape, device=labels.device)
        for group, share in (
            (labels == label, 1.0),
            ((labels != label) & (labels >= 0), 1.0),
            (labels < 0, _UNMARKED_WEIGHT),
        ):
            sample_weights[group] = share / max(1, int(group.sum()))
        channel, constant = _ridge(rows, wanted, sample_weights, with_constant=bias is not None)
        added = torch.zeros_like(kernel[:1])
        # Where the kernel is more than one pixel wide, the features of its centre decide.
        added.flatten(2)[0, :, math.prod(kernel.shape[2:]) // 2] = channel.to(kernel.dtype)
        kernels.append(added)
        if bias is not None:
            biases.append(constant.to(bias.dtype).reshape(1))
    enlarged = {**weights, head.weight: torch.cat(kernels)}
    if head.bias is not None:
        enlarged[head.bias] = torch.cat(biases)
    return enlarged


def require_labels(network: SplitNetwork, weights: Weights, features: Features, output: Output, count: int) -> None:
    """Run a network with added output channels; raises NetworkError if what follows the head does not take them."""
    cause: RuntimeError | None = None
    labels = 0
    try:
        with torch.no_grad():
            labels = output.class_logits(network.run(weights, features)).shape[1]
    except RuntimeError as error:
        cause = error
    if labels != count:
        raise NetworkError(
            f"No label can be added to this network: what follows its last convolution does not work with {count} "
            "labels. Use a network that returns the output of its last convolution."
        ) from cause


def _ridge(rows: Tensor, wanted: Tensor, weights: Tensor, *, with_constant: bool) -> tuple[Tensor, Tensor]:
    """Fit wanted ~ rows @ channel + constant by weighted least squares with a small ridge on the channel."""
    zero = torch.zeros((), device=rows.device, dtype=torch.float64)
    rows, wanted, weights = rows.double(), wanted.double(), weights.double() / weights.sum()
    mean, level = (weights @ rows, weights @ wanted) if with_constant else (torch.zeros_like(rows[0]), zero)
    centred = rows - mean
    moments = centred.T @ (weights[:, None] * centred)
    ridge = _RIDGE * moments.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(len(moments), device=rows.device, dtype=moments.dtype)
    channel = torch.linalg.solve(moments + ridge * identity, centred.T @ (weights * (wanted - level)))
    return channel, level - mean @ channel
