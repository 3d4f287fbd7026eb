"""What the application's tests of the effect share: a scene with two bright blocks, mouse events, and a stand-in."""

import itertools
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk

from scribblesegment.context.store import ContextStore
from scribblesegment.mrml.tags import read_drawing
from scribblesegment.service.service import InferenceService
from ScribbleSegmentLib import ContextLibrary as SharedContexts
from ScribbleSegmentLib import Inference as SharedInference
from ScribbleSegmentLib.ContextLibrary import TaskContexts
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME

SHAPE = (30, 80, 90)
BLOCK = (slice(4, 26), slice(20, 50), slice(15, 40))
OTHER = (slice(4, 26), slice(30, 60), slice(55, 80))
WAIT_SECONDS = 120.0


class BrightRegionPredictor:
    """Predicts bright pieces that prompts, the slice before, or the structure in the examples lie on."""

    class plan:
        device = "cpu"
        milliseconds = 1.0

    image_token = None

    def __init__(self, capabilities=("scribbles", "clicks", "boxes", "context"), seconds=0.0):
        self.capabilities = frozenset(capabilities)
        self.seconds = seconds
        self.context = None
        self.predicted = 0

    def set_image(self, image, *, spacing_mm=(1.0, 1.0), intensity_range=None):
        """Take an image."""
        self.image = np.array(image, np.float32)

    def set_context(self, context):
        """Take examples."""
        self.context = context

    def encode(self):
        """Get ready."""

    def predict(self, prompts, *, newest=None, cancelled=None):
        """Segment it."""
        from scipy import ndimage

        time.sleep(self.seconds)
        self.predicted += 1
        touched = prompts.positive_pixels()
        if prompts.mask_input is not None:
            touched |= prompts.mask_input > 0
        elif not touched.any():
            touched |= np.logical_or.reduce([entry.mask for entry in self.context or ()])
        pieces, _count = ndimage.label(self.image > 100)
        inside = np.isin(pieces, np.setdiff1d(pieces[touched], 0)) & (prompts.scribbles[1] == 0)
        logits = np.where(inside, 5.0, -5.0).astype(np.float32)

        class Prediction:
            pass

        Prediction.logits = logits
        Prediction.mask = staticmethod(lambda threshold=0.5: logits > 0)
        return Prediction


