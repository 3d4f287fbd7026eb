"""The training loop: iterative rounds of prompts and predictions (ScribblePrompt, section 3.1, equation 1).

Each step draws a batch, predicts from the first prompts, lets the simulated user correct the prediction, predicts
again with the previous logits as input, and so on; the loss is the mean over the rounds.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as torch_distributed
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from scribblesegment.errors import ConfigError, DeviceError, FileFormatError, ScribbleSegmentError, TrainingError
from scribblesegment.inference.devices import device_problem, has_bfloat16_units
from scribblesegment.io.storage import atomic_file
from scribblesegment.models.context_unet import ContextUNet, InContextNetwork, crop_maps
from scribblesegment.models.factory import build_network
from scribblesegment.models.unet import ScribbleUNet
from scribblesegment.simulation.user import simulate_corrections
from scribblesegment.training.checkpoint import check_same_run, load_checkpoint, save_checkpoint
from scribblesegment.training.config import TrainingConfig, config_to_dict
from scribblesegment.training.corpus import SegmentationSet
from scribblesegment.training.samples import Batch, SampleDataset, collate
from scribblesegment.training.second_look import SecondLook, second_look
from scribblesegment.weights.checkpoints import load_network


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
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
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


@contextmanager
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


def start_from(network: nn.Module, path: str) -> None:
    """Take the parameters of a weights file: of the same network, or of one that lacks some cue channels, or contexts.

    What is new, the weights of channels added behind the input's, starts at zero: the network computes what it did.

    Args:
        network: What is changed.
        path: The weights file.

    Raises:
        ConfigError: If the weights are of another network.
        WeightsError: If the file is missing, damaged, or unsafe.
    """
    source = load_network(path)[0]
    given, wanted = source.state_dict(), network.state_dict()
    for name, value in given.items():
        target = wanted.get(name)
        if target is not None and target.ndim == 4 and target.shape[1] > value.shape[1]:
            added = target.shape[1] - value.shape[1]
            given[name] = torch.cat([value, value.new_zeros(len(value), added, *value.shape[2:])], dim=1)
    if type(source) is not type(network):
        given.update({name: value for name, value in wanted.items() if name.startswith("matching.")})
    has_shapes = {name: value.shape for name, value in given.items()}
    if has_shapes != {name: value.shape for name, value in wanted.items()} or not _only_adds_cues(source, network):
        raise ConfigError(f"initial_weights {path} is of another network than the configuration's; use its options.")
    network.load_state_dict(given)


def _only_adds_cues(source: nn.Module, network: nn.Module) -> bool:
    """Tell whether two networks of the same parameters differ at most by cues that come after those of the first."""
    old, new = (asdict(cast(Any, one).config) for one in (source, network))
    gains_context = type(source) is ScribbleUNet and type(network) is ContextUNet
    if gains_context:
        new = {name: value for name, value in new.items() if name in old}
    added = [name for name in ("intensity_cues", "geodesic_cues") if new.get(name) and not old.get(name)]
    if added == ["intensity_cues"] and old.get("geodesic_cues"):
        return False  # they would come before the geodesic ones, whose weights would read them
    return (gains_context or type(source) is type(network)) and {**old, **dict.fromkeys(added, True)} == new


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
    """One minus the soft Dice overlap, averaged over the batch.

    Args:
        logits: (B, 1, H, W), unthresholded.
        target: (B, 1, H, W) in [0, 1].
        smooth: Pixels added to both sides of the ratio, so that tiny structures give a bounded gradient.

    Returns:
        Scalar in [0, 1].
    """
    logits = _full_precision(logits)
    probabilities = torch.sigmoid(logits).flatten(1)
    target = target.to(logits.dtype).flatten(1)
    overlap = (probabilities * target).sum(dim=1)
    total = probabilities.sum(dim=1) + target.sum(dim=1)
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean()


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 20.0) -> Tensor:
    """Cross entropy weighted by (1 - p_t) ** gamma (Lin et al. 2017, equation 4), averaged over all pixels.

    With the large gamma used here only pixels that are wrong with confidence still count: beside the Dice loss, which
    weighs a region as a whole, it removes confident mistakes.

    Args:
        logits: (B, 1, H, W), unthresholded.
        target: (B, 1, H, W) in [0, 1].
        gamma: Focusing exponent; zero is plain cross entropy.

    Returns:
        Scalar >= 0.
    """
    logits = _full_precision(logits)
    target = target.to(logits.dtype)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability_of_truth = torch.exp(-cross_entropy)
    # Kept off zero, where powers below one have no finite derivative.
    return ((1.0 - probability_of_truth).clamp(min=1e-8) ** gamma * cross_entropy).mean()


def segmentation_loss(logits: Tensor, target: Tensor, *, gamma: float = 20.0, focal_weight: float = 1.0) -> Tensor:
    """Soft Dice plus focal loss; arguments as in the two parts, `focal_weight` scales the second."""
    return soft_dice_loss(logits, target) + focal_weight * focal_loss(logits, target, gamma=gamma)


def _full_precision(values: Tensor) -> Tensor:
    """Sums over an image lose too much in half precision and in bfloat16."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


