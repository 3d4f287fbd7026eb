from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image
from torch import nn

from scribblesegment import Segment, Volume, cli, read_labelmap, write_labelmap, write_segmentation
from scribblesegment.commands.refine import ask_on_terminal
from scribblesegment.refinement.adapters import ModuleNetwork, load_network
from scribblesegment.refinement.correction import Correction

SHAPE = (3, 20, 24)
ORGAN = (slice(None), slice(5, 15), slice(8, 18))
NAMES = ("background", "liver", "spleen")
FAST = ("--learning-rate", "0.05")


class Network:
    """A network that takes bright pixels for liver, and what loads it."""

    def __init__(self, ndim=2):
        torch.manual_seed(0)
        convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.module = nn.Sequential(convolution(1, 4, 1), nn.ReLU(), convolution(4, 3, 1))
        with torch.no_grad():
            for layer, weight, bias in (
                (self.module[0], [[1.0], [-1.0], [1.0], [1.0]], [0.0, 1.0, 0.2, -0.5]),
                (self.module[2], [[0, 4.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 0]], [0.0, 0.0, 0.0]),
            ):
                layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
                layer.bias.copy_(torch.tensor(bias))

    def __call__(self, source, *, confirm, weights, fold):
        self.asked_for = (source, weights, fold)
        self.confirm = confirm
        return ModuleNetwork(self.module, labels=NAMES, name="tiny")


@pytest.fixture
def image(tmp_path, rng):
    voxels = np.zeros(SHAPE, np.int16)
    voxels[ORGAN] = 100
    voxels += rng.integers(0, 4, SHAPE).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "image.nrrd"))
    return tmp_path / "image.nrrd"


def painted(**values) -> np.ndarray:
    """A label map from `v2=(index, ...)`: value 2 at these places."""
    labels = np.zeros(SHAPE, np.uint8)
    for name, places in values.items():
        for place in places:
            labels[place] = int(name.removeprefix("v"))
    return labels


BRIGHT, DARK = (1, slice(9, 11), slice(10, 16)), (1, 2, slice(2, 20))
TO_SPLEEN = painted(v2=[BRIGHT], v255=[DARK])


def save(path, labels):
    from scribblesegment import read_volume

    grid = read_volume(path.parent / "image.nrrd")
    write_labelmap(path, Volume(labels, grid.ijk_to_ras))
    return path


def run(image, labels, *options, network=None, output="out.seg.nrrd"):
    corrections = labels if not isinstance(labels, np.ndarray) else save(image.parent / "fix.nrrd", labels)
    arguments = [
        "refine",
        image,
        "--network",
        "net",
        "--corrections",
        corrections,
        "-o",
        image.parent / output,
        *options,
    ]
    return cli.main([str(argument) for argument in arguments], load=network or Network())


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_volume_is_corrected_and_the_report_says_how(image, capsys):
    assert run(image, TO_SPLEEN, *FAST) == 0
    result = read_labelmap(image.parent / "out.seg.nrrd")
    assert (result.array[ORGAN] == 2).all()
    assert np.count_nonzero(result.array) == result.array[ORGAN].size
    assert [(segment.label, segment.name) for segment in result.segments] == [(1, "liver"), (2, "spleen")]
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "network tiny: 0 background, 1 liver, 2 spleen"
    assert lines[1] == "corrections: 0 background 18, 2 spleen 12"
    assert lines[2].startswith("region growing added ")
    assert lines[3].startswith("g from ")
    assert lines[3].endswith("every correction is followed")
    assert " to 0 with " in lines[3]
    assert lines[4:] == ["  1  liver: 0 pixels", "  2  spleen: 300 pixels", f"wrote {image.parent / 'out.seg.nrrd'}"]


def test_networks_that_see_volumes_are_corrected_too(image):
    assert run(image, TO_SPLEEN, *FAST, network=Network(ndim=3)) == 0
    assert (read_labelmap(image.parent / "out.seg.nrrd").array[ORGAN] == 2).all()


@pytest.mark.parametrize(("choice", "axis"), [("k:1", 0), ("j:10", 1), ("i:12", 2)])
def test_one_slice_alone_is_corrected_and_the_others_stay_empty(image, capsys, choice, axis):
    labels = painted(v2=[(slice(0, 2), 10, 12)])
    assert run(image, labels, *FAST, "--slice", choice) == 0
    result = read_labelmap(image.parent / "out.seg.nrrd").array
    held = np.flatnonzero(np.moveaxis(result, axis, 0).any(axis=(1, 2)))
    assert held.tolist() == [int(choice[2:])]
    assert result[1, 10, 12] == 2
    assert ("not used: corrections in slice k:0" in capsys.readouterr().out) == (choice == "k:1")


