"""Tests of scribblesegment.data.preprocessing: normalised intensities, and the way to the network's grid and back."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from scribblesegment.data.preprocessing import IntensityRange, NetworkGrid
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError

relaxed = settings(deadline=None, max_examples=60)

SIDES = st.one_of(st.integers(1, 5), st.integers(1, 300))
SPACINGS = st.one_of(st.just(1.0), st.floats(0.05, 10.0))


@st.composite
def slice_grids(draw: st.DrawFn, sizes: st.SearchStrategy[int] | None = None) -> NetworkGrid:
    shape = (draw(SIDES), draw(SIDES))
    size = draw(sizes if sizes is not None else st.sampled_from([1, 7, 64, 128]))
    return NetworkGrid(shape, (draw(SPACINGS), draw(SPACINGS)), size)


def cell_in_the_content(grid: NetworkGrid, cell: np.ndarray) -> bool:
    return all(extent.start <= index < extent.stop for extent, index in zip(grid.content, cell, strict=True))


# --- Intensities ------------------------------------------------------------------------------------------------------


def test_percentiles_become_zero_and_one() -> None:
    image = np.arange(10_001, dtype=np.int16).reshape(73, 137) - 5_000
    estimated = IntensityRange.estimate(image)
    assert (estimated.low, estimated.high) == (-4_950, 4_950)
    normalized = estimated.normalize(image)
    assert normalized.dtype == np.float32
    assert normalized.shape == image.shape
    np.testing.assert_allclose(normalized.ravel()[[0, 50, 5_000, 9_950, 10_000]], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_a_few_outliers_do_not_decide_the_range() -> None:
    image = np.random.default_rng(0).normal(100.0, 10.0, (200, 200))
    image[:5, 0] = 1e6
    assert IntensityRange.estimate(image).high < 200


def test_neighbouring_slices_normalised_with_one_range_agree() -> None:
    volume = np.random.default_rng(1).integers(0, 500, (6, 40, 50)).astype(np.int16)
    volume[3] = volume[2] // 2  # the darker slice stays darker
    estimated = IntensityRange.estimate(volume)
    np.testing.assert_array_equal(estimated.normalize(volume)[3], estimated.normalize(volume[3]))
    assert estimated.normalize(volume[3]).mean() < 0.6 * estimated.normalize(volume[2]).mean()


def test_nearly_empty_images_fall_back_to_their_extremes() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[0, :40] = np.arange(1, 41)
    assert IntensityRange.estimate(image) == IntensityRange(0.0, 40.0)


def test_the_fallback_finds_a_single_bright_voxel_that_no_sample_meets() -> None:
    volume = np.zeros((40, 50, 60), np.float32)
    volume[13, 27, 31] = 9.0
    volume[0, 0, :3] = [np.nan, np.inf, -np.inf]
    assert IntensityRange.estimate(volume, max_samples=100) == IntensityRange(0.0, 9.0)


@pytest.mark.parametrize("value", [0, -7.5, 1e308, -1e308, 5e-324])
def test_constant_images_become_zeros(value: float) -> None:
    image = np.full((5, 3), value)
    assert not IntensityRange.estimate(image).normalize(image).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_without_finite_values_become_zeros(value: float) -> None:
    image = np.full((5, 3), value)
    estimated = IntensityRange.estimate(image)
    assert estimated == IntensityRange(0.0, 0.0)
    assert not estimated.normalize(image).any()


def test_nan_and_infinities_have_their_places() -> None:
    image = np.array([[0.0, 1.0, 2.0], [np.nan, np.inf, -np.inf]])
    np.testing.assert_array_equal(IntensityRange(0.0, 2.0).normalize(image), [[0, 0.5, 1], [0, 1, 0]])


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float16,
              np.float32, np.float64, ">i2", ">f8"],
)  # fmt: skip
def test_extremes_of_every_type_span_zero_to_one_without_overflow(dtype: str | type) -> None:
    kind = np.dtype(dtype)
    low: float = False
    high: float = True
    if kind.kind != "b":
        info = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        low, high = info.min, info.max
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
def test_any_float_image_normalises_to_finite_values_in_range(image: np.ndarray) -> None:
    normalized = IntensityRange.estimate(image).normalize(image)
    assert normalized.shape == image.shape
    assert np.isfinite(normalized).all()
    assert normalized.min() >= 0
    assert normalized.max() <= 1
    finite = np.isfinite(image)
    if finite.any() and image[finite].min() < image[finite].max():
        assert normalized.max() == 1
        assert normalized[finite].min() == 0


@relaxed
@given(hnp.arrays(np.int16, (7, 9)), st.floats(0.01, 100), st.floats(-1000, 1000))
def test_normalisation_does_not_depend_on_the_units_of_the_scanner(image: np.ndarray, gain: float, bias: float) -> None:
    expected = IntensityRange.estimate(image).normalize(image)
    other = image * gain + bias
    np.testing.assert_allclose(IntensityRange.estimate(other).normalize(other), expected, atol=1e-4)


def test_normalising_leaves_the_input_untouched() -> None:
    image = np.array([[1.0, np.nan], [5.0, 9.0]])
    before = image.copy()
    IntensityRange.estimate(image).normalize(image)
    np.testing.assert_array_equal(image, before)


def test_estimating_is_deterministic_and_independent_of_memory_layout() -> None:
    volume = np.random.default_rng(2).normal(size=(30, 40, 50))
    first = IntensityRange.estimate(volume, max_samples=5_000)
    assert first == IntensityRange.estimate(volume, max_samples=5_000)
    assert first == IntensityRange.estimate(np.asfortranarray(volume), max_samples=5_000)


@pytest.mark.parametrize("shape", [(64, 64, 64), (100, 128, 96), (512, 512), (3, 1000, 30), (1, 4096, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_subsample_does_not_alias_with_rows_or_columns(shape: tuple[int, ...], axis: int) -> None:
    axis = axis % len(shape)
    # Stripes along one axis: a step that runs along a column would see a single intensity.
    stripes = np.broadcast_to(
        np.expand_dims(np.arange(shape[axis]), [a for a in range(len(shape)) if a != axis]), shape
    )
    estimated = IntensityRange.estimate(stripes, max_samples=2_000)
    assert estimated.low <= 0.02 * shape[axis]
    assert estimated.high >= 0.98 * (shape[axis] - 1)


@pytest.mark.parametrize("transposed", [False, True])
def test_estimating_from_a_large_volume_needs_little_memory(transposed: bool) -> None:
    volume = np.zeros((100, 256, 256), np.int16)  # 13 MB
    volume[:, 50:200, 50:200] = 700
    if transposed:
        volume = volume.T
    tracemalloc.start()
    try:
        estimated = IntensityRange.estimate(volume, max_samples=100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert estimated == IntensityRange(0.0, 700.0)
    assert peak < 6_000_000


def test_the_fallback_also_needs_little_memory() -> None:
    volume = np.zeros((200, 256, 256), np.int16)  # 26 MB
    volume[150, 100, 100] = 3
    tracemalloc.start()
    try:
        estimated = IntensityRange.estimate(volume, max_samples=100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert estimated == IntensityRange(0.0, 3.0)
    assert peak < 20_000_000


def test_an_empty_image_has_no_range() -> None:
    with pytest.raises(ImageError, match=r"empty.*\(0, 5\)"):
        IntensityRange.estimate(np.zeros((0, 5)))


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.array([1j]), np.array([object()])])
def test_images_that_are_not_numbers_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="Pass real numbers"):
        IntensityRange.estimate(array)
    with pytest.raises(ImageError, match="Pass real numbers"):
        IntensityRange(0.0, 1.0).normalize(array)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_unusable_ranges_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ImageError, match="not usable"):
        IntensityRange(*bounds)


@pytest.mark.parametrize(("lower", "upper"), [(50.0, 50.0), (-1.0, 99.0), (1.0, 101.0), (math.nan, 99.0)])
def test_percentiles_out_of_order_are_refused(lower: float, upper: float) -> None:
    with pytest.raises(ConfigError, match="Percentiles"):
        IntensityRange.estimate(np.arange(9), lower_percentile=lower, upper_percentile=upper)


def test_looking_at_no_voxel_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_samples is 0"):
        IntensityRange.estimate(np.arange(9), max_samples=0)


# --- Geometry of the grid ---------------------------------------------------------------------------------------------


@relaxed
@given(slice_grids(), hnp.arrays(np.float64, (5, 2), elements=st.floats(0, 1)))
def test_coordinates_survive_both_round_trips(grid: NetworkGrid, fractions: np.ndarray) -> None:
    on_slice = fractions * grid.shape - 0.5
    on_grid = fractions * grid.size - 0.5
    np.testing.assert_allclose(grid.from_grid_coords(grid.to_grid_coords(on_slice)), on_slice, rtol=0, atol=1e-9)
    np.testing.assert_allclose(grid.to_grid_coords(grid.from_grid_coords(on_grid)), on_grid, rtol=0, atol=1e-9)


@relaxed
@given(slice_grids(), hnp.arrays(np.float64, (2, 2), elements=st.floats(-500, 500)))
def test_the_grid_has_one_millimetre_scale_for_both_axes(grid: NetworkGrid, points: np.ndarray) -> None:
    step_mm = (points[1] - points[0]) * grid.spacing_mm
    step_cells = np.diff(grid.to_grid_coords(points), axis=0)[0]
    np.testing.assert_allclose(step_cells * grid.mm_per_cell, step_mm, rtol=1e-9, atol=1e-6)


@relaxed
@given(slice_grids())
def test_the_slice_fills_the_grid_along_its_longer_side_and_lies_centred(grid: NetworkGrid) -> None:
    extent_mm = np.multiply(grid.shape, grid.spacing_mm)
    for axis, extent in enumerate(grid.content):
        assert 0 <= extent.start < extent.stop <= grid.size
        before, after = extent.start, grid.size - extent.stop
        assert after - before in (0, 1)
        expected = extent_mm[axis] / grid.mm_per_cell
        assert abs((extent.stop - extent.start) - expected) <= 0.5 + 1e-6 or (extent.stop - extent.start == 1)
        if extent_mm[axis] == extent_mm.max():
            assert (before, after) == (0, 0)
    middle = grid.to_grid_coords((np.array(grid.shape) - 1) / 2)
    assert np.abs(middle - (grid.size - 1) / 2).max() <= 0.5


def test_a_slice_that_already_is_the_grid_passes_through_unchanged() -> None:
    grid = NetworkGrid((128, 128))
    rng = np.random.default_rng(3)
    image = rng.random((128, 128), dtype=np.float32)
    for through in (grid.image_to_grid, grid.scribbles_to_grid, grid.logits_to_grid, grid.logits_from_grid):
        np.testing.assert_array_equal(through(image), image)
    points = rng.integers(0, 128, (9, 2))
    np.testing.assert_array_equal(grid.points_to_grid(points), points)
    boxes = np.stack([points, points + np.array([3, 7])], axis=1).clip(0, 128)
    boxes = boxes[(boxes[:, 1] > boxes[:, 0]).all(axis=1)]
    np.testing.assert_array_equal(grid.boxes_to_grid(boxes), boxes)


def test_a_disc_in_millimetres_stays_a_disc_on_the_grid() -> None:
    shape, spacing = (300, 26), (0.5, 5.0)  # 150 x 130 mm
    grid = NetworkGrid(shape, spacing)
    y_mm, x_mm = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True))
    disc = (y_mm[:, None] ** 2 + x_mm[None, :] ** 2 < 40.0**2).astype(np.float32)
    drawn = grid.image_to_grid(disc)
    rows, columns = np.nonzero(drawn > 0.5)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height == pytest.approx(80 / grid.mm_per_cell, abs=1.5)
    assert width == pytest.approx(80 / grid.mm_per_cell, abs=5.0 / grid.mm_per_cell)
    assert drawn.sum() * grid.mm_per_cell**2 == pytest.approx(math.pi * 40**2, rel=0.03)


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, -2.0), (math.nan, 1.0), (1.0, math.inf), (1.0,), 1.0, "ab",
                                     (1e-300, 1e300)])  # fmt: skip
def test_invalid_spacing_is_refused(spacing: tuple[float, float]) -> None:
    with pytest.raises(GeometryError, match=r"[Ss]pacing|infinite"):
        NetworkGrid((4, 4), spacing)


@pytest.mark.parametrize("shape", [(0, 4), (4, -1), (4,), (4, 4, 4), (4.0, 4.0), 4, (True, True)])
def test_invalid_shapes_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(GeometryError, match="slice shape"):
        NetworkGrid(shape)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_invalid_grid_sizes_are_refused(size: int) -> None:
    with pytest.raises(GeometryError, match="grid size"):
        NetworkGrid((4, 4), size=size)


def test_grids_with_the_same_geometry_are_equal_and_hashable() -> None:
    numbers = NetworkGrid((np.int64(5), 7), [1.0, 2.0], np.int32(64))  # type: ignore[arg-type]
    assert numbers == NetworkGrid((5, 7), (1, 2), 64)
    assert len({numbers, NetworkGrid((5, 7), (1.0, 2.0), 64), NetworkGrid((5, 7), (1.0, 2.5), 64)}) == 2


# --- Images and logits ------------------------------------------------------------------------------------------------


def smooth_image(grid: NetworkGrid, direction: float, phase: float) -> np.ndarray:
    """One cosine period over the longer side, in millimetres."""
    longest = max(n * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True))
    y, x = ((np.arange(n) - (n - 1) / 2) * s / longest for n, s in zip(grid.shape, grid.spacing_mm, strict=True))
    position = math.cos(direction) * y[:, None] + math.sin(direction) * x[None, :]
    return np.cos(2 * math.pi * position + phase)


@relaxed
@given(slice_grids(st.just(128)), st.floats(0, 7), st.floats(0, 7))
def test_smooth_images_survive_the_round_trip(grid: NetworkGrid, direction: float, phase: float) -> None:
    image = smooth_image(grid, direction, phase)
    # The image is known only at pixels: where pixels are coarser than cells, linear interpolation between them counts.
    pixel_in_cells = max(1.0, *(s / grid.mm_per_cell for s in grid.spacing_mm))
    slope = 2 * math.pi / 128  # per cell
    error = np.abs(grid.logits_from_grid(grid.image_to_grid(image)) - image)
    # At the border half a pixel or cell, whichever is larger, is extrapolated by the outermost value.
    assert error.max() <= 0.01 + slope * pixel_in_cells
    rows, columns = (2 + math.ceil(2 * grid.mm_per_cell / s) for s in grid.spacing_mm)
    assert error[rows:-rows, columns:-columns].max(initial=0.0) <= 0.01 + (slope * pixel_in_cells) ** 2


@relaxed
@given(slice_grids(st.just(128)), st.floats(0, 7), st.floats(0, 7))
def test_smooth_logits_survive_the_round_trip(grid: NetworkGrid, direction: float, phase: float) -> None:
    logits = 10 * smooth_image(grid, direction, phase)
    pixel_in_cells = max(1.0, *(s / grid.mm_per_cell for s in grid.spacing_mm))
    back = grid.logits_from_grid(grid.logits_to_grid(logits))
    assert back.dtype == np.float32
    assert np.abs(back - logits).max() <= 0.1 + 10 * 2 * math.pi / 128 * pixel_in_cells


@pytest.mark.parametrize("shape", [(512, 512), (511, 300), (256, 1), (1000, 77), (129, 128)])
def test_logits_of_the_grid_survive_a_visit_to_a_larger_slice(shape: tuple[int, int]) -> None:
    grid = NetworkGrid(shape)
    cells = np.arange(128) * 2 * math.pi / 64
    logits = (5 * np.cos(cells)[:, None] + 3 * np.sin(cells)[None, :]).astype(np.float32)
    back = grid.logits_to_grid(grid.logits_from_grid(logits))
    rows, columns = grid.content
    np.testing.assert_allclose(back[rows, columns], logits[rows, columns], atol=0.4)
    inner = (slice(rows.start + 1, rows.stop - 1), slice(columns.start + 1, columns.stop - 1))
    np.testing.assert_allclose(back[inner], logits[inner], atol=0.06)


@pytest.mark.parametrize("shape", [(13, 13), (64, 64), (40, 7), (1, 1), (1, 30)])
def test_logits_of_a_small_slice_survive_a_visit_to_the_grid(shape: tuple[int, int]) -> None:
    grid = NetworkGrid(shape, size=1024)
    logits = np.random.default_rng(4).normal(0, 5, shape)
    np.testing.assert_allclose(grid.logits_from_grid(grid.logits_to_grid(logits)), logits, atol=1.6)
    np.testing.assert_array_equal(np.sign(grid.logits_from_grid(grid.logits_to_grid(10 * np.sign(logits)))),
                                  np.sign(logits))  # fmt: skip


@relaxed
@given(slice_grids(), st.floats(-100, 100))
def test_constants_stay_constant_and_the_padding_is_zero(grid: NetworkGrid, value: float) -> None:
    rows, columns = grid.content
    for to_grid in (grid.image_to_grid, grid.logits_to_grid, grid.scribbles_to_grid):
        drawn = to_grid(np.full(grid.shape, value))
        assert drawn.dtype == np.float32
        assert drawn.shape == (grid.size, grid.size)
        np.testing.assert_allclose(drawn[rows, columns], value, rtol=1e-5, atol=1e-6)
        drawn[rows, columns] = 0
        assert not drawn.any()
    back = grid.logits_from_grid(grid.logits_to_grid(np.full(grid.shape, value)))
    np.testing.assert_allclose(back, value, rtol=1e-5, atol=1e-6)


@relaxed
@given(slice_grids(), st.integers(0, 2**32 - 1))
def test_resampling_never_leaves_the_range_of_the_image(grid: NetworkGrid, seed: int) -> None:
    image = np.random.default_rng(seed).random(grid.shape, dtype=np.float32)
    rows, columns = grid.content
    for drawn in (grid.image_to_grid(image), grid.logits_to_grid(image)):
        assert drawn[rows, columns].min() >= image.min() - 1e-6
        assert drawn.max() <= image.max() + 1e-6


def test_shrinking_does_not_alias() -> None:
    stripes = np.tile([0.0, 0.0, 1.0], (512, 171))[:, :512]  # every third column: one point sample would see moire
    drawn = NetworkGrid((512, 512)).image_to_grid(stripes)
    assert np.abs(drawn[:, 2:-2] - 1 / 3).max() < 0.07


@relaxed
@given(slice_grids(), st.integers(0, 2**32 - 1))
def test_the_padding_of_the_logits_is_never_read(grid: NetworkGrid, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(grid.size, grid.size)).astype(np.float32)
    spoiled = np.full_like(logits, np.nan)
    rows, columns = grid.content
    spoiled[rows, columns] = logits[rows, columns]
    result = grid.logits_from_grid(spoiled)
    assert result.shape == grid.shape
    np.testing.assert_array_equal(result, grid.logits_from_grid(logits))


def test_leading_axes_are_kept() -> None:
    grid = NetworkGrid((30, 20), (1.0, 2.0), 16)
    batch = np.random.default_rng(5).random((3, 2, 30, 20), dtype=np.float32)
    for to_grid in (grid.image_to_grid, grid.scribbles_to_grid, grid.logits_to_grid):
        together = to_grid(batch)
        assert together.shape == (3, 2, 16, 16)
        np.testing.assert_allclose(together[2, 1], to_grid(batch[2, 1]), atol=1e-6)
    assert grid.logits_from_grid(together).shape == batch.shape


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.int32, np.uint64, np.float64, ">i2"])
def test_every_real_type_is_accepted(dtype: str | type) -> None:
    image = np.random.default_rng(6).integers(0, 2, (9, 11)).astype(dtype)
    grid = NetworkGrid((9, 11), size=16)
    np.testing.assert_array_equal(grid.image_to_grid(image), grid.image_to_grid(image.astype(np.float32)))
    np.testing.assert_array_equal(grid.scribbles_to_grid(image), grid.scribbles_to_grid(image.astype(np.float32)))


def test_strided_views_give_the_same_as_copies() -> None:
    volume = np.random.default_rng(7).random((40, 50, 60), dtype=np.float32)
    for view in (volume[:, :, 3], volume[:, 5, ::-1], volume[7].T):
        grid = NetworkGrid(view.shape, size=32)
        np.testing.assert_array_equal(grid.image_to_grid(view), grid.image_to_grid(view.copy()))
        np.testing.assert_array_equal(grid.scribbles_to_grid(view), grid.scribbles_to_grid(view.copy()))


@pytest.mark.parametrize("method", ["image_to_grid", "scribbles_to_grid", "logits_to_grid", "logits_from_grid"])
def test_arrays_of_another_shape_are_refused(method: str) -> None:
    with pytest.raises(GeometryError, match=r"\(5, 4\).*must be"):
        getattr(NetworkGrid((4, 5), size=8), method)(np.zeros((5, 4)))


@pytest.mark.parametrize("method", ["image_to_grid", "scribbles_to_grid", "logits_to_grid", "logits_from_grid"])
def test_arrays_that_are_not_numbers_are_refused(method: str) -> None:
    with pytest.raises(ImageError, match="complex"):
        getattr(NetworkGrid((8, 8), size=8), method)(np.zeros((8, 8), complex))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("method", ["image_to_grid", "logits_to_grid"])
def test_values_that_are_not_finite_are_refused_instead_of_spreading(method: str, value: float) -> None:
    image = np.zeros((20, 30))
    image[11, 13] = value
    with pytest.raises(ImageError, match=r"normalise intensities with IntensityRange\.normalize"):
        getattr(NetworkGrid((20, 30), size=16), method)(image)


@relaxed
@given(slice_grids(), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 2**32 - 1))
def test_a_normalised_image_with_holes_of_nan_and_inf_reaches_the_grid(grid: NetworkGrid, bad: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=grid.shape)
    image[rng.random(grid.shape) < 0.3] = bad
    drawn = grid.image_to_grid(IntensityRange.estimate(image).normalize(image))
    assert np.isfinite(drawn).all()


# --- Scribbles, points, boxes -----------------------------------------------------------------------------------------


@relaxed
@given(slice_grids(), st.data())
def test_a_point_a_one_pixel_stroke_and_the_coordinates_agree(grid: NetworkGrid, data: st.DataObject) -> None:
    pixel = np.array([data.draw(st.integers(0, n - 1)) for n in grid.shape])
    (cell,) = grid.points_to_grid(pixel[None])
    assert cell.dtype == np.int64
    assert cell_in_the_content(grid, cell)

    position = grid.to_grid_coords(pixel)
    for d, extent in enumerate(grid.content):
        if extent.start < position[d] < extent.stop - 1:  # at the ends, a position may be clipped into the content
            assert abs(position[d] - cell[d]) <= 0.5 + 1e-6

    stroke = np.zeros(grid.shape, bool)
    stroke[tuple(pixel)] = True
    drawn = grid.scribbles_to_grid(stroke)
    assert drawn[tuple(cell)] == 1
    # No wider than the pixel is: cells on either side of the pixel's border stay empty.
    marked = np.argwhere(drawn)
    reach = np.maximum(np.multiply(grid.spacing_mm, 0.5) / grid.mm_per_cell, 0.5) + 1e-6
    free = np.array([e.stop - e.start > 2 for e in grid.content])
    assert (np.abs(marked - position)[:, free] <= reach[free] + 0.25).all()


@relaxed
@given(slice_grids(), st.integers(0, 2**32 - 1), st.floats(0.0, 0.2))
def test_scribbles_take_the_maximum_over_the_pixels_of_a_cell(grid: NetworkGrid, seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    scribbles = np.where(rng.random(grid.shape) < density, rng.random(grid.shape), 0).astype(np.float32)
    drawn = grid.scribbles_to_grid(scribbles)
    # Written the slow way: every pixel marks the cell that holds its centre, cells without any ask the pixel below.
    expected = np.zeros_like(drawn)
    held = np.zeros(drawn.shape, bool)
    pixels = np.argwhere(np.ones(grid.shape, bool))
    cells = tuple(grid.points_to_grid(pixels).T)
    np.maximum.at(expected, cells, scribbles[tuple(pixels.T)])
    held[cells] = True
    np.testing.assert_array_equal(drawn[held], expected[held])
    assert drawn.max() == scribbles.max()
    assert set(np.unique(drawn)) <= {0.0, *np.unique(scribbles)}


@pytest.mark.parametrize("shape", [(2048, 2048), (1000, 3), (7, 999)])
def test_a_one_pixel_stroke_never_vanishes(shape: tuple[int, int]) -> None:
    grid = NetworkGrid(shape, (0.5, 5.0))
    rng = np.random.default_rng(8)
    for _ in range(20):
        stroke = np.zeros(shape, np.float32)
        stroke[tuple(rng.integers(0, shape))] = 0.25
        drawn = grid.scribbles_to_grid(stroke)
        assert drawn.max() == 0.25
        assert drawn.any()


def test_an_enlarged_pixel_covers_exactly_its_cells() -> None:
    stroke = np.zeros((8, 8))
    stroke[2, 5] = 1
    drawn = NetworkGrid((8, 8), size=128).scribbles_to_grid(stroke)
    expected = np.zeros((128, 128))
    expected[32:48, 80:96] = 1
    np.testing.assert_array_equal(drawn, expected)


def test_points_outside_the_slice_are_clipped_to_its_border() -> None:
    grid = NetworkGrid((10, 40), size=20)  # content: 5 x 20 cells
    cells = grid.points_to_grid([[-5, -5], [99, 99]])
    rows, columns = grid.content
    np.testing.assert_array_equal(cells, [[rows.start, columns.start], [rows.stop - 1, columns.stop - 1]])


@relaxed
@given(slice_grids(), st.data())
def test_boxes_are_never_empty_and_hold_the_cells_whose_centres_they_cover(
    grid: NetworkGrid, data: st.DataObject
) -> None:
    start = np.array([data.draw(st.integers(0, n - 1)) for n in grid.shape])
    stop = np.array([data.draw(st.integers(s + 1, n)) for s, n in zip(start, grid.shape, strict=True)])
    (box,) = grid.boxes_to_grid(np.stack([start, stop])[None])
    assert (box[0] < box[1]).all()
    assert cell_in_the_content(grid, box[0])
    assert cell_in_the_content(grid, box[1] - 1)
    low, high = grid.to_grid_coords(start - 0.5), grid.to_grid_coords(stop - 0.5)
    for d, extent in enumerate(grid.content):
        expected = [c for c in range(extent.start, extent.stop) if low[d] - 1e-6 < c < high[d] - 1e-6]
        if expected and min(abs(low[d] - box[0, d]), abs(high[d] - box[1, d])) > 1e-6:
            assert (box[0, d], box[1, d]) == (expected[0], expected[-1] + 1)


@relaxed
@given(slice_grids())
def test_the_whole_slice_as_a_box_is_the_whole_content(grid: NetworkGrid) -> None:
    (box,) = grid.boxes_to_grid([[[0, 0], grid.shape]])
    rows, columns = grid.content
    np.testing.assert_array_equal(box, [[rows.start, columns.start], [rows.stop, columns.stop]])


def test_boxes_beyond_the_slice_are_clipped() -> None:
    grid = NetworkGrid((64, 64), size=32)
    np.testing.assert_array_equal(grid.boxes_to_grid([[[-9, 10], [500, 20]]]), [[[0, 5], [32, 10]]])


def test_no_points_and_no_boxes_give_empty_arrays() -> None:
    grid = NetworkGrid((64, 64))
    assert grid.points_to_grid(np.zeros((0, 2), np.int64)).shape == (0, 2)
    assert grid.boxes_to_grid([]).shape == (0, 2, 2)


@pytest.mark.parametrize("points", [[[0.5, 1.0]], [0, 1], [[0, 1, 2]], [[True, False]]])
def test_points_that_are_not_index_pairs_are_refused(points: list[list[float]]) -> None:
    with pytest.raises(PromptError, match=r"points.*\(N, 2\)"):
        NetworkGrid((4, 4)).points_to_grid(points)


@pytest.mark.parametrize("boxes", [[[0, 0, 4, 4]], [[[0.0, 0.0], [1.0, 1.0]]]])
def test_boxes_that_are_not_index_pairs_are_refused(boxes: list[list[float]]) -> None:
    with pytest.raises(PromptError, match=r"boxes.*\(N, 2, 2\)"):
        NetworkGrid((4, 4)).boxes_to_grid(boxes)


# --- Slices of volumes ------------------------------------------------------------------------------------------------

TILT = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
FRAMES = {
    "axial": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "mirrored": np.diag([1.0, 1.0, -1.0]),
    "sagittal": np.eye(3)[[2, 0, 1]],
    "oblique": TILT,
    "oblique and flipped": TILT @ np.diag([-1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("frame", FRAMES)
def test_a_sphere_in_any_volume_is_a_disc_in_every_slice(frame: str, axis: int) -> None:
    shape_kji, spacing_ijk, radius = (31, 90, 121), (0.6, 0.8, 3.0), 30.0
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = FRAMES[frame] * spacing_ijk
    ijk_to_ras[:3, 3] = (12.0, -340.0, 77.0)
    ijk1 = np.stack([*np.indices(shape_kji)[::-1], np.ones(shape_kji)], axis=-1)
    ras = (ijk1 @ ijk_to_ras.T)[..., :3]
    middle = tuple(n // 2 for n in shape_kji)
    sphere = np.linalg.norm(ras - ras[middle], axis=-1) < radius

    cut = Volume(sphere.astype(np.int16) * 900 - 1000, ijk_to_ras).slice(axis, middle[axis])
    grid = NetworkGrid(cut.image.shape, cut.spacing_mm)
    drawn = grid.image_to_grid(IntensityRange.estimate(cut.image).normalize(cut.image))
    row, column = grid.points_to_grid([[m for d, m in enumerate(middle) if d != axis]])[0]
    rows, columns = np.indices(drawn.shape)
    distance_mm = np.hypot(rows - row, columns - column) * grid.mm_per_cell
    blur = max(*cut.spacing_mm, grid.mm_per_cell) * 1.5
    assert drawn[distance_mm < radius - blur].min() > 0.5
    assert drawn[distance_mm > radius + blur].max(initial=0) < 0.5

    back = grid.logits_from_grid(drawn) > 0.5
    truth = cut.image > -500
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.97


# --- The package around it --------------------------------------------------------------------------------------------


def test_importing_preprocessing_imports_neither_torch_nor_vtk() -> None:
    code = "import sys, scribblesegment.data.preprocessing; print({'torch', 'vtk'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
