"""Texts that are kept with a vtkSegment, and so undone, redone and saved with it."""

from __future__ import annotations

from typing import Any

from vtkmodules.vtkCommonCore import mutable


def read_tag(segment: Any, tag: str) -> str:
    """What is stored under a name; empty for nothing, and for None instead of a segment."""
    value = mutable("")
    return str(value) if segment is not None and segment.GetTag(tag, value) else ""


def write_tag(segment: Any, tag: str, text: str) -> None:
    """Store a text under a name; an empty one removes it.

    Nothing happens when that is what is stored already: any change of a segment ends the possibility to redo.
    """
    if text == read_tag(segment, tag):
        return
    if text:
        segment.SetTag(tag, text)
    else:
        segment.RemoveTag(tag)
