"""The section *Examples*: the context set of the selected segment."""

from __future__ import annotations

import dataclasses
import html
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

from .Options import connectButtons, iconOf, show

_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "ScribbleSegmentContext.ui"
_EXTENSION = ".context.zip"
_THUMBNAIL_SIDE = 64
_WAIT_SECONDS = 0.006
_AXES = "KJI"


class ContextSection:
    """Keeps the examples of segments, and shows those of the selected one.

    Attributes:
        widget: The QWidget to add to the effect's options.
        ui: The named widgets of the .ui file.
        sliceShown: Whether the view that buttons act on shows a slice of the volume.
    """

    def __init__(self, effect) -> None:
        """Build the widgets of an effect's section; nothing is read before it is needed."""
        self._effect = effect
        self._job = BackgroundJob("ScribbleSegment context files")
        self._last: tuple[object, str, ContextTask] | None = None
        self._shown: ContextSet | None = None
        self._shownState: tuple[object, ...] = ()
        self._task = ""
        self.sliceShown = False
        # What was added by itself last: its task, its identifier, and the example that it replaced.
        self._newest: tuple[ContextTask, str, ContextEntry | None] | None = None
        self._icons: WeakKeyDictionary = WeakKeyDictionary()
        self._title = _("Examples")
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        connectButtons(
            effect,
            (ui.addSliceButton, self.addSlice),
            (ui.removeEntriesButton, self.removeSelected),
            (ui.clearEntriesButton, self.askAndClear),
            (ui.earlierButton, lambda: self.move(-1)),
            (ui.laterButton, lambda: self.move(1)),
            (ui.exportButton, self.askAndExport),
            (ui.predictSliceButton, self.predictSlice),
        )
        self._menu = qt.QMenu(ui.importButton)
        for text, folder in ((_("From a file..."), False), (_("From a folder..."), True)):
            self._menu.addAction(text).triggered.connect(
                lambda checked=False, folder=folder: effect.attempt(lambda: self.askAndImport(folder=folder))
            )
        ui.importButton.setMenu(self._menu)
        ui.importButton.setPopupMode(qt.QToolButton.InstantPopup)
        self._delete = qt.QShortcut(qt.QKeySequence(qt.Qt.Key_Delete), ui.entriesList)
        self._delete.setContext(qt.Qt.WidgetShortcut)
        self._delete.connect("activated()", lambda: effect.attempt(self.removeSelected))
        ui.addAcceptedCheckBox.toggled.connect(
            lambda checked: effect.scriptedEffect.setParameter("AddAccepted", int(checked))
        )
        ui.taskComboBox.connect("textActivated(QString)", self._onTask)
        ui.taskComboBox.lineEdit().editingFinished.connect(lambda: self._onTask(ui.taskComboBox.currentText))
        # Rows are moved by dragging alone; what else changes the list blocks its signals.
        model = ui.entriesList.model()
        model.connect("rowsMoved(QModelIndex,int,int,QModelIndex,int)", lambda *where: self._onMoved())
        ui.contextSection.contentsCollapsed.connect(self._onCollapsed)

    # What predictions ask -----------------------------------------------------------------------------------------

    def contextOf(self, target) -> ContextSet | None:
        """Give the examples of a segment; None when there are none, or they are still being read."""
        context = sharedContexts().get(task_of(target.segmentation_node, target.segment_id))
        return context if context else None

    def onFinished(self, target, plane) -> None:
        """Add a slice that is right, if that is wanted, and say how it is taken back."""
        if not self._effect.options.isOn("AddAccepted"):
            return
        try:
            self._newest = self._add(target, plane)
        except PromptError:
            return  # an accepted slice without the structure is no example
        except ScribbleSegmentError as error:
            self._effect.say(str(error), problem=True)
            return
        self._effect.say(
            _("Slice {index} is now an example of {name}.").format(
                index=plane.voxel_slice[1], name=html.escape(target.segment.GetName())
            )
            + f' <a href="remove">{_("Not this one")}</a>'
        )

    # What the user does -------------------------------------------------------------------------------------------

    def addSlice(self) -> None:
        """Add the shown slice as it is.

        Raises:
            ScribbleSegmentError: The segment is empty there, or the set cannot be changed.
        """
        self._add(*self._effect.segmenter.place(self._effect.editorNode, self._effect.sliceNode))

    def predictSlice(self) -> None:
        """Segment the shown slice from the examples alone.

        Raises:
            ScribbleSegmentError: There are none, or nothing can be segmented here.
        """
        self._effect.propagation.interrupt()
        self._effect.segmenter.predict_in_context(self._effect.editorNode, self._effect.sliceNode)

    def takeBack(self) -> None:
        """Remove the example that was added by itself last; what it replaced comes back."""
        if self._newest is None:
            return
        (task, gone, former), self._newest = self._newest, None

        def before(context: ContextSet) -> ContextSet:
            if former is not None and any(entry.identifier == gone for entry in context):
                return context.add(former)
            return _without(context, [gone])

        self._changeTask(task, before)

    def removeSelected(self) -> None:
        """Remove the selected examples, or the newest one."""
        selected = self.selected

        def removed(context: ContextSet) -> ContextSet:
            gone = selected or [max(context, key=lambda entry: entry.created).identifier] if context else []
            return _without(context, gone)

        self._change(removed)

    def askAndClear(self) -> None:
        """Remove all examples if the user agrees; they are the work of many hours, and no undo brings them back."""
        task = self.task
        if task is not None and slicer.util.confirmYesNoDisplay(
            _("Remove all examples of {name}?").format(name=task.name), self._title
        ):
            self.clear()

    def clear(self) -> None:
        """Remove all examples."""
        self._change(lambda context: dataclasses.replace(context, entries=()))

    def move(self, places: int) -> None:
        """Move the selected examples to the front (-1) or to the back (1)."""
        context = sharedContexts().get(self.task)
        selected = self.selected
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
        """Use the examples of another name for the selected segment."""
        node, segmentId = self._selection
        if node is not None:
            choose_task(node, segmentId, name)
            self._last = None  # examples are not taken along to a task that was chosen
            self.refresh()

    def askAndImport(self, *, folder: bool) -> None:
        """Let the user choose a file or folder, and add its examples."""
        parent = self.widget.window()
        if folder:
            path = qt.QFileDialog.getExistingDirectory(parent, _("Import examples"))
        else:
            path = qt.QFileDialog.getOpenFileName(
                parent, _("Import examples"), "", _("Context sets ({pattern})").format(pattern=f"*{_EXTENSION}")
            )
        if path:
            self.importFrom(path)

    def importFrom(self, path: str) -> None:
        """Add the examples of a file or folder, without asking. They are read on a thread."""
        task = self.task
        if task is None:
            return
        self._showNote(_("Reading {name}...").format(name=Path(path).name))
        self._job.start(lambda job: _read(path), lambda imported, error: self._onImported(task, imported, error))

    def askAndExport(self) -> None:
        """Let the user choose a file, and write the examples to it."""
        task = self.task
        if task is None:
            return
        path = qt.QFileDialog.getSaveFileName(
            self.widget.window(),
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
        self._showNote(_("Writing {name}...").format(name=Path(full).name))
        self._job.start(lambda job: _write(full, context), lambda nothing, error: self._onDone(error))

    # What happens meanwhile ---------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether files are read or written, so that `poll` must be called."""
        return sharedContexts().busy

    def poll(self) -> None:
        """Take in what was read and written; lends their thread the interpreter unless something is predicted."""
        contexts = sharedContexts()
        if not contexts.busy:
            return
        if not sharedInference().busy:
            contexts.wait(_WAIT_SECONDS)
        problems = contexts.poll()
        if problems:
            self._effect.say(problems[-1], problem=True)
        self.refresh()

    def refresh(self) -> None:
        """Show what there is for the selected segment, where it is not shown already."""
        task = self.task
        if task is not None:
            self._keepWhatWasNamed(task)
        contexts = sharedContexts()
        context = contexts.get(task)
        if contexts.busy:
            self._effect.startTimer()
        state = sharedInference().state
        takes = state.kind != "ready" or state.takes_context
        shown = self.sliceShown
        now = (task, context, takes, state.kind, tuple(contexts.names), self._job.running, self.isOpen, shown)
        wanted = self._effect.options.isOn("AddAccepted")
        show(self.ui.addAcceptedCheckBox, "checked", wanted)
        if now == self._shownState:
            return
        self._shownState = now
        ui = self.ui
        ui.contextSection.text = f"{self._title} ({len(context)})" if context else self._title
        for name in ("removeEntries", "clearEntries", "earlier", "later", "export"):
            getattr(ui, f"{name}Button").enabled = bool(context)
        ui.addSliceButton.enabled = shown
        ui.predictSliceButton.enabled = shown and bool(context) and state.kind == "ready" and state.takes_context
        if not self.isOpen:
            return
        self._showTask("" if task is None else task.name, contexts.names)
        self._showEntries(context)
        ui.entriesList.visible = bool(context)
        if not self._job.running:
            self._showNote(_noteOf(task, context, refuses=not takes))
            ui.entriesList.toolTip = _("Kept in {folder}. Drag to change the order; Delete removes.").format(
                folder=contexts.folder
            )

    def cleanup(self) -> None:
        """Save what is not saved, and leave no thread and no timer behind."""
        self._job.cancel()
        sharedContexts().flush(1.0)

    @property
    def isOpen(self) -> bool:
        """Whether the section is open; while it is not, nobody sees the examples."""
        return not self.ui.contextSection.collapsed

    @property
    def task(self) -> ContextTask | None:
        """The task of the selected segment."""
        node, segmentId = self._selection
        return None if node is None else task_of(node, segmentId)

    @property
    def selected(self) -> list[str]:
        """Identifiers of the selected examples, in order."""
        entriesList = self.ui.entriesList
        items = [entriesList.item(row) for row in range(entriesList.count)]
        return [item.data(qt.Qt.UserRole) for item in items if item.isSelected()]

    @property
    def _selection(self):
        editorNode = self._effect.editorNode
        node = None if editorNode is None else editorNode.GetSegmentationNode()
        if node is None or node.GetSegmentation() is None:
            return None, ""
        return node, editorNode.GetSelectedSegmentID() or ""

    def _add(self, target, plane) -> tuple[ContextTask, str, ContextEntry | None] | None:
        task = task_of(target.segmentation_node, target.segment_id)
        if task is None:
            return None
        entry = context_entry(target, plane)
        former = next((one for one in sharedContexts().get(task) or () if one.same_slice(entry)), None)
        self._changeTask(task, lambda context: context.add(entry))
        return task, entry.identifier, former

    def _change(self, change) -> None:
        task = self.task
        if task is None:
            raise ContextError(_("No segment is selected, so there are no examples to change."))
        self._changeTask(task, change)

    def _changeTask(self, task: ContextTask, change) -> None:
        sharedContexts().change(task, change)
        self._effect.startTimer()
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
        if imported is not None:
            self._effect.attempt(lambda: self._changeTask(task, lambda context: _together(context, imported)))
        self._onDone(error)

    def _onDone(self, error: BaseException | None) -> None:
        self.refresh()
        if isinstance(error, (ScribbleSegmentError, ImportError)):
            self._effect.say(str(explain(error)), problem=True)
        elif error is not None:
            raise error

    # Widgets ------------------------------------------------------------------------------------------------------

    def _onCollapsed(self, collapsed: bool) -> None:
        if not collapsed:
            sharedContexts().refreshNames()
            self._effect.attempt(self.refresh)

    def _onTask(self, name: str) -> None:
        if name.strip() and name.strip() != self._task:
            self._effect.attempt(lambda: self.chooseTask(name.strip()))

    def _onMoved(self) -> None:
        entriesList = self.ui.entriesList
        order = [entriesList.item(row).data(qt.Qt.UserRole) for row in range(entriesList.count)]
        self._shown = None  # what is shown is no longer what was given
        self._effect.attempt(lambda: self.reorder(order))

    def _showTask(self, name: str, names: list[str]) -> None:
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

    def _showEntries(self, context: ContextSet | None) -> None:
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
            if entry not in self._icons:
                self._icons[entry] = iconOf(entry.thumbnail(_THUMBNAIL_SIDE))
            item = qt.QListWidgetItem(self._icons[entry], "")
            item.setData(qt.Qt.UserRole, entry.identifier)
            item.setToolTip(_describe(entry))
            entriesList.addItem(item)
            item.setSelected(entry.identifier in selected)
        entriesList.blockSignals(wasBlocked[0])
        model.blockSignals(wasBlocked[1])

    def _showNote(self, text: str) -> None:
        self.ui.contextNoteLabel.text = text
        self.ui.contextNoteLabel.visible = bool(text)


def _read(path: str) -> ContextSet:
    # Here, on the thread, because what reads pictures takes long to import, and may be missing.
    from scribblesegment.context.files import read_context

    return read_context(path)


def _write(path: str, context: ContextSet) -> None:
    from scribblesegment.context.files import write_context_file

    write_context_file(path, context)


def _together(context: ContextSet, others: ContextSet) -> ContextSet:
    """A set with the examples of another one that it has neither yet nor in a newer form."""
    known = {entry.identifier for entry in context}
    for entry in others:
        newer = any(entry.same_slice(one) and one.created >= entry.created for one in context)
        if entry.identifier not in known and not newer:
            context = context.add(entry)
    return context


def _without(context: ContextSet, identifiers) -> ContextSet:
    """A set without some examples."""
    return dataclasses.replace(context, entries=tuple(one for one in context if one.identifier not in identifiers))


def _noteOf(task: ContextTask | None, context: ContextSet | None, *, refuses: bool) -> str:
    if task is None:
        return _("Select a segment to see its examples.")
    if refuses:
        return _("The network in use takes no examples. Propagation works without them.")
    if not task.kept:
        return _("Kept for this session only. Name the segment to keep them.")
    if context is None:
        return _("The examples are being read.")
    if context:
        return ""
    return _(
        "Finished slices show the network what this structure looks like, in this volume and in the next patient. They "
        "stay on this computer. None yet: accept or correct a slice, or press Add slice."
    )


def _describe(entry: ContextEntry) -> str:
    place = ""
    if entry.axis is not None:
        place = _("slice {axis} {index}").format(axis=_AXES[entry.axis], index=entry.index)
    return "\n".join(part for part in (entry.source, place, entry.created) if part)
