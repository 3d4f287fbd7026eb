from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import batch_networks
import numpy as np
import pytest
from batch_folders import BatchFolders, a_ball, a_context, left_behind, table_of, write_context
from batch_networks import POISON, load_threshold

import scribblesegment
from scribblesegment import cli, read_labelmap
from scribblesegment.batch.records import FOLDER
from scribblesegment.commands import batch as job
from scribblesegment.commands.batch import BatchError, batch
from scribblesegment.context.context_set import ContextSet
from scribblesegment.context.store import FOLDER_VARIABLE, ContextStore
from scribblesegment.errors import ConfigError, ContextError, FileFormatError, MissingDependencyError, WeightsError
from scribblesegment.io.storage import file_lock

HELPERS = Path(batch_networks.__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(scribblesegment.__file__).parents[1]), str(HELPERS)]),
}


@pytest.fixture
def folders(tmp_path) -> BatchFolders:
    made = BatchFolders(tmp_path)
    for corner, name in enumerate(("a.nrrd", "b.nii.gz", "c.png"), start=1):
        structure = a_ball()[4] if name.endswith("png") else a_ball()
        made.add(name, structure, corner=corner)
    return made


def run(folders, *, load=load_threshold, **changes) -> list[str]:
    lines: list[str] = []
    batch(folders.request(**changes), load=load, say=lines.append)
    return lines


def results(output: Path) -> list[str]:
    found = (path for path in output.rglob("*.seg.nrrd") if not path.name.startswith("."))
    return sorted(path.relative_to(output).as_posix() for path in found)


def statuses(output: Path) -> dict[str, str]:
    return {row["file"]: row["status"] for row in table_of(output)}


# From images to results.


def test_every_image_gets_a_segmentation_and_a_line_in_the_table(folders):
    lines = run(folders)
    assert results(folders.output) == ["a.nrrd.seg.nrrd", "b.nii.gz.seg.nrrd", "c.png.seg.nrrd"]
    assert lines[0] == "3 images: 0 done already, 3 to do"
    assert lines[-1] == f"wrote {folders.output / 'results.csv'}"
    rows = table_of(folders.output)
    assert [(row["file"], row["structure"], row["status"]) for row in rows] == [
        ("a.nrrd", "Ball", "done"),
        ("b.nii.gz", "Ball", "done"),
        ("c.png", "Ball", "done"),
    ]
    assert float(rows[0]["volume_ml"]) == pytest.approx(a_ball().sum() * 3 / 1000, abs=1e-4)
    assert float(rows[2]["area_mm2"]) == pytest.approx(a_ball()[4].sum())
    assert np.array_equal(read_labelmap(folders.output / "a.nrrd.seg.nrrd").array == 1, a_ball())


def test_several_structures_come_from_several_sets(folders, tmp_path):
    other = write_context(tmp_path / "rest.context.zip", a_context("Rest", bright=False))
    run(folders, contexts=[str(folders.context), str(other)])
    labels = read_labelmap(folders.output / "a.nrrd.seg.nrrd")
    assert [(segment.label, segment.name) for segment in labels.segments] == [(1, "Ball"), (2, "Rest")]
    assert [row["structure"] for row in table_of(folders.output)] == ["Ball", "Rest"] * 3


def test_a_set_can_be_named_by_its_task(folders, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "contexts"))
    ContextStore().save("My balls", a_context())
    run(folders, contexts=["my balls"])
    assert set(statuses(folders.output).values()) == {"done"}


def test_images_in_folders_have_their_results_in_folders_of_the_same_name(folders):
    folders.add("deep/er/d.nrrd", corner=4)
    run(folders)
    assert "deep/er/d.nrrd.seg.nrrd" not in results(folders.output)
    run(folders, recursive=True)
    assert "deep/er/d.nrrd.seg.nrrd" in results(folders.output)


def test_results_may_lie_beside_the_images(folders):
    run(folders, output=folders.images)
    assert run(folders, output=folders.images, recursive=True)[0] == "3 images: 3 done already, 0 to do"


# Going on.


def test_a_second_run_has_nothing_to_do_and_does_not_load_the_network(folders):
    run(folders)
    before = left_behind(folders.output)

    def load(weights, *, device, threads):
        raise AssertionError

    assert run(folders, load=load)[0] == "3 images: 3 done already, 0 to do"
    assert left_behind(folders.output) == before


def test_after_an_interruption_the_same_command_goes_on(folders, tmp_path):
    run(folders, output=tmp_path / "undisturbed")
    folders.add("b.nii.gz", corner=2, value=POISON)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        batch(folders.request(), load=batch_networks.load_interrupted, say=lines.append)
    assert lines[-1] == "1 of 3 images are done; the same command goes on from there"
    assert statuses(folders.output) == {"a.nrrd": "done", "b.nii.gz": "to do", "c.png": "to do"}
    folders.add("b.nii.gz", corner=2)
    assert run(folders)[0] == "3 images: 1 done already, 2 to do"
    assert left_behind(folders.output) == left_behind(tmp_path / "undisturbed")


