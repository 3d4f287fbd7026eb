from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.preprocessing import NetworkGrid, crop_prompts, focus_view
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import GeometryError


def a_square(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def look_again(mask: np.ndarray, prompts: Prompts | None = None, **changes: object) -> NetworkGrid | None:
    """A first look at 16 cells a side of a slice with square pixels, unless told otherwise."""
    options: dict[str, object] = {"spacing_mm": (1.0, 1.0), "size": 16, "max_size": 64}
    options |= {"first_cell_mm": max(mask.shape) / 16, **changes}
    return focus_view(mask, prompts or Prompts.empty(mask.shape), **options)  # type: ignore[arg-type]


def all_kinds(shape: tuple[int, int]) -> Prompts:
    rng = np.random.default_rng(5)
    prompts = Prompts.empty(shape).with_scribble(rng.random(shape) > 0.97)
    prompts = prompts.with_scribble(rng.random(shape) > 0.97, positive=False)
    prompts = prompts.with_click((3, 4)).with_click((shape[0] - 1, 2), positive=False)
    prompts = prompts.with_box((2, 3), (shape[0] - 2, shape[1] // 2)).with_box((0, 0), (1, 1))
    return prompts.with_mask_input(rng.normal(size=shape).astype(np.float32))


def test_the_second_look_is_at_the_prediction_with_a_margin():
    view = look_again(a_square((256, 256), 100, 60, 40))
    assert view is not None
    # The margin is six cells of the first look, 16 pixels each, because that is more than a fifth of 40 pixels.
    assert view.region == ((100 - 96, 140 + 96), (0, 232))
    assert (view.size, view.spacing_mm) == (64, (1.0, 1.0))


def test_the_margin_of_something_large_is_a_fifth_of_its_side():
    view = look_again(a_square((512, 512), 100, 100, 100), first_cell_mm=3.0)
    assert view is not None
    assert view.region == ((80, 220), (80, 220))


@pytest.mark.parametrize(
    "prompts",
    [
        Prompts.empty((256, 256)).with_scribble(a_square((256, 256), 200, 210, 3)),
        Prompts.empty((256, 256)).with_click((201, 211)),
        Prompts.empty((256, 256)).with_box((200, 210), (203, 213)),
    ],
    ids=["stroke", "click", "box"],
)
def test_positive_prompts_outside_the_prediction_are_looked_at_too(prompts):
    mask = a_square((256, 256), 150, 150, 10)
    alone, both = look_again(mask, first_cell_mm=4.0), look_again(mask, prompts, first_cell_mm=4.0)
    assert alone is not None
    assert both is not None
    assert alone.region == ((126, 184), (126, 184))
    (top, bottom), (left, right) = both.region
    assert top <= 150 - 24
    assert left <= 150 - 24
    assert bottom >= 202 + 24
    assert right >= 212 + 24


def test_negative_prompts_do_not_enlarge_what_is_looked_at():
    mask = a_square((256, 256), 30, 30, 8)
    far = a_square((256, 256), 230, 230, 4)
    prompts = Prompts.empty((256, 256)).with_scribble(far, positive=False).with_click((250, 3), positive=False)
    assert look_again(mask, prompts, first_cell_mm=4.0) == look_again(mask, first_cell_mm=4.0)


def test_a_small_structure_is_not_looked_at_finer_than_half_pixels():
    view = look_again(a_square((512, 512), 250, 250, 2), size=128, max_size=256, first_cell_mm=4.0)
    assert view is not None
    (top, bottom), (left, right) = view.region
    assert (bottom - top, right - left, view.size) == (64, 64, 128)


def test_at_the_border_of_the_slice_the_region_moves_inside():
    view = look_again(a_square((256, 256), 0, 250, 6), first_cell_mm=2.0)
    assert view is not None
    assert view.region == ((0, 30), (226, 256))


def test_nothing_marked_is_not_looked_at():
    prompts = Prompts.empty((64, 64)).with_click((3, 3), positive=False)
    assert look_again(np.zeros((64, 64), bool), prompts) is None


@pytest.mark.parametrize("side", [5, 16])
def test_a_slice_that_the_first_look_resolves_is_not_looked_at_again(side):
    assert look_again(a_square((side, side), 1, 1, 3)) is None


def test_what_fills_the_slice_is_looked_at_again_only_on_a_larger_grid():
    mask = a_square((256, 256), 10, 10, 230)
    assert look_again(mask, size=128, max_size=128, first_cell_mm=2.0) is None
    view = look_again(mask, size=128, max_size=256, first_cell_mm=2.0)
    assert view is not None
    assert (view.region, view.size) == (((0, 256), (0, 256)), 256)


def test_the_grid_follows_the_finer_axis_of_a_slice_with_oblong_pixels():
    mask = np.zeros((40, 400), bool)
    mask[18:22, 180:220] = True  # 20 mm by 20 mm
    view = look_again(mask, spacing_mm=(5.0, 0.5), size=32, max_size=256, first_cell_mm=6.25)
    assert view is not None
    (top, bottom), (left, right) = view.region
    # 95 mm: the square and six cells of 6.25 mm on either side; 190 columns need 192 cells.
    assert bottom - top == 19
    assert right - left == 190
    assert view.size == 192
    assert top <= 18 - 7
    assert bottom >= 22 + 7


def test_mask_and_prompts_of_different_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"mask has shape \(8, 8\).*\(8, 9\)"):
        look_again(np.zeros((8, 8), bool), Prompts.empty((8, 9)))


def test_the_prediction_is_not_written_to():
    mask = a_square((64, 64), 10, 10, 5)
    before = mask.copy()
    look_again(mask, Prompts.empty((64, 64)).with_click((40, 40)).with_box((50, 50), (60, 60)))
    np.testing.assert_array_equal(mask, before)


@settings(max_examples=15)
@given(data=st.data())
def test_a_second_look_shows_all_that_is_marked_at_finer_pixels(data):
    height, width = (data.draw(st.integers(1, 120)) for _ in range(2))
    spacing_mm = tuple(data.draw(st.floats(0.3, 4.0)) for _ in range(2))
    size = data.draw(st.sampled_from([16, 32, 40]))
    max_size = size * data.draw(st.integers(1, 4))
    mask = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(0, 3))):
        mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    prompts = Prompts.empty((height, width))
    if data.draw(st.booleans()):
        prompts = prompts.with_click((data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))))
    first_cell_mm = max(height * spacing_mm[0], width * spacing_mm[1]) / size
    view = look_again(mask, prompts, spacing_mm=spacing_mm, size=size, max_size=max_size, first_cell_mm=first_cell_mm)
    marked = mask.copy()
    marked[tuple(prompts.point_coords.T)] = True
    if not marked.any():
        assert view is None
        return
    if view is None:
        return
    assert 1.2 * view.grid.mm_per_cell <= first_cell_mm * (1 + 1e-9)
    assert view.grid.mm_per_cell >= 0.5 * min(spacing_mm) * (1 - 1e-9)
    assert view.size in (size, max_size) or (size < view.size < max_size and view.size % 32 == 0)
    for (start, stop), length, axis, mm in zip(view.region, mask.shape, (1, 0), spacing_mm, strict=True):
        extent = np.flatnonzero(marked.any(axis=axis))
        margin = int(6 * first_cell_mm / mm)
        assert 0 <= start <= max(0, extent[0] - margin + 1)
        assert length >= stop >= min(length, extent[-1] + margin)


