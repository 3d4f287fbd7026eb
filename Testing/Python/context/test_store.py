"""Tasks in the user's folder: names, folders, and several programs at once."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.context import store as context_store
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.store import FOLDER_VARIABLE, ContextStore
from scribblesegment.errors import ContextError, FileFormatError


def an_entry(seed: int, shape=(5, 7), **values) -> ContextEntry:
    rng = np.random.default_rng(seed)
    return ContextEntry(rng.random(shape), rng.random(shape) > 0.5, (1.0, 1.0), **values)


def a_set(count: int = 2, label_name: str = "liver") -> ContextSet:
    return ContextSet(label_name, tuple(an_entry(n, identifier=f"entry{n}") for n in range(count)))


def digests(context: ContextSet) -> list[str]:
    return [entry.digest for entry in context]


@pytest.fixture
def store(tmp_path) -> ContextStore:
    return ContextStore(tmp_path / "contexts")


def names(store: ContextStore) -> list[str]:
    return [info.name for info in store.list_tasks()]


def test_what_is_saved_is_there_for_another_program(store):
    assert store.list_tasks() == []
    with pytest.raises(ContextError, match=r"no task 'liver' .*Known are: none"):
        store.load("liver")
    store.save("Liver, CT", a_set(3, "Leber"))
    other = ContextStore(store.folder)
    assert digests(other.load("Liver, CT")) == digests(a_set(3))
    (info,) = other.list_tasks()
    assert (info.name, info.label_name, info.entries, info.problem) == ("Liver, CT", "Leber", 3, "")
    store.save("Liver, CT", a_set(1))
    assert len(other.load("Liver, CT")) == 1
    for picture in store.list_tasks()[0].folder.glob("*.png"):
        picture.unlink()
    assert store.list_tasks()[0].entries == 1  # listing reads no picture


def test_case_and_spaces_around_it_make_no_other_task(store):
    store.save("Straße", a_set(1))
    store.save("  STRASSE ", a_set(2))
    assert names(store) == ["Straße"]
    assert len(store.load("strasse")) == 2
    assert "straße" in store
    assert not any(name in store for name in ("strass", " ", 7, "/a" * 150))
    store.save("Rücken", a_set(1))
    store.save("Ru\u0308cken", a_set(2))
    assert names(store) == ["Rücken", "Straße"]
    task = next(info.folder for info in store.list_tasks() if info.name == "Rücken") / "task.json"
    assert json.loads(task.read_text(encoding="utf-8")) == {"name": "Rücken"}


def test_names_that_look_alike_as_folders_are_kept_apart(store):
    alike = ["a b", "a/b", "a-b", "a\\b", "..", ".", "肝臓", "脾臓", "CON", "nul.txt", "x" * 150, "x" * 151]
    for number, name in enumerate(alike):
        store.save(name, a_set(number))
    assert {info.name: info.entries for info in store.list_tasks()} == {name: n for n, name in enumerate(alike)}
    folders = [info.folder for info in store.list_tasks()]
    assert {folder.parent for folder in folders} == {store.folder}
    assert len({folder.name.lower() for folder in folders}) == len(alike)


@given(st.text(min_size=1, max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_becomes_a_folder_that_every_system_allows_or_is_refused(tmp_path, name):
    store = ContextStore(tmp_path)
    try:
        store.save(name, ContextSet("x"))
    except ContextError:
        assert not name.strip() or not name.isprintable()
        return
    (folder,) = (info.folder for info in store.list_tasks() if info.name == name.strip())
    assert len(folder.name) <= 60
    assert set(folder.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert folder.name.partition(".")[0] not in ("con", "nul", "aux", "prn")
    store.delete(name)
    assert not folder.exists()


def test_a_renamed_task_keeps_its_pictures_where_they_are(store):
    store.save("liver", a_set())
    folder = store.list_tasks()[0].folder
    store.rename("liver", "Leber")
    assert names(store) == ["Leber"]
    assert store.list_tasks()[0].folder == folder
    store.save("liver", a_set(1))  # the old name is free, its folder is not
    assert {info.name: info.entries for info in store.list_tasks()} == {"Leber": 2, "liver": 1}
    store.rename("Leber", "LEBER")
    assert names(store) == ["LEBER", "liver"]
    with pytest.raises(ContextError, match="'Liver' already"):
        store.rename("LEBER", "Liver")
    with pytest.raises(ContextError, match="no task 'spleen'"):
        store.rename("spleen", "Milz")


def test_deleting_takes_the_task_and_nothing_else(store):
    for name in ("liver", "spleen", "kidney"):
        store.save(name, a_set())
    folders = {info.name: info.folder for info in store.list_tasks()}
    (folders["spleen"] / "notes.txt").write_text("mine")
    store.delete("Liver")
    store.delete("spleen")
    assert names(store) == ["kidney"]
    assert not folders["liver"].exists()
    assert os.listdir(folders["spleen"]) == ["notes.txt"]
    assert digests(store.load("kidney")) == digests(a_set())
    with pytest.raises(ContextError, match="no task 'liver'"):
        store.delete("liver")
    store.save("spleen", a_set(1))  # beside the folder with the notes
    assert digests(store.load("spleen")) == digests(a_set(1))
    assert os.listdir(folders["spleen"]) == ["notes.txt"]


def test_a_damaged_task_does_not_hide_the_others(store):
    for name in ("liver", "spleen"):
        store.save(name, a_set())
    (store.list_tasks()[0].folder / "context.json").write_text("{")
    damaged, sound = store.list_tasks()
    assert "not valid JSON" in damaged.problem
    assert (sound.problem, sound.entries) == ("", 2)
    with pytest.raises(FileFormatError):
        store.load("liver")
    store.save("liver", a_set(1))
    assert store.list_tasks()[0].problem == ""


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": 3}', '{"name": ""}', "[" * 100_000, "\xff", '{"name": ' + "9" * 5000 + "}"]
)
def test_folders_of_others_are_no_tasks(store, content):
    store.save("liver", a_set())
    (store.folder / "other").mkdir()
    (store.folder / "other" / "task.json").write_text(content, encoding="latin-1")
    (store.folder / "file.txt").write_text("mine")
    assert names(store) == ["liver"]


def test_a_task_goes_to_another_computer_in_one_file(store, tmp_path):
    store.save("Liver", a_set(3, "Leber"))
    store.export_file("liver", tmp_path / "liver.context.zip")
    other = ContextStore(tmp_path / "other")
    assert other.import_file(tmp_path / "liver.context.zip") == "Leber"
    assert other.import_file(tmp_path / "liver.context.zip", "second") == "second"
    assert other.import_file(store.list_tasks()[0].folder, "from a folder") == "from a folder"
    assert names(other) == ["from a folder", "Leber", "second"]
    assert all(digests(other.load(name)) == digests(a_set(3)) for name in names(other))
    data = (tmp_path / "liver.context.zip").read_bytes()
    (tmp_path / "bad.context.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(FileFormatError):
        ContextStore(tmp_path / "third").import_file(tmp_path / "bad.context.zip")
    assert not (tmp_path / "third").exists()
    with pytest.raises(ContextError, match="'Leber' already; import"):
        other.import_file(tmp_path / "liver.context.zip")
    with pytest.raises(ContextError, match="no task"):
        other.export_file("spleen", tmp_path / "x.context.zip")


def test_a_task_whose_name_is_a_link_is_none(store, tmp_path):
    store.save("liver", a_set())
    (task,) = (info.folder / "task.json" for info in store.list_tasks())
    task.rename(tmp_path / "outside.json")
    before = (tmp_path / "outside.json").read_bytes()
    try:
        task.symlink_to(tmp_path / "outside.json")
    except OSError:
        pytest.skip("links need a privilege here")
    assert store.list_tasks() == []
    store.save("liver", a_set(1))  # beside the folder
    assert (tmp_path / "outside.json").read_bytes() == before


def test_a_store_that_cannot_be_created_and_names_that_are_none_are_refused(store, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file" / "contexts"))
    with pytest.raises(FileFormatError, match=FOLDER_VARIABLE):
        ContextStore().save("liver", a_set())
    for name in ("", " ", "a\nb", "a" * 201, None):
        for act in (lambda name=name: store.save(name, a_set()), lambda name=name: store.load(name)):
            with pytest.raises(ContextError, match="name of the task"):
                act()
    monkeypatch.setattr(context_store, "_write_name", lambda folder, name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.save("liver", a_set(3))
    assert store.list_tasks() == []  # an interrupted first save leaves no task, and is made good by the next
    monkeypatch.undo()
    store.save("liver", a_set(2))
    assert digests(store.load("liver")) == digests(a_set(2))
    assert len(list(store.folder.iterdir())) == 2  # the lock and one folder


def test_programs_that_save_at_once_leave_a_whole_set(store):
    """Each of two writers uses pictures the other one removes; a reader must always find a whole set."""
    common = [an_entry(n, identifier=f"common{n}") for n in range(3)]
    choices = [ContextSet("x", (*common[n % 3 :], an_entry(10 + n, identifier=f"own{n}"))) for n in range(13)]
    known = {tuple(digests(context)) for context in choices}
    store.save("liver", choices[12])
    problems: list[BaseException] = []

    def write(first: int) -> None:
        try:
            for context in choices[first:12:2]:
                ContextStore(store.folder).save("liver", context)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert tuple(digests(store.load("liver"))) in known
    for thread in threads:
        thread.join()
    assert problems == []
    assert tuple(digests(store.load("liver"))) in known
    (info,) = store.list_tasks()
    assert len(list(info.folder.glob("*.png"))) == 2 * info.entries
