"""Measure checkpoints of the embedded network: `python -m studies.one_network RUN TASK ...` in `scripts`.

Tasks: `manual` (strokes of people), `context` (from context alone, 1, 4 and 16 entries), `absent` (images without the
structure, with a context), `speed`, `export` (one safetensors file). Quick enough for learning curves.
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
from torch import Tensor

from scribblesegment.data.preprocessing import IntensityRange, NetworkGrid, focus_view
from scribblesegment.data.prompts import Prompts
from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS
from scribblesegment.models.ridge_unet import Entries, Evidence, Features, RidgeUNet, RidgeUNetConfig
from studies.common import agreement, dice
from studies.data import context_tasks, manual_examples

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FloatArray = NDArray[np.float32]

_MOST = 6  # entries attended to


class Segmenter:
    """Runs the network on one slice at a time, as the predictor will: the whole slice, then a part at finer pixels."""

    def __init__(self, network: RidgeUNet, *, size: int = 256, focus_size: int = 384, focus: bool = True) -> None:
        self.network, self.size, self.focus_size, self.focus = network.eval(), size, focus_size, focus
        self.entries: Entries | None = None

    @torch.inference_mode()
    def set_context(self, images: list[FloatArray], masks: list[NDArray[np.bool_]]) -> None:
        """Encode context entries once."""
        self.entries = None
        kept = []
        for image, mask in zip(images, masks, strict=True):
            view = self._view(image.shape)
            features = self.network.encode(_tensor(view.image_to_grid(image)))
            kept.append(self.network.entries(features, _tensor(view.image_to_grid(mask.astype(np.float32)))))
        if kept:
            self.entries = Entries(
                torch.cat([one.moments for one in kept], 1),
                torch.cat([one.keys for one in kept], 1),
                kept[0].places,
                torch.cat([one.values for one in kept], 1),
                torch.cat([one.summary for one in kept], 1),
            )

    @torch.inference_mode()
    def set_image(self, image: FloatArray) -> None:
        """Encode the slice (H, W), in [0, 1]."""
        self.image = image
        self.view = self._view(image.shape)
        self.on_grid = _tensor(self.view.image_to_grid(image))
        self.features = self.network.encode(self.on_grid)
        self.evidence = None if self.entries is None else self.network.evidence(self.features, self.entries, most=_MOST)
        self._part: tuple[Any, Tensor, Features] | None = None

    @torch.inference_mode()
    def predict(self, prompts: Prompts) -> FloatArray:
        """Give logits (H, W)."""
        seen = self._prompts(prompts, self.view, self.on_grid)
        logits = self.view.logits_from_grid(
            self.network.decode(self.features, seen, self.evidence).logits[0, 0].numpy()
        )
        if not self.focus:
            return logits
        view = focus_view(
            logits > 0,
            prompts,
            spacing_mm=(1.0, 1.0),
            first_cell_mm=self.view.mm_per_cell,
            size=self.size,
            max_size=self.focus_size,
        )
        if view is None:
            return logits
        if self._part is None or self._part[0] != (view.region, view.size):
            image = _tensor(view.image_to_grid(self.image))
            self._part = ((view.region, view.size), image, self.network.encode(image))
        _, image, features = self._part
        evidence = None if self.evidence is None else _seen_in(self.evidence, view, self.view)
        seen = self._prompts(prompts.with_mask_input(logits), view, image)
        logits = logits.copy()
        logits[view.slices] = view.logits_from_grid(self.network.decode(features, seen, evidence).logits[0, 0].numpy())
        return logits

    def _view(self, shape: tuple[int, ...]) -> NetworkGrid:
        return NetworkGrid((shape[0], shape[1]), (1.0, 1.0), self.size)

    @staticmethod
    def _prompts(prompts: Prompts, view: NetworkGrid, image: Tensor) -> Tensor:
        on_grid = view.prompts_to_grid(prompts)
        size = view.size
        drawn = np.zeros((5, size, size), np.float32)
        drawn[POSITIVE : NEGATIVE + 1] = on_grid.scribbles
        rows, columns = np.ogrid[:size, :size]
        for (row, column), label in zip(on_grid.point_coords.tolist(), on_grid.point_labels.tolist(), strict=True):
            disc = (rows - row) ** 2 + (columns - column) ** 2 <= 1.3 * (size / 192) ** 2
            drawn[POSITIVE if label else NEGATIVE, disc] = 1.0
        for (top, left), (bottom, right) in on_grid.boxes.tolist():
            drawn[BOX, top:bottom, left:right] = 1.0
        if on_grid.mask_input is not None:
            drawn[PREVIOUS_LOGITS] = on_grid.mask_input
        encoded = torch.from_numpy(drawn)[None]
        encoded[:, IMAGE] = image[:, 0]
        return encoded


def _seen_in(evidence: Evidence, view: NetworkGrid, whole: NetworkGrid) -> Evidence:
    from scribblesegment.models.context_unet import crop_maps

    (top, bottom), (left, right) = view.region
    cell = whole.mm_per_cell
    start = whole.to_grid_coords(np.array([[top - 0.5, left - 0.5]]))[0] + 0.5
    side = max(bottom - top, right - left) / cell
    center = start + np.array([bottom - top, right - left]) / cell / 2
    rows, columns = (((c - side / 2) / whole.size, (c + side / 2) / whole.size) for c in center)
    return evidence._replace(carried=crop_maps(evidence.carried, rows, columns, view.size // 2))


def _tensor(image: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image))[None, None].contiguous(memory_format=torch.channels_last)


def load(path: Path, *, averaged: bool = True) -> tuple[RidgeUNet, int]:
    """Read a checkpoint's network, and its step."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    values = dict(state["config"]["network"])
    widths = {name: tuple(values[name]) for name in ("widths", "decoder_widths")}
    network = RidgeUNet(RidgeUNetConfig(**{**values, **widths}))
    network.load_state_dict(state["averaged" if averaged else "network"])
    return network.eval(), int(state["step"])


