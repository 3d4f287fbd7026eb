"""The effect's controller with a published network: made-up weights, imported as a user would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.models.factory import build_network
from scribblesegment.mrml.slice_segmenter import SegmenterOptions, SliceSegmenter
from scribblesegment.service.service import InferenceService
from scribblesegment.weights.registry import FOLDER_VARIABLE, import_weights


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "weights"))
    network = build_network("scribble_unet")
    with torch.no_grad():  # what is marked belongs to the structure, and nothing else
        for parameter in network.parameters():
            parameter.zero_()
        network.downs[0].conv[0].weight[0, 2, 1, 1] = 1.0
        network.ups[-1].conv[0].weight[0, 0, 1, 1] = 1.0
        network.final_conv.conv[0].weight[0, 0] = 40.0
        network.final_conv.conv[0].bias[0] = -20.0
    torch.save(network.state_dict(), tmp_path / "unet.pt")
    assert import_weights(tmp_path / "unet.pt").name == "scribbleprompt-unet"
    service = InferenceService()
    yield service
    service.close()


@pytest.mark.slow
def test_a_stroke_is_segmented_and_a_network_that_is_not_here_says_so(new_editor, service):
    editor = new_editor(np.zeros((3, 64, 64), np.int16), np.eye(4))
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(editor.scene)
    view = editor.scene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetOrientationToAxial()
    view.JumpSliceByOffsetting(0.0, 0.0, 1.0)
    segment = editor.add_segment()
    segmenter = SliceSegmenter(
        service, save_state=editor.logic.SaveStateForUndo, options=SegmenterOptions(protect_visible=False)
    )

    def stroke(row):
        segmenter.paint(editor.node, view, np.array([(10.0, row, 1.0), (50.0, row, 1.0)]), 1.0, positive=True)
        while segmenter.busy:
            service.wait(0.05)
            problem = segmenter.poll().problem
            if problem is not None:
                return str(problem)
        return None

    service.choose("scribbleprompt-unet", "cpu")
    assert stroke(30.0) is None
    mask = editor.mask(segment)
    assert mask[1, 30, 15:45].all()
    assert not mask[:, :25].any()
    service.choose("universeg", "cpu")
    assert "research" in stroke(40.0)
