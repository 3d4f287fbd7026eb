"""Graph scribbles: strokes a person might draw along a label, built from a spanning tree of sampled points.

Source: Lowes et al., "Interactive Scribble Segmentation" (NLDL 2023, doi 10.7557/18.6823), sections 2.3 (the scribble)
and 2.4 (the correction scribble). A label is cut into tiles, a point is sampled in each meaningful tile, the points are
joined by a spanning tree that avoids leaving the label, and the longest paths of the tree are drawn as splines.

Where the paper gives no number (tile count, tile threshold, dilation of the skeleton, distance between points) or
leaves a case open, the choice is stated at the field of `GraphScribbleConfig` or at the function that makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import ceil, isfinite, pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.regions import bounding_slices, require_mask, require_region
from scribblesegment.simulation.strokes import draw_strokes, longest_paths, spline_through

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_TEMPLATE_QUANTUM = 16  # half-sizes of cached distance templates are rounded up to this many pixels


@dataclass(frozen=True)
class GraphScribbleConfig:
    """Parameters of a graph scribble; lengths are in pixels of the mask.

    Attributes:
        radius: Pixels within this distance of a spline are drawn (section 2.3: 2).
        tiles_per_axis: Largest number of tiles along one side of a component's bounding box (not given in the paper).
        min_tile_size: Tiles are not made smaller than this, so a small component gets fewer tiles (not given).
        tile_threshold: A tile is skipped unless the sum of its distance field exceeds this number times the pixel count
            of the whole label (not given).
        skeleton_dilation: Radius by which the skeleton is dilated, as a fraction of the greatest depth of the
            component, at least one pixel (not given).
        point_separation: Pixels this near to a sampled point become background: the paper's r (not given).
        outside_penalty: Factor on the part of an edge that lies outside the label (section 2.3: 3).
        drop_probability: Share of graphs that lose edges (section 2.3: 20 %).
        drop_count_probabilities: Probabilities of losing 1, 2, 3, ... edges (section 2.3: 1/2, 1/3, 1/6).

    Raises:
        ConfigError: If a value is out of range.
    """

    radius: float = 2.0
    tiles_per_axis: int = 5
    min_tile_size: int = 8
    tile_threshold: float = 0.02
    skeleton_dilation: float = 0.35
    point_separation: float = 5.0
    outside_penalty: float = 3.0
    drop_probability: float = 0.2
    drop_count_probabilities: tuple[float, ...] = (1 / 2, 1 / 3, 1 / 6)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name, lowest in (("tiles_per_axis", 1), ("min_tile_size", 1)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} is {getattr(self, name)}; give an integer of at least {lowest}.")
        for name in ("tile_threshold", "skeleton_dilation", "point_separation"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}; give a finite number of at least 0.")
        if not (isfinite(self.radius) and self.radius > 0):
            raise ConfigError(f"radius is {self.radius}; give a positive number of pixels.")
        if not (isfinite(self.outside_penalty) and self.outside_penalty >= 1):
            raise ConfigError(f"outside_penalty is {self.outside_penalty}; give a finite number of at least 1.")
        if not 0 <= self.drop_probability <= 1:
            raise ConfigError(f"drop_probability is {self.drop_probability}; give a probability in [0, 1].")
        shares = self.drop_count_probabilities
        if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(f"drop_count_probabilities are {shares}; give non-negative numbers that sum to 1.")


_DEFAULT_CONFIG = GraphScribbleConfig()


@dataclass(frozen=True, eq=False)
class ScribbleGraph:
    """A forest of sampled points, one tree for each connected component that is large enough.

    Attributes:
        points: int64 (N, 2), row and column of each point; every point lies in the label.
        edges: int64 (E, 2), indices into `points`.
    """

    points: NDArray[np.int64]
    edges: NDArray[np.int64]


def graph_scribble(
    mask: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    radius: float | None = None,
    config: GraphScribbleConfig = _DEFAULT_CONFIG,
) -> NDArray[np.float32]:
    """Draw a scribble along a label as a person would (section 2.3).

    Every connected component that is large enough gets its own strokes; strokes do not cross from one component to
    another. A component in which a single point was sampled gets a dot. Strokes follow the label but are not cut at its
    border: a short part may lie outside.

    Args:
        mask: bool (H, W), the label.
        rng: Source of all randomness; the same state gives the same scribble.
        radius: Pixels within this distance of the drawn curve are set; None takes it from `config`.
        config: All other parameters.

    Returns:
        float32 (H, W), 1 on the scribble and 0 elsewhere; overlaps the mask, hence never empty.

    Raises:
        PromptError: If the mask is not a two-dimensional bool array, or is empty.
        ConfigError: If `radius` is not positive.
    """
    if radius is not None:
        config = replace(config, radius=radius)
    graph = build_graph(mask, rng, config=config)
    edges = drop_edges(graph.edges, rng, config=config)
    paths = longest_paths(len(graph.points), edges)
    alone = np.setdiff1d(np.arange(len(graph.points)), edges)
    strokes = [spline_through(graph.points[path]) for path in paths] + [graph.points[alone].astype(np.float64)]
    return draw_strokes(strokes, mask.shape, config.radius)


def correction_graph_scribble(
    prediction: NDArray[np.bool_],
    label: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    min_error: float = 0.01,
    clip: bool = False,
    config: GraphScribbleConfig = _DEFAULT_CONFIG,
) -> tuple[NDArray[np.float32], bool] | None:
    """Draw the scribble with which a person corrects a prediction (section 2.4).

    The scribble is positive, on the missing pixels, unless there are more false positives than false negatives; then it
    is negative, on the superfluous pixels. The error region is dilated by the approximate radius of the label,
    sqrt(area / pi), so that the new scribble reaches into earlier ones. As a consequence **the scribble may leave the
    error region, and even the side it stands for**: a positive one may run over background. `clip` prevents the latter.

    Args:
        prediction: bool (H, W), the segmentation to correct.
        label: bool (H, W), the true segmentation; may be empty, every predicted pixel is then an error.
        rng: Source of all randomness.
        min_error: Below this number of wrong pixels relative to the label's pixels, no scribble is drawn.
        clip: Keep the scribble where its sign is true: inside the label if positive, outside if negative. The paper
            does not (False). Use it where a stroke has to be right about every pixel it covers.
        config: Parameters of the scribble.

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
        return graph_scribble(region, rng, config=config), positive
    return graph_scribble(region & side, rng, config=config) * side, positive


