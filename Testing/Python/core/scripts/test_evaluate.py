from __future__ import annotations

import json

import numpy as np
import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def evaluate():
    return load_script("evaluate")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    images = np.full((1, 16, 16), 40, np.uint8)
    images[:, 4:10, 4:10] = 255
    scribbles = np.zeros((1, 2, 2, 16, 16), np.uint8)
    scribbles[:, :, 0, 6, 5:9] = scribbles[:, :, 1, 1, 2:14] = 1
    np.savez(
        folder / "medscribble_square.npz",
        images=images,
        labels=(images > 100).astype(np.uint8),
        scribbles=scribbles,
        meta=json.dumps({}),
    )
    return folder


@pytest.fixture
def both(data):
    """Strokes of people, and a set of two bright squares with label maps."""
    labels = np.zeros((2, 32, 32), np.uint8)
    labels[:, 8:20, 8:20] = 1
    np.savez(data / "squares.npz", images=labels * 200, labels=labels, meta=json.dumps({"name": "squares"}))
    return data


@pytest.fixture
def several(tmp_path):
    """A set of five images, each with a bright square at another place."""
    folder = tmp_path / "several"
    folder.mkdir()
    labels = np.zeros((5, 32, 32), np.uint8)
    for n in range(5):
        labels[n, 6 + n : 20 + n, 8:22] = 1
    np.savez(folder / "squares.npz", images=labels * 200, labels=labels, meta=json.dumps({"name": "squares"}))
    return folder


@pytest.fixture
def in_context(tmp_path):
    """Weights of a small network with random parameters that segments in context."""
    from scribblesegment.models.factory import build_network
    from scribblesegment.weights.checkpoints import NetworkDescription, save_network

    options = {"features": [4, 4]}
    path = tmp_path / "untrained.safetensors"
    capabilities = ("scribbles", "clicks", "boxes", "context")
    description = NetworkDescription("context_unet", options, size=32, capabilities=capabilities)
    save_network(path, build_network("context_unet", options).state_dict(), description)
    return path


@pytest.fixture
def volumes(tmp_path):
    """A volume of a bright box."""
    import SimpleITK

    folder = tmp_path / "volumes" / "boxes"
    folder.mkdir(parents=True)
    labels = np.zeros((14, 16, 16), np.uint8)
    labels[2:12, 4:12, 4:12] = 1
    for name, array in (("image", labels.astype(np.int16) * 200), ("label", labels)):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(folder / f"one_{name}.nii.gz"))
    return folder.parent


def run(evaluate, *arguments):
    return evaluate.main([str(argument) for argument in arguments])


