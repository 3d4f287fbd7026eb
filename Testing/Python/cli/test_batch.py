from __future__ import annotations

import sys
from pathlib import Path

import batch_networks
import numpy as np
import pytest
from batch_folders import BatchFolders, a_ball, a_context, left_behind, table_of, write_context
from batch_networks import POISON, load_threshold
from command_line import error_of, run

from scribblesegment import ScribbleSegmentError, read_labelmap
from scribblesegment.batch.records import FOLDER
from scribblesegment.cli.batch import BatchError, uses_workers
from scribblesegment.context.context_set import ContextSet
from scribblesegment.context.store import FOLDER_VARIABLE, ContextStore
from scribblesegment.io.storage import file_lock


@pytest.fixture
def folders(tmp_path) -> BatchFolders:
    made = BatchFolders(tmp_path)
    for corner, name in enumerate(("a.nrrd", "b.nii.gz", "c.png"), start=1):
        made.add(name, a_ball()[4] if name.endswith("png") else a_ball(), corner=corner)
    return made


def results(output: Path) -> list[str]:
    found = (path for path in output.rglob("*.seg.nrrd") if not path.name.startswith("."))
    return sorted(path.relative_to(output).as_posix() for path in found)


def statuses(output: Path) -> dict[str, str]:
    return {row["file"]: row["status"] for row in table_of(output)}


def test_every_image_gets_a_segmentation_and_a_line_in_the_table(folders, capsys):
    assert run(*folders.arguments(), load=load_threshold) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert (lines[0], lines[-1]) == ("3 images: 0 done already, 3 to do", f"wrote {folders.output / 'results.csv'}")
    assert results(folders.output) == ["a.nrrd.seg.nrrd", "b.nii.gz.seg.nrrd", "c.png.seg.nrrd"]
    rows = table_of(folders.output)
    assert [(row["file"], row["structure"], row["status"]) for row in rows] == [
        ("a.nrrd", "Ball", "done"),
        ("b.nii.gz", "Ball", "done"),
        ("c.png", "Ball", "done"),
    ]
    assert float(rows[0]["volume_ml"]) == pytest.approx(a_ball().sum() * 3 / 1000, abs=1e-4)
    assert float(rows[2]["area_mm2"]) == pytest.approx(a_ball()[4].sum())
    assert np.array_equal(read_labelmap(folders.output / "a.nrrd.seg.nrrd").array == 1, a_ball())


def test_several_structures_come_from_several_sets_also_of_tasks(folders, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "contexts"))
    ContextStore().save("The rest", a_context("Rest", bright=False))
    folders.run(load_threshold, contexts=[str(folders.context), "the rest"])
    labels = read_labelmap(folders.output / "a.nrrd.seg.nrrd")
    assert [(segment.label, segment.name) for segment in labels.segments] == [(1, "Ball"), (2, "Rest")]
    assert [row["structure"] for row in table_of(folders.output)] == ["Ball", "Rest"] * 3


def test_images_in_folders_are_done_if_asked_for_and_results_may_lie_beside_them(folders):
    folders.add("deep/er/d.nrrd", corner=4)
    folders.run(load_threshold, output=folders.images)
    assert "deep/er/d.nrrd.seg.nrrd" not in results(folders.images)
    lines = folders.run(load_threshold, output=folders.images, recursive=True)
    assert lines[0] == "4 images: 3 done already, 1 to do"
    assert "deep/er/d.nrrd.seg.nrrd" in results(folders.images)


# Going on.


def test_what_is_done_is_not_done_again_unless_asked_for_and_a_result_corrected_by_hand_is_kept(folders):
    folders.run(load_threshold)
    before = left_behind(folders.output)
    assert folders.run(None)[0] == "3 images: 3 done already, 0 to do"  # without loading a network
    (folders.output / "a.nrrd.seg.nrrd").write_bytes(b"corrected")
    assert folders.run(load_threshold, threshold=0.6)[0] == "3 images: 0 done already, 2 to do"
    assert (folders.output / "a.nrrd.seg.nrrd").read_bytes() == b"corrected"
    assert statuses(folders.output)["a.nrrd"] == "changed"
    folders.run(load_threshold, redo=True)
    assert left_behind(folders.output) == before


def test_what_a_killed_program_left_half_written_is_removed(folders):
    folders.run(load_threshold)
    records = folders.output / FOLDER
    leftovers = [
        folders.output / f".scribblesegment-{'0' * 32}.seg.nrrd",
        records / f".scribblesegment-{'f' * 32}.json",
    ]
    leftovers.append(records / "context-1.context.zip")
    kept = [folders.output / "notes.txt", folders.output / ".hidden.json", records / "notes.json"]
    for path in (*leftovers, *kept):
        path.write_bytes(b"x")
    folders.run(load_threshold)
    assert [path.exists() for path in (*leftovers, *kept)] == [False] * 3 + [True] * 3


