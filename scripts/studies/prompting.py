"""How a simulated user prompts and corrects, and how strokes and images are changed to see what a method bears.

Procedures are those of ScribblePrompt, section 5.2, and appendix F.1 (boxes). One begins with first prompts from the
structure alone (step 1) and adds one correction with every further step, drawn in the error of the last prediction:
positive in what was missed, negative in what was too much. The paper works on images of 128 x 128 pixels; all of its
lengths grow with the image: on 256 x 256 pixels a stroke is 2 to 6 pixels wide, and a scribble covers 512 at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import nan

import numpy as np
from scipy import ndimage
from scipy.special import expit

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.masks import expected_dice
from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, ImageError, PromptError
from scribblesegment.simulation.clicks_boxes import (
    MAX_ENLARGEMENT,
    MIN_SEPARATION,
    enclosing_box,
    largest_component_center,
    random_clicks,
)
from scribblesegment.simulation.scribbles import VISIBLE, ScribbleConfig, centerline_scribble, limit_pixels
from scribblesegment.simulation.user import simulate_scribble
from studies.common import PIXEL_MM, FloatArray, Mask, dice
from studies.methods import Method

# "NoI90": the number of interactions until this Dice.
TARGET_DICE = 0.9

# The side of the paper's images, for which its lengths are given.
_PAPER_SIDE = 128

_Correct = Callable[[Prompts, Mask, Mask, np.random.Generator], Prompts]


@dataclass(frozen=True)
class Procedure:
    """One way of prompting."""

    name: str
    prompts: str  # what it draws: "scribbles", "clicks" or "boxes"
    first: Callable[[Mask, np.random.Generator], Prompts]  # from the structure
    correct: _Correct | None  # from the structure and the last mask, which differ; None if there is step 1 only


def _scale(shape: tuple[int, ...]) -> float:
    return max(shape) / _PAPER_SIDE


def _habits(shape: tuple[int, ...]) -> ScribbleConfig:
    plain, scale = ScribbleConfig(), _scale(shape)
    thinnest, thickest = (max(1, round(scale * width)) for width in plain.thickness)
    return ScribbleConfig(
        thickness=(thinnest, thickest),
        break_sigma=(scale * plain.break_sigma[0], scale * plain.break_sigma[1]),
        warp_sigma=(scale * plain.warp_sigma[0], scale * plain.warp_sigma[1]),
        warp_amplitude=(scale * plain.warp_amplitude[0], scale * plain.warp_amplitude[1]),
        contour_sigma=(scale * plain.contour_sigma[0], scale * plain.contour_sigma[1]),
        max_pixels=max(1, round(_PAPER_SIDE * scale**2)),  # the limit of section 5.2
    )


def _first_scribbles(reference: Mask, rng: np.random.Generator, *, kind: str, count: int) -> Prompts:
    prompts = Prompts.empty(reference.shape)
    for region, positive in ((reference, True), (~reference, False)):
        scribble = simulate_scribble(region, kind, rng, count=count, config=_habits(reference.shape))
        prompts = prompts.with_scribble(scribble, positive=positive)
    return prompts


def _scribble(prompts: Prompts, reference: Mask, mask: Mask, rng: np.random.Generator, *, kind: str) -> Prompts:
    """Draw one scribble, in what was missed or in what was too much, as often as a wrong pixel lies there."""
    missed, surplus = reference & ~mask, mask & ~reference
    positive = bool(rng.random() * (missed.sum() + surplus.sum()) < missed.sum())
    scribble = simulate_scribble(missed if positive else surplus, kind, rng, config=_habits(reference.shape))
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


def _random_click(prompts: Prompts, reference: Mask, mask: Mask, rng: np.random.Generator) -> Prompts:
    (index,) = random_clicks(reference != mask, 1, rng)
    return prompts.with_click(index, positive=bool(reference[tuple(index)]))


def _center_click(prompts: Prompts, reference: Mask, mask: Mask, _: np.random.Generator) -> Prompts:
    missed, surplus = reference & ~mask, mask & ~reference
    positive = _largest_area(missed) >= _largest_area(surplus)
    return prompts.with_click(largest_component_center(missed if positive else surplus)[0], positive=positive)


def _largest_area(region: Mask) -> int:
    components, count = ndimage.label(region)
    return int(np.bincount(components.ravel())[1:].max()) if count else 0


def _first_box(reference: Mask, rng: np.random.Generator) -> Prompts:
    enlargement = round(MAX_ENLARGEMENT * _scale(reference.shape))
    return Prompts.empty(reference.shape).with_box(*enclosing_box(reference, rng, max_enlargement=enlargement))


def _scribbling(kind: str, count: int) -> Procedure:
    first, correct = partial(_first_scribbles, kind=kind, count=count), partial(_scribble, kind=kind)
    return Procedure(f"{kind}-scribbles", "scribbles", first, correct)


PROCEDURES = {
    one.name: one
    for one in (
        _scribbling("line", 3),
        _scribbling("centerline", 1),
        _scribbling("contour", 1),
        Procedure("center-clicks", "clicks", _first_center_click, _center_click),
        Procedure("random-clicks", "clicks", partial(_first_clicks, positives=1, negatives=0), _random_click),
        Procedure("warm-start-clicks", "clicks", partial(_first_clicks, positives=3, negatives=3), _center_click),
        Procedure("boxes", "boxes", _first_box, None),
    )
}


@dataclass(frozen=True, eq=False)
class Turn:
    """What a method answers after a step."""

    step: int  # 0 for the prediction from the context alone
    mask: Mask
    dice: float
    expected_dice: float = nan  # by the method itself
    seconds: float = nan  # of the prediction; NaN if nothing was left to correct
    prepare_seconds: float = nan  # of taking context and image, in the first turn
    failure: str = ""  # why the method could make nothing of the prompts, so that its last mask stays


def interact(
    method: Method,
    procedure: Procedure,
    image: FloatArray,
    reference: Mask,
    rng: Callable[[int], np.random.Generator],
    *,
    context: ContextSet | None = None,
    least_confidence: float = 0.0,
) -> Iterator[Turn]:
    """Prompt a method, and go on correcting it for as long as turns are asked for.

    Where a method predicts from the context alone, that prediction comes first, and every step corrects it
    (MultiverSeg, figure 10). So it is not where the method expects a Dice below `least_confidence` of it: nobody
    corrects what is better drawn anew, and the method forgets it. Otherwise step 1 are the procedure's first prompts.

    Args:
        method: Understands the procedure's prompts.
        procedure: How it is prompted.
        image: (H, W) in [0, 1].
        reference: (H, W), not empty.
        rng: Gives the random numbers of a step.
        context: What it is shown; None for nothing.
        least_confidence: See above.

    Raises:
        ImageError: If the method gives something else than finite logits of the image's shape.
        ScribbleSegmentError: What the method itself raises, other than PromptError.
    """
    started = time.perf_counter()
    method.set_context(context)
    method.set_image(image)
    preparing = time.perf_counter() - started
    prompts, nothing = Prompts.empty(reference.shape), np.zeros_like(reference)
    turn = Turn(0, nothing, dice(nothing, reference))
    shown = predicts_first(method, context)
    if shown:
        first = replace(ask(method, prompts, turn, reference), prepare_seconds=preparing)
        shown = not first.expected_dice < least_confidence
        if shown:
            turn = first
            yield turn
        else:
            preparing += first.seconds
            method.set_image(image)  # the method shall not correct what nobody has seen
    while True:
        last, step = turn, turn.step + 1
        if step == 1 and not shown:
            prompts = procedure.first(reference, rng(step))
        elif procedure.correct is None or np.array_equal(last.mask, reference):
            turn = Turn(step, last.mask, last.dice, last.expected_dice)
            yield turn
            continue
        else:
            prompts = procedure.correct(prompts, reference, last.mask, rng(step))
        turn = replace(ask(method, prompts, last, reference), step=step)
        yield replace(turn, prepare_seconds=preparing) if step == 1 and not shown else turn


def predicts_first(method: Method, context: ContextSet | None) -> bool:
    """Whether a method predicts from this context without prompts."""
    return method.least_context is not None and context is not None and len(context) >= method.least_context


def ask(method: Method, prompts: Prompts, last: Turn, reference: Mask) -> Turn:
    """Ask a method once; if it can make nothing of the prompts, the last mask stays."""
    started = time.perf_counter()
    try:
        logits = method.predict(prompts)
    except PromptError as error:
        return replace(last, seconds=time.perf_counter() - started, prepare_seconds=nan, failure=str(error))
    seconds = time.perf_counter() - started
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        raise ImageError(f"A method gave {logits.shape} logits for an image of {reference.shape}, or infinite ones.")
    mask = np.asarray(logits > 0)
    return Turn(last.step, mask, dice(mask, reference), expected_dice(expit(logits), mask), seconds)


@dataclass(frozen=True)
class Condition:
    """How an image is shown, and how carefully it is painted on; the defaults are those of `docs/evaluation.md`."""

    thickness: int = 5  # pixels, of a round brush
    strokes: int = 1  # positive ones; there is one negative stroke
    off_target: float = 0.0  # part of each positive stroke's pixels that lies outside of the structure
    noise: float = 0.0  # standard deviation, of intensities in [0, 1]
    inverted: bool = False  # dark and bright are exchanged
    gamma: float = 1.0  # exponent of intensities
    contrast: float = 1.0  # factor of the distance from the middle grey, in 8 bits
    resolution: int = 256  # pixels that an image of 256 pixels a side is shown with


# Levels of each condition that are measured, one thing changed at a time.
LEVELS: dict[str, tuple[float, ...]] = {
    "thickness": (1, 3, 5, 7, 9),
    "strokes": (1, 2, 3, 4, 5, 6),
    "off_target": (0.0, 0.05, 0.1, 0.15, 0.2),
    "resolution": (32, 64, 128, 256, 512),
    "noise": (0.0, 0.05, 0.1, 0.15, 0.2),
    "inverted": (False, True),
    "gamma": (0.5, 0.7, 1.0, 1.4, 2.0),
    "contrast": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0),
}


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is painted and what is random about one example, the same under all conditions."""

    positive: tuple[Mask, ...]  # paths one pixel wide inside the structure, like centerline scribbles
    negative: Mask  # one outside
    noise: FloatArray  # unit variance


