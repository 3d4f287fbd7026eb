"""Methods that correct a segmentation with several labels, round by round, on one image.

All are given every mark so far: the refinement of the network's last layers, marks painted into its result, and
interactive segmentation of each structure by the embedded network, in the manner of ScribblePrompt.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.masks import resolve_labels
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_network import PlainUNet, normalised
from scribblesegment.evaluation.correction_user import INPUTS, as_prompt_masks
from scribblesegment.evaluation.stepwise import PIXEL_MM, SlicePredictor
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.refiner import Refiner
from scribblesegment.refinement.region_growing import GrowthConfig, grow_scribbles
from scribblesegment.simulation.fields import FloatArray

KINDS = ("refinement", "painting", "interactive", "interactive from the result")
BASES = ("ours", "paper")

LabelMap = NDArray[np.int16]

# Logit of a mask that is fed back as if a network had given it.
_SURE = 4.0


@dataclass(frozen=True)
class Variant:
    """One method of the study.

    Attributes:
        name: For tables and pictures.
        kind: One of `KINDS`.
        growing: Whether scribbles are grown before the refinement.
        base: One of `BASES`: which configuration of the refinement the options change.
        options: Fields of `RefinementConfig`.
        inputs: One of `correction_user.INPUTS`.
        length: Most pixels along a scribble; 0 keeps the user's habit.

    Raises:
        ConfigError: If a value is refused.
    """

    name: str
    kind: str = "refinement"
    growing: bool = True
    base: str = "ours"
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = "scribbles"
    length: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no method."""
        for value, known in ((self.kind, KINDS), (self.base, BASES), (self.inputs, INPUTS)):
            if value not in known:
                raise ConfigError(f"{self.name}: {value!r} is none of {', '.join(known)}.")
        known_options = {entry.name for entry in dataclasses.fields(RefinementConfig)}
        if not set(self.options) <= known_options:
            unknown = ", ".join(sorted(set(self.options) - known_options))
            raise ConfigError(f"{self.name}: unknown options {unknown}. Known: {', '.join(sorted(known_options))}.")
        if self.length < 0:
            raise ConfigError(f"{self.name}: length is at least 0, got {self.length}.")

    def refinement(self, ours: RefinementConfig) -> RefinementConfig:
        """Give the configuration, from that of the study."""
        base = RefinementConfig.paper(layers=ours.layers) if self.base == "paper" else ours
        return dataclasses.replace(base, **self.options)


@dataclass(frozen=True, eq=False)
class Corrected:
    """What a method made of the marks so far.

    Attributes:
        labels: int16 (H, W).
        seconds: Of this correction.
        iterations: Of the refinement; 0 for other methods.
        satisfied: Whether every mark is followed.
        violations: Drawn pixels that are not followed.
        g: The constraint at the end; 0 if it holds. NaN for other methods.
        stopped: Why the refinement ended; empty for other methods.
        marked: Pixels that were constraints, with what was grown.
    """

    labels: LabelMap
    seconds: float
    iterations: int = 0
    satisfied: bool = True
    violations: int = 0
    g: float = float("nan")
    stopped: str = ""
    marked: int = 0


class CorrectionMethod(Protocol):
    """A method on one image."""

    def start(self) -> LabelMap:
        """Give the segmentation that the user corrects first; -1 where nothing is said."""

    def correct(self, scribbles: LabelScribbles) -> Corrected:
        """Segment anew from all marks so far."""


