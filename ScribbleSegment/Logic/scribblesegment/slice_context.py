"""What a slice may be predicted from besides its prompts: a context set, and what of it the network is shown."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from scribblesegment.context import ContextSet

CONTEXT_LIMIT = 8
"""Most entries an interactive prediction is made from; its time grows with their number."""


@dataclass(frozen=True, eq=False)
class SliceContext:
    """A context set, and where the slice that is predicted lies in the volumes of its entries.

    Attributes:
        entries: The set; frozen, so it may be handed to another thread.
        source: Name of the slice's volume, as in the entries; empty if it is no slice along an axis of a volume.
        axis: Axis of the array the slice was cut along (K = 0, J = 1, I = 2), or None.
        index: Its position on that axis, or None.
    """

    entries: ContextSet
    source: str = ""
    axis: int | None = None
    index: int | None = None

    def chosen(self, image: ArrayLike, *, spacing_mm: tuple[float, float], limit: int = CONTEXT_LIMIT) -> ContextSet:
        """Choose what the network is shown, see `ContextSet.select`.

        An entry of the slice itself is left out: the network would repeat what the user is about to correct.

        Args:
            image: The slice, (H, W) in [0, 1], normalised with the intensity range of its volume.
            spacing_mm: Its distance of rows and of columns in millimetres.
            limit: Most entries to choose.

        Returns:
            The chosen entries in the order of the set, so that equal choices for two slices are seen to be equal.

        Raises:
            ContextError: An image or a place that is none.
        """
        others = tuple(
            entry
            for entry in self.entries
            if not (entry.is_slice_of(self.source, self.axis) and entry.index == self.index)
        )
        offered = self.entries
        if len(others) < len(offered):
            offered = ContextSet(offered.label_name, others)
        if len(offered) <= limit:
            return offered
        selected = offered.select(
            image, spacing_mm=spacing_mm, limit=limit, axis=self.axis, index=self.index, source=self.source
        )
        taken = {entry.identifier for entry in selected}
        return ContextSet(offered.label_name, tuple(entry for entry in offered if entry.identifier in taken))


def same_entries(first: ContextSet | None, second: ContextSet | None) -> bool:
    """Whether two sets hold the very same entries in the same order; None is an empty set."""
    one, other = first or (), second or ()
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
