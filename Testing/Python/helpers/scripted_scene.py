"""A user at work in a scene of Slicer's real MRML: strokes, undo, accepted slices, propagation, corrections.

The imports of the package below are everything that is not public here.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import mutable
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from scribblesegment import read_labelmap, read_volume
from scribblesegment.mrml.corrections import ResultSource, corrections_for, new_result, write_labels
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.propagation import PropagationOptions, VolumePropagation
from scribblesegment.mrml.recorder import Annotation
from scribblesegment.mrml.slice_segmenter import SegmenterOptions, SliceSegmenter
from scribblesegment.mrml.target import choose_task, task_of
from scribblesegment.service.service import InferenceService

LONG = 1200.0  # seconds that only a defect takes


class Desk:
    """An editor on a volume with one empty segment, an axial view, and the embedded networks."""

    def __init__(self, image: Path) -> None:
        volume = read_volume(image)
        self.shape, self.ijk_to_ras = volume.shape, volume.ijk_to_ras
        self.scene = slicer.vtkMRMLScene()
        slicer.vtkSlicerSegmentationsModuleLogic().SetMRMLScene(self.scene)
        voxels = vtkImageData()
        voxels.SetDimensions(*volume.shape[::-1])
        voxels.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(volume.array).ravel(), deep=True))
        matrix = vtkMatrix4x4()
        matrix.DeepCopy(volume.ijk_to_ras.ravel().tolist())
        self.volume = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        self.volume.SetIJKToRASMatrix(matrix)
        self.volume.SetAndObserveImageData(voxels)
        self.node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
        self.node.CreateDefaultDisplayNodes()
        self.node.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        self.editor = self.scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(self.scene)
        self.logic.SetSegmentEditorNode(self.editor)
        self.logic.SetMaximumNumberOfUndoStates(20)
        self.editor.SetAndObserveSegmentationNode(self.node)
        self.editor.SetAndObserveSourceVolumeNode(self.volume)
        self.segment_id = self.node.GetSegmentation().AddEmptySegment("", "Liver")
        self.editor.SetSelectedSegmentID(self.segment_id)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
        self.view = self.scene.AddNewNodeByClass("vtkMRMLSliceNode")
        self.view.SetLayoutName("Red")
        self.view.SetOrientationToAxial()
        self.service = InferenceService()
        self.controller = SliceSegmenter(
            self.service, save_state=self.logic.SaveStateForUndo, options=SegmenterOptions(protect="none")
        )
        self.propagation = VolumePropagation(self.service, save_state=self.logic.SaveStateForUndo)

    def world(self, k: float, j: float, i: float) -> list[float]:
        return (self.ijk_to_ras @ (i, j, k, 1.0))[:3].tolist()

    def show(self, k: int) -> None:
        self.view.JumpSliceByOffsetting(*self.world(k, 32, 32))

    def stroke(self, k: int, column: int, *, positive: bool = True) -> None:
        self.show(k)
        points = np.linspace(self.world(k, 24, column), self.world(k, 38, column), 4)
        self.draw("stroke", points, positive=positive)
        self.settle(self.controller)

    def draw(self, kind: str, points, *, positive: bool) -> None:
        drawn = Annotation(kind, tuple(map(tuple, points)), positive)
        self.controller.draw(*self.controller.place(self.editor, self.view), drawn, 1.5)

    def click(self, k: int) -> None:
        self.show(k)
        self.draw("click", [self.world(k, 8, 50)], positive=False)
        self.settle(self.controller)

    def box(self, k: int) -> None:
        self.show(k)
        self.draw("box", [self.world(k, 14, 9), self.world(k, 46, 31)], positive=True)
        self.settle(self.controller)

    def remove_newest(self) -> None:
        self.controller.remove_gesture(self.editor, self.view)
        self.settle(self.controller)

    def propagate(self) -> None:
        self.propagation.start(self.editor, self.view, PropagationOptions(), all_segments=False)
        self.settle(self.propagation)

    def settle(self, worker: Any) -> None:
        until = time.monotonic() + LONG
        while worker.busy:
            if time.monotonic() > until:
                raise TimeoutError(f"no result within {LONG} s")
            self.service.wait(0.05)
            problem = worker.poll().problem
            if problem is not None:
                raise RuntimeError(problem)

    def mask(self) -> np.ndarray:
        """The segment, as Slicer's own masking sees it."""
        outside, reference = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
        geometry = self.logic.GetReferenceImageGeometryString()
        slicer.vtkSegmentationConverter.DeserializeImageGeometry(geometry, reference, False)
        inside = self.node.EditAllowedInsideSingleSegment
        self.node.GenerateEditMask(outside, inside, reference, "", self.segment_id)
        return vtk_to_numpy(outside.GetPointData().GetScalars()).reshape(self.shape) == 0


