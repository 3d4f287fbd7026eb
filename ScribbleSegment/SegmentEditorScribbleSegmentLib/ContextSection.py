"""The examples of the selected segment: between the panel, the controller and the user's files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from weakref import WeakKeyDictionary

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.errors import ContextError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.target import ContextTask, choose_task, context_entry, task_of
from scribblesegment.service.service import explain
from ScribbleSegmentLib.ContextLibrary import sharedContexts
from ScribbleSegmentLib.Inference import BackgroundJob, sharedInference

_PARAMETER = "AddAccepted"

_EXTENSION = ".context.zip"


class ContextControl:
    """Keeps the examples of segments, and shows those of the selected one."""

    def __init__(self, scriptedEffect, panel, *, onProblem, onChanged) -> None:
        """Connect to a panel; nothing is read before it is needed.

        Args:
            scriptedEffect: The qSlicerSegmentEditorScriptedEffect with the parameters.
            panel: The ContextPanel.
            onProblem: Called with what went wrong and what to do.
            onChanged: Called after files began to be read or written, so that `poll` is called until it says no more.
        """
        self._effect = scriptedEffect
        self._panel = panel
        self._onProblem = onProblem
        self._onChanged = onChanged
        self._job = BackgroundJob("ScribbleSegment context files")
        self._last: tuple[object, str, ContextTask] | None = None

    @staticmethod
    def setDefaults(scriptedEffect) -> None:
        """Give the parameters their first values."""
        scriptedEffect.setParameterDefault(_PARAMETER, 1)

    # What predictions ask -----------------------------------------------------------------------------------------

    def contextOf(self, target) -> ContextSet | None:
        """Give the examples of a segment; None when there are none, or they are still being read."""
        context = sharedContexts().get(task_of(target.segmentation_node, target.segment_id))
        return context if context else None

    def onFinished(self, target, plane) -> None:
        """Add a slice that the user has finished, if that is wanted."""
        if not self._effect.integerParameter(_PARAMETER):
            return
        try:
            self._add(target, plane)
        except PromptError:
            pass  # an accepted slice without the structure is no example
        except ScribbleSegmentError as error:
            self._onProblem(str(error))

    # What the user does -------------------------------------------------------------------------------------------

    def addSlice(self, target, plane) -> None:
        """Add a slice as it is.

        Raises:
            ScribbleSegmentError: The segment is empty there, or the set cannot be changed.
        """
        self._add(target, plane)

    def removeSelected(self) -> None:
        """Remove the selected examples."""
        selected = self._panel.selected

        def removed(context: ContextSet) -> ContextSet:
            return dataclasses.replace(
                context, entries=tuple(entry for entry in context if entry.identifier not in selected)
            )

        if selected:
            self._change(removed)

    def clear(self) -> None:
        """Remove all examples of the task."""
        self._change(lambda context: dataclasses.replace(context, entries=()))

    def askAndClear(self) -> None:
        """Remove all examples if the user agrees; they are the work of many hours, and no undo brings them back."""
        task = self.task
        if task is not None and slicer.util.confirmYesNoDisplay(
            _("Remove all examples of the task {name}?").format(name=task.name), _("Context")
        ):
            self.clear()

    def move(self, places: int) -> None:
        """Move the selected examples to the front (-1) or to the back (1)."""
        context = sharedContexts().get(self.task)
        selected = self._panel.selected
        if not context or not selected:
            return
        order = [entry.identifier for entry in context]
        for identifier in selected if places < 0 else reversed(selected):
            place = order.index(identifier)
            other = place + places
            if 0 <= other < len(order) and order[other] not in selected:
                order[place], order[other] = order[other], order[place]
        self.reorder(order)

    def reorder(self, order: list[str]) -> None:
        """Put the examples into another order, by their identifiers."""

        def ordered(context: ContextSet) -> ContextSet:
            places = {identifier: place for place, identifier in enumerate(order)}
            entries = sorted(context, key=lambda entry: places.get(entry.identifier, len(places)))
            return dataclasses.replace(context, entries=tuple(entries))

        self._change(ordered)

    def chooseTask(self, name: str) -> None:
        """Use the examples of another task for the selected segment."""
        node, segmentId = self._selection
        if node is not None:
            choose_task(node, segmentId, name)
            self._last = None  # examples are not taken along to a task that was chosen
            self.refresh()

    def askAndImport(self, *, folder: bool) -> None:
        """Let the user choose a file or folder, and add its examples."""
        parent = self._panel.widget.window()
        if folder:
            path = qt.QFileDialog.getExistingDirectory(parent, _("Import examples"))
        else:
            path = qt.QFileDialog.getOpenFileName(
                parent, _("Import examples"), "", _("Context sets ({pattern})").format(pattern=f"*{_EXTENSION}")
            )
        if path:
            self.importFrom(path)

    def importFrom(self, path: str) -> None:
        """Add the examples of a file or folder to the task, without asking. They are read on a thread."""
        task = self.task
        if task is None:
            return
        self._panel.showNote(_("Reading {name}...").format(name=Path(path).name))
        self._job.start(lambda job: _read(path), lambda imported, error: self._onImported(task, imported, error))

    def askAndExport(self) -> None:
        """Let the user choose a file, and write the examples to it."""
        task = self.task
        if task is None:
            return
        path = qt.QFileDialog.getSaveFileName(
            self._panel.widget.window(),
            _("Export examples"),
            f"{task.name}{_EXTENSION}",
            _("Context sets ({pattern})").format(pattern=f"*{_EXTENSION}"),
        )
        if path:
            self.exportTo(path)

    def exportTo(self, path: str) -> None:
        """Write the examples to a file, without asking; its extension is added where it is missing."""
        context = sharedContexts().get(self.task)
        if context is None:
            return
        full = path if path.lower().endswith(_EXTENSION) else path + _EXTENSION
        self._panel.showNote(_("Writing {name}...").format(name=Path(full).name))
        self._job.start(lambda job: _write(full, context), self._onExported)

    def setAddAccepted(self, wanted: bool) -> None:
        """Choose whether accepted slices are added by themselves."""
        self._effect.setParameter(_PARAMETER, int(wanted))

    # What happens meanwhile ---------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether files are read or written, so that `poll` must be called."""
        return sharedContexts().busy

    def poll(self, waitSeconds: float) -> None:
        """Take in what was read and written; waits so that it comes on."""
        contexts = sharedContexts()
        if not contexts.busy:
            return
        contexts.wait(waitSeconds)
        problems = contexts.poll()
        if problems:
            self._onProblem(problems[-1])
        self.refresh()

    def refresh(self) -> None:
        """Show what there is for the selected segment."""
        task = self.task
        if task is not None:
            self._keepWhatWasNamed(task)
        contexts = sharedContexts()
        context = contexts.get(task)
        if contexts.busy:
            self._onChanged()
        state = sharedInference().state
        knowsNetwork = state.kind == "ready"
        panel = self._panel
        panel.enable(anyEntries=bool(context), predicts=knowsNetwork and state.takes_context)
        panel.showAddAccepted(bool(self._effect.integerParameter(_PARAMETER)))
        if not panel.open:
            return
        panel.showTask("" if task is None else task.name, contexts.names)
        panel.showEntries(context)
        if not self._job.running:
            panel.showNote(_noteOf(task, context, contexts.folder, refuses=knowsNetwork and not state.takes_context))

    def onOpened(self) -> None:
        """Show what there is, now that the section is open."""
        sharedContexts().refreshNames()
        self.refresh()

    def cleanup(self) -> None:
        """Save what is not saved, and leave no thread and no timer behind."""
        self._job.cancel()
        sharedContexts().flush(1.0)

    @property
    def task(self) -> ContextTask | None:
        """The task of the selected segment."""
        node, segmentId = self._selection
        return None if node is None else task_of(node, segmentId)

    @property
    def _selection(self):
        editorNode = self._effect.parameterSetNode()
        node = None if editorNode is None else editorNode.GetSegmentationNode()
        if node is None or node.GetSegmentation() is None:
            return None, ""
        return node, editorNode.GetSelectedSegmentID() or ""

    def _add(self, target, plane) -> None:
        task = task_of(target.segmentation_node, target.segment_id)
        if task is None:
            return
        entry = context_entry(target, plane)
        sharedContexts().change(task, lambda context: context.add(entry))
        self._onChanged()
        self.refresh()

    def _change(self, change) -> None:
        task = self.task
        if task is None:
            raise ContextError(_("No segment is selected, so there are no examples to change."))
        sharedContexts().change(task, change)
        self._onChanged()
        self.refresh()

    def _keepWhatWasNamed(self, task: ContextTask) -> None:
        """Take the examples of a segment along when it gets a name under which they are kept."""
        node, segmentId = self._selection
        last, self._last = self._last, (node, segmentId, task)
        if last is None or last[0] is not node or last[1] != segmentId or last[2].kept or not task.kept:
            return
        unnamed = sharedContexts().get(last[2])
        if unnamed:
            sharedContexts().change(task, lambda context: _together(context, unnamed))

    def _onImported(self, task: ContextTask, imported: ContextSet | None, error: BaseException | None) -> None:
        if imported is None:
            self._failed(error)
            return
        try:
            sharedContexts().change(task, lambda context: _together(context, imported))
        except ContextError as problem:
            self._onProblem(str(problem))
        self._onChanged()
        self.refresh()

    def _onExported(self, nothing: None, error: BaseException | None) -> None:
        if error is not None:
            self._failed(error)
        self.refresh()

    def _failed(self, error: BaseException | None) -> None:
        self.refresh()
        if isinstance(error, (ScribbleSegmentError, ImportError)):
            self._onProblem(str(explain(error)))
        elif error is not None:
            raise error


