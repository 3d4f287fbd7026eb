"""What the user did not correct is to stay: a departure from the paper.

Scribbles lie only where the network was wrong. Weights that follow them alone change what was right, too; the distance
of the weights from the pretrained ones (equation 2) hardly tells how far the prediction has moved. So the prediction
itself is held: by its Kullback-Leibler divergence from the pretrained one, on pixels of which that was sure, and which
are not near a scribble. A label that scribbles found to be wrong is trusted less: where a network misses a structure
everywhere, its background says little.
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
        weights: float32 (*patch), 0 or above, at most 1 in sum.
    """

    log_probabilities: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls,
        logits: Tensor,
        positions: Tensor,
        asked: Tensor,
        decisive: Tensor,
        known_labels: int,
        config: RefinementConfig,
    ) -> Anchor:
        """Hold a prediction.

        Args:
            logits: (1, labels, *patch), the pretrained class logits.
            positions: (n, ndim) int64, the scribbled pixels of the patch.
            asked: (n,) int64, their labels.
            decisive: (n,) bool, those that were drawn and not grown; only they tell whether a label is to be trusted.
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
        shares = 1.0 / (counts.clamp_min(1.0) * (counts > 0).sum().clamp_min(1))
        at = tuple(positions[decisive].T)
        shares = shares * _trust(labels[at], asked[decisive], len(log_probabilities), config.anchor_trust)
        return cls(log_probabilities, held * shares[labels])

    def divergence(self, logits: Tensor) -> Tensor:
        """Give the weighted mean divergence of a prediction, (1, labels, *patch) class logits, from the held one."""
        now = logits[0].float().log_softmax(dim=0)
        distance = (self.log_probabilities.exp() * (self.log_probabilities - now)).sum(dim=0)
        return (distance * self.weights).sum()


def _trust(predicted: Tensor, asked: Tensor, labels: int, pixels: float) -> Tensor:
    """Tell from scribbled pixels, (n,) int64 each, how often every label is predicted rightly: (labels,) in (0, 1].

    It begins as if so many `pixels` of each label had been found right.
    """
    total = torch.bincount(predicted, minlength=labels) + pixels
    right = torch.bincount(predicted[predicted == asked], minlength=labels) + pixels
    return right / total
