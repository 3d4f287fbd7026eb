"""Normalised intensities, and the way to the network's grid and back."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from scribblesegment.data.preprocessing import IntensityRange, NetworkGrid, crop_prompts, focus_view, grey_of_colours
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, GeometryError, ImageError

relaxed = settings(deadline=None, max_examples=50)
SIDES = st.one_of(st.integers(1, 5), st.integers(1, 300))
SPACINGS = st.one_of(st.just(1.0), st.floats(0.05, 10.0))


@st.composite
def grids(draw, sizes=None):
    """Grids of whole slices and of regions of them."""
    shape, spacing = (draw(SIDES), draw(SIDES)), (draw(SPACINGS), draw(SPACINGS))
    size = draw(sizes if sizes is not None else st.sampled_from([1, 7, 64, 128]))
    if draw(st.booleans()):
        return NetworkGrid(shape, spacing, size)
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    region = tuple((start, draw(st.integers(start + 1, n))) for start, n in zip(starts, shape, strict=True))
    return NetworkGrid(shape, spacing, size, region)


def sides(grid):
    return [stop - start for start, stop in grid.region]


# Intensities --------------------------------------------------------------------------------------------------------


def test_percentiles_become_zero_and_one_and_outliers_do_not_count():
    image = np.arange(10_001, dtype=np.int16).reshape(73, 137) - 5_000
    estimated = IntensityRange.estimate(image)
    assert (estimated.low, estimated.high) == (-4_950, 4_950)
    normalized = estimated.normalize(image)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized.ravel()[[0, 50, 5_000, 9_950, 10_000]], [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(estimated.normalize(image[3]), normalized[3])


def a_field_of_view(values=(), share=0.0, blurred=False):
    """Tissue of 40 +- 12 with an insert of 90, and outside of a round field of view `values` beside each other."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:128, :128] - 63.5
    image = 40 + 50 * (np.hypot(y - 10, x) < 15) + rng.normal(0, 12, y.shape)
    for value in values:
        image[np.hypot(y, x) > 63] = value
    metal = (abs(y + 40) < 64 * share**0.5) & (abs(x) < 64 * share**0.5)
    image += 20_000 * (ndimage.gaussian_filter(metal.astype(float), 1.0) if blurred else metal)
    return image


@pytest.mark.parametrize("padding", [-1024, -2000, -3024, -32768, 32767, np.nan, -np.inf])
@pytest.mark.parametrize(("share", "blurred"), [(0.0, False), (0.003, False), (0.03, False), (0.03, True)])
def test_padding_and_metal_do_not_set_the_range(padding, share, blurred):
    plain, spoilt = a_field_of_view(), a_field_of_view([padding], share, blurred)
    expected, found = IntensityRange.estimate(plain), IntensityRange.estimate(spoilt)
    assert found.high - found.low < (4.5 if share else 1.4) * (expected.high - expected.low)
    assert found.low <= expected.low + 5
    assert found.high >= expected.high - 5
    if not np.isnan(padding) and padding < 0:
        assert found.normalize(spoilt)[0, 0] == 0  # darker than all the rest
    assert IntensityRange.estimate(np.stack([spoilt] * 3)).low == pytest.approx(found.low, abs=3)


@pytest.mark.parametrize(
    "image",
    [
        np.repeat([0, 100, 200], 200),  # a drawing, of which nothing is padding
        np.repeat([0, 100, 1000], [600, 300, 100]),
        np.concatenate([np.zeros(500), np.linspace(1, 300, 500)]),  # a black background that the rest begins at
        np.random.default_rng(1).lognormal(0, 1.5, 5000),  # a long tail without a gap
    ],
)
def test_what_is_not_far_off_keeps_its_place(image):
    low, high = np.percentile(image, [0.5, 99.5], method="nearest")
    assert IntensityRange.estimate(image) == IntensityRange(low, high)


@pytest.mark.parametrize("value", [0, -7.5, 1e308, -1e308, 5e-324, np.nan, np.inf, -np.inf])
def test_images_of_one_value_or_none_become_zeros(value):
    image = np.full((5, 3), value)
    assert not IntensityRange.estimate(image).normalize(image).any()


def test_nan_and_infinities_have_their_places():
    image = np.array([[0.0, 1.0, 2.0], [np.nan, np.inf, -np.inf]])
    np.testing.assert_array_equal(IntensityRange(0.0, 2.0).normalize(image), [[0, 0.5, 1], [0, 1, 0]])
    assert np.isnan(image[1, 0])


