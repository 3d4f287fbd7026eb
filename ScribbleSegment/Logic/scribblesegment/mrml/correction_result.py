"""A network's result as a segmentation: one segment for each label, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import (
    vtkMRMLSegmentEditorNode,
    vtkSegmentation,
    vtkSlicerSegmentationsModuleLogic,
)

from scribblesegment import checks
from scribblesegment.mrml.correction_labels import BACKGROUND_NAME
from scribblesegment.mrml.correction_scribbles import slice_of
from scribblesegment.mrml.geometry import BoxKji, ReferenceGeometry
from scribblesegment.mrml.labelmaps import blank_labelmap, is_empty, voxels_of
from scribblesegment.mrml.representations import edit_as_labelmaps, refresh_derived
from scribblesegment.mrml.segment_tags import read_tag, write_tag
from scribblesegment.mrml.segment_writer import write_voxels
from scribblesegment.mrml.segments import BINARY_LABELMAP, segment_at

ATTRIBUTE = "ScribbleSegment.NetworkResult"
CORRECTIONS_ROLE = "scribbleSegmentCorrections"
TAG = "ScribbleSegment.NetworkLabel"
"""On segments of a result: name of the network's label, also after the segment was renamed."""

# Grey, as something that is not there; colours of the structures are Slicer's own.
_BACKGROUND_COLOR = (0.6, 0.6, 0.6)


@dataclass(frozen=True)
class ResultSource:
    """What a result was made by; kept with its node, and saved in the scene.

    Attributes:
        network: Where the network was loaded from: a path, or the name of an embedded one.
        labels: Names of the network's labels; the index is the label value, and 0 the background.
    """

    network: str
    labels: tuple[str, ...]


def source_of(segmentation_node: Any) -> ResultSource | None:
    """What a segmentation was made by; None for one that is no network's result, or whose note is damaged."""
    text = segmentation_node.GetAttribute(ATTRIBUTE) if segmentation_node is not None else None
    try:
        note = json.loads(text or "null")
        labels = tuple(str(label) for label in note["labels"])
        return ResultSource(str(note["network"]), labels) if labels else None
    except (ValueError, TypeError, KeyError):
        return None


def new_result(scene: Any, volume_node: Any, name: str, source: ResultSource) -> Any:
    """Add a segmentation for a network's result: empty segments of the labels, on the voxels of a volume.

    Args:
        scene: vtkMRMLScene.
        volume_node: vtkMRMLScalarVolumeNode; the segmentation is put under its transform.
        name: Of the new node; a number is added where the scene has one of that name.
        source: Where the result comes from.

    Returns:
        The vtkMRMLSegmentationNode.
    """
    # Slicer's lists of nodes do not notice a change between nodes of one name.
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    note_source(node, source)
    for label_name in source.labels[1:]:
        _segment_for(node, label_name)
    return node


def note_source(segmentation_node: Any, source: ResultSource) -> None:
    """Keep with a node what its result was made by."""
    segmentation_node.SetAttribute(ATTRIBUTE, json.dumps({"network": source.network, "labels": source.labels}))


def write_labels(
    segmentation_node: Any,
    reference: ReferenceGeometry,
    labels: NDArray[np.int16],
    names: Sequence[str],
    place: tuple[int, int] | None = None,
) -> None:
    """Make the segments of a result equal to an array of labels; segments that the user added stay as they are.

    Segments of labels that `names` lacks, as new labels of an earlier round, lose what they have there.

    Args:
        segmentation_node: vtkMRMLSegmentationNode; segments that are missing are added.
        reference: The grid of `labels`.
        labels: int16 (K, J, I) from 0, or (H, W) with a place.
        names: Of the labels by value; the first, that of the background, has no segment.
        place: Axis and index of the one slice to change, or None for all voxels.

    Raises:
        GeometryError: `labels` has another shape.
        ImageError: The segmentation cannot be converted to label maps.
    """
    shape = slice_of(np.broadcast_to(np.int8(0), reference.grid.shape), place).shape
    checks.same_shape(labels.shape, shape, name="labels", reference="the segmentation's grid")
    was_modifying = segmentation_node.StartModify()
    try:
        edit_as_labelmaps(segmentation_node)
        segment_ids = {label: _segment_for(segmentation_node, name) for label, name in enumerate(names) if label}
        outdated = _label_segments(segmentation_node) - set(segment_ids.values())
        # Values that do not occur.
        segment_ids.update(enumerate(sorted(outdated), start=len(names)))
        if place is None:
            _write_volume(segmentation_node, reference, labels, segment_ids)
        else:
            _write_slice(segmentation_node, reference, labels, segment_ids, place)
    finally:
        segmentation_node.EndModify(was_modifying)


def corrections_of(result_node: Any) -> Any:
    """The segmentation in which corrections of a result are painted, or None."""
    return result_node.GetNodeReference(CORRECTIONS_ROLE)


