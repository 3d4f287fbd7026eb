"""The effect in the real application: mouse events in slice views, undo, orientations, saving, and leaving no trace.

Run by CTest, or by hand: `Slicer --testing --no-splash --python-script ScribbleSegmentEffectTest.py`, with the module's
folder among the additional module paths. Works on software rendering, and needs no neural network: a predictor that
finds bright regions stands in for it, because what is tested here is everything around it. One test, skipped where
PyTorch is not installed, uses the embedded network.
"""

import importlib.util
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
WAIT_SECONDS = 120.0


class BrightRegionPredictor:
    """Predicts the bright pieces that a positive prompt lies on, less what was drawn negative."""

    class plan:
        device = "cpu"
        milliseconds = 1.0

    capabilities = frozenset(("scribbles", "clicks", "boxes"))
    image_token = None

    def set_image(self, image, *, spacing_mm=(1.0, 1.0), intensity_range=None):
        """Take an image."""
        self.image = np.array(image, np.float32)

    def predict(self, prompts):
        """Segment it."""
        from scipy import ndimage

        touched = prompts.scribbles[0] > 0
        touched[tuple(prompts.point_coords[prompts.point_labels == 1].T)] = True
        for (top, left), (bottom, right) in prompts.boxes:
            touched[top:bottom, left:right] = True
        pieces, _count = ndimage.label(self.image > 100)
        inside = np.isin(pieces, np.setdiff1d(pieces[touched], 0)) & (prompts.scribbles[1] == 0)
        logits = np.where(inside, 5.0, -5.0).astype(np.float32)
        return type("Prediction", (), {"logits": logits})


