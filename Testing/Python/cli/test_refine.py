from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import error_of, paint, run, write_image
from PIL import Image
from torch import nn

from scribblesegment import Segment, Volume, read_labelmap, write_labelmap
from scribblesegment.cli.refine import ask_on_terminal
from scribblesegment.refinement.adapters import ModuleNetwork
from scribblesegment.refinement.correction import Correction

SHAPE = (3, 20, 24)
ORGAN = (slice(None), slice(5, 15), slice(8, 18))
BRIGHT, DARK = (1, slice(9, 11), slice(10, 16)), (1, 2, slice(2, 20))
TO_SPLEEN = [(BRIGHT, 2), (DARK, 255)]
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
        self.asked_for = (source, str(weights), fold)
        return ModuleNetwork(self.module, labels=("background", "liver", "spleen"), name="tiny")


@pytest.fixture
def refine(tmp_path, rng):
    """Corrects the segmentation of `image.nrrd` as painted, and gives the result where there is one."""
    voxels = rng.integers(0, 4, SHAPE).astype(np.int16)
    voxels[ORGAN] += 100
    write_image(tmp_path / "image.nrrd", voxels)

    def refine(marks, *options, network=None, code=0, segments=None):
        fixes = paint(tmp_path / ("fix.seg.nrrd" if segments else "fix.nrrd"), marks, shape=SHAPE, segments=segments)
        output = tmp_path / "out.seg.nrrd"
        arguments = (tmp_path / "image.nrrd", "--network", "net", "--corrections", fixes, "-o", output, *options)
        assert run("refine", *arguments, load=network or Network()) == code
        return read_labelmap(output) if output.exists() else None

    return refine


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_volume_is_corrected_and_the_report_says_how(refine, capsys, tmp_path, ndim):
    network = Network(ndim)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    result = refine(TO_SPLEEN, *FAST, "--plot", tmp_path / "g.png", "--strict", network=network)
    assert (result.array[ORGAN] == 2).all()
    assert np.count_nonzero(result.array) == result.array[ORGAN].size
    assert [(segment.label, segment.name) for segment in result.segments] == [(1, "liver"), (2, "spleen")]
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[:2] == ["network tiny: 0 background, 1 liver, 2 spleen", "corrections: 0 background 18, 2 spleen 12"]
    assert lines[2].startswith("region growing added ")
    assert lines[3].startswith("g from ")
    assert " to 0 with " in lines[3]
    assert lines[3].endswith("every correction is followed")
    assert lines[4:6] == ["  1  liver: 0 pixels", "  2  spleen: 300 pixels"]
    assert lines[6:] == [f"wrote {tmp_path / 'out.seg.nrrd'}", f"wrote {tmp_path / 'g.png'}"]
    assert Image.open(tmp_path / "g.png").size == (640, 400)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


@pytest.mark.parametrize(("choice", "axis"), [("k:1", 0), ("j:10", 1), ("i:12", 2)])
def test_one_slice_alone_is_corrected_and_the_others_stay_empty(refine, capsys, choice, axis):
    result = refine([((slice(0, 2), 10, 12), 2)], *FAST, "--slice", choice).array
    assert np.flatnonzero(np.moveaxis(result, axis, 0).any(axis=(1, 2))).tolist() == [int(choice[2:])]
    assert result[1, 10, 12] == 2
    assert ("not used: corrections in slice k:0" in capsys.readouterr().out) == (choice == "k:1")


@pytest.mark.parametrize(
    ("bright", "dark", "names", "options", "said"),
    [
        (2, 255, (), (), "0 background 18, 2 spleen 12"),
        (2, 9, (), ("--background", "9"), "0 background 18, 2 spleen 12"),
        (2, 1, (), ("--background", "1"), "0 background 18, 2 spleen 12"),
        (1, 7, ("Spleen ", "BACKGROUND"), (), "0 background 18, 2 spleen 12"),
        (2, 1, ("mine", "Segment_1"), (), "1 liver 18, 2 spleen 12"),
        (9, 255, (), ("--new-label", "9=tumour"), "0 background 18, 3 tumour 12"),
        (90, 40, (), ("--new-label", "90=tumour", "--new-label", "40= cyst "), "3 cyst 18, 4 tumour 12"),
    ],
)
def test_painted_values_mean_labels_of_the_network(refine, capsys, bright, dark, names, options, said):
    colors = [(0.1, 0.2, 0.3), (0.5, 0.5, 0.5)]
    segments = [Segment(n, name, color) for n, name, color in zip((bright, dark), names, colors, strict=False)]
    result = refine([(BRIGHT, bright), (DARK, dark)], *FAST, *options, segments=segments)
    assert f"corrections: {said}\n" in capsys.readouterr().out
    expected = ["liver", "spleen", *(("cyst", "tumour") if bright == 90 else ("tumour",) if bright == 9 else ())]
    assert [segment.name for segment in result.segments] == expected
    assert (result.array[BRIGHT] == int(said.split()[-3])).all()
    if names:
        assert result.segments[1].color_rgb == pytest.approx(colors[0], abs=1e-3)


