"""The section *Through the volume*: propagating and accepting slices."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.errors import FileFormatError, GeometryError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.propagation import PropagationOptions, PropagationReport, SegmentReport
from scribblesegment.mrml.tags import read_accepted
from scribblesegment.mrml.target import align_view, show_slice, shown_slice
from ScribbleSegmentLib.Inference import sharedInference

from .Options import connectButtons, show

_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "ScribbleSegmentPropagation.ui"

# Shown progress changes this often; setting a label repaints the window.
_PROGRESS_SECONDS = 0.1


class _ShownSlice(NamedTuple):
    axis: int
    index: int
    count: int  # of slices along the axis
    image: tuple[object, ...]  # what tells the image from others
    view: str


class PropagationSection:
    """Propagates, shows how it goes and what became of it, and accepts slices.

    Attributes:
        widget: The QWidget to add to the effect's options.
        ui: The named widgets of the .ui file.
        engine: The VolumePropagation; None until the effect was active.
    """

    def __init__(self, effect) -> None:
        """Build the widgets of an effect's section."""
        self._effect = effect
        self.engine = None
        # A propagation that waits for the answer to the newest stroke, which it is to start from.
        self._waiting = False
        self._follows = False  # whether that, or the one under way, belongs to a stroke
        self._axis: int | None = None  # of the latest propagation
        self._proposed: tuple[str, int] | None = None
        # The shown slice, if it is along an axis; which slices are accepted; and whether the view is oblique.
        self._shown: tuple[_ShownSlice | None, tuple[int, ...], bool] | None = None
        self._rangeIsFor: tuple[int, tuple[object, ...]] | None = None  # axis and image
        self._running = False
        self._nextProgress = 0.0
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        connectButtons(
            effect,
            (ui.propagateButton, self.start),
            (ui.cancelButton, self.interrupt),
            (ui.alignButton, self.alignView),
            (ui.goToButton, lambda: self.goTo(*self._proposed)),
            (ui.fromHereButton, lambda: self._limit(first=True)),
            (ui.toHereButton, lambda: self._limit(first=False)),
        )
        ui.acceptSliceButton.clicked.connect(lambda checked: effect.attempt(lambda: self.accept(checked)))
        self._checkBoxes = {"Follow": ui.followCheckBox, "OtherViews": ui.otherViewsCheckBox}
        for name, box in self._checkBoxes.items():
            box.toggled.connect(lambda checked, name=name: effect.scriptedEffect.setParameter(name, int(checked)))
        ui.rangeCheckBox.toggled.connect(lambda checked: self._showRange(checked))
        ui.uncertainList.itemClicked.connect(lambda item: effect.attempt(lambda: self.goTo(*item.data(qt.Qt.UserRole))))
        # Translating takes milliseconds in Slicer, and these are shown again and again.
        self._texts = SimpleNamespace(
            accept=_("Accept slice {index} ({view})"),
            accepted=_("Accepted slices: {slices}"),
            none=_("Draw a stroke on a slice: the others are propagated from it."),
            oblique=_("The view is oblique. Slices are accepted and propagated along the volume's axes."),
            speed=_("{count} slices, {speed} per second"),
        )
        self._showRange(False)
        self._showReport(None)
        self._showRunning(False)
        self.showSlice(None, None)

    @property
    def busy(self) -> bool:
        """Whether a propagation is under way, so that `poll` must be called."""
        return self._waiting or (self.engine is not None and self.engine.busy)

    # What the user does -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Propagate, once everything that was drawn is answered."""
        self._waiting, self._follows = True, False
        self._showReport(None)
        self.poll()

    def follow(self, segmentId: str) -> None:
        """Propagate from a stroke that has been answered, if that is wanted, as a part of its undo step."""
        if self._effect.options.isOn("Follow") and segmentId == self._effect.editorNode.GetSelectedSegmentID():
            self._waiting = self._follows = True

    def interrupt(self) -> None:
        """End a propagation and keep what is done, because something else is about to edit the segmentation."""
        self._waiting = False
        if self.engine is not None and self.engine.stop():
            self._effect.views.refreshSoon()
        self._showRunning(self.busy)

    def accept(self, wanted: bool) -> None:
        """Accept the shown slice, or take that back.

        Raises:
            ScribbleSegmentError: The view shows no slice along an axis of the volume.
        """
        self.interrupt()
        segmenter = self._effect.segmenter
        shown = self._effect.editorNode, self._effect.sliceNode
        if wanted:
            segmenter.accept_slice(*shown)
        elif segmenter.take_back_slice(*shown):
            self.engine.forget(*segmenter.place(*shown))

    def alignView(self) -> None:
        """Turn the view that was used last to the nearest axis of the volume.

        Raises:
            ScribbleSegmentError: Nothing is selected.
        """
        align_view(self._effect.sliceNode, self._effect.segmenter.target(self._effect.editorNode))

    def goTo(self, segmentId: str, index: int) -> None:
        """Show a slice of the direction of the latest propagation in all views that are along it.

        Raises:
            ScribbleSegmentError: No view is along it, or the segment has gone.
        """
        editorNode = self._effect.editorNode
        node = editorNode.GetSegmentationNode()
        if node is None or node.GetSegmentation().GetSegment(segmentId) is None:
            self._showReport(None)
            raise PromptError(_("The segment was removed."))
        if editorNode.GetSelectedSegmentID() != segmentId:
            editorNode.SetSelectedSegmentID(segmentId)
        target = self._effect.segmenter.target(editorNode)
        moved = 0
        for sliceNode in self._effect.views.sliceNodes():
            try:
                if shown_slice(sliceNode, target)[0] == self._axis:
                    show_slice(sliceNode, target, index)
                    moved += 1
            except GeometryError:
                continue  # an oblique view, or one beside the volume
        if not moved:
            raise PromptError(_("No slice view shows the direction in which was propagated. Choose such a view."))

    # What happens meanwhile ---------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Begin what waits, and take in what was made. Returns whether a segment changed."""
        if not self.busy:
            return False
        if self._waiting and not self._effect.segmenter.busy:
            self._waiting = False
            self._begin()
        update = self.engine.poll()
        self._showRunning(self.busy)
        if self._running and time.monotonic() >= self._nextProgress:
            self._nextProgress = time.monotonic() + _PROGRESS_SECONDS
            progress = self.engine.progress
            self.ui.progressBar.value = round(100 * progress.fraction)
            speed = self._texts.speed.format(count=progress.count, speed=f"{progress.per_second:.1f}")
            self.ui.speedLabel.text = speed
        if update.report is not None:
            self._showReport(update.report)
            self._effect.say(reportInWords(update.report))
        if update.problem:
            self._effect.say(update.problem, problem=True)
        return update.changed

    def showSlice(self, target, plane) -> None:
        """Show what is known of the slice that is looked at; None for none."""
        oblique = plane is not None and plane.voxel_slice is None
        shown, accepted = None, ()
        if plane is not None and not oblique:
            grid, (axis, index) = target.reference.grid, plane.voxel_slice
            with contextlib.suppress(FileFormatError):  # propagating says so
                accepted = read_accepted(target.segment, grid).indices[axis]
            view = self._effect.sliceNode.GetLayoutName()
            image = target.source_node.GetID(), grid.shape, grid.ijk_to_mm.tobytes()
            shown = _ShownSlice(axis, index, grid.shape[axis], image, view)
        for name, box in self._checkBoxes.items():
            show(box, "checked", self._effect.options.isOn(name))
        if self._shown == (shown, accepted, oblique):
            return
        self._shown = shown, accepted, oblique
        ui, texts = self.ui, self._texts
        ui.alignButton.visible = oblique
        for widget in (ui.acceptSliceButton, ui.fromHereButton, ui.toHereButton, ui.propagateButton):
            widget.enabled = shown is not None
        ui.acceptSliceButton.checked = shown is not None and shown.index in accepted
        if shown is not None:
            ui.acceptSliceButton.text = texts.accept.format(index=shown.index, view=shown.view)
            ui.acceptedLabel.text = texts.accepted.format(slices=listed(accepted)) if accepted else texts.none
            if self._rangeIsFor != (shown.axis, shown.image):  # one that was set for another direction is forgotten
                self._rangeIsFor = shown.axis, shown.image
                ui.rangeCheckBox.checked = False
                ui.rangeWidget.setRange(0, max(shown.count - 1, 0))
                ui.rangeWidget.setValues(0, max(shown.count - 1, 0))
        else:
            ui.acceptedLabel.text = texts.oblique if oblique else ""
        ui.acceptedLabel.visible = bool(ui.acceptedLabel.text)

    def selected(self, segmentId: str) -> None:
        """Another segment was selected; what is worth a look in others is shown no longer."""
        if segmentId not in self._reported:
            self._showReport(None)

    def reset(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        self._waiting, self._rangeIsFor = False, None
        if self.engine is not None:
            self.engine.reset()
        self._showReport(None)
        self._showRunning(False)
        self.showSlice(None, None)

    def _begin(self) -> None:
        effect = self._effect
        options = effect.segmenter.options
        low, high = round(self.ui.rangeWidget.minimumValue), round(self.ui.rangeWidget.maximumValue) + 1
        try:
            if not self._follows:  # going on to other slices finishes the one that was worked on
                effect.segmenter.slice_viewed()
            self._axis = shown_slice(effect.sliceNode, effect.segmenter.target(effect.editorNode))[0]
            self.engine.start(
                effect.editorNode,
                effect.sliceNode,
                PropagationOptions(
                    index_range=(low, high) if self.ui.rangeCheckBox.checked else None,
                    protect=options.protect,
                    clean_up=options.clean_up,
                    model=sharedInference().state.model,
                    other_views=effect.options.isOn("OtherViews"),
                ),
                all_segments=options.together,
                own_step=not self._follows,
            )
        except ScribbleSegmentError as error:
            if not self._follows:  # an oblique view, for instance, where nothing follows
                effect.say(str(error), problem=True)

    def _showRunning(self, running: bool) -> None:
        ui = self.ui
        ui.cancelButton.visible = ui.progressFrame.visible = running
        ui.propagateButton.visible = not running
        if running and not self._running:
            self._nextProgress = 0.0
            ui.progressBar.value, ui.speedLabel.text = 0, ""
        self._running = running

    def _showRange(self, wanted: bool) -> None:
        for widget in (self.ui.rangeWidget, self.ui.fromHereButton, self.ui.toHereButton):
            widget.visible = wanted

    def _showReport(self, report: PropagationReport | None) -> None:
        """Offer the slices that are worth a look; None for none."""
        ui = self.ui
        self._reported = () if report is None else tuple(one.segment_id for one in report.segments)
        segment = None if report is None else report.worth_correcting
        self._proposed = None if segment is None else (segment.segment_id, int(segment.next_slice))
        several = report is not None and len(report.segments) > 1
        ui.goToButton.visible = segment is not None
        if segment is not None:
            text = _("Go to slice {index}").format(index=segment.next_slice)
            ui.goToButton.text = f"{text} ({segment.name})" if several else text
        ui.uncertainList.clear()
        for one in () if report is None else report.segments:
            for index, confidence in one.uncertain():
                text = _("Slice {index}: {percent} % sure").format(index=index, percent=round(100 * confidence))
                item = qt.QListWidgetItem(f"{text} ({one.name})" if several else text)
                item.setData(qt.Qt.UserRole, (one.segment_id, index))
                ui.uncertainList.addItem(item)
        ui.uncertainList.visible = ui.uncertainList.count > 0

    def _limit(self, *, first: bool) -> None:
        """Let the range begin, or end, with the shown slice."""
        shown = self._shown[0]
        if shown is None:
            return
        widget, index = self.ui.rangeWidget, shown.index
        low, high = round(widget.minimumValue), round(widget.maximumValue)
        if first:
            widget.setValues(index, max(high, index))
        else:
            widget.setValues(min(low, index), index)


def reportInWords(report: PropagationReport) -> str:
    """Say how much was done, how sure it is, why it ended, and what to look at next."""
    if report.undone:
        return _("The propagation ended because what it built on was taken back or changed.")
    parts = [_("Cancelled; what was done is kept, and Propagate goes on from there.")] if report.cancelled else []
    done = _("{count} slices propagated").format(count=report.made)
    if report.slices_per_second > 0:
        done += ", " + _("{speed} per second").format(speed=f"{report.slices_per_second:.1f}")
    if report.mean_confidence is not None:
        done += ", " + _("mean confidence {percent} %").format(percent=round(100 * report.mean_confidence))
    parts.append(done + ".")
    several = len(report.segments) > 1
    for segment in report.segments:
        ends = _endsInWords(segment)
        if ends:
            parts.append(f"{segment.name}: {ends}" if several else ends)
    if report.worth_correcting is None and not report.cancelled and report.mean_confidence is not None:
        parts.append(_("All slices are certain."))
    return " ".join(parts)


def listed(indices: Iterable[int]) -> str:
    """Ascending whole numbers, neighbours drawn together: 3, 5–9."""
    runs = []
    for _distance, run in groupby(enumerate(indices), key=lambda one: one[1] - one[0]):
        members = [index for _place, index in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}")
    return ", ".join(runs)


def _endsInWords(segment: SegmentReport) -> str:
    reasons = {
        "ENDED": _("the structure ends"),
        "UNCERTAIN": _("too uncertain to go on"),
        "ABSENT": _("the next accepted slice is without the structure"),
        "RANGE": _("end of the range"),
        "CANCELLED": _("cancelled"),
    }
    ends = [
        _("Slice {index}: {reason}.").format(index=end.index, reason=reasons.get(end.reason.name, end.reason.value))
        for end in sorted(segment.ends, key=lambda end: end.index)
    ]
    return " ".join(dict.fromkeys(ends))  # both may be the same, as in an image of one slice
