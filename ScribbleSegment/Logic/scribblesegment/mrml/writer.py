"""Writing voxels into a segment, by the rules of the Segment Editor.

Slicer's `vtkSlicerSegmentEditorLogic.ModifySegmentByLabelmap` is the reference for what changes, and a test holds this
module against it. It is not called because it needs a box of voxels around those that change, which for an oblique
plane is most of the volume; converts surfaces twice when voxels are both added and removed; and knows nothing of
protected segments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer import (
    vtkMRMLSegmentationNode,
    vtkMRMLSegmentEditorNode,
    vtkOrientedImageDataResample,
    vtkSegmentation,
    vtkSlicerSegmentationsModuleLogic,
)

from scribblesegment.data.geometry import Grid, PlaneVoxels, SlicePlane, plane_voxels
from scribblesegment.data.masks import bounding_box
from scribblesegment.errors import GeometryError
from scribblesegment.mrml.geometry import BoxKji, Extent, ReferenceGeometry, image_to_mm, transformed
from scribblesegment.mrml.labelmaps import (
    BINARY_LABELMAP,
    blank_labelmap,
    bounds,
    checked_kji,
    edit_as_labelmaps,
    flat_index,
    is_empty,
    labelmap_of,
    oblique_pixels,
    offset_kji,
    on_lattice,
    recut,
    refresh_derived,
    resampled,
    segment_at,
    segment_of,
    segment_on_plane,
    segments_among,
    segments_at,
    visible_other_segments,
    voxels_of,
)
from scribblesegment.mrml.masking import editable_at
from scribblesegment.mrml.tags import AcceptedSlices
from scribblesegment.mrml.target import EditTarget

Derive = Callable[[Any, Collection[str]], object]
"""Makes again what is derived from label maps of a vtkMRMLSegmentationNode's segments, given by identifiers.

