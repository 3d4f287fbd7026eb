"""How a simulated user prompts and corrects: the procedures of ScribblePrompt, section 5.2, and appendix F.1 (boxes).

A procedure begins with first prompts from the structure alone (step 1) and adds one correction with every further step.
A correction is drawn in the error of the last prediction: a positive one in what was missed, a negative one in what was
too much.

The paper works on images of 128 x 128 pixels. All lengths (widths of strokes, their warping, distances, the most a
scribble may cover) are set on that grid and grow with the image: on 256 x 256 pixels a stroke is 2 to 6 pixels wide,
where strokes drawn by people on such images are 4 to 5 pixels wide, and a scribble covers at most as large a part of
the image as there: w pixels of w x w, with w = 128.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.baselines import Mask
from scribblesegment.simulation.boxes import MAX_ENLARGEMENT, enclosing_box
from scribblesegment.simulation.clicks import MIN_SEPARATION, largest_component_center, random_clicks
from scribblesegment.simulation.rounds import simulate_scribble
from scribblesegment.simulation.scribbles import ScribbleConfig

# The side of the paper's images, for which its lengths are given.
GRID_SIDE = 128

_LINES_AT_START = 3
_CLICKS_AT_WARM_START = 3
_Correct = Callable[[Prompts, Mask, Mask, np.random.Generator], Prompts]


@dataclass(frozen=True)
class Procedure:
    """One way of prompting.

    Attributes:
        name: Its name.
        prompts: What it draws: "scribbles", "clicks" or "boxes".
        start: What step 1 consists of, in words.
        correction: What each further step adds, in words; empty if there is none.
        first: Gives the first prompts from the structure, bool (H, W).
        correct: Adds a correction to prompts, from the structure and the last mask, both bool (H, W), which differ;
            None if there is step 1 only.
    """

    name: str
    prompts: str
    start: str
    correction: str
    first: Callable[[Mask, np.random.Generator], Prompts]
    correct: _Correct | None


def _scribble_config(shape: tuple[int, ...]) -> ScribbleConfig:
    """Scale the habits of drawing, given on the paper's grid, to an image."""
    plain, scale = ScribbleConfig(), _scale(shape)
    thinnest, thickest = (max(1, round(scale * width)) for width in plain.thickness)
    return ScribbleConfig(
        thickness=(thinnest, thickest),
        break_sigma=(scale * plain.break_sigma[0], scale * plain.break_sigma[1]),
        warp_sigma=(scale * plain.warp_sigma[0], scale * plain.warp_sigma[1]),
        warp_amplitude=(scale * plain.warp_amplitude[0], scale * plain.warp_amplitude[1]),
        contour_sigma=(scale * plain.contour_sigma[0], scale * plain.contour_sigma[1]),
        max_pixels=max(1, round(GRID_SIDE * scale**2)),  # the limit of section 5.2
    )


def _scale(shape: tuple[int, ...]) -> float:
    return max(shape) / GRID_SIDE


def _first_scribbles(reference: Mask, rng: np.random.Generator, *, kind: str, count: int = 1) -> Prompts:
    config = _scribble_config(reference.shape)
    prompts = Prompts.empty(reference.shape)
    for region, positive in ((reference, True), (~reference, False)):
        scribble = simulate_scribble(region, kind, rng, count=count, config=config)
        prompts = prompts.with_scribble(scribble, positive=positive)
    return prompts


def _correcting_scribble(
    prompts: Prompts, reference: Mask, mask: Mask, rng: np.random.Generator, *, kind: str
) -> Prompts:
    """Draw one scribble, in what was missed or in what was too much, as often as a wrong pixel lies there."""
    missed, surplus = reference & ~mask, mask & ~reference
    positive = bool(rng.random() * (missed.sum() + surplus.sum()) < missed.sum())
    scribble = simulate_scribble(missed if positive else surplus, kind, rng, config=_scribble_config(reference.shape))
    return prompts.with_scribble(scribble, positive=positive)


