"""The module's panel in the real application: choices, device check, and the way to the Segment Editor.

Run by CTest, or by hand as `ScribbleSegmentEffectTest.py`. Installs nothing, and downloads from this computer only.
"""

import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import numpy as np
import slicer
from effect_case import run
from weights_server import serving, write_registry

from scribblesegment.inference.devices import torch_problem
from scribblesegment.weights import registry
from ScribbleSegmentLib import Inference as SharedInference
from ScribbleSegmentLib.Packages import RequiredPackages
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME

WAIT_SECONDS = 60.0


class ScribbleSegmentPanelTest(unittest.TestCase):
    """What a user does with the panel."""

    def setUp(self):
        """Open the module on an empty scene."""
        slicer.mrmlScene.Clear()
        SharedInference.closeSharedInference()
        slicer.util.selectModule("SegmentEditor")
        slicer.util.selectModule("ScribbleSegment")
        self.widget = slicer.modules.scribblesegment.widgetRepresentation().self()
        self.ui = self.widget.ui
        slicer.app.processEvents()

    def tearDown(self):
        """Leave nothing loaded."""
        slicer.mrmlScene.Clear()
        SharedInference.closeSharedInference()

    def waitFor(self, condition, what):
        """Let Slicer work until something is so."""
        until = time.monotonic() + WAIT_SECONDS
        while not condition():
            slicer.app.processEvents()
            if time.monotonic() > until:
                self.fail(f"{what} did not happen; the panel says: {self.ui.networkStateLabel.text}")
            time.sleep(0.005)

    def test_openingTheModuleLoadsNothing(self):
        """No network, and nothing installed."""
        self.assertEqual(SharedInference.sharedInference().state.kind, "idle")
        self.assertGreater(self.ui.modelComboBox.count, 0)
        self.assertRegex(self.ui.licenceLabel.text, r"spdx\.org/licenses/(CC-BY-SA|Apache)")

    def test_theChoiceOfADeviceIsRemembered(self):
        """Not in the scene, which others may open; the network, which was not chosen, is not remembered with it."""
        self.ui.deviceComboBox.currentIndex = self.ui.deviceComboBox.findData("cpu")
        slicer.app.processEvents()
        self.assertEqual(slicer.app.settings().value("ScribbleSegment/Device"), "cpu")
        self.assertFalse(slicer.app.settings().value("ScribbleSegment/Model"))
        self.assertEqual(self.widget.logic.getParameterNode().model, "")
        self.assertEqual(SharedInference.sharedInference().state.device, "cpu")

    def test_theDeviceIsCheckedByComputing(self):
        """The processor always works, with PyTorch or without."""
        self.ui.deviceComboBox.currentIndex = self.ui.deviceComboBox.findData("cpu")
        self.ui.checkDeviceButton.click()
        self.waitFor(lambda: not self.widget.panel.device.checking, "The check")
        self.assertRegex(self.ui.deviceResultLabel.text, r"a prediction takes \d+ ms")

    def test_theSegmentEditorOpensReadyToPaint(self):
        """With a segmentation, a segment, and the effect."""
        volume = slicer.util.addVolumeFromArray(np.zeros((5, 20, 30), np.int16), name="Empty")
        self.ui.volumeSelector.setCurrentNode(volume)
        self.ui.openSegmentEditorButton.click()
        slicer.app.processEvents()
        self.assertIs(self.widget.panel.refinement.volumeNode, volume)
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        self.assertEqual(editor.activeEffect().name, EFFECT_NAME)
        self.assertIs(editor.sourceVolumeNode(), volume)
        self.assertTrue(editor.currentSegmentID())
        editor.setActiveEffectByName("")

    def test_withoutAVolumeThePanelSaysSo(self):
        """Instead of opening an editor that can do nothing."""
        self.ui.openSegmentEditorButton.click()
        self.assertIn("volume", self.ui.statusLabel.text)

    def test_nothingHasToBeInstalled(self):
        """PyTorch is offered, with its size."""
        self.assertIn("Ready", self.ui.packagesLabel.text)
        if RequiredPackages().missing:
            self.assertRegex(self.ui.packagesLabel.text, r"nothing to install.* \d+ MB")

    def test_theButtonDownloadsAPublishedNetwork(self):
        """After the question; pressed again it cancels, and the next download goes on where it stopped."""
        if torch_problem() is not None:
            self.skipTest("published networks need PyTorch")
        import torch

        from scribblesegment.models.factory import build_network

        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.dict("os.environ", {"SCRIBBLESEGMENT_WEIGHTS_DIR": folder}),
        ):
            file = Path(folder, "made-up.pt")
            torch.save(build_network("universeg").state_dict(), file)
            content = file.read_bytes()
            with serving(content) as (address, asked):
                known = write_registry(
                    Path(folder), name="universeg", url=f"{address}/stall", architecture="universeg", bytes=len(content)
                )
                with (
                    mock.patch.object(registry, "_HERE", known.parent),
                    mock.patch.object(slicer.util, "confirmOkCancelDisplay", return_value=True) as question,
                ):
                    self.widget.panel.network.showModels("universeg")
                    self.assertIn("Download", self.ui.licenceLabel.text)
                    self.ui.downloadModelButton.click()
                    self.assertIn("CC0-1.0", question.call_args[0][0])
                    self.waitFor(lambda: "MB" in self.ui.networkStateLabel.text, "Progress")
                    self.ui.downloadModelButton.click()
                    self.waitFor(lambda: "cancelled" in self.ui.networkStateLabel.text, "Cancelling")
                    self.ui.downloadModelButton.click()
                    self.waitFor(lambda: "SHA-256" in self.ui.licenceLabel.text, "The download")
                    self.waitFor(lambda: SharedInference.sharedInference().state.kind == "ready", "Loading")
            self.assertTrue(asked[-1][1])
            self.assertFalse(self.ui.downloadModelButton.enabled)

    def test_closingTheSceneKeepsThePanelUsable(self):
        """It shows the parameters of the new scene."""
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        self.assertGreaterEqual(self.ui.deviceComboBox.currentIndex, 0)


if __name__ == "__main__":
    run(ScribbleSegmentPanelTest)
