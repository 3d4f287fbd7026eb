"""Measure checkpoints of the embedded network: `python -m studies.one_network RUN TASK ...` in `scripts`.

Tasks: `manual` (strokes of people), `context` (from context alone, 1, 4 and 16 entries), `absent` (images without the
structure, with a context), `speed`. Quick enough for learning curves.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.inference.predictor import Predictor
from scribblesegment.inference.ridge_network import RidgeNetwork
from scribblesegment.models.ridge_unet import RidgeUNet, RidgeUNetConfig
from scribblesegment.training.loop import CAPABILITIES, load_checkpoint
from scribblesegment.weights.checkpoints import load_network
from studies.common import agreement, dice
from studies.data import context_tasks, manual_examples

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FloatArray = NDArray[np.float32]


class Segmenter(Predictor):
    """A predictor that takes images in [0, 1] and contexts as pairs of arrays."""

    def set_examples(self, images: list[FloatArray], masks: list[NDArray[np.bool_]]) -> None:
        """Take context entries."""
        entries = zip(images, masks, strict=True)
        self.set_context(
            ContextSet("examples", tuple(ContextEntry(image, mask, (1.0, 1.0)) for image, mask in entries))
        )

    def set_picture(self, image: FloatArray) -> None:
        """Take an image as it is."""
        self.set_image(image, intensity_range=IntensityRange(0.0, 1.0))


def load(path: Path, *, averaged: bool = True) -> tuple[RidgeUNet, int]:
    """Read the network of a run's checkpoint, with its step, or of a weights file."""
    if path.suffix == ".safetensors":
        exported = load_network(path)[0]
        assert isinstance(exported, RidgeUNet)
        return exported, 0
    state = load_checkpoint(path)
    network = RidgeUNet(RidgeUNetConfig(**state["config"]["network"]))
    network.load_state_dict(state["averaged" if averaged else "network"])
    return network.eval(), int(state["step"])


def manual(segmenter: Segmenter, data: Path) -> dict[str, Any]:
    """Dice and surface Dice on strokes of people, by task."""
    rows: dict[str, list[Any]] = {}
    last: tuple[str, int] | None = None
    for example in manual_examples(data / "validation"):
        image = IntensityRange.estimate(example.image).normalize(example.image)
        if last != (example.set_name, example.image_index):
            segmenter.set_picture(image)
            last = example.set_name, example.image_index
        prompts = Prompts.empty(image.shape)
        for scribble, positive in zip(
            example.scribbles if example.scribbles is not None else (), (True, False), strict=False
        ):
            if scribble.any():
                prompts = prompts.with_scribble(scribble, positive=positive)
        rows.setdefault(example.task, []).append(agreement(segmenter.predict(prompts).logits > 0, example.reference))
    result: dict[str, Any] = {
        task: round(float(np.mean([row["dice"] for row in found])), 4) for task, found in rows.items()
    }
    result["mean"] = round(float(np.mean(list(result.values()))), 4)
    surface = [np.mean([row["surface_dice"] for row in found]) for found in rows.values()]
    result["surface"] = round(float(np.mean(surface)), 4)
    return result


def in_context(segmenter: Segmenter, data: Path, sizes: tuple[int, ...], targets: int) -> dict[str, Any]:
    """Dice from context alone by number of entries, other subjects' images; means over tasks, then sets."""
    rng = np.random.default_rng(0)
    scores: dict[int, dict[str, list[float]]] = {size: {} for size in sizes}
    for task in context_tasks(data / "validation", least_images=19)[0]:
        order = rng.permutation(len(task.examples))[:targets]
        values: dict[int, list[float]] = {size: [] for size in sizes}
        for index in order:
            target = task.examples[index]
            others = [example for example in task.examples if example.subject != target.subject]
            chosen = [others[n] for n in rng.permutation(len(others))]
            for size in sizes:
                if len(chosen) < size:
                    continue
                segmenter.set_examples([e.image for e in chosen[:size]], [e.reference for e in chosen[:size]])
                segmenter.set_picture(target.image)
                values[size].append(
                    dice(segmenter.predict(Prompts.empty(target.image.shape)).logits > 0, target.reference)
                )
        for size in sizes:
            if values[size]:
                scores[size].setdefault(task.set_name, []).append(float(np.mean(values[size])))
    segmenter.set_context(None)
    return {str(size): round(float(np.mean([np.mean(v) for v in sets.values()])), 4) for size, sets in scores.items()}


