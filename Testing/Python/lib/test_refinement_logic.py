"""What the section *Correct a network's result* does, with a panel that only notes what it is to show."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonDataModel import vtkImageData

from scribblesegment.errors import CancelledError, MissingPackageError, NetworkError, PromptError
from scribblesegment.mrml.corrections import corrections_for, corrections_of, source_of
from scribblesegment.mrml.geometry import reference_geometry
from scribblesegment.mrml.labelmaps import segment_at
from ScribbleSegmentLib.RefinementLogic import (
    NetworkEntry,
    NetworkList,
    RefinementLogic,
    RefinementOptions,
    fileOf,
    nameOf,
)

SHAPE = (4, 20, 24)
NAMES = ("background", "Liver")
LIVER = (slice(None), slice(6, 14), slice(5, 15))


class Panel:
    """What the user has chosen, and what was shown."""

    def __init__(self, volume: Any) -> None:
        self.source, self.volumeNode, self.resultNode = "liver.pt2", volume, None
        self.sliceNode, self.wantsSlice, self.device = None, False, "cpu"
        self.options = RefinementOptions()
        self.answer, self.asked, self.offered, self.said = True, [], [], []
        self.history, self.violations, self.running, self.about = (), (), False, ""

    def say(self, text: str, *, problem: bool = False) -> None:
        self.said.append(text)

    def ask(self, reason: str) -> bool:
        self.asked.append(reason)
        return self.answer

    def offerPackage(self, error: MissingPackageError) -> None:  # noqa: N802 - the panel's names
        self.offered.append(error.package)

    def showRunning(self, running: bool) -> None:  # noqa: N802
        self.running = running

    def showProgress(self, fraction: float, text: str) -> None:  # noqa: N802
        self.progress = fraction, text

    def showIterations(self, history: Any, number: int, most: int) -> None:  # noqa: N802
        self.history, self.iteration = tuple(history), (number, most)

    def showResult(self, node: Any) -> None:  # noqa: N802
        self.resultNode = node

    def showViolations(self, violations: Any, names: Any) -> None:  # noqa: N802
        self.violations = tuple(violations)

    def showNetwork(self, text: str) -> None:  # noqa: N802
        self.about = text


class StandIn:
    """A network by brightness; refining fills what is painted."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.made: list[Any] = []
        self.fails: Exception | None = None
        self.asks, self.waits = "", False

    def load(self, source: str, ask: Any) -> Any:
        if self.asks and not ask(self.asks):
            raise NetworkError("It was not confirmed.")
        self.loaded.append(source)
        return SimpleNamespace(name="Brightness", licence="CC0", labels=NAMES, ndim=2)

    def correction(self, network: Any, request: Any) -> Any:
        self.made.append(request)
        image = request.image.volume.array

        def segment(progress: Any, cancelled: Any) -> Any:
            progress(0.5, "Window 1 of 2")
            while self.waits and not cancelled():
                threading.Event().wait(0.001)
            if self.waits:
                raise CancelledError("cancelled")
            if self.fails is not None:
                raise self.fails
            return (image > 50).astype(np.int16)

        def refine(corrections: Any, names: Any, grow: Any, on_iteration: Any, progress: Any, cancelled: Any) -> Any:
            for number, g in enumerate((2.0, 1.0, 0.0)):
                on_iteration(number, g)
            labels = segment(progress, cancelled)
            labels[corrections.marked] = corrections.labels[corrections.marked]
            wrong = np.zeros(labels.shape, bool)
            wrong[0, 0, :2] = True  # two marks of the background are not followed
            return SimpleNamespace(
                labels=labels,
                names=(*NAMES, *names.values()),
                violations=wrong,
                violation_counts={0: 2},
                g_history=(2.0, 1.0, 0.0),
                iterations=2,
                stopped="iterations",
                seconds=0.1,
                notes=("Checked.",),
            )

        return SimpleNamespace(network=network, segment=segment, refine=refine)


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> Panel:
    scene = slicer.vtkMRMLScene()
    slicer.vtkSlicerSegmentationsModuleLogic().SetMRMLScene(scene)
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    monkeypatch.setattr(slicer.util, "RenderBlocker", nullcontext)
    array = np.zeros(SHAPE, np.int16)
    array[LIVER] = 100
    image = vtkImageData()
    image.SetDimensions(*SHAPE[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    volume.SetAndObserveImageData(image)
    return Panel(volume)


@pytest.fixture
def network() -> StandIn:
    return StandIn()


@pytest.fixture
def logic(panel: Panel, network: StandIn) -> Any:
    made: Any = RefinementLogic(panel)  # type: ignore[arg-type]
    made.missingPackages = lambda: ()
    made.loadNetwork, made.newCorrection = network.load, network.correction
    yield made
    made.reset()


@pytest.fixture
def run(logic: Any, spin: Any) -> Any:
    def run(action: Any = None) -> None:
        (action or logic.run)()
        spin(lambda: not logic.running)

    return run


def mask_of(node: Any, name: str) -> Any:
    segmentation = node.GetSegmentation()
    one = next(each for each in segmentation.GetSegmentIDs() if segmentation.GetSegment(each).GetName() == name)
    kji = np.argwhere(np.ones(SHAPE, bool))
    return segment_at(node, one, reference_geometry(node), kji).reshape(SHAPE)


def paint(panel: Panel, name: str, box: Any) -> None:
    node = corrections_for(panel.resultNode, panel.volumeNode, NAMES, "corrections")
    segmentation = node.GetSegmentation()
    segment_id = segmentation.GetSegmentIdBySegmentName(name) or segmentation.AddEmptySegment("", name)
    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetDimensions(*SHAPE[::-1])
    labelmap.AllocateScalars(3, 1)
    voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(SHAPE)
    voxels[...] = 0
    voxels[box] = 1
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetBinaryLabelmapToSegment(labelmap, node, segment_id, logic.MODE_MERGE_MASK)


def test_a_run_makes_a_result_and_the_next_one_serves_what_was_computed(panel, logic, network, run):
    run()
    node = panel.resultNode
    assert node is not None, panel.said
    assert node.GetName() == "CT by Brightness"
    assert source_of(node).labels == NAMES
    assert np.array_equal(
        mask_of(node, "Liver"), np.isin(np.arange(20), range(6, 14))[:, None] & mask_of(node, "Liver")
    )
    assert mask_of(node, "Liver")[LIVER].all()
    assert panel.said[-1] == "Segmented by Brightness."
    assert panel.about == "Labels: Liver. Licence: CC0."
    assert not panel.running
    run()
    assert panel.resultNode is node
    assert (network.loaded, len(network.made)) == (["liver.pt2"], 1)


@pytest.mark.parametrize(
    "change", [{"layers": 3}, {"holding": False}, {"iterations": 50}, {"device": "cuda"}, {"modified": True}, {}]
)
def test_what_was_computed_serves_again_only_for_the_same(panel, network, run, tmp_path, change):
    panel.source = str(tmp_path / "liver.pt2")
    (tmp_path / "liver.pt2").write_bytes(b"1")
    run()
    if "device" in change:
        panel.device = change["device"]
    elif "modified" in change:
        panel.volumeNode.GetImageData().Modified()
    elif change:
        panel.options = replace(panel.options, **change)
    else:  # the files of the network
        (tmp_path / "liver.pt2.json").write_text("{}")
    run()
    panel.options = replace(panel.options, growing=False, threshold=3.0, newLabels=False)
    run()
    assert (len(network.loaded), len(network.made)) == (1 if change else 2, 2)


def test_a_result_goes_with_its_volume_and_with_its_network_wherever_that_lies(panel, logic, run, tmp_path):
    run()
    paint(panel, "Liver", (1, slice(0, 3), slice(0, 3)))
    result, panel.source = panel.resultNode, str(tmp_path / "liver.pt2")
    run(logic.refine)
    run()
    assert panel.resultNode is result
    assert source_of(result).network == panel.source
    panel.volumeNode = slicer.vtkSlicerVolumesLogic().CloneVolume(slicer.mrmlScene, panel.volumeNode, "another")
    with pytest.raises(PromptError, match="another volume, CT"):
        logic.refine()


def test_a_refinement_follows_what_is_painted_as_one_step_that_can_be_undone(panel, logic, run):
    run()
    before = mask_of(panel.resultNode, "Liver")
    paint(panel, "Liver", (1, slice(0, 3), slice(0, 3)))
    paint(panel, "Cyst", (2, slice(15, 18), slice(0, 3)))
    paint(panel, "Background", (0, 0, slice(0, 2)))
    assert sorted(row.label for row in logic.mappings()) == [0, 1, 2]
    run(logic.refine)
    assert panel.history == (2.0, 1.0, 0.0)
    assert panel.iteration == (2, 130)
    assert mask_of(panel.resultNode, "Liver")[1, :3, :3].all()
    assert mask_of(panel.resultNode, "Cyst").sum() == 9
    (violation,) = panel.violations
    assert (violation.label, violation.count, violation.kji) == (0, 2, (0, 0, 0))
    assert "do not have their label: 2" in panel.said[-1]
    assert panel.said[-1].endswith("Checked.")
    logic.undo()
    assert np.array_equal(mask_of(panel.resultNode, "Liver"), before)
    assert panel.violations == ()
    logic.redo()
    assert mask_of(panel.resultNode, "Cyst").sum() == 9


def test_what_cannot_begin_says_what_to_do(panel, logic, network, run):
    with pytest.raises(PromptError, match="Press 'Run network'"):
        logic.refine()
    with pytest.raises(PromptError, match="Press 'Run network'"):
        logic.paint()
    run()
    with pytest.raises(PromptError, match="Press 'Paint corrections'"):
        logic.refine()
    paint(panel, "Liver", (1, slice(0, 3), slice(0, 3)))
    panel.wantsSlice = True
    with pytest.raises(PromptError, match="no slice view"):
        logic.refine()
    panel.source = "spleen.pt2"
    with pytest.raises(PromptError, match=r"another network, liver\.pt2"):
        logic.refine()
    panel.source = ""
    with pytest.raises(NetworkError, match="No network is chosen"):
        logic.run()
    logic.missingPackages = lambda: ("torch",)
    with pytest.raises(Exception, match=r"need torch\. Press 'Install PyTorch'"):
        logic.run()


def test_failures_are_told_and_leave_nothing_behind(panel, logic, network, run):
    network.asks, panel.answer = "It can run code.", False
    run()
    assert (panel.asked, panel.said[-1]) == (["It can run code."], "It was not confirmed.")
    panel.answer, network.fails = True, MissingPackageError("An nnU-Net needs nnunetv2.", "nnunetv2")
    run()
    assert panel.offered == ["nnunetv2"]
    network.fails = ModuleNotFoundError("No module named 'torch'", name="torch")
    run()
    assert "torch" in panel.said[-1]
    assert panel.resultNode is None
    assert network.loaded == ["liver.pt2"]
    network.fails = None
    run()
    panel.resultNode.SetAttribute("ScribbleSegment.NetworkResult", '{"network": "liver.pt2", "labels": ["a", "b"]}')
    paint(panel, "Liver", (1, slice(0, 3), slice(0, 3)))
    run(logic.refine)
    assert "labels a, b; Brightness has background, Liver" in panel.said[-1]


def test_cancelling_and_a_scene_that_closes_end_the_work_unheard(panel, logic, network, run, spin):
    network.waits = True
    logic.run()
    spin(lambda: getattr(panel, "progress", (0,))[0] == 0.5)
    with pytest.raises(PromptError, match="Something is being computed"):
        logic.run()
    logic.cancel()
    spin(lambda: not logic.running)
    assert panel.said[-1] == "Cancelled. Nothing was changed."
    logic.run()
    logic.reset()
    assert not logic.running
    assert not panel.running
    network.waits = False
    run()
    assert panel.said[-1] == "Segmented by Brightness."


def test_nodes_removed_meanwhile_are_replaced_or_missed(panel, logic, run, spin):
    run()
    paint(panel, "Liver", (1, slice(0, 3), slice(0, 3)))
    removed = panel.resultNode
    logic.refine()
    slicer.mrmlScene.RemoveNode(removed)
    spin(lambda: not logic.running)
    assert panel.resultNode is not removed
    assert "removed meanwhile; it is in a new one" in panel.said[-1]
    assert corrections_of(panel.resultNode) is None
    panel.resultNode = None
    logic.run()
    slicer.mrmlScene.RemoveNode(panel.volumeNode)
    spin(lambda: not logic.running)
    assert "The volume CT was removed meanwhile" in panel.said[-1]


def test_the_package_itself_runs_and_refines_a_network(panel, run, spin, tmp_path):
    pytest.importorskip("torch")
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1)).eval()
    torch.jit.script(net).save(str(tmp_path / "small.pt"))
    panel.source, panel.options = str(tmp_path / "small.pt"), RefinementOptions(layers=2, iterations=60)
    logic: Any = RefinementLogic(panel)
    logic.missingPackages = lambda: ()
    run(logic.run)
    spin(lambda: not logic.running)
    assert "small.pt" in panel.asked[0]
    paint(panel, "label 1", (1, slice(9, 11), slice(7, 13)))
    paint(panel, "Cyst", (1, 18, slice(2, 8)))
    logic.refine()
    spin(lambda: not logic.running)
    assert panel.history[-1] < panel.history[0]
    assert mask_of(panel.resultNode, "Cyst").any(), panel.said[-1]