def test_two_programs_do_not_work_on_one_folder(folders, monkeypatch, capsys):
    monkeypatch.setattr("scribblesegment.cli.batch._LOCK_S", 0.1)
    (folders.output / FOLDER).mkdir(parents=True)
    with file_lock(folders.output / FOLDER / ".lock"):
        assert run(*folders.arguments(), load=load_threshold) == 2
    assert "holds the lock" in error_of(capsys)
    assert results(folders.output) == []


# What can be wrong.


def test_a_damaged_image_is_told_and_skipped(folders, capsys):
    (folders.images / "b.nii.gz").write_bytes(b"nonsense")
    assert run(*folders.arguments(), load=load_threshold) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("error: b.nii.gz: Cannot read ")
    assert last.startswith("error: no result for 1 of 3 images; ")
    assert statuses(folders.output) == {"a.nrrd": "done", "b.nii.gz": "failed", "c.png": "done"}
    assert results(folders.output) == ["a.nrrd.seg.nrrd", "c.png.seg.nrrd"]


def test_an_interrupted_batch_exits_with_130_and_the_same_command_goes_on(folders, tmp_path, capsys):
    folders.run(load_threshold, output=tmp_path / "undisturbed")
    folders.add("b.nii.gz", corner=2, value=POISON)
    assert run(*folders.arguments(), load=batch_networks.load_interrupted) == 130
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "1 of 3 images are done; the same command goes on from there"
    assert "interrupted" in captured.err
    assert statuses(folders.output) == {"a.nrrd": "done", "b.nii.gz": "to do", "c.png": "to do"}
    folders.add("b.nii.gz", corner=2)
    assert folders.run(load_threshold)[0] == "3 images: 1 done already, 2 to do"
    assert left_behind(folders.output) == left_behind(tmp_path / "undisturbed")


def test_problems_with_an_image_are_told_after_the_others_were_done(folders, capsys):
    folders.add("b.nii.gz", corner=2, value=POISON)
    with pytest.raises(BatchError, match="no result for 1 of 3 images"):
        folders.run(batch_networks.load_greedy)  # too little memory for it
    assert statuses(folders.output) == {"a.nrrd": "done", "b.nii.gz": "failed", "c.png": "done"}
    with pytest.raises(RuntimeError, match="the reason was unexpected"):
        folders.run(batch_networks.load_faulty, redo=True)
    assert statuses(folders.output) == {"a.nrrd": "done", "b.nii.gz": "failed", "c.png": "done"}
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"contexts": ["nowhere"]}, "neither a file or folder nor a task"),
        ({"contexts": ["empty.context.zip"]}, "is empty"),
        ({"contexts": ["ball.context.zip", "./ball.context.zip"]}, "Two context sets are for 'Ball'"),
        ({"contexts": ["ball.context.zip"] * 2}, "Two context sets are for 'Ball'"),
        ({"contexts": ["ball.context.zip", "other.context.zip"]}, "Give --axis"),
        ({"output": Path("missing/out")}, "Cannot create the folder"),
        ({"folder": Path("missing")}, "no such folder"),
        ({"folder": Path("bare")}, "There is no image in bare. Images in folders inside it"),
        ({"model": "missing.pt"}, "Cannot read the weights file"),
        ({"workers": 0}, "--workers is 0"),
        ({"threads": 0}, "--threads is 0"),
        ({"scheduler": "tcp://a:1"}, "Give one of the two"),
        ({"load": batch_networks.load_without_context}, "takes no context"),
        ({"load": None}, "damaged or not a safetensors file"),
    ],
)
def test_what_is_wrong_for_all_images_stops_at_once(folders, tmp_path, monkeypatch, changes, match):
    monkeypatch.chdir(tmp_path)
    Path("bare").mkdir()
    write_context(Path("empty.context.zip"), ContextSet("Ball"))
    write_context(Path("other.context.zip"), a_context("Other", axis=2))
    with pytest.raises(ScribbleSegmentError, match=match):
        folders.run(**{"load": load_threshold} | changes)
    assert not folders.output.exists() or results(folders.output) == []


# Other processes.


def test_several_workers_need_dask_and_one_does_not(folders, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    for options in (("--workers", "2"), ("--scheduler", "tcp://a:1")):
        assert run(*folders.arguments(*options), load=load_threshold) == 2
        assert "scribblesegment[batch]" in error_of(capsys)
    assert not folders.output.exists()
    monkeypatch.setattr("scribblesegment.batch.run.has_dask", lambda: False)
    folders.run(load_threshold, workers=None)
    assert set(statuses(folders.output).values()) == {"done"}


def test_a_graphics_card_or_a_single_image_needs_no_workers(monkeypatch):
    monkeypatch.setattr("scribblesegment.batch.run.has_dask", lambda: True)
    monkeypatch.setattr(
        "scribblesegment.inference.devices.resolve_device", lambda name: "cuda" if name == "auto" else name
    )
    assert not uses_workers(None, None, "auto", several=True)
    assert uses_workers(None, None, "cpu", several=True)
    assert not uses_workers(None, None, "cpu", several=False)
    assert uses_workers(2, None, "auto", several=False)
    assert not uses_workers(1, None, "cpu", several=True)
    assert uses_workers(None, "tcp://a:1", "auto", several=False)