def draw_sketch(reference: Mask, rng: np.random.Generator, *, strokes: int) -> Sketch:
    """Draw paths like centerline scribbles (ScribblePrompt, section 3.2), each at most a side long."""
    from skimage.morphology import skeletonize

    def path(region: Mask) -> Mask:
        scaled = _habits(region.shape)
        habits = ScribbleConfig(
            thickness=(3, 3),  # wide enough that warping leaves no holes in what is thinned to a path again
            break_sigma=scaled.break_sigma,
            warp_sigma=scaled.warp_sigma,
            warp_amplitude=scaled.warp_amplitude,
        )
        thinned = skeletonize(centerline_scribble(region, rng, config=habits) >= VISIBLE).astype(np.float32)
        return np.asarray(limit_pixels(thinned, max(region.shape), rng) > 0)

    negative = path(~reference)
    positive = tuple(path(reference) for _ in range(strokes))
    return Sketch(positive, negative, rng.standard_normal(reference.shape, dtype=np.float32))


def show(image: FloatArray, reference: Mask, sketch: Sketch, condition: Condition) -> tuple[FloatArray, Prompts, Mask]:
    """Paint and show an example under a condition: image, prompts and reference on its pixels.

    Strokes end at the structure's boundary, whatever the brush, except for what is meant to be off target. Where a
    positive stroke meets the negative one, the positive one holds, as the later one does on a screen.
    """
    if condition.strokes > len(sketch.positive):
        raise ConfigError(f"The sketch has {len(sketch.positive)} paths, the condition {condition.strokes} strokes.")
    negative = _brushed(sketch.negative, condition.thickness) & ~reference
    positive = np.zeros_like(reference)
    for path in sketch.positive[: condition.strokes]:
        stroke = _brushed(path, condition.thickness) & reference
        positive |= slip(stroke, reference, condition.off_target, thickness=condition.thickness)
    changed = image**condition.gamma
    changed = 1 - changed if condition.inverted else changed
    if condition.contrast != 1:
        changed = np.round(255 * np.clip(0.5 + condition.contrast * (changed - 0.5), 0, 1)) / 255
    if condition.noise:
        changed = np.clip(changed + condition.noise * sketch.noise, 0, 1)
    changed = np.asarray(changed, dtype=np.float32)
    if condition.resolution != Condition.resolution:
        grid = NetworkGrid(image.shape, PIXEL_MM, max(round(max(image.shape) * condition.resolution / 256), 1))
        coverage = grid.image_to_grid(reference)
        # A structure that is smaller than a pixel is the pixel that holds most of it.
        coarse = np.asarray(coverage >= min(0.5, float(coverage.max())))
        on_target = grid.scribbles_to_grid(positive & reference) > 0
        off_target = grid.scribbles_to_grid(positive & ~reference) > 0
        positive = (on_target & coarse) | (off_target & ~coarse)
        if not (positive & coarse).any():
            positive |= coverage == coverage.max()
        negative = (grid.scribbles_to_grid(negative) > 0) & ~coarse
        changed, reference = np.clip(grid.image_to_grid(changed), 0, 1), coarse
    prompts = Prompts.empty(positive.shape)
    if negative.any():
        prompts = prompts.with_scribble(negative, positive=False)
    return changed, prompts.with_scribble(positive), reference