def test_the_table_is_printed_and_the_files_are_named(evaluate, data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(evaluate, "--data", data, "--methods", "random-walker", "-o", output) == 0
    printed = capsys.readouterr().out
    assert "random-walker" in printed
    assert "**1.000** [1.000, 1.000]" in printed
    for name in ("manual_scribbles.csv", "table.md"):
        assert str(output / name) in printed
        assert (output / name).is_file()


def test_one_command_runs_all_protocols_that_the_data_allow(evaluate, both, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    options = ("--per-set", 1, "--steps", 2, "--most-steps", 3)
    assert run(evaluate, "--data", both, "--methods", "random-walker", *options, "-o", output) == 0
    captured = capsys.readouterr()
    for title in ("# Manual scribbles", "## line-scribbles", "## warm-start-clicks", "NoI90"):
        assert title in captured.out
    assert "random-walker cannot start from boxes alone" in captured.out
    assert "100%" in captured.err  # the progress bars
    files = {path.name for path in output.iterdir()}
    assert files >= {"manual_scribbles.csv", "simulated_steps.csv", "table.md", "dice_by_step.png", "hd95_by_step.png"}
    lines = (output / "simulated_steps.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 1 + 6 * 2
    assert sum("center-clicks" in line for line in lines) == 2


def test_experiments_in_context_are_run_where_they_are_asked_for(evaluate, several, in_context, tmp_path, capsys):
    output = tmp_path / "out"
    options = ("--interactive", "random-walker", "--in-context", in_context, "label-transfer", "--device", "cpu")
    numbers = ("--images", 2, "--simulations", 2, "--sizes", 1, 2, "--targets", 2, "--draws", 1, "--steps", 2)
    procedures = ("--procedures", "in-context-sequences", "in-context-sizes")
    assert run(evaluate, "--data", several, *procedures, *options, *numbers, "-o", output) == 0
    captured = capsys.readouterr()
    for text in ("# Image after image", "random-walker alone", "untrained", "# Dice by context size", "label-transfer"):
        assert text in captured.out
    assert "100%" in captured.err
    assert "Manual" not in captured.out
    lines = (output / "in_context_sequences.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * 2 * 2 * 2  # procedures, methods, simulations, images
    assert (output / "in_context_sizes.csv").is_file()
    assert str(output / "in_context_table.md") in captured.out


def test_a_seed_gives_the_same_sequences(evaluate, several, in_context, tmp_path):
    def steps(name):
        options = ("--interactive", "random-walker", "--in-context", in_context, "--images", 2, "--fast")
        chosen = ("--procedures", "in-context-sequences", "--device", "cpu", "-o", tmp_path / name)
        assert run(evaluate, "--data", several, *options, *chosen) == 0
        lines = (tmp_path / name / "in_context_sequences.csv").read_text(encoding="utf-8").splitlines()
        return [line.split(",")[:14] for line in lines]  # all but the seconds

    assert steps("a") == steps("b")


def test_propagation_is_run_without_other_data(evaluate, volumes, in_context, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "DEFAULT_DATA", tmp_path / "nowhere")
    options = ("--procedures", "propagation", "--volumes", volumes, "--in-context", in_context, "--device", "cpu")
    assert run(evaluate, *options, "--fast", "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "Structures: 1, with their axes: 1." in printed
    assert "shape interpolation" in printed
    assert (tmp_path / "out" / "propagation_structures.csv").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--procedures", "in-context-sizes", "--images", 2), "--in-context or --universeg"),
        (("--procedures", "in-context-sequences"), "shown by 19 images"),
        (("--procedures", "in-context-sequences", "--images", 2, "--in-context", "nothing.pt"), "nothing.pt"),
        (("--procedures", "propagation", "--volumes", "nowhere"), "no volumes"),
    ],
)
def test_experiments_that_cannot_be_run_end_with_two(evaluate, several, tmp_path, capsys, options, message):
    options = ("--data", several, "--interactive", "random-walker", *options)
    assert run(evaluate, *options, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_procedures_can_be_chosen(evaluate, both, tmp_path, capsys):
    options = ("--methods", "random-walker", "--procedures", "center-clicks", "--per-set", 2, "--steps", 3)
    assert run(evaluate, "--data", both, *options, "--repetitions", 2, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "Manual" not in printed
    assert "2 examples, each 2 times" in printed
    lines = (tmp_path / "out" / "simulated_steps.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * 2 * 3


def test_strokes_of_people_that_were_asked_for_and_are_not_there_are_an_error(evaluate, both, tmp_path, capsys):
    (both / "medscribble_square.npz").unlink()
    options = ("--data", both, "--methods", "random-walker", "--per-set", 1, "--steps", 1, "-o", tmp_path / "out")
    assert run(evaluate, *options, "--procedures", "manual-scribbles") == 2
    assert "medscribble_" in capsys.readouterr().err
    assert run(evaluate, *options, "--most-steps", 1) == 0


def test_a_seed_gives_the_same_prompts_and_another_one_others(evaluate, both, tmp_path):
    def steps(name, seed):
        options = ("--methods", "random-walker", "--procedures", "random-clicks", "--steps", 3, "--seed", seed)
        assert run(evaluate, "--data", both, *options, "-o", tmp_path / name) == 0
        lines = (tmp_path / name / "simulated_steps.csv").read_text(encoding="utf-8").splitlines()[1:]
        return [line.split(",")[9] for line in lines]

    assert steps("a", 1) == steps("b", 1)
    assert steps("a", 1) != steps("c", 2)


@pytest.mark.parametrize(("option", "value"), [("--steps", 0), ("--per-set", 0), ("--seed", -1)])
def test_numbers_out_of_range_end_with_two(evaluate, both, tmp_path, capsys, option, value):
    assert run(evaluate, "--data", both, "--methods", "random-walker", option, value, "-o", tmp_path / "out") == 2
    assert "error: " in capsys.readouterr().err


def test_an_unknown_procedure_ends_with_two(evaluate, both, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(evaluate, "--data", both, "--procedures", "scribbles", "-o", tmp_path / "out")
    assert "invalid choice" in capsys.readouterr().err


def test_the_embedded_network_is_measured(evaluate, data, tmp_path):
    options = ("--methods", "default", "--device", "cpu", "-o", tmp_path / "out")
    assert run(evaluate, "--data", data, *options) == 0
    assert "default" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_an_unknown_method_ends_with_two(evaluate, data, tmp_path, capsys):
    assert run(evaluate, "--data", data, "--methods", "grabcat", "-o", tmp_path / "out") == 2
    assert "error: No method 'grabcat'" in capsys.readouterr().err


def test_a_missing_folder_ends_with_two(evaluate, tmp_path, capsys):
    assert run(evaluate, "--data", tmp_path / "nowhere", "--methods", "random-walker", "-o", tmp_path / "out") == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_damaged_set_ends_with_two(evaluate, data, tmp_path, capsys):
    path = data / "medscribble_square.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(evaluate, "--data", data, "--methods", "random-walker", "-o", tmp_path / "out") == 2
    assert "medscribble_square.npz" in capsys.readouterr().err


def test_without_data_the_option_is_named(evaluate, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "DEFAULT_DATA", tmp_path / "nowhere")
    assert run(evaluate, "--methods", "random-walker", "-o", tmp_path / "out") == 2
    assert "--data" in capsys.readouterr().err


def test_an_interruption_ends_with_130(evaluate, data, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run_manual_scribbles", interrupt)
    assert run(evaluate, "--data", data, "--methods", "random-walker", "-o", tmp_path / "out") == 130
