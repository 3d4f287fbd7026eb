"""Time what the Segment Editor effect does after a stroke, on Slicer's real MRML: `python scripts/benchmark_effect.py`.

Drives the effect's controller on a synthetic CT with a segment in every slice. Each gesture is a stroke on another
slice or a correction of the one before. Measured from the end of the stroke to the changed segment, with the polling
that the effect's timer does in between; the longest time that a single call holds up the window is given beside it.
Needs slicer-core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import slicer
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonDataModel import vtkImageData

from scribblesegment.mrml import slice_segmenter as controller_module
from scribblesegment.mrml.slice_segmenter import ControllerOptions, ScribbleController
from scribblesegment.service.service import InferenceService

# The functions that the controller calls, as they are named in the output; their time is part of `paint` or `poll`.
_STEPS = {
    "resolve_target": "selections and image",
    "view_plane": "view geometry",
    "write_drawing": "store prompts",
    "rasterize": "rasterise prompts",
    "segment_on_plane": "read segment",
    "write_mask": "write segment",
}
# The effect's timer waits this long for the result, then lets the window live.
_WAIT_SECONDS = 0.006


@dataclass
class Figures:
    """Milliseconds of each gesture, by what was measured."""

    total: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)
    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> int:
    """Parse the arguments and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), metavar=("K", "J", "I"))
    parser.add_argument("--gestures", type=int, default=60)
    parser.add_argument("--oblique", action="store_true", help="draw in a view that is turned against the volume")
    parser.add_argument("--masked", action="store_true", help="with an editable area and an intensity range")
    arguments = parser.parse_args()
    service = InferenceService()
    scene = Scene(tuple(arguments.shape), oblique=arguments.oblique, masked=arguments.masked)
    controller = ScribbleController(
        service, save_state=scene.logic.SaveStateForUndo, options=ControllerOptions(protect_visible=True)
    )
    _warm_up(controller, service, scene)
    figures = Figures()
    with _timed_steps(controller, figures):
        for number in range(arguments.gestures):
            _gesture(controller, service, scene, number, figures)
    service.close()
    _report(figures, arguments)
    return 0


