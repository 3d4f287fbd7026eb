"""Scenes as the Segment Editor sees them, on Slicer's real MRML."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import pytest

try:
    import slicer
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkCommonMath import vtkMatrix4x4
    from vtkmodules.vtkFiltersSources import vtkSphereSource
except ModuleNotFoundError:
    pass  # without slicer-core the tests of this folder skip themselves

SHAPE = (6, 8, 10)


def vtk_matrix(array):
    matrix = vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def oblique_matrix():
    """ijk to RAS: 0.8 × 0.9 × 2.5 mm, turned about all axes, with one of them flipped."""
    a, b = 0.3, -0.2
    turn_k = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_i = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn_k @ turn_i @ np.diag([-0.8, 0.9, 2.5])
    matrix[:3, 3] = (31.0, -12.5, 104.25)
    return matrix


def image_of(array, start_ijk=(0, 0, 0)):
    """vtkImageData with the voxels (K, J, I) or (K, J, I, C), the first of them at VTK index `start_ijk`."""
    k, j, i = array.shape[:3]
    image = vtkImageData()
    image.SetExtent(
        *(bound for start, size in zip(start_ijk, (i, j, k), strict=True) for bound in (start, start + size - 1))
    )
    components = np.ascontiguousarray(array).reshape(k * j * i, -1)
    scalars = numpy_to_vtk(components if components.shape[1] > 1 else components.ravel(), deep=True)
    image.GetPointData().SetScalars(scalars)
    return image


@dataclass
class Editor:
    """The Segment Editor without its window: the nodes, and the logic that Slicer's own effects write with."""

    scene: object
    volume: object
    segmentation_node: object
    node: object
    logic: object
    module_logic: object = field(repr=False)

    @property
    def segmentation(self):
        return self.segmentation_node.GetSegmentation()

    def segment(self, segment_id):
        return self.segmentation.GetSegment(segment_id)

    def labelmap(self, segment_id):
        return self.segment(segment_id).GetRepresentation("Binary labelmap")

    def reference_image(self):
        image = slicer.vtkOrientedImageData()
        text = self.logic.GetReferenceImageGeometryString()
        assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False)
        return image

    def modifier(self, mask):
        """What a Slicer effect hands over: a label map of the whole reference geometry."""
        image = self.reference_image()
        image.AllocateScalars(3, 1)
        vtk_to_numpy(image.GetPointData().GetScalars())[:] = mask.ravel()
        return image

    def modify(self, segment_id, mask, mode):
        """Change a segment as Slicer's effects do, obeying all settings."""
        self.node.SetSelectedSegmentID(segment_id)
        self.logic.ModifySegmentByLabelmap(self.segmentation_node, segment_id, self.modifier(mask), mode, True, False)

    def add_segment(self, mask=None, *, own_layer=False):
        """A new segment with the voxels (K, J, I) of a mask, whatever other segments have them."""
        segment_id = self.segmentation.AddEmptySegment()
        if own_layer:
            self.segmentation.SeparateSegmentLabelmap(segment_id)
        if mask is not None:
            self.module_logic.SetBinaryLabelmapToSegment(
                self.modifier(mask),
                self.segmentation_node,
                segment_id,
                self.module_logic.MODE_MERGE_MAX if own_layer else self.module_logic.MODE_MERGE_MASK,
            )
        self.node.SetSelectedSegmentID(segment_id)
        return segment_id

    def mask(self, segment_id):
        """bool (K, J, I) on the reference geometry, as Slicer's own masking sees the segment."""
        outside = slicer.vtkOrientedImageData()
        inside_single = self.segmentation_node.EditAllowedInsideSingleSegment
        assert self.segmentation_node.GenerateEditMask(outside, inside_single, self.reference_image(), "", segment_id)
        i, j, k = outside.GetDimensions()
        return vtk_to_numpy(outside.GetPointData().GetScalars()).reshape(k, j, i) == 0

    def masks(self):
        return {segment_id: self.mask(segment_id) for segment_id in self.segmentation.GetSegmentIDs()}

    def target(self, segment_id, images=None):
        """The segment together with the source volume, as the effect edits them."""
        from scribblesegment.mrml.source_image import SourceImages
        from scribblesegment.mrml.target import target_of

        return target_of(self.node, self.segmentation_node, segment_id, images or SourceImages())

    def share_a_layer(self, first, second):
        return self.labelmap(first) is self.labelmap(second)

    def show(self, segment_id, visible):
        self.segmentation_node.GetDisplayNode().SetSegmentVisibility(segment_id, visible)

    def put_under(self, node, matrix):
        """Place a node under a new linear transform."""
        transform = self.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(vtk_matrix(matrix))
        node.SetAndObserveTransformNodeID(transform.GetID())
        return transform