def test_changed_options_are_said_and_done_again(folders):
    run(folders)
    assert run(folders, threshold=0.6)[:2] == [
        "3 images: 0 done already, 3 to do",
        "  3 done again: other options than before",
    ]
    assert run(folders, threshold=0.6, redo=True)[1] == "  3 done again: as --redo says"


def test_a_result_that_was_corrected_by_hand_is_left_alone(folders):
    run(folders)
    (folders.output / "a.nrrd.seg.nrrd").write_bytes(b"corrected")
    run(folders, threshold=0.6)
    assert (folders.output / "a.nrrd.seg.nrrd").read_bytes() == b"corrected"
    assert statuses(folders.output)["a.nrrd"] == "changed"
    run(folders, threshold=0.6, redo=True)
    assert statuses(folders.output)["a.nrrd"] == "done"


def test_what_a_killed_program_left_half_written_is_removed(folders):
    run(folders)
    leftovers = [folders.output / f".{'0' * 32}.seg.nrrd", folders.output / FOLDER / f".{'f' * 32}.json"]
    leftovers.append(folders.output / FOLDER / "context-1.context.zip")
    kept = [folders.output / "notes.txt", folders.output / ".hidden.json", folders.output / FOLDER / "notes.json"]
    for path in (*leftovers, *kept):
        path.write_bytes(b"x")
    run(folders)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in kept)


def test_two_programs_do_not_work_on_one_folder(folders, monkeypatch):
    monkeypatch.setattr(job, "_LOCK_S", 0.1)
    (folders.output / FOLDER).mkdir(parents=True)
    with file_lock(folders.output / FOLDER / ".lock"), pytest.raises(FileFormatError, match="holds the lock"):
        run(folders)
    assert results(folders.output) == []


# What can be wrong.


def test_a_damaged_image_is_told_and_skipped(folders, capsys):
    (folders.images / "b.nii.gz").write_bytes(b"nonsense")
    assert cli.main(folders.arguments(), load=load_threshold) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: b.nii.gz: Cannot read ")
    assert errors[1].startswith("error: no result for 1 of 3 images; ")
    assert len(errors) == 2
    assert statuses(folders.output) == {"a.nrrd": "done", "b.nii.gz": "failed", "c.png": "done"}
    assert results(folders.output) == ["a.nrrd.seg.nrrd", "c.png.seg.nrrd"]


def test_a_batch_without_problems_exits_with_0(folders, capsys):
    assert cli.main(folders.arguments(), load=load_threshold) == 0
    assert capsys.readouterr().err == ""


def test_an_interrupted_batch_exits_with_130(folders, capsys):
    folders.add("b.nii.gz", corner=2, value=POISON)
    assert cli.main(folders.arguments(), load=batch_networks.load_interrupted) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_image_that_needs_too_much_memory_is_skipped(folders):
    folders.add("b.nii.gz", corner=2, value=POISON)
    with pytest.raises(BatchError, match="no result for 1 of 3 images"):
        run(folders, load=batch_networks.load_greedy)
    assert statuses(folders.output)["c.png"] == "done"


def test_a_defect_is_shown_after_the_other_images_were_done(folders, capsys):
    folders.add("b.nii.gz", corner=2, value=POISON)
    with pytest.raises(RuntimeError, match="the reason was unexpected"):
        run(folders, load=batch_networks.load_faulty)
    assert statuses(folders.output) == {"a.nrrd": "done", "b.nii.gz": "failed", "c.png": "done"}
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"contexts": ["nowhere"]}, ContextError, "neither a file or folder nor a task"),
        ({"contexts": ["{damaged}"]}, FileFormatError, "damaged.context.zip"),
        ({"contexts": ["{empty}"]}, ContextError, "is empty"),
        ({"contexts": ["{context}", "{same}"]}, ContextError, "Two context sets are for 'ball'"),
        ({"contexts": ["{context}", "{context}"]}, ContextError, "Two context sets are for 'Ball'"),
        ({"contexts": ["{context}", "{other}"]}, ContextError, "Give --axis"),
        ({"folder": "{missing}"}, FileFormatError, "no such folder"),
        ({"folder": "{bare}"}, FileFormatError, "There is no image"),
        ({"output": "{missing}/out"}, FileFormatError, "Cannot create the folder"),
        ({"output": "{context}"}, FileFormatError, "Cannot create the folder"),
        ({"model": "{missing}.pt"}, WeightsError, "Cannot read the weights file"),
        ({"model": "nonsense"}, WeightsError, "no weights named"),
        ({"threshold": 1.0}, ConfigError, "threshold"),
        ({"workers": 0}, ConfigError, "--workers is 0"),
        ({"threads": 0}, ConfigError, "--threads is 0"),
        ({"scheduler": "tcp://a:1"}, ConfigError, "Give one of the two"),
        ({"load": batch_networks.load_without_context}, ConfigError, "takes no context"),
    ],
)
def test_what_is_wrong_for_all_images_stops_at_once(folders, tmp_path, changes, error, told):
    (tmp_path / "damaged.context.zip").write_bytes(b"nonsense")
    (tmp_path / "bare").mkdir()
    write_context(tmp_path / "empty.context.zip", ContextSet("Ball"))
    write_context(tmp_path / "same.context.zip", a_context("ball"))
    write_context(tmp_path / "other.context.zip", a_context("Other", axis=2))
    places = {name: str(tmp_path / f"{name}.context.zip") for name in ("damaged", "empty", "same", "other")}
    places |= {"context": str(folders.context), "missing": str(tmp_path / "missing"), "bare": str(tmp_path / "bare")}

    def filled(value):
        if isinstance(value, list):
            return [filled(one) for one in value]
        return value.format(**places) if isinstance(value, str) else value

    changes = {key: filled(value) for key, value in changes.items()}
    for key in {"folder", "output"} & changes.keys():
        changes[key] = Path(changes[key])
    with pytest.raises(error, match=told):
        run(folders, **changes)
    assert not folders.output.exists() or results(folders.output) == []