def manual(segmenter: Segmenter, data: Path) -> dict[str, Any]:
    """Dice and surface Dice on strokes of people, by task."""
    rows: dict[str, list[Any]] = {}
    last: tuple[str, int] | None = None
    for example in manual_examples(data / "validation"):
        image = IntensityRange.estimate(example.image).normalize(example.image)
        if last != (example.set_name, example.image_index):
            segmenter.set_image(image)
            last = example.set_name, example.image_index
        prompts = Prompts.empty(image.shape)
        for scribble, positive in zip(
            example.scribbles if example.scribbles is not None else (), (True, False), strict=False
        ):
            if scribble.any():
                prompts = prompts.with_scribble(scribble, positive=positive)
        rows.setdefault(example.task, []).append(agreement(segmenter.predict(prompts) > 0, example.reference))
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
                segmenter.set_context([e.image for e in chosen[:size]], [e.reference for e in chosen[:size]])
                segmenter.set_image(target.image)
                values[size].append(dice(segmenter.predict(Prompts.empty(target.image.shape)) > 0, target.reference))
        for size in sizes:
            if values[size]:
                scores[size].setdefault(task.set_name, []).append(float(np.mean(values[size])))
    segmenter.entries = None
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
            segmenter.set_context([pictures[n] for n in context], [entry.labels[n] == label for n in context])
            for n in rest:
                segmenter.set_image(pictures[n])
                mask = segmenter.predict(Prompts.empty(pictures[n].shape)) > 0
                found["with"].append(float(mask.any()))
                found["overlap"].append(float((mask & (entry.labels[n] == label)).any()))
            for n in rng.permutation(lacking)[:targets]:
                segmenter.set_image(pictures[n])
                found["without"].append(float((segmenter.predict(Prompts.empty(pictures[n].shape)) > 0).any()))
    segmenter.entries = None
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
        segmenter.set_context([image] * size, [scribble > 0] * size)
        times: dict[str, list[float]] = {"set_image": [], "predict": []}
        for _ in range(7):
            started = time.perf_counter()
            segmenter.set_image(image)
            between = time.perf_counter()
            segmenter.predict(prompts)
            segmenter.predict(prompts)
            times["set_image"].append(between - started)
            times["predict"].append((time.perf_counter() - between) / 2)
        result[name] = {key: round(1e3 * float(np.median(value)), 1) for key, value in times.items()}
    return result


def export(network: RidgeUNet, target: Path) -> None:
    """Write the parameters in half precision, batch norms folded into the convolutions."""
    from safetensors.torch import save_file

    state = {name: value.half().contiguous() for name, value in network.folded().items()}
    config = {**vars(network.config), "folded": True}
    save_file(state, target, metadata={"network": "ridge_unet", "config": json.dumps(config)})


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("tasks", nargs="+", choices=("manual", "context", "absent", "speed", "export"))
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
    segmenter = Segmenter(network, size=arguments.size, focus_size=arguments.focus_size, focus=not arguments.no_focus)
    result: dict[str, Any] = {
        "run": path.parent.name,
        "step": step,
        "focus": not arguments.no_focus,
        "size": arguments.size,
    }
    with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
        for task in arguments.tasks:
            if task == "manual":
                result[task] = manual(segmenter, arguments.data)
            elif task == "context":
                result[task] = in_context(segmenter, arguments.data, (1, 4, 16), arguments.targets)
            elif task == "absent":
                result[task] = absent(segmenter, arguments.data, 6, arguments.targets)
            elif task == "speed":
                result[task] = speed(segmenter)
            else:
                export(network, path.with_name("network.safetensors"))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