class EffectCase(unittest.TestCase):
    """The Segment Editor on two bright blocks, with the effect active and two segments."""

    def setUp(self):
        """Start from an empty scene, and not with the user's own examples."""
        slicer.mrmlScene.Clear()
        self.threadsBefore = set(threading.enumerate())
        self.folder = tempfile.TemporaryDirectory()
        self.store = ContextStore(Path(self.folder.name) / "contexts")
        SharedContexts.replaceSharedContexts(TaskContexts(self.store))
        self.use(BrightRegionPredictor())
        self.build()

    def tearDown(self):
        """Leave the effect."""
        self.editor.setActiveEffectByName("")
        slicer.mrmlScene.Clear()
        SharedInference.closeSharedInference()
        SharedContexts.closeSharedContexts()
        self.folder.cleanup()
        slicer.app.processEvents()

    def use(self, predictor):
        """Let a predictor stand in for the network."""
        self.predictor = predictor
        SharedInference.replaceSharedInference(InferenceService(lambda model, device: predictor))

    def build(self):
        """Make the scene."""
        array = np.zeros(SHAPE, np.int16)
        array[BLOCK] = 200
        array[OTHER] = 220
        self.volume = slicer.util.addVolumeFromArray(array, name="Blocks")
        self.volume.SetSpacing(1.0, 1.2, 2.0)
        self.segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
        self.segmentation.CreateDefaultDisplayNodes()
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        self.first, self.second = (
            self.segmentation.GetSegmentation().AddEmptySegment(name, name) for name in ("first", "second")
        )
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        for name in ("Red", "Green", "Yellow"):
            self.view(name).mrmlSliceNode().SetOrientationToDefault()
        slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
        slicer.util.selectModule("SegmentEditor")
        self.editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        self.editor.setMaximumNumberOfUndoStates(50)
        editorNode = self.editor.mrmlSegmentEditorNode()
        # The node is a singleton that outlives the scene; each test starts from the effect's defaults.
        for name in editorNode.GetAttributeNames():
            if name.startswith(f"{EFFECT_NAME}."):
                editorNode.RemoveAttribute(name)
        self.edit()
        self.ui.contextSection.collapsed = False
        self.settle()

    def edit(self):
        """Work on the first segment with the effect."""
        self.editor.setSegmentationNode(self.segmentation)
        self.editor.setSourceVolumeNode(self.volume)
        self.editor.setCurrentSegmentID(self.first)
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()

    def saveAndLoad(self):
        """Go on with what comes back from a file."""
        path = str(Path(self.folder.name) / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        self.settle()
        slicer.util.loadScene(path)
        self.segmentation = slicer.util.getNode("Segmentation")
        self.volume = slicer.util.getNode("Blocks")
        self.edit()

    @property
    def effect(self):
        """The Python object of the active effect."""
        return self.editor.activeEffect().self()

    @property
    def options(self):
        """Widgets of the options."""
        return self.effect.options.ui

    @property
    def ui(self):
        """Widgets of the section Examples."""
        return self.effect.context.ui

    @property
    def controls(self):
        """Widgets of the section Through the volume."""
        return self.effect.propagation.ui

    def view(self, name):
        """A slice view's widget."""
        return slicer.app.layoutManager().sliceWidget(name)

    def settle(self, until=lambda: False):
        """Let Slicer work until everything is in, or until something is so."""
        end = time.monotonic() + WAIT_SECONDS
        while not until():
            slicer.app.processEvents()
            timer = self.effect.timer if self.editor.activeEffect() else None
            if timer is None or not timer.isActive():
                slicer.app.processEvents()
                if timer is None or not timer.isActive():
                    return
            if time.monotonic() > end:
                self.fail("It did not come to an end.")
            time.sleep(0.002)

    def wait(self, condition):
        """Let Slicer work until something is so."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            slicer.app.processEvents()
            time.sleep(0.002)
            if time.monotonic() > end:
                self.fail("It did not happen.")

    def ras(self, kji):
        """World position of a voxel."""
        matrix = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(matrix)
        return matrix.MultiplyPoint((kji[2], kji[1], kji[0], 1.0))

    def xy(self, viewName, kji):
        """Pixel of a view at which a voxel is shown."""
        worldToXy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.view(viewName).mrmlSliceNode().GetXYToRAS(), worldToXy)
        return worldToXy.MultiplyPoint(self.ras(kji))[:2]

    def jump(self, viewName, kji):
        """Show the slice with a voxel, and let everybody see it."""
        self.view(viewName).mrmlSliceNode().JumpSlice(*self.ras(kji)[:3])
        for _ in range(3):
            slicer.app.processEvents()

    def turn(self, viewName, *degrees):
        """Turn a view away from the volume's axes."""
        node = self.view(viewName).mrmlSliceNode()
        turn = vtk.vtkTransform()
        turn.RotateX(degrees[0])
        turn.RotateY(degrees[1])
        node.GetSliceToRAS().DeepCopy(turn.GetMatrix())
        node.UpdateMatrices()

    def event(self, viewName, xy, name, *, ctrl=False, shift=False, key=""):
        """Send one event to a slice view, as Qt does."""
        interactor = self.view(viewName).sliceView().interactorStyle().GetInteractor()
        interactor.SetEventInformation(round(xy[0]), round(xy[1]), int(ctrl), int(shift), chr(0), 0, key)
        interactor.InvokeEvent(name)

    def drag(self, viewName, *places, ctrl=False, settle=True):
        """Drag the left button along voxels (k, j, i)."""
        self.jump(viewName, places[0])
        corners = [np.array(self.xy(viewName, place)) for place in places]
        self.event(viewName, corners[0], "MouseMoveEvent", ctrl=ctrl)
        self.event(viewName, corners[0], "LeftButtonPressEvent", ctrl=ctrl)
        for start, stop in itertools.pairwise(corners):
            for part in np.linspace(0, 1, 12):
                self.event(viewName, start + part * (stop - start), "MouseMoveEvent", ctrl=ctrl)
        self.event(viewName, corners[-1], "LeftButtonReleaseEvent", ctrl=ctrl)
        if settle:
            self.settle()

    def segmentBlock(self, k, settle=True):
        """Segment the first block in one axial slice with a stroke."""
        self.drag("Red", (k, 30, 20), (k, 35, 34), settle=settle)

    def correctBlock(self, k):
        """Take a part of the first block out of the segment in one axial slice."""
        self.drag("Red", (k, 25, 17), (k, 45, 17), ctrl=True)

    def press(self, button):
        """Press a button, and wait for what comes of it."""
        button.click()
        self.settle()

    def mask(self, segmentId=None):
        """Voxels of a segment, the first one by default, on the volume's grid."""
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segmentId or self.first, self.volume) > 0

    def slices(self):
        """Axial slices that the first segment is in."""
        return [int(k) for k in np.flatnonzero(self.mask().any(axis=(1, 2)))]

    def box(self, place):
        """A mask that is true in a box."""
        mask = np.zeros(SHAPE, bool)
        mask[place] = True
        return mask

    def gestures(self, segmentId=None):
        """Number of gestures of a segment."""
        drawn = read_drawing(self.segmentation.GetSegmentation().GetSegment(segmentId or self.first))
        return sum(len(onSlice.gestures) for onSlice in drawn.slices)

    def status(self):
        """Text of the status line."""
        return self.options.statusLabel.text

    def threadsLeft(self):
        """Names of threads that were not there before."""
        return [thread.name for thread in set(threading.enumerate()) - self.threadsBefore if thread.is_alive()]


def run(case):
    """Run all tests of a class, or those named after `--` on the command line, and tell Slicer's exit code."""
    names = [name for name in sys.argv if name.startswith("test_")]
    loader = unittest.defaultTestLoader
    suite = unittest.TestSuite(case(name) for name in names) if names else loader.loadTestsFromTestCase(case)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    slicer.util.exit(0 if result.wasSuccessful() else 1)
