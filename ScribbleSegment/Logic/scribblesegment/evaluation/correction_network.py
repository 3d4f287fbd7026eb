"""A plain 2D UNet with several classes, as hospitals run it: the network that the study trains and then corrects.

Convolution, instance normalisation and leaky ReLU twice on every level, as nnU-Net configures it (Isensee et al. 2021,
nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nat Methods 18:203).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import WeightsError
from scribblesegment.io.storage import atomic_file

_SLOPE = 0.01
_METADATA_KEY = "correction_network"


class _Level(nn.Sequential):
    """Two convolutions of one level."""

    def __init__(self, before: int, after: int) -> None:
        layers: list[nn.Module] = []
        for channels in (before, after):
            layers += [
                nn.Conv2d(channels, after, 3, padding=1, bias=False),
                nn.InstanceNorm2d(after, affine=True),
                nn.LeakyReLU(_SLOPE),
            ]
        super().__init__(*layers)


class PlainUNet(nn.Module):
    """From an image (B, 1, H, W) to logits (B, K, H, W); H and W are multiples of 2 to the number of levels less one.

    Args:
        outputs: Number of classes K, the background among them.
        features: Channels of the levels, the finest first.
    """

    def __init__(self, outputs: int, features: Sequence[int] = (16, 32, 64, 128, 128)) -> None:
        super().__init__()
        self.outputs, self.features = outputs, tuple(features)
        self.encoder = nn.ModuleList(_Level(*pair) for pair in pairwise((1, *features)))
        coarse_to_fine = list(pairwise(reversed(self.features)))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(deep, fine, 2, stride=2) for deep, fine in coarse_to_fine)
        self.decoder = nn.ModuleList(_Level(2 * fine, fine) for _, fine in coarse_to_fine)
        self.output = nn.Conv2d(self.features[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        x, skipped = images, []
        for number, level in enumerate(self.encoder):
            x = level(functional.max_pool2d(x, 2) if number else x)
            skipped.append(x)
        for upsample, level, skip in zip(self.upsample, self.decoder, skipped[-2::-1], strict=True):
            x = level(torch.cat([upsample(x), skip], dim=1))
        logits: Tensor = self.output(x)
        return logits


def normalised(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give an image (H, W) as the network takes it: (1, H, W), mean 0, standard deviation 1."""
    values = image - image.mean(dtype=np.float64)
    return np.asarray(values / max(float(values.std()), 1e-6), dtype=np.float32)[None]


def save_plain_unet(path: Path, network: PlainUNet, *, labels: Sequence[str], licence: str) -> None:
    """Write parameters and what they are for as safetensors, whole or not at all.

    Raises:
        FileFormatError: If the file cannot be written.
    """
    from safetensors.torch import save_file

    description = json.dumps({"labels": list(labels), "features": list(network.features), "licence": licence})
    parameters = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    with atomic_file(path, path.suffix) as temporary:
        save_file(parameters, temporary, metadata={_METADATA_KEY: description})


def load_plain_unet(path: Path) -> tuple[PlainUNet, tuple[str, ...]]:
    """Read a network and the names of its outputs.

    Raises:
        WeightsError: If the file is missing, damaged, or none of `save_plain_unet`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[_METADATA_KEY])
            parameters = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        labels = tuple(map(str, description["labels"]))
        network = PlainUNet(len(labels), description["features"])
        network.load_state_dict(parameters)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is no network of this study: {error}. Train it again.") from error
    return network.eval(), labels
