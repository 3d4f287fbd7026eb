"""Regions in which prompts are simulated."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

SEEDS = st.integers(0, 2**32 - 1)


def disc(shape, centre, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def rectangle(shape, rows, columns):
    region = np.zeros(shape, bool)
    region[slice(*rows), slice(*columns)] = True
    return region


@st.composite
def regions(draw):
    """Blobs, specks, single pixels, thin lines, frames along the border and full images, of any shape; not empty."""
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    kind = draw(st.sampled_from(["blob", "blob", "pixel", "row", "diagonal", "frame", "full"]))
    if kind == "blob":
        rng = np.random.default_rng(draw(SEEDS))
        field = ndimage.gaussian_filter(rng.standard_normal(shape), draw(st.floats(0, 8)))
        return field >= np.quantile(field, draw(st.floats(0, 0.999)))
    region = np.full(shape, kind == "full")
    row, column = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    if kind == "pixel":
        region[row, column] = True
    elif kind == "row":
        region[row] = True
    elif kind == "diagonal":
        np.fill_diagonal(region, True)
    elif kind == "frame":
        region[[0, -1]] = region[:, [0, -1]] = True
    return region