@pytest.mark.parametrize("dtype", [*"?bBhHiIqQefd", ">i2", ">f8"])
def test_extremes_of_every_type_span_zero_to_one_without_overflow(dtype):
    kind = np.dtype(dtype)
    info = np.finfo(kind) if kind.kind == "f" else None if kind.kind == "b" else np.iinfo(kind)
    low, high = (False, True) if info is None else (info.min, info.max)
    image = np.array([[low, high], [high, low]], dtype=kind)
    with np.errstate(all="raise"):
        normalized = IntensityRange.estimate(image).normalize(image)
    np.testing.assert_array_equal(normalized, [[0, 1], [1, 0]])


@relaxed
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=6),
        elements={"allow_nan": True, "allow_infinity": True},
    )
)
def test_any_float_image_normalises_to_finite_values_in_range(image):
    normalized = IntensityRange.estimate(image).normalize(image)
    assert normalized.shape == image.shape
    assert ((normalized >= 0) & (normalized <= 1)).all()
    finite = np.isfinite(image)
    if finite.any() and image[finite].min() < image[finite].max():
        assert normalized.max() == 1
        assert normalized[finite].min() == 0


@relaxed
@given(hnp.arrays(np.int16, (7, 9)), st.floats(0.01, 100), st.floats(-1000, 1000))
def test_normalisation_does_not_depend_on_the_units_of_the_scanner(image, gain, bias):
    expected = IntensityRange.estimate(image).normalize(image)
    other = image * gain + bias
    np.testing.assert_allclose(IntensityRange.estimate(other).normalize(other), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64, 64), (100, 128, 96), (512, 512), (3, 1000, 30), (1, 4096, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_subsample_does_not_alias_with_rows_or_columns(shape, axis):
    axis = axis % len(shape)
    # Stripes along one axis: a step that runs along a column would see a single intensity.
    others = [other for other in range(len(shape)) if other != axis]
    stripes = np.broadcast_to(np.expand_dims(np.arange(shape[axis]), others), shape)
    estimated = IntensityRange.estimate(stripes, max_samples=2_000)
    assert estimated.low <= 0.02 * shape[axis]
    assert estimated.high >= 0.98 * (shape[axis] - 1)


@pytest.mark.parametrize(("inside", "transposed", "most"), [(150, False, 6e6), (150, True, 6e6), (1, False, 2e7)])
def test_estimating_from_a_large_volume_needs_little_memory(inside, transposed, most):
    volume = np.zeros((100, 256, 256), np.int16)  # 13 MB
    volume[-inside:, 50 : 50 + inside, 50 : 50 + inside] = 700
    volume = volume.T if transposed else volume
    tracemalloc.start()
    try:
        estimated = IntensityRange.estimate(volume, max_samples=100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert estimated == IntensityRange(0.0, 700.0)
    assert peak < most


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: IntensityRange.estimate(np.zeros((0, 5))), ImageError, r"empty.*\(0, 5\)"),
        (lambda: IntensityRange.estimate(np.array(["a"])), ImageError, "real numbers"),
        (lambda: IntensityRange(0.0, 1.0).normalize(np.array([1j])), ImageError, "real numbers"),
        *(
            (lambda b=b: IntensityRange(*b), ImageError, "not usable")
            for b in ((1.0, 0.0), (math.nan, 1), (0, math.inf))
        ),
        *(
            (
                lambda p=p: IntensityRange.estimate([1], lower_percentile=p[0], upper_percentile=p[1]),
                ConfigError,
                "Perc",
            )
            for p in ((50.0, 50.0), (-1.0, 99.0), (1.0, 101.0), (math.nan, 99.0))
        ),
        (lambda: IntensityRange.estimate([1], max_samples=0), ConfigError, "max_samples is 0"),
    ],
)
def test_unusable_intensities_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


# Geometry of the grid -----------------------------------------------------------------------------------------------


@relaxed
@given(grids(), hnp.arrays(np.float64, (5, 2), elements=st.floats(0, 1)))
def test_coordinates_survive_both_round_trips_and_have_one_millimetre_scale(grid, fractions):
    on_slice = fractions * grid.shape - 0.5
    on_grid = fractions * grid.size - 0.5
    np.testing.assert_allclose(grid.from_grid_coords(grid.to_grid_coords(on_slice)), on_slice, rtol=0, atol=1e-9)
    np.testing.assert_allclose(grid.to_grid_coords(grid.from_grid_coords(on_grid)), on_grid, rtol=0, atol=1e-9)
    cells = np.diff(grid.to_grid_coords(on_slice), axis=0)
    np.testing.assert_allclose(cells * grid.mm_per_cell, np.diff(on_slice, axis=0) * grid.spacing_mm, atol=1e-6)