class ScribbleSegmentEffectTest(unittest.TestCase):
    """What a user does with the effect."""

    def setUp(self):
        """Open the Segment Editor on two bright blocks, with the effect active and two segments."""
        slicer.mrmlScene.Clear()
        SharedInference.closeSharedInference()
        SharedInference.replaceSharedInference(InferenceService(lambda model, device: BrightRegionPredictor()))
        # Not the user's own.
        self.folder = tempfile.TemporaryDirectory()
        SharedContexts.replaceSharedContexts(TaskContexts(ContextStore(self.folder.name)))
        self.threadsBefore = set(threading.enumerate())
        self.build()

    def build(self):
        """Make the scene."""
        array = np.zeros(SHAPE, np.int16)
        array[4:26, 20:50, 15:40] = 200
        array[4:26, 30:60, 55:80] = 220
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
        self.editor.setSegmentationNode(self.segmentation)
        self.editor.setSourceVolumeNode(self.volume)
        self.editor.setMaximumNumberOfUndoStates(50)
        editorNode = self.editor.mrmlSegmentEditorNode()
        # The node is a singleton that outlives the scene; each test starts from the effect's defaults.
        for name in editorNode.GetAttributeNames():
            if name.startswith(f"{EFFECT_NAME}."):
                editorNode.RemoveAttribute(name)
        self.editor.setCurrentSegmentID(self.first)
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()

    def tearDown(self):
        """Leave the effect, and see that it left nothing."""
        self.editor.setActiveEffectByName("")
        slicer.mrmlScene.Clear()
        SharedInference.closeSharedInference()
        SharedContexts.closeSharedContexts()
        self.folder.cleanup()
        slicer.app.processEvents()

    # Helpers ----------------------------------------------------------------------------------------------------

    @property
    def effect(self):
        """The Python object of the active effect."""
        return self.editor.activeEffect().self()

    def view(self, name):
        """A slice view's widget."""
        return slicer.app.layoutManager().sliceWidget(name)

    def settle(self):
        """Let Slicer work until all predictions are in."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            slicer.app.processEvents()
            timer = self.effect.timer if self.editor.activeEffect() else None
            if timer is None or not timer.running:
                return
            if time.monotonic() > until:
                self.fail("The prediction did not arrive.")
            time.sleep(0.002)

    def xy(self, viewName, kji):
        """Pixel of a view at which a voxel is shown."""
        ras = np.eye(4)
        matrix = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(matrix)
        ras = matrix.MultiplyPoint((kji[2], kji[1], kji[0], 1.0))
        worldToXy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.view(viewName).mrmlSliceNode().GetXYToRAS(), worldToXy)
        return worldToXy.MultiplyPoint(ras)[:2]

    def jump(self, viewName, kji):
        """Show the slice with a voxel."""
        matrix = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(matrix)
        ras = matrix.MultiplyPoint((kji[2], kji[1], kji[0], 1.0))[:3]
        self.view(viewName).mrmlSliceNode().JumpSlice(*ras)
        slicer.app.processEvents()

    def event(self, viewName, xy, name, *, ctrl=False, shift=False, key=""):
        """Send one event to a slice view, as Qt does."""
        interactor = self.view(viewName).sliceView().interactorStyle().GetInteractor()
        interactor.SetEventInformation(round(xy[0]), round(xy[1]), int(ctrl), int(shift), chr(0), 0, key)
        interactor.InvokeEvent(name)

    def drag(self, viewName, first, last, *, ctrl=False, settle=True):
        """Drag the left button between two voxels (k, j, i)."""
        self.jump(viewName, first)
        start, stop = np.array(self.xy(viewName, first)), np.array(self.xy(viewName, last))
        self.event(viewName, start, "MouseMoveEvent", ctrl=ctrl)
        self.event(viewName, start, "LeftButtonPressEvent", ctrl=ctrl)
        for part in np.linspace(0, 1, 12):
            self.event(viewName, start + part * (stop - start), "MouseMoveEvent", ctrl=ctrl)
        self.event(viewName, stop, "LeftButtonReleaseEvent", ctrl=ctrl)
        if settle:
            self.settle()

    def mask(self, segmentId):
        """Voxels of a segment on the volume's grid."""
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segmentId, self.volume) > 0

    def gestures(self, segmentId):
        """Number of prompts of a segment."""
        drawn = read_drawing(self.segmentation.GetSegmentation().GetSegment(segmentId))
        return sum(len(onSlice.gestures) for onSlice in drawn.slices)

    def status(self):
        """Text of the status area."""
        return self.effect.options.ui.statusLabel.text

    # Drawing ----------------------------------------------------------------------------------------------------

    def test_aStrokeSegmentsTheShownSlice(self):
        """A stroke fills the block on one slice."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        mask = self.mask(self.first)
        self.assertEqual([int(k) for k in np.flatnonzero(mask.any(axis=(1, 2)))], [15])
        self.assertTrue(mask[15, 20:50, 15:40].all())
        self.assertFalse(mask[15, :, 45:].any())

    def test_ctrlDrawsTheOtherKind(self):
        """A stroke with Ctrl takes away what it covers."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.drag("Red", (15, 25, 17), (15, 45, 17), ctrl=True)
        self.assertFalse(self.mask(self.first)[15, 26:45, 17].any())

    def test_keyXSwapsStructureAndBackground(self):
        """X changes the polarity, and back."""
        self.event("Red", (50, 50), "KeyPressEvent", key="x")
        self.assertTrue(self.effect.options.ui.negativeButton.checked)
        self.event("Red", (50, 50), "KeyPressEvent", key="x")
        self.assertTrue(self.effect.options.ui.positiveButton.checked)

    def test_aPressIsAClick(self):
        """Pressing without dragging segments, too; a double click does not enlarge the view."""
        layout = slicer.app.layoutManager().layout
        self.jump("Red", (15, 40, 66))
        xy = self.xy("Red", (15, 40, 66))
        for name in ("LeftButtonPressEvent", "LeftButtonReleaseEvent", "LeftButtonDoubleClickEvent"):
            self.event("Red", xy, name)
        self.event("Red", xy, "LeftButtonReleaseEvent")
        self.settle()
        self.assertTrue(self.mask(self.first)[15, 30:60, 55:80].all())
        self.assertEqual(slicer.app.layoutManager().layout, layout)

    def test_aBoxSegmentsWhatIsInside(self):
        """The box tool."""
        self.effect.options.ui.boxButton.checked = True
        self.drag("Red", (15, 18, 12), (15, 52, 42))
        self.assertTrue(self.mask(self.first)[15, 21:49, 16:39].all())
        self.assertFalse(self.mask(self.first)[:, :, 50:].any())

    def test_shiftWheelChangesTheBrush(self):
        """Larger, and smaller again."""
        before = self.effect.views.brushDiameterMm(self.view("Red"))
        self.event("Red", (50, 50), "MouseWheelForwardEvent", shift=True)
        self.assertGreater(self.effect.views.brushDiameterMm(self.view("Red")), before)
        self.event("Red", (50, 50), "MouseWheelBackwardEvent", shift=True)
        self.assertAlmostEqual(self.effect.views.brushDiameterMm(self.view("Red")), before, places=3)

    def test_everyViewAndOrientationSegmentsItsOwnSlice(self):
        """Green and yellow views, and an oblique one."""
        self.drag("Green", (10, 35, 20), (20, 35, 34))
        self.assertTrue(self.mask(self.first)[4:26, 35, 15:40].all())
        self.drag("Yellow", (10, 40, 66), (20, 40, 66))
        self.editor.setCurrentSegmentID(self.second)
        node = self.view("Red").mrmlSliceNode()
        turn = vtk.vtkTransform()
        turn.RotateX(35)
        turn.RotateY(20)
        node.GetSliceToRAS().DeepCopy(turn.GetMatrix())
        node.UpdateMatrices()
        self.drag("Red", (15, 35, 22), (15, 35, 33))
        oblique = self.mask(self.second)
        self.assertGreater(len(np.flatnonzero(oblique.any(axis=(1, 2)))), 5)
        self.assertGreater(int(oblique.sum()), 200)
        self.assertFalse((oblique & self.mask(self.first)).any())  # the first segment is protected
        self.assertFalse(oblique[:, :, 45:].any())

    def test_otherLayoutsAreDrawnIn(self):
        """After a change of layout, also in views that did not exist before."""
        layoutManager = slicer.app.layoutManager()
        for layout, name in (
            (slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpYellowSliceView, "Yellow"),
            (slicer.vtkMRMLLayoutNode.SlicerLayoutThreeOverThreeView, "Red+"),
        ):
            layoutManager.setLayout(layout)
            self.settle()
            slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
            self.settle()
            before = int(self.mask(self.first).sum())
            self.drag(name, (12, 40, 66), (14, 41, 67) if name == "Yellow" else (12, 45, 70))
            self.assertGreater(int(self.mask(self.first).sum()), before, name)

    # Undo, saving -----------------------------------------------------------------------------------------------

    def test_undoAndRedoTakeMaskAndPromptsTogether(self):
        """As the buttons of the Segment Editor do it."""
        states = []
        for k in (10, 12, 14):
            states.append((self.mask(self.first).copy(), self.gestures(self.first)))
            self.drag("Red", (k, 30, 20), (k, 35, 34))
        states.append((self.mask(self.first).copy(), self.gestures(self.first)))
        for mask, count in reversed(states[:-1]):
            self.editor.undo()
            self.assertTrue(np.array_equal(self.mask(self.first), mask))
            self.assertEqual(self.gestures(self.first), count)
        for mask, count in states[1:]:
            self.editor.redo()
            self.assertTrue(np.array_equal(self.mask(self.first), mask))
            self.assertEqual(self.gestures(self.first), count)

    def test_promptsAndMaskSurviveAnMrb(self):
        """Saved and loaded, the prompts are there, and can be built on."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        mask = self.mask(self.first).copy()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            self.settle()
            slicer.util.loadScene(path)
        self.segmentation = slicer.util.getNode("Segmentation")
        self.volume = slicer.util.getNode("Blocks")
        self.editor.setSegmentationNode(self.segmentation)
        self.editor.setSourceVolumeNode(self.volume)
        self.editor.setCurrentSegmentID(self.first)
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        self.assertTrue(np.array_equal(self.mask(self.first), mask))
        self.assertEqual(self.gestures(self.first), 1)
        self.drag("Red", (15, 25, 17), (15, 45, 17), ctrl=True)
        self.assertEqual(self.gestures(self.first), 2)
        self.assertFalse(self.mask(self.first)[15, 26:45, 17].any())

    def test_theSurfaceStaysAndFollows(self):
        """The 3D representation is there after a stroke, and has grown."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.segmentation.CreateClosedSurfaceRepresentation()
        surface = vtk.vtkPolyData()
        self.segmentation.GetClosedSurfaceRepresentation(self.first, surface)
        before = surface.GetBounds()
        self.drag("Red", (16, 30, 20), (16, 35, 34))
        self.segmentation.GetClosedSurfaceRepresentation(self.first, surface)
        self.assertGreater(surface.GetBounds()[5], before[5])

    # Options ----------------------------------------------------------------------------------------------------

    def test_aPreviewIsAcceptedWithEnter(self):
        """Automatic off: nothing is written before Enter."""
        self.effect.options.ui.automaticCheckBox.checked = False
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.assertFalse(self.mask(self.first).any())
        self.assertTrue(self.effect.options.ui.acceptButton.enabled)
        self.event("Red", (50, 50), "KeyPressEvent", key="Return")
        self.settle()
        self.assertTrue(self.mask(self.first)[15, 20:50, 15:40].all())
        self.assertFalse(self.effect.options.ui.acceptButton.enabled)

    def test_theThresholdChangesTheResultWithoutAPrediction(self):
        """One undo step for the change, none of it in other slices."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        before = self.mask(self.first).copy()
        ui = self.effect.options.ui
        for value in (0.7, 0.9):
            ui.thresholdSlider.valueIsChanging(value)
            self.assertEqual(self.effect.controller.options.clean_up.threshold, value)
        ui.thresholdSlider.value = 0.95
        ui.touchedCheckBox.checked = False
        self.settle()
        self.assertEqual(self.effect.controller.options.clean_up.threshold, 0.95)
        self.assertFalse(self.effect.controller.options.clean_up.keep_touched)
        self.assertTrue(np.array_equal(self.mask(self.first), before))  # the stand-in is as sure as can be
        self.assertEqual(self.gestures(self.first), 1)

    def test_probabilitiesAreShownWhenWanted(self):
        """As a picture over the slice."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        overlay = self.effect.views.overlayOf(self.view("Red"))
        self.assertFalse(overlay.probability.actor.GetVisibility())
        self.effect.options.ui.probabilityCheckBox.checked = True
        self.settle()
        self.assertTrue(overlay.probability.actor.GetVisibility())
        self.assertTrue(overlay.strokes.actor.GetVisibility())
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertFalse(overlay.probability.actor.GetVisibility())
        self.assertFalse(overlay.strokes.actor.GetVisibility())

    def test_segmentsKeepTheirOwnPrompts(self):
        """Switching segments switches what is drawn and shown."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.editor.setCurrentSegmentID(self.second)
        self.drag("Red", (15, 40, 60), (15, 45, 70))
        self.assertEqual((self.gestures(self.first), self.gestures(self.second)), (1, 1))
        self.assertFalse((self.mask(self.first) & self.mask(self.second)).any())
        self.assertTrue(self.mask(self.second)[15, 30:60, 55:80].all())

    def test_promptsAreRemovedFromTheList(self):
        """One by one, and all of a segment."""
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.drag("Red", (15, 25, 17), (15, 45, 17), ctrl=True)
        self.assertEqual(self.effect.options.ui.promptsList.count, 2)
        self.effect.options.ui.removeButton.click()
        self.settle()
        self.assertEqual(self.gestures(self.first), 1)
        self.assertTrue(self.mask(self.first)[15, 20:50, 15:40].all())
        self.effect.options.ui.clearSegmentButton.click()
        self.assertEqual(self.gestures(self.first), 0)
        self.assertTrue(self.mask(self.first).any())

    # What goes wrong --------------------------------------------------------------------------------------------

    def test_withoutASourceVolumeNothingIsDrawnAndNothingBreaks(self):
        """A volume that is deleted while the effect is active."""
        slicer.mrmlScene.RemoveNode(self.volume)
        slicer.app.processEvents()
        if self.editor.activeEffect():
            self.event("Red", (50, 50), "LeftButtonPressEvent")
            self.event("Red", (50, 50), "LeftButtonReleaseEvent")
            self.settle()
            self.assertIn("source volume", self.status())
        self.assertEqual(self.gestures(self.first), 0)

    def test_aHiddenSegmentIsPaintedAndTheUserTold(self):
        """No dialog in the way of a stroke."""
        self.segmentation.GetDisplayNode().SetSegmentVisibility(self.first, False)
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.assertTrue(self.mask(self.first).any())
        self.assertIn("hidden", self.status())

    def test_aModelThatCannotBeLoadedIsExplainedAndTheStrokeStays(self):
        """Without PyTorch, the status area says what to install; afterwards the stroke is answered."""

        def missing(model, device):
            raise ModuleNotFoundError("No module named 'torch'", name="torch_is_not_there")

        self.editor.setActiveEffectByName("")
        SharedInference.replaceSharedInference(InferenceService(missing))
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.assertIn("torch_is_not_there", self.status())
        self.assertEqual(self.gestures(self.first), 1)
        self.assertFalse(self.mask(self.first).any())

    def test_closingTheSceneDuringAPredictionIsHarmless(self):
        """The result of a scene that has gone is dropped."""
        self.drag("Red", (15, 30, 20), (15, 35, 34), settle=False)
        slicer.mrmlScene.Clear()
        self.settle()
        self.build()
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        self.assertTrue(self.mask(self.first)[15, 20:50, 15:40].all())

    def test_leavingTheEffectLeavesNothingBehind(self):
        """No actor, node, observer, timer or thread."""
        self.editor.setActiveEffectByName("")
        actors = {name: self.actorCount(name) for name in ("Red", "Green", "Yellow")}
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        effect = self.effect
        timer = effect.timer
        self.assertGreater(self.actorCount("Red"), actors["Red"])
        self.editor.setActiveEffectByName("")
        slicer.app.processEvents()
        self.assertEqual({name: self.actorCount(name) for name in actors}, actors)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.assertFalse(timer.running)
        self.assertIsNone(effect.observer)
        left = [thread.name for thread in set(threading.enumerate()) - self.threadsBefore if thread.is_alive()]
        self.assertEqual(left, [])

    def actorCount(self, viewName):
        """2D actors in a slice view."""
        return (
            self.view(viewName)
            .sliceView()
            .renderWindow()
            .GetRenderers()
            .GetFirstRenderer()
            .GetViewProps()
            .GetNumberOfItems()
        )

    # The network ------------------------------------------------------------------------------------------------

    @unittest.skipIf(importlib.util.find_spec("torch") is None, "PyTorch is not installed in this Slicer")
    def test_theEmbeddedNetworkSegmentsAStroke(self):
        """From stroke to segment with the real network."""
        self.editor.setActiveEffectByName("")
        SharedInference.replaceSharedInference(InferenceService())
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        self.drag("Red", (15, 30, 20), (15, 35, 34))
        block = np.zeros(SHAPE, bool)
        block[15, 20:50, 15:40] = True
        mask = self.mask(self.first)
        self.assertGreater(2 * (mask & block).sum() / (mask.sum() + block.sum()), 0.8)


def main():
    """Run all tests and tell Slicer's exit code."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(ScribbleSegmentEffectTest)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    slicer.util.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
