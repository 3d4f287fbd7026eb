"""The one inference service that effect and panel share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from scribblesegment.errors import WeightsError
from scribblesegment.service.service import InferenceService
from scribblesegment.service.worker import Task, Worker

from .NetworkChoices import ModelChoices, RememberedSelection, Selection, deviceNames

_service: InferenceService | None = None

_endsWithApplication = False


def sharedInference() -> InferenceService:
    """Give the application's inference service, made on first use and ended when Slicer quits.

    It starts with the network and the device that the user chose last.
    """
    global _service, _endsWithApplication
    if not _endsWithApplication:
        qt.QCoreApplication.instance().aboutToQuit.connect(closeSharedInference)
        _endsWithApplication = True
    if _service is None:
        _service = InferenceService()
        selection = startingSelection()
        _service.choose(selection.model, selection.device)
    return _service


def replaceSharedInference(service: InferenceService) -> None:
    """Use another service from now on; for tests, which must not depend on what is installed."""
    global _service
    closeSharedInference()
    _service = service


def closeSharedInference() -> None:
    """End the service's thread and let go of its network."""
    global _service
    if _service is not None:
        _service.close()
        _service = None


def rememberedSelection() -> RememberedSelection:
    """Give access to the last choice in Slicer's settings."""
    return RememberedSelection(qt.QSettings())


def startingSelection() -> Selection:
    """Give the last choice as far as it still exists, else the defaults."""
    models = ModelChoices()
    try:
        default = Selection(models.defaultName, "auto")
        known = [model.name for model in models.all()]
    except WeightsError:
        # Loading will say so in the place where it matters.
        return Selection("default", "auto")
    return rememberedSelection().load().restrictedTo(known, deviceNames()).completedBy(default)


# The idle event loop keeps Python's global lock; each tick lends it to the thread that computes.
_INTERVAL_MS = 2

_WAIT_SECONDS = 0.006


class BackgroundJob:
    """Runs a function on a thread, which exists only as long as that takes."""

    def __init__(self, name: str) -> None:
        """Make an idle one; `name` is the thread's."""
        self._worker = Worker(name)
        self._task: Task[Any] | None = None
        self._done: Callable[[Any, BaseException | None], None] = lambda value, error: None
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.connect("timeout()", self._collect)

    @property
    def running(self) -> bool:
        """Whether a result is on its way."""
        return self._task is not None

    def start(self, work: Callable[[Task[Any]], Any], done: Callable[[Any, BaseException | None], None]) -> Task[Any]:
        """Run a function; one that runs already is given up.

        Args:
            work: Called on the thread with its task; must not touch Qt or MRML.
            done: Called on the main thread with its result and None, or None and what it raised.
        """
        if self._task is not None:
            self._task.cancel()
        self._done = done
        self._task = self._worker.submit(work)
        self._timer.start()
        return self._task

    def cancel(self) -> None:
        """Drop the result; a function that runs is asked to end."""
        self._timer.stop()
        self._task = None
        self._worker.close(timeout_s=0.0)

    def _collect(self) -> None:
        task = self._task
        if task is None or not task.wait(_WAIT_SECONDS):
            return
        self._timer.stop()
        self._task = None
        self._worker.close()
        error = task.exception()
        self._done(None if error is not None else task.result(), error)