def a_volume(scene, array, ijk_to_ras, *, start_ijk=(0, 0, 0), kind="vtkMRMLScalarVolumeNode", name="CT"):
    volume = scene.AddNewNodeByClass(kind, name)
    volume.SetIJKToRASMatrix(vtk_matrix(ijk_to_ras))
    volume.SetAndObserveImageData(image_of(array, start_ijk))
    return volume


@functools.cache
def segmentations_logic():
    """One for all scenes: each adds all rules of conversion once more, and the paths through them are searched."""
    return slicer.vtkSlicerSegmentationsModuleLogic()


def an_editor_on(array, ijk_to_ras, **of_volume):
    scene, module_logic = slicer.vtkMRMLScene(), segmentations_logic()
    module_logic.SetMRMLScene(scene)
    volume = a_volume(scene, array, ijk_to_ras, **of_volume)
    segmentation_node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    segmentation_node.CreateDefaultDisplayNodes()
    segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    logic = slicer.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(scene)
    logic.SetSegmentEditorNode(node)
    node.SetAndObserveSegmentationNode(segmentation_node)
    node.SetAndObserveSourceVolumeNode(volume)
    logic.SetMaximumNumberOfUndoStates(50)
    return Editor(scene, volume, segmentation_node, node, logic, module_logic)


def ct_voxels(shape=SHAPE):
    """Each voxel with a value of its own, from -200 upwards."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 200


@pytest.fixture
def new_editor():
    """Makes an editor on a volume of one's own; see `an_editor_on`."""

    def make(array=None, ijk_to_ras=None, **of_volume):
        return an_editor_on(
            ct_voxels() if array is None else array, oblique_matrix() if ijk_to_ras is None else ijk_to_ras, **of_volume
        )

    return make


@pytest.fixture
def an_editor(new_editor):
    """An editor on a small oblique CT with an empty segmentation."""
    return new_editor()


@pytest.fixture
def new_volume(an_editor):
    """Adds another volume to the scene; see `a_volume`."""

    def make(array, ijk_to_ras=None, **how):
        return a_volume(an_editor.scene, array, oblique_matrix() if ijk_to_ras is None else ijk_to_ras, **how)

    return make


@pytest.fixture
def a_slice_node(an_editor):
    """An axial slice view of 200 × 150 pixels over 100 × 75 mm, through the middle of the CT."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(an_editor.scene)
    slice_node = an_editor.scene.AddNewNodeByClass("vtkMRMLSliceNode")
    slice_node.SetLayoutName("Red")
    slice_node.SetOrientationToAxial()
    slice_node.SetDimensions(200, 150, 1)
    slice_node.SetFieldOfView(100.0, 75.0, 1.0)
    bounds = [0.0] * 6
    an_editor.volume.GetRASBounds(bounds)
    slice_node.JumpSliceByCentering(*(sum(bounds[2 * axis : 2 * axis + 2]) / 2 for axis in range(3)))
    return slice_node


@pytest.fixture
def a_surface_segmentation(an_editor):
    """A segmentation stored as one surface: a sphere in the middle of the CT."""
    from scribblesegment.mrml.geometry import reference_geometry

    node = an_editor.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Model")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(an_editor.volume)
    node.SetSourceRepresentationToClosedSurface()
    sphere = vtkSphereSource()
    sphere.SetCenter(*reference_geometry(node).grid.to_mm((3, 4, 5)))
    sphere.SetRadius(2.4)
    sphere.Update()
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere")
    return node


def box_mask(box, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*bounds) for bounds in box)] = True
    return mask


@pytest.fixture
def box():
    """Makes a bool mask (K, J, I) that is true in a half-open box."""
    return box_mask


@pytest.fixture
def matrix_of():
    """Makes a vtkMatrix4x4 of an array."""
    return vtk_matrix


@pytest.fixture
def oblique():
    """The matrix of the small CT."""
    return oblique_matrix()
