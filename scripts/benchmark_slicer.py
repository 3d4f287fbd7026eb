"""How long things take inside the application, with its window: `Slicer --python-script scripts/benchmark_slicer.py`.

The module's folder must be among the additional module paths. Draws with mouse events on a synthetic volume, with the
network that is the default here, and prints one line for each figure. What the window is held for is the longest time
that a single mouse event takes.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import slicer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Testing" / "Python" / "app"))

from effect_case import EffectCase

from scribblesegment.service.service import InferenceService
from ScribbleSegmentLib import Inference as SharedInference
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME

SHAPE = (100, 512, 512)
STROKES, EXAMPLES = 8, 25
MOVE_SECONDS = 0.025  # between two moves of a hand: a stroke takes a third of a second


class Benchmark(EffectCase):
    """The effect on a bright ellipsoid in noise."""

    def build(self) -> None:
        """Make the scene, and open the effect with the real network."""
        k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
        inside = ((k - 50) / 40) ** 2 + ((j - 256) / 100) ** 2 + ((i - 256) / 120) ** 2 < 1
        array = np.random.default_rng(0).normal(100, 10, SHAPE) + 60 * inside
        self.volume = slicer.util.addVolumeFromArray(array.astype(np.int16), name="Ellipsoid")
        self.volume.SetSpacing(0.8, 0.8, 2.0)
        slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
        self.segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
        self.segmentation.CreateDefaultDisplayNodes()
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        self.first = self.segmentation.GetSegmentation().AddEmptySegment("Ellipsoid", "Ellipsoid")
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        slicer.util.selectModule("SegmentEditor")
        self.editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        slicer.app.processEvents()
        SharedInference.replaceSharedInference(InferenceService())
        began = time.perf_counter()
        self.editor.setSegmentationNode(self.segmentation)
        self.editor.setSourceVolumeNode(self.volume)
        self.editor.setCurrentSegmentID(self.first)
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.events: dict[str, list[float]] = {}
        self.stroke(20)
        print(f"click on the effect to the first mask     {time.perf_counter() - began:8.2f} s")

    def event(self, view: str, xy: Any, name: str, **keys: Any) -> None:
        """Send an event, and note how long it takes."""
        began = time.perf_counter()
        super().event(view, xy, name, **keys)
        self.events.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        while name == "MouseMoveEvent" and time.perf_counter() - began < MOVE_SECONDS:
            slicer.app.processEvents()

    def stroke(self, k: int, *, view: str = "Red") -> float:
        """Draw across the ellipsoid, and give the milliseconds from the end of the stroke to the mask."""
        self.drag(view, (k, 256, 200), (k, 262, 300), settle=False)
        began = time.perf_counter()
        self.settle()
        return 1000 * (time.perf_counter() - began) + self.events["LeftButtonReleaseEvent"][-1]

    def report(self, name: str, milliseconds: list[float]) -> None:
        """Print the median of the strokes, and the longest handler."""
        held = max(max(times) for times in self.events.values())
        print(f"{name:40} {statistics.median(milliseconds):8.0f} ms, window held {held:.0f} ms at most")
        self.events.clear()

    def test_everything(self) -> None:
        """Measure."""
        self.events.clear()
        slices = range(22, 22 + STROKES)
        times = [self.stroke(k) for k in slices]
        for name in ("LeftButtonPressEvent", "MouseMoveEvent", "LeftButtonReleaseEvent"):
            print(f"{name:40} {statistics.median(self.events[name]):8.1f} ms")
        self.report("stroke to mask", times)
        for k in range(40, 40 + EXAMPLES):
            self.stroke(k)
            self.ui.addSliceButton.click()
            self.settle()
        self.events.clear()
        self.report(f"stroke to mask, {EXAMPLES} examples", [self.stroke(k) for k in range(66, 66 + STROKES)])
        self.segmentation.CreateClosedSurfaceRepresentation()
        self.report("the same with a 3D surface", [self.stroke(k) for k in range(75, 75 + STROKES)])
        self.segmentation.RemoveClosedSurfaceRepresentation()
        self.turn("Green", 65, 20)
        self.report("oblique stroke to mask", [self.stroke(50 + n, view="Green") for n in range(4)])
        self.view("Red").mrmlSliceNode().SetOrientationToAxial()
        self.editor.setCurrentSegmentID(self.segmentation.GetSegmentation().AddEmptySegment("other", "other"))
        self.options.othersComboBox.activated(2)  # as masking says: there is the ellipsoid already
        self.stroke(50)
        began = time.perf_counter()
        self.press(self.controls.propagateButton)
        print(f"propagation: {self.status()} ({time.perf_counter() - began:.0f} s)")


def main() -> None:
    """Run, and say where."""
    import unittest

    case = Benchmark("test_everything")
    result = unittest.TextTestRunner(stream=sys.stdout).run(case)
    state = SharedInference.sharedInference().state
    print(f"network {state.model} on {state.device}")
    slicer.util.exit(0 if result.wasSuccessful() else 1)


main()
