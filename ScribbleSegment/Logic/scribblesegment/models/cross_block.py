"""CrossBlock: lets the features of a target and those of every entry of a context set see each other.

Source: MultiverSeg, equations 3 and 4 and appendix A.1. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import GeometryError
from scribblesegment.models.enlarged_convolution import convolve_enlarged, taps_of
from scribblesegment.models.fused_convolution import convolve_and_activate, convolve_and_add

# Of the published networks; `layers.LEAKY_SLOPE` is that of ours.
SLOPE = 0.01


class ConvolutionOp(nn.Module):
    """A convolution that keeps channels and size, an activation, and a normalisation where the network has one."""

    def __init__(self, features: int, *, normalise: bool) -> None:
        """Build the layers."""
        super().__init__()
        self.conv = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.norml = nn.GroupNorm(1, features) if normalise else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, features, H, W) to the same shape."""
        x = convolve_and_activate(x, self.conv.weight, self.conv.bias, SLOPE)
        return x if self.norml is None else self.norml(x)


class EntryConvolution:
    """The part of a cross-convolution that reads the entries, ready to be applied to many pieces."""

    def __init__(self, weight: Tensor, below_channels: int) -> None:
        """Cut the weights (features, channels, 3, 3), of which the first channels read the level below."""
        self._taps = taps_of(weight[:, :below_channels]) if below_channels else None
        # A copy, because a convolution would otherwise copy the cut-out part at every call.
        self._weight = weight[:, below_channels:].clone()

    def __call__(self, target: Tensor, entries: Tensor, below: Tensor | None = None) -> Tensor:
        """Convolve entries, and add what the other part of the cross-convolution made of the target.

        Args:
            target: (B, features, H, W).
            entries: (N * B, channels, H, W).
            below: In a decoder, features (N * B, channels, h, w) of the level below.

        Returns:
            (N * B, features, H, W).
        """
        mixed = convolve_and_add(entries, self._weight, target)
        return mixed if below is None or self._taps is None else convolve_enlarged(below, self._taps, mixed)


class CrossBlock(nn.Module):
    """Mixes a target with context entries (MultiverSeg, equation 4 and appendix A.1).

    The published normalisation differs from equation 4: there is none after the cross-convolution, and those of the
    two other convolutions run over channels and pixels together with a scale and shift for each channel, which is a
    group normalisation with one group.
    """

    def __init__(
        self,
        target_channels: int,
        entry_channels: int,
        features: int,
        *,
        below_channels: int = 0,
        normalise: bool,
        cross_activation: bool,
    ) -> None:
        """Build the three convolutions.

        Args:
            target_channels: Channels of the target.
            entry_channels: Channels of the entries.
            features: Channels of the results.
            below_channels: How many of the channels, the first of the target's and of the entries', come from the
                level below.
            normalise: Whether the convolutions after the cross-convolution are normalised.
            cross_activation: Whether an activation follows the cross-convolution.
        """
        super().__init__()
        self.target_channels = target_channels
        self.below_channels = below_channels
        self.cross_activation = cross_activation
        self.cross = nn.Sequential(
            OrderedDict(cross_conv=nn.Conv2d(target_channels + entry_channels, features, kernel_size=3, padding=1))
        )
        self.target, self.support = (
            nn.Sequential(OrderedDict(vmapped=ConvolutionOp(features, normalise=normalise))) for _ in range(2)
        )

    @property
    def cross_conv(self) -> nn.Conv2d:
        """The convolution of target and entry side by side; target first."""
        return cast("nn.Conv2d", self.cross[0])

    def read_target(self, target: Tensor, below: Tensor | None = None) -> Tensor:
        """Apply the part of the cross-convolution that reads the target.

        Args:
            target: (B, channels, H, W).
            below: In a decoder, the target's features (B, channels, h, w) of the level below.

        Returns:
            (B, features, H, W).
        """
        weight = self.cross_conv.weight[:, : self.target_channels]
        convolved = functional.conv2d(target, weight[:, self.below_channels :], self.cross_conv.bias, padding=1)
        if below is None:
            return convolved
        return convolve_enlarged(below, taps_of(weight[:, : self.below_channels]), convolved)

    def entry_convolution(self) -> EntryConvolution:
        """Return the part of the cross-convolution that reads the entries."""
        return EntryConvolution(self.cross_conv.weight[:, self.target_channels :], self.below_channels)

    def forward(self, mixed: Iterable[Tensor], batch: int, keep: Callable[[Tensor], None] | None = None) -> Tensor:
        """Go on from the cross-convolution to the new features.

        Args:
            mixed: Pieces (N * B, features, H, W) of at least one entry in all, from `entry_convolution`; they are
                changed.
            batch: B.
            keep: Takes the new features of the entries, (N * B, features, H, W), piece by piece; None where nobody
                reads them.

        Returns:
            New features of the target, (B, features, H, W).
        """
        mean = EntryMean()
        for piece in mixed:
            if self.cross_activation:
                functional.leaky_relu(piece, SLOPE, inplace=True)
            mean.add(piece, entries=len(piece) // batch)
            if keep is not None:
                keep(self.support(piece))
        output: Tensor = self.target(mean.result())
        return output


class EntryMean:
    """Mean over entries, summed in pairs, pairs of pairs and so on.

    One after the other, the last of many would be lost in the rounding of bfloat16; a sum in float32 takes more than
    twice the time; and torch's sum over the first axis of channels-last features takes many times that.
    """

    def __init__(self) -> None:
        """Start without entries."""
        self._count = 0
        self._sums: list[Tensor] = []  # of 2**k entries each, k as in the binary digits of the count

    def add(self, features: Tensor, *, entries: int) -> None:
        """Add (entries * B, C, H, W), which must not be changed afterwards."""
        for entry in features.chunk(entries):
            self._count += 1
            total, pairs = entry, self._count
            while pairs % 2 == 0:
                total, pairs = self._sums.pop() + total, pairs // 2
            self._sums.append(total)

    def result(self) -> Tensor:
        """Return the mean, (B, C, H, W)."""
        if self._count == 0:
            raise GeometryError("There is no mean over no entries. Give the block at least one.")
        total = self._sums.pop()
        while self._sums:
            total = self._sums.pop() + total
        return total / self._count if self._count > 1 else total
