"""Training of the embedded network on groups of images: rounds of corrections, and second looks at finer pixels.

The encoder runs once an image; first predictions and corrections run the decoder only. Learning rates rise linearly,
stay, and fall at the end of the run. Averaged parameters are what is exported.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from scribblesegment.errors import ConfigError, TrainingError
from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS
from scribblesegment.models.ridge_unet import Evidence, Features, Output, RidgeUNet, RidgeUNetConfig
from scribblesegment.simulation.painting import draw_strokes, paint_correction
from scribblesegment.training.corpus import SegmentationSet
from scribblesegment.training.groups import Batch, GroupConfig, GroupDataset
from scribblesegment.training.loop import focal_loss, soft_dice_loss

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class OneNetworkConfig:
    """A whole run."""

    seed: int = 0
    steps: int = 4000
    learning_rate: float = 1e-3
    warmup: int = 100  # steps
    cooldown: float = 0.25  # the last part of the run, in which the rate falls to a hundredth
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    ema: float = 0.998  # decay of the averaged parameters
    focal_gamma: float = 2.0
    focal_weight: float = 5.0
    score_weight: float = 0.2  # of the loss of the classifiers' scores
    presence_weight: float = 1.0  # of the loss of the structure being there at all
    initial: str = ""  # checkpoint of another run whose averaged parameters this one starts from
    bfloat16: bool = True
    log_every: int = 20
    checkpoint_seconds: float = 180.0
    kept: tuple[int, ...] = (250, 500, 1000, 2000, 4000, 8000, 16000)  # steps whose averaged parameters are kept
    network: RidgeUNetConfig = field(default_factory=RidgeUNetConfig)
    groups: GroupConfig = field(default_factory=GroupConfig)

    @classmethod
    def read(cls, path: Path) -> OneNetworkConfig:
        """Read JSON.

        Raises:
            ConfigError: If there is an unknown field.
        """
        values = json.loads(path.read_text())
        try:
            network, groups = RidgeUNetConfig(**values.pop("network", {})), GroupConfig(**values.pop("groups", {}))
            return cls(**values, network=network, groups=groups)
        except TypeError as error:
            raise ConfigError(f"{path}: {error}. Compare the fields with those of OneNetworkConfig.") from error


class Run:
    """Network, optimiser and averaged parameters, and the step that is reached."""

    def __init__(self, config: OneNetworkConfig, folder: Path, device: str) -> None:
        self.config, self.path, self.device = config, folder / "checkpoint.pt", torch.device(device)
        torch.manual_seed(config.seed)
        self.network = RidgeUNet(config.network)
        if config.initial and not self.path.exists():
            _start_from(self.network, Path(config.initial))
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        scalars: list[torch.nn.Parameter] = []
        vectors: list[torch.nn.Parameter] = []
        matrices: list[torch.nn.Parameter] = []
        for parameter in self.network.parameters():
            (matrices if parameter.ndim > 1 else vectors if parameter.numel() > 8 else scalars).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "share": 1.0},
                {"params": vectors, "share": 1.0, "weight_decay": 0.0},
                {"params": scalars, "share": 5.0, "weight_decay": 0.0},  # logarithms, which Adam would hardly move
            ],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.averaged = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.step = 0
        if self.path.exists():
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            self.step = int(state["step"])
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.averaged = {name: value.to(self.device) for name, value in state["averaged"].items()}
        self.network.train()

    def save(self) -> None:
        """Write the checkpoint; an earlier one stays until the new one is whole."""
        state = {
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.path.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.replace(self.path)

    def rate(self) -> float:
        """The learning rate of the present step."""
        config = self.config
        left = (config.steps - self.step) / max(1.0, config.cooldown * config.steps)
        falling = 1.0 if left >= 1.0 else 0.01 + 0.99 * 0.5 * (1 - math.cos(math.pi * max(left, 0.0)))
        return config.learning_rate * min(1.0, (self.step + 1) / config.warmup) * falling

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Take one step; returns losses and Dice of its looks."""
        config, device = self.config, self.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group["share"]
        self.optimizer.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        images, masks = batch.images.to(device).float() / 255, batch.masks.to(device).float()
        truth = batch.masks[:, 0].numpy()
        looks = batch.rounds + (0.7 if batch.fine_images is not None else 0.0)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            features, evidence = self._encoded(images, masks, batch)
            total = images.new_zeros(())
            previous = None
            for number in range(batch.rounds):
                if previous is not None:
                    self._correct(batch, truth, previous, number)
                prompts = self._prompts(images, batch, previous, None)
                output = self.network.decode(features, prompts, evidence)
                total = total + self._loss(output, masks, _marked(prompts), values, f"{number + 1}") / looks
                previous = output.logits.detach()
            if batch.fine_images is not None and batch.fine_masks is not None:
                fine, fine_masks = batch.fine_images.to(device).float() / 255, batch.fine_masks.to(device).float()
                first = _windowed(previous, batch.windows)  # type: ignore[arg-type]
                fine_features = self.network.encode(fine.contiguous(memory_format=torch.channels_last))
                seen = None
                if evidence is not None:
                    seen = evidence._replace(carried=_windowed(evidence.carried, batch.windows, fine.shape[-1] // 2))
                prompts = self._prompts(fine, batch, first, batch.windows)
                output = self.network.decode(fine_features, prompts, seen)
                total = total + 0.7 * self._loss(output, fine_masks, _marked(prompts), values, "fine") / looks
        if not math.isfinite(total.item()):
            raise TrainingError(f"The loss is {total.item()} at step {self.step + 1}; lower the learning rate.")
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        if not math.isfinite(norm.item()):
            raise TrainingError(f"The gradient is not finite at step {self.step + 1}; lower the learning rate.")
        self.optimizer.step()
        self.step += 1
        # A run that starts from another one need not forget its beginning.
        decay = config.ema if config.initial else min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.averaged[name].lerp_(value, 1.0 - decay)
                else:
                    self.averaged[name].copy_(value)
        return values

    def _encoded(self, images: Tensor, masks: Tensor, batch: Batch) -> tuple[Features, Evidence | None]:
        features = self.network.encode(images.contiguous(memory_format=torch.channels_last))
        if not batch.allowed.any():
            return features, None
        entries = self.network.entries(features, masks, batch.groups)
        return features, self.network.evidence(features, entries, batch.allowed.to(images.device))

    def _prompts(self, images: Tensor, batch: Batch, previous: Tensor | None, windows: Tensor | None) -> Tensor:
        """Draw prompts, (B, 5, S, S); in windows of the grid where given."""
        size = images.shape[-1]
        drawn = np.zeros((len(images), 5, size, size), np.float32)
        for index, strokes in enumerate(batch.strokes):
            start, scale = (0.0, 0.0), 1.0
            if windows is not None:
                row, column, side = windows[index].tolist()
                start, scale = (row, column), size / side
            drawn[index, POSITIVE : NEGATIVE + 1] = draw_strokes(strokes, size, start=start, scale=scale)
            top, left, bottom, right = batch.boxes[index]
            if top >= 0:
                corners = (np.array([top, left, bottom, right]) - np.tile(start, 2)) * scale
                top, left, bottom, right = np.rint(corners).clip(0, size).astype(int)
                drawn[index, BOX, top:bottom, left:right] = 1.0
        prompts = torch.from_numpy(drawn).to(images.device)
        if batch.extra is not None:
            extra = torch.from_numpy(batch.extra).to(images.device)
            seen = extra if windows is None else (_windowed(extra, windows) > 0.5).float()
            prompts[:, POSITIVE : NEGATIVE + 1] = torch.maximum(prompts[:, POSITIVE : NEGATIVE + 1], seen)
        prompts[:, IMAGE] = images[:, 0]
        if previous is not None:
            prompts[:, PREVIOUS_LOGITS] = previous[:, 0]
        return prompts

    def _correct(self, batch: Batch, truth: np.ndarray[Any, Any], logits: Tensor, number: int) -> None:
        predicted = (logits[:, 0] > 0).cpu().numpy()
        for index, seed in enumerate(batch.seeds):
            rng = np.random.default_rng((seed, number))
            batch.strokes[index] = [*batch.strokes[index], *paint_correction(truth[index], predicted[index], rng)]

    def _loss(self, output: Output, masks: Tensor, marked: Tensor, values: dict[str, float], name: str) -> Tensor:
        config = self.config
        loss = soft_dice_loss(output.logits, masks, smooth=10.0) + config.focal_weight * focal_loss(
            output.logits, masks, gamma=config.focal_gamma
        )
        values[f"loss_{name}"] = loss.item()
        with torch.no_grad():
            mask, truth = (output.logits > 0).flatten(1), masks.flatten(1) > 0.5
            dice = (2.0 * (mask & truth).sum(1) + 1e-6) / (mask.sum(1) + truth.sum(1) + 1e-6)
            shown = truth.any(dim=1)
            values[f"dice_{name}"] = dice[shown].mean().item()
        target = masks.flatten(1).amax(dim=1)
        # Where nothing positive is drawn, which is rare, the network has to find out for itself.
        weights = torch.where(marked, 0.1, 1.0)
        losses = functional.binary_cross_entropy_with_logits(output.presence, target, weight=weights)
        values[f"presence_{name}"] = losses.item()
        loss = loss + config.presence_weight * losses
        if config.score_weight > 0 and config.network.ridge:
            target = functional.avg_pool2d(masks, 2).expand_as(output.scores)
            losses = functional.binary_cross_entropy_with_logits(3.0 * output.scores, target, reduction="none")
            share = target.mean(dim=(2, 3), keepdim=True).clamp(0.02, 0.98)
            losses = (losses * (0.5 * target / share + 0.5 * (1 - target) / (1 - share))).mean(dim=(2, 3))
            losses = (losses * output.valid).sum() / output.valid.sum().clamp(min=1.0)
            values[f"score_{name}"] = losses.item()
            loss = loss + config.score_weight * losses
        return loss


def train(
    sets: Sequence[SegmentationSet],
    config: OneNetworkConfig,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    report: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
    until: int = 0,
) -> Path:
    """Train, or continue the run whose checkpoint lies in the folder; returns the checkpoint's path.

    With `until`, stop after that step, as for a comparison of runs that go on alike.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (
        (folder / "checkpoint.pt").exists()
        and until > 0
        and torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["step"] >= until
    ):
        return folder / "checkpoint.pt"
    run = Run(config, folder, device)
    dataset = GroupDataset(
        sets, config.groups, steps=config.steps, seed=config.seed, cache=folder.parent / "cache", first=run.step
    )
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device == "cuda",
    )
    log = folder / "log.csv"
    gathered: dict[str, list[float]] = {}
    saved = started = time.monotonic()
    first = run.step
    for batch in loader:
        for name, value in run.train_step(batch).items():
            gathered.setdefault(name, []).append(value)
        stops = cancelled is not None and cancelled()
        if run.step % config.log_every == 0 or run.step == config.steps:
            values = {name: float(np.nanmean(entries)) for name, entries in sorted(gathered.items())}
            gathered = {}
            values["seconds_per_step"] = (time.monotonic() - started) / (run.step - first)
            with log.open("a", newline="") as file:
                csv.writer(file).writerow([run.step, *(f"{name}={value:.4f}" for name, value in values.items())])
            if report is not None:
                report(run.step, values)
        if run.step in config.kept:
            torch.save(
                {"config": dataclasses.asdict(config), "step": run.step, "averaged": run.averaged},
                folder / f"step_{run.step}.pt",
            )
        stops = stops or run.step == until
        if stops or run.step == config.steps or time.monotonic() - saved > config.checkpoint_seconds:
            run.save()
            saved = time.monotonic()
        if stops:
            break
    return run.path


def _marked(prompts: Tensor) -> Tensor:
    """Which prompts (B, 5, S, S) say that the structure is there."""
    return (prompts[:, [POSITIVE, BOX]] > 0).flatten(1).any(dim=1)


def _windowed(maps: Tensor, windows: Tensor, size: int | None = None) -> Tensor:
    """Cut windows (B, 3) of the grid out of maps (B, C, H, W), on `size` pixels a side (the maps' own by default)."""
    side = maps.shape[-1]
    size = size or side
    grid_side = side if size == side else 2 * side  # windows are in pixels of the grid; maps may be at 1/2
    steps = (torch.arange(size, device=maps.device) + 0.5) / size
    axes = [
        ((windows[:, n, None].to(maps.device) + windows[:, 2, None].to(maps.device) * steps) / grid_side) * 2 - 1
        for n in (0, 1)
    ]
    rows, columns = axes[0][:, :, None].expand(-1, -1, size), axes[1][:, None, :].expand(-1, size, -1)
    grid = torch.stack([columns, rows], dim=-1)
    return functional.grid_sample(maps.float(), grid, padding_mode="border", align_corners=False)


def _start_from(network: RidgeUNet, path: Path) -> None:
    """Take over parameters; weights of input channels that are new begin at zero, so that nothing changes."""
    if path.suffix == ".safetensors":
        given = {name: value.float() for name, value in load_file(path).items()}
    else:
        given = torch.load(path, map_location="cpu", weights_only=True)["averaged"]
    wanted = network.state_dict()
    for name, value in given.items():
        added = wanted[name].shape[1] - value.shape[1] if value.ndim > 1 else 0
        if added > 0:
            given[name] = torch.cat([value, value.new_zeros(len(value), added, *value.shape[2:])], dim=1)
    network.load_state_dict({**wanted, **given})
