"""The user's context sets in memory, loaded and saved beside the user interface."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import qt
from slicer.i18n import tr as _

from scribblesegment.context.context_set import ContextSet
from scribblesegment.context.store import ContextStore
from scribblesegment.errors import ContextError, ScribbleSegmentError
from scribblesegment.mrml.target import ContextTask
from scribblesegment.service.service import explain
from scribblesegment.service.worker import Task, Worker

Change = Callable[[ContextSet], ContextSet]


# Pictures need a package that a Python may lack.
_EXPECTED = (ScribbleSegmentError, ImportError, OSError)


@dataclass
class _Known:
    """A set in memory."""

    task: ContextTask  # where it belongs
    context: ContextSet | None = None  # None until it is loaded
    changes: list[Change] = field(default_factory=list)  # what to do with it once it is loaded
    problem: str = ""  # why it cannot be read; then it is not changed either, so that nothing on disk is lost


class TaskContexts:
    """Context sets by task. Changes count at once; files are read and written on a thread.

    All methods are called from one thread. While `busy`, `wait` lends the thread the interpreter and `poll` takes in
    what it did.
    """

    def __init__(self, store: ContextStore | None = None) -> None:
        """Use a store; the user's own by default."""
        self._store = store or ContextStore()
        self._known: dict[str, _Known] = {}
        self._names: list[str] = []
        self._worker = Worker("ScribbleSegment contexts")
        # What both threads touch, under the lock.
        self._lock = threading.Lock()
        self._toLoad: dict[str, ContextTask] = {}
        self._toSave: dict[str, tuple[ContextTask, ContextSet]] = {}
        self._toList = False
        self._loaded: list[tuple[str, ContextSet | None, str]] = []
        self._listed: list[str] | None = None
        self._problems: list[str] = []
        self._stored: dict[str, ContextSet] = {}  # what the thread read or wrote last

    @property
    def folder(self) -> str:
        """Where sets are kept."""
        return str(self._store.folder)

    @property
    def names(self) -> list[str]:
        """Names of the tasks that are kept, as far as they are known; see `refreshNames`."""
        return self._names

    @property
    def busy(self) -> bool:
        """Whether files are read or written, or something waits for `poll`."""
        works = self._worker.busy  # before what it leaves behind is looked at, or that could be missed
        with self._lock:
            return works or bool(self._loaded or self._problems or self._listed is not None)

    def get(self, task: ContextTask | None) -> ContextSet | None:
        """Give a set; None while it is loaded, which begins with the first call. Never waits."""
        if task is None:
            return None
        known = self._known.get(task.key)
        if known is None:
            known = self._known[task.key] = _Known(task)
            if task.kept:
                with self._lock:
                    self._toLoad[task.key] = task
                self._worker.submit(self._work, supersede="work")
            else:
                known.context = ContextSet(task.name)
        return known.context

    def change(self, task: ContextTask, change: Change) -> None:
        """Change a set, and save it if its task is kept. A set that is being loaded is changed then.

        Raises:
            ContextError: The change is not possible, or the set cannot be read.
        """
        context = self.get(task)
        known = self._known[task.key]
        if known.problem:
            raise ContextError(" ".join([known.problem, _("Choose another name for the task.")]))
        if context is None:
            known.changes.append(change)
            return
        changed = change(context)
        if changed is context:
            return
        known.context = changed
        self._save(known)

    def retry(self) -> None:
        """Read sets that could not be read once more when they are asked for, as after a package was installed."""
        self._known = {key: known for key, known in self._known.items() if not known.problem}

    def refreshNames(self) -> None:
        """Look anew which tasks are kept; `names` has them after a while."""
        with self._lock:
            self._toList = True
        self._worker.submit(self._work, supersede="work")

    def poll(self) -> list[str]:
        """Take in what the thread did. Returns what went wrong."""
        with self._lock:
            loaded, self._loaded = self._loaded, []
            problems, self._problems = self._problems, []
            listed, self._listed = self._listed, None
        if listed is not None:
            self._names = listed
        for key, context, problem in loaded:
            known = self._known[key]
            known.context, known.problem = context, problem
            if problem:
                problems.append(problem)
            changes, known.changes = known.changes, []
            for change in changes:
                try:
                    self.change(known.task, change)
                except ScribbleSegmentError as error:
                    problems.append(str(error))
        return problems

    def wait(self, seconds: float) -> None:
        """Let the thread run until it has nothing left to do, or time is up."""
        self._worker.wait(seconds)

    def flush(self, timeoutSeconds: float = 5.0) -> bool:
        """Finish reading and writing, and end the thread; it starts anew when it is needed.

        Returns:
            Whether all was written in time; if not, it is written with the next change, or flush.
        """
        until = time.monotonic() + timeoutSeconds
        problems = self.poll()
        while self.busy and time.monotonic() < until:
            self._worker.wait(until - time.monotonic())
            problems += self.poll()  # changes that waited for a set are to be saved, too
        done = not self.busy
        with self._lock:
            self._problems = problems + self._problems  # for the next one who asks
        self._worker.close(max(until - time.monotonic(), 0.0))
        return done

    def _save(self, known: _Known) -> None:
        if known.task.kept and known.context is not None:
            with self._lock:
                self._toSave[known.task.key] = (known.task, known.context)
            self._worker.submit(self._work, supersede="work")

    # On the thread ------------------------------------------------------------------------------------------------

    def _work(self, task: Task[None]) -> None:
        """Do all that waits."""
        while True:
            with self._lock:
                if self._toSave:
                    key = next(iter(self._toSave))
                    saving = self._toSave.pop(key)
                    loading = None
                elif self._toLoad:
                    saving = None
                    key, loading = self._toLoad.popitem()
                elif self._toList:
                    self._toList, saving, loading = False, None, None
                else:
                    return
            if saving is not None:
                self._saveNow(*saving)
            elif loading is not None:
                self._loadNow(key, loading)
            else:
                self._listNow()

    def _saveNow(self, task: ContextTask, context: ContextSet) -> None:
        try:
            if len(context) or task.name in self._store:
                self._store.save(task.name, context, since=self._stored.get(task.key, ContextSet(task.name)))
                self._stored[task.key] = context
        except _EXPECTED as error:
            with self._lock:
                self._problems.append(str(explain(error)))

    def _loadNow(self, key: str, task: ContextTask) -> None:
        context, problem = None, ""
        try:
            context = self._store.load(task.name) if task.name in self._store else ContextSet(task.name)
            self._stored[key] = context
        except _EXPECTED as error:
            problem = str(explain(error))
        with self._lock:
            self._loaded.append((key, context, problem))

    def _listNow(self) -> None:
        names, problems = [], []
        try:
            names = [info.name for info in self._store.list_tasks()]
        except _EXPECTED as error:
            problems = [str(explain(error))]
        with self._lock:
            self._listed = names
            self._problems += problems


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