# The list of networks ------------------------------------------------------------------------------------------------


class Settings(dict):
    value, setValue = dict.get, dict.__setitem__  # noqa: N815 - as Qt names it


def test_added_networks_are_listed_first_remembered_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings, file, code = Settings(), tmp_path / "liver.pt2", tmp_path / "nets.py"
    file.write_bytes(b"network")
    code.write_text("")
    networks = NetworkList(settings, lambda: ["default"])
    own = NetworkEntry("default", "default", added=False)
    assert networks.all() == [own]
    monkeypatch.chdir(tmp_path)
    entries = [networks.add(source) for source in ("liver.pt2", str(tmp_path), f"{code}:make_liver", str(file))]
    assert entries[0] == entries[3] == NetworkEntry(str(file), "liver.pt2", added=True)
    assert (entries[2].name, fileOf(entries[2].source)) == ("nets:make_liver", code)
    later = NetworkList(settings, lambda: ["default"])
    assert later.all() == [entries[3], entries[2], entries[1], own]
    file.unlink()
    assert later.find(str(file)).missing
    later.remove(str(file))
    assert later.find(str(file)) is None
    for stored in ("", "{", '{"a": 1}', "7", '[3, "", null]', 5):
        assert NetworkList(Settings({"ScribbleSegment/CorrectedNetworks": stored}), list).all() == []


def test_the_name_tells_networks_apart():
    folder = "Dataset003_Liver/nnUNetTrainer__nnUNetPlans__2d"
    sources = ("/nets/liver.pt2", "C:/nets/liver.pt", "default", f"/nets/{folder}")
    assert [nameOf(one) for one in sources] == ["liver.pt2", "liver.pt", "default", folder.replace("/", " / ")]
