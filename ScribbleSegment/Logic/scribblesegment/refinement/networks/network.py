"""What every network that can be corrected looks like, whatever format it came in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from scribblesegment import checks
from scribblesegment.exceptions import GeometryError, NetworkError, PromptError
from scribblesegment.label_scribbles import LabelScribbles
from scribblesegment.refinement.networks.scribble_transfer import DoubleArray, transfer_scribbles
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling
from scribblesegment.volume import Volume

FloatArray = NDArray[np.float32]

# Class logit of every structure where a network does not look, against 0 for the background: beyond doubt but finite.
OUTSIDE_LOGIT = -20.0


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image on a network's grid, with the way there for corrections and back for logits.

    Attributes:
        tensor: float32 (C, *grid), the whole image as the network takes it, normalised.
        spacing_mm: Size of a cell of the grid along its axes.
        tiling: Windows of the grid that the network sees at once.
        shape: Of the image, (K, J, I), or of the slice, (H, W).
        matrix: (n + 1, n + 1) from homogeneous indices of the image to those of the grid.
        way_back: Maps class logits (labels, *grid) to (labels, *shape).
        slack: See `transfer_scribbles`.
    """

    tensor: Tensor
    spacing_mm: tuple[float, ...]
    tiling: Tiling
    shape: tuple[int, ...]
    matrix: DoubleArray
    way_back: Callable[[FloatArray], NDArray[Any]]
    slack: float = 0.0

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the grid."""
        return tuple(self.tensor.shape[1:])

    def to_grid(self, scribbles: LabelScribbles) -> LabelScribbles:
        """Bring corrections to the grid; see `transfer_scribbles`.

        Raises:
            PromptError: They are for another shape than the image's.
        """
        checks.same_shape(scribbles.shape, self.shape, name="The corrections", error=PromptError)
        return transfer_scribbles(scribbles, self.matrix, self.grid, slack=self.slack)

    def to_image(self, logits: NDArray[Any]) -> FloatArray:
        """Bring class logits back to the image, by the network's own way where it has one.

        Args:
            logits: (labels, *grid), the background first; more labels than the network's own are welcome.

        Returns:
            float32 (labels, *shape).

        Raises:
            GeometryError: They are for another shape than the grid's.
        """
        values = np.asarray(logits, np.float32)
        checks.same_shape(values.shape[1:], self.grid, name="The logits", reference="the grid", error=GeometryError)
        return np.ascontiguousarray(self.way_back(values), np.float32)


class RefinableNetwork(Protocol):
    """A network with what belongs to it: its labels, and how images get to it and results back.

    Attributes:
        name: What it is called.
        licence: Licence of the parameters; empty where unknown.
        module: Maps (B, C, *patch) to its output, in evaluation mode.
        ndim: 2 if it sees slices, 3 if it sees volumes.
        labels: Names; the index is the label, the background the first.
        output: How to read what the module returns.
        takes_scribbles: Whether its input holds what was drawn, so that it is prepared anew in every round.
    """

    name: str
    licence: str
    module: nn.Module
    ndim: int
    labels: tuple[str, ...]
    output: Output
    takes_scribbles: bool

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Bring an image to the network's grid.

        Args:
            image: The volume; a 2D image has one slice.
            axis: Axis of the array that a 2D network does not see.
            index: Which slice alone; None for all of them.
            scribbles: What was drawn, for networks that take scribbles as input; of the shape of the image, or of the
                slice.

        Raises:
            NetworkError: A slice is asked of a 3D network.
            GeometryError: No such axis or slice.
        """
        ...


def outside_logits(shape: Sequence[int]) -> FloatArray:
    """Make class logits (labels, ...) that say background everywhere."""
    logits = np.full(tuple(shape), OUTSIDE_LOGIT, np.float32)
    logits[0] = 0.0
    return logits


def require_slices(ndim: int, index: int | None, name: str) -> None:
    """Refuse one slice for a network that sees volumes.

    Raises:
        NetworkError: As said.
    """
    if ndim == 3 and index is not None:
        raise NetworkError(
            f"The network {name} sees volumes, so that it cannot be run on slice {index} alone. Correct the volume."
        )


def copies_of_image(channels: int, ndim: int, name: str) -> int:
    """Tell how often an image of one channel is repeated: 3 times for a 2D network of colour images, else once.

    Raises:
        NetworkError: The network takes several images, such as several MRI sequences.
    """
    if channels == 1 or (channels == 3 and ndim == 2):
        return channels
    raise NetworkError(
        f"The network {name} takes {channels} channels, such as several sequences of one patient; an image here has "
        "one. Only networks of one channel, and 2D networks of red, green and blue, can be corrected."
    )
