"""Training of the embedded network on groups of images: rounds of corrections, and second looks at finer pixels.

Each step draws groups of images, predicts from the first prompts and the context, lets the simulated user correct the
prediction, predicts again with the previous logits as input, and so on (ScribblePrompt, section 3.1, equation 1); the
loss is the mean over the looks. The encoder runs once an image, corrections run the decoder only. The learning rate
rises linearly, stays, and falls at the end of the run. Averaged parameters are what is exported.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import dataclasses
import json
import math
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as torch_distributed
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from scribblesegment.errors import (
    ConfigError,
    DeviceError,
    FileFormatError,
    ScribbleSegmentError,
    TrainingError,
    WeightsError,
)
from scribblesegment.inference.devices import computes_bfloat16, device_problem
from scribblesegment.io.storage import atomic_file
from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS
from scribblesegment.models.ridge_unet import Evidence, Features, Output, RidgeUNet, RidgeUNetConfig
from scribblesegment.simulation.painting import draw_strokes, paint_correction
from scribblesegment.training.corpus import SegmentationSet
from scribblesegment.training.groups import Batch, GroupConfig, GroupDataset
from scribblesegment.weights.checkpoints import NetworkDescription, load_network, save_network

CHECKPOINT_NAME, LOG_NAME, WEIGHTS_NAME = "checkpoint.pt", "log.csv", "network.safetensors"

CAPABILITIES = ("boxes", "clicks", "context", "scribbles")

Report = Callable[[int, dict[str, float]], None]

# How torch, and the system about a process that prepares samples, say that memory has run out. It has a type of its own
# for GPUs only, and not in all its releases.
_MEMORY_MESSAGES = (
    *("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed"),
    *("is killed by signal: killed", "exited unexpectedly", "bus error"),
)


@dataclass(frozen=True)
class TrainingConfig:
    """A run."""

    seed: int = 0
    steps: int = 4000
    learning_rate: float = 1.5e-3
    warmup: int = 100  # steps
    cooldown: float = 0.3  # the last part of the run, in which the rate falls to a hundredth
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema: float = 0.998  # decay of the averaged parameters
    # Focusing exponent of the cross entropy and its weight: of structures a few pixels wide, and of large ones.
    focal_gamma: tuple[float, float] = (2.0, 0.5)
    focal_weight: tuple[float, float] = (5.0, 1.2)
    score_weight: float = 0.2  # of the loss of the classifiers' scores
    presence_weight: float = 1.0  # of the loss of the structure being there at all
    empty_weight: float = 0.15  # of the mask's loss where there is no structure and nothing positive is drawn
    absent_weight: float = 1.5  # in it, of images without the structure, which are the fewer
    painted_weight: float = 0.3  # of the loss of painted pixels alone, which are few and which users expect to hold
    # Weights file, or another run's checkpoint, whose parameters this one starts from; relative to the working folder.
    initial: str = ""
    precision: str = "auto"  # "float32", "bfloat16", or bfloat16 where the hardware multiplies it
    log_every: int = 20  # steps
    checkpoint_seconds: float = 180.0
    grid: int = 0  # side of the exported network's grid; 0 for that of the training
    focus_size: int = 256  # side of the largest grid of its second looks
    name: str = ""  # of the exported network
    licence: str = ""  # of its parameters
    network: RidgeUNetConfig = field(default_factory=RidgeUNetConfig)
    groups: GroupConfig = field(default_factory=GroupConfig)

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"precision is auto, float32 or bfloat16, got {self.precision!r}.")
        if min(self.warmup, self.log_every, self.steps) < 1:
            raise ConfigError("steps, warmup and log_every are at least 1.")

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """Read JSON; what it leaves out keeps its default.

        Raises:
            ConfigError: The file cannot be read, or a field is unknown or of another type than its default.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"The configuration {path} cannot be read: {error}") from error
        return _filled(cls, values, str(path))


