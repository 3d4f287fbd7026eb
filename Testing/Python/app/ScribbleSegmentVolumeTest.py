"""Context and propagation in the real application: from accepted slices to the rest of the volume.

Run as ScribbleSegmentEffectTest.py. A predictor that finds bright regions stands in for the network; it takes examples,
and finds without prompts what lies where the structure lies in them. Tests that need files are skipped where Slicer's
Python lacks what reads and writes pictures.
"""

import importlib.util
import tempfile
import threading
import time
import unittest
from pathlib import Path

import numpy as np
import qt
import slicer
import vtk

from scribblesegment.context.store import ContextStore
from scribblesegment.service.service import InferenceService
from ScribbleSegmentLib import ContextLibrary as SharedContexts
from ScribbleSegmentLib import Inference as SharedInference
from ScribbleSegmentLib.ContextLibrary import TaskContexts
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME

SHAPE = (30, 80, 90)
BLOCK = (slice(4, 26), slice(20, 50), slice(15, 40))
OTHER = (slice(4, 26), slice(30, 60), slice(55, 80))
WAIT_SECONDS = 120.0

canWritePictures = all(importlib.util.find_spec(name) for name in ("PIL", "SimpleITK"))
needsPictures = unittest.skipUnless(canWritePictures, "Slicer's Python lacks Pillow or SimpleITK")


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

    def predict(self, prompts):
        """Segment it."""
        from scipy import ndimage

        time.sleep(self.seconds)
        self.predicted += 1
        touched = prompts.scribbles[0] > 0
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