def play(*, image: Path, labels: Path, to_load: Path, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Do what a user does, and describe tags and voxels after each step.

    Args:
        image: Volume with a bright structure around (5, 30, 20).
        labels: A label map of it, taken for a network's result.
        to_load: A segmentation that an earlier version saved.
        folder: Where to save the scene's segmentation.
        names: Tags, attributes and roles to look for.
    """
    desk = Desk(image)
    steps: dict[str, Callable[[], object]] = {
        "a stroke": lambda: desk.stroke(5, 20),
        "a background stroke": lambda: desk.stroke(5, 40, positive=False),
        "a background click": lambda: desk.click(5),
        "undo": desk.logic.Undo,
        "undo again": desk.logic.Undo,
        "redo": desk.logic.Redo,
        "the slice is not accepted": lambda: desk.controller.take_back_slice(desk.editor, desk.view),
        "the slice is accepted": lambda: desk.controller.accept_slice(desk.editor, desk.view),
        "a box on another slice": lambda: desk.box(7),
        "a stroke there": lambda: desk.stroke(7, 20),
        "the stroke is removed": desk.remove_newest,
        "propagation": desk.propagate,
        "undo of the propagation": desk.logic.Undo,
        "redo of the propagation": desk.logic.Redo,
        "the slice is cleared": lambda: desk.controller.clear_slice(desk.editor, desk.view),
        "the segment is cleared": lambda: desk.controller.clear_segment(desk.editor),
        "undo of that": desk.logic.Undo,
    }
    found: dict[str, Any] = {}
    for step, do in steps.items():
        do()
        inside = desk.mask()
        found[step] = {
            "tags": tags_of(desk.node, desk.segment_id, names),
            "voxels~": {str(k): int(inside[k].sum()) for k in range(len(inside)) if inside[k].any()},
            "undo, redo": [bool(desk.logic.CanUndo()), bool(desk.logic.CanRedo())],
        }
    choose_task(desk.node, desk.segment_id, "Livers of 2026")
    task = task_of(desk.node, desk.segment_id)
    found["task"] = [task and task.name, desk.node.GetAttribute(f"ScribbleSegment.Task.{desk.segment_id}")]

    structures = ("background", "Liver", "Cyst", "Spleen")
    result = new_result(desk.scene, desk.volume, "CT by bright", ResultSource("bright.pt", structures))
    write_labels(result, reference_geometry(result), read_labelmap(labels).array.astype(np.int16), structures)
    found["correction"] = {
        node.GetName(): {
            "attributes": {name: node.GetAttribute(name) for name in names if node.GetAttribute(name)},
            "roles": [name for name in names if node.GetNodeReferenceID(name)],
            "segments": [
                [node.GetSegmentation().GetSegment(one).GetName(), tags_of(node, one, names)]
                for one in node.GetSegmentation().GetSegmentIDs()
            ],
        }
        for node in (result, corrections_for(result, desk.volume, structures, "Corrections"))
    }
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(folder / "scene.seg.nrrd"))
    storage.WriteData(desk.node)
    found["saved"] = tags_in_file(folder / "scene.seg.nrrd", names)
    found["saved by version 0.1.0"] = tags_in_file(to_load, names)
    desk.service.close()
    return found


def tags_in_file(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Tags of all segments of a segmentation file, as Slicer loads it."""
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    if not storage.ReadData(node):
        raise OSError(f"Slicer cannot read {path}")
    return [tags_of(node, one, names) for one in node.GetSegmentation().GetSegmentIDs()]


def tags_of(node: Any, segment_id: str, names: Sequence[str]) -> dict[str, Any]:
    value, segment = mutable(""), node.GetSegmentation().GetSegment(segment_id)
    return {name: decoded(str(value)) for name in names if segment.GetTag(name, value)}


def decoded(text: str) -> Any:
    """What a tag says, a line of JSON a part: the format belongs to saved scenes, the compression does not."""
    if re.match(r"[0-9a-f]{32}\b", text):
        return f"<identity>{text[32:]}"
    if not re.fullmatch(r"1[\w-]{40,}", text):
        return text
    packed = base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
    try:
        parts = [zlib.decompress(packed)]
    except zlib.error:
        count, checksum = struct.unpack_from(">II", packed)
        if zlib.crc32(packed[8:]) != checksum:
            raise ValueError(f"wrong checksum in {text}") from None
        sizes = struct.unpack_from(f">{count}I", packed, 8)
        ends = np.cumsum([8 + 4 * count, *sizes])
        parts = [zlib.decompress(packed[start:end]) for start, end in pairwise(ends)]
    return [json.dumps(rounded(json.loads(part)), separators=(",", ":")) for part in parts]


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3) + 0.0
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return {key: rounded(one) for key, one in value.items()} if isinstance(value, dict) else value