def _brushed(path: Mask, thickness: int) -> Mask:
    offsets = np.arange(thickness) - (thickness - 1) / 2
    brush = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= (thickness / 2) ** 2
    return np.asarray(ndimage.binary_dilation(path, brush))


def slip(stroke: Mask, structure: Mask, fraction: float, *, thickness: int) -> Mask:
    """Let a part of a stroke slip over the boundary where it comes nearest to it, straight outwards.

    The stroke keeps its number of pixels: as many as are now outside are missing at its far end. Fewer than asked for
    are outside where the image has no more.
    """
    pixels, outside = np.argwhere(stroke), np.argwhere(~structure)
    count = min(int(fraction * len(pixels) + 0.5), len(outside))
    if count == 0:
        return stroke
    depth, nearest = ndimage.distance_transform_edt(structure, return_indices=True)
    start = pixels[np.argmin(depth[stroke])]
    goal = nearest[:, start[0], start[1]]
    direction = (goal - start) / np.linalg.norm(goal - start)
    along = (outside - goal) @ direction
    across = np.abs((outside - goal) @ np.array([-direction[1], direction[0]]))
    # What the brush passes comes first; then, where the image ends too soon, whatever is near.
    passed = (along >= 0) & (across <= max(thickness - 1, 1) / 2 + 1e-6)
    order = np.lexsort((np.linalg.norm(outside - goal, axis=1), np.where(passed, along, 0.0), ~passed))
    painted = stroke.copy()
    far = np.argsort(np.linalg.norm(pixels - start, axis=1), kind="stable")[len(pixels) - count :]
    painted[tuple(pixels[far].T)] = False
    painted[tuple(outside[order[:count]].T)] = True
    return painted