def test_corrections_that_are_not_followed_are_told_and_fail_only_if_asked(refine, capsys):
    options = ("--iterations", "1", "--learning-rate", "1e-6")
    refine(TO_SPLEEN, *options)
    captured = capsys.readouterr()
    assert "with 1 update in " in captured.out
    assert "no more iterations" in captured.out
    assert captured.err == "warning: 12 of 30 painted pixels do not have the label that was painted: 2 spleen 12\n"
    assert refine(TO_SPLEEN, *options, "--strict", code=3) is not None
    capsys.readouterr()
    refine([(BRIGHT, 1)], "--strict")  # as the network says already
    assert "g from 0 to 0 with 0 updates in" in capsys.readouterr().out


def test_corrections_grow_unless_they_must_not(refine, capsys):
    refine(TO_SPLEEN, *FAST, "--no-growing")
    assert "region growing" not in capsys.readouterr().out
    added = []
    for reach in ((), ("--reach", "2")):
        refine(TO_SPLEEN, *FAST, "--threshold", "20", *reach)
        added.append(int(capsys.readouterr().out.split("region growing added ")[1].split()[0]))
    assert added[0] > added[1] > 0


def test_options_reach_the_network_and_the_refinement(refine, monkeypatch):
    seen = []

    class Recorded(Correction):
        def __init__(self, network, volume, **options):
            seen.append(options)
            super().__init__(network, volume, **options)

    monkeypatch.setattr("scribblesegment.refinement.correction.Correction", Recorded)
    network = Network()
    given = "--layers 1 --iterations 7 --anchor 3 --device cpu --slice k:1 --weights w.pt --fold 2"
    refine(TO_SPLEEN, *given.split(), network=network)
    assert network.asked_for == ("net", "w.pt", "2")
    assert (seen[0]["axis"], seen[0]["index"], seen[0]["device"]) == (0, 1, "cpu")
    config = seen[0]["config"]
    assert (config.layers, config.iterations, config.anchor, config.optimiser) == (1, 7, 3.0, "adam")
    refine(TO_SPLEEN, "--paper", "--layer", "2")
    config = seen[1]["config"]
    assert (config.layers, config.optimiser, config.objective) == (("2",), "sgd", "likelihood")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--layers", "2", "--layer", "2"), "one of the two"),
        (("--no-growing", "--threshold", "3"), "--no-growing"),
        (("--reach", "nan"), "reach_mm"),
        (("--plot", "g.jpg"), "must end in .png"),
        (("--new-label", "4=a", "--new-label", "4=b"), "twice"),
        (("--layer", "no such layer"), "no such layer"),
        (("--slice", "k:2"), "slice k:2 holds no correction; corrections are in slice k:1."),
        (("--slice", "k:9"), "Slice 9 along axis 'k' is outside"),
        (("--corrections", "{other}"), "is not on the grid of"),
        (("--corrections", "{empty}"), "holds no correction"),
        (
            ("--background", "254"),
            "the network knows 0 background, 1 liver, 2 spleen. Name it with --new-label 255=NAME",
        ),
        (("--new-label", "2=cyst"), "Label 2 is the network's 'spleen'"),
        (("--new-label", "255=cyst"), "255 marks the background"),
        (("--new-label", "5=cyst"), "The new label 5 (cyst) is not painted anywhere"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(refine, tmp_path, capsys, options, match):
    write_labelmap(tmp_path / "other.nrrd", Volume(np.ones((3, 19, 24), np.uint8), np.eye(4)))
    made = {name: tmp_path / f"{name}.nrrd" for name in ("other", "empty")}
    paint(made["empty"], [], shape=SHAPE)
    assert refine(TO_SPLEEN, *(option.format(**made) for option in options), code=2) is None
    assert match in error_of(capsys)


# Code that comes with a network.


def test_code_runs_only_if_it_is_trusted_or_somebody_at_the_terminal_agrees(refine, tmp_path, monkeypatch, capsys):
    code = "from torch import nn\nprint('this code ran')\ndef make():\n    return nn.Conv2d(1, 3, 1)\n"
    (tmp_path / "nets.py").write_text(code)
    fixes = paint(tmp_path / "fix.nrrd", TO_SPLEEN, shape=SHAPE)
    options = (tmp_path / "image.nrrd", "--network", f"{tmp_path / 'nets.py'}:make", "--corrections", fixes)
    options = ("refine", *options, "-o", tmp_path / "o.nrrd", "--iterations", "1")
    for trust, code, note in (((), 2, "--trust"), (("--trust",), 0, "note: ")):
        assert run(*options, *trust) == code
        captured = capsys.readouterr()
        assert note in captured.err
        assert ("this code ran" in captured.out) == (code == 0)
    for answer, runs in (("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("", False)):
        monkeypatch.setattr("sys.stdin.readline", lambda answer=answer: answer, raising=False)
        assert ask_on_terminal("It holds code.") is runs
        assert capsys.readouterr().err == "It holds code. Run it? [y/N] "