def _filled(kind: Any, values: object, where: str) -> Any:
    """Make a configuration of JSON values."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be named values, got {values!r:.80}.")
    defaults = {entry.name: getattr(kind(), entry.name) for entry in dataclasses.fields(kind)}
    unknown = sorted(values.keys() - defaults.keys())
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(defaults))}.")
    filled: dict[str, Any] = {}
    for name, value in values.items():
        default = defaults[name]
        if dataclasses.is_dataclass(default):
            filled[name] = _filled(type(default), value, f"{where}, {name}")
        elif isinstance(default, tuple) and isinstance(value, list):
            filled[name] = tuple(tuple(item) if isinstance(item, list) else item for item in value)
        elif type(value) is type(default) or (type(default) is float and type(value) is int):
            filled[name] = value
        else:
            raise ConfigError(f"{where}: {name} must be of the kind of {default!r}, got {value!r:.80}.")
    return kind(**filled)


@dataclass(frozen=True)
class Processes:
    """This process among all of them: its rank, their number, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes files and shows progress."""
        return self.rank == 0

    def average_gradients(self, network: nn.Module) -> None:
        """Give the parameters of all processes' networks the mean of their gradients; all of them must ask."""
        if self.count == 1:
            return
        gradients = []
        for parameter in network.parameters():  # some had nothing to do in this process's groups
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        together = torch.cat([gradient.flatten() for gradient in gradients])
        torch_distributed.all_reduce(together)
        together /= self.count
        for gradient, mean in zip(gradients, together.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def any(self, value: bool) -> bool:
        """Tell whether a value is true in any of the processes; all of them must ask."""
        if self.count == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        torch_distributed.all_reduce(flag, torch_distributed.ReduceOp.MAX)
        return flag.item() > 0.0


@contextlib.contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the process group that `torchrun` announces, if any, and leave it at the end.

    Args:
        device: "auto" (CUDA where it works), "cpu" or "cuda": one GPU for each process of this machine.

    Raises:
        DeviceError: If the device is unknown or does not compute.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    where = _choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if count == 1:
        yield Processes(0, 1, where)
        return
    torch_distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Processes(torch_distributed.get_rank(), count, where)
    finally:
        torch_distributed.destroy_process_group()


def _choose_device(name: str, local_rank: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"Training runs on the device auto, cpu or cuda, got {name!r}.")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    problem = device_problem(f"cuda:{local_rank}")
    if problem is not None:
        raise DeviceError(
            f"Training process {local_rank} cannot use cuda:{local_rank}: {problem} Use the device cpu, or start no "
            "more processes than there are GPUs."
        )
    return torch.device("cuda", local_rank)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Ask glibc to reuse large freed blocks instead of giving them back to the system at once.

    The tensors of every step have the same sizes; getting them from the system anew costs a page fault for each 4 KiB.

    Returns:
        True where the setting was taken; on other C libraries nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def soft_dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice overlap of each image.

    Args:
        logits: (B, 1, H, W), unthresholded.
        target: (B, 1, H, W) in [0, 1].
        smooth: Pixels added to both sides of the ratio, so that tiny structures give a bounded gradient.

    Returns:
        (B,), in [0, 1].
    """
    logits = _full_precision(logits)
    probabilities = torch.sigmoid(logits).flatten(1)
    target = target.to(logits.dtype).flatten(1)
    overlap = (probabilities * target).sum(dim=1)
    total = probabilities.sum(dim=1) + target.sum(dim=1)
    return 1.0 - (2.0 * overlap + smooth) / (total + smooth)


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float | Tensor = 20.0) -> Tensor:
    """Cross entropy weighted by (1 - p_t) ** gamma (Lin et al. 2017, equation 4), averaged over an image.

    With a large gamma only pixels that are wrong with confidence still count: beside the Dice loss, which
    weighs a region as a whole, it removes confident mistakes.

    Args:
        logits: (B, 1, H, W), unthresholded.
        target: (B, 1, H, W) in [0, 1].
        gamma: Focusing exponent, one or (B,); zero is plain cross entropy.

    Returns:
        (B,), >= 0.
    """
    logits = _full_precision(logits)
    target = target.to(logits.dtype)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability_of_truth = torch.exp(-cross_entropy)
    gamma = torch.as_tensor(gamma, dtype=logits.dtype, device=logits.device).view(-1, 1, 1, 1)
    # Kept off zero, where powers below one have no finite derivative.
    losses = (1.0 - probability_of_truth).clamp(min=1e-8) ** gamma * cross_entropy
    return losses.flatten(1).mean(dim=1)


def _largeness(masks: Tensor) -> Tensor:
    """How much of masks (B, 1, H, W) lies more than two pixels inside of their borders, (B,) in [0, 1]; 1 of none."""
    inner, area = -functional.max_pool2d(-masks, 5, stride=1, padding=2), masks.flatten(1).sum(dim=1)
    return torch.where(area > 0.0, inner.flatten(1).sum(dim=1) / area.clamp(min=1.0), 1.0)


def _full_precision(values: Tensor) -> Tensor:
    """Sums over an image lose too much in half precision and in bfloat16."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class Run:
    """Network, optimiser and averaged parameters, and the step that is reached."""

    def __init__(self, config: TrainingConfig, path: Path, group: Processes) -> None:
        self.config, self.path, self.group, self.device = config, path, group, group.device
        self._bfloat16 = config.precision == "bfloat16" or (
            config.precision == "auto" and computes_bfloat16(str(self.device))
        )
        with torch.random.fork_rng(devices=[]):  # the caller's own random numbers stay what they were
            torch.default_generator.manual_seed(config.seed)
            self.network = RidgeUNet(config.network)
        if config.initial and not path.exists():
            start_from(self.network, Path(config.initial))
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
        if path.exists():
            state = load_checkpoint(path)
            saved, wanted = state["config"], dataclasses.asdict(config)
            free = ("checkpoint_seconds", "log_every", "grid", "focus_size", "name", "licence")
            differing = sorted(name for name in wanted if name not in free and saved.get(name) != wanted[name])
            if differing:
                raise ConfigError(
                    f"{path} belongs to a run with another configuration; different are {', '.join(differing)}. Use "
                    "the same to continue it, or another output folder to start anew."
                )
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
        try:
            with atomic_file(self.path, ".pt") as temporary:
                torch.save(state, temporary)
        except (FileFormatError, RuntimeError) as error:  # torch raises RuntimeError where the disk is full
            raise WeightsError(
                f"The checkpoint was not written: {error} An earlier checkpoint is intact; free space or get "
                "permission, then continue the run from it."
            ) from error

    def export(self, target: Path) -> None:
        """Write the averaged parameters in half precision, batch norms folded into the convolutions."""
        config = self.config
        network = RidgeUNet(config.network)
        network.load_state_dict(self.averaged)
        options = {**dataclasses.asdict(config.network), "folded": True}
        size = config.grid or config.groups.size
        save_network(
            target,
            network.folded(),
            NetworkDescription(
                "ridge_unet",
                options,
                size=size,
                capabilities=CAPABILITIES,
                name=config.name or target.parent.name,
                licence=config.licence,
                focus_size=max(config.focus_size, size) if config.focus_size else 0,
            ),
        )

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
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16):
            features, evidence = self._encoded(images, masks, batch)
            total = images.new_zeros(())
            previous = None
            for number in range(batch.rounds):
                if previous is not None:
                    self._correct(batch, truth, previous, number)
                prompts = self._prompts(images, batch, previous, None)
                output = self.network.decode(features, prompts, evidence)
                total = total + self._loss(output, masks, prompts, values, f"{number + 1}") / looks
                previous = output.logits.detach()
            if batch.fine_images is not None and batch.fine_masks is not None:
                fine, fine_masks = batch.fine_images.to(device).float() / 255, batch.fine_masks.to(device).float()
                first = _windowed(previous, batch.windows, images.shape[-1], fine.shape[-1])  # type: ignore[arg-type]
                fine_features = self.network.encode(fine.contiguous(memory_format=torch.channels_last))
                seen = None
                if evidence is not None:
                    seen = evidence._replace(
                        carried=_windowed(evidence.carried, batch.windows, fine.shape[-1], fine.shape[-1] // 2),
                        heard=_windowed(evidence.heard, batch.windows, fine.shape[-1], fine.shape[-1] // 16),
                    )
                prompts = self._prompts(fine, batch, first, batch.windows)
                output = self.network.decode(fine_features, prompts, seen)
                total = total + 0.7 * self._loss(output, fine_masks, prompts, values, "fine") / looks
        if not math.isfinite(total.item()):
            raise TrainingError(
                f"The loss became {total.item()} at step {self.step + 1}. The last checkpoint is intact. Train anew, "
                "in another folder, with a lower learning rate."
            )
        total.backward()
        self.group.average_gradients(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        if not math.isfinite(norm.item()):
            raise TrainingError(
                f"The gradient became {norm.item()} at step {self.step + 1}. The last checkpoint is intact. Train "
                "anew, in another folder, with a lower learning rate."
            )
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
        shown = _poorer(masks, batch.seeds, self.config.groups.poor_p)
        entries = self.network.entries(features, shown, batch.groups)
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
            seen = extra if windows is None else (_windowed(extra, windows, extra.shape[-1], size) > 0.5).float()
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

    def _loss(self, output: Output, masks: Tensor, prompts: Tensor, values: dict[str, float], name: str) -> Tensor:
        config, marked = self.config, _marked(prompts)
        target = masks.flatten(1).amax(dim=1)
        # Where nothing positive is drawn, the presence says whether there is a structure, and the logits where it is.
        counts = torch.where(marked | (target > 0.0), 1.0, config.empty_weight)
        large, (thin_gamma, large_gamma) = _largeness(masks), config.focal_gamma
        thin_weight, large_weight = config.focal_weight
        weight = thin_weight ** (1.0 - large) * large_weight**large  # also of a weight of zero
        gamma = thin_gamma + (large_gamma - thin_gamma) * large
        loss = (
            counts
            * (
                soft_dice_loss(output.logits, masks, smooth=10.0)
                + weight * focal_loss(output.logits, masks, gamma=gamma)
            )
        ).mean()
        values[f"loss_{name}"] = loss.item()
        painted = torch.where(masks > 0.5, prompts[:, [POSITIVE]], prompts[:, [NEGATIVE]])  # without what slipped
        losses = functional.binary_cross_entropy_with_logits(output.logits, masks, reduction="none")
        losses = (losses * painted).flatten(1).sum(dim=1) / painted.flatten(1).sum(dim=1).clamp(min=1.0)
        values[f"painted_{name}"] = losses.mean().item()
        loss = loss + config.painted_weight * losses.mean()
        with torch.no_grad():
            mask, truth = (output.logits > 0).flatten(1), masks.flatten(1) > 0.5
            dice = (2.0 * (mask & truth).sum(1) + 1e-6) / (mask.sum(1) + truth.sum(1) + 1e-6)
            shown = truth.any(dim=1)
            values[f"dice_{name}"] = dice[shown].mean().item()
        # Where nothing positive is drawn, which is rare, the network has to find out for itself.
        weights = torch.where(marked, 0.1, 1.0) * torch.where(target > 0.0, 1.0, config.absent_weight)
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
    config: TrainingConfig,
    folder: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    report: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
    until: int = 0,
) -> Path:
    """Train, or continue the run whose checkpoint lies in the folder.

    Args:
        sets: The corpus.
        config: The run.
        folder: Where `checkpoint.pt`, `log.csv` and `network.safetensors` are written; made if missing.
        device: "auto", "cpu" or "cuda".
        workers: Processes that prepare samples, per training process.
        report: Called with the number of finished steps and the values of the log, every `log_every` steps.
        cancelled: Asked between steps; when it gives true, the checkpoint is written and training stops.
        until: Stop after this step, as for a comparison of runs that go on alike; 0 for the end.

    Returns:
        The checkpoint's path.

    Raises:
        ConfigError: The folder holds a run with another configuration.
        DatasetError: No sample can be drawn from the corpus.
        DeviceError: The device does not compute.
        FileFormatError: The folder or a file in it cannot be written.
        TrainingError: The loss or its gradient is not finite, or memory runs out.
        WeightsError: The checkpoint, or what the run starts from, cannot be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"Cannot make the folder {folder}: {error.strerror}. Choose another one.") from error
    keep_freed_memory()
    with processes(device) as group, _memory_running_out_told():
        run = Run(config, folder / CHECKPOINT_NAME, group)
        last = min(config.steps, until or config.steps)
        dataset = GroupDataset(
            sets,
            config.groups,
            steps=last,
            seed=config.seed,
            cache=folder,
            first=run.step,
            rank=group.rank,
            processes=group.count,
        )
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=group.device.type == "cuda",
            worker_init_fn=_calm_worker,
            generator=torch.Generator().manual_seed(config.seed),  # unused, but torch draws from the caller's else
        )
        log = _Log(folder / LOG_NAME, run.step)
        gathered: dict[str, list[float]] = {}
        saved = started = time.monotonic()
        first = run.step
        for batch in loader:
            for name, value in run.train_step(batch).items():
                gathered.setdefault(name, []).append(value)
            stops = group.any(cancelled is not None and cancelled())
            if not group.is_main:
                if stops:
                    break
                continue
            if run.step % config.log_every == 0 or run.step == last:
                values = {name: float(np.nanmean(entries)) for name, entries in sorted(gathered.items())}
                gathered = {}
                values["seconds_per_step"] = (time.monotonic() - started) / (run.step - first)
                log.write(run.step, values)
                if report is not None:
                    report(run.step, values)
            if stops or run.step == last or time.monotonic() - saved > config.checkpoint_seconds:
                run.save()
                run.export(folder / WEIGHTS_NAME)
                saved = time.monotonic()
            if stops:
                break
    return run.path


class _Log:
    """A CSV with a row for every report; a run that continues drops rows past its checkpoint."""

    def __init__(self, path: Path, step: int) -> None:
        self._path, self._rows = path, list[dict[str, str]]()
        if path.exists() and step > 0:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if (row["step"] or "").isdigit()]
            self._rows = [row for row in rows if int(row["step"]) <= step]

    def write(self, step: int, values: dict[str, float]) -> None:
        self._rows.append({"step": str(step), **{name: f"{value:.5g}" for name, value in values.items()}})
        columns = ["step", *sorted({name for row in self._rows for name in row} - {"step"})]
        with atomic_file(self._path, ".csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(self._rows)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's checkpoint; pickled code is refused, not run.

    Raises:
        WeightsError: It is missing, damaged, or something else.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"Cannot read the checkpoint {path}: {error.strerror or error}. Check the path.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"The checkpoint {path} was not loaded: it is damaged, or holds Python objects, which could run code."
        ) from error
    except Exception as error:  # torch's unpickler raises whatever its damaged instructions lead to
        raise WeightsError(f"The checkpoint {path} is damaged: {error}. Remove it to start anew.") from error
    if not isinstance(state, dict) or not {"config", "step", "network", "averaged", "optimizer"} <= state.keys():
        raise WeightsError(f"{path} is not a checkpoint of a training run. Give the checkpoint.pt of a run's folder.")
    return state


def start_from(network: RidgeUNet, path: Path) -> None:
    """Take over the parameters of a weights file or of another run's checkpoint.

    Weights of input channels that are new begin at zero, so that nothing changes.

    Raises:
        ConfigError: They are of another network.
        WeightsError: The file is missing, damaged, or unsafe.
    """
    given = load_checkpoint(path)["averaged"] if path.suffix == ".pt" else load_network(path)[0].state_dict()
    wanted = network.state_dict()
    for name, value in given.items():
        if value.ndim > 1 and name in wanted and wanted[name].shape[1] > value.shape[1]:
            added = wanted[name].shape[1] - value.shape[1]
            given[name] = torch.cat([value, value.new_zeros(len(value), added, *value.shape[2:])], dim=1)
    if {name: value.shape for name, value in given.items()} != {name: value.shape for name, value in wanted.items()}:
        raise ConfigError(
            f"{path} is of another network than the configuration's. To start from an exported file, set "
            '"network": {"folded": true}.'
        )
    network.load_state_dict(given)


@contextlib.contextmanager
def _memory_running_out_told() -> Iterator[None]:
    """Turn the errors that memory running out can raise into one that says what to do."""
    try:
        yield
    except ScribbleSegmentError:
        raise
    except Exception as error:
        # Its frames keep the loader, and with it workers that no signal ends: the process would wait for them for ever.
        traceback.clear_frames(error.__traceback__)
        if not isinstance(error, (MemoryError, RuntimeError)):
            raise
        reason = str(error).strip()
        if not isinstance(error, MemoryError) and not any(text in reason.lower() for text in _MEMORY_MESSAGES):
            raise
        first_line = (reason or type(error).__name__).splitlines()[0].rstrip(".")
        raise TrainingError(
            f"Memory ran out: {first_line}. The last checkpoint is intact; free memory or use fewer workers, and "
            "continue from it. Or train anew, in another folder, with smaller groups.kinds."
        ) from error


def _calm_worker(_: int) -> None:
    torch.set_num_threads(1)
    # What asks for an end reaches all processes; the one that trains finishes its step and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _poorer(masks: Tensor, seeds: Sequence[int], share: float) -> Tensor:
    """Move, grow or halve some masks (B, 1, S, S), as those of examples that nobody corrected."""
    masks, side = masks.clone(), masks.shape[-1]
    for index, seed in enumerate(seeds):
        rng = np.random.default_rng((seed, 0))
        if rng.random() >= share:
            continue
        kind, mask = rng.integers(3), masks[index]
        if kind == 0:
            shift = rng.integers(-side // 6, side // 6 + 1, size=2).tolist()
            masks[index] = torch.roll(mask, shift, dims=(1, 2))
        elif kind == 1:
            reach = int(rng.integers(side // 32 + 1, side // 8 + 1))
            masks[index] = functional.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach)
        elif mask.any():
            axis = int(rng.integers(2))
            mask.narrow(axis + 1, 0, int(mask[0].nonzero()[:, axis].float().median())).zero_()
    return masks


def _marked(prompts: Tensor) -> Tensor:
    """Which prompts (B, 5, S, S) say that the structure is there."""
    return (prompts[:, [POSITIVE, BOX]] > 0).flatten(1).any(dim=1)


def _windowed(maps: Tensor, windows: Tensor, grid_side: int, size: int) -> Tensor:
    """Cut windows (B, 3), in pixels of a grid, out of maps (B, C, H, W) of it, on `size` places a side."""
    steps = (torch.arange(size, device=maps.device) + 0.5) / size
    axes = [
        ((windows[:, n, None].to(maps.device) + windows[:, 2, None].to(maps.device) * steps) / grid_side) * 2 - 1
        for n in (0, 1)
    ]
    rows, columns = axes[0][:, :, None].expand(-1, -1, size), axes[1][:, None, :].expand(-1, size, -1)
    grid = torch.stack([columns, rows], dim=-1)
    return functional.grid_sample(maps.float(), grid, padding_mode="border", align_corners=False)
