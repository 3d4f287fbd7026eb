"""What a training run is made of, read from JSON with unknown fields refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from scribblesegment.errors import ConfigError
from scribblesegment.simulation.user import SimulatedUserConfig

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of image and mask before prompts are simulated (ScribblePrompt, appendix D, table 6).

    The table is printed as an image in the source document; the ranges are those of the same family of augmentations
    in MultiverSeg, table 5 (b). Each `*_p` is the probability of one change.

    Attributes:
        affine_p: Rotation, translation and scale together.
        degrees: Range of rotation.
        translate: Largest shift as a fraction of the side, per axis.
        scale: Range of magnification.
        elastic_p: Elastic deformation.
        elastic_alpha: Range of its strength.
        elastic_sigma: Range of its smoothness in pixels.
        brightness_contrast_p: Brightness and contrast together.
        brightness: Range added to intensities in [0, 1].
        contrast: Range of the factor around the mean.
        gamma_p: Gamma curve (not in the table; zero switches it off).
        gamma: Range of the exponent.
        blur_p: Gaussian blur.
        blur_sigma: Range in pixels of the image at twice the grid's resolution.
        noise_p: Gaussian noise.
        noise_mean: Range of its mean.
        noise_std: Range of its standard deviation, at twice the grid's resolution; the grid's is half.
        sharpness_p: Sharpening or smoothing.
        sharpness: Largest factor; 1 keeps the image, 0 smooths.
        flip_p: Each of the two flips.
        invert_p: Inversion of intensities.
    """

    affine_p: float = 0.5
    degrees: tuple[float, float] = (0.0, 360.0)
    translate: float = 0.2
    scale: tuple[float, float] = (0.8, 1.1)
    elastic_p: float = 0.5
    elastic_alpha: tuple[float, float] = (1.0, 2.0)
    elastic_sigma: tuple[float, float] = (6.0, 8.0)
    brightness_contrast_p: float = 0.5
    brightness: tuple[float, float] = (-0.1, 0.1)
    contrast: tuple[float, float] = (0.8, 1.2)
    gamma_p: float = 0.0
    gamma: tuple[float, float] = (0.7, 1.5)
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 1.1)
    noise_p: float = 0.5
    noise_mean: tuple[float, float] = (0.0, 0.05)
    noise_std: tuple[float, float] = (0.0, 0.05)
    sharpness_p: float = 0.5
    sharpness: float = 5.0
    flip_p: float = 0.5
    invert_p: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that change no image as described.

        Raises:
            ConfigError: Naming the field and its value.
        """
        _require_fractions(self, *(entry.name for entry in dataclasses.fields(self) if entry.name.endswith("_p")))
        _require_ranges(self, "degrees", "brightness", "noise_mean")
        _require_ranges(
            self, "elastic_alpha", "elastic_sigma", "contrast", "gamma", "blur_sigma", "noise_std", lowest=0
        )
        _require_ranges(self, "scale", lowest=0.01)
        _require_at_least(0, self, "translate", "sharpness")


@dataclass(frozen=True)
class ContextConfig:
    """Context sets that samples come with (MultiverSeg, section 3.3 and appendix B).

    Attributes:
        max_size: Largest number of entries; every step draws one from 0 to this (published: 64). 0 trains without.
        copy_p: Chance that all entries of a real label's context are copies of its image, each deformed on its own, and
            not other images; superpixels and synthetic images have no others.
        neighbour_p: Chance that an entry is a slice near the target's, where the set has some.
        reach: Farthest slice that counts as near.
        silent_p: Chance that the first look has the context alone, and no prompts.
        previous_p: Chance that such a look has the mask of a context entry as previous prediction, as propagation from
            slice to slice gives it.
        edges_p: Chance that the task is the border of the structure instead (published: 0.5).
        within: Changes of every example of a task on its own (table 5 (a)).
        of_copies: Changes of copies, which have nothing else that tells them apart (table 4).
    """

    max_size: int = 0
    copy_p: float = 0.1
    neighbour_p: float = 0.5
    reach: int = 12
    silent_p: float = 0.5
    previous_p: float = 0.4
    edges_p: float = 0.05
    within: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(
            affine_p=0.25,
            degrees=(-25.0, 25.0),
            translate=0.1,
            scale=(0.9, 1.1),
            elastic_p=0.8,
            elastic_alpha=(1.0, 2.5),
            elastic_sigma=(7.0, 9.0),
            brightness_contrast_p=0.25,
            contrast=(0.5, 1.5),
            sharpness_p=0.25,
            blur_p=0.25,
            blur_sigma=(0.1, 1.0),
            noise_p=0.25,
            flip_p=0.0,
        )
    )
    of_copies: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(
            affine_p=0.8,
            degrees=(-25.0, 25.0),
            translate=0.2,
            scale=(0.9, 1.5),
            elastic_p=0.8,
            elastic_alpha=(1.0, 10.0),
            elastic_sigma=(8.0, 15.0),
            contrast=(0.5, 1.5),
            blur_sigma=(0.1, 1.5),
        )
    )

    def __post_init__(self) -> None:
        """Refuse values no context can be drawn with.

        Raises:
            ConfigError: Naming the field and its value.
        """
        _require_fractions(self, "copy_p", "neighbour_p", "silent_p", "previous_p", "edges_p")
        _require_at_least(0, self, "max_size")
        _require_at_least(1, self, "reach")


@dataclass(frozen=True)
class DataConfig:
    """Which images are drawn, and how.

    Attributes:
        exclude: Names of sets left out.
        synthetic_p: Chance that a superpixel replaces the real label (appendix B.3).
        superpixel_scale: Range of Felzenszwalb's scale.
        superpixel_area_power: Superpixels are drawn in proportion to their area to this power.
        superpixel_variants: Different superpixel maps kept for each image.
        superpixel_union_p: Chance that a superpixel is united with others of its image, which need not touch it.
        shapes_p: Chance that image and structure are synthetic altogether (`synthesis`).
        shapes_pool: Different synthetic images; each is kept and augmented anew whenever it is drawn.
        modality_balance: 0 draws all sets alike, 1 all modalities alike and then their sets; between, a mixture.
        union_p: Chance that a real label is united with some of the other labels of its image.
        min_area: Fewest pixels of a structure on the network's grid.
        augmentation: Changes of image and mask; of all examples of a task alike where there is a context.
        context: Context sets.
    """

    exclude: tuple[str, ...] = ()
    synthetic_p: float = 0.5
    superpixel_scale: tuple[float, float] = (1.0, 500.0)
    superpixel_area_power: float = 0.0
    superpixel_variants: int = 4
    superpixel_union_p: float = 0.0
    shapes_p: float = 0.0
    shapes_pool: int = 1000
    modality_balance: float = 0.0
    union_p: float = 0.0
    min_area: int = 16
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    context: ContextConfig = field(default_factory=ContextConfig)

    def __post_init__(self) -> None:
        """Refuse values no sample can be drawn with.

        Raises:
            ConfigError: Naming the field and its value.
        """
        _require_fractions(self, "synthetic_p", "superpixel_union_p", "shapes_p", "modality_balance", "union_p")
        _require_ranges(self, "superpixel_scale", lowest=0)
        _require_at_least(1, self, "superpixel_variants", "shapes_pool", "min_area")


@dataclass(frozen=True)
class NetworkConfig:
    """Which network of the factory is trained, and its options."""

    name: str = "scribble_unet"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Attributes:
        seed: Seed of parameters, samples and prompts.
        size: Side of the network's grid in pixels.
        steps: Optimiser steps.
        batch_size: Samples a step, over all processes.
        rounds: Predictions a sample: the first and its corrections (the paper trains with five).
        vary_rounds: Whether each step draws its number of rounds from 1 to `rounds`.
        focus_p: Chance that a step ends with a second look at finer pixels, as `Predictor` takes one.
        learning_rate: Peak rate; warmed up linearly, then lowered by a cosine to `final_learning_rate`.
        final_learning_rate: Rate at the last step.
        warmup_steps: Steps of linear warm-up.
        gradient_clip: Largest gradient norm.
        focal_gamma: Focusing exponent of the focal loss.
        focal_weight: Weight of the focal loss beside the Dice loss.
        ema_decay: Decay of the averaged parameters, which are the ones exported; zero keeps the last ones.
        precision: "bfloat16", "float32", or "auto" (bfloat16 where the hardware has matrix units for it).
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between log lines.
        initial_weights: Weights file that the run starts from (same network); empty for fresh parameters.
        network: The network.
        data: The samples.
        user: The simulated user.
    """

    seed: int = 0
    size: int = 128
    steps: int = 100_000
    batch_size: int = 8
    rounds: int = 5
    vary_rounds: bool = False
    focus_p: float = 0.0
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-4
    warmup_steps: int = 0
    gradient_clip: float = 1.0
    focal_gamma: float = 20.0
    focal_weight: float = 1.0
    ema_decay: float = 0.999
    precision: str = "auto"
    checkpoint_every: int = 500
    log_every: int = 20
    initial_weights: str = ""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    user: SimulatedUserConfig = field(default_factory=SimulatedUserConfig)

    def __post_init__(self) -> None:
        """Refuse values no run can use.

        Raises:
            ConfigError: Naming the field and its value.
        """
        _require_at_least(1, self, "steps", "batch_size", "rounds", "checkpoint_every", "log_every")
        _require_at_least(2, self, "size")
        _require_fractions(self, "focus_p")
        _require_at_least(0, self, "seed", "final_learning_rate", "warmup_steps", "focal_gamma", "focal_weight")
        for name in ("learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.precision not in ("auto", "bfloat16", "float32"):
            raise ConfigError(f"precision is auto, bfloat16 or float32, got {self.precision!r}.")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(f"ema_decay must be in [0, 1), got {self.ema_decay}.")


def load_config(path: str | Path) -> TrainingConfig:
    """Read a configuration from a JSON file; errors as in `read_config`."""
    return read_config(path, TrainingConfig)


def read_config(path: str | Path, kind: type[ConfigT]) -> ConfigT:
    """Read a configuration of another kind, a frozen dataclass, from a JSON file.

    Raises:
        ConfigError: If the file cannot be read, is no JSON object, names unknown fields, or a value is refused.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise ConfigError(f"The configuration {path} is not valid JSON: {error}.") from error
    return _build(kind, values, "")


def config_from_dict(values: Mapping[str, Any]) -> TrainingConfig:
    """Build a configuration from plain values, as `config_to_dict` gives them.

    Raises:
        ConfigError: If a field is unknown or its value is refused; the message names it.
    """
    return _build(TrainingConfig, values, "")


def config_to_dict(config: TrainingConfig) -> dict[str, Any]:
    """Give the configuration as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def differing_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the fields in which two plain configurations differ, as "field: old -> new"."""
    differences: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            differences += differing_fields(before, after, f"{prefix}{key}.")
        elif before != after:
            differences.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return differences


def _build(kind: type[ConfigT], values: Any, prefix: str) -> ConfigT:
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "The configuration"
        raise ConfigError(f"{name} must be a JSON object, got {type(values).__name__}.")
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        names = ", ".join(prefix + name for name in unknown)
        raise ConfigError(f"Unknown fields: {names}. Known here: {', '.join(sorted(hints))}.")
    return kind(**{name: _convert(value, hints[name], prefix + name) for name, value in values.items()})


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Give a JSON value the type of its field: an object becomes a configuration, a list a tuple."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{name}.")
    kinds = get_args(hint)
    if get_origin(hint) is tuple:
        if isinstance(value, list | tuple):
            entries = kinds[:1] * len(value) if Ellipsis in kinds else kinds
            if len(entries) == len(value):
                return tuple(_convert(entry, kind, name) for entry, kind in zip(value, entries, strict=True))
        expected = "a list" if Ellipsis in kinds else f"a list of {len(kinds)} values"
        raise ConfigError(f"{name} must be {expected}, got {value!r}.")
    if value is None and type(None) in kinds:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is bool:
        fits, expected = isinstance(value, bool), "true or false"
    elif hint is float:
        fits, expected = is_number and math.isfinite(value), "a number"
    elif hint is int or int in kinds:
        fits, expected = is_number and isinstance(value, int), "a whole number"
    elif hint is str:
        fits, expected = isinstance(value, str), "a text"
    else:
        fits, expected = isinstance(value, Mapping), "a JSON object"
    if not fits:
        raise ConfigError(f"{name} must be {expected}, got {value!r}.")
    return value


def _require_at_least(least: float, config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} must be at least {least}, got {getattr(config, name)}.")


def _require_fractions(config: object, *names: str) -> None:
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ConfigError(f"{name} is a probability between 0 and 1, got {getattr(config, name)}.")


def _require_ranges(config: object, *names: str, lowest: float = -math.inf) -> None:
    for name in names:
        low, high = getattr(config, name)
        if not lowest <= low <= high:
            raise ConfigError(f"{name} must be a range [low, high] with {lowest} <= low <= high, got {[low, high]}.")