@relaxed
@given(grids())
def test_the_region_fills_the_grid_along_its_longer_side_and_lies_centred(grid):
    extent_mm = np.multiply(sides(grid), grid.spacing_mm)
    for axis, extent in enumerate(grid.content):
        assert 0 <= extent.start < extent.stop <= grid.size
        before, after = extent.start, grid.size - extent.stop
        assert after - before in (0, 1)
        cells = extent.stop - extent.start
        assert abs(cells - extent_mm[axis] / grid.mm_per_cell) <= 0.5 + 1e-6 or cells == 1
        if extent_mm[axis] == extent_mm.max():
            assert (before, after) == (0, 0)
    middle = grid.to_grid_coords([(start + stop - 1) / 2 for start, stop in grid.region])
    assert np.abs(middle - (grid.size - 1) / 2).max() <= 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            ({"spacing_mm": s}, r"[Ss]pacing|infinite")
            for s in ((0.0, 1.0), (1.0, -2.0), (math.nan, 1.0), (1.0,), "ab")
        ),
        ({"spacing_mm": (1e-300, 1e300)}, "too extreme"),
        *(({"shape": s}, "slice shape") for s in ((0, 4), (4, -1), (4,), (4, 4, 4), (4.0, 4.0), 4, (True, True))),
        *(({"size": s}, "grid size") for s in (0, -1, 1.5, True, None)),
        *(({"region": r}, "empty or not inside") for r in (((2, 2), (0, 4)), ((0, 4), (3, 1)), ((0, 5), (0, 4)))),
        ({"region": ((-1, 3), (0, 4))}, "empty or not inside"),
    ],
)
def test_impossible_grids_are_refused(arguments, words):
    with pytest.raises(GeometryError, match=words):
        NetworkGrid(**{"shape": (4, 4), **arguments})


# Images and logits --------------------------------------------------------------------------------------------------


def test_a_slice_or_region_that_already_is_the_grid_passes_through_unchanged():
    rng = np.random.default_rng(3)
    image = rng.random((40, 50), dtype=np.float32)
    for shape, grid in (
        ((40, 40), NetworkGrid((40, 40), size=40)),
        ((40, 50), NetworkGrid((40, 50), (2.0, 2.0), 16, ((8, 24), (30, 46)))),
    ):
        part = image[: shape[0], : shape[1]]
        for through in (grid.image_to_grid, grid.scribbles_to_grid, grid.logits_to_grid):
            np.testing.assert_array_equal(through(part), part[grid.slices])
        np.testing.assert_array_equal(grid.logits_from_grid(part[grid.slices]), part[grid.slices])


def smooth_image(grid, direction, phase):
    """One cosine period over the longer side of the region, in millimetres."""
    longest = max(n * s for n, s in zip(sides(grid), grid.spacing_mm, strict=True))
    y, x = ((np.arange(n) - (n - 1) / 2) * s / longest for n, s in zip(grid.shape, grid.spacing_mm, strict=True))
    return np.cos(2 * math.pi * (math.cos(direction) * y[:, None] + math.sin(direction) * x) + phase)


def test_a_slice_smaller_than_the_grid_is_not_enlarged_where_that_is_unwanted():
    image = np.random.default_rng(0).random((20, 30), np.float32)
    grid = NetworkGrid(image.shape, (0.5, 0.5), 64, least_cell=1.0)
    assert grid.mm_per_cell == 0.5
    np.testing.assert_array_equal(grid.image_to_grid(image)[grid.content], image)
    np.testing.assert_array_equal(grid.logits_from_grid(grid.logits_to_grid(image)), image)
    larger, smallest = (300, 200), NetworkGrid((20, 30), size=64, least_cell=0.25)
    assert NetworkGrid(larger, size=64, least_cell=1.0).mm_per_cell == NetworkGrid(larger, size=64).mm_per_cell
    assert smallest.mm_per_cell == NetworkGrid((20, 30), size=64).mm_per_cell


