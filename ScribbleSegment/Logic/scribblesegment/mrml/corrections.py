"""A network's result and its corrections as segmentations: where they come from, what is painted, how it is written."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import (
    vtkMRMLSegmentEditorNode,
    vtkMRMLSliceNode,
    vtkMRMLTransformNode,
    vtkOrientedImageData,
    vtkSegmentation,
    vtkSegmentationHistory,
    vtkSlicerSegmentationsModuleLogic,
)
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkCommonTransforms import vtkGeneralTransform

from scribblesegment.data import validation
from scribblesegment.data.geometry import nearest_index
from scribblesegment.data.labels import UNMARKED
from scribblesegment.data.prompts import box_of
from scribblesegment.data.volume import Volume
from scribblesegment.errors import GeometryError, ImageError, PromptError
from scribblesegment.mrml.geometry import (
    Extent,
    ReferenceGeometry,
    array_of,
    geometry_of,
    image_to_mm,
    reference_geometry,
    slice_normals,
    transformed,
    view_plane,
    world_to_mm,
)
from scribblesegment.mrml.labelmaps import (
    BINARY_LABELMAP,
    blank_labelmap,
    bounds,
    edit_as_labelmaps,
    flat_index,
    is_empty,
    labelmap_of,
    layers,
    on_lattice,
    overlap,
    recut,
    refresh_derived,
    resampled,
    segment_at,
    voxels_of,
)
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import read_tag, write_tag
from scribblesegment.mrml.writer import write_voxels

Labels = NDArray[np.int16]

Place = tuple[int, int]  # axis (0 = K, 1 = J, 2 = I) and index of a slice

ATTRIBUTE = "ScribbleSegment.NetworkResult"  # of nodes that are a network's result

CORRECTIONS_ROLE = "scribbleSegmentCorrections"

TAG = "ScribbleSegment.NetworkLabel"  # on segments of a result: the network's label, also after they were renamed

BACKGROUND_NAME = "Background"

# Grey, as something that is not there; colours of the structures are Slicer's own.
_BACKGROUND_COLOR = (0.6, 0.6, 0.6)

# Every state is a copy of all label maps that have changed.
_MOST_STATES = 6


# The image and its slices ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CorrectionImage:
    """An image and its grid, as they are at one moment."""

    volume: Volume  # intensities; colours as luminance. Where possible it is the volume node's own memory.
    reference: ReferenceGeometry  # the grid of the result
    token: Hashable  # equal for equal content only
    note: str | None  # what the user should know about the image


def correction_image(volume_node: Any, result_node: Any, images: SourceImages) -> CorrectionImage:
    """Take the image of a volume for a network.

    Args:
        volume_node: vtkMRMLScalarVolumeNode under any transform, or None.
        result_node: vtkMRMLSegmentationNode whose grid is used, or None for the volume's own.
        images: Where the image is kept.

    Raises:
        ImageError: No volume, or none that has intensities.
        GeometryError: Volume and segmentation do not overlap, or the geometry is degenerate.
    """
    if volume_node is None:
        raise ImageError("No volume is selected. Choose the image that the network shall segment.")
    if result_node is not None:
        reference = reference_geometry(result_node, volume_node)
    else:
        image_data = volume_node.GetImageData()
        if image_data is None or min(image_data.GetDimensions()) < 1:
            raise ImageError(f"The volume {volume_node.GetName()!r} is empty. Load the image again, or choose another.")
        matrix = vtkMatrix4x4()
        volume_node.GetIJKToRASMatrix(matrix)
        lattice = vtkOrientedImageData()
        lattice.SetExtent(image_data.GetExtent())
        lattice.SetImageToWorldMatrix(matrix)
        reference = geometry_of(lattice, name=f"the volume {volume_node.GetName()!r}")
    source = images.get(volume_node, volume_node if result_node is None else result_node, reference)
    volume = Volume(source.array, reference.grid.ijk_to_mm)
    return CorrectionImage(volume, reference, source.token, source.note)


def viewed_slice(slice_node: Any, grid_node: Any, reference: ReferenceGeometry) -> Place:
    """The slice of a grid that a view shows.

    Args:
        slice_node: vtkMRMLSliceNode.
        grid_node: The node that the grid belongs to: the result's segmentation, or the volume.
        reference: The grid.

    Raises:
        GeometryError: The view does not cut the grid, or is not along one of its axes.
    """
    plane = view_plane(slice_node, grid_node, reference.grid)
    if plane.voxel_slice is None:
        raise GeometryError(
            f"The view {slice_node.GetName()} is oblique to the voxels of the volume, so it shows none of its slices. "
            "Choose another view, turn it to the volume's axes (the button in its bar rotates it to the volume plane), "
            "or choose the whole volume."
        )
    return plane.voxel_slice


def nearest_axis(slice_node: Any, grid_node: Any, reference: ReferenceGeometry) -> int:
    """Axis of a grid whose slices a view comes nearest to; 0 (K) under a non-linear transform."""
    try:
        to_mm = world_to_mm(grid_node)
    except GeometryError:
        return 0
    across, up, _ = (to_mm[:3, :3] @ array_of(slice_node.GetSliceToRAS())[:3, :3]).T
    return int(np.argmax(abs(slice_normals(reference.grid.steps_kji_mm) @ np.cross(across, up))))


def jump_to(grid_node: Any, reference: ReferenceGeometry, kji: tuple[int, int, int]) -> None:
    """Show a voxel of the grid of a node in the middle of all slice views of its scene."""
    world = [0.0, 0.0, 0.0]
    grid_node.TransformPointToWorld(reference.grid.to_mm(kji).tolist(), world)
    vtkMRMLSliceNode.JumpAllSlices(grid_node.GetScene(), *world, vtkMRMLSliceNode.CenteredJumpSlice)


def slice_of(labels: NDArray[Any], place: Place | None) -> NDArray[Any]:
    """The part of an array (K, J, I) that is worked on, as a view: a slice (H, W), or with None all of it."""
    return labels if place is None else np.moveaxis(labels, place[0], 0)[place[1]]


def marked_slices(labels: Labels, axis: int) -> list[int]:
    """Indices along an axis of the slices that something is painted on."""
    others = tuple(other for other in range(3) if other != axis)
    indices: list[int] = np.flatnonzero((labels != UNMARKED).any(axis=others)).tolist()
    return indices


# What painted segments stand for ---------------------------------------------------------------------------------


class LabelKind(enum.Enum):
    """What a painted segment stands for."""

    LABEL = "label"  # a label that the network has
    NEW_LABEL = "new label"  # a label that it gets for this image
    IGNORED = "ignored"  # nothing, as new labels are not wanted
    EMPTY = "empty"  # nothing yet: it would be a new label, but nothing is painted


@dataclass(frozen=True)
class LabelMapping:
    """A painted segment and its label."""

    segment_id: str
    name: str
    kind: LabelKind
    label: int | None  # of the network, 0 for the background; None where the segment does not count
    is_empty: bool  # whether nothing is painted


def label_mappings(
    segmentation_node: Any, labels: Sequence[str], *, new_labels: bool = True
) -> tuple[LabelMapping, ...]:
    """Find the labels that the segments of a segmentation stand for, one for each segment.

    A segment stands for the label of its name, without regard to case and to blanks around it; "Background" always
    stands for label 0. Segments of other names are new labels, numbered from the first that the network does not have,
    in the order of the segments; those of one name are one label. A new label needs something painted.

    Args:
        segmentation_node: vtkMRMLSegmentationNode.
        labels: Names of the network's labels; the index is the label value, and 0 the background.
        new_labels: Whether segments of other names become new labels, or are ignored.

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    known = {BACKGROUND_NAME.casefold(): 0}
    for value, name in reversed(list(enumerate(labels))):  # of two labels of one name, the first
        known[name.strip().casefold()] = value
    segmentation = segmentation_node.GetSegmentation()
    added: dict[str, int] = {}
    found = []
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        name = segment.GetName() or ""
        labelmap = labelmap_of(segmentation_node, segment)
        empty = is_empty(labelmap) or not bool(np.any(voxels_of(labelmap) == segment.GetLabelValue()))
        folded = name.strip().casefold()
        kind, label = LabelKind.LABEL, known.get(folded)
        if label is None and not new_labels:
            kind = LabelKind.IGNORED
        elif label is None and empty:
            kind = LabelKind.EMPTY
        elif label is None:
            kind, label = LabelKind.NEW_LABEL, added.setdefault(folded, len(labels) + len(added))
        found.append(LabelMapping(segment_id, name, kind, label, empty))
    return tuple(found)


