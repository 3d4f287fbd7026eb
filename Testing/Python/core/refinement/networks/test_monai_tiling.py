"""Windows and weights against MONAI's own sliding window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.adapters.monai import monai_tiling
from scribblesegment.refinement.tiling import Tiling

inferers = pytest.importorskip("monai.inferers")


def stitched(tiling: Tiling, image: torch.Tensor) -> torch.Tensor:
    """Every window's own number of the pixel within it, put together as the tiling says."""
    padded = tiling.padded(image)
    weights = tiling.weights()
    total, summed = torch.zeros(padded.shape[1:]), torch.zeros(padded.shape)
    for number, window in enumerate(tiling.windows):
        summed[(slice(None), *window)] += tiling.placed(predictor(tiling.cut(padded, number))) * weights
        total[window] += weights
    return tiling.cropped(summed / total)


def predictor(patch: torch.Tensor) -> torch.Tensor:
    """Differs from window to window where they overlap, so that their places and weights show."""
    place = torch.arange(patch[0, 0].numel(), dtype=torch.float32).reshape(patch.shape[2:])
    return patch + place / place.numel()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_windows_and_weights_are_those_of_monai(data: st.DataObject) -> None:
    ndim = data.draw(st.sampled_from([2, 3]))
    shape = [data.draw(st.integers(1, 24)) for _ in range(ndim)]
    roi_size = [data.draw(st.sampled_from([-1, 3, 4, 7, 12, 30])) for _ in range(ndim)]
    options: dict[str, Any] = {
        "roi_size": roi_size,
        "overlap": data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.8])),
        "mode": data.draw(st.sampled_from(["constant", "gaussian"])),
    }
    image = torch.rand(1, *shape)
    inferer = inferers.SlidingWindowInferer(**options)
    found = stitched(monai_tiling(shape, inferer, None, "net"), image)
    torch.testing.assert_close(found, inferer(image[None], predictor)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 2])
def test_slices_are_seen_as_images_of_their_own(axis: int) -> None:
    inferer = inferers.SlidingWindowInferer(roi_size=(5, 6), overlap=0.5, mode="gaussian")
    image = torch.rand(1, 4, 11, 9)
    found = stitched(monai_tiling(image.shape[1:], inferer, axis, "net"), image)
    for index in range(image.shape[1 + axis]):
        expected = inferer(image.select(1 + axis, index)[None], predictor)[0]
        torch.testing.assert_close(found.select(1 + axis, index), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("inferer", [None, inferers.SimpleInferer()])
def test_without_a_sliding_window_the_whole_image_is_seen(inferer: Any) -> None:
    assert len(monai_tiling((5, 6, 7), inferer, None, "net").windows) == 1
    assert len(monai_tiling((5, 6, 7), inferer, 1, "net").windows) == 6


def test_another_inferer_is_refused() -> None:
    with pytest.raises(NetworkError, match="net is run by SliceInferer"):
        monai_tiling((5, 6, 7), inferers.SliceInferer(roi_size=(5, 6)), None, "net")
