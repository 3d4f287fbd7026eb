"""Correcting a network's result in the real application, with a stand-in for network and refinement.

Run as ScribbleSegmentEffectTest.py. The stand-in labels by brightness, and refines by filling what is painted.
"""

import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import qt
import slicer
import vtk
from effect_case import run

from scribblesegment.errors import CancelledError, MissingPackageError, NetworkError
from scribblesegment.mrml.corrections import corrections_of, source_of
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import segment_at
from ScribbleSegmentLib.RefinementLogic import NetworkList
from ScribbleSegmentLib.RefinementPanel import RefinementPanel

SHAPE = (12, 60, 70)
DIM = (slice(2, 10), slice(10, 30), slice(8, 30))
BRIGHT = (slice(2, 10), slice(30, 50), slice(40, 60))
NAMES = ("background", "Liver", "Tumour")
WAIT_SECONDS = 60.0


class StandIn:
    """Networks by brightness; everything that is asked of it is noted."""

    def __init__(self):
        self.seconds = 0.0
        self.asks = ""
        self.fails = None
        self.iterations = 5
        self.ignores = ()
        self.loaded = []
        self.made = []
        self.refined = []

    def use(self, logic):
        """Take the place of the package in a logic."""
        logic.missingPackages = lambda: ()
        logic.loadNetwork, logic.newCorrection = self.load, self.correction
        logic.reset()
        logic._computed = type(logic._computed)()

    def load(self, source, ask):
        """Load a network, after asking if it may."""
        if self.asks and not ask(self.asks):
            raise NetworkError("It was not confirmed, so nothing was run.")
        self.loaded.append(source)
        return SimpleNamespace(name="Brightness", licence="CC0", labels=NAMES, ndim=2)

    def correction(self, network, request):
        """Bring network and image together."""
        self.made.append(request)
        image = request.image.volume.array
        part = image if request.place is None else np.take(image, request.place[1], axis=request.place[0])
        return StandInCorrection(self, network, part)


class StandInCorrection:
    """What `Correction` does, by brightness."""

    def __init__(self, standIn, network, part):
        self.standIn, self.network, self.part = standIn, network, part

    def segment(self, progress, cancelled):
        """Label by brightness."""
        progress(0.5, "Window 1 of 2")
        self.work(cancelled)
        if self.standIn.fails is not None:
            raise self.standIn.fails
        return ((self.part > 50).astype(np.int16) + (self.part > 150)).astype(np.int16)

    def work(self, cancelled):
        """Take time."""
        until = time.monotonic() + self.standIn.seconds
        while time.monotonic() < until:
            if cancelled():
                raise CancelledError("cancelled")
            time.sleep(0.002)

    def refine(self, corrections, names, grow, on_iteration, progress, cancelled):
        """Fill what is painted, but for the labels that are ignored."""
        painted, standIn = corrections.labels, self.standIn
        standIn.refined.append((painted, dict(names)))
        history = [2.0 * 0.5**number for number in range(standIn.iterations + 1)]
        for number, g in enumerate(history):
            on_iteration(number, g)
            progress(number / standIn.iterations, f"Iteration {number}")
            self.work(cancelled)
        labels = self.segment(progress, cancelled)
        for label in np.unique(painted[painted >= 0]):
            if label not in standIn.ignores:
                labels[painted == label] = label
        wrong = (painted >= 0) & (labels != painted)
        return SimpleNamespace(
            labels=labels,
            names=(*NAMES, *names.values()),
            violations=wrong,
            violation_counts={label: int((wrong & (painted == label)).sum()) for label in standIn.ignores},
            g_history=tuple(history),
            iterations=standIn.iterations,
            satisfied=not wrong.any(),
            stopped="iterations" if wrong.any() else "satisfied",
            seconds=0.1,
            notes=("Checked.",),
        )


class Settings(dict):
    """What of QSettings the list of networks needs."""

    value, setValue = dict.get, dict.__setitem__