def names_of_new_labels(mappings: Sequence[LabelMapping]) -> dict[int, str]:
    """Names of the new labels by their values; of segments that share a label, that of the first."""
    names: dict[int, str] = {}
    for row in mappings:
        if row.kind is LabelKind.NEW_LABEL and row.label is not None:
            names.setdefault(row.label, row.name.strip())
    return names


def without_gaps(painted: Labels, known: int, new_names: Mapping[int, str]) -> tuple[Labels, dict[int, str]]:
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


class ContradictionError(PromptError):
    """Voxels that two segments claim for different labels; `kji` is the first of them, on the grid."""

    def __init__(self, message: str, kji: tuple[int, int, int]) -> None:
        super().__init__(message)
        self.kji = kji


def painted_labels(
    segmentation_node: Any, mappings: Sequence[LabelMapping], reference: ReferenceGeometry, grid_node: Any
) -> Labels:
    """Bring painted segments together as labels on a grid.

    Args:
        segmentation_node: vtkMRMLSegmentationNode that was painted in.
        mappings: What its segments stand for; those without a label, and those that are gone, are left out.
        reference: The grid.
        grid_node: The node that the grid belongs to: the result's segmentation, or the volume.

    Returns:
        int16 (K, J, I), UNMARKED where nothing is painted. No painted voxel is lost where the grid is coarser.

    Raises:
        ContradictionError: Two segments that stand for different labels have a voxel in common.
        ImageError: The segmentation cannot be converted to label maps.
    """
    labels = np.full(reference.grid.shape, UNMARKED, np.int16)
    flat = labels.reshape(-1)
    slivers = []
    claimed: dict[int, str] = {}
    for row in mappings:
        if row.label is None or row.is_empty:
            continue
        marked, slivers_kji = marked_voxels(segmentation_node, row.segment_id, reference, grid_node)
        index, _ = flat_index(marked, labels.shape)
        before = flat[index]
        contradicting = (before != UNMARKED) & (before != row.label)
        if contradicting.any():
            raise _contradiction(marked[contradicting], claimed[int(before[contradicting][0])], row.name)
        flat[index] = row.label
        claimed.setdefault(row.label, row.name)
        slivers.append((row.label, slivers_kji))
    for label, kji in slivers:
        index, _ = flat_index(kji, labels.shape)
        flat[index[flat[index] == UNMARKED]] = label
    return labels


