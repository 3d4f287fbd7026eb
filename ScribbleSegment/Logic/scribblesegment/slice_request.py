"""What goes to inference and what comes back: one slice, its prompts, and the logits they led to."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment import checks
from scribblesegment.exceptions import PromptError, ScribbleSegmentError
from scribblesegment.preprocessing import IntensityRange
from scribblesegment.prompts import Prompts
from scribblesegment.slice_context import SliceContext


@dataclass(frozen=True, eq=False)
class SliceRequest:
    """One slice to segment.

    Attributes:
        image: (H, W) real numbers; it may be a view into a volume, and is not copied.
        image_token: stands for the image. Requests with equal tokens have the same image, spacing and intensity range,
            so what depends on these alone is computed once.
        spacing_mm: distance between neighbouring (rows, columns) in millimetres.
        intensity_range: intensities of the whole volume that become 0 and 1; None to estimate them from the slice.
        prompts: strokes, clicks and boxes on the pixels of the image.
        context: what else the slice may be predicted from; not used by networks that take no context.

    Raises:
        ImageError: the image is not 2D, empty or not numeric.
        GeometryError: a spacing that is not above zero.
        PromptError: prompts for an image of another shape.
    """

    image: NDArray[Any]
    image_token: Hashable
    spacing_mm: tuple[float, float]
    intensity_range: IntensityRange | None
    prompts: Prompts
    context: SliceContext | None = None

    def __post_init__(self) -> None:
        image = checks.image_array(self.image, ndim=(2,))
        row, column = checks.spacing_mm(self.spacing_mm, 2)
        checks.same_shape(self.prompts.shape, image.shape, name="prompts", error=PromptError)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "spacing_mm", (row, column))


@dataclass(frozen=True, eq=False)
class SliceOutcome:
    """What became of a request.

    Attributes:
        ticket: number that `SliceInference.submit` gave the request.
        logits: float32 (H, W), unthresholded; None when there is an error.
        error: why there are no logits; None when there are.
        seconds: duration of the computation, without the waiting before it.
    """

    ticket: int
    logits: NDArray[np.float32] | None
    error: ScribbleSegmentError | None
    seconds: float


class SliceInference(Protocol):
    """Computes requests in the background, the newest first. Its methods are called from one thread."""

    @property
    def busy(self) -> bool:
        """Whether a request is being computed or waits."""

    def submit(self, request: SliceRequest) -> int:
        """Hand over a request and return its ticket.

        A request that still waits when a newer one comes is dropped, and has no outcome.
        """

    def poll(self) -> list[SliceOutcome]:
        """Take the outcomes that have arrived since the last call, oldest first; never waits."""

    def wait(self, seconds: float) -> bool:
        """Sleep until an outcome can be polled, and say whether there is one; at most `seconds`."""
