from __future__ import annotations

import numpy as np
import pytest
import torch

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.errors import GeometryError, NetworkError, PromptError
from scribblesegment.refinement.adapters.base import (
    PreparedImage,
    copies_of_image,
    outside_logits,
    require_slices,
    scaling,
)
from scribblesegment.refinement.tiling import Tiling


@pytest.fixture
def halved() -> PreparedImage:
    """An image of 8 x 12 pixels on a grid of 4 x 6."""

    def back(logits: np.ndarray) -> np.ndarray:
        return logits.repeat(2, axis=1).repeat(2, axis=2).astype(np.float64)

    matrix = scaling([0.5, 0.5], [-0.25, -0.25])
    return PreparedImage(torch.zeros(1, 4, 6), (2.0, 2.0), Tiling.whole((4, 6)), (8, 12), matrix, back)


def test_corrections_go_to_the_grid_and_logits_come_back(halved: PreparedImage) -> None:
    assert halved.grid == (4, 6)
    marks = LabelScribbles.empty((8, 12)).with_point((7, 2), 3)
    assert np.argwhere(halved.to_grid(marks).mask(3)).tolist() == [[3, 1]]
    found = halved.to_image(np.random.default_rng(0).random((5, 4, 6)))
    assert (found.shape, found.dtype) == ((5, 8, 12), np.float32)


def test_another_shape_is_refused_both_ways(halved: PreparedImage) -> None:
    with pytest.raises(PromptError, match=r"shape \(4, 6\)"):
        halved.to_grid(LabelScribbles.empty((4, 6)))
    with pytest.raises(GeometryError, match="the grid"):
        halved.to_image(np.zeros((2, 8, 12)))


def test_one_slice_is_refused_only_for_networks_of_volumes() -> None:
    require_slices(3, None, "net")
    require_slices(2, 4, "net")
    with pytest.raises(NetworkError, match="net sees volumes"):
        require_slices(3, 4, "net")


def test_only_grey_and_colour_networks_are_taken() -> None:
    assert (copies_of_image(1, 3, "net"), copies_of_image(3, 2, "net")) == (1, 3)
    for channels, ndim in ((2, 2), (3, 3), (4, 3)):
        with pytest.raises(NetworkError, match=f"takes {channels} channels"):
            copies_of_image(channels, ndim, "net")


def test_where_a_network_does_not_look_there_is_background() -> None:
    logits = torch.from_numpy(outside_logits((3, 2, 2)))
    assert (logits.softmax(dim=0)[0] > 0.999).all()