def absent(segmenter: Segmenter, data: Path, entries: int, targets: int) -> dict[str, Any]:
    """Share of images marked as showing a label, among those that do and those that do not, from context alone."""
    from scribblesegment.training.corpus import load_set

    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"with": [], "without": [], "overlap": []}
    for name in ("hvsmr2_whole_heart_mri", "kidney_t2w_mri"):
        entry = load_set(data / "validation" / f"{name}.npz")
        for label in np.unique(entry.labels[entry.labels > 0]).tolist():
            areas = (entry.labels == label).sum(axis=(1, 2))
            shown, lacking = np.flatnonzero(areas >= 64), np.flatnonzero(areas == 0)
            if len(shown) < entries + 2 or len(lacking) < 2:
                continue
            chosen = rng.permutation(shown)
            context, rest = chosen[:entries], chosen[entries : entries + targets]
            pictures = entry.images.astype(np.float32) / 255
            segmenter.set_examples([pictures[n] for n in context], [entry.labels[n] == label for n in context])
            for n in rest:
                segmenter.set_picture(pictures[n])
                mask = segmenter.predict(Prompts.empty(pictures[n].shape)).logits > 0
                found["with"].append(float(mask.any()))
                found["overlap"].append(float((mask & (entry.labels[n] == label)).any()))
            for n in rng.permutation(lacking)[:targets]:
                segmenter.set_picture(pictures[n])
                found["without"].append(float((segmenter.predict(Prompts.empty(pictures[n].shape)).logits > 0).any()))
    segmenter.set_context(None)
    return {key: round(float(np.mean(value)), 3) for key, value in found.items()}


def speed(segmenter: Segmenter) -> dict[str, Any]:
    """Median milliseconds at a 512 x 512 slice."""
    rng = np.random.default_rng(0)
    image = rng.random((512, 512), dtype=np.float32)
    scribble = np.zeros((512, 512), np.float32)
    scribble[200:300, 240:250] = 1
    prompts = Prompts.empty((512, 512)).with_scribble(scribble, positive=True)
    result = {}
    for name, size in (("alone", 0), ("context_8", 8), ("context_25", 25)):
        segmenter.set_examples([image] * size, [scribble > 0] * size)
        times: dict[str, list[float]] = {"set_image": [], "predict": []}
        for _ in range(7):
            started = time.perf_counter()
            segmenter.set_picture(image)
            between = time.perf_counter()
            segmenter.predict(prompts)
            segmenter.predict(prompts)
            times["set_image"].append(between - started)
            times["predict"].append((time.perf_counter() - between) / 2)
        result[name] = {key: round(1e3 * float(np.median(value)), 1) for key, value in times.items()}
    return result


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("tasks", nargs="+", choices=("manual", "context", "absent", "speed"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--focus-size", type=int, default=384)
    parser.add_argument("--no-focus", action="store_true")
    parser.add_argument("--last", action="store_true", help="the last parameters, not the averaged ones")
    parser.add_argument("--targets", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="faster where the processor has units for it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = arguments.run / "checkpoint.pt" if arguments.run.is_dir() else arguments.run
    network, step = load(path, averaged=not arguments.last)
    plan = ExecutionPlan(bfloat16=arguments.bfloat16, channels_last=True, threads=arguments.threads)
    focus_size = 0 if arguments.no_focus else arguments.focus_size
    segmenter = Segmenter(
        RidgeNetwork(network, capabilities=CAPABILITIES, size=arguments.size, focus_size=focus_size, plan=plan)
    )
    result: dict[str, Any] = {
        "run": path.parent.name,
        "step": step,
        "focus": not arguments.no_focus,
        "size": arguments.size,
    }
    for task in arguments.tasks:
        if task == "manual":
            result[task] = manual(segmenter, arguments.data)
        elif task == "context":
            result[task] = in_context(segmenter, arguments.data, (1, 4, 16), arguments.targets)
        elif task == "absent":
            result[task] = absent(segmenter, arguments.data, 6, arguments.targets)
        else:
            result[task] = speed(segmenter)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
