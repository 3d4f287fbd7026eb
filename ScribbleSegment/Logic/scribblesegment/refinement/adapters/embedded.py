"""The package's own interactive networks, whose input holds the corrections too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scribblesegment.data import validation
from scribblesegment.data.labels import BACKGROUND, UNMARKED, LabelScribbles
from scribblesegment.data.preprocessing import IntensityRange, NetworkGrid
from scribblesegment.data.volume import SliceImage, Volume
from scribblesegment.errors import NetworkError, PromptError
from scribblesegment.models.encoding import encode_prompts
from scribblesegment.refinement.adapters.base import OUTSIDE_LOGIT, DoubleArray, PreparedImage, scaling
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor

FloatArray = NDArray[np.float32]

FOREGROUND = 1


class EmbeddedNetwork:
    """An interactive network with one structure; see `RefinableNetwork`.

    Strokes of label 1 go to its positive channel, all others to its negative one. A slice without a stroke on a
    structure is background: nothing says what would be segmented there.
    """

    ndim = 2
    labels: tuple[str, ...] = ("background", "object")
    output = Output("sigmoid", probabilities=False)
    takes_scribbles = True

    def __init__(
        self, module: nn.Module, *, size: int, temperature: float = 1.0, name: str = "", licence: str = ""
    ) -> None:
        """Take a network.

        Args:
            module: Maps (B, 5, size, size), channels as in `models.encoding`, to logits (B, 1, size, size).
            size: Side of its grid.
            temperature: What its logits are divided by, so that probabilities mean something.
            name: What it is called.
            licence: Licence of the parameters.
        """
        self.module = module.eval()
        self.name = name
        self.licence = licence
        self._size = size
        self._temperature = temperature

    @classmethod
    def of_predictor(cls, predictor: Predictor) -> EmbeddedNetwork:
        """Take the network of a predictor.

        Raises:
            NetworkError: It does not understand scribbles.
        """
        _require_scribbles(predictor.capabilities, predictor.name)
        return cls(predictor.network, size=predictor.size, temperature=predictor.temperature, name=predictor.name)

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Put slices, and what was drawn on them, on the network's square grid; see `RefinableNetwork.prepare`.

        With one slice the grid is (size, size); with all of them it is (slices, size, size), whatever the axis.

        Raises:
            GeometryError: No such axis or slice.
            PromptError: The scribbles are of another shape.
        """
        first = image.slice(axis, 0 if index is None else index)
        grid = NetworkGrid(first.image.shape, first.spacing_mm, self._size)
        shape = image.shape if index is None else first.image.shape
        drawn = LabelScribbles.empty(shape) if scribbles is None else scribbles
        validation.same_shape(drawn.shape, shape, name="The corrections", error=PromptError)
        cuts = [first] if index is not None else [image.slice(axis, each) for each in range(image.shape[axis])]
        strokes = np.moveaxis(drawn.labels, axis, 0) if index is None else drawn.labels[None]
        intensities = IntensityRange.estimate(image.array)
        encoded = torch.stack(
            [self._encoded(cut, marks, grid, intensities) for cut, marks in zip(cuts, strokes, strict=True)], dim=1
        )
        asked = np.asarray((strokes > BACKGROUND).any(axis=(1, 2)))
        matrix = _matrix(grid)
        if index is not None:

            def back_to_slice(logits: FloatArray) -> FloatArray:
                return self._from_grid(logits[:, None], grid, asked)[:, 0]

            spacing = (grid.mm_per_cell,) * 2
            return PreparedImage(encoded[:, 0], spacing, Tiling.whole((self._size,) * 2), shape, matrix, back_to_slice)

        def back_to_volume(logits: FloatArray) -> FloatArray:
            return np.moveaxis(self._from_grid(logits, grid, asked), 1, axis + 1)

        spacing_3d = (image.spacing_kji_mm[axis], *(grid.mm_per_cell,) * 2)
        tiling = Tiling.slices(tuple(encoded.shape[1:]), 0)
        return PreparedImage(encoded, spacing_3d, tiling, shape, _stacked(matrix, axis), back_to_volume)

    @staticmethod
    def _encoded(
        cut: SliceImage, marks: NDArray[np.int16], grid: NetworkGrid, intensities: IntensityRange
    ) -> torch.Tensor:
        """Build the input (5, size, size) of one slice."""
        image = torch.from_numpy(grid.image_to_grid(intensities.normalize(cut.image)))
        drawn = np.stack([marks == FOREGROUND, (marks != FOREGROUND) & (marks != UNMARKED)])
        scribbles = torch.from_numpy(grid.scribbles_to_grid(drawn.astype(np.float32)))
        return encode_prompts(image[None, None], scribbles=scribbles[None])[0]

    def _from_grid(self, logits: FloatArray, grid: NetworkGrid, asked: NDArray[np.bool_]) -> FloatArray:
        """Bring class logits (labels, slices, size, size) to (labels, slices, H, W)."""
        values = grid.logits_from_grid(logits) / np.float32(self._temperature)
        values[:, ~asked] = OUTSIDE_LOGIT
        values[BACKGROUND, ~asked] = 0.0
        return values


def load_embedded(source: str | Path) -> EmbeddedNetwork:
    """Load a network of the package by its name or its file.

    Raises:
        NetworkError: It does not understand scribbles.
        WeightsError: Unknown, missing or damaged weights.
    """
    from scribblesegment.weights.checkpoints import load_network
    from scribblesegment.weights.registry import weights_file

    path = weights_file(source)
    module, description = load_network(path)
    _require_scribbles(frozenset(description.capabilities), description.name or path.stem)
    return EmbeddedNetwork(
        module,
        size=description.size,
        temperature=description.temperature,
        name=description.name or path.stem,
        licence=description.licence,
    )


def _require_scribbles(capabilities: frozenset[str], name: str) -> None:
    if "scribbles" not in capabilities or "context" in capabilities:
        raise NetworkError(
            f"The network {name} takes {', '.join(sorted(capabilities))}; one that is corrected must segment an image "
            "from scribbles alone. Choose another of list_weights()."
        )


def _matrix(grid: NetworkGrid) -> DoubleArray:
    """Map pixels of the slice to cells of the grid.

    The slice's borders fall on those of the cells that hold it, at most a quarter cell from where the image lies, so
    that no correction ends in the padding.
    """
    sides = [part.stop - part.start for part in grid.content]
    scales = [cells / pixels for cells, pixels in zip(sides, grid.shape, strict=True)]
    offsets = [part.start + (scale - 1) / 2 for part, scale in zip(grid.content, scales, strict=True)]
    return scaling(scales, offsets)


def _stacked(matrix: DoubleArray, axis: int) -> DoubleArray:
    """Extend the map of a slice to a volume (K, J, I), whose slices along `axis` are stacked first."""
    stacked = np.zeros((4, 4))
    row, column = (other for other in range(3) if other != axis)
    stacked[0, axis] = stacked[3, 3] = 1.0
    stacked[1:3, [row, column]] = matrix[:2, :2]
    stacked[1:3, 3] = matrix[:2, 2]
    return stacked
