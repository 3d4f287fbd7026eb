"""Which slices of a first look are accepted as they are; the others then follow from them.

Slices are first predicted from the context sets alone, without knowledge of each other. Two things tell good ones from
bad ones: how sure the network is of itself, and whether the neighbouring slices show the same shape although they were
predicted by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import ConfigError


@dataclass(frozen=True)
class SliceLook:
    """What the first look found of one structure in one slice.

    Attributes:
        area: Pixels of the mask; 0 where the structure was not seen.
        confidence: How sure the network is of the mask, in [0, 1].
        overlap: Dice coefficient with the mask of the next slice, in [0, 1]; 0 if one of the two is empty.
    """

    area: int
    confidence: float
    overlap: float


@dataclass(frozen=True)
class AcceptanceConfig:
    """What is believed of the first look, and what is made anew.

    A slice's trust is its confidence, halved where the neighbouring slices show nothing of the same shape.

    Attributes:
        lesser_piece: A connected piece of the structure is left out if it has less than this part of the voxels of the
            largest one, unless the context shows that the structure has such pieces.
        bridge: So many slices in a row without the structure do not divide a piece.
        least_trust: The slices of a stretch are believed if one of them is trusted at least this much.
        near_usual: Slices inside a stretch are accepted from this part of its median trust.
        most: Of each stretch only so many of the most trusted slices are accepted; None for all.
        apart: Then they are at least this part of the stretch's length apart.
        beyond: Whether slices before the first and behind the last accepted one are made anew, to wherever the
            structure then ends; otherwise they stay as the first look found them.

    Raises:
        ConfigError: A value out of range.
    """

    lesser_piece: float = 0.25
    bridge: int = 1
    least_trust: float = 0.35
    near_usual: float = 1.0
    most: int | None = None
    apart: float = 0.0
    beyond: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("lesser_piece", "least_trust", "near_usual", "apart"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; give a part, from 0 to 1.")
        for name, value, lowest in (("bridge", self.bridge, 0), ("most", self.most, 1)):
            if value is not None and value < lowest:
                raise ConfigError(f"{name} is {value!r}; give a whole number of slices, at least {lowest}.")


def choose_accepted(looks: Sequence[SliceLook], config: AcceptanceConfig) -> dict[int, bool]:
    """Choose the slices that are accepted; propagation makes those between them anew.

    Slices that show the structure without a longer interruption are a stretch. Where a stretch ends, and between two of
    them, slices are accepted as showing nothing, which keeps propagation from going on there.

    Args:
        looks: Of all slices along the axis, in order.
        config: Settings.

    Returns:
        By ascending index whether the accepted slice shows the structure; empty if nothing is believed.
    """
    trust = _trust(looks)
    shown = np.array([look.area > 0 for look in looks], bool)
    accepted: dict[int, bool] = {}
    for stretch in _stretches(shown, config.bridge):
        if trust[stretch].max() < config.least_trust:
            continue
        inside = _trusted(stretch, trust, shown, config)
        accepted.update(dict.fromkeys(inside, True))
        if config.beyond:
            outside = range(stretch[-1] + 1, stretch[-1] + 2)  # one slice, which keeps two stretches apart
        else:
            ends = [index for index in stretch if shown[index] and not inside[0] < index < inside[-1]]
            accepted.update(dict.fromkeys(ends, True))
            outside = range(stretch[0] - 1, stretch[-1] + 2, stretch[-1] - stretch[0] + 2)
        accepted.update({index: False for index in outside if 0 <= index < len(looks)})
    while config.beyond and accepted and not accepted[max(accepted)]:
        del accepted[max(accepted)]  # behind the last stretch there is none to be kept apart from
    return dict(sorted(accepted.items()))


def _trust(looks: Sequence[SliceLook]) -> NDArray[np.float64]:
    """Trust of each slice, in [0, 1]; at the ends of the volume only one neighbour is asked."""
    between = [look.overlap for look in looks[:-1]]
    trust = np.zeros(len(looks))
    for index, look in enumerate(looks):
        if look.area:
            neighbours = between[max(index - 1, 0) : index + 1]
            agreement = sum(neighbours) / len(neighbours) if neighbours else 1.0
            trust[index] = look.confidence * (0.5 + 0.5 * agreement)
    return trust


def _stretches(shown: NDArray[np.bool_], bridge: int) -> list[list[int]]:
    """Indices from one that shows the structure to another, with at most `bridge` others in a row between them."""
    found: list[list[int]] = []
    for index in np.flatnonzero(shown).tolist():
        if found and index - found[-1][-1] - 1 <= bridge:
            found[-1].extend(range(found[-1][-1] + 1, index + 1))
        else:
            found.append([index])
    return found


def _trusted(
    stretch: list[int], trust: NDArray[np.float64], shown: NDArray[np.bool_], config: AcceptanceConfig
) -> list[int]:
    """The slices of a stretch that are trusted enough and far enough from each other, by index; one at least."""
    least = config.near_usual * float(np.median([trust[index] for index in stretch if shown[index]]))
    distance = max(1, round(config.apart * len(stretch)))
    chosen: list[int] = []
    for index in sorted(stretch, key=lambda one: (-trust[one], one)):
        if not shown[index] or (chosen and trust[index] < least) or len(chosen) == config.most:
            break
        if all(abs(index - other) >= distance for other in chosen):
            chosen.append(index)
    return sorted(chosen)
