"""Tests of ScribbleSegmentLib.ContextLibrary; Qt is a stand-in."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")


from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.store import ContextStore
from scribblesegment.errors import ContextError
from scribblesegment.mrml.target import ContextTask, kept_task
from ScribbleSegmentLib.ContextLibrary import TaskContexts

LIVER = kept_task("Liver")
LONG = 60.0


def an_entry(name):
    image = np.zeros((6, 7), np.float32)
    image[2:4, 2:5] = 1
    return ContextEntry(image, image > 0.5, (1.0, 1.0), identifier=name)


def adding(name):
    return lambda context: context.add(an_entry(name))


def names(context):
    return [entry.identifier for entry in context]


def settle(contexts):
    until = time.monotonic() + LONG
    problems = []
    while contexts.busy:
        assert time.monotonic() < until
        contexts.wait(0.01)
        problems += contexts.poll()
    return problems


@pytest.fixture
def store(tmp_path):
    return ContextStore(tmp_path / "contexts")


@pytest.fixture
def contexts(store):
    made = TaskContexts(store)
    yield made
    assert made.flush(LONG)


def test_a_new_task_is_an_empty_set_and_leaves_no_file(contexts, store):
    assert contexts.get(None) is None
    assert contexts.get(LIVER) is None
    assert settle(contexts) == []
    assert len(contexts.get(LIVER)) == 0
    assert contexts.get(LIVER).label_name == "Liver"
    assert not store.folder.exists() or store.list_tasks() == []


def test_a_change_counts_at_once_and_is_kept_and_an_impossible_one_changes_nothing(contexts, store):
    contexts.get(LIVER)
    settle(contexts)
    contexts.change(LIVER, adding("a"))
    contexts.change(LIVER, adding("b"))
    with pytest.raises(ContextError, match="identifier 'x'"):
        contexts.change(LIVER, lambda context: context.remove("x"))
    assert names(contexts.get(LIVER)) == ["a", "b"]
    assert settle(contexts) == []
    assert names(store.load("Liver")) == ["a", "b"]
    for name in "ab":
        contexts.change(LIVER, lambda context, name=name: context.remove(name))
    assert settle(contexts) == []
    assert len(store.load("Liver")) == 0  # which stays a task


def test_what_was_kept_is_there_in_the_next_session_and_changes_wait_until_it_is_loaded(contexts, store):
    first = TaskContexts(store)
    first.change(LIVER, adding("a"))
    assert first.flush(LONG)
    contexts.change(kept_task("liver"), adding("b"))
    contexts.change(LIVER, lambda context: context.remove("x"))
    assert contexts.get(LIVER) is None
    contexts.refreshNames()
    (problem,) = settle(contexts)
    assert "identifier 'x'" in problem
    assert contexts.names == ["Liver"]
    assert names(contexts.get(LIVER)) == names(store.load("Liver")) == ["a", "b"]


def test_what_another_program_stores_meanwhile_stays_and_what_was_removed_does_not_come_back(contexts, store):
    other = TaskContexts(store)
    for one in (contexts, other):
        one.get(LIVER)
        settle(one)
    for one, name in ((contexts, "a"), (other, "b"), (contexts, "c")):
        one.change(LIVER, adding(name))
        assert settle(one) == []
    assert sorted(names(store.load("Liver"))) == ["a", "b", "c"]
    contexts.change(LIVER, lambda context: context.remove("a"))
    settle(contexts)
    assert sorted(names(store.load("Liver"))) == ["b", "c"]
    assert other.flush(LONG)


def test_a_folder_that_cannot_be_listed_is_told(contexts, store, monkeypatch):
    store.save("Spleen", ContextSet("Spleen", (an_entry("a"),)))

    def refused(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(store.folder), "iterdir", refused)
    contexts.get(LIVER)
    (problem,) = settle(contexts)
    assert "Cannot read the folder" in problem
    with pytest.raises(ContextError, match="Cannot read the folder"):
        contexts.change(LIVER, adding("b"))
    monkeypatch.undo()
    contexts.retry()


def test_sets_that_are_not_kept_are_on_no_disk(contexts, store):
    task = ContextTask("Segment_1", "\nnode\nSegment_1", kept=False)
    contexts.change(task, adding("a"))
    assert names(contexts.get(task)) == ["a"]
    settle(contexts)
    assert not store.folder.exists()


def test_a_damaged_set_is_told_and_never_overwritten(store):
    first = TaskContexts(store)
    first.change(LIVER, adding("a"))
    assert first.flush(LONG)
    (manifest,) = store.folder.glob("*/context.json")
    manifest.write_text("damaged")
    second = TaskContexts(store)
    second.change(LIVER, adding("b"))
    problems = settle(second)
    assert any("context.json" in problem for problem in problems)
    with pytest.raises(ContextError, match="another name"):
        second.change(LIVER, adding("c"))
    assert manifest.read_text() == "damaged"
    assert second.flush(LONG)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "contexts").write_text("a file in the way")
    contexts = TaskContexts(ContextStore(tmp_path / "contexts"))
    contexts.change(LIVER, adding("a"))
    assert any("contexts" in problem for problem in settle(contexts))
    assert names(contexts.get(LIVER)) == ["a"]
    assert contexts.flush(LONG)


def test_flushing_saves_everything_and_leaves_no_thread(store):
    contexts = TaskContexts(store)
    before = set(threading.enumerate())
    for number in range(5):
        contexts.change(kept_task(f"task {number}"), adding("a"))
    assert contexts.flush(LONG)
    assert set(threading.enumerate()) <= before
    assert [info.entries for info in store.list_tasks()] == [1] * 5