CHECKPOINT_NAME = "checkpoint.pt"

LOG_NAME = "log.csv"


Report = Callable[[int, dict[str, float]], None]


# Tells the generator of a step's number of rounds from those of its samples.
_ROUNDS_KEY = 2**31


# How torch, and the system about a process that prepares samples, say that memory has run out. It has a type of its own
# for GPUs only, and not in all its releases.
_MEMORY_MESSAGES = (
    *("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed"),
    *("is killed by signal: killed", "bus error"),
)


def train(
    sets: Sequence[SegmentationSet],
    config: TrainingConfig,
    folder: str | Path,
    *,
    device: str = "auto",
    workers: int = 1,
    report: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Train a network, or continue the run whose checkpoint lies in the folder.

    Args:
        sets: The corpus.
        config: The run.
        folder: Where `checkpoint.pt` and `log.csv` are written; made if it is missing.
        device: "auto", "cpu" or "cuda".
        workers: Processes that prepare samples, per training process.
        report: Called with the number of finished steps and the values of the log, every `log_every` steps.
        cancelled: Asked between steps; when it gives true, the checkpoint is written and training stops.

    Returns:
        The path of the last checkpoint.

    Raises:
        ConfigError: If the folder holds a run with another configuration, or the batch does not divide.
        DatasetError: If no sample can be drawn from the corpus.
        DeviceError: If the device does not compute.
        FileFormatError: If the folder or the log cannot be written.
        TrainingError: If the loss or its gradient is not finite, or memory runs out.
        WeightsError: If a checkpoint cannot be read or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"Cannot make the folder {folder}: {error.strerror}. Choose another one.") from error
    keep_freed_memory()
    with processes(device) as group, _memory_running_out_told(config.batch_size):
        run = _Run(config, group, folder / CHECKPOINT_NAME)
        loader = _loader(sets, config, group, run.step, workers)
        log = _Log(folder / LOG_NAME, run.step, config) if group.is_main else None
        started, first_step = time.monotonic(), run.step
        for batch in loader:
            values = run.train_step(batch)
            if group.is_main:
                run.means.add(values)
            stops = group.any(cancelled is not None and cancelled())
            if group.is_main and (run.step % config.log_every == 0 or run.step == config.steps):
                values = run.means.take()
                values["samples_per_second"] = (
                    (run.step - first_step) * config.batch_size / (time.monotonic() - started)
                )
                if log is not None:
                    log.write(run.step, values)
                if report is not None:
                    report(run.step, values)
            if group.is_main and (run.step % config.checkpoint_every == 0 or run.step == config.steps or stops):
                run.save()
            if stops:
                break
    return folder / CHECKPOINT_NAME


@contextlib.contextmanager
def _memory_running_out_told(batch_size: int) -> Iterator[None]:
    """Turn the errors that memory running out can raise into one that says what to do."""
    try:
        yield
    except ScribbleSegmentError:
        raise
    except (MemoryError, RuntimeError) as error:
        reason = str(error).strip()
        if not isinstance(error, MemoryError) and not any(text in reason.lower() for text in _MEMORY_MESSAGES):
            raise
        first_line = (reason or type(error).__name__).splitlines()[0].rstrip(".")
        raise TrainingError(
            f"Memory ran out: {first_line}. The last checkpoint is intact; free memory or use fewer workers, and "
            f"continue from it. Or train anew, in another folder, with a batch_size below {batch_size}."
        ) from error