class ScribbleSegmentVolumeTest(unittest.TestCase):
    """What a user does with accepted slices."""

    def setUp(self):
        """Open the Segment Editor on two bright blocks, with the effect active and two segments."""
        slicer.mrmlScene.Clear()
        self.threadsBefore = set(threading.enumerate())
        self.folder = tempfile.TemporaryDirectory()
        self.store = ContextStore(Path(self.folder.name) / "contexts")
        SharedContexts.replaceSharedContexts(TaskContexts(self.store))
        self.use(BrightRegionPredictor())
        self.build()

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
        self.editor.setSegmentationNode(self.segmentation)
        self.editor.setSourceVolumeNode(self.volume)
        self.editor.setMaximumNumberOfUndoStates(50)
        editorNode = self.editor.mrmlSegmentEditorNode()
        for name in editorNode.GetAttributeNames():
            if name.startswith(f"{EFFECT_NAME}."):
                editorNode.RemoveAttribute(name)
        self.editor.setCurrentSegmentID(self.first)
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.ui.contextSection.collapsed = False
        self.settle()

    def tearDown(self):
        """Leave the effect."""
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

    @property
    def ui(self):
        """Widgets of the section Context."""
        return self.effect.volume.contextPanel.ui

    @property
    def controls(self):
        """Widgets of the section Propagate."""
        return self.effect.volume.propagationPanel.ui

    def view(self, name):
        """A slice view's widget."""
        return slicer.app.layoutManager().sliceWidget(name)

    def settle(self, until=lambda: False):
        """Let Slicer work until everything is in, or until something is so."""
        end = time.monotonic() + WAIT_SECONDS
        while not until():
            slicer.app.processEvents()
            timer = self.effect.timer if self.editor.activeEffect() else None
            if timer is None or not timer.running:
                slicer.app.processEvents()
                if timer is None or not timer.running:
                    return
            if time.monotonic() > end:
                self.fail("It did not come to an end.")
            time.sleep(0.002)

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

    def event(self, viewName, xy, name, *, ctrl=False, key=""):
        """Send one event to a slice view, as Qt does."""
        interactor = self.view(viewName).sliceView().interactorStyle().GetInteractor()
        interactor.SetEventInformation(round(xy[0]), round(xy[1]), int(ctrl), 0, chr(0), 0, key)
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

    def segmentBlock(self, k, settle=True):
        """Segment the first block in one axial slice with a stroke."""
        self.drag("Red", (k, 30, 20), (k, 35, 34), settle=settle)

    def press(self, button):
        """Press a button of the section Propagate, and wait for what comes of it."""
        button.click()
        self.settle()

    def mask(self, segmentId):
        """Voxels of a segment on the volume's grid."""
        return slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, segmentId, self.volume) > 0

    def box(self, place):
        """A mask that is true in a box."""
        mask = np.zeros(SHAPE, bool)
        mask[place] = True
        return mask

    def status(self):
        """Text of the status area."""
        return self.effect.options.ui.statusLabel.text

    def examples(self):
        """Number of examples in the list."""
        return self.ui.entriesList.count

    # Propagating ------------------------------------------------------------------------------------------------

    def test_onePropagationFillsTheStructureAsOneUndoStep(self):
        """From one stroke to the whole block, and back with one undo."""
        self.segmentBlock(15)
        before = self.mask(self.first).copy()
        self.assertIn("15", self.controls.acceptedLabel.text)
        self.assertTrue(self.controls.acceptSliceButton.checked)
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())
        for words in ("21 slices", "per second", "mean confidence", "Slice 4: the structure ends", "Slice 25", "Worth"):
            self.assertIn(words, self.status())
        self.assertFalse(self.controls.cancelButton.enabled)
        self.editor.undo()
        self.assertTrue(np.array_equal(self.mask(self.first), before))
        self.editor.redo()
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())

    def test_itGoesAlongTheViewThatWasUsed(self):
        """A stroke in the green view, propagated along its axis."""
        self.drag("Green", (10, 35, 20), (20, 35, 34))
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())

    def test_aRangeThatBeginsAtTheShownSliceIsKeptTo(self):
        """From here, up to the end of the range."""
        self.segmentBlock(15)
        self.controls.fromHereButton.click()
        self.assertTrue(self.controls.rangeCheckBox.checked)
        self.controls.rangeWidget.maximumValue = 20
        self.press(self.controls.propagateButton)
        held = np.flatnonzero(self.mask(self.first).any(axis=(1, 2)))
        self.assertEqual([int(k) for k in held], list(range(15, 21)))
        self.assertIn("end of the range", self.status())

    def test_aRangeIsForgottenWithItsImage(self):
        """It would be a surprise in the next one."""
        self.segmentBlock(15)
        self.controls.fromHereButton.click()
        slicer.mrmlScene.Clear()
        self.build()
        self.segmentBlock(15)
        self.assertFalse(self.controls.rangeCheckBox.checked)

    def test_cancellingKeepsWhatIsDone(self):
        """As one undo step, and the next press goes on from there."""
        self.segmentBlock(15)
        before = self.mask(self.first).copy()
        self.predictor.seconds = 0.1
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.mask(self.first).any(axis=(1, 2)).sum() > 4)
        self.assertTrue(self.controls.cancelButton.enabled)
        self.assertIn("per second", self.controls.speedLabel.text)
        self.press(self.controls.cancelButton)
        kept = int(self.mask(self.first).any(axis=(1, 2)).sum())
        self.assertGreater(kept, 4)
        self.assertLess(kept, 22)
        self.assertIn("Cancelled", self.status())
        self.predictor.seconds = 0.0
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())
        self.editor.undo()
        self.editor.undo()
        self.assertTrue(np.array_equal(self.mask(self.first), before))

    def test_aStrokeDuringAPropagationEndsItAndIsAnswered(self):
        """What is done stays, the stroke is an undo step of its own, and accepted."""
        self.segmentBlock(15)
        self.predictor.seconds = 0.1
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.mask(self.first).any(axis=(1, 2)).sum() > 3)
        self.drag("Red", (16, 25, 17), (16, 45, 17), ctrl=True)
        self.predictor.seconds = 0.0
        mask = self.mask(self.first)
        self.assertFalse(mask[16, 26:45, 17].any())
        self.assertLess(int(mask.any(axis=(1, 2)).sum()), 22)
        self.press(self.controls.propagateButton)
        self.assertFalse(self.mask(self.first)[16, 26:45, 17].any())
        self.assertTrue(self.mask(self.first)[24, 20:50, 18:40].all())

    def test_undoDuringAPropagationEndsIt(self):
        """Nothing is written after it was taken back."""
        self.segmentBlock(15)
        before = self.mask(self.first).copy()
        self.predictor.seconds = 0.1
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.mask(self.first).any(axis=(1, 2)).sum() > 3)
        self.editor.undo()
        self.settle()
        self.assertTrue(np.array_equal(self.mask(self.first), before))
        self.assertIn("taken back", self.status())

    def test_closingTheSceneDuringAPropagationIsHarmless(self):
        """The next scene works."""
        self.segmentBlock(15)
        self.predictor.seconds = 0.1
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.predictor.predicted > 3)
        slicer.mrmlScene.Clear()
        self.settle()
        self.predictor.seconds = 0.0
        self.build()
        self.segmentBlock(15)
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())

    def test_removingTheSegmentDuringAPropagationIsHarmless(self):
        """It ends by itself."""
        self.segmentBlock(15)
        self.predictor.seconds = 0.05
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.predictor.predicted > 3)
        self.segmentation.GetSegmentation().RemoveSegment(self.first)
        self.settle()
        self.assertEqual(list(self.segmentation.GetSegmentation().GetSegmentIDs()), [self.second])
        self.assertFalse(self.mask(self.second).any())
        self.assertFalse(SharedInference.sharedInference().busy)

    def test_leavingTheEffectDuringAPropagationKeepsWhatIsDone(self):
        """No thread and no timer is left, and it can be gone on from."""
        self.segmentBlock(15)
        self.predictor.seconds = 0.05
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.mask(self.first).any(axis=(1, 2)).sum() > 4)
        timer = self.effect.timer
        self.editor.setActiveEffectByName("Paint")
        kept = self.mask(self.first).copy()
        self.assertGreater(int(kept.any(axis=(1, 2)).sum()), 4)
        end = time.monotonic() + 5
        while time.monotonic() < end and self.threadsLeft():
            time.sleep(0.05)
        self.assertEqual(self.threadsLeft(), [])
        self.assertFalse(timer.running)
        self.assertTrue(np.array_equal(self.mask(self.first), kept))
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.predictor.seconds = 0.0
        predicted = self.predictor.predicted
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())
        self.assertLess(self.predictor.predicted - predicted, 22)

    def threadsLeft(self):
        """Names of threads that were not there before."""
        return [thread.name for thread in set(threading.enumerate()) - self.threadsBefore if thread.is_alive()]

    def test_theNextSliceWorthCorrectingIsShownAndCorrected(self):
        """A correction there is accepted, and only its surroundings are made again."""
        self.segmentBlock(8)
        self.segmentBlock(20)
        self.press(self.controls.propagateButton)
        # The stand-in is sure of everything; what a network is unsure of is told the same way.
        self.effect.volume.propagationPanel._proposed = (self.first, 14)
        self.controls.goToButton.enabled = True
        self.press(self.controls.goToButton)
        self.assertAlmostEqual(self.view("Red").mrmlSliceNode().GetSliceOffset(), self.ras((14, 0, 0))[2], places=3)
        self.assertIn("8, 20", self.controls.acceptedLabel.text)
        self.drag("Red", (14, 25, 17), (14, 45, 17), ctrl=True)
        self.assertIn("8, 14, 20", self.controls.acceptedLabel.text)
        self.press(self.controls.propagateButton)
        self.assertFalse(self.mask(self.first)[14, 26:45, 17].any())
        self.assertIn("10 slices propagated", self.status())

    def test_allVisibleSegmentsGoInOnePass(self):
        """Both blocks, one undo step."""
        self.segmentBlock(15)
        self.editor.setCurrentSegmentID(self.second)
        self.drag("Red", (15, 40, 60), (15, 45, 70))
        self.controls.allSegmentsCheckBox.checked = True
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())
        self.assertTrue(np.array_equal(self.mask(self.second), self.box(OTHER)))
        self.editor.undo()
        self.assertEqual(int(self.mask(self.first).any(axis=(1, 2)).sum()), 1)
        self.assertEqual(int(self.mask(self.second).any(axis=(1, 2)).sum()), 1)

    def test_anObliqueViewIsAlignedFirst(self):
        """The button is there when it is needed."""
        self.segmentBlock(15)
        self.assertFalse(self.controls.alignButton.visible)
        node = self.view("Red").mrmlSliceNode()
        turn = vtk.vtkTransform()
        turn.RotateX(20)
        turn.RotateY(10)
        node.GetSliceToRAS().DeepCopy(turn.GetMatrix())
        node.UpdateMatrices()
        self.jump("Red", (15, 35, 25))
        self.assertFalse(self.controls.propagateButton.enabled)
        self.assertIn("oblique", self.controls.acceptedLabel.text)
        self.controls.alignButton.click()
        self.settle()
        self.assertTrue(self.controls.propagateButton.enabled)
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())

    def test_withoutAcceptedSlicesTheUserIsToldWhatToDo(self):
        """Nothing changes."""
        self.jump("Red", (15, 30, 20))
        self.press(self.controls.propagateButton)
        self.assertIn("Accept slice", self.status())
        self.assertFalse(self.mask(self.first).any())

    def test_propagatingWaitsForTheStrokeBeforeIt(self):
        """Pressed before the answer is in, it starts from the answer."""
        self.predictor.seconds = 0.1
        self.segmentBlock(15, settle=False)
        self.predictor.seconds = 0.0
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())

    # Accepting --------------------------------------------------------------------------------------------------

    def test_enterAcceptsASliceAndTheButtonTakesItBack(self):
        """Also one that was not segmented with the effect."""
        mask = self.box((slice(10, 11), *BLOCK[1:]))
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            mask.astype(np.uint8), self.segmentation, self.first, self.volume
        )
        self.jump("Red", (10, 30, 20))
        self.assertFalse(self.controls.acceptSliceButton.checked)
        self.event("Red", (50, 50), "KeyPressEvent", key="Return")
        self.settle()
        self.assertTrue(self.controls.acceptSliceButton.checked)
        self.assertIn("10", self.controls.acceptedLabel.text)
        self.controls.acceptSliceButton.click()
        self.settle()
        self.assertFalse(self.controls.acceptSliceButton.checked)
        self.editor.undo()
        self.settle()
        self.assertTrue(self.controls.acceptSliceButton.checked)

    def test_acceptedSlicesSurviveAnMrb(self):
        """Saved and loaded, they are propagated from."""
        self.segmentBlock(15)
        path = str(Path(self.folder.name) / "scene.mrb")
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
        self.jump("Red", (10, 30, 20))
        self.settle()
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())

    # Context ----------------------------------------------------------------------------------------------------

    def test_aSliceBecomesAnExampleWhenItIsLeft(self):
        """And is replaced, not doubled, when it is corrected later."""
        self.segmentBlock(15)
        self.assertEqual(self.examples(), 0)
        self.segmentBlock(18)
        self.assertEqual(self.examples(), 1)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 2)
        self.drag("Red", (15, 25, 17), (15, 45, 17), ctrl=True)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 2)
        self.assertFalse(self.ui.entriesList.item(0).icon().isNull())
        self.assertIn("slice K 15", self.ui.entriesList.item(0).toolTip())

    def test_slicesAreAddedByHandWhenThatIsWanted(self):
        """With the check box off."""
        self.ui.addAcceptedCheckBox.checked = False
        self.segmentBlock(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 0)
        self.ui.addSliceButton.click()
        self.settle()
        self.assertIn("empty on this slice", self.status())
        self.jump("Red", (15, 30, 20))
        self.ui.addSliceButton.click()
        self.settle()
        self.assertEqual(self.examples(), 1)

    def test_aSliceIsPredictedFromTheExamplesAlone(self):
        """One undo step, and no prompt."""
        self.assertFalse(self.ui.predictSliceButton.enabled)
        self.segmentBlock(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertTrue(self.ui.predictSliceButton.enabled)
        before = self.mask(self.first).copy()
        self.ui.predictSliceButton.click()
        self.settle()
        self.assertTrue(np.array_equal(self.mask(self.first)[20], self.box(BLOCK)[20]))
        self.assertFalse(self.controls.acceptSliceButton.checked)
        self.editor.undo()
        self.assertTrue(np.array_equal(self.mask(self.first), before))

    def test_examplesAreOrderedAndRemoved(self):
        """By the buttons."""
        for k in (8, 12, 16, 20):
            self.segmentBlock(k)
        self.jump("Red", (22, 30, 20))
        self.settle()
        panel = self.effect.volume.contextPanel
        items = self.ui.entriesList
        order = [items.item(row).data(qt.Qt.UserRole) for row in range(items.count)]
        items.item(2).setSelected(True)
        self.ui.earlierButton.click()
        self.assertEqual(self.identifiers(), [order[0], order[2], order[1], order[3]])
        self.assertEqual(panel.selected, [order[2]])
        self.ui.laterButton.click()
        self.ui.laterButton.click()
        self.ui.laterButton.click()
        self.assertEqual(self.identifiers(), [order[0], order[1], order[3], order[2]])
        self.ui.removeEntriesButton.click()
        self.assertEqual(self.identifiers(), [order[0], order[1], order[3]])
        self.effect.volume.context.clear()
        self.assertEqual(self.examples(), 0)
        self.settle()

    def test_examplesAreOrderedByDragging(self):
        """As the list does it when one is dropped elsewhere."""
        for k in (8, 12, 16):
            self.segmentBlock(k)
        self.jump("Red", (22, 30, 20))
        self.settle()
        order = self.identifiers()
        model = self.ui.entriesList.model()
        self.assertTrue(model.moveRows(qt.QModelIndex(), 2, 1, qt.QModelIndex(), 0))
        self.settle()
        self.assertEqual(self.identifiers(), [order[2], order[0], order[1]])
        context = SharedContexts.sharedContexts().get(self.effect.volume.context.task)
        self.assertEqual([entry.identifier for entry in context], [order[2], order[0], order[1]])

    def identifiers(self):
        """Of the examples in the list, in order."""
        items = self.ui.entriesList
        return [items.item(row).data(qt.Qt.UserRole) for row in range(items.count)]

    def test_eachSegmentHasItsOwnExamples(self):
        """By its name, unless another task is chosen."""
        self.segmentBlock(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.ui.taskComboBox.currentText, "first")
        self.editor.setCurrentSegmentID(self.second)
        self.settle()
        self.assertEqual((self.ui.taskComboBox.currentText, self.examples()), ("second", 0))
        self.effect.volume.context.chooseTask("First")
        self.settle()
        self.assertEqual((self.ui.taskComboBox.currentText, self.examples()), ("First", 1))

    def test_aNetworkWithoutContextSaysSoAndPropagatesAllTheSame(self):
        """In one line of the panel."""
        self.editor.setActiveEffectByName("")
        self.use(BrightRegionPredictor(capabilities=("scribbles",)))
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        self.segmentBlock(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertIn("takes no examples", self.ui.contextNoteLabel.text)
        self.assertFalse(self.ui.predictSliceButton.enabled)
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(self.first), self.box(BLOCK)), self.status())

    def test_examplesOfASegmentWithoutANameAreTakenAlongWhenItGetsOne(self):
        """And are for this session only until then."""
        unnamed = self.segmentation.GetSegmentation().AddEmptySegment("Segment_1", "Segment_1")
        self.editor.setCurrentSegmentID(unnamed)
        self.segmentBlock(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 1)
        self.assertIn("this session only", self.ui.contextNoteLabel.text)
        self.segmentation.GetSegmentation().GetSegment(unnamed).SetName("Kidney")
        self.settle()
        self.assertEqual((self.ui.taskComboBox.currentText, self.examples()), ("Kidney", 1))

    @needsPictures
    def test_examplesOutliveTheSession(self):
        """Kept by the name of the task, in the user's folder."""
        self.segmentBlock(15)
        self.editor.setActiveEffectByName("")
        self.assertEqual([(info.name, info.entries) for info in self.store.list_tasks()], [("first", 1)])
        SharedContexts.replaceSharedContexts(TaskContexts(self.store))
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 1)
        self.ui.predictSliceButton.click()
        self.settle()
        self.assertTrue(np.array_equal(self.mask(self.first)[20], self.box(BLOCK)[20]))

    @needsPictures
    def test_examplesAreExportedAndImported(self):
        """To a file and to another task; twice is as good as once."""
        self.segmentBlock(15)
        self.segmentBlock(18)
        self.jump("Red", (20, 30, 20))
        self.settle()
        path = str(Path(self.folder.name) / "blocks")
        control = self.effect.volume.context
        control.exportTo(path)
        self.wait(lambda: Path(path + ".context.zip").exists() and not control._job.running)
        self.editor.setCurrentSegmentID(self.second)
        self.settle()
        for _ in range(2):
            control.importFrom(path + ".context.zip")
            self.wait(lambda: not control._job.running)
            self.settle()
            self.assertEqual(self.examples(), 2)
        control.importFrom(str(Path(self.folder.name) / "nothing.context.zip"))
        self.wait(lambda: not control._job.running)
        self.assertIn("nothing.context.zip", self.status())

    def wait(self, condition):
        """Let Slicer work until something is so."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            slicer.app.processEvents()
            time.sleep(0.002)
            if time.monotonic() > end:
                self.fail("It did not happen.")

    # Leaving no trace -------------------------------------------------------------------------------------------

    def test_leavingTheEffectLeavesNothingBehind(self):
        """No thread, timer or node; what was worked on last is an example."""
        self.editor.setActiveEffectByName("")
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.segmentBlock(15)
        self.press(self.controls.propagateButton)
        self.editor.setActiveEffectByName("")
        slicer.app.processEvents()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.assertEqual(self.threadsLeft(), [])
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        self.assertEqual(self.examples(), 1)


def main():
    """Run all tests and tell Slicer's exit code."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(ScribbleSegmentVolumeTest)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    slicer.util.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
