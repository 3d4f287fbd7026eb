"""What a network that segments in context offers: a target with prompts, and a set of images with masks."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

ContextState = tuple[Any, ...]
"""What a network made of a context set; only the network that made it can read it."""


@runtime_checkable
class InContextNetwork(Protocol):
    """A module that segments in context (MultiverSeg, section 3.2)."""

    def encode_context(self, images: Tensor, masks: Tensor) -> ContextState:
        """Compute once what does not depend on the target.

        Args:
            images: (B, S, 1, H, W) in [0, 1]; S may be 0.
            masks: (B, S, 1, H, W), 0 or 1.

        Returns:
            What `forward` takes as context.
        """
        ...

    def __call__(self, x: Tensor, context: ContextState | None = None) -> Tensor:
        """Segment targets.

        Args:
            x: (B, 5, H, W), the channels of `scribblesegment.models.encoding`.
            context: From `encode_context`, for the same batch; None for an empty set.

        Returns:
            Logits (B, 1, H, W).
        """
        ...


@runtime_checkable
class ContextMapsNetwork(InContextNetwork, Protocol):
    """A network to which the context speaks through channels that do not depend on the prompts."""

    def context_maps(self, image: Tensor, context: ContextState) -> Tensor:
        """Compute what the context says about a target; `__call__` takes it, or a part of it, in the context's place.

        Args:
            image: (B, 1, H, W) in [0, 1].
            context: From `encode_context`, for the same batch.

        Returns:
            (B, C, H, W).
        """
        ...
