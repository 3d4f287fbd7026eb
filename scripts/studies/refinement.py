"""A small study of correcting a network: short trainings, shifted images, a simulated user, four methods.

It tells whether the refinement still does what docs/refinement_study.md found at length: networks trained for a few
minutes are corrected on subjects they have not seen, on images shifted away from what they know.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.masks import resolve_labels
from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import DatasetError
from scribblesegment.io.storage import atomic_file
from scribblesegment.refinement.refiner import Refiner
from scribblesegment.refinement.region_growing import GrowthConfig, grow_scribbles
from scribblesegment.simulation.scribbles import VISIBLE, ScribbleConfig, gaussian_blur, smooth_noise
from scribblesegment.simulation.user import simulate_scribble
from scribblesegment.training.corpus import load_set, subjects_of
from studies.common import PIXEL_MM, FloatArray, Mask, Row, Unit, dice, generator

Labels = NDArray[np.int16]

COLUMNS = ("violations", "iterations", "far_dice", "strokes")
REFINEMENT, PAINTING, INTERACTIVE, FROM_RESULT = "refinement", "painting", "interactive", "interactive from the result"

# How images are changed, and how many rounds of strokes correct each.
SHIFTS, _INTERACTIONS = ("none", "contrast", "scanner", "resolution"), 5

# Images that show less of a task are neither trained nor tested on.
LEAST_PIXELS = 900

# Pixels that are farther from every stroke than this show what a correction does beyond where it was drawn.
_FAR = 20
_SURE = np.float32(4)  # logit of a mask that is fed back as if a network had given it


@dataclass(frozen=True)
class NetworkTask:
    """What one network segments, and how strongly its images are shifted."""

    name: str
    path: str  # of the set, in the folder of the training data
    classes: tuple[tuple[int, ...], ...]  # label numbers of each class after the background; () for all
    subject: str = ""  # expression whose group says whose image it is, at the start of the subject in the set
    contrast: float = 1.3
    scanner: float = 0.5
    resolution: float = 5.0


TASKS = {
    task.name: task
    for task in (
        NetworkTask(
            "lumbar_mri",
            "spider_lumbar_mri.npz",
            ((1, 2, 3, 4, 5, 6, 7, 9), (8,), tuple(range(10, 17))),
            r"(\d+)_",
            contrast=0.5,
            resolution=2.3,
        ),
        NetworkTask("aorta_ct", "aorta_ct.npz", ((1,),), r"\d+_(\d+)"),
        NetworkTask("nuclei", "dsb2018_nuclei.npz", ((),), scanner=1.5, resolution=8.0),
    )
}


class PlainUNet(nn.Module):
    """From an image (B, 1, H, W) to logits (B, K, H, W), as nnU-Net configures it."""

    def __init__(self, outputs: int, features: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()

        def level(before: int, after: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (before, after):
                layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.InstanceNorm2d(after, affine=True)]
                layers.append(nn.LeakyReLU(0.01))
            return nn.Sequential(*layers)

        self.encoder = nn.ModuleList(level(*pair) for pair in pairwise((1, *features)))
        upwards = list(pairwise(reversed(features)))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(deep, fine, 2, stride=2) for deep, fine in upwards)
        self.decoder = nn.ModuleList(level(2 * fine, fine) for _, fine in upwards)
        self.output = nn.Conv2d(features[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        x, skipped = images, []
        for number, level in enumerate(self.encoder):
            x = level(functional.max_pool2d(x, 2) if number else x)
            skipped.append(x)
        for upsample, level, skip in zip(self.upsample, self.decoder, skipped[-2::-1], strict=True):
            x = level(torch.cat([upsample(x), skip], dim=1))
        logits: Tensor = self.output(x)
        return logits


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image with its classes."""

    index: int
    subject: str
    image: FloatArray
    labels: Labels