class ScribbleSegmentCorrectionTest(unittest.TestCase):
    """What a user does in the section *Correct a network's result*."""

    def setUp(self):
        """Open the module on a volume with a dim and a bright block."""
        slicer.mrmlScene.Clear()
        self.threadsBefore = set(threading.enumerate())
        array = np.zeros(SHAPE, np.int16)
        array[DIM], array[BRIGHT] = 100, 200
        self.volume = slicer.util.addVolumeFromArray(array, name="Blocks")
        self.volume.SetSpacing(1.0, 1.2, 2.0)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        for name in ("Red", "Green", "Yellow"):
            self.sliceNode(name).SetOrientationToDefault()
        slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
        slicer.util.selectModule("SegmentEditor")
        slicer.util.selectModule("ScribbleSegment")
        widget = slicer.modules.scribblesegment.widgetRepresentation().self()
        self.panel = widget.panel.refinement
        self.ui, self.logic = self.panel.ui, self.panel.logic
        self.realNetworks = self.panel.networks
        self.panel.widget.parent().collapsed = False
        self.panel.networks = NetworkList(Settings(), lambda: ["own"])
        self.standIn = StandIn()
        self.standIn.use(self.logic)
        self.asked = []
        self.panel.addNetwork(__file__)
        self.source = self.panel.source
        self.panel.chooseVolume(self.volume)
        self.panel.chooseResult(None)
        self.ui.scopeComboBox.currentIndex = 1
        self.ui.newLabelsComboBox.currentIndex = 0
        slicer.app.processEvents()

    def tearDown(self):
        """Leave nothing behind."""
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        self.panel.networks = self.realNetworks
        for name in ("missingPackages", "loadNetwork", "newCorrection"):
            self.logic.__dict__.pop(name, None)
        for name in ("ask", "offerPackage"):
            self.panel.__dict__.pop(name, None)
        self.waitFor(lambda: set(threading.enumerate()) <= self.threadsBefore, "The end of all threads")

    # Helpers ----------------------------------------------------------------------------------------------------

    def sliceNode(self, name):
        """The slice node of a view."""
        return slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()

    def waitFor(self, condition, what):
        """Let Slicer work until something is so."""
        until = time.monotonic() + WAIT_SECONDS
        while not condition():
            slicer.app.processEvents()
            if time.monotonic() > until:
                self.fail(f"{what} did not happen; the panel says: {self.says()}")
            time.sleep(0.002)

    def says(self):
        """What the panel tells."""
        return self.ui.refinementStatusLabel.text

    def press(self, button):
        """Press a button and wait for what it starts."""
        button.click()
        self.waitFor(lambda: not self.logic.running, "The end of the computation")
        slicer.app.processEvents()

    def run_(self):
        """Run the network; gives the result's node."""
        self.press(self.ui.runNetworkButton)
        self.assertIsNotNone(self.panel.resultNode, self.says())
        return self.panel.resultNode

    def results(self):
        """All results in the scene; the Segment Editor may have made an empty segmentation besides."""
        return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if source_of(node) is not None]

    def answer(self, yes):
        """Answer questions without a dialog."""

        def ask(reason):
            self.asked.append(reason)
            return yes

        self.panel.ask = ask

    def segmentId(self, node, name):
        """Identifier of the segment of a name."""
        segmentation = node.GetSegmentation()
        return next(one for one in segmentation.GetSegmentIDs() if segmentation.GetSegment(one).GetName() == name)

    def mask(self, node, name):
        """The voxels of a segment, (K, J, I)."""
        kji = np.argwhere(np.ones(SHAPE, bool))
        return segment_at(node, self.segmentId(node, name), reference_geometry(node), kji).reshape(SHAPE)

    def paint(self, name, box, overlapping=False):
        """Paint a box in the corrections, as the Segment Editor does."""
        node = corrections_of(self.panel.resultNode)
        segmentation = node.GetSegmentation()
        names = [segmentation.GetSegment(one).GetName() for one in segmentation.GetSegmentIDs()]
        segmentId = self.segmentId(node, name) if name in names else segmentation.AddEmptySegment("", name)
        labelmap = slicer.vtkOrientedImageData()
        slicer.vtkSegmentationConverter.DeserializeImageGeometry(
            slicer.vtkSlicerSegmentEditorLogic.GetReferenceImageGeometryStringFromSegmentation(segmentation),
            labelmap,
            False,
        )
        labelmap.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        voxels = vtk.util.numpy_support.vtk_to_numpy(labelmap.GetPointData().GetScalars())
        voxels[:] = 0
        mask = voxels.reshape(SHAPE)
        mask[box] = 1
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        mode = logic.MODE_MERGE_MASK
        if overlapping:
            segmentation.SeparateSegmentLabelmap(segmentId)
            mode = logic.MODE_MERGE_MAX
        logic.SetBinaryLabelmapToSegment(labelmap, node, segmentId, mode)

    def openCorrections(self):
        """Press the button, and come back to the module."""
        self.ui.paintCorrectionsButton.click()
        slicer.app.processEvents()
        slicer.util.selectModule("ScribbleSegment")
        slicer.app.processEvents()

    def rows(self):
        """The table of what is painted."""
        table = self.ui.correctionsTable
        return {table.item(row, 0).text(): table.item(row, 1).text() for row in range(table.rowCount)}

    # Running ----------------------------------------------------------------------------------------------------

    def test_theNetworkSegmentsTheVolume(self):
        """A segment for each label, on the volume."""
        node = self.run_()
        self.assertTrue(np.array_equal(self.mask(node, "Liver"), slicer.util.arrayFromVolume(self.volume) == 100))
        self.assertTrue(np.array_equal(self.mask(node, "Tumour"), slicer.util.arrayFromVolume(self.volume) == 200))
        self.assertEqual(source_of(node).labels, NAMES)
        self.assertIn("Brightness", self.says())
        self.assertIn("CC0", self.ui.networkInfoLabel.text)

    def test_theShownSliceAloneIsSegmentedAndTheNextOneIsAdded(self):
        """Into the same segmentation."""
        self.ui.scopeComboBox.currentIndex = 0
        self.ui.viewComboBox.currentIndex = self.ui.viewComboBox.findText("Red")
        expected = np.zeros(SHAPE, bool)
        dim = slicer.util.arrayFromVolume(self.volume) == 100
        for index in (4, 7):
            self.sliceNode("Red").SetSliceOffset(2.0 * index)
            node = self.run_()
            expected[index] = dim[index]
            self.assertTrue(np.array_equal(self.mask(node, "Liver"), expected))
        self.assertEqual(self.results(), [node])
        self.assertEqual([one.place for one in self.standIn.made], [(0, 4), (0, 7)])

    def test_aVolumeUnderATransformIsSegmentedWhereItLies(self):
        """The result follows it, also in a slice of another view."""
        turn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy((0, -1, 0, 11, 1, 0, 0, -4, 0, 0, 1, 8, 0, 0, 0, 1))
        turn.SetMatrixTransformToParent(matrix)
        self.volume.SetAndObserveTransformNodeID(turn.GetID())
        self.ui.scopeComboBox.currentIndex = 0
        self.ui.viewComboBox.currentIndex = self.ui.viewComboBox.findText("Green")
        position = [0.0] * 3
        self.volume.TransformPointToWorld([15.0, 20.0, 8.0], position)
        self.sliceNode("Green").JumpSlice(*position)
        node = self.run_()
        self.assertIs(node.GetParentTransformNode(), turn)
        self.assertEqual(self.standIn.made[0].place, (2, 15))
        self.assertEqual(np.flatnonzero(self.mask(node, "Liver").any(axis=(0, 1))).tolist(), [15])

    def test_anObliqueViewShowsNoSlice(self):
        """The message says what to do, and nothing is made."""
        self.ui.scopeComboBox.currentIndex = 0
        self.sliceNode("Red").SetOrientationToDefault()
        sliceToRAS = self.sliceNode("Red").GetSliceToRAS()
        transform = vtk.vtkTransform()
        transform.SetMatrix(sliceToRAS)
        transform.RotateX(20)
        sliceToRAS.DeepCopy(transform.GetMatrix())
        self.sliceNode("Red").UpdateMatrices()
        self.ui.viewComboBox.currentIndex = self.ui.viewComboBox.findText("Red")
        self.press(self.ui.runNetworkButton)
        self.assertIn("oblique", self.says())
        self.assertIsNone(self.panel.resultNode)

    def test_whatCannotBeRunIsSaidAndNothingIsMade(self):
        """No node, no thread."""
        self.standIn.fails = NetworkError("The network has three channels.")
        self.press(self.ui.runNetworkButton)
        self.assertEqual(self.says(), "The network has three channels.")
        self.assertEqual(self.results(), [])
        self.panel.chooseVolume(None)
        self.press(self.ui.runNetworkButton)
        self.assertIn("volume", self.says())

    def test_theUserIsAskedBeforeCodeRuns(self):
        """On the main thread, with the reason, and no means no."""
        self.standIn.asks = "network.pt2 can run code."
        self.answer(False)
        self.press(self.ui.runNetworkButton)
        self.assertEqual(self.asked, ["network.pt2 can run code."])
        self.assertIn("not confirmed", self.says())
        self.assertEqual(self.standIn.loaded, [])
        self.answer(True)
        self.run_()
        self.run_()
        self.assertEqual(len(self.asked), 2)
        self.assertEqual(self.standIn.loaded, [self.source])

    def test_aMissingPackageIsOffered(self):
        """By name, after the words."""
        offered = []
        self.panel.offerPackage = lambda error: offered.append(error.package)
        self.standIn.fails = MissingPackageError("An nnU-Net needs nnunetv2.", "nnunetv2")
        self.press(self.ui.runNetworkButton)
        self.assertEqual(offered, ["nnunetv2"])
        self.assertIn("nnunetv2", self.says())

    def test_aSceneThatClosesWhileTheUserIsAskedLeavesNoThreadWaiting(self):
        """The question is off."""
        self.standIn.asks = "network.pt2 can run code."

        def ask(reason):
            slicer.mrmlScene.Clear()
            return True

        self.panel.ask = ask
        self.ui.runNetworkButton.click()
        self.waitFor(lambda: not self.logic.running, "The end")
        self.waitFor(lambda: set(threading.enumerate()) <= self.threadsBefore, "The end of the thread")
        self.assertEqual(self.results(), [])

    def test_cancelChangesNothing(self):
        """Neither a run nor a refinement."""
        self.standIn.seconds = 30.0
        self.ui.runNetworkButton.click()
        self.waitFor(lambda: self.ui.refinementProgressBar.value == 50, "Progress")
        self.assertFalse(self.ui.refineButton.enabled)
        self.ui.cancelRefinementButton.click()
        self.waitFor(lambda: not self.logic.running, "The end")
        self.assertIn("Cancelled", self.says())
        self.assertEqual(self.results(), [])

    # Corrections ------------------------------------------------------------------------------------------------

    def test_paintingOpensTheSegmentEditorOnTheCorrections(self):
        """With a segment for each label, also the background."""
        node = self.run_()
        self.ui.paintCorrectionsButton.click()
        slicer.app.processEvents()
        self.assertEqual(slicer.util.selectedModule(), "SegmentEditor")
        editor = slicer.util.getModuleWidget("SegmentEditor").editor
        corrections = corrections_of(node)
        self.assertIs(editor.segmentationNode(), corrections)
        self.assertIs(editor.sourceVolumeNode(), self.volume)
        self.assertEqual(editor.activeEffect().name, "Paint")
        self.assertEqual(corrections.GetName(), f"{node.GetName()} corrections")
        slicer.util.selectModule("ScribbleSegment")
        self.assertEqual(
            self.rows(),
            {
                "Background": "background; nothing painted",
                "Liver": "label 1; nothing painted",
                "Tumour": "label 2; nothing painted",
            },
        )

    def test_theTableFollowsWhatIsPainted(self):
        """Also while the module is shown, and by what new segments are to become."""
        self.run_()
        self.openCorrections()
        self.paint("Tumour", (slice(3, 4), slice(12, 14), slice(10, 20)))
        self.paint("Cyst", (slice(3, 4), slice(22, 24), slice(10, 20)))
        self.assertEqual(self.rows()["Tumour"], "label 2")
        self.assertEqual(self.rows()["Cyst"], "new label 3")
        self.ui.newLabelsComboBox.currentIndex = 1
        self.assertIn("ignored", self.rows()["Cyst"])

    def test_refiningFollowsWhatIsPainted(self):
        """New labels get a segment; g and words tell how it went."""
        node = self.run_()
        self.openCorrections()
        tumour, cyst = (slice(3, 4), slice(12, 14), slice(10, 20)), (slice(5, 6), slice(40, 44), slice(2, 9))
        self.paint("Tumour", tumour)
        self.paint("Cyst", cyst)
        self.press(self.ui.refineButton)
        self.assertTrue(self.mask(node, "Tumour")[tumour].all())
        self.assertFalse(self.mask(node, "Liver")[tumour].any())
        self.assertEqual(self.mask(node, "Cyst").sum(), self.mask(node, "Cyst")[cyst].size)
        painted, newNames = self.standIn.refined[-1]
        self.assertEqual(newNames, {3: "Cyst"})
        self.assertEqual(set(np.unique(painted)), {-1, 2, 3})
        self.assertIn("All corrections hold", self.says())
        self.assertIn("Checked.", self.says())
        self.assertIn("Iteration 5 of at most 130: g = 0.0625", self.ui.iterationLabel.text)
        self.assertFalse(self.ui.violationsList.visible)

    def test_theCurveGrowsWhileItIsRefined(self):
        """And the result comes at the end."""
        self.run_()
        self.openCorrections()
        self.paint("Tumour", (slice(3, 4), slice(12, 14), slice(10, 20)))
        self.standIn.seconds = 0.3
        seen = set()
        self.ui.refineButton.click()
        while self.logic.running:
            slicer.app.processEvents()
            if self.ui.iterationLabel.visible:
                seen.add(self.ui.iterationLabel.text)
            time.sleep(0.002)
        self.assertGreater(len(seen), 2)
        self.assertFalse(self.ui.refinementPlotLabel.pixmap.isNull())

    def test_aRefinementIsOneStepBack(self):
        """By the panel's button, and by the Segment Editor's where that edits the result."""
        node = self.run_()
        before = self.mask(node, "Tumour")
        self.openCorrections()
        tumour = (slice(3, 4), slice(12, 14), slice(10, 20))
        self.paint("Tumour", tumour)
        editor = slicer.util.getModuleWidget("SegmentEditor").editor
        editor.setSegmentationNode(node)
        self.press(self.ui.refineButton)
        after = self.mask(node, "Tumour")
        self.assertFalse(np.array_equal(before, after))
        self.ui.undoRefinementButton.click()
        self.assertTrue(np.array_equal(self.mask(node, "Tumour"), before))
        self.ui.redoRefinementButton.click()
        self.assertTrue(np.array_equal(self.mask(node, "Tumour"), after))
        self.press(self.ui.refineButton)
        editor.undo()
        self.assertTrue(np.array_equal(self.mask(node, "Tumour"), after))
        editor.setSegmentationNode(None)

    def test_whatDoesNotHoldIsListedAndShown(self):
        """By label, with the way there."""
        self.run_()
        self.openCorrections()
        self.paint("Background", (slice(6, 7), slice(12, 14), slice(10, 20)))
        self.paint("Tumour", (slice(3, 4), slice(12, 14), slice(10, 20)))
        self.standIn.ignores = (0,)
        self.press(self.ui.refineButton)
        self.assertIn("do not have their label: 20", self.says())
        self.assertEqual(self.ui.violationsList.count, 1)
        self.assertIn("background: marked voxels with another label: 20", self.ui.violationsList.item(0).text())
        self.panel._onViolation(self.ui.violationsList.item(0))
        self.assertAlmostEqual(self.sliceNode("Red").GetSliceOffset(), 12.0, delta=0.01)

    def test_overlappingPaintIsAContradictionAndIsShown(self):
        """With both names; nothing is refined."""
        self.run_()
        self.openCorrections()
        self.paint("Liver", (slice(7, 8), slice(12, 14), slice(10, 20)))
        self.paint("Tumour", (slice(7, 8), slice(13, 16), slice(15, 30)), overlapping=True)
        self.press(self.ui.refineButton)
        self.assertIn("'Liver'", self.says())
        self.assertIn("'Tumour'", self.says())
        self.assertIn("5 voxels", self.says())
        self.assertEqual(self.standIn.refined, [])
        self.assertAlmostEqual(self.sliceNode("Red").GetSliceOffset(), 14.0, delta=0.01)

    def test_aSliceWithoutPaintIsNotRefined(self):
        """The message names those that have some."""
        self.ui.scopeComboBox.currentIndex = 0
        self.ui.viewComboBox.currentIndex = self.ui.viewComboBox.findText("Red")
        self.sliceNode("Red").SetSliceOffset(8.0)
        node = self.run_()
        self.openCorrections()
        self.paint("Tumour", (slice(6, 7), slice(12, 14), slice(10, 20)))
        self.press(self.ui.refineButton)
        self.assertIn("Nothing is painted on slice 4", self.says())
        self.assertIn("6", self.says())
        self.sliceNode("Red").SetSliceOffset(12.0)
        self.press(self.ui.refineButton)
        self.assertTrue(self.mask(node, "Tumour")[6, 12:14, 10:20].all())
        self.assertTrue(self.mask(node, "Liver")[4].any())

    def test_beforeARunAndBeforePaintThePanelSaysWhatToDo(self):
        """Instead of doing nothing."""
        self.press(self.ui.refineButton)
        self.assertIn("Run network", self.says())
        self.ui.paintCorrectionsButton.click()
        self.assertIn("Run network", self.says())
        self.run_()
        self.press(self.ui.refineButton)
        self.assertIn("Paint corrections", self.says())

    def test_theResultOfAnotherNetworkIsNotRefined(self):
        """Nor overwritten by a run."""
        first = self.run_()
        self.openCorrections()
        self.ui.correctedNetworkComboBox.setCurrentIndex(self.ui.correctedNetworkComboBox.findData("own"))
        self.press(self.ui.refineButton)
        self.assertIn("another network", self.says())
        second = self.run_()
        self.assertIsNot(first, second)
        self.ui.refinementResultSelector.setCurrentNode(first)
        self.assertEqual(self.panel.source, self.source)

    # Scenes and nodes -------------------------------------------------------------------------------------------

    def test_aResultWhoseNodeWasRemovedMeanwhileIsKeptInANewOne(self):
        """And the words say so."""
        node = self.run_()
        self.openCorrections()
        self.paint("Tumour", (slice(3, 4), slice(12, 14), slice(10, 20)))
        self.standIn.seconds = 0.05
        self.ui.refineButton.click()
        slicer.mrmlScene.RemoveNode(node)
        self.waitFor(lambda: not self.logic.running, "The end")
        self.assertIn("removed meanwhile", self.says())
        self.assertTrue(self.mask(self.panel.resultNode, "Tumour")[3, 12:14, 10:20].all())

    def test_aVolumeThatWasRemovedMeanwhileIsSaid(self):
        """Nothing breaks."""
        self.standIn.seconds = 0.2
        self.ui.runNetworkButton.click()
        slicer.mrmlScene.RemoveNode(self.volume)
        self.waitFor(lambda: not self.logic.running, "The end")
        self.assertIn("Blocks was removed meanwhile", self.says())

    def test_aSceneThatClosesEndsEverything(self):
        """The panel is usable afterwards."""
        self.run_()
        self.standIn.seconds = 5.0
        self.ui.runNetworkButton.click()
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        self.assertFalse(self.logic.running)
        self.assertFalse(self.logic._timer.isActive())
        self.assertTrue(self.ui.runNetworkButton.enabled)
        self.assertFalse(self.ui.undoRefinementButton.enabled)
        self.assertEqual(self.rows(), {})

    def test_anAddedNetworkIsChosenAndARemovedOneIsNot(self):
        """The one that was added before takes its place."""
        self.panel.addNetwork(str(Path(__file__).parent))
        self.assertEqual(self.panel.source, str(Path(__file__).parent))
        self.panel.removeNetwork()
        self.assertEqual(self.panel.source, self.source)
        self.panel.removeNetwork()
        self.assertEqual(self.panel.source, "")
        self.press(self.ui.runNetworkButton)
        self.assertIn("Add one", self.says())

    def test_theWorkGoesOnAfterTheSceneWasSavedAndLoaded(self):
        """Result and corrections still belong together."""
        self.run_()
        self.openCorrections()
        self.paint("Tumour", (slice(3, 4), slice(12, 14), slice(10, 20)))
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "work.mrb")
            self.assertTrue(slicer.util.saveScene(file))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(file)
        slicer.util.selectModule("ScribbleSegment")
        slicer.app.processEvents()
        self.panel.chooseResult(None)
        self.ui.refinementResultSelector.setCurrentNode(self.results()[0])
        self.assertEqual(self.panel.source, self.source)
        self.assertEqual(self.panel.volumeNode.GetName(), "Blocks")
        self.assertEqual(self.rows()["Tumour"], "label 2")
        self.press(self.ui.refineButton)
        self.assertTrue(self.mask(self.panel.resultNode, "Tumour")[3, 12:14, 10:20].all(), self.says())

    def test_aResultOfANetworkThatIsNotThereIsSaid(self):
        """With its name."""
        node = self.run_()
        self.panel.networks.remove(self.source)
        self.panel.chooseResult(None)
        self.ui.refinementResultSelector.setCurrentNode(node)
        self.assertIn(Path(__file__).name, self.says())
        self.assertIn("Add it", self.says())

    def test_aPanelThatIsCleanedUpLeavesNothing(self):
        """No thread, no timer, nothing that is watched."""
        window = qt.QWidget()
        panel = RefinementPanel()
        panel.networks = self.panel.networks
        panel.setup(qt.QVBoxLayout(window))
        self.assertEqual(self.standIn.loaded, [])
        self.standIn.use(panel.logic)
        panel.enter()
        panel.addNetwork(__file__)
        panel.ui.scopeComboBox.currentIndex = 1
        self.standIn.seconds = 0.3
        panel.ui.runNetworkButton.click()
        self.assertTrue(panel.logic.running)
        panel.cleanup()
        self.assertFalse(panel.logic.running)
        self.assertFalse(panel.logic._timer.isActive())
        self.assertEqual(list(panel.Observations), [])
        window.deleteLater()
        slicer.app.processEvents()
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        slicer.mrmlScene.Clear()
        self.assertEqual(self.results(), [])

    def test_whileTheModuleIsNotShownNothingIsWatchedOrPolled(self):
        """But a refinement goes on, and its result is written."""
        node = self.run_()
        self.openCorrections()
        self.paint("Tumour", (slice(3, 4), slice(12, 14), slice(10, 20)))
        self.standIn.seconds = 0.1
        self.ui.refineButton.click()
        slicer.util.selectModule("SegmentEditor")
        self.assertIsNone(self.panel._observed)
        self.waitFor(lambda: not self.logic.running, "The end")
        self.assertFalse(self.logic._timer.isActive())
        self.assertTrue(self.mask(node, "Tumour")[3, 12:14, 10:20].all())
        slicer.util.selectModule("ScribbleSegment")


if __name__ == "__main__":
    run(ScribbleSegmentCorrectionTest)
