"""The simulated user: first prompts from the structure, corrections from the error of a prediction.

Source: ScribblePrompt, section 3.2 ("Iterative Training") and section 4 ("Training").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Annotated

import numpy as np

from scribblesegment.data.prompts import Prompts
from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.simulation.clicks_boxes import (
    MAX_ENLARGEMENT,
    border_clicks,
    center_clicks,
    enclosing_box,
    random_clicks,
)
from scribblesegment.simulation.graph_scribbles import graph_scribble
from scribblesegment.simulation.scribbles import (
    DEFAULT_SCRIBBLES,
    BoolArray,
    FloatArray,
    ScribbleConfig,
    centerline_scribble,
    contour_scribble,
    draw_margins,
    is_thin,
    limit_pixels,
    line_scribble,
    require_mask,
    require_region,
    stroke_jitter,
)

SCRIBBLE_KINDS = ("line", "centerline", "contour", "graph")
CLICK_KINDS = ("random", "center", "border")

# Graph scribbles are drawn 3 or 5 pixels wide; 5 (a radius of 2) is the width of their source.
_GRAPH_RADII = (1.0, 2.0)


@dataclass(frozen=True)
class SimulatedUserConfig:
    """Habits of the simulated user; the defaults are those of the paper (section 4, "Training") where it gives them.

    ConfigError if weights are negative, of the wrong number, or all zero, or another value is out of range.
    """

    max_interactions: Annotated[int, Range(1)] = 3  # most interactions of one kind and sign in one round
    # Fewest negative interactions in the first round; positive ones are at least one.
    min_initial_negative: Annotated[int, Range(0)] = 0
    scribble_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # relative frequencies of SCRIBBLE_KINDS
    click_weights: tuple[float, ...] = (1.0, 1.0, 1.0)  # relative frequencies of CLICK_KINDS
    # Chance that the first round uses scribbles, clicks, boxes, drawn again until one is in use: at 0.5 each, the seven
    # combinations are equally likely.
    type_probabilities: tuple[float, float, float] = (0.5, 0.5, 0.5)
    # Chance that a correction round uses scribbles and not clicks.
    correction_scribble_probability: Annotated[float, Range(0, 1)] = 0.5
    box_enlargement: Annotated[int, Range(0)] = MAX_ENLARGEMENT  # largest growth of a box dimension in pixels
    scribbles: ScribbleConfig = field(default_factory=ScribbleConfig)
    # Chance that scribbles are drawn as a hand with a brush draws them (`stroke_jitter`). Where it is above zero,
    # structures thinner than the brush are always marked by strokes wider than they are.
    slip_p: Annotated[float, Range(0, 1)] = 0.0
    # Chance that the first prompts keep away from the structure's border (`draw_margins`).
    margin_p: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        for name, length in (
            ("scribble_weights", len(SCRIBBLE_KINDS)),
            ("click_weights", len(CLICK_KINDS)),
            ("type_probabilities", 3),
        ):
            values = tuple(float(value) for value in getattr(self, name))  # lists, from JSON
            object.__setattr__(self, name, values)
            if len(values) != length or not all(map(isfinite, values)) or min(values) < 0 or max(values) == 0:
                raise ConfigError(f"{name} needs {length} values >= 0, one of them positive; got {values}.")
        check_ranges(self)
        if max(self.type_probabilities) > 1:
            raise ConfigError(f"type_probabilities are probabilities in [0, 1], got {self.type_probabilities}.")
        if self.min_initial_negative > self.max_interactions:
            raise ConfigError(
                f"min_initial_negative is {self.min_initial_negative}; give at most max_interactions, "
                f"{self.max_interactions}."
            )


DEFAULT_USER = SimulatedUserConfig()


def simulate_first_round(
    mask: BoolArray, rng: np.random.Generator, *, config: SimulatedUserConfig = DEFAULT_USER
) -> Prompts:
    """Prompt an image nobody has segmented yet.

    Returns:
        Prompts with at least one positive scribble, click or box in the mask (H, W), negative ones in its complement.

    Raises:
        PromptError: If the mask is no bool array (H, W), or is empty.
    """
    require_mask(mask, "mask")
    if not mask.any():
        raise PromptError("Prompts cannot be simulated for an empty mask; choose an image that shows the structure.")
    prompts = Prompts.empty(mask.shape)
    use_scribbles = use_clicks = use_boxes = False
    while not (use_scribbles or use_clicks or use_boxes):
        use_scribbles, use_clicks, use_boxes = (rng.random(3) < config.type_probabilities).tolist()
    if use_boxes:
        start, stop = enclosing_box(mask, rng, max_enlargement=config.box_enlargement)
        prompts = prompts.with_box(start, stop)
    keeps_margins = config.margin_p > 0 and rng.random() < config.margin_p
    inside, outside = draw_margins(mask, rng) if keeps_margins else (mask, ~mask)
    for region, positive in ((inside, True), (outside, False)):
        fewest = 1 if positive else config.min_initial_negative
        if not region.any():
            continue  # a structure that fills the image has no background to mark
        # Each type in use has its own numbers of positive and negative interactions (section 4).
        for add in (_add_scribbles,) * use_scribbles + (_add_clicks,) * use_clicks:
            count = int(rng.integers(fewest, config.max_interactions + 1))
            prompts = add(prompts, region, count, rng, config, positive)
    return prompts


def simulate_corrections(
    prompts: Prompts,
    mask: BoolArray,
    prediction: BoolArray,
    rng: np.random.Generator,
    *,
    config: SimulatedUserConfig = DEFAULT_USER,
) -> Prompts:
    """Correct a prediction where it is wrong.

    Positive corrections are drawn in the false negatives, negative ones in the false positives. Each correction falls
    on one of the two with a probability equal to its share of the error's area, as if a wrong pixel had been drawn.

    Returns:
        The prompts so far with the corrections added; the same prompts where the prediction has no error.

    Raises:
        PromptError: If mask or prediction is no bool array (H, W), or the shapes of the three differ.
    """
    require_mask(mask, "mask")
    require_mask(prediction, "prediction")
    if not mask.shape == prediction.shape == prompts.shape:
        raise PromptError(
            f"The mask has shape {mask.shape}, the prediction {prediction.shape} and the image of the prompts "
            f"{prompts.shape}; give all three on the same grid."
        )
    missed, surplus = mask & ~prediction, prediction & ~mask
    missed_area, surplus_area = int(missed.sum()), int(surplus.sum())
    if missed_area + surplus_area == 0:
        return prompts
    count = int(rng.integers(1, config.max_interactions + 1))
    positives = int(rng.binomial(count, missed_area / (missed_area + surplus_area)))
    add = _add_scribbles if rng.random() < config.correction_scribble_probability else _add_clicks
    prompts = add(prompts, missed, positives, rng, config, True)
    return add(prompts, surplus, count - positives, rng, config, False)


def simulate_scribble(
    region: BoolArray,
    kind: str,
    rng: np.random.Generator,
    *,
    count: int = 1,
    config: ScribbleConfig = DEFAULT_SCRIBBLES,
) -> FloatArray:
    """Draw scribbles of one of the `SCRIBBLE_KINDS` in a region (H, W).

    Of the configuration, "graph" heeds `max_pixels` only; it is cut at the region's border like the other kinds, which
    its source does not do.

    Returns:
        float32 (H, W) in [0, 1], zero outside the region, not empty.

    Raises:
        PromptError: If the region is no bool array (H, W), or is empty.
        ConfigError: If the kind is unknown, or the count is below one.
    """
    if kind == "graph":
        require_region(region, count=count)
        drawn = [graph_scribble(region, rng, radius=float(rng.choice(_GRAPH_RADII))) * region for _ in range(count)]
        return np.maximum.reduce([limit_pixels(scribble, config.max_pixels, rng) for scribble in drawn])
    draw = {"line": line_scribble, "centerline": centerline_scribble, "contour": contour_scribble}.get(kind)
    if draw is None:
        raise ConfigError(f"Unknown scribble kind {kind!r}; known are {', '.join(SCRIBBLE_KINDS)}.")
    return draw(region, rng, count=count, config=config)


def _add_scribbles(
    prompts: Prompts,
    region: BoolArray,
    count: int,
    rng: np.random.Generator,
    config: SimulatedUserConfig,
    positive: bool,
) -> Prompts:
    if count == 0:
        return prompts
    kind = _choose(SCRIBBLE_KINDS, config.scribble_weights, rng)
    scribble = simulate_scribble(region, kind, rng, count=count, config=config.scribbles)
    if config.slip_p > 0:
        thin = is_thin(region)
        if thin or rng.random() < config.slip_p:
            scribble = stroke_jitter(scribble, rng, widens=thin)
    return prompts.with_scribble(scribble, positive=positive)


def _add_clicks(
    prompts: Prompts,
    region: BoolArray,
    count: int,
    rng: np.random.Generator,
    config: SimulatedUserConfig,
    positive: bool,
) -> Prompts:
    if count == 0:
        return prompts
    click = {"random": random_clicks, "center": center_clicks, "border": border_clicks}
    for index in click[_choose(CLICK_KINDS, config.click_weights, rng)](region, count, rng):
        prompts = prompts.with_click(index, positive=positive)
    return prompts


def _choose(kinds: tuple[str, ...], weights: tuple[float, ...], rng: np.random.Generator) -> str:
    return str(rng.choice(kinds, p=np.asarray(weights) / sum(weights)))