def corrections_for(result_node: Any, volume_node: Any, labels: Sequence[str], name: str) -> Any:
    """The segmentation to paint corrections of a result in; it is made when there is none.

    A new one has a segment for each label, the background included, in the colours of the result. Segments that the
    user has removed from an existing one stay away.

    Args:
        result_node: vtkMRMLSegmentationNode in a scene.
        volume_node: vtkMRMLScalarVolumeNode that the result was made from.
        labels: Names of the network's labels.
        name: Of a new node.
    """
    node = corrections_of(result_node)
    if node is not None:
        return node
    scene = result_node.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    # Strokes are for the slice views; in 3D they would hide the result.
    node.GetDisplayNode().SetVisibility3D(False)
    node.SetAndObserveTransformNodeID(result_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    segmentation = node.GetSegmentation()
    for label, label_name in enumerate(labels):
        found = None if label == 0 else _find_segment(result_node, label_name)
        color = _BACKGROUND_COLOR if label == 0 else None if found is None else found.GetColor()
        shown = BACKGROUND_NAME if label == 0 else label_name
        if color is None:
            segmentation.AddEmptySegment("", shown)
        else:
            segmentation.AddEmptySegment("", shown, color)
    result_node.SetNodeReferenceID(CORRECTIONS_ROLE, node.GetID())
    return node


def volume_of(result_node: Any) -> Any:
    """The volume that a segmentation was made from, or None when it has gone."""
    return result_node.GetNodeReference(result_node.GetReferenceImageGeometryReferenceRole())


def _find_segment(segmentation_node: Any, label_name: str) -> Any:
    segmentation = segmentation_node.GetSegmentation()
    segments = [segmentation.GetSegment(segment_id) for segment_id in segmentation.GetSegmentIDs()]
    tagged = [segment for segment in segments if read_tag(segment, TAG) == label_name]
    named = [segment for segment in segments if segment.GetName() == label_name and not read_tag(segment, TAG)]
    return next(iter(tagged + named), None)


def _label_segments(segmentation_node: Any) -> set[str]:
    """Identifiers of the segments that are a label's."""
    segmentation = segmentation_node.GetSegmentation()
    return {one for one in segmentation.GetSegmentIDs() if read_tag(segmentation.GetSegment(one), TAG)}


def _segment_for(segmentation_node: Any, label_name: str) -> str:
    """Identifier of the segment of a label, which is added when there is none."""
    segmentation = segmentation_node.GetSegmentation()
    segment = _find_segment(segmentation_node, label_name)
    if segment is None:
        segment = segmentation.GetSegment(segmentation.AddEmptySegment("", label_name))
    write_tag(segment, TAG, label_name)
    return str(segmentation.GetSegmentIdBySegment(segment))


def _write_volume(
    segmentation_node: Any, reference: ReferenceGeometry, labels: NDArray[np.int16], segment_ids: Mapping[int, str]
) -> None:
    """All voxels at once: the segments share a new layer, in which the label values are those of the array."""
    segmentation = segmentation_node.GetSegmentation()
    ours = set(segment_ids.values())
    for segment_id in segmentation.GetSegmentIDs():
        if segment_id not in ours:
            segmentation.SeparateSegmentLabelmap(segment_id)  # or it would share a layer with what is replaced
    box = _box_of(labels)
    shared = None
    if box is not None:
        dtype = np.min_scalar_type(max(segment_ids, default=1))
        shared = blank_labelmap(reference.image, reference.extent_of(box), dtype)
        cut = labels[tuple(slice(*side) for side in box)]
        known = np.zeros(int(cut.max()) + 1, dtype)
        for label in segment_ids:
            if label < len(known):
                known[label] = label
        voxels_of(shared)[...] = known[cut]
    for label, segment_id in segment_ids.items():
        segment = segmentation.GetSegment(segment_id)
        segment.SetLabelValue(label)
        segment.AddRepresentation(BINARY_LABELMAP, shared or blank_labelmap(reference.image, (0, -1, 0, -1, 0, -1)))
    _tell(segmentation_node, list(segment_ids.values()))


def _write_slice(
    segmentation_node: Any,
    reference: ReferenceGeometry,
    labels: NDArray[np.int16],
    segment_ids: Mapping[int, str],
    place: tuple[int, int],
) -> None:
    """One slice: all segments first lose what is not theirs, so that those on one layer never meet."""
    axis, index = place
    kji = np.insert(np.argwhere(np.ones(labels.shape, bool)), axis, index, axis=1)
    wanted = labels.reshape(-1)
    # What other segments have is theirs, whatever the Segment Editor is set to.
    settings = vtkMRMLSegmentEditorNode()
    settings.SetOverwriteMode(vtkMRMLSegmentEditorNode.OverwriteNone)
    nothing = np.zeros((0, 3), np.int64)
    present = {label: segment_at(segmentation_node, one, reference, kji) for label, one in segment_ids.items()}
    for label, one in segment_ids.items():
        write_voxels(segmentation_node, settings, one, reference, nothing, kji[present[label] & (wanted != label)])
    for label, one in segment_ids.items():
        write_voxels(segmentation_node, settings, one, reference, kji[~present[label] & (wanted == label)], nothing)


def _box_of(labels: NDArray[np.int16]) -> BoxKji | None:
    """The smallest box around all voxels that are not background."""
    sides = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero((labels != 0).any(axis=others))
        if not found.size:
            return None
        sides.append((int(found[0]), int(found[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _tell(segmentation_node: Any, segment_ids: Sequence[str]) -> None:
    """Bring what is derived up to date, and tell everybody who shows the segments."""
    segmentation = segmentation_node.GetSegmentation()
    logic = vtkSlicerSegmentationsModuleLogic
    refresh_derived(segmentation_node, segment_ids)
    for segment_id in segment_ids:
        segment = segmentation.GetSegment(segment_id)
        has_voxels = not is_empty(segment.GetRepresentation(BINARY_LABELMAP))
        if has_voxels and logic.GetSegmentStatus(segment) == logic.NotStarted:
            logic.SetSegmentStatus(segment, logic.InProgress)
        segmentation.InvokeEvent(vtkSegmentation.SourceRepresentationModified, segment_id)
        segmentation.InvokeEvent(vtkSegmentation.RepresentationModified, segment_id)
