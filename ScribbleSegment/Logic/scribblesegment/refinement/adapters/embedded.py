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
from scribblesegment.data.volume import Volume
from scribblesegment.errors import NetworkError, PromptError
from scribblesegment.models.encoding import encode_prompts
from scribblesegment.refinement.adapters.base import (
    OUTSIDE_LOGIT,
    DoubleArray,
    FloatArray,
    PreparedImage,
    scaling,
    stacked_matrix,
)
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor

FOREGROUND = 1


class EmbeddedNetwork:
    """An interactive network with one structure; a `NetworkAdapter`.

    Strokes of label 1 go to its positive channel, all others to its negative one. A slice without a stroke on a
    structure is background: there nothing is to be segmented.
    """

    ndim = 2
    labels: tuple[str, ...] = ("background", "object")
    output = Output("sigmoid", probabilities=False)
    takes_scribbles = True

    def __init__(
        self,
        module: nn.Module,
        *,
        size: int,
        temperature: float = 1.0,
        name: str = "",
        licence: str = "",
        intensity_range: IntensityRange | None = None,
    ) -> None:
        """Take a network that maps (B, 5, size, size), channels as in `models.encoding`, to logits (B, 1, size, size).

        Probabilities mean something once logits are divided by `temperature`. `intensity_range` is mapped to 0 and 1;
        it is estimated from each image if absent.
        """
        self.module = module.eval()
        self.name = name
        self.licence = licence
        self._size = size
        self._temperature = temperature
        self._intensity_range = intensity_range

    @classmethod
    def of_predictor(cls, predictor: Predictor) -> EmbeddedNetwork:
        """Take the network of a predictor; raises NetworkError if it does not work from scribbles alone."""
        _require_scribbles(predictor.capabilities, predictor.name)
        return cls(predictor.network, size=predictor.size, temperature=predictor.temperature, name=predictor.name)

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Put slices, and what was drawn on them, on the network's square grid; see `NetworkAdapter.prepare`.

        With one slice the grid is (size, size); with all of them it is (slices, size, size), whatever the axis.

        Raises:
            GeometryError: No such axis or slice.
            PromptError: The scribbles are of another shape.
        """
        first = image.slice(axis, 0 if index is None else index)
        grid = NetworkGrid(first.image.shape, first.spacing_mm, self._size)
        shape = image.shape if index is None else first.image.shape
        drawn = np.full(shape, UNMARKED, np.int16) if scribbles is None else scribbles.labels
        validation.same_shape(drawn.shape, shape, name="The corrections", error=PromptError)
        cuts = [first] if index is not None else [image.slice(axis, each) for each in range(image.shape[axis])]
        strokes = np.moveaxis(drawn, axis, 0) if index is None else drawn[None]
        intensities = self._intensity_range or IntensityRange.estimate(image.array)
        encoded = torch.stack(
            [
                self._encoded(grid, intensities.normalize(cut.image), marks)
                for cut, marks in zip(cuts, strokes, strict=True)
            ],
            dim=1,
        )
        marked = np.asarray((strokes > BACKGROUND).any(axis=(1, 2)))

        def way_back(logits: FloatArray) -> FloatArray:
            stacked = logits if index is None else logits[:, None]
            values = grid.logits_from_grid(stacked) / np.float32(self._temperature)
            values[:, ~marked] = OUTSIDE_LOGIT
            values[BACKGROUND, ~marked] = 0.0
            return np.moveaxis(values, 1, axis + 1) if index is None else values[:, 0]

        matrix = _matrix(grid)
        if index is not None:
            return PreparedImage(encoded[:, 0], Tiling.whole((self._size,) * 2), shape, matrix, way_back)
        tiling = Tiling.slices(tuple(encoded.shape[1:]), 0)
        return PreparedImage(encoded, tiling, shape, stacked_matrix(matrix, axis), way_back)

    @staticmethod
    def _encoded(grid: NetworkGrid, normalised: FloatArray, marks: NDArray[np.int16]) -> torch.Tensor:
        """Build the input (5, size, size) of one slice."""
        image = torch.from_numpy(grid.image_to_grid(normalised))
        drawn = np.stack([marks == FOREGROUND, (marks != FOREGROUND) & (marks != UNMARKED)])
        scribbles = torch.from_numpy(grid.scribbles_to_grid(drawn.astype(np.float32)))
        return encode_prompts(image[None, None], scribbles=scribbles[None])[0]


def load_embedded(source: str | Path, normalise: tuple[float, float] | None = None) -> EmbeddedNetwork:
    """Load a network of the package by its name or its file; intensities (low, high) are mapped to 0 and 1.

    Raises:
        NetworkError: It does not work from scribbles alone.
        WeightsError: Unknown, missing or damaged weights.
    """
    from scribblesegment.weights.checkpoints import load_network
    from scribblesegment.weights.registry import weights_file

    path = weights_file(source)
    module, description = load_network(path)
    name = description.name or path.stem
    _require_scribbles(frozenset(description.capabilities), name)
    return EmbeddedNetwork(
        module,
        size=description.size,
        temperature=description.temperature,
        name=name,
        licence=description.licence,
        intensity_range=None if normalise is None else IntensityRange(*normalise),
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