Who does so later than at once invokes vtkSegmentation.RepresentationModified then.
"""


def write_voxels(
    segmentation_node: Any,
    editor_node: Any,
    segment_id: str,
    reference: ReferenceGeometry,
    added_kji: NDArray[np.int64],
    removed_kji: NDArray[np.int64],
    *,
    protect: Sequence[str] = (),
    derive: Derive = refresh_derived,
) -> BoxKji | None:
    """Add voxels to a segment and take others out of it.

    Masking is not applied; ask `editable_at` before. The overwrite mode decides which other segments lose the added
    voxels; a neighbour on the same layer that must keep them makes the segment move to a layer of its own. When editing
    is limited to the inside of one other segment, removed voxels are given to that segment, as Slicer does. Surfaces
    and other derived representations of the segments that changed are made again, once.

    Args:
        segmentation_node: vtkMRMLSegmentationNode. If its segments are surfaces, it is edited as label maps from now
            on.
        editor_node: vtkMRMLSegmentEditorNode with overwrite mode, mask mode and mask segment.
        segment_id: The segment to change.
        reference: The grid that the voxels are indices of.
        added_kji: int64 (N, 3). Those that belong to a protected segment are left out.
        removed_kji: int64 (N, 3). What is added as well stays in the segment.
        protect: Identifiers of segments that never change, whatever the modes are.
        derive: Makes surfaces and the like again; it may do so later.

    Returns:
        The box around everything that changed, or None if nothing did.

    Raises:
        PromptError: There is no such segment.
        GeometryError: Voxels outside the grid.
        ImageError: The segmentation cannot be converted to label maps.
    """
    added = checked_kji(added_kji, reference.grid, name="added_kji")
    removed = checked_kji(removed_kji, reference.grid, name="removed_kji")
    segment_of(segmentation_node, segment_id)
    edit_as_labelmaps(segmentation_node)

    kept = [other for other in protect if other != segment_id]
    added = added[~segments_at(segmentation_node, kept, reference, added)]
    lost = removed[segment_at(segmentation_node, segment_id, reference, removed)]
    overwritten = [other for other in _overwritten(segmentation_node, editor_node, segment_id) if other not in kept]
    fallback = _fallback_segment(segmentation_node, editor_node, segment_id)

    edit = _Edit(segmentation_node, reference)
    edit.erase(segment_id, lost)
    if fallback is not None and fallback not in kept:
        _assign(edit, fallback, lost, overwritten)
    for other in segments_among(segmentation_node, overwritten, reference, added):
        edit.erase(other, added)
    edit.paint(segment_id, added[~segment_at(segmentation_node, segment_id, reference, added)])
    return edit.finish(segment_id, derive)


def _overwritten(segmentation_node: Any, editor_node: Any, segment_id: str) -> list[str]:
    mode = editor_node.GetOverwriteMode()
    if mode == vtkMRMLSegmentEditorNode.OverwriteNone:
        return []
    if mode == vtkMRMLSegmentEditorNode.OverwriteVisibleSegments:
        return visible_other_segments(segmentation_node, segment_id)
    return [other for other in segmentation_node.GetSegmentation().GetSegmentIDs() if other != segment_id]


def _fallback_segment(segmentation_node: Any, editor_node: Any, segment_id: str) -> str | None:
    """The segment that removed voxels fall to."""
    if editor_node.GetMaskMode() != vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment:
        return None
    fallback = editor_node.GetMaskSegmentID()
    exists = fallback and segmentation_node.GetSegmentation().GetSegment(fallback) is not None
    return str(fallback) if exists and fallback != segment_id else None


def _assign(edit: _Edit, fallback: str, kji: NDArray[np.int64], overwritten: Sequence[str]) -> None:
    kji = kji[~segment_at(edit.node, fallback, edit.reference, kji)]
    # Slicer's rule, odd as it is: on the fallback's layer it displaces the others, on other layers it does not.
    displaced = (edit.sharing(fallback) & set(overwritten)) - {fallback}
    for other in segments_among(edit.node, displaced, edit.reference, kji):
        edit.erase(other, kji)
    edit.paint(fallback, kji)


@dataclass
class _Edit:
    """Changes of several segments that become known to the rest of Slicer together."""

    node: Any
    reference: ReferenceGeometry
    changed: dict[str, None] = field(default_factory=dict)
    bounds: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def segmentation(self) -> Any:
        return self.node.GetSegmentation()

    def erase(self, segment_id: str, kji: NDArray[np.int64]) -> None:
        """Take those of the voxels that are in a segment out of it."""
        kji = kji[segments_at(self.node, [segment_id], self.reference, kji)]
        if not len(kji):
            return
        labelmap = self._own_lattice(segment_id, kji)
        voxels, offset = voxels_of(labelmap), offset_kji(labelmap, self.reference)
        flat, _ = flat_index(kji - np.asarray(offset), voxels.shape)
        voxels.reshape(-1)[flat] = 0
        self._record(segment_id, kji)
        self._shrink(segment_id, labelmap)

    def paint(self, segment_id: str, kji: NDArray[np.int64]) -> None:
        """Give voxels to a segment; segments that have them on the same layer keep them, on another layer then."""
        if not len(kji):
            return
        sharing = self.sharing(segment_id)
        if len(sharing) > 1 and segments_at(self.node, sharing - {segment_id}, self.reference, kji).any():
            self.segmentation.SeparateSegmentLabelmap(segment_id)
        labelmap = self._own_lattice(segment_id, kji)
        voxels = voxels_of(labelmap)
        flat, _ = flat_index(kji - np.asarray(offset_kji(labelmap, self.reference)), voxels.shape)
        voxels.reshape(-1)[flat] = self.segmentation.GetSegment(segment_id).GetLabelValue()
        self._record(segment_id, kji)

    def finish(self, segment_id: str, derive: Derive) -> BoxKji | None:
        """Tell everybody who shows the segments; returns the box around all changes."""
        if not self.changed:
            return None
        segment = self.segmentation.GetSegment(segment_id)
        logic = vtkSlicerSegmentationsModuleLogic
        if logic.GetSegmentStatus(segment) == logic.NotStarted:
            logic.SetSegmentStatus(segment, logic.InProgress)
        derive(self.node, list(self.changed))
        for changed in self.changed:
            self.segmentation.InvokeEvent(vtkSegmentation.SourceRepresentationModified, changed)
            self.segmentation.InvokeEvent(vtkSegmentation.RepresentationModified, changed)
        k, j, i = zip(*self.bounds, strict=True)
        return (min(k), max(k) + 1), (min(j), max(j) + 1), (min(i), max(i) + 1)

    def _record(self, segment_id: str, kji: NDArray[np.int64]) -> None:
        self.changed[segment_id] = None
        self.bounds.extend(bounds(kji))
        # Not of the label map itself: that would drop the surfaces of all segments.
        labelmap = self.segmentation.GetSegment(segment_id).GetRepresentation(BINARY_LABELMAP)
        labelmap.GetPointData().GetScalars().Modified()

    def sharing(self, segment_id: str) -> set[str]:
        """The segments on the layer of a segment, itself included."""
        sharing: list[str] = []
        self.segmentation.GetSegmentIDsSharingBinaryLabelmapRepresentation(segment_id, sharing, True)
        return set(sharing) | {segment_id}

    def _own_lattice(self, segment_id: str, kji: NDArray[np.int64]) -> Any:
        """The segment's label map, after it was made to contain the voxels and to hold the segment's label."""
        segment = self.segmentation.GetSegment(segment_id)
        labelmap, label = segment.GetRepresentation(BINARY_LABELMAP), segment.GetLabelValue()
        (k0, j0, i0), (k1, j1, i1) = bounds(kji)
        needed = self.reference.extent_of(((k0, k1 + 1), (j0, j1 + 1), (i0, i1 + 1)))
        if is_empty(labelmap):
            replacement = blank_labelmap(self.reference.image, needed, np.min_scalar_type(label))
        elif not on_lattice(labelmap, self.reference):
            # Neighbours on the layer stay as they are: resampled, they would change.
            self.segmentation.SeparateSegmentLabelmap(segment_id)
            lattice = blank_labelmap(self.reference.image, needed)
            replacement = resampled(segment.GetRepresentation(BINARY_LABELMAP), lattice, beyond=True)
        else:
            dtype = voxels_of(labelmap).dtype
            holds_label = dtype.kind == "f" or label <= np.iinfo(dtype).max
            extent = _union(labelmap.GetExtent(), needed)
            if holds_label and extent == tuple(labelmap.GetExtent()):
                return labelmap
            replacement = recut(labelmap, extent, dtype if holds_label else np.min_scalar_type(label))
        self._replace(segment_id, replacement)
        return replacement

    def _shrink(self, segment_id: str, labelmap: Any) -> None:
        voxels = voxels_of(labelmap)
        faces = (np.moveaxis(voxels, axis, 0)[side] for axis in range(3) for side in (0, -1))
        if all(face.any() for face in faces):  # looking at all voxels takes longer than everything else here
            return
        extent = [0, -1, 0, -1, 0, -1]
        if vtkOrientedImageDataResample.CalculateEffectiveExtent(labelmap, extent):
            i0, i1, j0, j1, k0, k1 = extent
            self._replace(segment_id, recut(labelmap, (i0, i1, j0, j1, k0, k1)))

    def _replace(self, segment_id: str, labelmap: Any) -> None:
        for sharing in self.sharing(segment_id):
            self.segmentation.GetSegment(sharing).AddRepresentation(BINARY_LABELMAP, labelmap)


def _union(first: Extent, second: Extent) -> Extent:
    i0, j0, k0 = (min(a, b) for a, b in zip(first[::2], second[::2], strict=True))
    i1, j1, k1 = (max(a, b) for a, b in zip(first[1::2], second[1::2], strict=True))
    return i0, i1, j0, j1, k0, k1


def accepted_elsewhere(grid: Grid, plane: SlicePlane, accepted: AcceptedSlices) -> NDArray[np.bool_] | None:
    """Which pixels of a plane, bool (H, W), lie in slices that are accepted along other axes; None if none do."""
    axis = None if plane.voxel_slice is None else plane.voxel_slice[0]
    if not any(indices for other, indices in enumerate(accepted.indices) if other != axis):
        return None
    found = np.zeros(plane.shape, bool)
    if axis is None:
        kji, inside = oblique_pixels(grid, plane)
        found[inside] = accepted.contain(kji)
        return found
    rows, columns = (list(indices) for other, indices in enumerate(accepted.indices) if other != axis)
    found[rows, :] = found[:, columns] = True
    return found


def write_mask(
    target: EditTarget,
    plane: SlicePlane,
    mask: NDArray[np.bool_],
    *,
    protect: Sequence[str] = (),
    accepted: AcceptedSlices | None = None,
    touched: NDArray[np.bool_] | None = None,
    derive: Derive = refresh_derived,
) -> bool:
    """Make the segment equal to a mask on one plane, as far as masking and protection allow it.

    Args:
        target: Segment to change.
        plane: The slice; voxels it does not cut stay as they are.
        mask: bool (H, W) on the plane's raster.
        protect: Identifiers of segments that must not change.
        accepted: Slices of the segment that are right; where the plane cuts those along other axes, nothing changes.
        touched: bool (H, W), pixels at which it does all the same, since the user painted there.
        derive: As for `write_voxels`.

    Returns:
        Whether a voxel changed.
    """
    node, segment_id, reference = target.segmentation_node, target.segment_id, target.reference
    voxels = _voxels(target, plane, mask)
    if accepted is not None and not accepted.is_empty:
        free = ~accepted.contain(voxels.kji, but=None if plane.voxel_slice is None else plane.voxel_slice[0])
        if touched is not None:
            free |= touched[tuple(voxels.pixels.T)]
        voxels = PlaneVoxels(voxels.kji[free], voxels.pixels[free])
    if not len(voxels.kji):
        return False
    wanted = mask[tuple(voxels.pixels.T)]
    present = segment_at(node, segment_id, reference, voxels.kji)
    return _write(target, voxels.kji[wanted & ~present], voxels.kji[present & ~wanted], protect, derive)


def write_slices(
    target: EditTarget,
    masks: Sequence[tuple[SlicePlane, NDArray[np.bool_]]],
    *,
    protect: Sequence[str] = (),
    derive: Derive = refresh_derived,
) -> bool:
    """Make the segment equal to masks on several slices at once, as `write_mask` does on each.

    Args:
        target: Segment to change.
        masks: Different slices of the target's grid, and bool (H, W) for each.
        protect: Identifiers of segments that must not change.
        derive: As for `write_voxels`.

    Returns:
        Whether a voxel changed.
    """
    added: list[NDArray[np.int64]] = [np.zeros((0, 3), np.int64)]
    removed = added.copy()
    for plane, mask in masks:
        present = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
        added.append(slice_voxels(plane, mask & ~present))
        removed.append(slice_voxels(plane, present & ~mask))
    return _write(target, np.concatenate(added), np.concatenate(removed), protect, derive)


def slice_voxels(plane: SlicePlane, pixels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The voxels (N, 3) of the marked pixels, bool (H, W), of a plane that is a slice of its grid.

    Raises:
        GeometryError: The plane is oblique.
    """
    if plane.voxel_slice is None:
        raise GeometryError("The plane is oblique: its pixels are no voxels. Write it with write_mask.")
    axis, index = plane.voxel_slice
    return np.insert(np.argwhere(pixels), axis, index, axis=1)


