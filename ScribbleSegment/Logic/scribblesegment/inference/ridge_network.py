"""The embedded network behind `Predictor`: with torch where that is there, in NumPy where it is not.

An image is encoded once, and so is each entry of a context, whatever the number of predictions; what a context says of
an image is computed once for both.
"""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.prompts import Prompts
from scribblesegment.inference.devices import ExecutionPlan, NumpyThreads, compute, prepare, resolve_device
from scribblesegment.inference.predictor import Network
from scribblesegment.models.ridge_unet_numpy import (
    BOX,
    IMAGE,
    NEGATIVE,
    POSITIVE,
    PREVIOUS,
    RidgeUNetNumpy,
)

if TYPE_CHECKING:
    from scribblesegment.models.ridge_unet import RidgeUNet

FloatArray = NDArray[np.float32]

_ATTENDED = 3  # entries whose masks are carried over place by place; all speak for the rest. With 6 Dice is the same
_KEPT_ENTRIES = 512  # encoded ones, some 150 kB each
_CLICK_RADIUS = 1.14  # on a grid of 192
# Added to logits where all that is known is a box: fitted on 96 training images, boxes with margins of 0 to 30 %.
_BOX_ALONE = np.float32(0.5)


class EncodedImage(NamedTuple):
    """An image on a grid and its features."""

    image: FloatArray  # (size, size)
    features: Any


def draw_prompts(image: FloatArray, prompts: Prompts, temperature: float = 1.0) -> FloatArray:
    """Draw an image and prompts on its grid as the network's channels, (5, size, size)."""
    size = len(image)
    drawn = np.zeros((5, size, size), np.float32)
    drawn[IMAGE] = image
    drawn[POSITIVE : NEGATIVE + 1] = prompts.scribbles
    reach = _CLICK_RADIUS * size / 192
    rows, columns = np.ogrid[:size, :size]
    for (row, column), label in zip(prompts.point_coords.tolist(), prompts.point_labels.tolist(), strict=True):
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= reach**2
        drawn[POSITIVE if label else NEGATIVE, disc] = 1.0
    for (top, left), (bottom, right) in prompts.boxes.tolist():
        drawn[BOX, top:bottom, left:right] = 1.0
    if prompts.mask_input is not None:
        drawn[PREVIOUS] = prompts.mask_input * np.float32(temperature)
    return drawn


