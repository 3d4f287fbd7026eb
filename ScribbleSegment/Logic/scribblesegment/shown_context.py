"""A context set as the predictor's network is shown it: encoded once, matched once an image, cut for every look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context import ContextSet
from scribblesegment.devices import ExecutionPlan, compute
from scribblesegment.slice_view import SliceView

if TYPE_CHECKING:
    import torch
    from torch import nn

    from scribblesegment.models.in_context import ContextMapsNetwork


class ShownContext:
    """What the network makes of a context set."""

    def __init__(self, context: ContextSet, prepared: nn.Module, plan: ExecutionPlan, size: int) -> None:
        """Encode a set.

        Args:
            context: The set; not empty.
            prepared: An `InContextNetwork`, prepared for the plan.
            plan: How it is run.
            size: Side of its grid.
        """
        import torch

        self._network = cast("ContextMapsNetwork", prepared)
        self._plan = plan
        images, masks = (torch.from_numpy(array)[None] for array in context.to_grid(size))  # (1, S, 1, size, size)
        self._state = compute(self._network.encode_context, plan, images, masks)
        self._maps: torch.Tensor | None = None

    def set_image(self, on_grid: NDArray[np.float32]) -> None:
        """Match the set with a target, (size, size) as the first look sees it."""
        import torch

        if hasattr(self._network, "context_maps"):
            self._maps = compute(
                lambda image: self._network.context_maps(image, self._state),
                self._plan,
                torch.from_numpy(on_grid)[None, None],
            )

    def seen_in(self, view: SliceView, whole: SliceView) -> Any:
        """Give what the network takes as context for a look at a view of the slice."""
        from scribblesegment.models.context_unet import crop_maps

        if self._maps is None:
            return self._state
        if view is whole:
            return self._maps
        corners = np.array([[-0.5, -0.5], [view.size - 0.5, view.size - 0.5]])
        in_slice = view.grid.from_grid_coords(corners) + [start for start, _ in view.region]
        (top, left), (bottom, right) = (whole.grid.to_grid_coords(in_slice) + 0.5) / whole.size
        return crop_maps(self._maps, (float(top), float(bottom)), (float(left), float(right)), view.size)
