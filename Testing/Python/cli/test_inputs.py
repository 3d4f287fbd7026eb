"""What all commands read and say alike: series, windows, label maps, contexts, progress, and what info says."""

from __future__ import annotations

import getpass
import hashlib
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from batch_folders import BatchFolders, a_ball, table_of
from batch_networks import load_threshold
from command_line import error_of, run, write_image
from dicom_files import a_series
from slice_predictors import Brightness
from torch import nn

import scribblesegment
from scribblesegment import IntensityRange, Volume, list_weights, read_labelmap, read_volume, write_labelmap
from scribblesegment.cli import files, weights
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import write_context_file
from scribblesegment.context.store import FOLDER_VARIABLE, ContextStore
from scribblesegment.inference import devices
from scribblesegment.refinement.adapters import ModuleNetwork

SCOUT, VOLUME = "1.2.840.1", "1.2.840.2"


@pytest.fixture
def study(tmp_path):
    """A folder with a scout, number 1, and a volume with a bright ball, number 2; beside it what was painted."""
    folder = tmp_path / "study"
    voxels = (100 * a_ball()).astype(np.int16)
    voxels[0, :2] = -3024
    a_series(folder, voxels[:1], SeriesInstanceUID=SCOUT, SeriesNumber=1, SeriesDescription="Scout")
    a_series(folder, voxels, SeriesInstanceUID=VOLUME, SeriesNumber=2, SeriesDescription="Abdomen 3 mm")
    few = np.zeros(voxels.shape, np.uint8)
    middle = len(few) // 2
    few[middle] = a_ball()[middle]
    write_labelmap(tmp_path / "few.nrrd", Volume(few, read_volume(folder, series=2).ijk_to_ras))
    return folder


class Network(Brightness):
    """Stands in for what loads a network, and for the network."""

    def __call__(self, *names, device="cpu", normalise="robust", **options):
        self.normalise = normalise
        return self

    def see(self, prompts):
        return super().see(prompts if prompts.mask_input is not None else prompts.with_mask_input(prompts.scribbles[0]))

    def seen(self):
        return {used for _, _, used in self.images}


COMMANDS = {
    "segment": "--scribbles {few} -o {out}",
    "propagate": "--annotated {few} -o {out}",
    "refine": "--network n --corrections {few} -o {out}",
}


@pytest.fixture
def work(study, tmp_path, monkeypatch):
    network = Network()

    def load_module(source, *, confirm, weights, fold, **settings):
        torch.manual_seed(0)
        module = ModuleNetwork(nn.Conv2d(1, 2, 1), labels=("background", "ball"), **settings)
        network.normalise = module.settings.normalise
        return module

    def work(command, *options, code=0):
        output = tmp_path / "out.seg.nrrd"
        line = COMMANDS[command].format(few=tmp_path / "few.nrrd", out=output)
        load = load_module if command == "refine" else network
        assert run(command, study, *line.split(), *options, load=load) == code
        return read_labelmap(output) if code == 0 else None

    work.network = network
    return work


