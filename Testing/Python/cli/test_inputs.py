"""What all commands read alike: series of DICOM folders, intensities, and label maps on part of the grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batch_folders import BatchFolders, a_ball, table_of
from batch_networks import load_threshold
from command_line import error_of, run
from dicom_files import a_series
from slice_predictors import Brightness
from torch import nn

from scribblesegment import IntensityRange, Volume, read_labelmap, read_volume, write_labelmap
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