def read_images(folder: Path, task: NetworkTask) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Read the images of a task that show enough of it, two thirds of the subjects to train on, the others to test on.

    Raises:
        DatasetError: If the set is bad, or leaves nothing to train or to test on.
    """
    entry = load_set(folder / task.path)
    images = []
    for n, name in enumerate(subjects_of(entry.meta, len(entry.images))):
        labels = np.zeros(entry.labels[n].shape, np.int16)
        for number, values in enumerate(task.classes, start=1):
            labels[np.isin(entry.labels[n], values) if values else entry.labels[n] > 0] = number
        match = re.match(task.subject, name) if task.subject else None
        # Slices of one patient, whose numbers are its subjects, stay together in blocks.
        subject = (
            str(int(match[1]) // 30) if match and task.name == "aorta_ct" else match[1] if match else name or str(n)
        )
        if np.count_nonzero(labels) >= LEAST_PIXELS:
            images.append(LabelledImage(n, subject, entry.images[n].astype(np.float32) / np.float32(255), labels))
    subjects = sorted({one.subject for one in images})
    tested = set(generator(0, task.name).permutation(subjects)[: len(subjects) // 3].tolist())
    parts = [one for one in images if one.subject not in tested], [one for one in images if one.subject in tested]
    if not all(parts):
        raise DatasetError(f"{folder / task.path}: {len(subjects)} subjects leave nothing to train or to test on.")
    return parts


def trained(path: Path, images: Sequence[LabelledImage], outputs: int, *, steps: int, seed: int = 0) -> PlainUNet:
    """Train a network for a short while with flips, or read the one that was trained before."""
    torch.manual_seed(seed)
    network = PlainUNet(outputs)
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen = [images[n] for n in rng.integers(len(images), size=4)]
        flips = [tuple(axis for axis in (0, 1) if rng.random() < 0.5) for _ in chosen]
        x = torch.stack([_normalised(np.flip(one.image, flip)) for one, flip in zip(chosen, flips, strict=True)])
        y = np.stack([np.flip(one.labels, flip) for one, flip in zip(chosen, flips, strict=True)]).astype(np.int64)
        logits = network(x)
        truth = functional.one_hot(torch.from_numpy(y), outputs).movedim(-1, 1)
        probabilities = logits.softmax(dim=1)
        overlap = (probabilities * truth).sum((0, 2, 3))
        soft_dice = (2 * overlap + 1) / ((probabilities + truth).sum((0, 2, 3)) + 1)
        loss = functional.cross_entropy(logits, torch.from_numpy(y)) + 1 - soft_dice[1:].mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, path.suffix) as temporary:
        torch.save(network.state_dict(), temporary)
    return network.eval()


def _normalised(image: FloatArray) -> Tensor:
    values = image - image.mean(dtype=np.float64)
    return torch.from_numpy(np.asarray(values / max(float(values.std()), 1e-6), dtype=np.float32)[None])


def shifted(image: FloatArray, shift: str, task: NetworkTask, rng: np.random.Generator) -> FloatArray:
    """Change an image (H, W) in [0, 1]: "none"; another "contrast", "scanner" or "resolution".

    Contrast is a gamma curve, then a part of the image with tissues darker than a knee made bright, as between T1 and
    T2; scanner a bias field, blur and noise; resolution fewer pixels, brought back by linear interpolation.
    """
    strength = getattr(task, shift, 0.0)
    if shift == "contrast":
        curved = image ** np.exp(strength * rng.choice([-1.0, 1.0]))
        knee = float(np.quantile(curved[image > 0.04], rng.uniform(0.3, 0.5))) if (image > 0.04).any() else 0.5
        share = min(1.0, 0.7 * strength) * np.clip(image / 0.04, 0, 1)  # air stays dark whatever the sequence
        image = (1 - share) * curved + share * np.abs(curved - knee) / max(knee, 1 - knee)
    elif shift == "scanner":
        field = np.exp(0.6 * strength * smooth_noise(image.shape, 0.25 * max(image.shape), rng))
        real, imaginary = 0.12 * strength * rng.standard_normal((2, *image.shape), dtype=np.float32)
        image = np.hypot(gaussian_blur(image * field, 1.5 * strength) + real, imaginary)
    elif shift == "resolution":
        grid = NetworkGrid(image.shape, PIXEL_MM, max(1, round(max(image.shape) / strength)))
        image = grid.logits_from_grid(grid.image_to_grid(image))
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)


def mark(
    before: LabelScribbles, truth: Labels, predicted: Labels, rng: np.random.Generator, outputs: int
) -> tuple[LabelScribbles, int]:
    """Draw one stroke, three pixels wide and at most 40 long, in the largest region of each label that has another one.

    A region of less than 30 pixels, or thinner than three, is not worth a stroke.

    Returns:
        All marks, and how many are new.
    """
    habits = ScribbleConfig(thickness=(3, 3), break_sigma=(16.0, 40.0), max_pixels=120)
    scribbles, count = before, 0
    for label in range(outputs):
        seen = ndimage.binary_opening((truth == label) & (predicted != label), ndimage.generate_binary_structure(2, 1))
        components, found = ndimage.label(seen)
        areas = np.bincount(components.ravel())[1:]
        if found and areas.max() >= 30:
            stroke = simulate_scribble(components == int(areas.argmax()) + 1, "centerline", rng, config=habits)
            scribbles, count = scribbles.with_scribble(stroke >= VISIBLE, label), count + 1
    return scribbles, count


def refinement_study(
    folder: Path,
    networks: Path,
    predictor: Any,
    *,
    tasks: Sequence[str],
    images: int,
    steps: int,
    seed: int,
) -> Iterator[Unit]:
    """Correct every tested image with every method, each with the strokes that its own errors call for.

    Methods are the refinement of the network's last layers, the same strokes painted into its result, and interactive
    segmentation of each structure, from nothing or from the result.

    Args:
        folder: Of the training data.
        networks: Where trained networks lie, `<task>.pt`; they are trained when they are not there.
        predictor: Of interactive segmentation.
        tasks: Names of `TASKS`.
        images: Of each task.
        steps: Of training.
        seed: Of everything random.
    """
    for name in tasks:
        task, outputs = TASKS[name], 1 + len(TASKS[name].classes)
        learned, tested = read_images(folder, task)
        network = trained(networks / f"{name}.pt", learned, outputs, steps=steps, seed=seed)
        for one in tested[:: max(1, len(tested) // images)][:images]:
            for shift in SHIFTS:
                image = shifted(one.image, shift, task, generator(seed, name, shift, one.index))
                first = _result(network, image)
                refine = partial(_refined, network, image)
                nothing = np.full(first.shape, -1, np.int16)
                key = {"procedure": shift, "set": name, "task": name, "subject": one.subject, "image": one.index}
                for method, start, begin in (
                    (REFINEMENT, first, refine),
                    (PAINTING, first, lambda first=first: partial(_painted, first)),
                    (INTERACTIVE, nothing, partial(_interactive, predictor, image, None, outputs)),
                    (FROM_RESULT, first, partial(_interactive, predictor, image, first, outputs)),
                ):
                    rng = partial(generator, seed, name, one.index)
                    rows = partial(_rounds, one.labels, start, begin, rng, outputs)
                    yield Unit(key | {"method": method}, rows)


Correct = Callable[[LabelScribbles], tuple[Labels, Row]]


def _rounds(
    truth: Labels,
    first: Labels,
    begin: Callable[[], Correct],
    rng: Callable[[int], np.random.Generator],
    outputs: int,
) -> Iterator[Row]:
    """Begin with a segmentation, and mark and correct it in every interaction."""
    correct, labels, scribbles = begin(), first, LabelScribbles.empty(truth.shape)
    yield {"step": 0, "dice": mean_dice(first, truth, outputs)}
    for step in range(1, _INTERACTIONS + 1):
        scribbles, strokes = mark(scribbles, truth, labels, rng(step), outputs)
        figures: Row = {}
        if strokes:
            started = time.perf_counter()
            labels, figures = correct(scribbles)
            figures["seconds"] = time.perf_counter() - started
        marked = scribbles.marked
        far = np.asarray(ndimage.distance_transform_edt(~marked) > _FAR) if marked.any() else ~marked
        figures["violations"] = int(np.count_nonzero((labels != scribbles.labels) & marked))
        figures["far_dice"] = mean_dice(labels[far][None], truth[far][None], outputs)
        yield figures | {"step": step, "strokes": strokes, "dice": mean_dice(labels, truth, outputs)}


def mean_dice(predicted: Labels, truth: Labels, outputs: int) -> float:
    """Average Dice over the structures of which the truth shows 50 pixels at least; NaN if it shows none."""
    shown = [label for label in range(1, outputs) if np.count_nonzero(truth == label) >= 50]
    return float(np.mean([dice(predicted == label, truth == label) for label in shown])) if shown else float("nan")


def _result(network: PlainUNet, image: FloatArray) -> Labels:
    with torch.inference_mode():
        return network(_normalised(image)[None])[0].argmax(dim=0).numpy().astype(np.int16)


def _painted(first: Labels, scribbles: LabelScribbles) -> tuple[Labels, Row]:
    return np.where(scribbles.marked, scribbles.labels, first).astype(np.int16), {}


def _refined(network: PlainUNet, image: FloatArray) -> Correct:
    refiner = Refiner(network, _normalised(image))
    refiner.infer()

    def correct(scribbles: LabelScribbles) -> tuple[Labels, Row]:
        grown = grow_scribbles(image, scribbles, GrowthConfig(), spacing_mm=PIXEL_MM)
        result = refiner.refine(scribbles, grown=grown)
        return result.labels.astype(np.int16), {"iterations": result.iterations}

    return correct


def _interactive(predictor: Any, image: FloatArray, first: Labels | None, outputs: int) -> Correct:
    """Segment every structure from the same marks: its own are positive, those of other labels negative.

    Its last logits are fed back. A structure without a mark of its own stays what it was.
    """
    predictor.set_image(image, spacing_mm=PIXEL_MM)
    start = np.full(image.shape, -1) if first is None else first
    logits = {label: np.where(start == label, _SURE, -_SURE) for label in range(1, outputs)}
    known = first is not None

    def correct(scribbles: LabelScribbles) -> tuple[Labels, Row]:
        nonlocal known
        for label, before in logits.items():
            on: Mask = scribbles.labels == label
            off: Mask = scribbles.marked & ~on
            if on.any():
                prompts = Prompts.empty(scribbles.shape).with_scribble(on)
                prompts = prompts.with_scribble(off, positive=False) if off.any() else prompts
                logits[label] = predictor.predict(prompts.with_mask_input(before) if known else prompts).logits
            elif off.any():
                logits[label] = np.where(off, -_SURE, before)
        known = True
        return resolve_labels(np.stack(list(logits.values()))).astype(np.int16), {}

    return correct
