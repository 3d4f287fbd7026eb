"""The effect in the real application: mouse events in slice views, undo, orientations, saving, and leaving no trace.

Run by CTest, or by hand: `Slicer --testing --no-splash --python-script ScribbleSegmentEffectTest.py [test_...]`, with
the module's folder among the additional module paths. Works on software rendering, and needs no neural network: a
predictor that finds bright regions stands in for it, because what is tested here is everything around it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import slicer
import vtk
from effect_case import SHAPE, EffectCase, run

from scribblesegment.service.service import InferenceService
from ScribbleSegmentLib import Inference as SharedInference
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME


class ScribbleSegmentEffectTest(EffectCase):
    """What a user does with the effect."""

    # Drawing ----------------------------------------------------------------------------------------------------

    def test_aStrokeSegmentsTheShownSlice(self):
        """A stroke fills the block on one slice."""
        self.segmentBlock(15)
        mask = self.mask()
        self.assertEqual(self.slices(), [15])
        self.assertTrue(mask[15, 20:50, 15:40].all())
        self.assertFalse(mask[15, :, 45:].any())

    def test_ctrlDrawsTheOtherKind(self):
        """A stroke with Ctrl takes away what it covers."""
        self.segmentBlock(15)
        self.correctBlock(15)
        self.assertFalse(self.mask()[15, 26:45, 17].any())

    def test_keyXSwapsStructureAndBackground(self):
        """X changes the polarity, and back."""
        self.event("Red", (50, 50), "KeyPressEvent", key="x")
        self.assertTrue(self.options.negativeButton.checked)
        self.event("Red", (50, 50), "KeyPressEvent", key="x")
        self.assertTrue(self.options.positiveButton.checked)

    def test_aPressIsAClick(self):
        """Pressing without dragging segments, too; a double click does not enlarge the view."""
        layout = slicer.app.layoutManager().layout
        self.jump("Red", (15, 40, 66))
        xy = self.xy("Red", (15, 40, 66))
        for name in ("LeftButtonPressEvent", "LeftButtonReleaseEvent", "LeftButtonDoubleClickEvent"):
            self.event("Red", xy, name)
        self.event("Red", xy, "LeftButtonReleaseEvent")
        self.settle()
        self.assertTrue(self.mask()[15, 30:60, 55:80].all())
        self.assertEqual(slicer.app.layoutManager().layout, layout)

    def test_aBoxSegmentsWhatIsInside(self):
        """The box tool."""
        self.event("Red", (50, 50), "KeyPressEvent", key="o")
        self.assertTrue(self.options.boxButton.checked)
        self.drag("Red", (15, 18, 12), (15, 52, 42))
        self.assertTrue(self.mask()[15, 21:49, 16:39].all())
        self.assertFalse(self.mask()[:, :, 50:].any())

    def test_aLassoMarksWhatItGoesAround(self):
        """Closed when the button is let go."""
        self.options.lassoButton.click()
        self.drag("Red", (15, 25, 20), (15, 45, 20), (15, 45, 35), (15, 25, 35))
        self.assertEqual(self.options.promptsList.item(0).text(), "1. Lasso, included")
        self.assertTrue(self.mask()[15, 20:50, 15:40].all())

    def test_aStrokeBelongsWhereItBegan(self):
        """Also when the slice or the segment is changed while it is drawn."""
        self.jump("Red", (15, 30, 20))
        start, stop = self.xy("Red", (15, 30, 20)), self.xy("Red", (15, 35, 34))
        self.event("Red", start, "LeftButtonPressEvent")
        self.jump("Red", (20, 30, 20))
        self.editor.setCurrentSegmentID(self.second)
        self.event("Red", stop, "MouseMoveEvent")
        self.event("Red", stop, "LeftButtonReleaseEvent")
        self.settle()
        self.assertEqual(self.slices(), [15])
        self.assertFalse(self.mask(self.second).any())

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
        self.assertTrue(self.mask()[4:26, 35, 15:40].all())
        self.drag("Yellow", (10, 40, 66), (20, 40, 66))
        self.editor.setCurrentSegmentID(self.second)
        self.turn("Red", 35, 20)
        self.drag("Red", (15, 35, 22), (15, 35, 33))
        oblique = self.mask(self.second)
        self.assertGreater(len(np.flatnonzero(oblique.any(axis=(1, 2)))), 5)
        self.assertGreater(int(oblique.sum()), 200)
        self.assertFalse((oblique & self.mask()).any())  # the first segment is protected
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
            before = int(self.mask().sum())
            self.drag(name, (12, 40, 66), (14, 41, 67) if name == "Yellow" else (12, 45, 70))
            self.assertGreater(int(self.mask().sum()), before, name)

    # Undo, saving -----------------------------------------------------------------------------------------------

    def test_undoAndRedoTakeMaskAndPromptsTogether(self):
        """As the buttons of the Segment Editor do it."""
        states = []
        for k in (10, 12, 14):
            states.append((self.mask().copy(), self.gestures()))
            self.segmentBlock(k)
        states.append((self.mask().copy(), self.gestures()))
        for mask, count in reversed(states[:-1]):
            self.editor.undo()
            self.assertTrue(np.array_equal(self.mask(), mask))
            self.assertEqual(self.gestures(), count)
        for mask, count in states[1:]:
            self.editor.redo()
            self.assertTrue(np.array_equal(self.mask(), mask))
            self.assertEqual(self.gestures(), count)

    def test_promptsAndMaskSurviveAnMrb(self):
        """Saved and loaded, the prompts are there, and can be built on."""
        self.segmentBlock(15)
        mask = self.mask().copy()
        self.saveAndLoad()
        self.assertTrue(np.array_equal(self.mask(), mask))
        self.assertEqual(self.gestures(), 1)
        self.correctBlock(15)
        self.assertEqual(self.gestures(), 2)
        self.assertFalse(self.mask()[15, 26:45, 17].any())

    def test_theSurfaceStaysAndFollows(self):
        """The 3D representation has grown soon after a stroke, and shrinks again with undo."""
        self.segmentBlock(15)
        self.segmentation.CreateClosedSurfaceRepresentation()
        surface = vtk.vtkPolyData()
        self.segmentation.GetClosedSurfaceRepresentation(self.first, surface)
        before = surface.GetBounds()[5]

        def top():
            self.segmentation.GetClosedSurfaceRepresentation(self.first, surface)
            return surface.GetBounds()[5]

        for k in (16, 17, 18):  # faster than surfaces are made
            self.segmentBlock(k)
        self.wait(lambda: top() > before + 4)
        self.assertGreater(top(), before)
        self.editor.undo()
        self.wait(lambda: before + 2 < top() < before + 5)
        self.editor.undo()
        self.editor.undo()
        self.wait(lambda: abs(top() - before) < 0.5)
        self.assertAlmostEqual(top(), before, delta=0.5)

    # Options ----------------------------------------------------------------------------------------------------

    def test_aPreviewIsAcceptedWithEnter(self):
        """Automatic off: nothing is written before Enter."""
        self.options.automaticCheckBox.checked = False
        self.segmentBlock(15)
        self.assertFalse(self.mask().any())
        self.assertTrue(self.options.applyButton.enabled)
        self.event("Red", (50, 50), "KeyPressEvent", key="Return")
        self.settle()
        self.assertTrue(self.mask()[15, 20:50, 15:40].all())
        self.assertFalse(self.options.applyButton.enabled)

    def test_theThresholdChangesTheResultWithoutAPrediction(self):
        """One undo step for the change, none of it in other slices."""
        self.segmentBlock(15)
        before = self.mask().copy()
        ui = self.effect.options.ui
        for value in (0.7, 0.9):
            ui.thresholdSlider.valueIsChanging(value)
            self.assertEqual(self.effect.segmenter.options.clean_up.threshold, value)
        ui.thresholdSlider.value = 0.95
        ui.touchedCheckBox.checked = False
        self.settle()
        self.assertEqual(self.effect.segmenter.options.clean_up.threshold, 0.95)
        self.assertFalse(self.effect.segmenter.options.clean_up.keep_touched)
        self.assertTrue(np.array_equal(self.mask(), before))  # the stand-in is as sure as can be
        self.assertEqual(self.gestures(), 1)

    def test_probabilitiesAreShownWhenWanted(self):
        """As a picture over the slice."""
        self.segmentBlock(15)
        overlay = self.effect.views.overlayOf(self.view("Red"))
        self.assertFalse(overlay.probability.actor.GetVisibility())
        self.options.probabilityCheckBox.checked = True
        self.settle()
        self.assertTrue(overlay.probability.actor.GetVisibility())
        self.assertTrue(overlay.strokes.actor.GetVisibility())
        self.jump("Red", (20, 30, 20))
        self.settle()
        self.assertFalse(overlay.probability.actor.GetVisibility())
        self.assertFalse(overlay.strokes.actor.GetVisibility())

    def test_optionsWorkAfterTheEffectWasLeft(self):
        """Threshold and probabilities, on a slice that was answered before."""
        self.segmentBlock(15)
        self.editor.setActiveEffectByName("Paint")
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        predicted = self.predictor.predicted
        self.options.probabilityCheckBox.checked = True
        self.settle()
        self.assertTrue(self.effect.views.overlayOf(self.view("Red")).probability.actor.GetVisibility())
        self.assertEqual(self.predictor.predicted, predicted)
        self.press(self.options.predictButton)  # with the same result
        self.assertTrue(self.effect.views.overlayOf(self.view("Red")).probability.actor.GetVisibility())

    def test_anAnswerUnderWayComesOnReturn(self):
        """As one undo step."""
        self.predictor.seconds = 0.3
        self.segmentBlock(15, settle=False)
        self.editor.setActiveEffectByName("Paint")
        slicer.app.processEvents()
        self.predictor.seconds = 0.0
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        self.assertTrue(self.mask()[15, 20:50, 15:40].all())
        self.editor.undo()
        self.assertFalse(self.mask().any())

    def test_segmentsOfOneSliceAreAnsweredTogether(self):
        """Without a common voxel."""
        self.options.togetherCheckBox.checked = True
        self.segmentBlock(15)
        self.editor.setCurrentSegmentID(self.second)
        predicted = self.predictor.predicted
        self.drag("Red", (15, 40, 60), (15, 45, 70))
        self.assertEqual(self.predictor.predicted, predicted + 2)
        self.assertFalse((self.mask() & self.mask(self.second)).any())

    def test_thePanelIsAsNarrowAsItCanBe(self):
        """No section makes it wider, and every control says what it does."""
        widget = self.effect.options.widget
        narrow = widget.minimumSizeHint.width()
        for section in (self.options.adjustSection, self.options.promptsSection, self.controls.propagationSection):
            section.collapsed = False
        self.controls.rangeCheckBox.checked = True
        self.effect.say("A text that is much longer than the panel is wide, as errors and reports often are." * 3)
        slicer.app.processEvents()
        self.assertLessEqual(widget.minimumSizeHint.width(), narrow)
        for ui in (self.options, self.controls, self.ui):
            for name, one in vars(ui).items():
                if name[0].islower() and name.endswith(("Button", "CheckBox", "ComboBox", "Slider", "SpinBox", "List")):
                    self.assertTrue(one.toolTip, name)
        for kind in ("QLabel", "QPushButton", "QToolButton", "QCheckBox"):  # as in German
            for one in slicer.util.findChildren(widget, className=kind):
                one.text += "e" * round(0.3 * len(one.text))
        slicer.app.processEvents()
        self.assertLessEqual(widget.minimumSizeHint.width(), 1.2 * narrow)

    def test_aLongAnswerIsShownUnderWay(self):
        """After a moment, at the status line and at the cursor."""
        self.predictor.seconds = 0.8
        self.segmentBlock(15, settle=False)
        self.assertFalse(self.options.busyBar.visible)
        self.wait(lambda: self.options.busyBar.visible)
        self.settle()
        self.assertFalse(self.options.busyBar.visible)

    def test_segmentsKeepTheirOwnPrompts(self):
        """Switching segments switches what is drawn and shown."""
        self.segmentBlock(15)
        self.editor.setCurrentSegmentID(self.second)
        self.drag("Red", (15, 40, 60), (15, 45, 70))
        self.assertEqual((self.gestures(), self.gestures(self.second)), (1, 1))
        self.assertFalse((self.mask() & self.mask(self.second)).any())
        self.assertTrue(self.mask(self.second)[15, 30:60, 55:80].all())

    def test_promptsAreRemovedFromTheList(self):
        """One by one, and all of a segment."""
        self.segmentBlock(15)
        self.correctBlock(15)
        self.assertEqual(self.options.promptsList.count, 2)
        self.options.removeButton.click()
        self.settle()
        self.assertEqual(self.gestures(), 1)
        self.assertTrue(self.mask()[15, 20:50, 15:40].all())
        self.options.clearSegmentButton.click()
        self.assertEqual(self.gestures(), 0)
        self.assertTrue(self.mask().any())

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
        self.assertEqual(self.gestures(), 0)

    def test_aHiddenSegmentIsPaintedAndTheUserTold(self):
        """No dialog in the way of a stroke; nothing is said any longer when it is shown again."""
        display = self.segmentation.GetDisplayNode()
        for k, show in (
            (15, display.SetVisibility),
            (16, lambda visible: display.SetSegmentVisibility(self.first, visible)),
        ):
            show(False)
            self.segmentBlock(k)
            self.assertIn(k, self.slices())
            self.assertIn("hidden", self.status())
            show(True)
            self.assertEqual(self.status(), "")

    def test_aModelThatCannotBeLoadedIsExplainedAndTheStrokeStays(self):
        """The status line says what is missing, and has the way to the set-up."""

        def missing(model, device):
            raise ModuleNotFoundError("No module named 'torch'", name="torch_is_not_there")

        self.editor.setActiveEffectByName("")
        SharedInference.replaceSharedInference(InferenceService(missing))
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.segmentBlock(15)
        self.assertIn("torch_is_not_there", self.status())
        self.assertTrue(self.options.setUpButton.visible)
        self.assertEqual(self.gestures(), 1)
        self.assertFalse(self.mask().any())

    def test_closingTheSceneDuringAPredictionIsHarmless(self):
        """The result of a scene that has gone is dropped."""
        self.segmentBlock(15, settle=False)
        slicer.mrmlScene.Clear()
        self.settle()
        self.build()
        self.segmentBlock(15)
        self.assertTrue(self.mask()[15, 20:50, 15:40].all())

    def test_leavingTheEffectLeavesNothingBehind(self):
        """No actor, node, observer, timer or thread."""
        self.editor.setActiveEffectByName("")
        actors = {name: self.actorCount(name) for name in ("Red", "Green", "Yellow")}
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.segmentBlock(15)
        effect = self.effect
        timer = effect.timer
        self.assertGreater(self.actorCount("Red"), actors["Red"])
        self.editor.setActiveEffectByName("")
        slicer.app.processEvents()
        self.assertEqual({name: self.actorCount(name) for name in actors}, actors)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.assertFalse(timer.isActive())
        self.assertIsNone(effect.views)
        self.assertEqual(self.threadsLeft(), [])

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

    def test_theEmbeddedNetworkSegmentsAStroke(self):
        """From stroke to segment with the real network."""
        self.editor.setActiveEffectByName("")
        SharedInference.replaceSharedInference(InferenceService())
        self.editor.setActiveEffectByName(EFFECT_NAME)
        self.settle()
        self.segmentBlock(15)
        block = np.zeros(SHAPE, bool)
        block[15, 20:50, 15:40] = True
        mask = self.mask()
        self.assertGreater(2 * (mask & block).sum() / (mask.sum() + block.sum()), 0.8)


if __name__ == "__main__":
    run(ScribbleSegmentEffectTest)
