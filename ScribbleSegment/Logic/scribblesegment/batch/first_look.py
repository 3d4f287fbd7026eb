"""The first look at an image: every slice predicted from the context sets alone, without prompts and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.batch.acceptance import SliceLook
from scribblesegment.batch.pieces import without_lesser_pieces
from scribblesegment.context.context_set import ContextSet, SliceContext, same_entries
from scribblesegment.data.masks import resolve_labels
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import SliceImage, Volume
from scribblesegment.inference.predictor import Predictor
from scribblesegment.propagation.confidence import confidence_of, overlap_of
from scribblesegment.propagation.expectation import Expectation

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Seen:
    """One structure in one slice. The mask is kept packed, eight pixels a byte; None where it is empty."""

    packed: NDArray[np.uint8] | None
    area: int
    confidence: float


_NOTHING = _Seen(None, 0, 0.0)


class FirstLook:
    """What the context sets alone lead to, slice by slice."""

    def __init__(
        self,
        predictor: Predictor,
        volume: Volume,
        axis: int,
        contexts: Sequence[ContextSet],
        *,
        context_limit: int,
        threshold: float,
    ) -> None:
        """Look at all slices; structures that claim one pixel are told apart by the larger logit.

        Args:
            predictor: Segments in context.
            volume: The image.
            axis: Axis of the array the slices lie along.
            contexts: One for each structure.
            context_limit: Most entries a slice is predicted from.
            threshold: Probability from which a pixel belongs to a structure.
        """
        self._predictor, self._contexts, self._limit = predictor, [SliceContext(one) for one in contexts], context_limit
        self._threshold = threshold
        self._intensities = IntensityRange.estimate(volume.array)
        self._shown: ContextSet | None = None
        predictor.set_context(None)  # what an earlier image left there would be matched with this one
        first = volume.slice(axis, 0).image
        self._shape = (int(first.shape[0]), int(first.shape[1]))
        self._seen: list[list[_Seen]] = [[] for _ in contexts]
        for index in range(volume.shape[axis]):
            self._look_at(volume.slice(axis, index))

    def looks(self, structure: int) -> list[SliceLook]:
        """Tell for all slices what was found of a structure, counted from 0."""
        found, seen = [], self._seen[structure]
        mask = self.mask(structure, 0)
        for index, one in enumerate(seen):
            following, overlap = mask, 0.0
            if index + 1 < len(seen):
                following = self.mask(structure, index + 1)
                overlap = overlap_of(mask, following) if one.area and seen[index + 1].area else 0.0
            found.append(SliceLook(one.area, one.confidence, overlap))
            mask = following
        return found

    def drop_lesser_pieces(self, structure: int, *, bridge: int, part: float) -> None:
        """Leave out the pieces of a structure, connected in three dimensions, that are small beside the largest one.

        Args:
            structure: Counted from 0.
            bridge: So many slices in a row without the structure do not divide a piece.
            part: Of the voxels of the largest piece that another one must have.
        """
        seen = self._seen[structure]
        shown = [index for index, one in enumerate(seen) if one.area]
        if not shown:
            return
        # Only the box around the structure is put together: a whole volume of masks and pieces takes a lot of memory.
        held = [np.zeros(side, bool) for side in self._shape]
        for index in shown:
            mask = self.mask(structure, index)
            held[0] |= mask.any(axis=1)
            held[1] |= mask.any(axis=0)
        box = tuple(slice(int(np.argmax(one)), len(one) - int(np.argmax(one[::-1]))) for one in held)
        first = shown[0]
        masks = np.stack([self.mask(structure, index)[box] for index in range(first, shown[-1] + 1)])
        kept = without_lesser_pieces(masks, bridge=bridge, part=part)
        for index in shown:
            area = int(kept[index - first].sum())
            if area < seen[index].area:
                mask = np.zeros(self._shape, bool)
                mask[box] = kept[index - first]
                seen[index] = _Seen(np.packbits(mask), area, seen[index].confidence) if area else _NOTHING

    def confidence(self, structure: int, index: int) -> float:
        """How sure the network is of a structure's mask in a slice, in [0, 1]."""
        return self._seen[structure][index].confidence

    def mask(self, structure: int, index: int) -> Mask:
        """The mask of a structure in a slice, a new array bool (H, W)."""
        packed = self._seen[structure][index].packed
        if packed is None:
            return np.zeros(self._shape, bool)
        height, width = self._shape
        return np.unpackbits(packed, count=height * width).reshape(self._shape).astype(bool)

    def _look_at(self, piece: SliceImage) -> None:
        image = self._intensities.normalize(piece.image)
        chosen = [one.chosen(image, spacing_mm=piece.spacing_mm, limit=self._limit) for one in self._contexts]
        if not same_entries(chosen[0], self._shown):
            self._show(None)  # else a context that is about to be replaced would be matched with the new image
        self._predictor.set_image(piece.image, spacing_mm=piece.spacing_mm, intensity_range=self._intensities)
        logits = np.empty((len(chosen), *self._shape), np.float32)
        for number, context in enumerate(chosen):
            if not same_entries(context, self._shown):
                self._show(context)
            logits[number] = self._predictor.predict(Prompts.empty(self._shape)).logits
        winners = resolve_labels(logits, self._threshold)
        for number, (seen, found) in enumerate(zip(self._seen, logits, strict=True), start=1):
            mask = winners == number
            area = int(mask.sum())
            seen.append(_Seen(np.packbits(mask), area, own_confidence(found, mask)) if area else _NOTHING)

    def _show(self, context: ContextSet | None) -> None:
        self._predictor.set_context(context)
        self._shown = context


def own_confidence(logits: NDArray[np.float32], mask: Mask) -> float:
    """Say how sure a network is of its own mask, without knowledge of other slices.

    Args:
        logits: float32 (H, W), calibrated.
        mask: bool (H, W), what was made of them; not empty.

    Returns:
        The expected Dice coefficient in [0, 1], see `scribblesegment.propagation.confidence.confidence_of`.
    """
    whole = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    as_expected = Expectation(whole, np.where(mask, np.float32(1), np.float32(-1)), mask, 0.0, logits)
    return confidence_of(logits, mask, as_expected, consistency=0.0)