def test_a_slice_without_corrections_and_one_that_is_not_there_are_refused(image, capsys):
    assert run(image, TO_SPLEEN, "--slice", "k:2") == 2
    assert error_of(capsys).endswith("slice k:2 holds no correction; corrections are in slice k:1.")
    assert run(image, TO_SPLEEN, "--slice", "k:9") == 2
    assert "9" in error_of(capsys)
    assert not (image.parent / "out.seg.nrrd").exists()


def test_a_new_label_is_added_behind_the_networks_own(image, capsys):
    labels = painted(v9=[BRIGHT], v255=[DARK])
    assert run(image, labels, *FAST, "--new-label", "9=tumour") == 0
    result = read_labelmap(image.parent / "out.seg.nrrd")
    assert [(segment.label, segment.name) for segment in result.segments] == [
        (1, "liver"),
        (2, "spleen"),
        (3, "tumour"),
    ]
    assert (result.array[BRIGHT] == 3).all()
    assert "corrections: 0 background 18, 3 tumour 12" in capsys.readouterr().out


def test_segments_named_like_labels_of_the_network_mean_these_and_give_their_colours(image):
    grid = read_labelmap(save(image.parent / "grid.nrrd", TO_SPLEEN))
    labels = painted(v1=[BRIGHT], v7=[DARK])
    names = [Segment(1, "Spleen", (0.1, 0.2, 0.3)), Segment(7, "Background", (0.5, 0.5, 0.5))]
    write_segmentation(image.parent / "fix.seg.nrrd", Volume(labels, grid.ijk_to_ras), names)
    assert run(image, image.parent / "fix.seg.nrrd", *FAST) == 0
    result = read_labelmap(image.parent / "out.seg.nrrd")
    assert (result.array[ORGAN] == 2).all()
    assert result.segments[1].color_rgb == pytest.approx((0.1, 0.2, 0.3), abs=1e-3)


def test_corrections_that_are_not_followed_are_told_and_fail_only_if_asked(image, capsys):
    options = ("--iterations", "1", "--learning-rate", "1e-6")
    assert run(image, TO_SPLEEN, *options) == 0
    captured = capsys.readouterr()
    assert "with 1 update in " in captured.out
    assert "no more iterations" in captured.out
    assert captured.err == ("warning: 12 of 30 painted pixels do not have the label that was painted: 2 spleen 12\n")
    assert run(image, TO_SPLEEN, *options, "--strict") == 3
    assert (image.parent / "out.seg.nrrd").exists()
    capsys.readouterr()
    assert run(image, TO_SPLEEN, *FAST, "--strict") == 0


def test_what_the_network_already_says_needs_no_update(image, capsys):
    assert run(image, painted(v1=[BRIGHT]), "--strict") == 0
    assert "g from 0 to 0 with 0 updates in" in capsys.readouterr().out


def test_corrections_grow_unless_they_must_not(image, capsys):
    run(image, TO_SPLEEN, *FAST)
    assert "region growing added" in capsys.readouterr().out
    run(image, TO_SPLEEN, *FAST, "--no-growing")
    assert "region growing" not in capsys.readouterr().out
    added = []
    for options in (("--threshold", "20"), ("--threshold", "20", "--reach", "2")):
        run(image, TO_SPLEEN, *FAST, *options)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("region growing added ")]
        added.append(int(line.split()[3]))
    assert added[0] > added[1] > 0


def test_options_reach_the_network_and_the_refinement(image, monkeypatch):
    seen = []

    class Recorded(Correction):
        def __init__(self, network, volume, **options):
            seen.append(options)
            super().__init__(network, volume, **options)

    monkeypatch.setattr("scribblesegment.refinement.correction.Correction", Recorded)
    network = Network()
    run(image, TO_SPLEEN, "--layers", "1", "--iterations", "7", "--device", "cpu", "--slice", "k:1",
        "--weights", "w.pt", "--fold", "2", network=network)  # fmt: skip
    assert network.asked_for[0] == "net"
    assert (str(network.asked_for[1]), network.asked_for[2]) == ("w.pt", "2")
    assert (seen[0]["axis"], seen[0]["index"], seen[0]["device"]) == (0, 1, "cpu")
    config = seen[0]["config"]
    assert (config.layers, config.iterations, config.optimiser) == (1, 7, "adam")
    run(image, TO_SPLEEN, "--paper", "--layer", "2")
    assert (seen[1]["config"].layers, seen[1]["config"].optimiser) == (("2",), "sgd")
    assert seen[1]["config"].objective == "likelihood"