class Scene:
    """A CT with a bright cylinder, a segment that spans it, a neighbour, and an axial or oblique slice view."""

    def __init__(self, shape: tuple[int, ...], *, oblique: bool, masked: bool) -> None:
        k, j, i = shape
        self.scene = slicer.vtkMRMLScene()
        self._module_logic = slicer.vtkSlicerSegmentationsModuleLogic()
        self._module_logic.SetMRMLScene(self.scene)
        self.spacing, self.shape = (0.8, 0.8, 1.5), shape
        volume = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        volume.SetSpacing(self.spacing)
        volume.SetAndObserveImageData(_image(_cylinder(shape)))
        self.segmentation = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.segmentation.CreateDefaultDisplayNodes()
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        self.editor = self.scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(self.scene)
        self.logic.SetSegmentEditorNode(self.editor)
        self.editor.SetAndObserveSegmentationNode(self.segmentation)
        self.editor.SetAndObserveSourceVolumeNode(volume)
        self.segment, neighbour = (self.segmentation.GetSegmentation().AddEmptySegment() for _ in range(2))
        self._fill(self.segment, (i // 4, i // 3, j // 4, j // 3, 0, k - 1))
        self._fill(neighbour, (i // 10, i // 6, j // 4, 3 * j // 4, 0, k - 1))
        self.editor.SetSelectedSegmentID(self.segment)
        if masked:
            self.editor.SetMaskMode(self.segmentation.EditAllowedOutsideAllSegments)
            self.editor.SourceVolumeIntensityMaskOn()
            self.editor.SetSourceVolumeIntensityMaskRange(-500.0, 500.0)
        self.view = slicer.vtkMRMLSliceNode()
        self.view.SetLayoutName("Red")
        self.scene.AddNode(self.view)
        self.oblique = oblique

    def show(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Move the view to a slice; returns centre (3,) and two in-plane directions (2, 3) in the world."""
        _, j, i = self.shape
        center = np.array([i / 2, j / 2, index]) * self.spacing
        angle = 0.3 if self.oblique else 0.0
        across, up = np.array([np.cos(angle), 0.0, np.sin(angle)]), np.array([0.0, 1.0, 0.0])
        normal = np.cross(across, up)
        self.view.SetSliceToRASByNTP(*normal, *across, *center, 0)
        return center, np.stack([across, up])

    def _fill(self, segment_id: str, extent: tuple[int, ...]) -> None:
        image = slicer.vtkOrientedImageData()
        image.SetExtent(*extent)
        image.SetSpacing(self.spacing)
        image.AllocateScalars(3, 1)
        image.GetPointData().GetScalars().Fill(1)
        self._module_logic.SetBinaryLabelmapToSegment(
            image, self.segmentation, segment_id, self._module_logic.MODE_MERGE_MASK
        )


def _cylinder(shape: tuple[int, ...]) -> np.ndarray:
    _, j, i = shape
    rows, columns = np.ogrid[:j, :i]
    noise = np.random.default_rng(0).normal(0.0, 20.0, (j, i))
    inside = np.hypot(rows - j / 2, columns - i / 2) < min(j, i) / 6
    plane = np.where(inside, 120.0, -50.0) + noise
    return np.ascontiguousarray(np.broadcast_to(plane.astype(np.int16), shape))


def _image(voxels: np.ndarray) -> Any:
    image = vtkImageData()
    image.SetDimensions(*voxels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=True))
    return image


def _gesture(
    controller: ScribbleController, service: InferenceService, scene: Scene, number: int, figures: Figures
) -> None:
    """Draw one stroke, and wait until the segment has changed as the effect does."""
    index = scene.shape[0] // 2 + (number // 2) % 20 - 10
    center, axes = scene.show(index)
    radius = min(scene.shape[1:]) / 6 * scene.spacing[0]
    along = np.linspace(-0.6, 0.6, 60)[:, None]
    # The first stroke of a slice lies in the cylinder, the second, a correction, beside it.
    offset = np.zeros(3) if number % 2 == 0 else 1.3 * radius * axes[1]
    points = center + offset + along * radius * axes[0]
    began = time.perf_counter()
    controller.paint(scene.editor, scene.view, points, 2.0, positive=number % 2 == 0)
    blocked = time.perf_counter() - began
    while controller.busy:
        service.wait(_WAIT_SECONDS)
        started = time.perf_counter()
        update = controller.poll()
        blocked = max(blocked, time.perf_counter() - started)
        if update.problem:
            raise SystemExit(f"error: {update.problem}")
    figures.total.append(1000.0 * (time.perf_counter() - began))
    figures.blocked.append(1000.0 * blocked)
    figures.network.append(service.state.milliseconds or 0.0)


def _warm_up(controller: ScribbleController, service: InferenceService, scene: Scene) -> None:
    """Do what happens when the effect is activated, and draw once."""
    service.prepare()
    while service.state.kind in ("idle", "loading"):
        service.wait(0.1)
    if service.state.kind == "failed":
        raise SystemExit(f"error: {service.state.message}")
    controller.target(scene.editor)
    _gesture(controller, service, scene, 0, Figures())
    controller.clear_slice(scene.editor, scene.view)


def _timed_steps(controller: ScribbleController, figures: Figures) -> Any:
    """Put a stopwatch around each step, until the returned context ends."""

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                figures.steps[name].append(1000.0 * (time.perf_counter() - began))

        return wrapped

    controller._save_state = timed("save undo state", controller._save_state)
    replacements: dict[str, Any] = {
        name: timed(text, getattr(controller_module, name)) for name, text in _STEPS.items()
    }
    return patch.multiple(controller_module, **replacements)


def _report(figures: Figures, arguments: argparse.Namespace) -> None:
    total, count = sorted(figures.total), len(figures.total)
    print(f"{arguments.shape} voxels, {count} gestures, {'oblique' if arguments.oblique else 'axial'} view")
    print(f"stroke end to changed segment  {_summary(total)}")
    print(f"longest hold of the window     {_summary(sorted(figures.blocked))}, worst {max(figures.blocked):.1f} ms")
    whole = sum(total)
    print(f"{'step':<32}{'ms a gesture':>12}{'share':>8}")
    rows = {"network, on its thread": sum(figures.network)} | {
        name: sum(times) for name, times in figures.steps.items()
    }
    rows["everything else"] = whole - sum(rows.values())
    for name, milliseconds in rows.items():
        print(f"{name:<32}{milliseconds / count:>12.1f}{milliseconds / whole:>8.0%}")


def _summary(times: list[float]) -> str:
    high = times[min(len(times) - 1, int(0.95 * len(times)))]
    return f"median {statistics.median(times):6.1f} ms, 95 % {high:6.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
