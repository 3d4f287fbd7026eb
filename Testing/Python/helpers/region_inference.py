"""A predictor without a network, for tests that must not depend on what a network thinks of a phantom."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.service.service import SliceOutcome, SliceRequest


def region_logits(request: SliceRequest, brighter_than: float = 100.0) -> np.ndarray:
    """Logits of the bright pieces that positive prompts lie on, less what was drawn negative."""
    prompts = request.prompts
    touched = prompts.scribbles[0] > 0
    touched[tuple(prompts.point_coords[prompts.point_labels == 1].T)] = True
    for (top, left), (bottom, right) in prompts.boxes:
        touched[top:bottom, left:right] = True
    pieces, _ = ndimage.label((request.image > brighter_than) | touched)
    inside = np.isin(pieces, np.setdiff1d(pieces[touched], 0)) & (prompts.scribbles[1] == 0)
    # Deeper inside is surer, so that a threshold makes a difference.
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return np.clip(depth, -6.0, 6.0).astype(np.float32)


@dataclass
class RegionInference:
    """Answers when told to: requests wait until `finish`.

    Attributes:
        requests: All that were submitted.
        error: What the next outcomes carry instead of logits.
    """

    requests: list[SliceRequest] = field(default_factory=list)
    error: ScribbleSegmentError | None = None
    _waiting: tuple[int, SliceRequest] | None = None
    _outcomes: list[SliceOutcome] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return self._waiting is not None or bool(self._outcomes)

    def submit(self, request: SliceRequest) -> int:
        self.requests.append(request)
        self._waiting = (len(self.requests), request)
        return len(self.requests)

    def finish(self) -> None:
        """Let the newest request come to its end."""
        if self._waiting is not None:
            ticket, request = self._waiting
            logits = None if self.error is not None else region_logits(request)
            self._outcomes.append(SliceOutcome(ticket, logits, self.error, 0.01))
            self._waiting = None

    def poll(self) -> list[SliceOutcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wait(self, seconds: float) -> bool:
        return bool(self._outcomes)