def test_the_network_is_the_same_afterwards(image):
    network = Network()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    run(image, TO_SPLEEN, *FAST, network=network)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_the_curve_of_g_is_drawn(image, capsys):
    assert run(image, TO_SPLEEN, *FAST, "--plot", image.parent / "g.png") == 0
    assert Image.open(image.parent / "g.png").size == (640, 400)
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {image.parent / 'g.png'}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "2", "--layer", "2"), "one of the two"),
        (("--layers", "0"), "layers"),
        (("--iterations", "0"), "iterations"),
        (("--no-growing", "--threshold", "3"), "--no-growing"),
        (("--threshold", "-3"), "threshold"),
        (("--reach", "nan"), "reach_mm"),
        (("--plot", "g.jpg"), "must end in .png"),
        (("--plot", "nowhere/g.png"), "does not exist"),
        (("--new-label", "4=a", "--new-label", "4=b"), "twice"),
        (("--layer", "no such layer"), "no such layer"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(image, capsys, options, message):
    assert run(image, TO_SPLEEN, *options) == 2
    assert message in error_of(capsys)
    assert not (image.parent / "out.seg.nrrd").exists()


def test_picture_and_result_cannot_be_one_file(image, capsys):
    flat = image.parent / "flat.png"
    Image.fromarray(np.zeros(SHAPE[1:], np.uint8)).save(flat)
    marks = image.parent / "marks.png"
    Image.fromarray(TO_SPLEEN[1]).save(marks)
    out = image.parent / "out.png"
    arguments = ["refine", flat, "--network", "net", "--corrections", marks, "-o", out, "--plot", out]
    assert cli.main([str(argument) for argument in arguments], load=Network()) == 2
    assert "would be one file" in error_of(capsys)


@pytest.mark.parametrize("output", ["out.txt", "fix.nrrd", "image.nrrd"])
def test_outputs_that_cannot_be_written_are_refused(image, capsys, output):
    assert run(image, TO_SPLEEN, output=output) == 2
    assert error_of(capsys)


def test_corrections_on_another_grid_are_refused(image, capsys):
    write_labelmap(image.parent / "other.nrrd", Volume(TO_SPLEEN[:, :-1], np.eye(4)))
    assert run(image, image.parent / "other.nrrd") == 2
    assert "is not on the grid of" in error_of(capsys)


def test_a_label_that_the_network_lacks_is_refused(image, capsys):
    assert run(image, painted(v5=[BRIGHT])) == 2
    assert "--new-label 5=NAME" in error_of(capsys)


@pytest.mark.parametrize("text", ["4", "=tumour", "4=", "x=tumour", "-4=tumour"])
def test_new_labels_are_a_value_and_a_name(image, capsys, text):
    with pytest.raises(SystemExit) as stopped:
        run(image, TO_SPLEEN, f"--new-label={text}")
    assert stopped.value.code == 2
    assert "is no new label" in error_of(capsys)


A_NETWORK = """
from torch import nn
print("this code ran")
def make():
    return nn.Conv2d(1, 3, 1)
"""


@pytest.fixture
def code(tmp_path):
    (tmp_path / "nets.py").write_text(A_NETWORK)
    return f"{tmp_path / 'nets.py'}:make"


def refine_with_code(image, code, *options):
    arguments = ["refine", image, "--network", code, "--corrections", save(image.parent / "fix.nrrd", TO_SPLEEN), "-o"]
    return cli.main(
        [str(argument) for argument in (*arguments, image.parent / "out.nrrd", *options)], load=load_network
    )


def test_code_that_comes_with_a_network_runs_only_if_it_is_trusted(image, code, capsys):
    assert refine_with_code(image, code) == 2
    captured = capsys.readouterr()
    assert "--trust" in captured.err
    assert "this code ran" not in captured.out
    assert refine_with_code(image, code, "--trust", "--iterations", "1") == 0
    captured = capsys.readouterr()
    assert "this code ran" in captured.out
    assert captured.err.startswith("note: ")


@pytest.mark.parametrize(
    ("answer", "runs"), [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_somebody_at_a_terminal_is_asked(monkeypatch, capsys, answer, runs):
    monkeypatch.setattr("sys.stdin.readline", lambda: answer, raising=False)
    assert ask_on_terminal("It holds code.") is runs
    assert capsys.readouterr().err == "It holds code. Run it? [y/N] "


def test_ctrl_c_writes_nothing(image, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("scribblesegment.refinement.correction.Correction.refine", interrupted)
    assert run(image, TO_SPLEEN) == 130
    assert not (image.parent / "out.seg.nrrd").exists()
