"""What the user did not correct is to stay: a departure from the paper.

Scribbles lie only where the network was wrong. Weights that follow them alone change what was right, too; the distance
of the weights from the pretrained ones (equation 2) hardly tells how far the prediction has moved. So the prediction
itself is held: by its Kullback-Leibler divergence from the pretrained one, on pixels of which that was sure, and which
are not near a scribble.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from scribblesegment.refinement.lagrangian import RefinementConfig


@dataclass(frozen=True, eq=False)
class Anchor:
    """The pretrained prediction of a window, and how much each pixel of it counts.

    Attributes:
        log_probabilities: float32 (labels, *patch).
        weights: float32 (*patch), 0 or above, 1 in sum, or 0 where there is nothing to hold.
    """

    log_probabilities: Tensor
    weights: Tensor

    @classmethod
    def of(cls, logits: Tensor, positions: Tensor, known_labels: int, config: RefinementConfig) -> Anchor:
        """Hold a prediction.

        Args:
            logits: (1, labels, *patch), the pretrained class logits.
            positions: (n, ndim) int64, the scribbled pixels.
            known_labels: Number of the network's own labels: a prediction of an added one holds nothing.
            config: From which confidence, and how far from scribbles, pixels are held.
        """
        log_probabilities = logits[0].detach().float().log_softmax(dim=0)
        confidence, labels = log_probabilities.max(dim=0)
        held = (confidence.exp() >= config.anchor_confidence) & (labels < known_labels)
        if len(positions):
            unmarked = np.ones(tuple(labels.shape), dtype=bool)
            unmarked[tuple(positions.cpu().numpy().T)] = False
            far = distance_transform_edt(unmarked) > config.anchor_distance
            held &= torch.from_numpy(np.asarray(far)).to(held.device)
        # Every label counts the same, or the background would be all that is held.
        counts = torch.bincount(labels[held], minlength=len(log_probabilities)).float()
        weights = held / (counts.clamp_min(1.0)[labels] * (counts > 0).sum().clamp_min(1))
        return cls(log_probabilities, weights)

    def divergence(self, logits: Tensor) -> Tensor:
        """Give the weighted mean divergence of a prediction, (1, labels, *patch) class logits, from the held one."""
        now = logits[0].float().log_softmax(dim=0)
        distance = (self.log_probabilities.exp() * (self.log_probabilities - now)).sum(dim=0)
        return (distance * self.weights).sum()