def _first_clicks(reference: Mask, rng: np.random.Generator, *, positives: int, negatives: int) -> Prompts:
    prompts = Prompts.empty(reference.shape)
    for region, count, positive in ((reference, positives, True), (~reference, negatives, False)):
        if count:
            for index in random_clicks(region, count, rng, min_separation=MIN_SEPARATION * _scale(reference.shape)):
                prompts = prompts.with_click(index, positive=positive)
    return prompts


def _first_center_click(reference: Mask, _: np.random.Generator) -> Prompts:
    return Prompts.empty(reference.shape).with_click(largest_component_center(reference)[0])


def _correcting_random_click(prompts: Prompts, reference: Mask, mask: Mask, rng: np.random.Generator) -> Prompts:
    (index,) = random_clicks(reference != mask, 1, rng)
    return prompts.with_click(index, positive=bool(reference[tuple(index)]))


def _correcting_center_click(prompts: Prompts, reference: Mask, mask: Mask, _: np.random.Generator) -> Prompts:
    missed, surplus = reference & ~mask, mask & ~reference
    positive = _largest_area(missed) >= _largest_area(surplus)
    return prompts.with_click(largest_component_center(missed if positive else surplus)[0], positive=positive)


def _largest_area(region: Mask) -> int:
    components, count = ndimage.label(region)
    return int(np.bincount(components.ravel())[1:].max()) if count else 0


def _first_box(reference: Mask, rng: np.random.Generator) -> Prompts:
    enlargement = round(MAX_ENLARGEMENT * _scale(reference.shape))
    start, stop = enclosing_box(reference, rng, max_enlargement=enlargement)
    return Prompts.empty(reference.shape).with_box(start, stop)


def _scribbling(kind: str, *, count: int = 1) -> Procedure:
    number = "one" if count == 1 else "three"
    return Procedure(
        name=f"{kind}-scribbles",
        prompts="scribbles",
        start=f"{number} positive and {number} negative {kind} scribble{'s' if count > 1 else ''}",
        correction=f"one {kind} scribble, positive or negative",
        first=partial(_first_scribbles, kind=kind, count=count),
        correct=partial(_correcting_scribble, kind=kind),
    )


_AT_LARGEST_ERROR = "one click, positive or negative, in the center of the largest part of the error"

PROCEDURES: dict[str, Procedure] = {
    procedure.name: procedure
    for procedure in (
        _scribbling("line", count=_LINES_AT_START),
        _scribbling("centerline"),
        _scribbling("contour"),
        Procedure(
            "center-clicks",
            "clicks",
            "one positive click in the center of the structure's largest part",
            _AT_LARGEST_ERROR,
            _first_center_click,
            _correcting_center_click,
        ),
        Procedure(
            "random-clicks",
            "clicks",
            "one positive click anywhere in the structure",
            "one click anywhere in the error, positive or negative",
            partial(_first_clicks, positives=1, negatives=0),
            _correcting_random_click,
        ),
        Procedure(
            "warm-start-clicks",
            "clicks",
            "three positive and three negative clicks anywhere",
            _AT_LARGEST_ERROR,
            partial(_first_clicks, positives=_CLICKS_AT_WARM_START, negatives=_CLICKS_AT_WARM_START),
            _correcting_center_click,
        ),
        Procedure(
            "boxes", "boxes", "one box around the structure, up to a sixth of the image larger", "", _first_box, None
        ),
    )
}


def choose_procedures(names: Iterable[str]) -> list[Procedure]:
    """Look procedures up by name; a repeated name counts once.

    Raises:
        ConfigError: If a name is unknown.
    """
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in PROCEDURES]
    if unknown:
        raise ConfigError(f"No procedure {', '.join(unknown)}; there are {', '.join(PROCEDURES)}.")
    return [PROCEDURES[name] for name in wanted]