class NumpyEngine:
    """Computes with NumPy."""

    def __init__(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        self._network, self._threads = RidgeUNetNumpy(parameters), NumpyThreads()

    def encode(self, image: FloatArray) -> Any:
        """Encode an image (size, size)."""
        return self._threads.run(lambda: self._network.encode(image))

    def entry(self, features: Any, mask: FloatArray) -> Any:
        """Make a context entry of an encoded image and its mask."""
        return self._network.entry(features, mask)

    def evidence(self, features: Any, entries: Sequence[Any]) -> Any:
        """Compute what entries say of an encoded image."""
        return self._network.evidence(features, entries, most=_ATTENDED)

    def cropped(self, evidence: Any, rows: tuple[float, float], columns: tuple[float, float], size: int) -> Any:
        """Give what entries say of a part of the image."""
        return evidence._replace(
            carried=crop_map(evidence.carried, rows, columns, size // 2),
            heard=crop_map(evidence.heard, rows, columns, size // 16),
        )

    def decode(self, features: Any, prompts: FloatArray, evidence: Any) -> tuple[FloatArray, float]:
        """Predict logits (size, size), and the logit of the structure being there at all."""
        return self._threads.run(lambda: self._network.decode(features, prompts, evidence))


def crop_map(values: FloatArray, rows: tuple[float, float], columns: tuple[float, float], size: int) -> FloatArray:
    """Resample a part of (H, W, C) to (size, size, C), linearly.

    The part is from start to stop as fractions of height and width; beyond the map its border continues.
    """
    for axis, (start, stop) in enumerate((rows, columns)):
        length = values.shape[axis]
        places = (start + (stop - start) * (np.arange(size) + 0.5) / size) * length - 0.5
        places = places.clip(0, length - 1)
        lower = np.minimum(places.astype(int), max(length - 2, 0))
        share = (places - lower).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        upper = np.minimum(lower + 1, length - 1)
        values = values.take(lower, axis) * (1 - share) + values.take(upper, axis) * share
    return values


class TorchEngine:
    """Computes with torch, as a plan says."""

    def __init__(self, network: RidgeUNet, plan: ExecutionPlan) -> None:
        # Parts of it need float32, so bfloat16 is for autocast to give.
        self._plan, self._bfloat16 = dataclasses.replace(plan, bfloat16=False), plan.bfloat16
        self._network: Any = prepare(network, self._plan)

    def encode(self, image: FloatArray) -> Any:
        """Encode an image (size, size)."""
        return self._computed(self._network.encode, image[None, None])

    def entry(self, features: Any, mask: FloatArray) -> Any:
        """Make a context entry of an encoded image and its mask."""
        return self._computed(lambda masks: self._network.entries(features, masks), mask[None, None])

    def evidence(self, features: Any, entries: Sequence[Any]) -> Any:
        """Compute what entries say of an encoded image."""
        import torch

        from scribblesegment.models.ridge_unet import Entries

        joined = Entries(*(torch.cat(parts, dim=1) for parts in zip(*entries, strict=True)))
        return self._computed(lambda: self._network.evidence(features, joined, most=_ATTENDED))

    def cropped(self, evidence: Any, rows: tuple[float, float], columns: tuple[float, float], size: int) -> Any:
        """Give what entries say of a part of the image."""
        from scribblesegment.models.context_unet import crop_maps

        carried, heard = self._computed(
            lambda: (
                crop_maps(evidence.carried, rows, columns, size // 2),
                crop_maps(evidence.heard, rows, columns, size // 16),
            )
        )
        return evidence._replace(carried=carried, heard=heard)

    def decode(self, features: Any, prompts: FloatArray, evidence: Any) -> tuple[FloatArray, float]:
        """Predict logits (size, size), and the logit of the structure being there at all."""
        output = self._computed(lambda drawn: self._network.decode(features, drawn, evidence), prompts[None])
        return output.logits[0, 0].cpu().numpy(), float(output.presence)

    def _computed(self, function: Callable[..., Any], *arrays: FloatArray) -> Any:
        import torch

        with torch.autocast(torch.device(self._plan.device).type, torch.bfloat16, enabled=self._bfloat16):
            return compute(function, self._plan, *map(torch.tensor, arrays))


def milliseconds_of_a_prediction(device: str | None = None) -> float:
    """Time the network that runs by NumPy alone: the median of five predictions for new slices.

    Args:
        device: Where torch computes; None for NumPy.

    Raises:
        WeightsError: Its file is missing or damaged.
    """
    from scribblesegment.weights.checkpoints import load_arrays, load_network
    from scribblesegment.weights.registry import default_weights, weights_file

    path = weights_file(default_weights(torch=False))
    module, description = load_arrays(path) if device is None else load_network(path)
    network = Network.described(module, description, device=device or "cpu")
    image = np.linspace(0, 1, network.size**2, dtype=np.float32).reshape(network.size, network.size)
    prompts = Prompts.empty(image.shape).with_click((network.size // 2, network.size // 2))
    times = []
    for _ in range(6):  # the first one warms up
        began = time.perf_counter()
        network.predict(network.encode_image(image), prompts)
        times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times[1:]))


class RidgeNetwork(Network):
    """The embedded network, ready to be run."""

    # In its training images were enlarged a little at most; with a context it is better on enlarged ones all the same
    # (docs/decisions/0008).
    least_cell = 0.67

    def _make_ready(
        self, module: RidgeUNet | Mapping[str, NDArray[Any]], device: str, plan: ExecutionPlan | None
    ) -> None:
        """Take a module, for torch, or parameters whose batch norms are folded, for NumPy.

        Nothing is measured: float32 with channels last is fast nearly everywhere, and starts at once.
        """
        self._entries: OrderedDict[str, Any] = OrderedDict()
        self.engine: NumpyEngine | TorchEngine
        if isinstance(module, Mapping):
            self.plan, self.engine = ExecutionPlan(), NumpyEngine(module)
        else:
            self.plan = plan or ExecutionPlan(resolve_device(device), channels_last=True)
            self.module, self.engine = module.eval(), TorchEngine(module, self.plan)

    def encode_image(self, image: FloatArray) -> EncodedImage:
        """Compute what depends on the image alone, (size, size) on a grid."""
        return EncodedImage(image, self.engine.encode(image))

    def encode_context(self, context: ContextSet) -> list[Any]:
        """Compute what depends on the entries of a context alone; known ones are not computed again."""
        entries = []
        for entry in context:
            key = entry.digest
            if key not in self._entries:
                image, mask = entry.on_grid(self.size)
                self._entries[key] = self.engine.entry(self.engine.encode(image), mask.astype(np.float32))
            self._entries.move_to_end(key)
            entries.append(self._entries[key])
        while len(self._entries) > _KEPT_ENTRIES:
            self._entries.popitem(last=False)
        return entries

    def match_context(self, features: EncodedImage, entries: list[Any]) -> Any:
        """Compute what a context says of an image."""
        return self.engine.evidence(features.features, entries)

    def crop_context(self, maps: Any, rows: tuple[float, float], columns: tuple[float, float], size: int) -> Any:
        """Give what a context says of a part of the image, from start to stop as fractions of its sides."""
        return self.engine.cropped(maps, rows, columns, size)

    def predict(self, features: EncodedImage, prompts: Prompts, context: Any = None) -> FloatArray:
        """Compute calibrated logits (size, size) from an encoded image and prompts on its grid."""
        drawn = draw_prompts(features.image, prompts, self.temperature)
        logits, presence = self.engine.decode(features.features, drawn, context)
        if not drawn[[POSITIVE, BOX]].any():
            # Nobody says that the structure is here.
            logits = np.minimum(logits, np.float32(presence))
        if context is None and drawn[BOX].any() and not drawn[[POSITIVE, NEGATIVE]].any():
            logits = logits + _BOX_ALONE
        return np.asarray(logits / np.float32(self.temperature), np.float32)