def test_weights_that_are_damaged_are_told_before_any_work(folders):
    from scribblesegment.batch.network import load_for_batch

    with pytest.raises(WeightsError, match="damaged or not a safetensors file"):
        run(folders, load=load_for_batch)
    assert results(folders.output) == []


# Other processes.


def test_several_workers_need_dask_and_one_does_not(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    for changes in ({"workers": 2}, {"workers": None, "scheduler": "tcp://a:1"}):
        with pytest.raises(MissingDependencyError, match=r"scribblesegment\[batch\]"):
            run(folders, **changes)
    assert not folders.output.exists()
    monkeypatch.setattr(job, "has_dask", lambda: False)
    run(folders, workers=None)
    assert set(statuses(folders.output).values()) == {"done"}


def test_a_graphics_card_or_a_single_image_needs_no_workers(folders, monkeypatch):
    monkeypatch.setattr(job, "has_dask", lambda: True)
    monkeypatch.setattr(
        "scribblesegment.inference.devices.resolve_device", lambda name: "cuda" if name == "auto" else name
    )
    request = folders.request(workers=None)
    assert not job._uses_workers(request, several=True)
    assert job._uses_workers(folders.request(workers=None, device="cpu"), several=True)
    assert not job._uses_workers(folders.request(workers=None, device="cpu"), several=False)
    assert job._uses_workers(folders.request(workers=2), several=False)
    assert not job._uses_workers(folders.request(workers=1, device="cpu"), several=True)


# Killed at any moment.


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("mode", ["first", "second"])
def test_killed_at_any_step_and_started_again_it_leaves_what_an_undisturbed_batch_leaves(tmp_path, mode):
    command = [sys.executable, str(HELPERS / "kill_points.py"), str(tmp_path)]
    command += [mode] if mode == "second" else []
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def with_network(folders) -> BatchFolders:
    """A batch whose network is a real one, with parameters by chance."""
    import torch

    from scribblesegment.models.factory import build_network
    from scribblesegment.weights.checkpoints import NetworkDescription, save_network

    torch.manual_seed(0)
    options = {"features": [8, 16]}
    capabilities = ("boxes", "clicks", "context", "scribbles")
    description = NetworkDescription("context_unet", options, size=32, capabilities=capabilities)
    save_network(folders.weights, build_network("context_unet", options).state_dict(), description)
    return folders


def start(folders, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scribblesegment.cli", *folders.arguments(*more)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folders, *more: str) -> None:
    process = start(folders, *more)
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors


@pytest.mark.slow
def test_a_batch_that_is_killed_again_and_again_comes_to_the_same_end(with_network, tmp_path):
    for corner in range(4, 13):
        with_network.add(f"{corner}.nrrd", corner=corner)
    finish(with_network)
    expected = left_behind(with_network.output)
    assert len(expected) == 13
    killed, chance, done = tmp_path / "killed", random.Random(0), []
    for _ in range(3):
        process = start(with_network, "-o", str(killed))
        wait_for_results(process, killed, more_than=done[-1] if done else 0)
        time.sleep(chance.uniform(0.0, 0.03))
        process.kill()  # as kill -9 does
        process.communicate()
        done.append(len(results(killed)))
    assert 0 < done[0] < 12
    finish(with_network, "-o", str(killed))
    assert left_behind(killed) == expected


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask")
def test_workers_end_with_a_program_that_is_killed_and_others_go_on_with_the_same_results(with_network, tmp_path):
    psutil = pytest.importorskip("psutil")
    for corner in range(4, 13):
        with_network.add(f"{corner}.nrrd", corner=corner)
    finish(with_network)
    killed = tmp_path / "killed"
    arguments = ("-o", str(killed), "--workers", "2")
    process = start(with_network, *arguments)
    wait_for_results(process, killed, more_than=0)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert len(workers) >= 2
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    assert len(results(killed)) < 12
    finish(with_network, *arguments)
    assert left_behind(killed) == left_behind(with_network.output)


def wait_for_results(process, output, *, more_than):
    while process.poll() is None and len(results(output)) <= more_than:
        time.sleep(0.002)