def test_info_lists_the_series_of_a_folder_and_describes_the_chosen_one(study, capsys):
    assert run("info", study) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == [
        f"     1  Scout  CT 14 x 12 x 1  {SCOUT}",
        f"     2  Abdomen 3 mm  CT 14 x 12 x 9  {VOLUME}",
    ]
    assert "--series" in lines[4]
    assert run("info", study, "--series", "2") == 0
    assert "9, 12, 14 (k, j, i)" in capsys.readouterr().out
    assert run("info", "--series", "2") == 2
    assert "Give the folder" in error_of(capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_one_of_several_series_is_chosen_by_number_or_uid(work, capsys, command):
    assert work(command, code=2) is None
    message = error_of(capsys)
    assert all(text in message for text in ("2 DICOM series", "1: Scout", "2: Abdomen 3 mm", VOLUME, "--series"))
    for series in ("2", VOLUME):
        assert work(command, "--series", series).shape == a_ball().shape
    assert work(command, "--series", "7", code=2) is None
    assert "No series 7" in error_of(capsys).replace("\n", "")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("window", [("-50", "150"), ("50/200",)])
def test_a_window_is_what_the_network_sees(work, command, window):
    work(command, "--series", "2", "--window", *window)
    if command == "refine":
        assert work.network.normalise == (-50.0, 150.0)
    else:
        assert work.network.seen() == {IntensityRange(-50.0, 150.0)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_segmentation_on_part_of_the_grid_counts_as_on_all_of_it_and_an_empty_one_as_nothing(
    work, tmp_path, capsys, command
):
    painted = read_labelmap(tmp_path / "few.nrrd")
    expected = work(command, "--series", "2").array
    part = painted.array[3:7, 1:, 2:-1]
    shift = np.eye(4)
    shift[:3, 3] = (2, 1, 3)
    write_labelmap(tmp_path / "few.nrrd", Volume(part, painted.ijk_to_ras @ shift))  # as 3D Slicer saves it
    assert np.array_equal(work(command, "--series", "2").array, expected)
    write_labelmap(tmp_path / "few.nrrd", Volume(np.zeros((1, 1, 1), np.uint8), np.eye(4)))
    work(command, "--series", "2", code=2)
    assert "holds no" in error_of(capsys)


def test_a_batch_takes_series_and_window_for_all_images(study, tmp_path, monkeypatch):
    folders, network = BatchFolders(tmp_path), []
    study.rename(folders.images / "patient")

    def load(weights, *, device, threads):
        network.append(load_threshold(weights, device=device, threads=threads))
        return network[-1]

    assert run(*folders.arguments(), load=load) == 2
    (row,) = table_of(folders.output)
    assert row["status"] == "failed"
    assert "Abdomen 3 mm" in row["error"]
    assert run(*folders.arguments("--series", "2", "--window", "-50", "150"), load=load) == 0
    (row,) = table_of(folders.output)
    assert (row["file"], row["status"]) == ("patient", "done")
    assert {used for _, _, used in network[-1].images} == {IntensityRange(-50.0, 150.0)}
    assert read_labelmap(folders.output / "patient.seg.nrrd").shape == a_ball().shape


# What is said about slices, images and the installation -------------------------------------------------------------


def test_a_task_comes_before_a_file_of_its_name(tmp_path, monkeypatch):
    def context(name):
        return ContextSet(name, (ContextEntry(np.zeros((6, 6), np.float32), np.ones((6, 6), bool), (1.0, 1.0)),))

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    write_context_file("liver.context.zip", context("From the file"))
    assert files.open_context("liver.context.zip").label_name == "From the file"
    ContextStore().save("liver.context.zip", context("Of the task"))
    assert files.open_context("LIVER.context.zip").label_name == "Of the task"
    with pytest.raises(scribblesegment.ContextError, match=r"neither a file .* tasks are: 'liver.context.zip'"):
        files.open_context("spleen")


def test_progress_is_shown_to_a_person_only(monkeypatch, capsys):
    monkeypatch.setattr(files, "_PATIENCE_S", 0.0)
    for watched in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched)
        with files.progress_bar(3, "refining", "update") as bar:
            bar.update(2)
            bar.refresh()
        weights.show_download(0.5, "default")
        shown = capsys.readouterr().err
        assert [text in shown for text in ("refining", "2/3", "\rdefault (50 %)")] == [watched] * 3


def info(capsys, *image):
    assert run("info", *image) == 0
    return capsys.readouterr().out


def test_the_installation_is_told(capsys, monkeypatch, tmp_path):
    text = info(capsys)
    assert f"scribblesegment {scribblesegment.__version__}" in text
    assert "torch           " in text
    assert ", computes" in text
    assert text.count("(default)") == 1
    assert all(f"  {entry.name}" in text and f"licence {entry.licence}" in text for entry in list_weights())
    assert "present, " in text
    monkeypatch.setattr(type(list_weights()[0]), "path", lambda entry: tmp_path / "none")
    monkeypatch.setattr("scribblesegment.cli.info.is_installed", lambda name: False)
    text = info(capsys)
    assert f"missing: {tmp_path / 'none'}" in text
    assert "not installed: pip install 'scribblesegment[torch]'" in text


def test_a_report_identifies_the_networks_and_no_person(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SCRIBBLESEGMENT_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "liver-of-jane-doe.pt").write_bytes(b"weights")
    text = info(capsys, "--report")
    assert f"scribblesegment         {scribblesegment.__version__}\n" in text
    assert all(re.search(rf"^{name} +\S", text, re.MULTILINE) for name in ("python", "platform", "numpy", "device"))
    present = {entry.name: entry.path() for entry in list_weights() if entry.embedded}
    present["imported network 1"] = tmp_path / "liver-of-jane-doe.pt"
    for name, path in present.items():
        assert re.search(rf"^{name} +SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}$", text, re.MULTILINE)
    personal = ("jane", str(tmp_path), str(Path.home()), platform.node(), getpass.getuser())
    assert not [word for word in personal if len(word) > 2 and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
    monkeypatch.setattr(devices, "torch_problem", lambda: f"PyTorch cannot be loaded: {tmp_path}/libtorch.so.")
    assert str(tmp_path) not in info(capsys, "--report")
    assert run("info", "i.nrrd", "--report") == 2


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), "k to head, j to back, i to left"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "k to head, j to front, i to right"),
        ((1, 0, 0, 0, 0, 1, 0, -1, 0), "k to back, j to feet, i to left"),
        ((1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8), "k to head (oblique), j to back (oblique), i to left"),
    ],
)
def test_an_image_is_described(tmp_path, capsys, sides, expected):
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetDirection(sides)
    sitk.WriteImage(image, str(tmp_path / "i.nrrd"))
    text = info(capsys, tmp_path / "i.nrrd")
    assert "3, 4, 5 (k, j, i), int16" in text
    assert "2, 0.75, 0.5 mm (k, j, i)" in text
    assert f"orientation     {expected}\n" in text
    assert "0 to 59" in text
    picture = write_image(tmp_path / "i.png", np.zeros((4, 5), np.uint8))
    assert "not given by the file" in info(capsys, picture)
