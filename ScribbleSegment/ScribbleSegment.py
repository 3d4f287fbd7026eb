"""Module Scribble Segment: says what is installed, and leads to the Segment Editor."""

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

from ScribbleSegmentLib.EmbeddedModel import EmbeddedModel


class ScribbleSegment(ScriptedLoadableModule):
    """What Slicer lists about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Scribble Segment")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["SegmentEditor", "Segmentations"]
        self.parent.contributors = ["ScribbleSegment developers"]
        self.parent.helpText = _(
            "Segments a structure from a few scribbles, clicks or boxes with a neural network that comes with the "
            "extension. Nothing is sent anywhere. Not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "Based on ScribblePrompt (Wong et al., ECCV 2024) and Interactive Scribble Segmentation (Lowes et al., "
            "NLDL 2023)."
        )


class ScribbleSegmentWidget(ScriptedLoadableModuleWidget):
    """Panel with the versions of package and network and a button to the Segment Editor."""

    def setup(self):
        """Build the panel; loads neither torch nor the network."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = ScribbleSegmentLogic()
        form = qt.QFormLayout()
        self.layout.addLayout(form)
        form.addRow(_("Version:"), qt.QLabel(self.logic.model.packageVersion))
        form.addRow(_("Network:"), qt.QLabel(self.logic.model.networkName))
        missing = ", ".join(self.logic.model.missingModules)
        form.addRow(_("Python packages to install:"), qt.QLabel(missing or _("none")))
        self.openButton = qt.QPushButton(_("Open Segment Editor"))
        self.openButton.clicked.connect(self.onOpenSegmentEditor)
        self.layout.addWidget(self.openButton)
        self.layout.addStretch(1)

    def onOpenSegmentEditor(self):
        """Leave for the Segment Editor."""
        slicer.util.selectModule("SegmentEditor")


class ScribbleSegmentLogic(ScriptedLoadableModuleLogic):
    """Facade of the embedded network for scripts and the Python console."""

    def __init__(self, model=None):
        ScriptedLoadableModuleLogic.__init__(self)
        self.model = model or EmbeddedModel()

    def segmentSlice(self, volumeNode, sliceIndex, scribbles):
        """Segment slice `sliceIndex` along K of a scalar volume node.

        `scribbles` are positive and negative strokes in [0, 1], shape (2, J, I). Returns a bool mask, shape (J, I).
        """
        columnSpacing, rowSpacing, _sliceSpacing = volumeNode.GetSpacing()
        image = slicer.util.arrayFromVolume(volumeNode)[sliceIndex]
        return self.model.segmentSlice(image, np.asarray(scribbles), (rowSpacing, columnSpacing))


class ScribbleSegmentTest(ScriptedLoadableModuleTest):
    """Smoke test, run by ctest and by the module's "Reload and Test"."""

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run the test."""
        self.setUp()
        self.test_aScribbleInADiscSegmentsTheDisc()

    def test_aScribbleInADiscSegmentsTheDisc(self):
        """A bright disc in noise is found from a round stroke inside and one outside."""
        logic = ScribbleSegmentLogic()
        if logic.model.missingModules:
            self.skipTest(f"not installed in Slicer's Python: {', '.join(logic.model.missingModules)}")
        rows, columns = np.ogrid[:128, :160]
        fromCentre = np.hypot(rows - 60, columns - 90)
        disc = fromCentre <= 30
        image = 50 * disc + np.random.default_rng(0).normal(100, 4, disc.shape)
        volumeNode = slicer.util.addVolumeFromArray(image[np.newaxis].astype(np.float32))
        scribbles = np.stack([abs(fromCentre - 20) < 1.5, abs(fromCentre - 40) < 1.5]).astype(np.float32)
        mask = logic.segmentSlice(volumeNode, 0, scribbles)
        dice = 2 * (mask & disc).sum() / (mask.sum() + disc.sum())
        self.assertGreater(dice, 0.8)
        self.delayDisplay("Test passed")