def build_graph(
    mask: NDArray[np.bool_], rng: np.random.Generator, *, config: GraphScribbleConfig = _DEFAULT_CONFIG
) -> ScribbleGraph:
    """Sample points in the tiles of every component and join those of one component by a spanning tree (section 2.3).

    A component takes part when the sum of its distance field exceeds the threshold for tiles; when none does, the one
    with the largest sum does, so that every label gets a scribble. The image border counts as the label's border.

    Args:
        mask: bool (H, W), the label.
        rng: Source of all randomness.
        config: Parameters.

    Returns:
        The points and edges, before any edge is dropped.

    Raises:
        PromptError: If the mask is not a two-dimensional bool array, or is empty.
    """
    require_region(mask)
    outer = bounding_slices(mask)
    corner = np.array([outer[0].start, outer[1].start])
    # A margin of background makes the image border a border of the label, as it is for a person drawing.
    label = np.pad(mask[outer], 1)
    # Components never touch, so one transform and one skeleton of the whole label equal those of its components.
    depth = ndimage.distance_transform_edt(label)
    skeleton = skeletonize(label)
    components, count = ndimage.label(label, structure=_EIGHT_NEIGHBOURS)
    threshold = config.tile_threshold * np.count_nonzero(label)
    totals = np.bincount(components.ravel(), weights=depth.ravel(), minlength=count + 1)[1:]
    chosen = totals > threshold
    chosen[np.argmax(totals)] = True

    points: list[NDArray[np.int64]] = []
    edges: list[NDArray[np.int64]] = []
    start = 0
    for index, box in enumerate(ndimage.find_objects(components)):
        if not chosen[index]:
            continue
        component = components[box] == index + 1
        found = _sample_points(depth[box] * component, skeleton[box] & component, threshold, rng, config)
        edges.append(spanning_tree(found, component, outside_penalty=config.outside_penalty) + start)
        points.append(found + corner - 1 + (box[0].start, box[1].start))
        start += len(found)
    return ScribbleGraph(np.concatenate(points), np.concatenate(edges))


