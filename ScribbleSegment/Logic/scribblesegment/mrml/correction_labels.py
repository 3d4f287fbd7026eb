"""Which label of a network each segment of a segmentation stands for: found by its name."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.mrml.labelmaps import is_empty, voxels_of
from scribblesegment.mrml.segments import labelmap_of

BACKGROUND_NAME = "Background"


class Meaning(enum.Enum):
    """What a painted segment says to the network."""

    LABEL = "label"
    """A label that the network has."""
    NEW_LABEL = "new label"
    """A label that it gets for this image."""
    IGNORED = "ignored"
    """Nothing, as new labels are not wanted."""
    EMPTY = "empty"
    """Nothing yet: it would be a new label, but nothing is painted."""


@dataclass(frozen=True)
class SegmentMeaning:
    """One row of the table of corrections.

    Attributes:
        segment_id: Of the segment.
        name: Of the segment.
        meaning: What it stands for.
        label: Label value of the network, 0 for the background; None for what says nothing.
        is_empty: Whether nothing is painted.
    """

    segment_id: str
    name: str
    meaning: Meaning
    label: int | None
    is_empty: bool


def segment_meanings(
    segmentation_node: Any, labels: Sequence[str], *, new_labels: bool = True
) -> tuple[SegmentMeaning, ...]:
    """Find the labels that the segments of a segmentation stand for.

    A segment stands for the label of its name, without regard to case and to blanks around it; "Background" always
    stands for label 0. Segments of other names are new labels, numbered from the first that the network does not have,
    in the order of the segments; those of one name are one label. A new label needs something painted.

    Args:
        segmentation_node: vtkMRMLSegmentationNode.
        labels: Names of the network's labels; the index is the label value, and 0 the background.
        new_labels: Whether segments of other names become new labels, or are ignored.

    Returns:
        One for each segment, in their order.

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    known = {BACKGROUND_NAME.casefold(): 0}
    for label, name in reversed(list(enumerate(labels))):  # of two labels of one name, the first
        known[_folded(name)] = label
    segmentation = segmentation_node.GetSegmentation()
    added: dict[str, int] = {}
    found = []
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        name, empty = segment.GetName() or "", _is_empty(segmentation_node, segment)
        folded = _folded(name)
        if folded in known:
            row = SegmentMeaning(segment_id, name, Meaning.LABEL, known[folded], empty)
        elif not new_labels:
            row = SegmentMeaning(segment_id, name, Meaning.IGNORED, None, empty)
        elif empty:
            row = SegmentMeaning(segment_id, name, Meaning.EMPTY, None, True)
        else:
            label = added.setdefault(folded, len(labels) + len(added))
            row = SegmentMeaning(segment_id, name, Meaning.NEW_LABEL, label, False)
        found.append(row)
    return tuple(found)


def names_of_new_labels(meanings: Sequence[SegmentMeaning]) -> dict[int, str]:
    """Names of the new labels by their values; of segments that share a label, that of the first."""
    names: dict[int, str] = {}
    for row in meanings:
        if row.meaning is Meaning.NEW_LABEL and row.label is not None:
            names.setdefault(row.label, row.name.strip())
    return names


def without_gaps(
    painted: NDArray[np.int16], known: int, new_names: Mapping[int, str]
) -> tuple[NDArray[np.int16], dict[int, str]]:
    """Number those of the new labels that occur from the first that the network does not have, without gaps.

    Args:
        painted: int16, any shape: a slice may lack new labels that others have.
        known: How many labels the network has.
        new_names: Names of the new labels by value.

    Returns:
        The array, a copy where numbers changed, and the names by the new numbers.
    """
    present = [label for label in sorted(new_names) if bool((painted == label).any())]
    names = {known + number: new_names[label] for number, label in enumerate(present)}
    if present == list(names):
        return painted, names
    renumbered = painted.copy()
    for number, label in enumerate(present):
        renumbered[painted == label] = known + number
    return renumbered, names


def _folded(name: str) -> str:
    return name.strip().casefold()


def _is_empty(segmentation_node: Any, segment: Any) -> bool:
    labelmap = labelmap_of(segmentation_node, segment)
    return is_empty(labelmap) or not bool(np.any(voxels_of(labelmap) == segment.GetLabelValue()))
