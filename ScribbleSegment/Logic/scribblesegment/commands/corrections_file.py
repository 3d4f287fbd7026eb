"""Corrections of a network's result, read from a label map or segmentation file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.labels import BACKGROUND, LARGEST_LABEL, UNMARKED
from scribblesegment.data.volume import LabelVolume, Segment
from scribblesegment.errors import PromptError


@dataclass(frozen=True, eq=False)
class Corrections:
    """What a file asks of a network.

    Attributes:
        labels: int16 of the file's shape: the network's labels, new ones numbered after its last; UNMARKED elsewhere.
        new_names: Names of the new labels by number.
        colors: Colours that the file gives to labels, red, green and blue in [0, 1].
    """

    labels: NDArray[np.int16]
    new_names: Mapping[int, str]
    colors: Mapping[int, tuple[float, float, float]]


def network_corrections(
    painted: LabelVolume, path: Path, known: Sequence[str], *, background: int, new_labels: Mapping[int, str]
) -> Corrections:
    """Turn what was painted into the labels of a network.

    A segment with the name of one of the network's labels, whatever its case, is that label. Every other value is the
    number of a label; `background` is the network's label 0, and 0 marks nothing.

    Args:
        painted: What was painted.
        path: Its file, for messages.
        known: Names of the network's labels, the background first.
        background: Value that marks the background.
        new_labels: Names of labels to add to the network, by the value they were painted in.

    Raises:
        PromptError: Nothing is painted, a value is no label of the network and none to add, a label to add is one of
            the network's, has no name, or was not painted.
    """
    values = painted.labels_present()
    if not values:
        raise PromptError(f"{path} holds no correction. Paint at least one pixel in the label that it should have.")
    segments = {segment.label: segment for segment in painted.segments}
    numbered = _numbered(new_labels, values, known, background)
    meant: dict[int, int] = {}
    for value in values:
        by_name = _index_of(segments.get(value), known)
        if value in numbered:
            meant[value] = numbered[value]
        elif value == background:
            meant[value] = BACKGROUND
        elif by_name is not None or value < len(known):
            meant[value] = value if by_name is None else by_name
        else:
            raise PromptError(
                f"{path} asks for label {value}, and the network knows {_listed(known)}. Name it with "
                f"--new-label {value}=NAME to add it, or with --background {value} if it marks the background."
            )
    labels = np.full(painted.shape, UNMARKED, np.int16)
    for value, label in meant.items():
        labels[painted.array == value] = label
    return Corrections(
        labels=labels,
        new_names={number: new_labels[value].strip() for value, number in numbered.items()},
        colors={meant[value]: segments[value].color_rgb for value in values if value in segments},
    )


def _numbered(
    new_labels: Mapping[int, str], values: Sequence[int], known: Sequence[str], background: int
) -> dict[int, int]:
    """Number the labels to add after the network's last one, in the order of their values."""
    for value, name in new_labels.items():
        if not name.strip():
            raise PromptError(f"The new label {value} has no name. Give --new-label {value}=NAME.")
        if value < len(known):
            raise PromptError(
                f"Label {value} is the network's {known[value]!r} and cannot be added as {name!r}. Paint the new label "
                f"in a value from {len(known)} on."
            )
        if value == background:
            raise PromptError(
                f"{value} marks the background and cannot be the new label {name!r}. Change --background."
            )
        if value not in values:
            raise PromptError(f"The new label {value} ({name}) is nowhere painted. Paint it, or leave it out.")
    if len(known) + len(new_labels) > LARGEST_LABEL:
        raise PromptError(f"The network would have more than {LARGEST_LABEL} labels.")
    return {value: number for number, value in enumerate(sorted(new_labels), start=len(known))}


def _index_of(segment: Segment | None, known: Sequence[str]) -> int | None:
    if segment is None:
        return None
    wanted = segment.name.strip().casefold()
    return next((index for index, name in enumerate(known) if name.strip().casefold() == wanted), None)


def _listed(known: Sequence[str]) -> str:
    return ", ".join(f"{index} {name}" for index, name in enumerate(known))
