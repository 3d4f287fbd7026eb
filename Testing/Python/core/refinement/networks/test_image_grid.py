from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.refinement.adapters.base import ImageGrid

sides = st.lists(st.integers(2, 12), min_size=2, max_size=3)


def test_without_a_wanted_spacing_nothing_changes() -> None:
    image = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    grid = ImageGrid.lay_out(image.shape, (1.0, 2.0, 3.0), (None, None, None))
    assert (grid.shape, grid.spacing_mm) == ((5, 6, 7), (1.0, 2.0, 3.0))
    assert np.array_equal(grid.image_to_grid(image), image)
    assert np.array_equal(grid.matrix, np.eye(4))


@settings(deadline=None, max_examples=60)
@given(sides, st.data())
def test_the_grid_covers_the_image_with_cells_of_nearly_the_wanted_size(shape: list[int], data: st.DataObject) -> None:
    spacing = [data.draw(st.floats(0.3, 4)) for _ in shape]
    wanted = [data.draw(st.floats(0.3, 4)) for _ in shape]
    grid = ImageGrid.lay_out(shape, spacing, wanted)
    for side, mm, cells, cell_mm, asked in zip(shape, spacing, grid.shape, grid.spacing_mm, wanted, strict=True):
        assert abs(cells * cell_mm - side * mm) < 1e-9
        assert abs(cells - side * mm / asked) <= 0.5 or cells == 1


@settings(deadline=None, max_examples=60)
@given(sides, st.data())
def test_a_constant_stays_constant_both_ways(shape: list[int], data: st.DataObject) -> None:
    wanted = [data.draw(st.floats(0.3, 4)) for _ in shape]
    grid = ImageGrid.lay_out(shape, [1.0] * len(shape), wanted)
    on_grid = grid.image_to_grid(np.full(shape, 3.0, np.float32))
    assert on_grid.shape == grid.shape
    np.testing.assert_allclose(on_grid, 3.0, rtol=1e-5)
    back = grid.logits_from_grid(np.stack([on_grid, -on_grid]))
    assert back.shape == (2, *shape)
    np.testing.assert_allclose(back[1], -3.0, rtol=1e-5)


def test_a_ramp_keeps_its_place_both_ways() -> None:
    rows, columns = np.meshgrid(np.arange(20.0), np.arange(30.0), indexing="ij")
    ramp = (rows + 2 * columns).astype(np.float32)
    grid = ImageGrid.lay_out(ramp.shape, (1.0, 1.0), (2.5, 0.5))
    back = grid.logits_from_grid(grid.image_to_grid(ramp)[None])[0]
    np.testing.assert_allclose(back[4:-4, 4:-4], ramp[4:-4, 4:-4], atol=0.01)


def test_the_matrix_maps_borders_to_borders() -> None:
    grid = ImageGrid.lay_out((10, 12), (1.0, 1.0), (2.0, 0.4))
    corner = grid.matrix @ [-0.5, -0.5, 1]
    other = grid.matrix @ [9.5, 11.5, 1]
    np.testing.assert_allclose(corner[:2], [-0.5, -0.5])
    np.testing.assert_allclose(other[:2], np.array(grid.shape) - 0.5)