def _read(path: str) -> ContextSet:
    # Here, on the thread, because what reads pictures takes long to import, and may be missing.
    from scribblesegment.context.files import read_context

    return read_context(path)


def _write(path: str, context: ContextSet) -> None:
    from scribblesegment.context.files import write_context_file

    write_context_file(path, context)


def _together(context: ContextSet, others: ContextSet) -> ContextSet:
    """A set with the examples of another one that it does not have yet."""
    known = {entry.identifier for entry in context}
    for entry in others:
        if entry.identifier not in known:
            context = context.add(entry)
    return context


def _noteOf(task: ContextTask | None, context: ContextSet | None, folder: str, *, refuses: bool) -> str:
    if task is None:
        return _("Select a segment to see its examples.")
    if refuses:
        return _("The network in use takes no examples. Propagation works without them; Predict slice does not.")
    if not task.kept:
        return _("Kept for this session only. Name the segment, or the task, to keep them.")
    if context is None:
        return _("The examples are being read.")
    return _("{count} examples, kept in {folder}.").format(count=len(context), folder=folder)


_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "ScribbleSegmentContext.ui"

_THUMBNAIL_SIDE = 64

_AXES = "KJI"


class ContextPanel:
    """Shows the examples of a task, and tells what the user wants done with them.

    Attributes:
        widget: The QWidget to add to the effect's options.
        ui: The named widgets of the .ui file.
    """

    def __init__(self, *, onAction, onTask, onOrder, onAddAccepted) -> None:
        """Build the widgets.

        Args:
            onAction: Called with what the user wants: "addSlice", "remove", "clear", "earlier", "later", "importFile",
                "importFolder", "export", "predictSlice".
            onTask: Called with the name of the task that the user chose.
            onOrder: Called with the identifiers of all examples after the user has put them into another order.
            onAddAccepted: Called with whether accepted slices are to be added by themselves.
        """
        self._onTask = onTask
        self._onOrder = onOrder
        self._shown: ContextSet | None = None
        self._icons: WeakKeyDictionary = WeakKeyDictionary()
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        for button, action in (
            (ui.addSliceButton, "addSlice"),
            (ui.removeEntriesButton, "remove"),
            (ui.clearEntriesButton, "clear"),
            (ui.earlierButton, "earlier"),
            (ui.laterButton, "later"),
            (ui.exportButton, "export"),
            (ui.predictSliceButton, "predictSlice"),
        ):
            button.clicked.connect(lambda checked=False, action=action: onAction(action))
        self._menu = qt.QMenu(ui.importButton)
        for text, action in ((_("From a file..."), "importFile"), (_("From a folder..."), "importFolder")):
            self._menu.addAction(text).triggered.connect(lambda checked=False, action=action: onAction(action))
        ui.importButton.setMenu(self._menu)
        ui.importButton.setPopupMode(qt.QToolButton.InstantPopup)
        ui.addAcceptedCheckBox.toggled.connect(onAddAccepted)
        ui.taskComboBox.connect("textActivated(QString)", self._taskChosen)
        ui.taskComboBox.lineEdit().editingFinished.connect(lambda: self._taskChosen(ui.taskComboBox.currentText))
        # Rows are moved by dragging alone; what else changes the list blocks its signals.
        model = ui.entriesList.model()
        model.connect("rowsMoved(QModelIndex,int,int,QModelIndex,int)", lambda *where: self._reordered())
        self._task = ""

    @property
    def open(self) -> bool:
        """Whether the section is open; while it is not, nobody sees the examples."""
        return not self.ui.contextSection.collapsed

    @property
    def selected(self) -> list[str]:
        """Identifiers of the selected examples, in order."""
        entriesList = self.ui.entriesList
        items = [entriesList.item(row) for row in range(entriesList.count)]
        return [item.data(qt.Qt.UserRole) for item in items if item.isSelected()]

    def showTask(self, name: str, names: list[str]) -> None:
        """Show the current task, and those there are to choose from."""
        combo = self.ui.taskComboBox
        self._task = name
        if combo.lineEdit().hasFocus():
            return  # the user is typing
        known = [combo.itemText(row) for row in range(combo.count)]
        wasBlocked = combo.blockSignals(True)
        if known != names:
            combo.clear()
            combo.addItems(names)
        if combo.currentText != name:
            combo.setEditText(name)
        combo.blockSignals(wasBlocked)

    def showEntries(self, context: ContextSet | None) -> None:
        """Show thumbnails of the examples; the selection stays."""
        if context is self._shown:
            return
        self._shown = context
        selected = set(self.selected)
        entriesList = self.ui.entriesList
        model = entriesList.model()
        wasBlocked = entriesList.blockSignals(True), model.blockSignals(False)
        entriesList.clear()
        for entry in context or ():
            item = qt.QListWidgetItem(self._icon(entry), "")
            item.setData(qt.Qt.UserRole, entry.identifier)
            item.setToolTip(_describe(entry))
            entriesList.addItem(item)
            item.setSelected(entry.identifier in selected)
        entriesList.blockSignals(wasBlocked[0])
        model.blockSignals(wasBlocked[1])

    def showNote(self, text: str) -> None:
        """Say one thing about the examples."""
        if self.ui.contextNoteLabel.text != text:
            self.ui.contextNoteLabel.text = text

    def showAddAccepted(self, wanted: bool) -> None:
        """Show whether accepted slices are added by themselves, without telling anyone."""
        box = self.ui.addAcceptedCheckBox
        wasBlocked = box.blockSignals(True)
        box.checked = wanted
        box.blockSignals(wasBlocked)

    def enable(self, *, anyEntries: bool, predicts: bool) -> None:
        """Offer what can be done."""
        ui = self.ui
        for button in (
            ui.removeEntriesButton,
            ui.clearEntriesButton,
            ui.earlierButton,
            ui.laterButton,
            ui.exportButton,
        ):
            button.enabled = anyEntries
        ui.predictSliceButton.enabled = anyEntries and predicts

    def _taskChosen(self, name: str) -> None:
        if name.strip() and name.strip() != self._task:
            self._onTask(name.strip())

    def _reordered(self) -> None:
        entriesList = self.ui.entriesList
        order = [entriesList.item(row).data(qt.Qt.UserRole) for row in range(entriesList.count)]
        self._shown = None  # what is shown is no longer what was given
        self._onOrder(order)

    def _icon(self, entry: ContextEntry):
        if entry not in self._icons:
            picture = entry.thumbnail(_THUMBNAIL_SIDE)
            pixmap = qt.QPixmap()
            header = f"P6 {_THUMBNAIL_SIDE} {_THUMBNAIL_SIDE} 255\n".encode("ascii")
            pixmap.loadFromData(qt.QByteArray(header + picture.tobytes()))
            self._icons[entry] = qt.QIcon(pixmap)
        return self._icons[entry]


def _describe(entry: ContextEntry) -> str:
    place = ""
    if entry.axis is not None:
        place = _("slice {axis} {index}").format(axis=_AXES[entry.axis], index=entry.index)
    return "\n".join(part for part in (entry.source, place, entry.created) if part)
