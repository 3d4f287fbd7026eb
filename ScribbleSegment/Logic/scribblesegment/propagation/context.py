"""The context that slices are predicted from: accepted slices, confident propagated ones, and other patients'."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from scribblesegment.context import ContextEntry, ContextSet
from scribblesegment.preprocessing import IntensityRange
from scribblesegment.propagation.definitions import Mask, PropagationConfig
from scribblesegment.volume import SliceImage, Volume

_UNNAMED = "structure"


class SegmentContext:
    """Gathers the context of one segment and chooses from it for each slice.

    Accepted slices without the structure are not shown: they say where to stop, which is not left to the network.
    """

    def __init__(
        self,
        volume: Volume,
        accepted: Mapping[int, Mask],
        axis: int,
        *,
        name: str,
        elsewhere: ContextSet | None,
        source: str,
        intensity_range: IntensityRange,
        config: PropagationConfig,
    ) -> None:
        """Take the accepted slices of `volume` along `axis` and the context from elsewhere, which they may replace."""
        self._axis, self._source, self._intensity_range, self._config = axis, source, intensity_range, config
        gathered = elsewhere if elsewhere is not None else ContextSet(name.strip() or _UNNAMED)
        shown = {index: mask for index, mask in accepted.items() if mask.any()}
        for index, mask in shown.items():
            gathered = gathered.add(self._entry(volume.slice(axis, index), mask))
        self._gathered = gathered
        # Fronts advance in turn, two in each stretch: each keeps about as many of its own slices as are used.
        self._propagated: deque[ContextEntry] = deque(maxlen=2 * (len(shown) + 1) * config.propagated_context)

    def add(self, piece: SliceImage, mask: Mask, confidence: float) -> None:
        """Offer a propagated slice, which joins the context if it shows the structure with enough confidence."""
        wanted = self._config.propagated_context > 0 and confidence >= self._config.context_confidence
        if wanted and mask.any():
            self._propagated.append(self._entry(piece, mask))

    def select(self, piece: SliceImage) -> ContextSet:
        """Choose the context of a slice; the same set as before where there is nothing to choose."""
        near = sorted(self._propagated, key=lambda entry: abs((entry.index or 0) - piece.index))
        offered = self._gathered
        for entry in near[: self._config.propagated_context]:
            offered = offered.add(entry)
        if len(offered) <= self._config.context_limit:
            return offered
        chosen = offered.select(
            self._intensity_range.normalize(piece.image),
            spacing_mm=piece.spacing_mm,
            limit=self._config.context_limit,
            axis=self._axis,
            index=piece.index,
            source=self._source,
        )
        # In one order, so that the same choice in the next slice is seen to be the same.
        taken = {entry.identifier for entry in chosen}
        return ContextSet(offered.label_name, tuple(entry for entry in offered if entry.identifier in taken))

    def _entry(self, piece: SliceImage, mask: Mask) -> ContextEntry:
        image = self._intensity_range.normalize(piece.image)
        return ContextEntry(image, mask, piece.spacing_mm, source=self._source, axis=self._axis, index=piece.index)