class _Run:
    """Network, optimiser, averaged parameters and unreported measurements of one run, and the step it has reached."""

    def __init__(self, config: TrainingConfig, group: Processes, path: Path) -> None:
        self.config, self.group, self.path = config, group, path
        self.step = 0
        self.means = _Means()
        with torch.random.fork_rng(devices=[]):  # the caller's own random numbers stay what they were
            torch.default_generator.manual_seed(config.seed)
            network = build_network(config.network.name, config.network.options)
        _require_context(network, config)
        if config.initial_weights and not path.exists():
            start_from(network, config.initial_weights)
        network.to(group.device)
        # The stubs of torch know this overload only for tensors.
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.averaged = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        if path.exists():
            self._restore()
        self._autocast = _use_bfloat16(config.precision, group.device)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Take one optimiser step; returns loss and Dice of every round."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        batch = batch.to(self.group.device)
        truth = batch.masks[:, 0].bool().cpu().numpy()
        logits, previous = None, batch.previous_logits
        values: dict[str, float] = {"learning_rate": learning_rate(config, self.step)}
        # Of the step alone, so that all processes do the same and a continued run what it would have done.
        rng = np.random.default_rng((config.seed, _ROUNDS_KEY, self.step))
        rounds = int(rng.integers(1, config.rounds + 1)) if config.vary_rounds else config.rounds
        focuses = rng.random() < config.focus_p
        looks = rounds + focuses
        maps = self._context_maps(batch)
        # All looks see the same maps: their gradients are gathered, and go through what made the maps only once.
        shown = None if maps is None else maps.detach().requires_grad_()
        for index in range(rounds):
            if logits is not None:
                batch = self._correct(batch, truth, logits, index)
            logits = previous = self._look(batch, previous, shown, looks, values, name=str(index + 1))
        if focuses and logits is not None:
            second = second_look(batch, logits, self._generators(batch, rounds))
            self._look(second.batch, second.logits, _part(shown, second), looks, values, name="focus")
        if maps is not None and maps.requires_grad and shown is not None:
            maps.backward(shown.grad)
        self.group.average_gradients(self.network)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        # A finite loss can have a gradient that is not; taken, such a step would poison the next checkpoint.
        self._require_finite("norm of the gradient", norm.item())
        self.optimizer.step()
        self.step += 1
        self._average()
        return values

    def _context_maps(self, batch: Batch) -> Tensor | None:
        """Compute what the context says; None in a run without, and for networks that it does not speak to in maps."""
        if not isinstance(self.network, ContextUNet) or batch.context_images is None:
            return None
        # Networks may draw which patches they learn from; a continued run draws the same.
        with torch.random.fork_rng(devices=[]), self._mixed_precision():
            torch.default_generator.manual_seed(self.config.seed + self.step)
            context = self.network.encode_context(batch.context_images, cast(Tensor, batch.context_masks))
            return self.network.context_maps(batch.images, context)

    def _look(
        self,
        batch: Batch,
        previous: Tensor | None,
        maps: Tensor | None,
        looks: int,
        values: dict[str, float],
        *,
        name: str,
    ) -> Tensor:
        """Predict and differentiate one of a step's looks; gradients do not flow into the previous one."""
        config = self.config
        encoded = batch.encode(previous).contiguous(memory_format=torch.channels_last)
        with self._mixed_precision():
            logits: Tensor
            if maps is not None:
                logits = self.network(encoded, maps)
            elif batch.context_images is not None:
                network = cast(InContextNetwork, self.network)
                context = network.encode_context(batch.context_images, cast(Tensor, batch.context_masks))
                logits = network(encoded, context)
            else:
                logits = self.network(encoded)
        loss = segmentation_loss(logits, batch.masks, gamma=config.focal_gamma, focal_weight=config.focal_weight)
        self._require_finite("loss", loss.item())
        (loss / looks).backward()
        logits = logits.detach().float()
        values[f"loss_{name}"] = loss.item()
        values[f"dice_{name}"] = _mean_dice(logits > 0, batch.masks > 0.5)
        return logits

    def _mixed_precision(self) -> torch.autocast:
        return torch.autocast(self.group.device.type, dtype=torch.bfloat16, enabled=self._autocast)

    def _require_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"The {name} became {value} at step {self.step + 1}. The checkpoint of an earlier step is intact. "
                "Train anew, in another folder, with a lower learning rate or gradient clip."
            )

    def _correct(self, batch: Batch, truth: np.ndarray[Any, Any], logits: Tensor, index: int) -> Batch:
        """Let the user correct every sample; as its first prompts, these depend on the sample's number alone."""
        predicted = (logits[:, 0] > 0).cpu().numpy()
        prompts = [
            simulate_corrections(before, mask, prediction, rng, config=self.config.user)
            for before, mask, prediction, rng in zip(
                batch.prompts, truth, predicted, self._generators(batch, index), strict=True
            )
        ]
        return replace(batch, prompts=prompts)

    def _generators(self, batch: Batch, index: int) -> list[np.random.Generator]:
        """Give every sample a generator for one of its looks."""
        share = len(batch.prompts)
        first = self.step * self.config.batch_size + self.group.rank * share
        return [np.random.default_rng((self.config.seed, number, index)) for number in range(first, first + share)]

    @torch.no_grad()
    def _average(self) -> None:
        # The decay grows with the steps, so that the random start is forgotten quickly.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            self.averaged[name].lerp_(value, 1.0 - decay)

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "config": config_to_dict(self.config),
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "unreported": self.means.values,
        }
        save_checkpoint(self.path, state)

    def _restore(self) -> None:
        state = load_checkpoint(self.path)
        check_same_run(state, self.config, self.path)
        self.step = int(state["step"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = {name: value.to(self.group.device) for name, value in state["averaged"].items()}
        self.means.values = state.get("unreported", {})  # checkpoints of earlier versions lack it


class _Means:
    """Means of what the steps since the last report measured; not every step has every round."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        self.values.clear()
        return means


class _Log:
    """A CSV with one line for every report; continuing a run drops lines past its checkpoint."""

    def __init__(self, path: Path, step: int, config: TrainingConfig) -> None:
        looks = [*(str(index + 1) for index in range(config.rounds)), *(["focus"] if config.focus_p > 0 else [])]
        self._columns = ["step", "learning_rate"]
        self._columns += [f"{what}_{look}" for look in looks for what in ("loss", "dice")] + ["samples_per_second"]
        self._path = path
        self._rows: list[dict[str, str]] = []
        if path.exists() and step > 0:
            # What was being written when a run was killed has no end of line.
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            self._rows = [row for row in csv.DictReader(lines) if int(row["step"]) <= step]
        self._fresh = True

    def write(self, step: int, values: dict[str, float]) -> None:
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        if self._fresh:
            with (
                atomic_file(self._path, ".csv") as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, fieldnames=self._columns)
                writer.writeheader()
                writer.writerows([*self._rows, row])
            self._fresh = False
            return
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, fieldnames=self._columns).writerow(row)
        except OSError as error:
            raise FileFormatError(f"Cannot write the log {self._path}: {error.strerror}.") from error


def _part(maps: Tensor | None, second: SecondLook) -> Tensor | None:
    """Show the context's maps where the second look is."""
    if maps is None:
        return None
    size = second.logits.shape[-1]
    parts = []
    for index, region in enumerate(second.regions):
        rows, columns = ((start / second.side, stop / second.side) for start, stop in region)
        parts.append(crop_maps(maps[index : index + 1], rows, columns, size))
    return torch.cat(parts)


def _require_context(network: nn.Module, config: TrainingConfig) -> None:
    """Refuse contexts for networks that take none, and second looks at contexts that cannot be shown in part."""
    if config.data.context.max_size == 0:
        return
    if not hasattr(network, "encode_context"):
        raise ConfigError(
            f"The network {config.network.name} takes no context set; train context_unet or multiverseg, or set "
            "data.context.max_size to 0."
        )
    if not hasattr(network, "context_maps") and config.focus_p > 0:
        raise ConfigError(
            f"The network {config.network.name} sees its context set on whole images only; set focus_p to 0."
        )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Give the learning rate of a step: linear warm-up, then a cosine down to the final rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.final_learning_rate + share * (config.learning_rate - config.final_learning_rate)


def _loader(
    sets: Sequence[SegmentationSet], config: TrainingConfig, group: Processes, step: int, workers: int
) -> DataLoader[Any]:
    """Load the batches that remain, this process's share of each."""
    if workers < 0:
        raise ConfigError(f"workers must be at least 0, got {workers}.")
    if config.batch_size % group.count:
        raise ConfigError(f"batch_size {config.batch_size} does not divide among {group.count} processes.")
    share = config.batch_size // group.count
    batches = [
        list(range(first + group.rank * share, first + (group.rank + 1) * share))
        for first in range(step * config.batch_size, config.steps * config.batch_size, config.batch_size)
    ]
    return DataLoader(
        SampleDataset(sets, config),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_calm_worker,
        prefetch_factor=4 if workers else None,
        # Samples have generators of their own; this one only keeps torch from drawing from the caller's.
        generator=torch.Generator().manual_seed(config.seed),
    )


def _calm_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches all processes of a terminal; the one that trains finishes its step and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _mean_dice(prediction: Tensor, truth: Tensor) -> float:
    overlap = (prediction & truth).flatten(1).sum(dim=1)
    total = prediction.flatten(1).sum(dim=1) + truth.flatten(1).sum(dim=1)
    return float((2.0 * overlap / total.clamp(min=1)).mean())


def _use_bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return has_bfloat16_units()
