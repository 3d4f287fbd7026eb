"""Training of the networks that the study corrects: short, with mild augmentation, and continued where it stopped."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import ConfigError, TrainingError
from scribblesegment.evaluation.correction_config import NetworkTraining
from scribblesegment.evaluation.correction_network import PlainUNet, normalised, save_plain_unet
from scribblesegment.evaluation.correction_tasks import LabelledImage, TaskImages
from scribblesegment.evaluation.protocols import Progress
from scribblesegment.training.augmentation import is_inside, random_coordinates, resample
from scribblesegment.training.checkpoint import load_checkpoint, save_checkpoint

_WARMUP = 0.1  # of the steps
_CLIP = 1.0
_DECIDES = ("name", "set", "classes", "subject", "block", "brightness", "least_pixels", "tune", "test")


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy plus soft Dice over the classes that the batch shows, as nnU-Net trains.

    Args:
        logits: (B, K, H, W).
        labels: int64 (B, H, W), below K.

    Returns:
        Scalar.
    """
    logits = logits.float()
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    probabilities = logits.softmax(dim=1)
    overlap = (probabilities * truth).sum(dim=(0, 2, 3))
    total = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    shown = truth.sum(dim=(0, 2, 3)) > 0
    shown[0] = False  # the background is large, and never the one that is missed
    dice = (2 * overlap + 1) / (total + 1)
    return functional.cross_entropy(logits, labels) + (1 - dice[shown]).sum() / shown.sum().clamp(min=1)


def training_batch(images: Sequence[LabelledImage], config: NetworkTraining, step: int) -> tuple[Tensor, Tensor]:
    """Draw the batch of a step; it depends on the seed and the step alone, so that a continued run is the same.

    Returns:
        float32 (B, 1, H, W) as the network takes it, and int64 (B, H, W).
    """
    rng = np.random.default_rng((config.seed, step))
    inputs, targets = [], []
    for index in rng.choice(len(images), size=config.batch_size, replace=len(images) < config.batch_size):
        one = images[index]
        side = len(one.image)
        rows, columns = random_coordinates(side, side, rng, config.augmentation)
        nearest = tuple(np.clip(np.rint(axis), 0, side - 1).astype(np.intp) for axis in (rows, columns))
        inside = is_inside(side, rows, columns)
        inputs.append(normalised(np.where(inside, resample(one.image, rows, columns), np.float32(0))))
        targets.append(np.where(inside, one.labels[nearest], 0).astype(np.int64))
    return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(targets))


def learning_rate(config: NetworkTraining, step: int) -> float:
    """Give the rate of a step, counted from 0: a linear rise, then half a cosine."""
    warmup = max(1, round(_WARMUP * config.steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def train_network(
    images: TaskImages, config: NetworkTraining, folder: Path, *, progress: Progress | None = None
) -> Path:
    """Train the network of a task, or continue its training, and write it as `<task>.safetensors`.

    A finished network is not trained again.

    Args:
        images: Of the task; only its `train` part is seen.
        config: How.
        folder: Where checkpoint and network lie; it exists.
        progress: Told the fraction done, and the loss.

    Returns:
        The network's file.

    Raises:
        TrainingError: If the loss is no longer finite.
        ConfigError: If the checkpoint is of another configuration.
        WeightsError: If the checkpoint cannot be read or written.
    """
    target = folder / f"{images.task.name}.safetensors"
    if target.exists():
        return target
    config = dataclasses.replace(config, steps=images.task.steps or config.steps)
    run = _Run(images, config, folder / f"{images.task.name}.checkpoint.pt")
    started, first = time.monotonic(), run.step
    while run.step < config.steps:
        loss = run.train_step()
        if run.step % config.checkpoint_every == 0 or run.step == config.steps:
            run.save()
        if progress is not None:
            pace = (time.monotonic() - started) / (run.step - first)
            progress(run.step / config.steps, f"{images.task.name}, loss {loss:.3f}, {pace:.2f} s a step")
    network = PlainUNet(len(images.task.labels), config.features)
    network.load_state_dict(run.averaged)
    save_plain_unet(target, network, labels=images.task.labels, licence=images.licence)
    run.path.unlink()
    return target


class _Run:
    """The state of one training."""

    def __init__(self, images: TaskImages, config: NetworkTraining, path: Path) -> None:
        self.images, self.config, self.path, self.step = images, config, path, 0
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.network = PlainUNet(len(images.task.labels), config.features)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.averaged = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        if path.exists():
            self._restore()

    def train_step(self) -> float:
        """Take one step; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        inputs, labels = training_batch(self.images.train, self.config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.backends.mkldnn.is_available()):
            logits = self.network(inputs)
        loss = class_loss(logits, labels)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"The loss of {self.images.task.name} became {loss.item()} at step {self.step + 1}.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self.optimizer.step()
        self.step += 1
        # Early on, the first parameters must not weigh on the mean.
        decay = min(self.config.ema_decay, self.step / (self.step + 10))
        for name, value in self.network.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)
        return loss.item()

    def save(self) -> None:
        save_checkpoint(
            self.path,
            {
                "config": self._description(),
                "step": self.step,
                "network": self.network.state_dict(),
                "averaged": self.averaged,
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def _restore(self) -> None:
        state = load_checkpoint(self.path)
        if state["config"] != self._description():
            raise ConfigError(f"{self.path} is of another task or configuration. Remove it to train anew.")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged, self.step = state["averaged"], state["step"]

    def _description(self) -> dict[str, Any]:
        # Of the task, only what decides on the training images; as text, in which tuples stay what they are.
        task = {name: value for name, value in dataclasses.asdict(self.images.task).items() if name in _DECIDES}
        return {"task": repr(task), "training": repr(dataclasses.asdict(self.config))}
