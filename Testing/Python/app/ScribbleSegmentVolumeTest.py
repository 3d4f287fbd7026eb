"""Propagation and examples in the real application: from accepted slices to the rest of the volume.

Run as ScribbleSegmentEffectTest.py. Tests that need files are skipped where Slicer's Python lacks what reads and writes
pictures.
"""

import importlib.util
import sys
import time
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import qt
import slicer
import vtk
from effect_case import BLOCK, OTHER, BrightRegionPredictor, EffectCase, run

from ScribbleSegmentLib import ContextLibrary as SharedContexts
from ScribbleSegmentLib import Inference as SharedInference
from ScribbleSegmentLib.ContextLibrary import TaskContexts
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME

canWritePictures = all(importlib.util.find_spec(name) for name in ("PIL", "SimpleITK"))
needsPictures = unittest.skipUnless(canWritePictures, "Slicer's Python lacks Pillow or SimpleITK")


class Counted(str):
    """A text that counts how often it is filled in."""

    def __new__(cls, text, calls):
        self = super().__new__(cls, text)
        self.calls = calls
        return self

    def format(self, *arguments, **fields):
        """Count, and fill in."""
        self.calls["text"] += 1
        return super().format(*arguments, **fields)


class ScribbleSegmentVolumeTest(EffectCase):
    """What a user does with accepted slices."""

    def examples(self):
        """Number of examples in the list."""
        return self.ui.entriesList.count

    # Propagating ------------------------------------------------------------------------------------------------

    def test_onePropagationFillsTheStructureAsOneUndoStep(self):
        """From one stroke to the whole block, and back with one undo."""
        self.segmentBlock(15)
        before = self.mask().copy()
        self.assertIn("15", self.controls.acceptedLabel.text)
        self.assertTrue(self.controls.acceptSliceButton.checked)
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())
        for words in ("21 slices", "per second", "mean confidence", "Slice 4: the structure ends", "Slice 25"):
            self.assertIn(words, self.status())
        self.assertFalse(self.controls.cancelButton.visible)
        self.editor.undo()
        self.assertTrue(np.array_equal(self.mask(), before))
        self.editor.redo()
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())

    def test_theVolumeFollowsAStrokeAsAPartOfItsUndoStep(self):
        """When that is wanted; the next stroke interrupts, and what it cannot reach stays."""
        self.controls.followCheckBox.checked = True
        self.segmentBlock(15)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())
        self.predictor.seconds = 0.1
        self.drag("Red", (10, 25, 17), (10, 45, 17), ctrl=True, settle=False)
        self.settle(until=lambda: not self.mask()[10, 26:45, 17].any())
        self.predictor.seconds = 0.0
        self.settle()
        self.assertFalse(self.mask()[10, 26:45, 17].any())
        self.assertTrue(self.mask()[24, 20:50, 18:40].all())
        self.editor.undo()
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())
        self.editor.undo()
        self.assertFalse(self.mask().any())
        self.editor.redo()
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)))

    def test_surfacesAreMadeOnceASecondAtMostWhileItRunsAndAtItsEnd(self):
        """However often slices are written."""
        self.segmentBlock(15)
        self.segmentation.CreateClosedSurfaceRepresentation()
        module = sys.modules[type(self.effect).__module__]
        made, derive = [], module.refresh_derived

        def counted(*arguments):
            derive(*arguments)
            made.append(time.monotonic())

        self.predictor.seconds = 0.25
        with mock.patch.object(module, "refresh_derived", counted):
            self.press(self.controls.propagateButton)
            ended = time.monotonic()
            self.wait(lambda: not self.effect._underived)
        during = [one for one in made if one < ended]
        self.assertGreater(len(during), 1)
        self.assertGreaterEqual(min(np.diff(during)), 1.0)
        self.assertLessEqual(len(made), len(during) + 1)
        surface = vtk.vtkPolyData()
        self.segmentation.GetClosedSurfaceRepresentation(self.first, surface)
        self.assertGreater(surface.GetBounds()[5] - surface.GetBounds()[4], 20)

    def test_strokesOfOtherViewsAreUsedUnlessThatIsSwitchedOff(self):
        """The check box is remembered, and reaches the network."""
        self.drag("Green", (10, 35, 20), (20, 35, 34))
        self.segmentBlock(15)
        given, predict = [], self.predictor.predict
        self.predictor.predict = lambda prompts, **how: given.append(prompts) or predict(prompts, **how)
        for wanted in (True, False):
            self.controls.otherViewsCheckBox.checked = wanted
            given.clear()
            self.press(self.controls.propagateButton)
            self.assertGreater(len(given), 10)
            self.assertEqual(any(one.scribbles[:, 35].any() for one in given), wanted)

    def test_itGoesAlongTheViewThatWasUsed(self):
        """A stroke in the green view, propagated along its axis."""
        self.drag("Green", (10, 35, 20), (20, 35, 34))
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())

    def test_aRangeThatBeginsAtTheShownSliceIsKeptTo(self):
        """From here, up to the end of the range."""
        self.segmentBlock(15)
        self.controls.rangeCheckBox.checked = True
        self.controls.fromHereButton.click()
        self.controls.rangeWidget.maximumValue = 20
        self.press(self.controls.propagateButton)
        self.assertEqual(self.slices(), list(range(15, 21)))
        self.assertIn("end of the range", self.status())
        self.controls.rangeWidget.maximumValue = 15
        self.press(self.controls.propagateButton)
        self.assertEqual(self.status().count("Slice 15: end of the range."), 1)

    def test_aRangeIsForgottenWithItsImage(self):
        """It would be a surprise in the next one."""
        self.segmentBlock(15)
        self.controls.rangeCheckBox.checked = True
        self.controls.fromHereButton.click()
        slicer.mrmlScene.Clear()
        self.build()
        self.segmentBlock(15)
        self.assertFalse(self.controls.rangeCheckBox.checked)

    def test_cancellingKeepsWhatIsDone(self):
        """As one undo step, and the next press goes on from there."""
        self.segmentBlock(15)
        before = self.mask().copy()
        self.predictor.seconds = 0.4
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.mask().any(axis=(1, 2)).sum() > 4)
        self.assertTrue(self.controls.cancelButton.visible)
        self.assertIn("per second", self.controls.speedLabel.text)
        self.press(self.controls.cancelButton)
        kept = int(self.mask().any(axis=(1, 2)).sum())
        self.assertGreater(kept, 4)
        self.assertLess(kept, 22)
        self.assertIn("Cancelled", self.status())
        self.predictor.seconds = 0.0
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())
        self.editor.undo()
        self.editor.undo()
        self.assertTrue(np.array_equal(self.mask(), before))

    def test_aStrokeDuringAPropagationEndsItAndIsAnswered(self):
        """What is done stays, the stroke is an undo step of its own, and accepted."""
        self.segmentBlock(15)
        self.predictor.seconds = 0.1
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.mask().any(axis=(1, 2)).sum() > 3)
        self.correctBlock(16)
        self.predictor.seconds = 0.0
        mask = self.mask()
        self.assertFalse(mask[16, 26:45, 17].any())
        self.assertLess(int(mask.any(axis=(1, 2)).sum()), 22)
        self.press(self.controls.propagateButton)
        self.assertFalse(self.mask()[16, 26:45, 17].any())
        self.assertTrue(self.mask()[24, 20:50, 18:40].all())

    def test_undoDuringAPropagationEndsIt(self):
        """Nothing is written after it was taken back."""
        self.segmentBlock(15)
        before = self.mask().copy()
        self.predictor.seconds = 0.1
        self.controls.propagateButton.click()
        self.settle(until=lambda: self.mask().any(axis=(1, 2)).sum() > 3)
        self.editor.undo()
        self.settle()
        self.assertTrue(np.array_equal(self.mask(), before))
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
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())

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
        self.settle(until=lambda: self.mask().any(axis=(1, 2)).sum() > 4)
        timer = self.effect.timer
        self.editor.setActiveEffectByName("Paint")
        kept = self.mask().copy()
        self.assertGreater(int(kept.any(axis=(1, 2)).sum()), 4)
        end = time.monotonic() + 5
        while time.monotonic() < end and self.threadsLeft():
            time.sleep(0.05)
        self.assertEqual(self.threadsLeft(), [])
        self.assertFalse(timer.isActive())
        self.assertTrue(np.array_equal(self.mask(), kept))
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.predictor.seconds = 0.0
        predicted = self.predictor.predicted
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())
        self.assertLess(self.predictor.predicted - predicted, 22)

    def test_theNextSliceWorthCorrectingIsShownAndCorrected(self):
        """A correction there is accepted, and only its surroundings are made again."""
        self.segmentBlock(8)
        self.segmentBlock(20)
        self.press(self.controls.propagateButton)
        # The stand-in is sure of everything; what a network is unsure of is told the same way.
        self.effect.propagation._proposed = (self.first, 14)
        self.press(self.controls.goToButton)
        self.assertAlmostEqual(self.view("Red").mrmlSliceNode().GetSliceOffset(), self.ras((14, 0, 0))[2], places=3)
        self.assertIn("8, 20", self.controls.acceptedLabel.text)
        self.correctBlock(14)
        self.assertIn("8, 14, 20", self.controls.acceptedLabel.text)
        self.press(self.controls.propagateButton)
        self.assertFalse(self.mask()[14, 26:45, 17].any())
        self.assertIn("10 slices propagated", self.status())

    def test_nothingHappensOnTicksThatBringNothing(self):
        """Labels, translations and segments are touched when something has come, and ten times a second at most."""
        self.segmentBlock(15)
        self.predictor.seconds = 0.05
        calls = {"tick": 0, "text": 0, "tr": 0}
        effect, module = self.effect, sys.modules[type(self.effect.propagation).__module__]
        tick, translate, began = effect.tick, module._, time.monotonic()

        def counted(name, function):
            def call(*arguments):
                calls[name] += 1
                return function(*arguments)

            return call

        effect.timer.timeout.disconnect(effect.tick)
        effect.timer.timeout.connect(counted("tick", tick))
        module._ = counted("tr", translate)
        effect.propagation._texts.speed = Counted(effect.propagation._texts.speed, calls)
        try:
            self.press(self.controls.propagateButton)
        finally:
            module._ = translate
        seconds = time.monotonic() - began
        self.assertGreater(calls["tick"], 20)
        self.assertLessEqual(calls["text"], 10 * seconds + 2)
        self.assertLess(calls["tr"], 40)  # the report at the end

    def test_allVisibleSegmentsGoInOnePass(self):
        """Both blocks, one undo step."""
        self.segmentBlock(15)
        self.editor.setCurrentSegmentID(self.second)
        self.drag("Red", (15, 40, 60), (15, 45, 70))
        self.options.togetherCheckBox.checked = True
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())
        self.assertTrue(np.array_equal(self.mask(self.second), self.box(OTHER)))
        self.editor.undo()
        self.assertEqual(int(self.mask().any(axis=(1, 2)).sum()), 1)
        self.assertEqual(int(self.mask(self.second).any(axis=(1, 2)).sum()), 1)

    def test_anObliqueViewIsAlignedFirst(self):
        """The button is there when it is needed."""
        self.segmentBlock(15)
        self.assertFalse(self.controls.alignButton.visible)
        self.turn("Red", 20, 10)
        self.jump("Red", (15, 35, 25))
        self.assertFalse(self.controls.propagateButton.enabled)
        self.assertIn("oblique", self.controls.acceptedLabel.text)
        self.controls.alignButton.click()
        self.settle()
        self.assertTrue(self.controls.propagateButton.enabled)
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())

    def test_withoutAcceptedSlicesTheUserIsToldWhatToDo(self):
        """Nothing changes."""
        self.jump("Red", (15, 30, 20))
        self.press(self.controls.propagateButton)
        self.assertIn("Accept slice", self.status())
        self.assertFalse(self.mask().any())

    def test_propagatingWaitsForTheStrokeBeforeIt(self):
        """Pressed before the answer is in, it starts from the answer."""
        self.predictor.seconds = 0.1
        self.segmentBlock(15, settle=False)
        self.predictor.seconds = 0.0
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())

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
        self.saveAndLoad()
        self.jump("Red", (10, 30, 20))
        self.settle()
        self.press(self.controls.propagateButton)
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())

    def test_limitsStayWhenTheWindowChanges(self):
        """With the volume's window as intensities, another window is another image, but no other place."""
        self.effect.scriptedEffect.setParameter("IntensitiesAsDisplayed", 1)
        self.segmentBlock(15)
        self.controls.rangeCheckBox.checked = True
        self.controls.rangeWidget.setValues(12, 18)
        self.volume.GetDisplayNode().AutoWindowLevelOff()
        self.volume.GetDisplayNode().SetWindowLevelMinMax(10, 190)
        self.jump("Red", (16, 30, 20))
        self.settle()
        self.press(self.controls.propagateButton)
        self.effect.scriptedEffect.setParameter("IntensitiesAsDisplayed", 0)
        self.assertEqual(self.slices(), list(range(12, 19)))

    def test_buttonsActOnAViewThatIsShown(self):
        """Not on the one used last, when the layout hides it."""
        self.segmentBlock(15)
        self.drag("Green", (10, 35, 20), (20, 35, 34))
        layout = slicer.app.layoutManager()
        try:
            layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
            self.settle()
            self.assertEqual(self.effect.views.activeView.mrmlSliceNode().GetLayoutName(), "Red")
            layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUp3DView)
            self.settle()
            self.wait(lambda: not self.controls.propagateButton.enabled)
            self.assertIsNone(self.effect.views.activeView)
        finally:
            layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def test_whoTypesKeepsTheKeys(self):
        """While the mouse passes over a view."""
        slicer.util.mainWindow().activateWindow()
        slicer.app.processEvents()
        spinBox = self.options.brushDiameterSlider.findChildren(qt.QDoubleSpinBox)[0]
        for widget, keeps in ((spinBox, True), (self.ui.taskComboBox.lineEdit(), True), (spinBox.window(), False)):
            widget.setFocus()
            slicer.app.processEvents()
            before = slicer.app.focusWidget()
            self.event("Red", (60, 60), "MouseMoveEvent")
            slicer.app.processEvents()
            self.assertEqual(slicer.app.focusWidget() is before or slicer.app.focusWidget() == before, keeps)

    def test_goingToASegmentThatWasRemovedSaysSo(self):
        """And the effect stays."""
        self.segmentBlock(15)
        self.press(self.controls.propagateButton)
        self.editor.setCurrentSegmentID(self.second)
        self.segmentation.GetSegmentation().RemoveSegment(self.first)
        self.settle()
        self.effect.attempt(lambda: self.effect.propagation.goTo(self.first, 14))
        self.assertIn("was removed", self.status())
        self.assertEqual(self.editor.activeEffect().name, EFFECT_NAME)

    def test_onlyTheSegmentDrawnInFollows(self):
        """Another one that was selected before the answer stays as it is."""
        self.controls.followCheckBox.checked = True
        self.predictor.seconds = 0.3
        self.segmentBlock(15, settle=False)
        self.editor.setCurrentSegmentID(self.second)
        self.settle()
        self.controls.followCheckBox.checked = False
        self.assertEqual(self.predictor.predicted, 1)
        self.assertEqual(self.slices(), [15])

    # Context ----------------------------------------------------------------------------------------------------

    def test_aSliceThatWasCorrectedOrAcceptedBecomesAnExampleWhenItIsLeft(self):
        """One that nobody looked at twice does not; it is taken back by one click, and replaced, not doubled."""
        self.segmentBlock(15)
        self.segmentBlock(18)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 0)
        self.segmentBlock(15)
        self.correctBlock(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 1)
        self.segmentBlock(18)
        self.correctBlock(18)
        self.editor.setCurrentSegmentID(self.second)
        self.settle()
        self.assertIn("18 is now an example", self.status())
        self.options.statusLabel.linkActivated("remove")
        self.editor.setCurrentSegmentID(self.first)
        self.settle()
        self.assertEqual(self.examples(), 1)
        self.assertIn("slice K 15", self.ui.entriesList.item(0).toolTip())
        former = self.ui.entriesList.item(0).data(qt.Qt.UserRole)
        self.segmentBlock(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertNotEqual(self.ui.entriesList.item(0).data(qt.Qt.UserRole), former)
        self.options.statusLabel.linkActivated("remove")
        self.settle()
        self.assertEqual(self.ui.entriesList.item(0).data(qt.Qt.UserRole), former)
        self.ui.removeEntriesButton.click()
        self.settle()
        self.assertEqual(self.examples(), 0)
        self.segmentBlock(15)
        self.correctBlock(15)
        for k in (20, 15):
            self.jump("Red", (k, 30, 20))
            self.settle()
        self.acceptSlice(15)
        self.assertEqual(self.examples(), 1)
        self.assertFalse(self.ui.entriesList.item(0).icon().isNull())
        self.assertIn("slice K 15", self.ui.entriesList.item(0).toolTip())

    def acceptSlice(self, k):
        """Accept the first block in an axial slice as it is."""
        self.segmentBlock(k)
        self.event("Red", (50, 50), "KeyPressEvent", key="Return")
        self.settle()

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
        self.acceptSlice(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        buttons = self.ui.predictSliceButton, self.ui.addSliceButton
        for layout, usable in ("LayoutOneUp3DView", False), ("LayoutFourUpView", True):
            slicer.app.layoutManager().setLayout(getattr(slicer.vtkMRMLLayoutNode, f"Slicer{layout}"))
            self.settle()
            self.assertEqual([button.enabled for button in buttons], 2 * [usable])
        before = self.mask().copy()
        self.ui.predictSliceButton.click()
        self.settle()
        self.assertTrue(np.array_equal(self.mask()[20], self.box(BLOCK)[20]))
        self.assertFalse(self.controls.acceptSliceButton.checked)
        self.editor.undo()
        self.assertTrue(np.array_equal(self.mask(), before))

    def test_examplesAreOrderedAndRemoved(self):
        """By the buttons."""
        for k in (8, 12, 16, 20):
            self.acceptSlice(k)
        self.jump("Red", (22, 30, 20))
        self.settle()
        panel = self.effect.context
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
        self.effect.context.clear()
        self.assertEqual(self.examples(), 0)
        self.settle()

    def test_examplesAreOrderedByDragging(self):
        """As the list does it when one is dropped elsewhere."""
        for k in (8, 12, 16):
            self.acceptSlice(k)
        self.jump("Red", (22, 30, 20))
        self.settle()
        order = self.identifiers()
        model = self.ui.entriesList.model()
        self.assertTrue(model.moveRows(qt.QModelIndex(), 2, 1, qt.QModelIndex(), 0))
        self.settle()
        self.assertEqual(self.identifiers(), [order[2], order[0], order[1]])
        context = SharedContexts.sharedContexts().get(self.effect.context.task)
        self.assertEqual([entry.identifier for entry in context], [order[2], order[0], order[1]])

    def identifiers(self):
        """Of the examples in the list, in order."""
        items = self.ui.entriesList
        return [items.item(row).data(qt.Qt.UserRole) for row in range(items.count)]

    def test_eachSegmentHasItsOwnExamples(self):
        """By its name, unless another task is chosen."""
        self.acceptSlice(15)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.ui.taskComboBox.currentText, "first")
        self.editor.setCurrentSegmentID(self.second)
        self.settle()
        self.assertEqual((self.ui.taskComboBox.currentText, self.examples()), ("second", 0))
        self.effect.context.chooseTask("First")
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
        self.assertTrue(np.array_equal(self.mask(), self.box(BLOCK)), self.status())

    def test_examplesOfASegmentWithoutANameAreTakenAlongWhenItGetsOne(self):
        """And are for this session only until then."""
        unnamed = self.segmentation.GetSegmentation().AddEmptySegment("Segment_1", "Segment_1")
        self.editor.setCurrentSegmentID(unnamed)
        self.acceptSlice(15)
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
        self.acceptSlice(15)
        self.editor.setActiveEffectByName("")
        self.assertEqual([(info.name, info.entries) for info in self.store.list_tasks()], [("first", 1)])
        SharedContexts.replaceSharedContexts(TaskContexts(self.store))
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertEqual(self.examples(), 1)
        self.ui.predictSliceButton.click()
        self.settle()
        self.assertTrue(np.array_equal(self.mask()[20], self.box(BLOCK)[20]))

    @needsPictures
    def test_examplesAreExportedAndImported(self):
        """To a file and to another task; twice is as good as once."""
        self.acceptSlice(15)
        self.acceptSlice(18)
        self.jump("Red", (20, 30, 20))
        self.settle()
        path = str(Path(self.folder.name) / "blocks")
        control = self.effect.context
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

    # Leaving no trace -------------------------------------------------------------------------------------------

    def test_leavingTheEffectLeavesNothingBehind(self):
        """No thread, timer or node; what was worked on last is an example."""
        self.editor.setActiveEffectByName("")
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.acceptSlice(15)
        self.press(self.controls.propagateButton)
        self.editor.setActiveEffectByName("")
        slicer.app.processEvents()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.assertEqual(self.threadsLeft(), [])
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        self.assertEqual(self.examples(), 1)


if __name__ == "__main__":
    run(ScribbleSegmentVolumeTest)
