from __future__ import annotations

import numpy as np
import pytest

from scribblesegment import Segment
from scribblesegment.commands.context_choice import contexts_by_label, open_context
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import write_context_file
from scribblesegment.context.store import FOLDER_VARIABLE, ContextStore
from scribblesegment.errors import ContextError, FileFormatError

LIVER = Segment(1, "Liver", (0.8, 0.5, 0.4))
SPLEEN = Segment(3, "Spleen", (0.2, 0.5, 0.9))


def context(name="Liver", side=6):
    return ContextSet(
        name, (ContextEntry(np.zeros((side, side), np.float32), np.ones((side, side), bool), (1.0, 1.0)),)
    )


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "store"))


def test_a_file_is_opened(tmp_path):
    path = tmp_path / "liver.context.zip"
    write_context_file(path, context())
    assert open_context(str(path)).label_name == "Liver"


def test_a_task_is_opened_by_its_name():
    ContextStore().save("CT liver", context())
    assert open_context("ct LIVER").label_name == "Liver"


def test_a_task_comes_before_a_file_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_context_file("liver.context.zip", context("From the file"))
    ContextStore().save("liver.context.zip", context("Of the task"))
    assert open_context("liver.context.zip").label_name == "Of the task"


def test_what_is_neither_file_nor_task_is_refused_with_the_known_tasks():
    with pytest.raises(ContextError, match=r"neither a file .* tasks are: none"):
        open_context("liver")
    ContextStore().save("CT spleen", context())
    with pytest.raises(ContextError, match="'CT spleen'"):
        open_context("liver")


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    with pytest.raises(FileFormatError):
        open_context(str(tmp_path / "bad.zip"))


def test_sets_go_to_the_segments_of_their_names():
    found = contexts_by_label([context("spleen"), context("LIVER")], [LIVER, SPLEEN])
    assert {label: one.label_name for label, one in found.items()} == {3: "spleen", 1: "LIVER"}


def test_a_single_segment_takes_a_set_of_any_name():
    assert contexts_by_label([context("Hepar")], [LIVER])[1].label_name == "Hepar"


@pytest.mark.parametrize(
    ("names", "segments", "match"),
    [
        (["Hepar"], [LIVER, SPLEEN], "0 segments have that name"),
        (["Liver"], [LIVER, Segment(2, "liver", (0, 0, 0))], "2 segments have that name"),
        (["Liver", "liver"], [LIVER, SPLEEN], "Two context sets"),
    ],
)
def test_a_set_that_fits_no_single_segment_is_refused(names, segments, match):
    with pytest.raises(ContextError, match=match):
        contexts_by_label([context(name) for name in names], segments)
