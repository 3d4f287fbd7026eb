"""From a graph of points to a drawing: longest paths, smooth curves through them, and a round brush.

Source: Lowes et al., "Interactive Scribble Segmentation" (NLDL 2023, doi 10.7557/18.6823), section 2.3, the four
steps of drawing.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

_DRAWING_STEP = 0.5  # pixels between the samples of a curve that are stamped


def longest_paths(point_count: int, edges: NDArray[np.int64]) -> list[list[int]]:
    """Cut a forest into paths by taking out the longest path again and again (section 2.3).

    Length is the number of edges, as breadth-first search counts it. The point that a breadth-first search reaches last
    is one end of a longest path of a tree; a second search from there finds the other end.

    Args:
        point_count: Number of points.
        edges: int (E, 2), pairs of point indices; without cycles.

    Returns:
        Paths as lists of point indices, the longest first; each edge is in exactly one path.
    """
    neighbours: list[list[int]] = [[] for _ in range(point_count)]
    for first, second in edges.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    paths = []
    for point in range(point_count):
        while neighbours[point]:
            end, _ = _breadth_first(point, neighbours)
            other_end, parents = _breadth_first(end, neighbours)
            path = [other_end]
            while path[-1] != end:
                path.append(parents[path[-1]])
            for first, second in pairwise(path):
                neighbours[first].remove(second)
                neighbours[second].remove(first)
            paths.append(path)
    return sorted(paths, key=len, reverse=True)


def spline_through(points: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sample a smooth curve through points in their order.

    A B-spline (cubic, or of lower degree below four points) that interpolates the points over the centripetal
    parameter, which keeps unevenly spaced points from making it overshoot or loop.

    Args:
        points: (N, 2), rows and columns; neighbours in the sequence differ.

    Returns:
        float64 (M, 2), positions about half a pixel apart, from the first point to the last.
    """
    knots = points.astype(np.float64)
    if len(knots) == 1:
        return knots
    chords = np.hypot(*np.diff(knots, axis=0).T)
    if len(knots) == 2:
        return np.linspace(knots[0], knots[1], ceil(chords[0] / _DRAWING_STEP) + 1)
    parameters = np.concatenate([[0.0], np.cumsum(np.sqrt(chords))])
    dense = np.interp(
        np.linspace(0, chords.sum(), ceil(4 * chords.sum()) + 1), np.concatenate([[0.0], np.cumsum(chords)]), parameters
    )
    curve = make_interp_spline(parameters, knots, k=min(3, len(knots) - 1))(dense)
    # Even steps along the curve, whatever its speed: the drawing relies on them.
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
    even = np.linspace(0, lengths[-1], ceil(lengths[-1] / _DRAWING_STEP) + 1)
    return np.stack([np.interp(even, lengths, curve[:, 0]), np.interp(even, lengths, curve[:, 1])], axis=1)


def draw_strokes(strokes: list[NDArray[np.float64]], shape: tuple[int, ...], radius: float) -> NDArray[np.float32]:
    """Set all pixels within a radius of sampled curves.

    Args:
        strokes: Arrays (M, 2) of rows and columns, about half a pixel apart along each curve.
        shape: Height and width of the image; what falls outside is left out.
        radius: In pixels.

    Returns:
        float32 (H, W) in {0, 1}.
    """
    height, width = shape
    image = np.zeros((height, width), dtype=np.float32)
    samples = np.concatenate(strokes).astype(np.float32)
    reach = np.arange(-ceil(radius), ceil(radius) + 2)
    base = np.floor(samples).astype(np.intp)
    row = base[:, :1] + reach
    column = base[:, 1:] + reach
    row_distance = (row - samples[:, :1]) ** 2
    column_distance = (column - samples[:, 1:]) ** 2
    # A pixel at exactly the radius from the curve may be half a step further from the nearest sample.
    limit = radius**2 + (_DRAWING_STEP / 2) ** 2
    near = row_distance[:, :, None] + column_distance[:, None, :] <= limit
    near &= ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    image.ravel()[(row[:, :, None] * width + column[:, None, :])[near]] = 1.0
    return image


def _breadth_first(start: int, neighbours: list[list[int]]) -> tuple[int, dict[int, int]]:
    """Return the point reached last from a start, and for each point reached the one it was reached from."""
    parents = {start: start}
    queue = deque([start])
    point = start
    while queue:
        point = queue.popleft()
        for neighbour in neighbours[point]:
            if neighbour not in parents:
                parents[neighbour] = point
                queue.append(neighbour)
    return point, parents