def test_prompts_of_the_whole_slice_go_to_the_grid_as_they_always_did():
    prompts = all_kinds((20, 30))
    grid = NetworkGrid((20, 30), (1.5, 1.0), 16)
    seen = NetworkGrid(((0, 20), (0, 30)), (1.5, 1.0), 16).prompts_to_grid(prompts)
    np.testing.assert_array_equal(seen.scribbles, grid.scribbles_to_grid(prompts.scribbles))
    np.testing.assert_array_equal(seen.point_coords, grid.points_to_grid(prompts.point_coords))
    np.testing.assert_array_equal(seen.point_labels, prompts.point_labels)
    np.testing.assert_array_equal(seen.boxes, grid.boxes_to_grid(prompts.boxes))
    rows, columns = grid.content
    assert seen.mask_input is not None
    np.testing.assert_array_equal(
        seen.mask_input[rows, columns], grid.logits_to_grid(prompts.mask_input)[rows, columns]
    )


def test_around_the_slice_earlier_logits_are_background():
    prompts = Prompts.empty((8, 16)).with_mask_input(np.full((8, 16), 3.0))
    seen = NetworkGrid(((0, 8), (0, 16)), (1.0, 1.0), 16).prompts_to_grid(prompts).mask_input
    assert seen is not None
    assert not seen[:4].any()
    assert (seen[4:12] == 3.0).all()
    sure = NetworkGrid(((0, 8), (0, 16)), (1.0, 1.0), 16).prompts_to_grid(
        prompts.with_mask_input(np.linspace(-7, 9, 128).reshape(8, 16))
    )
    assert sure.mask_input is not None
    assert (sure.mask_input[:4] == -7.0).all()