class Refinement:
    """The network's last layers are refined until its prediction agrees with the marks."""

    def __init__(
        self, network: PlainUNet, image: FloatArray, config: RefinementConfig, growth: GrowthConfig | None
    ) -> None:
        """Take an image (H, W) in [0, 1]."""
        self._image, self._growth = image, growth
        self._refiner = Refiner(network, torch.from_numpy(normalised(image)), config=config)

    def start(self) -> LabelMap:
        """See `CorrectionMethod`."""
        return np.asarray(self._refiner.infer().argmax(axis=0), dtype=np.int16)

    def correct(self, scribbles: LabelScribbles) -> Corrected:
        """See `CorrectionMethod`."""
        started = time.perf_counter()
        grown = None
        if self._growth is not None:
            grown = grow_scribbles(self._image, scribbles, self._growth, spacing_mm=PIXEL_MM)
        result = self._refiner.refine(scribbles, grown=grown)
        seconds = time.perf_counter() - started
        return Corrected(
            result.labels,
            seconds,
            result.iterations,
            result.satisfied,
            int(np.count_nonzero(result.violations)),
            result.g_history[-1] if result.g_history else 0.0,
            result.stopped,
            (grown or scribbles).count,
        )


class Painting:
    """The marks are painted into the network's result, and nothing else."""

    def __init__(self, labels: LabelMap) -> None:
        """Take the network's result (H, W)."""
        self._labels = labels

    @classmethod
    def of(cls, network: PlainUNet, image: FloatArray) -> Painting:
        """Ask a network for its result on an image (H, W) in [0, 1]."""
        with torch.inference_mode():
            logits = network(torch.from_numpy(normalised(image))[None])[0]
        return cls(logits.argmax(dim=0).numpy().astype(np.int16))

    def start(self) -> LabelMap:
        """See `CorrectionMethod`."""
        return self._labels

    def correct(self, scribbles: LabelScribbles) -> Corrected:
        """See `CorrectionMethod`."""
        labels = np.where(scribbles.marked, scribbles.labels, self._labels)
        return Corrected(np.asarray(labels, dtype=np.int16), 0.0, marked=scribbles.count)


class Interactive:
    """Every structure is segmented by an interactive network from the same marks, one prediction for each.

    A structure's own marks are positive, those of all other labels negative, and its last logits are fed back. A pixel
    gets the most probable structure, and is background where none has a probability of one half. A structure without
    a mark of its own stays what it was.
    """

    def __init__(self, predictor: SlicePredictor, image: FloatArray, first: LabelMap | None, outputs: int) -> None:
        """Take an image (H, W) in [0, 1].

        Args:
            predictor: Segments one structure; it serves this image only while this object lives.
            image: The image.
            first: What is corrected: the result of the network that failed; or None: it starts with nothing, and what
                the user sees first is -1 everywhere, so that every label, the background too, gets a mark.
            outputs: Number of labels, the background among them.
        """
        predictor.set_image(image, spacing_mm=PIXEL_MM)
        self._predictor = predictor
        self._first = np.full(image.shape, -1, dtype=np.int16) if first is None else first
        self._knows = first is not None
        self._logits = {
            label: np.where(self._first == label, _SURE, -_SURE).astype(np.float32) for label in range(1, outputs)
        }

    def start(self) -> LabelMap:
        """See `CorrectionMethod`."""
        return self._first

    def correct(self, scribbles: LabelScribbles) -> Corrected:
        """See `CorrectionMethod`."""
        started = time.perf_counter()
        for label, before in self._logits.items():
            on, off = as_prompt_masks(scribbles, label)
            if on.any():
                prompts = Prompts.empty(scribbles.shape).with_scribble(on)
                if off.any():
                    prompts = prompts.with_scribble(off, positive=False)
                if self._knows:
                    prompts = prompts.with_mask_input(before)
                self._logits[label] = self._predictor.predict(prompts).logits
            elif off.any():
                self._logits[label] = np.where(off, np.float32(-_SURE), before)
        self._knows = True
        labels = resolve_labels(np.stack(list(self._logits.values()))).astype(np.int16)
        violations = int(np.count_nonzero((labels != scribbles.labels) & scribbles.marked))
        seconds = time.perf_counter() - started
        return Corrected(labels, seconds, 0, violations == 0, violations, marked=scribbles.count)