def edge_costs(
    points: NDArray[np.int64], mask: NDArray[np.bool_], *, outside_penalty: float = 3.0
) -> NDArray[np.float64]:
    """Compute the cost of joining each pair of points: their distance, its part outside the label counted threefold.

    The part outside is measured on samples at most a pixel apart along the straight edge.

    Args:
        points: int (N, 2), rows and columns inside the mask's grid.
        mask: bool (H, W), the label.
        outside_penalty: Factor on the part outside.

    Returns:
        float64 (N, N), symmetric, zero on the diagonal; in pixels.
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
    costs[first, second] = length * (inside + outside_penalty * (1 - inside))
    costs += costs.T
    return costs


def spanning_tree(
    points: NDArray[np.int64], mask: NDArray[np.bool_], *, outside_penalty: float = 3.0
) -> NDArray[np.int64]:
    """Find the tree of least total cost that joins all points (section 2.3).

    Args:
        points: int (N, 2), rows and columns, all different.
        mask: bool (H, W), the label.
        outside_penalty: Factor on the part of an edge outside the label, see `edge_costs`.

    Returns:
        int64 (N - 1, 2), pairs of point indices.
    """
    costs = edge_costs(points, mask, outside_penalty=outside_penalty)
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


def drop_edges(
    edges: NDArray[np.int64], rng: np.random.Generator, *, config: GraphScribbleConfig = _DEFAULT_CONFIG
) -> NDArray[np.int64]:
    """Remove a few edges from a share of the graphs, to vary what a network sees (section 2.3).

    Only an edge both of whose points have a valence of at least two, at the moment of removal, can go: no point is cut
    off from all others. Fewer edges than drawn are removed when no more qualify.

    Args:
        edges: int (E, 2), pairs of point indices.
        rng: Source of all randomness.
        config: Gives `drop_probability` and `drop_count_probabilities`.

    Returns:
        int64 (E', 2), the edges that stay, in their order.
    """
    if rng.random() >= config.drop_probability:
        return edges
    count = 1 + int(np.searchsorted(np.cumsum(config.drop_count_probabilities[:-1]), rng.random(), side="right"))
    for _ in range(count):
        valence = np.bincount(edges.ravel())
        removable = np.flatnonzero((valence[edges] >= 2).all(axis=1))
        if removable.size == 0:
            break
        edges = np.delete(edges, removable[rng.integers(removable.size)], axis=0)
    return edges


def _sample_points(
    depth: NDArray[np.float64],
    skeleton: NDArray[np.bool_],
    threshold: float,
    rng: np.random.Generator,
    config: GraphScribbleConfig,
) -> NDArray[np.int64]:
    """Sample at most one point in each tile of one component, given its distance field and skeleton, both (H, W).

    A tile that the dilated skeleton does not reach has no density to sample from and is skipped. When all tiles are
    skipped, the whole component is taken as one tile, so that it gets a point; its skeleton is never empty.
    """
    deepest = float(depth.max())
    near_skeleton = ndimage.distance_transform_edt(~skeleton) <= max(1.0, config.skeleton_dilation * deepest)
    disc = _distance_to_disc(config.point_separation, ceil(deepest + config.point_separation))
    tiles = [(rows, columns) for rows in _cuts(depth.shape[0], config) for columns in _cuts(depth.shape[1], config)]
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


def _cuts(extent: int, config: GraphScribbleConfig) -> list[slice]:
    """Cut one side of a bounding box into tiles of equal size, to within a pixel."""
    count = min(config.tiles_per_axis, max(1, extent // config.min_tile_size))
    bounds = [round(extent * index / count) for index in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _sample_position(density: NDArray[np.float64], rng: np.random.Generator) -> tuple[int, int]:
    """Sample a pixel with probability proportional to a density (H, W) that is not zero everywhere."""
    cumulative = np.cumsum(density)
    flat = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    row, column = divmod(flat, density.shape[1])
    return row, column


@lru_cache(maxsize=64)
def _quantised_distance_to_disc(radius: float, half: int) -> NDArray[np.float64]:
    offsets = np.arange(-half, half + 1)
    disc = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~disc)
    distance.flags.writeable = False
    return distance


def _distance_to_disc(radius: float, half: int) -> NDArray[np.float64]:
    """Return the distance of each pixel of a square, at least 2 half + 1 wide, to a digital disc at its centre."""
    return _quantised_distance_to_disc(radius, _TEMPLATE_QUANTUM * ceil(half / _TEMPLATE_QUANTUM))


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
