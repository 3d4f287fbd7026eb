from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scribblesegment.errors import ConfigError, GeometryError
from scribblesegment.refinement.tiling import Tiling

SIDES = st.lists(st.integers(1, 12), min_size=2, max_size=3)


def put_together(tiling: Tiling, image: torch.Tensor) -> torch.Tensor:
    """Cut an image (C, *shape) into windows and blend these again."""
    padded = tiling.padded(image)
    blended, total = torch.zeros_like(padded), torch.zeros(tiling.padded_shape)
    for index, window in enumerate(tiling.windows):
        blended[(slice(None), *window)] += tiling.placed(tiling.cut(padded, index)) * tiling.weights()
        total[window] += tiling.weights()
    return tiling.cropped(blended / total)


def test_the_whole_image_is_one_window():
    tiling = Tiling.whole((5, 7))
    assert len(tiling.windows) == 1
    assert tiling.cut(torch.zeros(2, 5, 7), 0).shape == (1, 2, 5, 7)


@given(shape=SIDES, data=st.data())
def test_patches_cover_every_pixel_and_blend_to_the_image(shape, data):
    patch = data.draw(st.lists(st.integers(1, 12), min_size=len(shape), max_size=len(shape)))
    overlap = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.9]))
    tiling = Tiling.patches(shape, patch, overlap=overlap)
    image = torch.rand(2, *shape)
    torch.testing.assert_close(put_together(tiling, image), image)


@given(shape=st.lists(st.integers(1, 9), min_size=3, max_size=3), axis=st.integers(0, 2))
def test_slices_are_cut_without_their_axis_and_come_back(shape, axis):
    tiling = Tiling.slices(shape, axis)
    image = torch.rand(1, *shape)
    plane = tuple(side for other, side in enumerate(shape) if other != axis)
    assert tiling.cut(image, 0).shape == (1, 1, *plane)
    assert len(tiling.windows) == shape[axis]
    torch.testing.assert_close(put_together(tiling, image), image)


def test_slices_can_be_cut_into_patches():
    tiling = Tiling.slices((3, 10, 8), 0, patch_size=(4, 4))
    image = torch.rand(1, 3, 10, 8)
    assert tiling.cut(tiling.padded(image), 0).shape == (1, 1, 4, 4)
    torch.testing.assert_close(put_together(tiling, image), image)


def test_an_image_smaller_than_the_patch_is_padded_around_its_middle():
    tiling = Tiling.patches((3, 4), (6, 4))
    padded = tiling.padded(torch.ones(1, 3, 4))
    assert padded[0, :, 0].tolist() == [0, 1, 1, 1, 0, 0]


def test_neighbouring_patches_overlap_at_least_as_asked():
    windows = Tiling.patches((100, 10), (32, 10), overlap=0.5).windows
    starts = [window[0].start for window in windows]
    assert starts[0] == 0
    assert starts[-1] == 68
    assert max(np.diff(starts)) <= 16


def test_weights_fall_towards_the_border():
    weights = Tiling.patches((64, 64), (32, 32)).weights()
    assert weights[16, 16] == 1
    assert 0 < weights[0, 0] < weights[0, 16] < 1
    assert Tiling.patches((64, 64), (32, 32), gaussian=False).weights().unique().tolist() == [1]


@given(shape=st.lists(st.integers(2, 12), min_size=2, max_size=3), data=st.data())
def test_touched_windows_are_those_that_hold_a_pixel(shape, data):
    tiling = Tiling.patches(shape, [3] * len(shape))
    position = np.array([data.draw(st.integers(0, side - 1)) for side in shape])
    found = {index for index, rows in tiling.touched(position[None]) if rows.tolist() == [0]}
    padded = position + tiling.offset
    expected = {
        number
        for number, window in enumerate(tiling.windows)
        if all(part.start <= place < part.stop for part, place in zip(window, padded, strict=True))
    }
    assert found == expected
    assert found


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(ConfigError, match="overlap"):
        Tiling.patches((8, 8), (4, 4), overlap=overlap)


def test_impossible_shapes_are_refused():
    with pytest.raises(GeometryError, match="every side"):
        Tiling.whole((0, 4))
    with pytest.raises(GeometryError, match="another number of axes"):
        Tiling.patches((8, 8, 8), (4, 4))
    with pytest.raises(GeometryError, match="give a volume"):
        Tiling.slices((8, 8), 0)
    with pytest.raises(GeometryError, match=r"give \(H, W\)"):
        Tiling.slices((8, 8, 8), 0, patch_size=(4, 4, 4))
