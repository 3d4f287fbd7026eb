"""Networks so small that they are made anew in every test."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallNet(nn.Module):
    """Two convolutions; logits of the image's size."""

    def __init__(self, ndim: int = 2, channels: int = 1, labels: int = 3, seed: int = 0) -> None:
        super().__init__()
        convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = convolution(channels, 4, 3, padding=1)
            self.second = convolution(4, labels, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(image)))


class Identity(nn.Module):
    """Returns its input and the negative of it as logits of two labels."""

    def __init__(self, ndim: int = 2) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((1, 1, *(1,) * ndim)))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image, -image], dim=1) + self.unused