@relaxed
@given(grids(st.just(128)), st.floats(0, 7), st.floats(0, 7))
def test_smooth_images_and_logits_survive_the_round_trip(grid, direction, phase):
    image = smooth_image(grid, direction, phase)
    here = image[grid.slices]
    # Known only at pixels: where pixels are coarser than cells, linear interpolation between them counts.
    pixel_in_cells = max(1.0, *(s / grid.mm_per_cell for s in grid.spacing_mm))
    slope = 2 * math.pi / 128  # per cell
    error = np.abs(grid.logits_from_grid(grid.image_to_grid(image)) - here)
    # At the border half a pixel or cell, whichever is larger, is extrapolated by the outermost value.
    assert error.max() <= 0.01 + slope * pixel_in_cells
    rows, columns = (2 + math.ceil(2 * grid.mm_per_cell / s) for s in grid.spacing_mm)
    assert error[rows:-rows, columns:-columns].max(initial=0.0) <= 0.01 + (slope * pixel_in_cells) ** 2
    back = grid.logits_from_grid(grid.logits_to_grid(10 * image))
    assert back.dtype == np.float32
    assert np.abs(back - 10 * here).max() <= 0.1 + 10 * slope * pixel_in_cells


@relaxed
@given(grids(), st.floats(-100, 100), st.integers(0, 99))
def test_constants_stay_constant_the_padding_is_zero_and_never_read_and_no_range_is_left(grid, value, seed):
    image = np.random.default_rng(seed).random(grid.shape, dtype=np.float32)
    for to_grid in (grid.image_to_grid, grid.logits_to_grid, grid.scribbles_to_grid):
        drawn = to_grid(np.full(grid.shape, value))
        assert (drawn.dtype, drawn.shape) == (np.float32, (grid.size, grid.size))
        np.testing.assert_allclose(drawn[grid.content], value, rtol=1e-5, atol=1e-6)
        drawn[grid.content] = 0
        assert not drawn.any()
        found = to_grid(image)[grid.content]
        assert image[grid.slices].min() - 1e-6 <= found.min() <= found.max() <= image[grid.slices].max() + 1e-6
    spoiled = np.full((grid.size, grid.size), np.nan, np.float32)
    spoiled[grid.content] = value
    np.testing.assert_allclose(grid.logits_from_grid(spoiled), np.full(sides(grid), value), rtol=1e-5, atol=1e-6)


def test_shrinking_does_not_alias():
    stripes = np.tile([0.0, 0.0, 1.0], (512, 171))[:, :512]  # every third column: one point sample would see moire
    drawn = NetworkGrid((512, 512)).image_to_grid(stripes)
    assert np.abs(drawn[:, 2:-2] - 1 / 3).max() < 0.07


def test_arrays_of_another_shape_damaged_logits_and_images_of_no_numbers_are_refused():
    grid = NetworkGrid((4, 5), size=8)
    for through in (grid.image_to_grid, grid.scribbles_to_grid, grid.logits_to_grid, grid.logits_from_grid):
        with pytest.raises(GeometryError, match=r"\(5, 4\)"):
            through(np.zeros((5, 4)))
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(ImageError, match="weights may be damaged"):
            grid.logits_from_grid(np.full((8, 8), value))
    with pytest.raises(ImageError, match="complex"):
        grid.image_to_grid(np.zeros((4, 5), complex))


# Prompts ------------------------------------------------------------------------------------------------------------


@relaxed
@given(grids(), st.integers(0, 2**32 - 1), st.floats(0.0, 0.2))
def test_scribbles_take_the_maximum_over_the_pixels_of_a_cell(grid, seed, density):
    rng = np.random.default_rng(seed)
    scribbles = np.where(rng.random(grid.shape) < density, rng.random(grid.shape), 0).astype(np.float32)
    drawn = grid.scribbles_to_grid(scribbles)
    # Written the slow way: every pixel marks the cell that holds its centre, as a click on it does.
    pixels = np.argwhere(np.ones(sides(grid), bool)) + [start for start, _ in grid.region]
    empty = Prompts.empty(grid.shape)
    clicks = Prompts(empty.scribbles, pixels, np.ones(len(pixels), int), empty.boxes)
    cells = tuple(grid.prompts_to_grid(clicks).point_coords.T)
    expected, held = np.zeros_like(drawn), np.zeros(drawn.shape, bool)
    np.maximum.at(expected, cells, scribbles[tuple(pixels.T)])
    held[cells] = True
    np.testing.assert_array_equal(drawn[held], expected[held])
    assert drawn.max() == scribbles[grid.slices].max()
    assert set(np.unique(drawn)) <= {0.0, *np.unique(scribbles)}


