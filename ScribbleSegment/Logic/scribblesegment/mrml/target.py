"""What the Segment Editor is set to edit, the task and the context of a segment, and the slices that views show."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet, SliceContext
from scribblesegment.data.drawing import Drawing
from scribblesegment.data.geometry import SlicePlane, grid_slice, sample
from scribblesegment.errors import GeometryError, ImageError, PromptError
from scribblesegment.mrml.geometry import (
    ReferenceGeometry,
    array_of,
    reference_geometry,
    slice_normals,
    transformed,
    view_plane,
    world_to_mm,
)
from scribblesegment.mrml.labelmaps import segment_on_plane
from scribblesegment.mrml.source_image import SourceImage, SourceImages
from scribblesegment.mrml.tags import read_drawing

# The effect's parameter on the editor node: "1" if intensities are those of the volume's display window.
AS_DISPLAYED = "Scribble Segment.IntensitiesAsDisplayed"


@dataclass(frozen=True, eq=False)
class EditTarget:
    """A snapshot of the Segment Editor's selections, with the image on the segmentation's own voxels."""

    editor_node: Any  # vtkMRMLSegmentEditorNode, which holds masking and overwrite mode
    segmentation_node: Any  # vtkMRMLSegmentationNode
    segment_id: str  # of the selected segment
    source_node: Any  # vtkMRMLScalarVolumeNode
    reference: ReferenceGeometry  # lattice that all voxel indices are of
    source: SourceImage  # the image on that lattice

    @property
    def segment(self) -> Any:
        """The vtkSegment, or None when it was removed."""
        segmentation = self.segmentation_node.GetSegmentation()
        return None if segmentation is None else segmentation.GetSegment(self.segment_id)

    @property
    def gestures(self) -> Drawing:
        """Everything drawn for the segment so far."""
        return read_drawing(self.segment)

    @property
    def exists(self) -> bool:
        """Whether segmentation and segment are still in the scene."""
        scene = self.segmentation_node.GetScene()
        return scene is not None and not scene.IsClosing() and self.segment is not None

    def same_segment(self, other: EditTarget) -> bool:
        """Whether both are about the same segment."""
        return self.segmentation_node is other.segmentation_node and self.segment_id == other.segment_id


def resolve_target(editor_node: Any, images: SourceImages) -> EditTarget:
    """Read the Segment Editor's selections.

    Args:
        editor_node: vtkMRMLSegmentEditorNode, or None.
        images: Where the image on the segmentation's lattice is kept.

    Returns:
        The target; its parts are known to exist and fit together.

    Raises:
        PromptError: No segmentation or no segment is selected.
        ImageError: No source volume is selected, or it cannot be segmented.
        GeometryError: The geometries cannot be brought together.
    """
    segmentation_node = editor_node.GetSegmentationNode() if editor_node is not None else None
    if segmentation_node is None or segmentation_node.GetSegmentation() is None:
        raise PromptError("No segmentation is selected. Choose or create one at the top of the Segment Editor.")
    segment_id = editor_node.GetSelectedSegmentID() or ""
    if segmentation_node.GetSegmentation().GetSegment(segment_id) is None:
        raise PromptError("No segment is selected. Press Add to create one, or select one in the list of segments.")
    return target_of(editor_node, segmentation_node, segment_id, images)


def target_of(editor_node: Any, segmentation_node: Any, segment_id: str, images: SourceImages) -> EditTarget:
    """Bring a segment together with the editor's source volume, as it is now.

    Args:
        editor_node: vtkMRMLSegmentEditorNode.
        segmentation_node: vtkMRMLSegmentationNode.
        segment_id: Of one of its segments.
        images: Where the image on the segmentation's lattice is kept.

    Raises:
        ImageError: No source volume is selected, or it cannot be segmented.
        GeometryError: The geometries cannot be brought together.
    """
    source_node = editor_node.GetSourceVolumeNode()
    if source_node is None:
        raise ImageError("No source volume is selected. Choose the image to segment at the top of the Segment Editor.")
    reference = reference_geometry(segmentation_node, source_node)
    as_displayed = editor_node.GetAttribute(AS_DISPLAYED) == "1"
    source = images.get(source_node, segmentation_node, reference, as_displayed=as_displayed)
    return EditTarget(editor_node, segmentation_node, segment_id, source_node, reference, source)


# The task of a segment ---------------------------------------------------------------------------------------------

_ATTRIBUTE = "ScribbleSegment.Task."
_IDENTITY = "ScribbleSegment.Identity"

# What Slicer calls a segment that nobody has named.
_UNNAMED = re.compile(r"Segment(_\d+)?")


@dataclass(frozen=True)
class ContextTask:
    """Where a context set belongs."""

    name: str  # as the user sees it
    key: str  # equal for the same set; for a set that is kept, its name without regard to case
    # Whether the set outlives the session. Those of segments that nobody has named do not: tomorrow's "Segment_1" is
    # another structure.
    kept: bool


def task_of(segmentation_node: Any, segment_id: str) -> ContextTask | None:
    """The task of a segment: the one that was chosen for it, else that of its name; None where there is no segment."""
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        return None
    chosen = segmentation_node.GetAttribute(_ATTRIBUTE + segment_id)
    if chosen and chosen.strip():
        return kept_task(chosen)
    name = (segment.GetName() or "").strip()
    if not name or _UNNAMED.fullmatch(name):
        return ContextTask(name or segment_id, f"\n{_identity(segmentation_node)}\n{segment_id}", kept=False)
    return kept_task(name)


def kept_task(name: str) -> ContextTask:
    """The task of a name."""
    return ContextTask(name.strip(), name.strip().casefold(), kept=True)


def choose_task(segmentation_node: Any, segment_id: str, name: str) -> None:
    """Choose a task for a segment; a blank name takes the choice back. It is saved with the scene."""
    attribute = _ATTRIBUTE + segment_id
    if name.strip():
        segmentation_node.SetAttribute(attribute, name.strip())
    else:
        segmentation_node.RemoveAttribute(attribute)


def _identity(segmentation_node: Any) -> str:
    """What tells segmentations apart: the scene gives the name and the ID of one that has gone to the next."""
    identity = segmentation_node.GetAttribute(_IDENTITY)
    if not identity:
        identity = uuid.uuid4().hex
        segmentation_node.SetAttribute(_IDENTITY, identity)
    return str(identity)


# The context of a segment ------------------------------------------------------------------------------------------

_LONGEST_NAME = 150

# Voxels along each axis that tell volumes apart.
_SAMPLES = 16


def context_entry(target: EditTarget, plane: SlicePlane) -> ContextEntry:
    """Make an entry of the segment on a slice, as it is now.

    Raises:
        PromptError: The segment has no pixel on the slice.
    """
    mask = segment_on_plane(target.segmentation_node, target.segment_id, target.reference, plane)
    if not mask.any():
        raise PromptError(
            f"The segment {target.segment.GetName()!r} is empty on this slice, so the slice shows nothing to learn "
            "from. Segment it first."
        )
    source = target.source
    image = sample(source.array, target.reference.grid, plane, outside=source.intensity_range.low)
    axis, index = plane.voxel_slice or (None, None)
    return ContextEntry(
        source.intensity_range.normalize(image),
        mask,
        plane.spacing_mm,
        source=source_name(target),
        axis=axis,
        index=index,
    )


def slice_context(target: EditTarget, plane: SlicePlane, entries: ContextSet | None) -> SliceContext | None:
    """What a slice is predicted from besides its prompts; None where there is nothing."""
    if entries is None or len(entries) == 0:
        return None
    axis, index = plane.voxel_slice or (None, None)
    return SliceContext(entries, source_name(target), axis, index)


def source_name(target: EditTarget) -> str:
    """Name of the volume in context entries: the same for the same voxels, and hardly ever for others.

    Volumes of different patients are often called alike, and slices of one volume replace each other in context sets.
    """
    name = "".join(c if c.isprintable() else " " for c in target.source_node.GetName() or "")
    # Nothing that could be taken for a path, of which only the end would be kept.
    name = re.sub(r"[\\/:~]+", "_", name)[:_LONGEST_NAME].strip() or "volume"
    # Some voxels will do: reading all of a large volume would be felt.
    array = target.source.array
    voxels: Any = np.ascontiguousarray(
        array[tuple(slice(None, None, max(side // _SAMPLES, 1)) for side in array.shape)]
    )
    return f"{name} [{hashlib.sha256(repr(array.shape).encode() + voxels.tobytes()).hexdigest()[:8]}]"


# Slices and views --------------------------------------------------------------------------------------------------


def shown_slice(slice_node: Any, target: EditTarget) -> tuple[int, int]:
    """Axis and index of the slice that a view shows.

    Raises:
        GeometryError: The view does not cut the volume, or is not along one of its axes.
    """
    plane = view_plane(slice_node, target.segmentation_node, target.reference.grid)
    if plane.voxel_slice is None:
        cosine = abs(slice_normals(target.reference.grid.steps_kji_mm) @ plane.normal).max()
        away = np.degrees(np.arccos(min(cosine, 1.0)))
        raise GeometryError(
            f"The view is oblique, {away:.0f}° away from the nearest axis of the volume. Slices are accepted and "
            "propagated along the volume's axes: press 'Align view'."
        )
    return plane.voxel_slice


def align_view(slice_node: Any, target: EditTarget) -> None:
    """Turn a slice view to the nearest axis of the volume, onto the slice nearest to the middle of the view.

    Raises:
        GeometryError: The segmentation is under a transform that is not linear.
    """
    grid = target.reference.grid
    to_mm = world_to_mm(target.segmentation_node)
    to_world = np.linalg.inv(to_mm)
    view = array_of(slice_node.GetSliceToRAS())
    steps = grid.steps_kji_mm @ to_world[:3, :3].T
    normals = slice_normals(steps)
    axis = int(np.argmax(abs(normals @ view[:3, 2])))
    toward = _alike(normals[axis], view[:3, 2])
    in_plane = [steps[other] for other in range(3) if other != axis]
    across = _alike(_unit(max(in_plane, key=lambda step: abs(_unit(step) @ view[:3, 0]))), view[:3, 0])
    position = grid.to_kji(transformed(to_mm, view[:3, 3]))
    position[axis] = min(max(round(position[axis]), 0), grid.shape[axis] - 1)
    # Up may turn over: views that are mirrored, as those from the feet, stay so.
    up = np.cross(toward, across)
    if np.linalg.det(view[:3, :3]) < 0:
        up = -up
    for row in range(3):
        for column, direction in enumerate((across, up, toward)):
            slice_node.GetSliceToRAS().SetElement(row, column, float(direction[row]))
        slice_node.GetSliceToRAS().SetElement(row, 3, float(transformed(to_world, grid.to_mm(position))[row]))
    slice_node.UpdateMatrices()


def show_slice(slice_node: Any, target: EditTarget, index: int) -> None:
    """Move a view that is along an axis of the volume to another slice of that axis.

    Raises:
        GeometryError: The view is not along an axis, or there is no such slice.
    """
    axis, _ = shown_slice(slice_node, target)
    plane = grid_slice(target.reference.grid, axis, index)
    to_world = np.linalg.inv(world_to_mm(target.segmentation_node))
    x, y, z = transformed(to_world, plane.to_mm((np.array(plane.shape) - 1) / 2.0)).tolist()
    slice_node.JumpSliceByOffsetting(x, y, z)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


def _alike(direction: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """A direction or its opposite, whichever is closer to another one."""
    return direction if direction @ other >= 0 else -direction
