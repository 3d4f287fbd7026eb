"""Module Scribble Segment: network, device and packages in one place, and the way to the Segment Editor."""

import os
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from ScribbleSegmentLib.Logic import EmbeddedModel
from ScribbleSegmentLib.Packages import RequiredPackages
from ScribbleSegmentLib.Widget import ModulePanel, ScribbleSegmentParameterNode

RESOURCES = Path(os.path.abspath(__file__)).parent / "Resources"  # `resolve` would leave a drive for its server
SAMPLES_SHA256 = {
    "ScribbleSegmentAbdomen": "d3987f1dc47c346549315a531875d9c1a82a7c4d4c1478c8c8ba4b2f932a3c6e",
    "ScribbleSegmentMR1": "c04557fae1d4dda3fa80dd1e9e2eba0d69c0a9df88764bc45ab7aa1ac9f5ddff",
    "ScribbleSegmentMR2": "3fab50ef0932bb0fe1b8a51d2dbd0c6870d774ad3add08d47dd3c7ec118bd9ed",
}
TUTORIAL = '<p><a href="https://github.com/OWNER_TO_BE_SET/SlicerScribbleSegment/blob/main/docs/tutorial.md">{}</a></p>'


class ScribbleSegment(ScriptedLoadableModule):
    """What Slicer lists about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Scribble Segment")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["SegmentEditor", "Segmentations"]
        self.parent.contributors = ["ScribbleSegment developers"]
        self.parent.helpText = _(
            "Segments a structure from a few strokes, clicks or boxes with a neural network that comes with the "
            "extension. Load a volume, press 'Open Segment Editor', and drag across the structure. Nothing needs to be "
            "installed, nothing is sent anywhere, and it is not for clinical use."
        ) + TUTORIAL.format(_("Tutorial"))
        self.parent.acknowledgementText = _(
            "Based on ScribblePrompt (Wong et al., ECCV 2024) and Interactive Scribble Segmentation (Lowes et al., "
            "NLDL 2023)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the synthetic abdomens that come with the extension (scripts/sample_data.py) in the module Sample Data."""
    import SampleData

    for name, sha256 in SAMPLES_SHA256.items():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="Scribble Segment",
            sampleName=name,
            thumbnailFileName=str(RESOURCES / "Icons" / f"{name}.png"),
            uris=(RESOURCES / "SampleData" / f"{name}.nrrd").as_uri(),
            fileNames=f"{name}.nrrd",
            nodeNames=name,
            checksums=f"SHA256:{sha256}",
        )


class ScribbleSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Shows the panel, and gives it the parameters of the scene."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self):
        """Build the panel; loads neither torch nor a network, and installs nothing."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = ScribbleSegmentLogic()
        form = slicer.util.loadUI(self.resourcePath("UI/ScribbleSegment.ui"))
        self.layout.addWidget(form)
        self.ui = slicer.util.childWidgetVariables(form)
        form.setMRMLScene(slicer.mrmlScene)
        self.panel = ModulePanel(self.ui)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEnd)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEnd)

    def cleanup(self):
        """Leave nothing behind when the module is unloaded."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.cleanup()

    def enter(self):
        """The module is shown."""
        self.panel.setParameterNode(self.logic.getParameterNode())
        self.panel.enter()

    def exit(self):
        """Another module is shown."""
        self.panel.exit()
        self.panel.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """The parameters are about to go."""
        self.panel.setParameterNode(None)

    def onSceneEnd(self, caller, event):
        """The scene was emptied or loaded, and may have other parameters."""
        if self.parent.isEntered:
            self.panel.setParameterNode(self.logic.getParameterNode())


class ScribbleSegmentLogic(ScriptedLoadableModuleLogic):
    """Facade of the embedded network for scripts and the Python console."""

    def __init__(self, model=None):
        ScriptedLoadableModuleLogic.__init__(self)
        self.model = model or EmbeddedModel()

    def getParameterNode(self):
        """Give the choices that are kept in the scene."""
        return ScribbleSegmentParameterNode(super().getParameterNode())

    @property
    def missingPackages(self):
        """Names of the Python packages that are not installed and would make the network faster."""
        return [str(requirement) for requirement in RequiredPackages().missing]

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