def test_prompts_are_cut_to_a_region():
    prompts = all_kinds((20, 30))
    region = ((10, 20), (0, 12))
    cropped = crop_prompts(prompts, region)
    np.testing.assert_array_equal(cropped.scribbles, prompts.scribbles[:, 10:20, :12])
    assert cropped.point_coords.tolist() == [[9, 2]]
    assert cropped.point_labels.tolist() == [0]
    assert cropped.boxes.tolist() == [[[0, 3], [8, 12]]]
    assert cropped.mask_input is not None
    np.testing.assert_array_equal(cropped.mask_input, prompts.mask_input[10:20, :12])
    assert crop_prompts(prompts, ((0, 20), (0, 30))) is prompts
    assert crop_prompts(replace(prompts, mask_input=None), region).mask_input is None


def test_prompts_of_a_region_at_its_own_resolution_are_those_of_the_slice():
    prompts = all_kinds((40, 40))
    seen = NetworkGrid(((10, 26), (4, 20)), (1.0, 1.0), 16).prompts_to_grid(prompts)
    np.testing.assert_array_equal(seen.scribbles, prompts.scribbles[:, 10:26, 4:20])
    assert seen.mask_input is not None
    np.testing.assert_allclose(seen.mask_input, prompts.mask_input[10:26, 4:20], atol=1e-6)


def test_a_region_of_an_image_goes_to_the_grid_and_back():
    image = np.random.default_rng(1).random((40, 50), dtype=np.float32)
    view = NetworkGrid(((8, 24), (30, 46)), (2.0, 2.0), 16)
    np.testing.assert_allclose(view.image_to_grid(image), image[8:24, 30:46], atol=1e-6)
    np.testing.assert_allclose(view.logits_from_grid(image[8:24, 30:46]), image[view.slices], atol=1e-6)


@pytest.mark.parametrize("region", [((4, 4), (0, 8)), ((0, 8), (5, 3))])
def test_an_empty_region_is_refused(region):
    with pytest.raises(GeometryError, match="is empty"):
        NetworkGrid(region, (1.0, 1.0), 16)


def test_a_size_or_spacing_that_is_none_is_refused():
    with pytest.raises(GeometryError, match="grid size is 0"):
        NetworkGrid(((0, 4), (0, 4)), (1.0, 1.0), 0)
    with pytest.raises(GeometryError):
        NetworkGrid(((0, 4), (0, 4)), (0.0, 1.0), 16)
