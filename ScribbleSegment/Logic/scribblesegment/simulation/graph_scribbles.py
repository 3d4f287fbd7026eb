"""Graph scribbles: strokes a person might draw along a label, built from a spanning tree of sampled points.

Source: Lowes et al., "Interactive Scribble Segmentation" (NLDL 2023, doi 10.7557/18.6823), sections 2.3 (the scribble)
and 2.4 (the correction scribble). A label is cut into tiles, a point is sampled in each meaningful tile, the points are
joined by a spanning tree that avoids leaving the label, and the longest paths of the tree are drawn as splines.

Where the paper gives no number or leaves a case open, the choice is stated at the constant or at the function that
makes it. Lengths are in pixels of the mask.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from itertools import pairwise
from math import ceil, inf, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import make_interp_spline
from skimage.morphology import skeletonize

from scribblesegment.data.prompts import box_of
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.scribbles import BoolArray, FloatArray, require_mask, require_region

IndexArray = NDArray[np.int64]

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_DRAWING_STEP = 0.5  # pixels between the samples of a curve that are drawn
_TEMPLATE_QUANTUM = 16  # half-sizes of cached distance templates are rounded up to this many pixels


RADIUS = 2.0  # pixels within this distance of a spline are drawn (section 2.3)
# Most tiles along one side of a component's bounding box, and their least side, so that a small component gets fewer
# (not given in the paper).
TILES_PER_AXIS, LEAST_TILE = 5, 8
# A tile is skipped unless the sum of its distance field exceeds this number times the pixel count of the whole label
# (not given).
TILE_THRESHOLD = 0.02
# Radius by which the skeleton is dilated, as a fraction of the component's greatest depth, at least one pixel (not
# given).
SKELETON_DILATION = 0.35
SEPARATION = 5.0  # pixels this near to a sampled point become background: the paper's r (not given)
OUTSIDE_PENALTY = 3.0  # factor on the part of an edge that lies outside the label (section 2.3)
DROP_P = 0.2  # share of graphs that lose edges (section 2.3)
DROP_COUNT_SHARES = (1 / 2, 1 / 3, 1 / 6)  # of losing 1, 2, 3 edges (section 2.3)


def graph_scribble(mask: BoolArray, rng: np.random.Generator, *, radius: float = RADIUS) -> FloatArray:
    """Draw a scribble along a label (H, W) as a person would (section 2.3).

    Every connected component that is large enough gets its own strokes, or a dot where a single point was sampled.
    Strokes follow the label but are not cut at its border: a short part may lie outside.

    Returns:
        float32 (H, W), 1 within `radius` of the drawn curves and 0 elsewhere; overlaps the mask.

    Raises:
        PromptError: If the mask is not a two-dimensional bool array, or is empty.
        ConfigError: If `radius` is not positive.
    """
    if not 0 < radius < inf:
        raise ConfigError(f"radius is {radius}; give a number of pixels above 0.")
    points, edges = build_graph(mask, rng)
    edges = drop_edges(edges, rng)
    alone = np.setdiff1d(np.arange(len(points)), edges)
    strokes = [spline_through(points[path]) for path in longest_paths(len(points), edges)]
    strokes.append(points[alone].astype(np.float64))
    return draw_strokes(strokes, mask.shape, radius)


def correction_graph_scribble(
    prediction: BoolArray,
    label: BoolArray,
    rng: np.random.Generator,
    *,
    min_error: float = 0.01,
    clip: bool = False,
) -> tuple[FloatArray, bool] | None:
    """Draw the scribble with which a person corrects a prediction (section 2.4).

    The scribble is positive, on the missing pixels, unless there are more false positives than false negatives; then it
    is negative, on the superfluous pixels. The error region is dilated by the approximate radius of the label,
    sqrt(area / pi), so that the new scribble reaches into earlier ones. It may thereby leave the error region, and even
    the side it stands for: a positive one may run over background, which `clip` prevents and the paper does not.

    No scribble is drawn where the wrong pixels are fewer than `min_error` times those of the label, which may be empty.

    Returns:
        The scribble, float32 (H, W) in {0, 1}, and whether it is positive; None where the error is too small.

    Raises:
        PromptError: If the masks are not two-dimensional bool arrays of one shape.
    """
    require_mask(prediction, "prediction")
    require_mask(label, "label")
    if prediction.shape != label.shape:
        raise PromptError(
            f"The prediction has shape {prediction.shape} and the label {label.shape}; give both on the same grid."
        )
    too_much, missing = prediction & ~label, label & ~prediction
    error_size, area = np.count_nonzero(prediction != label), np.count_nonzero(label)
    if error_size == 0 or error_size < min_error * area:
        return None
    positive = bool(np.count_nonzero(too_much) <= np.count_nonzero(missing))
    region = missing if positive else too_much
    side = label if positive else ~label
    region = ndimage.distance_transform_edt(~region) <= sqrt(area / pi)
    if not clip:
        return graph_scribble(region, rng), positive
    return graph_scribble(region & side, rng) * side, positive


def build_graph(mask: BoolArray, rng: np.random.Generator) -> tuple[IndexArray, IndexArray]:
    """Sample points in the tiles of every component and join those of one component by a spanning tree (section 2.3).

    A component takes part when the sum of its distance field exceeds the threshold for tiles; when none does, the one
    with the largest sum does, so that every label gets a scribble. The image border counts as the label's border.

    Returns:
        Points, int64 (N, 2) of (row, column) in the label, and edges, int64 (E, 2) of indices into them: a forest of
        one tree for each component that takes part, before any edge is dropped.

    Raises:
        PromptError: If the mask is not a two-dimensional bool array, or is empty.
    """
    require_region(mask)
    outer = box_of(mask)
    corner = np.array([outer[0].start, outer[1].start])
    # A margin of background makes the image border a border of the label, as it is for a person drawing.
    label = np.pad(mask[outer], 1)
    # Components never touch, so one transform and one skeleton of the whole label equal those of its components.
    depth = ndimage.distance_transform_edt(label)
    skeleton = skeletonize(label)
    components, count = ndimage.label(label, structure=_EIGHT_NEIGHBOURS)
    threshold = TILE_THRESHOLD * np.count_nonzero(label)
    totals = np.bincount(components.ravel(), weights=depth.ravel(), minlength=count + 1)[1:]
    chosen = totals > threshold
    chosen[np.argmax(totals)] = True

    points: list[IndexArray] = []
    edges: list[IndexArray] = []
    start = 0
    for index, box in enumerate(ndimage.find_objects(components)):
        if not chosen[index]:
            continue
        component = components[box] == index + 1
        found = _sample_points(depth[box] * component, skeleton[box] & component, threshold, rng)
        edges.append(spanning_tree(found, component) + start)
        points.append(found + corner - 1 + (box[0].start, box[1].start))
        start += len(found)
    return np.concatenate(points), np.concatenate(edges)


def edge_costs(points: IndexArray, mask: BoolArray) -> NDArray[np.float64]:
    """Cost of joining each pair of points, (N, N) in pixels: their distance, its part outside the label threefold.

    The part outside is measured on samples at most a pixel apart along the straight edge.
    """
    costs = np.zeros((len(points), len(points)))
    first, second = np.triu_indices(len(points), k=1)
    if first.size == 0:
        return costs
    start, offset = points[first].astype(np.float32), (points[second] - points[first]).astype(np.float32)
    length = np.hypot(offset[:, 0], offset[:, 1])
    samples = ceil(float(length.max()))
    steps = (np.arange(samples, dtype=np.float32) + 0.5) / samples
    row = (start[:, :1] + offset[:, :1] * steps + 0.5).astype(np.intp)
    column = (start[:, 1:] + offset[:, 1:] * steps + 0.5).astype(np.intp)
    inside = np.count_nonzero(mask[row, column], axis=1) / samples
    costs[first, second] = length * (inside + OUTSIDE_PENALTY * (1 - inside))
    costs += costs.T
    return costs


def spanning_tree(points: IndexArray, mask: BoolArray) -> IndexArray:
    """Find the tree of least total `edge_costs` that joins all points, (N - 1, 2) pairs of indices (section 2.3)."""
    costs = edge_costs(points, mask)
    # Prim's algorithm: for the dozen points of a label many times faster than scipy's general one.
    edges = np.empty((len(points) - 1, 2), dtype=np.int64)
    nearest = np.zeros(len(points), dtype=np.int64)  # the point of the tree that each other point is nearest to
    distance = costs[0].copy()
    distance[0] = np.inf
    outside = np.ones(len(points), dtype=bool)
    outside[0] = False
    for index in range(len(edges)):
        added = int(distance.argmin())
        edges[index] = nearest[added], added
        outside[added], distance[added] = False, np.inf
        nearer = outside & (costs[added] < distance)
        nearest[nearer], distance[nearer] = added, costs[added][nearer]
    return edges


def drop_edges(edges: IndexArray, rng: np.random.Generator) -> IndexArray:
    """Remove a few edges from a share of the graphs, to vary what a network sees (section 2.3).

    Only an edge both of whose points have a valence of at least two, at the moment of removal, can go: no point is cut
    off from all others. Fewer edges than drawn are removed when no more qualify.
    """
    if rng.random() >= DROP_P:
        return edges
    count = 1 + int(np.searchsorted(np.cumsum(DROP_COUNT_SHARES[:-1]), rng.random(), side="right"))
    for _ in range(count):
        valence = np.bincount(edges.ravel())
        removable = np.flatnonzero((valence[edges] >= 2).all(axis=1))
        if removable.size == 0:
            break
        edges = np.delete(edges, removable[rng.integers(removable.size)], axis=0)
    return edges


def _sample_points(
    depth: NDArray[np.float64],
    skeleton: BoolArray,
    threshold: float,
    rng: np.random.Generator,
) -> IndexArray:
    """Sample at most one point in each tile of one component, given its distance field and skeleton, both (H, W).

    A tile that the dilated skeleton does not reach has no density to sample from and is skipped. When all tiles are
    skipped, the whole component is taken as one tile, so that it gets a point; its skeleton is never empty.
    """
    deepest = float(depth.max())
    near_skeleton = ndimage.distance_transform_edt(~skeleton) <= max(1.0, SKELETON_DILATION * deepest)
    half = ceil((deepest + SEPARATION) / _TEMPLATE_QUANTUM) * _TEMPLATE_QUANTUM
    disc = _distance_to_disc(SEPARATION, half)
    tiles = [(rows, columns) for rows in _cuts(depth.shape[0]) for columns in _cuts(depth.shape[1])]
    remaining = depth.copy()
    points = []
    for index in rng.permutation(len(tiles)):
        rows, columns = tiles[index]
        field = remaining[rows, columns]
        density = field * near_skeleton[rows, columns]
        if field.sum() > threshold and density.any():
            row, column = _sample_position(density, rng)
            points.append((row + rows.start, column + columns.start))
            _remove_disc(remaining, points[-1], disc)
    if not points:
        points.append(_sample_position(depth * near_skeleton, rng))
    return np.array(points, dtype=np.int64)


def _cuts(extent: int) -> list[slice]:
    """Cut one side of a bounding box into tiles of equal size, to within a pixel."""
    count = min(TILES_PER_AXIS, max(1, extent // LEAST_TILE))
    bounds = [round(extent * index / count) for index in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _sample_position(density: NDArray[np.float64], rng: np.random.Generator) -> tuple[int, int]:
    """Sample a pixel with probability proportional to a density (H, W) that is not zero everywhere."""
    cumulative = np.cumsum(density)
    flat = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    row, column = divmod(flat, density.shape[1])
    return row, column


@lru_cache(maxsize=64)
def _distance_to_disc(radius: float, half: int) -> NDArray[np.float64]:
    """Distance of each pixel of a square, 2 half + 1 wide, to a digital disc at its centre."""
    offsets = np.arange(-half, half + 1)
    disc = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~disc)
    distance.flags.writeable = False
    return distance


def _remove_disc(depth: NDArray[np.float64], centre: tuple[int, int], disc: NDArray[np.float64]) -> None:
    """Update a distance field (H, W) in place after the pixels of a disc have become background.

    Exact, without a new transform: the distance to a union of sets is the smaller of the two distances, and the nearest
    disc pixel lies between centre and pixel, hence on the grid. Beyond the template the disc is further away than any
    depth of the component.
    """
    half = disc.shape[0] // 2
    rows, columns = (slice(max(0, at - half), at + half + 1) for at in centre)
    part = depth[rows, columns]
    row, column = rows.start - centre[0] + half, columns.start - centre[1] + half
    np.minimum(part, disc[row : row + part.shape[0], column : column + part.shape[1]], out=part)


# From the graph to the drawing (section 2.3).


def longest_paths(point_count: int, edges: IndexArray) -> list[list[int]]:
    """Cut a forest into paths by taking out the longest path again and again (section 2.3).

    Length is the number of edges, as breadth-first search counts it. The point that a breadth-first search reaches last
    is one end of a longest path of a tree; a second search from there finds the other end.

    Edges are pairs of point indices, (E, 2), without cycles. Returns lists of point indices, the longest first; each
    edge is in exactly one path.
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


def spline_through(points: IndexArray) -> NDArray[np.float64]:
    """Sample a smooth curve through points in their order.

    A B-spline (cubic, or of lower degree below four points) that interpolates the points over the centripetal
    parameter, which keeps unevenly spaced points from making it overshoot or loop.

    Points are (N, 2), rows and columns; neighbours in the sequence differ. The samples, (M, 2), are about half a pixel
    apart, from the first point to the last.
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


def draw_strokes(strokes: list[NDArray[np.float64]], shape: tuple[int, ...], radius: float) -> FloatArray:
    """Set all pixels within a radius of curves sampled about half a pixel apart to 1; float32 (H, W)."""
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
