"""The module's panel in the real application: choices, device check, and the way to the Segment Editor.

Run by CTest, or by hand as `ScribbleSegmentEffectTest.py`. Downloads and installs nothing.
"""

import time
import unittest

import numpy as np
import slicer

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

    def test_theChoiceOfADeviceIsKeptInTheScene(self):
        """And taken over by the shared inference."""
        self.ui.deviceComboBox.currentIndex = self.ui.deviceComboBox.findData("cpu")
        slicer.app.processEvents()
        self.assertEqual(self.widget.logic.getParameterNode().device, "cpu")
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

    def test_closingTheSceneKeepsThePanelUsable(self):
        """It shows the parameters of the new scene."""
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        self.assertGreaterEqual(self.ui.deviceComboBox.currentIndex, 0)


def main():
    """Run all tests and tell Slicer's exit code."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(ScribbleSegmentPanelTest)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    slicer.util.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
