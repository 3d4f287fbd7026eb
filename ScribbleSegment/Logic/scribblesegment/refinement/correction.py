"""Correcting what a network predicts for a volume, or for one slice of it: the one door for applications.

It joins the parts: a network in its own format, its way from the image to its grid and back, region growing of the
corrections, and the refinement of the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data import validation
from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import NetworkError, PromptError
from scribblesegment.inference.devices import resolve_device
from scribblesegment.refinement.adapters.base import NetworkAdapter, PreparedImage
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.refiner import Cancelled, Progress, Refined, Refiner
from scribblesegment.refinement.region_growing import GrowthConfig, grow_scribbles

# A distance between slices that no growing bridges.
_NEVER_MM = 1e9


@dataclass(frozen=True, eq=False, kw_only=True)
class CorrectionResult(Refined):
    """What a correction came to, in the shape of the image or the slice."""

    names: tuple[str, ...]  # of the labels, new ones included; the index is the label
    violation_counts: Mapping[int, int]  # number of violations by the label drawn
    grown: int  # number of pixels that region growing added to those drawn


class Correction:
    """A network and an image whose result is corrected, in as many rounds as the user likes; neither is changed."""

    def __init__(
        self,
        network: NetworkAdapter,
        volume: Volume,
        *,
        axis: int = 0,
        index: int | None = None,
        device: str = "auto",
        config: RefinementConfig | None = None,
    ) -> None:
        """Take a network and an image; nothing is computed yet.

        Args:
            network: From `scribblesegment.refinement.adapters.load_network`.
            volume: The image.
            axis: Axis of the array that a 2D network does not see.
            index: Which slice alone; None for the whole volume.
            device: "auto" or a torch device name.
            config: How to refine.

        Raises:
            DeviceError: The device cannot run a network.
            GeometryError: No such axis or slice.
        """
        self.network = network
        self._volume = volume
        self._axis, self._index = axis, index
        self._image = volume.array if index is None else volume.slice(axis, index).image
        self._spacing_mm = volume.spacing_kji_mm if index is None else volume.slice(axis, index).spacing_mm
        self._device = resolve_device(device)
        self._config = config or RefinementConfig()
        self._ready: tuple[PreparedImage, Refiner] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, (K, J, I), or of the slice, (H, W)."""
        return tuple(self._image.shape)

    def segment(self, *, progress: Progress | None = None, cancelled: Cancelled | None = None) -> NDArray[np.int16]:
        """Run the network as it is: int16 labels of the image's shape.

        Raises:
            NetworkError: The network cannot run on this image.
            CancelledError: `cancelled` returned True.
            DeviceError: Out of memory.
        """
        prepared, refiner = self._prepared(None)
        return prepared.to_labels(refiner.infer(progress=progress, cancelled=cancelled))

    def refine(
        self,
        corrections: LabelScribbles,
        *,
        names: Mapping[int, str] | None = None,
        grow: GrowthConfig | None = None,
        on_iteration: Callable[[int, float], None] | None = None,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> CorrectionResult:
        """Refine the network by all corrections drawn so far, and run it.

        Args:
            corrections: Of the image's shape.
            names: Names of the labels that the network lacks and that are to be added; others are refused.
            grow: How corrections grow into pixels like them; None to leave them as drawn.
            on_iteration: Called with the number of updates so far and g.
            progress: Called with the fraction done and what is being done.
            cancelled: Called in every iteration and for every window; True ends it.

        Raises:
            PromptError: No corrections, of another shape, or of labels that are neither the network's nor named.
            NetworkError: The network cannot run on this image, or take the new labels.
            CancelledError: `cancelled` returned True.
            DeviceError: Out of memory.
        """
        began = time.perf_counter()
        validation.same_shape(corrections.shape, self.shape, name="The corrections", error=PromptError)
        new_names = self._new_names(corrections, names or {})
        grown = corrections
        if grow is not None:
            spacing = list(self._spacing_mm)
            if self.network.ndim == 2 and self._index is None:
                # To a network that sees one slice at a time, marks on one mean nothing for the next, and every slice
                # with a mark costs time in every iteration.
                spacing[self._axis] = _NEVER_MM
            grown = grow_scribbles(self._image, corrections, grow, spacing_mm=spacing)
        prepared, refiner = self._prepared(corrections)
        result = refiner.refine(
            prepared.to_grid(corrections),
            grown=prepared.to_grid(grown),
            new_labels=bool(new_names),
            on_iteration=on_iteration,
            progress=progress,
            cancelled=cancelled,
        )
        labels = prepared.to_labels(result.logits)
        violations = corrections.marked & (labels != corrections.labels)
        drawn, counts = np.unique(corrections.labels[violations], return_counts=True)
        return CorrectionResult(
            labels=labels,
            names=(*self.network.labels, *new_names),
            violations=violations,
            violation_counts=dict(zip(drawn.tolist(), counts.tolist(), strict=True)),
            g_history=result.g_history,
            stopped=result.stopped,
            grown=grown.count - corrections.count,
            seconds=time.perf_counter() - began,
            notes=result.notes,
        )

    def _prepared(self, corrections: LabelScribbles | None) -> tuple[PreparedImage, Refiner]:
        """Prepare the image once; again for every round only where the network's input holds the scribbles."""
        if self._ready is None or self.network.takes_scribbles:
            prepared = self.network.prepare(self._volume, axis=self._axis, index=self._index, scribbles=corrections)
            refiner = Refiner(
                self.network.module,
                prepared.tensor,
                config=self._config,
                tiling=prepared.tiling,
                output=self.network.output,
                device=self._device,
            )
            if refiner.label_count != len(self.network.labels):
                raise NetworkError(
                    f"The network {self.network.name} predicts {refiner.label_count} labels, the background included, "
                    f"and {len(self.network.labels)} are named: {', '.join(self.network.labels)}. Name all of them, "
                    "the background first."
                )
            self._ready = prepared, refiner
        return self._ready

    def _new_names(self, corrections: LabelScribbles, names: Mapping[int, str]) -> list[str]:
        """Names of the labels to add, in the order of their numbers."""
        lacking = [label for label in corrections.values() if label >= len(self.network.labels)]
        unnamed = [label for label in lacking if not names.get(label, "").strip()]
        if unnamed:
            raise PromptError(
                f"The corrections ask for label {', '.join(map(str, unnamed))}, which the network "
                f"{self.network.name} does not know; its labels are {', '.join(self.network.labels)}. Name it as a new "
                "label, or draw with one of these."
            )
        return [names[label] for label in lacking]
