"""Networks trained equally briefly and compared: which one is worth a long run?"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scribblesegment.devices import choose_plan
from scribblesegment.evaluation.datasets import PREFIX
from scribblesegment.evaluation.metrics import dice, hausdorff95
from scribblesegment.evaluation.tables import csv_text, table_lines, write_text
from scribblesegment.exceptions import ConfigError
from scribblesegment.models.encoding import CHANNELS
from scribblesegment.models.factory import build_network
from scribblesegment.simulation.rounds import SimulatedUserConfig, simulate_corrections
from scribblesegment.training.checkpoint import export_network
from scribblesegment.training.config import (
    AugmentationConfig,
    DataConfig,
    NetworkConfig,
    TrainingConfig,
    config_from_dict,
)
from scribblesegment.training.datasets import SegmentationSet, load_corpus
from scribblesegment.training.loop import train
from scribblesegment.training.samples import SampleDataset, TrainingSample, collate
from scribblesegment.weights.checkpoints import load_network

TABLE, RESULTS = "table.md", "table.csv"

EXAMPLES = 200

# One centerline scribble of each sign at first, then one for a correction.
_USER = SimulatedUserConfig(
    max_interactions=1,
    min_initial_negative=1,
    scribble_weights=(0.0, 1.0, 0.0, 0.0),
    type_probabilities=(1.0, 0.0, 0.0),
    correction_scribble_probability=1.0,
)

_NO_CHANGE: dict[str, Any] = {
    entry.name: 0.0 for entry in dataclasses.fields(AugmentationConfig) if entry.name.endswith("_p")
}

# Told the network that is being trained and its finished steps.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class NetworkScore:
    """What one network reached.

    Attributes:
        network: Its name in the comparison.
        first_dice: Mean Dice after the first prompts.
        corrected_dice: Mean Dice after one correction.
        corrected_hausdorff95_px: Mean of the 95th percentile of the outlines' distances then, in pixels of the grid.
        parameters: How many it has.
        milliseconds: Time of one forward pass on the processor, run in the fastest way.
    """

    network: str
    first_dice: float
    corrected_dice: float
    corrected_hausdorff95_px: float
    parameters: int
    milliseconds: float


def read_networks(path: str | Path) -> dict[str, NetworkConfig]:
    """Read networks by name from a JSON file; each is written as in a training configuration.

    Raises:
        ConfigError: If the file cannot be read, is no JSON object, or describes no network or one that cannot be built.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the networks {path}: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise ConfigError(f"The networks {path} are not valid JSON: {error}.") from error
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(f'{path} must hold a JSON object {{"any name": {{"name": ..., "options": ...}}, ...}}.')
    networks = {}
    for name, entry in entries.items():
        try:
            networks[name] = config_from_dict({"network": entry}).network
            with torch.device("meta"):  # without the time and memory of parameters
                build_network(networks[name].name, networks[name].options)
        except ConfigError as error:
            raise ConfigError(f"{path}, {name!r}: {error}") from error
    return networks


def validation_samples(folder: str | Path, config: TrainingConfig, count: int = EXAMPLES) -> list[TrainingSample]:
    """Draw structures with their first prompts: one positive and one negative centerline scribble.

    Neither augmented nor synthetic, and the same for all configurations with the same grid and smallest area.

    Args:
        folder: Holds the sets. Those with strokes drawn by people (`medscribble_*.npz`), of another layout, are left
            out.
        config: Gives the grid's size and the smallest area of a structure.
        count: How many.

    Raises:
        ConfigError: If the count is below one.
        DatasetError: If the folder holds no set, a set is bad, or no sample can be drawn.
    """
    if count < 1:
        raise ConfigError(f"A comparison needs at least one validation example, got {count}.")
    drawn_by_people = [path.stem for path in Path(folder).glob(f"{PREFIX}*.npz")]
    plain = TrainingConfig(
        size=config.size,
        batch_size=1,
        steps=count,
        data=DataConfig(synthetic_p=0.0, min_area=config.data.min_area, augmentation=AugmentationConfig(**_NO_CHANGE)),
        user=_USER,
    )
    samples = SampleDataset(load_corpus(folder, exclude=drawn_by_people), plain)
    return [samples[index] for index in range(count)]