def _contradiction(kji: NDArray[np.int64], first: str, second: str) -> ContradictionError:
    k, j, i = _index(kji[0])
    count = "1 voxel is" if len(kji) == 1 else f"{len(kji)} voxels are"
    return ContradictionError(
        f"{count} painted both as {first!r} and as {second!r}, the first at ({k}, {j}, {i}), counted from 0 along K, J "
        "and I. A voxel can have one label only: erase one of the two there.",
        (k, j, i),
    )


def marked_voxels(
    segmentation_node: Any, segment_id: str, reference: ReferenceGeometry, grid_node: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the voxels of a grid that belong to a segment, wherever the two lie; none for one that does not exist.

    Returns:
        (N, 3) kji on the grid; and (M, 3) kji of marks that would vanish because the grid is coarser than the segment's
        own voxels, which count where nothing else is marked.

    Raises:
        ImageError: The segmentation cannot be converted to label maps.
    """
    nothing = np.zeros((0, 3), np.int64)
    for labelmap, values in layers(segmentation_node, [segment_id]).items():
        if is_empty(labelmap):
            continue
        to_grid = _between(segmentation_node, grid_node)
        value = values[segment_id]
        if to_grid is not None or not on_lattice(labelmap, reference):
            return _resampled(labelmap, value, reference, to_grid)
        here, there = overlap(labelmap.GetExtent(), reference.extent)
        return np.argwhere(voxels_of(labelmap)[here] == value) + [part.start for part in there], nothing
    return nothing, nothing


def _between(source_node: Any, target_node: Any) -> Any:
    """The transform from one node's millimetres to another's; None where they are the same."""
    parents = source_node.GetParentTransformNode(), target_node.GetParentTransformNode()
    if parents[0] is parents[1]:
        return None
    transform = vtkGeneralTransform()
    vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, transform)
    return transform


def _resampled(
    labelmap: Any, value: int, reference: ReferenceGeometry, to_grid: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    own = np.argwhere(voxels_of(labelmap) == value)
    if not len(own):
        return own, own
    start = np.array(labelmap.GetExtent()[::2])
    mm = transformed(image_to_mm(labelmap), own[:, ::-1] + start)
    if to_grid is not None:
        mm = np.array([to_grid.TransformPoint(point) for point in mm])
    forward = nearest_index(reference.grid.to_kji(mm))
    # A label map of this label alone, with a margin in which it is surely zero.
    (k0, j0, i0), (k1, j1, i1) = bounds(own)
    i, j, k = start
    extent: Extent = (i + i0 - 1, i + i1 + 1, j + j0 - 1, j + j1 + 1, k + k0 - 1, k + k1 + 1)
    mask = recut(labelmap, extent)
    voxels_of(mask)[...] = voxels_of(mask) == value
    result = resampled(mask, reference.image, transform=to_grid)
    _, inside = flat_index(forward, reference.grid.shape)
    return np.argwhere(voxels_of(result) != 0), forward if inside is None else forward[inside]


@dataclass(frozen=True)
class Violation:
    """A label that was painted and is not there."""

    label: int
    count: int  # painted voxels that do not have it
    kji: tuple[int, int, int]  # the first of them on the grid


def violations_left(violations: NDArray[np.bool_], painted: Labels, place: Place | None) -> tuple[Violation, ...]:
    """Sort the voxels that a result does not follow by label, those with most voxels first.

    Args:
        violations: bool of the shape of `painted`: painted voxels that got another label.
        painted: int16 (K, J, I) or, with a place, (H, W): the labels painted.
        place: The slice, or None.
    """
    indices = np.argwhere(violations)
    if place is not None:
        indices = np.insert(indices, place[0], place[1], axis=1)
    labels, first, counts = np.unique(painted[violations], return_index=True, return_counts=True)
    found = [
        Violation(int(label), int(count), _index(indices[position]))
        for label, position, count in zip(labels, first, counts, strict=True)
        if label != UNMARKED
    ]
    return tuple(sorted(found, key=lambda violation: -violation.count))


def _index(kji: NDArray[np.int64]) -> tuple[int, int, int]:
    k, j, i = (int(part) for part in kji)
    return k, j, i


# Nodes of results and corrections --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResultSource:
    """What a result was made by; kept with its node, and saved in the scene."""

    network: str  # where it was loaded from: a path, or the name of an embedded one
    labels: tuple[str, ...]  # names; the index is the label value, and 0 the background


def source_of(segmentation_node: Any) -> ResultSource | None:
    """What a segmentation was made by; None for one that is no network's result, or whose note is damaged."""
    text = segmentation_node.GetAttribute(ATTRIBUTE) if segmentation_node is not None else None
    try:
        note = json.loads(text or "null")
        labels = tuple(str(label) for label in note["labels"])
        return ResultSource(str(note["network"]), labels) if labels else None
    except (ValueError, TypeError, KeyError):
        return None


def note_source(segmentation_node: Any, source: ResultSource) -> None:
    """Keep with a node what its result was made by."""
    segmentation_node.SetAttribute(ATTRIBUTE, json.dumps({"network": source.network, "labels": source.labels}))


def volume_of(result_node: Any) -> Any:
    """The volume that a segmentation was made from, or None when it has gone."""
    return result_node.GetNodeReference(result_node.GetReferenceImageGeometryReferenceRole())


def new_result(scene: Any, volume_node: Any, name: str, source: ResultSource) -> Any:
    """Add a vtkMRMLSegmentationNode for a network's result: empty segments of the labels, on the voxels of a volume.

    It is put under the volume's transform; a number is added to a name that the scene has already.
    """
    node = _new_segmentation(scene, name, volume_node.GetTransformNodeID(), volume_node)
    note_source(node, source)
    for label_name in source.labels[1:]:
        _segment_for(node, label_name)
    return node


def corrections_of(result_node: Any) -> Any:
    """The segmentation in which corrections of a result are painted, or None."""
    return result_node.GetNodeReference(CORRECTIONS_ROLE)


def corrections_for(result_node: Any, volume_node: Any, labels: Sequence[str], name: str) -> Any:
    """The segmentation to paint corrections of a result in; it is made, of this name, when there is none.

    A new one has a segment for each label of the network, the background as the last, in the colours of the result.
    Segments that the user has removed from an existing one stay away.
    """
    node = corrections_of(result_node)
    if node is not None:
        return node
    node = _new_segmentation(result_node.GetScene(), name, result_node.GetTransformNodeID(), volume_node)
    # Strokes are for the slice views; in 3D they would hide the result.
    node.GetDisplayNode().SetVisibility3D(False)
    segmentation = node.GetSegmentation()
    for label, label_name in (*list(enumerate(labels))[1:], (0, "")):
        found = _find_segment(result_node, label_name) if label else None
        color = _BACKGROUND_COLOR if label == 0 else None if found is None else found.GetColor()
        segmentation.AddEmptySegment("", label_name if label else BACKGROUND_NAME, *([] if color is None else [color]))
    result_node.SetNodeReferenceID(CORRECTIONS_ROLE, node.GetID())
    return node


def _new_segmentation(scene: Any, name: str, transform_id: Any, volume_node: Any) -> Any:
    # Slicer's lists of nodes do not notice a change between nodes of one name.
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(transform_id)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    return node


def _find_segment(segmentation_node: Any, label_name: str) -> Any:
    segmentation = segmentation_node.GetSegmentation()
    segments = [segmentation.GetSegment(segment_id) for segment_id in segmentation.GetSegmentIDs()]
    tagged = [segment for segment in segments if read_tag(segment, TAG) == label_name]
    named = [segment for segment in segments if segment.GetName() == label_name and not read_tag(segment, TAG)]
    return next(iter(tagged + named), None)


def _segment_for(segmentation_node: Any, label_name: str) -> str:
    """Identifier of the segment of a label, which is added when there is none."""
    segmentation = segmentation_node.GetSegmentation()
    segment = _find_segment(segmentation_node, label_name)
    if segment is None:
        segment = segmentation.GetSegment(segmentation.AddEmptySegment("", label_name))
    write_tag(segment, TAG, label_name)
    return str(segmentation.GetSegmentIdBySegment(segment))


# Writing and undoing ---------------------------------------------------------------------------------------------


def write_labels(
    segmentation_node: Any,
    reference: ReferenceGeometry,
    labels: Labels,
    names: Sequence[str],
    place: Place | None = None,
) -> None:
    """Make the segments of a result equal to an array of labels; segments that the user added stay as they are.

    Segments of labels that `names` lacks, as new labels of an earlier round, lose what they have there.

    Args:
        segmentation_node: vtkMRMLSegmentationNode; segments that are missing are added.
        reference: The grid of `labels`.
        labels: int16 (K, J, I) from 0, or (H, W) with a place.
        names: Of the labels by value; the first, that of the background, has no segment.
        place: The one slice to change, or None for all voxels.

    Raises:
        GeometryError: `labels` has another shape.
        ImageError: The segmentation cannot be converted to label maps.
    """
    shape = slice_of(np.broadcast_to(np.int8(0), reference.grid.shape), place).shape
    validation.same_shape(labels.shape, shape, name="labels", reference="the segmentation's grid")
    was_modifying = segmentation_node.StartModify()
    try:
        edit_as_labelmaps(segmentation_node)
        segment_ids = {label: _segment_for(segmentation_node, name) for label, name in enumerate(names) if label}
        segmentation = segmentation_node.GetSegmentation()
        tagged = {one for one in segmentation.GetSegmentIDs() if read_tag(segmentation.GetSegment(one), TAG)}
        # Those of labels that `names` lacks get values that do not occur.
        segment_ids.update(enumerate(sorted(tagged - set(segment_ids.values())), start=len(names)))
        if place is None:
            _write_volume(segmentation_node, reference, labels, segment_ids)
        else:
            _write_slice(segmentation_node, reference, labels, segment_ids, place)
    finally:
        segmentation_node.EndModify(was_modifying)


def _write_volume(
    segmentation_node: Any, reference: ReferenceGeometry, labels: Labels, segment_ids: Mapping[int, str]
) -> None:
    """All voxels at once: the segments share a new layer, in which the label values are those of the array."""
    segmentation = segmentation_node.GetSegmentation()
    ours = set(segment_ids.values())
    for segment_id in segmentation.GetSegmentIDs():
        if segment_id not in ours:
            segmentation.SeparateSegmentLabelmap(segment_id)  # or it would share a layer with what is replaced
    shared = None
    box = box_of(labels)
    if box[0].stop:
        k, j, i = ((side.start, side.stop) for side in box)
        dtype = np.min_scalar_type(max(segment_ids, default=1))
        shared = blank_labelmap(reference.image, reference.extent_of((k, j, i)), dtype)
        cut = labels[box]
        known = np.zeros(int(cut.max()) + 1, dtype)
        for label in segment_ids:
            if label < len(known):
                known[label] = label
        voxels_of(shared)[...] = known[cut]
    for label, segment_id in segment_ids.items():
        segment = segmentation.GetSegment(segment_id)
        segment.SetLabelValue(label)
        segment.AddRepresentation(BINARY_LABELMAP, shared or blank_labelmap(reference.image, (0, -1, 0, -1, 0, -1)))
    refresh_derived(segmentation_node, list(segment_ids.values()))
    logic = vtkSlicerSegmentationsModuleLogic
    for segment_id in segment_ids.values():
        segment = segmentation.GetSegment(segment_id)
        has_voxels = not is_empty(segment.GetRepresentation(BINARY_LABELMAP))
        if has_voxels and logic.GetSegmentStatus(segment) == logic.NotStarted:
            logic.SetSegmentStatus(segment, logic.InProgress)
        segmentation.InvokeEvent(vtkSegmentation.SourceRepresentationModified, segment_id)
        segmentation.InvokeEvent(vtkSegmentation.RepresentationModified, segment_id)


def _write_slice(
    segmentation_node: Any,
    reference: ReferenceGeometry,
    labels: Labels,
    segment_ids: Mapping[int, str],
    place: Place,
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


class ResultHistory:
    """States of one segmentation, kept in memory until another one is followed."""

    def __init__(self) -> None:
        self._history = vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(_MOST_STATES)
        self._node: Any = None

    def follow(self, segmentation_node: Any) -> None:
        """Keep states of this vtkMRMLSegmentationNode from now on, and drop those of another one; None for none."""
        self._node = segmentation_node
        self._history.SetSegmentation(None if segmentation_node is None else segmentation_node.GetSegmentation())

    def save(self) -> None:
        """Keep the present state, to which `undo` goes back; called before a change."""
        if self._node is not None:
            self._history.SaveState()

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier state."""
        return self._node is not None and bool(self._history.IsRestorePreviousStateAvailable())

    @property
    def can_redo(self) -> bool:
        """Whether there is a later state."""
        return self._node is not None and bool(self._history.IsRestoreNextStateAvailable())

    def undo(self) -> bool:
        """Go back to the state before the newest result. Returns whether there was one."""
        return self.can_undo and self._restore(self._history.RestorePreviousState)

    def redo(self) -> bool:
        """Take an undo back. Returns whether there was one."""
        return self.can_redo and self._restore(self._history.RestoreNextState)

    def _restore(self, restore: Callable[[], Any]) -> bool:
        was_modifying = self._node.StartModify()
        try:
            restored = bool(restore())
        finally:
            self._node.EndModify(was_modifying)
        display_node = self._node.GetDisplayNode()
        if display_node is not None:
            display_node.Modified()  # or the views keep what they showed
        return restored