def _write(
    target: EditTarget,
    added: NDArray[np.int64],
    removed: NDArray[np.int64],
    protect: Sequence[str],
    derive: Derive,
) -> bool:
    node, segment_id, reference = target.segmentation_node, target.segment_id, target.reference

    def editable(kji: NDArray[np.int64], *, removing: bool) -> NDArray[np.int64]:
        if not len(kji):
            return kji
        allowed = editable_at(
            node, target.editor_node, segment_id, reference, target.source.masking_array, kji, removing=removing
        )
        return kji[allowed]

    added, removed = editable(added, removing=False), editable(removed, removing=True)
    if not (len(added) or len(removed)):
        return False
    changed = write_voxels(
        node, target.editor_node, segment_id, reference, added, removed, protect=protect, derive=derive
    )
    return changed is not None


def _voxels(target: EditTarget, plane: SlicePlane, mask: NDArray[np.bool_]) -> PlaneVoxels:
    """The voxels of the plane that may change."""
    if plane.voxel_slice is None:
        # A pixel may show a voxel far from where its centre projects to, and some voxels no pixel shows.
        shown = mask.copy()
        shown[_shadow(target, plane)] = True
    else:
        shown = mask | segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
    box = bounding_box(shown)
    if box is None:
        return PlaneVoxels(np.zeros((0, 3), np.int64), np.zeros((0, 2), np.int64))
    return plane_voxels(target.reference.grid, plane, (box[0], box[1]))


def _shadow(target: EditTarget, plane: SlicePlane) -> tuple[slice, slice]:
    """Rows and columns of a plane's raster that the box of the segment's label map projects onto."""
    labelmap = labelmap_of(target.segmentation_node, target.segment)
    if is_empty(labelmap):
        return slice(0), slice(0)
    sides = np.reshape(labelmap.GetExtent(), (3, 2)) + np.array([-0.5, 0.5])
    corners = plane.to_pixels(transformed(image_to_mm(labelmap), list(itertools.product(*sides))))
    # What projects beyond the raster counts as its border, see `PlaneVoxels.pixels`.
    low, high = (np.clip(edge, 0, np.array(plane.shape) - 1) for edge in (corners.min(axis=0), corners.max(axis=0)))
    return slice(int(low[0]), int(high[0]) + 2), slice(int(low[1]), int(high[1]) + 2)
