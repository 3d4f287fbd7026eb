"""The windows of MONAI's inferers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scribblesegment.exceptions import NetworkError
from scribblesegment.refinement.tiling import Tiling


@dataclass(frozen=True)
class MonaiTiling(Tiling):
    """Windows whose weights are those of MONAI, which centres its Gaussian between pixels.

    Attributes:
        sigma: Of the Gaussian, as a fraction of a window's side.
    """

    sigma: float | Sequence[float] = 0.125

    def weights(self) -> torch.Tensor:
        """Weights of a window's pixels, float32 of the patch size, in (0, 1]."""
        from monai.data.utils import compute_importance_map

        mode = "gaussian" if self.gaussian else "constant"
        return torch.as_tensor(compute_importance_map(self.patch_size, mode=mode, sigma_scale=self.sigma))


def monai_tiling(shape: Sequence[int], inferer: Any, slice_axis: int | None, name: str) -> Tiling:
    """Lay out the windows of a bundle's inferer.

    Args:
        shape: Of the grid.
        inferer: A sliding window, or one that gives the network the whole image; None is the latter.
        slice_axis: Axis that a 2D network does not see.
        name: What messages call the network.

    Raises:
        NetworkError: Another inferer.
    """
    from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer
    from monai.utils import ensure_tuple_rep, fall_back_tuple

    seen = [int(side) for axis, side in enumerate(shape) if axis != slice_axis]
    if inferer is None or isinstance(inferer, SimpleInferer):
        return Tiling.whole(shape) if slice_axis is None else Tiling.slices(shape, slice_axis)
    if not isinstance(inferer, SlidingWindowInferer) or isinstance(inferer, SliceInferer):
        raise NetworkError(
            f"{name} is run by {type(inferer).__name__}, which is not supported; a bundle that is corrected has a "
            "SlidingWindowInferer or a SimpleInferer."
        )
    patch = [int(side) for side in fall_back_tuple(inferer.roi_size, seen)]
    overlaps = ensure_tuple_rep(inferer.overlap, len(patch))
    starts = [_starts(side, size, overlap) for side, size, overlap in zip(seen, patch, overlaps, strict=True)]
    if slice_axis is not None:
        patch.insert(slice_axis, 1)
        starts.insert(slice_axis, list(range(shape[slice_axis])))
    windows = tuple(
        tuple(slice(start, start + size) for start, size in zip(corner, patch, strict=True))
        for corner in itertools.product(*starts)
    )
    sides = tuple(int(side) for side in shape)
    gaussian = str(getattr(inferer.mode, "value", inferer.mode)) == "gaussian"
    sigma = inferer.sigma_scale
    return MonaiTiling(sides, tuple(patch), windows, slice_axis, gaussian, sigma)


def _starts(side: int, size: int, overlap: float) -> list[int]:
    """Where windows begin on one axis: at equal steps, the last one moved back to end with the image."""
    last = max(side, size) - size
    step = max(1, int(size * (1 - overlap)))
    starts = [*range(0, last, step), last]
    return starts