def test_an_enlarged_pixel_covers_exactly_its_cells():
    stroke = np.zeros((8, 8))
    stroke[2, 5] = 1
    expected = np.zeros((128, 128))
    expected[32:48, 80:96] = 1
    np.testing.assert_array_equal(NetworkGrid((8, 8), size=128).scribbles_to_grid(stroke), expected)


@relaxed
@given(grids(), st.data())
def test_boxes_are_never_empty_and_hold_the_cells_whose_centres_they_cover(grid, data):
    start = np.array([data.draw(st.integers(*(a, b - 1))) for a, b in grid.region])
    stop = np.array([data.draw(st.integers(s + 1, b)) for s, (_, b) in zip(start, grid.region, strict=True)])
    whole = tuple(zip(*grid.region, strict=True))
    box, everything = grid.prompts_to_grid(Prompts.empty(grid.shape).with_box(start, stop).with_box(*whole)).boxes
    assert (box[0] < box[1]).all()
    low, high = grid.to_grid_coords(start - 0.5), grid.to_grid_coords(stop - 0.5)
    for d, extent in enumerate(grid.content):
        assert extent.start <= box[0, d] < box[1, d] <= extent.stop
        assert everything[:, d].tolist() == [extent.start, extent.stop]
        expected = [c for c in range(extent.start, extent.stop) if low[d] - 1e-6 < c < high[d] - 1e-6]
        if expected and min(abs(low[d] - box[0, d]), abs(high[d] - box[1, d])) > 1e-6:
            assert (box[0, d], box[1, d]) == (expected[0], expected[-1] + 1)


