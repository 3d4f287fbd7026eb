"""The context sets that all Segment Editors of the application share."""

from __future__ import annotations

import qt

from .TaskContexts import TaskContexts

_contexts: TaskContexts | None = None
_endsWithApplication = False


def sharedContexts() -> TaskContexts:
    """Give the application's context sets, made on first use and saved when Slicer quits."""
    global _contexts, _endsWithApplication
    if not _endsWithApplication:
        qt.QCoreApplication.instance().aboutToQuit.connect(closeSharedContexts)
        _endsWithApplication = True
    if _contexts is None:
        _contexts = TaskContexts()
    return _contexts


def replaceSharedContexts(contexts: TaskContexts) -> None:
    """Use others from now on; for tests, which must not touch the user's."""
    global _contexts
    closeSharedContexts()
    _contexts = contexts


def closeSharedContexts() -> None:
    """Save what is not saved yet, and let go of the sets."""
    global _contexts
    if _contexts is not None:
        _contexts.flush()
        _contexts = None
