"""A predictor without a network, for tests that must not depend on what a network thinks of a phantom."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.service.service import ServiceState, SliceRequest
from scribblesegment.service.worker import Task


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
    """Answers when told to: requests wait until `finish`."""

    requests: list[SliceRequest] = field(default_factory=list)
    expected: list[SliceRequest] = field(default_factory=list)
    error: ScribbleSegmentError | None = None  # what the next tasks end with instead of logits
    model: str = "one"
    _waiting: tuple[SliceRequest, Task[np.ndarray]] | None = None

    @property
    def state(self) -> ServiceState:
        return ServiceState("ready", self.model, "cpu")

    @property
    def busy(self) -> bool:
        return self._waiting is not None

    def expect(self, request: SliceRequest) -> None:
        self.expected.append(request)

    def segment_slice(self, request: SliceRequest) -> Task[np.ndarray]:
        self.requests.append(request)
        self._waiting = (request, Task())
        return self._waiting[1]

    def finish(self) -> None:
        """Let the newest request come to its end."""
        if self._waiting is not None:
            (request, task), self._waiting = self._waiting, None
            task.run(lambda task: self._answer(request))

    def end(self) -> None:
        """End the service before it has answered."""
        if self._waiting is not None:
            self._waiting[1].cancel()
            self._waiting = None

    def _answer(self, request: SliceRequest) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return region_logits(request)