def all_kinds(shape):
    rng = np.random.default_rng(5)
    prompts = Prompts.empty(shape).with_scribble(rng.random(shape) > 0.97)
    prompts = prompts.with_scribble(rng.random(shape) > 0.97, positive=False)
    prompts = prompts.with_click((3, 4)).with_click((shape[0] - 1, 2), positive=False)
    prompts = prompts.with_box((2, 3), (shape[0] - 2, shape[1] // 2)).with_box((0, 0), (1, 1))
    return prompts.with_mask_input(rng.normal(size=shape).astype(np.float32))


def test_prompts_are_cut_to_a_region_and_brought_to_its_grid():
    prompts, region = all_kinds((20, 30)), ((10, 20), (0, 12))
    cropped = crop_prompts(prompts, region)
    np.testing.assert_array_equal(cropped.scribbles, prompts.scribbles[:, 10:20, :12])
    assert (cropped.point_coords.tolist(), cropped.point_labels.tolist()) == ([[9, 2]], [0])
    assert cropped.boxes.tolist() == [[[0, 3], [8, 12]]]
    np.testing.assert_array_equal(cropped.mask_input, prompts.mask_input[10:20, :12])
    assert crop_prompts(prompts, ((0, 20), (0, 30))) is prompts
    assert crop_prompts(prompts.with_mask_input(None), region).mask_input is None
    # On a grid of the region's own resolution only the place changes: twelve columns, two rows of padding before.
    seen = NetworkGrid((20, 30), size=12, region=region).prompts_to_grid(prompts)
    np.testing.assert_array_equal(seen.scribbles[:, 1:11], cropped.scribbles)
    assert (seen.point_coords.tolist(), seen.boxes.tolist()) == ([[10, 2]], [[[1, 3], [9, 12]]])
    np.testing.assert_allclose(seen.mask_input[1:11], cropped.mask_input, atol=1e-6)


def test_around_the_slice_earlier_logits_are_background():
    grid, prompts = NetworkGrid((8, 16), size=16), Prompts.empty((8, 16))
    seen = grid.prompts_to_grid(prompts.with_mask_input(np.full((8, 16), 3.0))).mask_input
    assert not seen[:4].any()
    assert (seen[4:12] == 3.0).all()
    sure = grid.prompts_to_grid(prompts.with_mask_input(np.linspace(-7, 9, 128).reshape(8, 16))).mask_input
    assert (sure[:4] == -7.0).all()
    assert grid.prompts_to_grid(prompts).mask_input is None


# The zoom pass ------------------------------------------------------------------------------------------------------


def square(shape, top, left, side):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def zoom(mask, prompts=None, **changes):
    """After a first pass at 16 cells a side of a slice with square pixels, unless told otherwise."""
    options = {"spacing_mm": (1.0, 1.0), "size": 16, "max_size": 64, "first_cell_mm": max(mask.shape) / 16, **changes}
    return focus_view(mask, prompts or Prompts.empty(mask.shape), **options)


def test_positive_prompts_are_part_of_it_and_negative_ones_are_not():
    mask, empty = square((256, 256), 150, 150, 10), Prompts.empty((256, 256))
    assert zoom(mask, first_cell_mm=4.0).region == ((126, 184), (126, 184))
    far = square((256, 256), 200, 210, 3)
    for prompts in (empty.with_scribble(far), empty.with_click((201, 211)), empty.with_box((200, 210), (203, 213))):
        (top, bottom), (left, right) = zoom(mask, prompts, first_cell_mm=4.0).region
        assert max(top, left) <= 126
        assert (bottom >= 225, right >= 235) == (True, True)
    negative = empty.with_scribble(far, positive=False).with_click((250, 3), positive=False)
    assert zoom(mask, negative, first_cell_mm=4.0) == zoom(mask, first_cell_mm=4.0)
    assert zoom(np.zeros_like(mask), negative) is None


def test_a_slice_that_the_first_pass_resolves_is_not_looked_at_again():
    assert zoom(square((5, 5), 1, 1, 3)) is zoom(square((16, 16), 1, 1, 3)) is None
    assert zoom(square((256, 256), 10, 10, 230), size=128, max_size=128, first_cell_mm=2.0) is None
    with pytest.raises(GeometryError, match=r"mask has shape \(8, 8\).*\(8, 9\)"):
        zoom(np.zeros((8, 8), bool), Prompts.empty((8, 9)))


@settings(max_examples=15)
@given(st.data())
def test_a_zoom_pass_shows_all_that_is_marked_at_finer_pixels(data):
    height, width = (data.draw(st.integers(1, 120)) for _ in range(2))
    spacing = tuple(data.draw(st.floats(0.3, 4.0)) for _ in range(2))
    size = data.draw(st.sampled_from([16, 32, 40]))
    largest = size * data.draw(st.integers(1, 4))
    mask = np.zeros((height, width), bool)
    mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    prompts = Prompts.empty(mask.shape).with_click((data.draw(st.integers(0, height - 1)), 0))
    first_cell_mm = max(height * spacing[0], width * spacing[1]) / size
    view = zoom(mask, prompts, spacing_mm=spacing, size=size, max_size=largest, first_cell_mm=first_cell_mm)
    if view is None:
        return
    marked = mask | prompts.positive_pixels()
    assert 0.5 * min(spacing) * (1 - 1e-9) <= view.mm_per_cell <= first_cell_mm / 1.2 * (1 + 1e-9)
    assert view.size in (size, largest) or (size < view.size < largest and view.size % 32 == 0)
    for (start, stop), length, axis, mm in zip(view.region, mask.shape, (1, 0), spacing, strict=True):
        extent = np.flatnonzero(marked.any(axis=axis))
        margin = int(6 * first_cell_mm / mm)
        assert 0 <= start <= max(0, extent[0] - margin + 1)
        assert length >= stop >= min(length, extent[-1] + margin)


# Colours ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_are_as_bright_as_they_are_unless_they_differ_in_something_else(dtype):
    rng = np.random.default_rng(0)
    shade = rng.uniform(0.3, 1.0, (2, 30, 40, 1)) * np.iinfo(dtype).max
    picture = (shade * (1.0, 0.8, 0.6)).astype(dtype)
    np.testing.assert_array_equal(grey_of_colours(picture), np.rint(picture @ np.array([0.299, 0.587, 0.114])))
    np.testing.assert_array_equal(grey_of_colours(np.full((1, 3, 3, 3), 7, dtype)), 7)
    # Red on a green of the same brightness.
    disc = np.hypot(*np.ogrid[-15:15, -20:20])[None] < 8
    red, green = np.array((200, 0, 0)), np.array((0, 102, 0))
    picture = np.where(disc[..., None], red, green).astype(dtype)
    grey = grey_of_colours(picture)
    assert grey.dtype == dtype
    assert np.ptp(picture @ np.array([0.299, 0.587, 0.114])) < 1
    assert np.ptp(grey[disc]) == np.ptp(grey[~disc]) == 0
    assert abs(int(grey[disc][0]) - int(grey[~disc][0])) > 100
