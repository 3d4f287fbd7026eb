"""The section *Context* of the effect's options: widgets only."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.context import ContextEntry, ContextSet

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
