"""From the logits of a slice to the mask that is shown and written: threshold and clean-up, as the user set them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import ConfigError
from scribblesegment.postprocessing import (
    fill_holes,
    keep_touched,
    logits_to_mask,
    probability_to_logit,
    remove_small_islands,
)


@dataclass(frozen=True)
class CleanUp:
    """What happens between logits and mask. Every part can be changed without a new prediction.

    Attributes:
        threshold: Probability, strictly between 0 and 1, that a pixel of the object exceeds.
        fill_holes: Whether background that the object encloses becomes object.
        smallest_island_mm2: Connected pieces with less area are removed; 0 keeps all.
        keep_touched: Whether only pieces stay that something positive was drawn on, or that were there before.

    Raises:
        ConfigError: A threshold or an area out of range.
    """

    threshold: float = 0.5
    fill_holes: bool = False
    smallest_island_mm2: float = 0.0
    keep_touched: bool = True

    def __post_init__(self) -> None:
        probability_to_logit(self.threshold)
        if not self.smallest_island_mm2 >= 0:
            raise ConfigError(f"The smallest island has {self.smallest_island_mm2} mm²; give an area from 0.")

    def mask(
        self,
        logits: NDArray[np.floating[Any]],
        *,
        anchors: NDArray[np.bool_],
        spacing_mm: tuple[float, float],
    ) -> NDArray[np.bool_]:
        """Turn logits into a mask.

        Args:
            logits: (H, W), unthresholded.
            anchors: bool (H, W): what `keep_touched` keeps the pieces under, that is positive prompts and earlier
                content of the segment.
            spacing_mm: Distance of rows and of columns in millimetres.

        Returns:
            bool (H, W).

        Raises:
            GeometryError: The shapes differ.
        """
        mask = logits_to_mask(logits, self.threshold)
        if self.keep_touched:
            mask = keep_touched(mask, anchors)
        if self.fill_holes:
            mask = fill_holes(mask)
        if self.smallest_island_mm2 > 0:
            mask = remove_small_islands(mask, int(np.ceil(self.smallest_island_mm2 / (spacing_mm[0] * spacing_mm[1]))))
        return mask