def compare_networks(
    networks: Mapping[str, NetworkConfig],
    corpus: Sequence[SegmentationSet],
    samples: Sequence[TrainingSample],
    config: TrainingConfig,
    output: str | Path,
    *,
    device: str = "auto",
    workers: int = 1,
    progress: Progress | None = None,
) -> list[NetworkScore]:
    """Train every network by the same configuration on the same samples, and measure it on others.

    Each has a folder of its own under `output`, in which an interrupted run continues. `table.md` and `table.csv` are
    written anew after each network.

    Args:
        networks: By any name.
        corpus: What they are trained on.
        samples: What they are measured on, from `validation_samples`.
        config: How they are trained; its own network is not used.
        output: Folder of runs and tables; made if it is missing.
        device: Where they are trained, as in `training.loop.train`. They are measured on the processor.
        workers: Processes that prepare samples.
        progress: Told of training.

    Returns:
        One score for each network, in their order.

    Raises:
        ConfigError: If names would share a folder, a network cannot be built, or a folder holds another run.
        DatasetError: If no sample can be drawn from the corpus.
        DeviceError: If the device does not compute.
        FileFormatError: If a file cannot be written.
        TrainingError: If a loss or gradient is not finite.
        WeightsError: If a checkpoint cannot be read or written.
    """
    folders = _folders(networks, Path(output))
    scores: list[NetworkScore] = []
    for name, network in networks.items():
        run = dataclasses.replace(config, network=network)

        def report(step: int, _: Mapping[str, float], name: str = name) -> None:
            if progress is not None:
                progress(name, step)

        checkpoint = train(corpus, run, folders[name], device=device, workers=workers, report=report)
        weights = folders[name] / "network.safetensors"
        export_network(checkpoint, weights, name=name)
        scores.append(_score(name, load_network(weights)[0], samples, config.size))
        _write(Path(output), scores, config, len(samples))
    return scores


def _folders(networks: Mapping[str, NetworkConfig], output: Path) -> dict[str, Path]:
    """Give every network a folder whose name all file systems take."""
    taken: dict[str, str] = {}
    for name in networks:
        folder = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        if not folder or folder in taken:
            other = f"they share the folder {folder!r} with {taken[folder]!r}" if folder else "there are none"
            raise ConfigError(f"Network {name!r} is not told apart by its letters and digits: {other}. Rename it.")
        taken[folder] = name
    return {name: output / folder for folder, name in taken.items()}


@torch.inference_mode()
def _score(name: str, network: nn.Module, samples: Sequence[TrainingSample], size: int) -> NetworkScore:
    first, corrected, distances = [], [], []
    for index, sample in enumerate(samples):
        logits = network(collate([sample]).encode(None))
        mask = (logits[0, 0] > 0).numpy()
        first.append(dice(mask, sample.mask))
        rng = np.random.default_rng((1, index))
        prompts = simulate_corrections(sample.prompts, sample.mask, mask, rng, config=_USER)
        logits = network(collate([dataclasses.replace(sample, prompts=prompts)]).encode(logits))
        mask = (logits[0, 0] > 0).numpy()
        corrected.append(dice(mask, sample.mask))
        distances.append(hausdorff95(mask, sample.mask, (1.0, 1.0)))
    plan = choose_plan(network, torch.zeros((1, CHANNELS, size, size)))
    return NetworkScore(
        name,
        float(np.mean(first)),
        float(np.mean(corrected)),
        float(np.mean(distances)),
        sum(parameter.numel() for parameter in network.parameters()),
        float("nan") if plan.milliseconds is None else plan.milliseconds,
    )


def _write(output: Path, scores: Sequence[NetworkScore], config: TrainingConfig, examples: int) -> None:
    header = ("Network", "Dice 1", "Dice 2", "HD95 2 (pixels)", "Parameters (million)", "ms")
    rows = [
        (
            score.network,
            f"{score.first_dice:.3f}",
            f"{score.corrected_dice:.3f}",
            f"{score.corrected_hausdorff95_px:.2f}",
            f"{score.parameters / 1e6:.2f}",
            f"{score.milliseconds:.1f}",
        )
        for score in scores
    ]
    lines = [
        f"{config.steps} steps of {config.batch_size} samples; means of {examples} validation examples after the first "
        "prompts (1) and after one correction (2).",
        "",
        *table_lines(header, rows),
    ]
    write_text(output / TABLE, "\n".join([*lines, ""]))
    write_text(output / RESULTS, csv_text(NetworkScore, scores))
