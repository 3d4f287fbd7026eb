"""What the section *Correct a network's result* does: from nodes to the network, and from its results to nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.exceptions import MissingPackageError, NetworkError, PromptError, ScribbleSegmentError
from scribblesegment.inference import explain
from scribblesegment.label_scribbles import UNMARKED
from scribblesegment.mrml.correction_history import ResultHistory
from scribblesegment.mrml.correction_image import CorrectionImage, correction_image, jump_to, nearest_axis, shown_place
from scribblesegment.mrml.correction_labels import (
    SegmentMeaning,
    names_of_new_labels,
    segment_meanings,
    without_gaps,
)
from scribblesegment.mrml.correction_result import (
    ResultSource,
    corrections_for,
    corrections_of,
    new_result,
    note_source,
    source_of,
    volume_of,
    write_labels,
)
from scribblesegment.mrml.correction_scribbles import (
    ContradictionError,
    Labels,
    Violation,
    marked_slices,
    painted_labels,
    slice_of,
    violations_left,
)
from scribblesegment.mrml.source_image import SourceImages

from .BackgroundJob import BackgroundJob
from .RefinementChoice import RefinementChoice, RefinementView
from .RefinementTalk import RefinementTalk, TalkState
from .RefinementWords import nothingPaintedInWords, outcomeInWords
from .RefinementWork import NetworkRun, RefinementWork, WorkRequest
from .SegmentEditorDoor import openSegmentEditorOn

# How often progress is shown while something is computed. Without a graphics card, every change of a window with slice
# views in it costs some 50 ms, in which the thread stands still.
_INTERVAL_MS = 250


@dataclass(frozen=True, eq=False)
class _Round:
    """One run or refinement under way."""

    choice: RefinementChoice
    image: CorrectionImage
    place: tuple[int, int] | None
    request: WorkRequest
    volumeName: str


class RefinementControl:
    """Runs and refines networks for the panel; one at a time, on a thread of its own.

    Attributes:
        work: What runs on the thread.
        history: What undo goes back to.
    """

    def __init__(self, view: RefinementView) -> None:
        """Make one that does nothing yet."""
        self._view = view
        self.work = RefinementWork()
        self._job = BackgroundJob("ScribbleSegment refinement")
        self._talk: RefinementTalk | None = None
        self._asking = False
        self._shownState = TalkState()
        self._images = SourceImages()
        self.history = ResultHistory()
        self._shownGrid: tuple[Any, Any] | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.connect("timeout()", self._onTimer)

    @property
    def running(self) -> bool:
        """Whether something is computed."""
        return self._job.running

    # What the user does -----------------------------------------------------------------------------------------

    def requirePackages(self) -> None:
        """Check that what runs networks is installed.

        Raises:
            ScribbleSegmentError: It is not.
        """
        missing = self.work.missing
        if missing:
            raise ScribbleSegmentError(
                _("Python packages are missing: {packages}. Press 'Set up' below.").format(
                    packages=", ".join(str(package) for package in missing)
                )
            )

    def run(self, choice: RefinementChoice) -> None:
        """Segment with the network as it is.

        Raises:
            ScribbleSegmentError: It cannot begin; the message says what to do.
        """
        self.requirePackages()
        _requireNetwork(choice)
        result = self._resultToWriteTo(choice)
        started, work = self._round(choice, result), self.work
        self._view.showViolations((), ())
        self._start(lambda talk: work.segment(started.request, talk), lambda run: self._onRun(started, result, run))

    def refine(self, choice: RefinementChoice) -> None:
        """Refine the chosen result by what is painted.

        Raises:
            ScribbleSegmentError: It cannot begin; the message says what to do.
        """
        self.requirePackages()
        _requireNetwork(choice)
        result, source = choice.resultNode, source_of(choice.resultNode)
        if source is None:
            raise PromptError(_("There is no result to correct yet. Press 'Run network', or choose one."))
        if source.network != choice.source:
            raise PromptError(
                _(
                    "The chosen result is that of another network, {network}. Choose that one, or press 'Run network'."
                ).format(network=source.network)
            )
        corrections = corrections_of(result)
        if corrections is None:
            raise PromptError(_("Nothing is painted yet. Press 'Paint corrections'."))
        started = self._round(choice, result)
        painted, newNames = self._painted(corrections, result, source, started)
        work = self.work
        self._view.showViolations((), ())
        self._start(
            lambda talk: work.refine(started.request, painted, source.labels, newNames, talk),
            lambda outcome: self._onRefined(started, result, source, painted, outcome),
        )

    def cancel(self) -> None:
        """Let what is computed end; nothing is written then."""
        if self._talk is not None:
            self._talk.cancel()
            self._view.say(_("Cancelling..."))

    def paint(self, choice: RefinementChoice) -> None:
        """Open the Segment Editor on the corrections of the chosen result.

        Raises:
            ScribbleSegmentError: There is no result.
        """
        source = source_of(choice.resultNode)
        if source is None:
            raise PromptError(_("There is no result to correct yet. Press 'Run network', or choose one."))
        volume = volume_of(choice.resultNode) or choice.volumeNode
        if volume is None:
            raise PromptError(_("The volume of this result has gone. Load it, and choose it above."))
        name = _("{result} corrections").format(result=choice.resultNode.GetName())
        corrections = corrections_for(choice.resultNode, volume, source.labels, name)
        openSegmentEditorOn(corrections, volume)

    def undo(self) -> None:
        """Take the newest result back."""
        if self.history.undo():
            self._view.showViolations((), ())
            self._view.say(_("The newest result was taken back."))

    def redo(self) -> None:
        """Bring a result back that was undone."""
        if self.history.redo():
            self._view.say(_("The result is back."))

    def goTo(self, violation: Violation) -> None:
        """Show a voxel that does not have its label in the slice views.

        Raises:
            ScribbleSegmentError: Its segmentation has gone.
        """
        node, reference = self._shownGrid or (None, None)
        if node is None or node.GetScene() is None:
            raise PromptError(_("The result has gone."))
        jump_to(node, reference, violation.kji)

    def meanings(self, resultNode: Any, newLabels: bool) -> tuple[SegmentMeaning, ...]:
        """What the painted segments of a result stand for."""
        source = source_of(resultNode)
        corrections = None if source is None else corrections_of(resultNode)
        if source is None or corrections is None:
            return ()
        return segment_meanings(corrections, source.labels, new_labels=newLabels)

    def forget(self) -> None:
        """Let go of everything that belongs to a scene that closes, and of what is computed for it."""
        if self._talk is not None:
            self._talk.cancel()
        self._timer.stop()
        if self.running:
            self._job.cancel()
            self.work = self.work.another()
        self.work.forgetImage()
        self._talk = None
        self._images.forget()
        self.history.follow(None)
        self._shownGrid = None
        self._view.showRunning(False)
        self._view.showViolations((), ())

    # While it is computed ---------------------------------------------------------------------------------------

    def _start(self, work: Callable[[RefinementTalk], Any], done: Callable[[Any], None]) -> None:
        if self.running:
            raise PromptError(_("Something is being computed. Wait, or press 'Cancel'."))
        talk = self._talk = RefinementTalk()
        self._view.say("")
        self._view.showTalk(talk.state)
        self._view.showRunning(True)
        self._timer.start()
        self._job.start(lambda: work(talk), lambda value, error: self._onDone(talk, done, value, error))

    def _onTimer(self) -> None:
        talk = self._talk
        if talk is None or self._asking:  # a dialog lets timers run
            return
        state = talk.state
        if state != self._shownState:
            self._shownState = state
            self._view.showTalk(state)
        if state.question is not None and not talk.isCancelled:
            self._asking = True
            try:
                talk.answer(self._view.ask(state.question))
            finally:
                self._asking = False

    def _onDone(
        self, talk: RefinementTalk, done: Callable[[Any], None], value: Any, error: BaseException | None
    ) -> None:
        self._timer.stop()
        self._talk = None
        self._view.showTalk(talk.state)
        self._view.showRunning(False)
        if talk.isCancelled:
            self._view.say(_("Cancelled. Nothing was changed."))
            return
        if error is not None:
            self._view.say(str(explain(error)), problem=True)
            if isinstance(error, MissingPackageError):
                self._view.offerPackage(error)
            return
        try:
            done(value)
        except ScribbleSegmentError as problem:
            self._view.say(str(problem), problem=True)

    # Results ----------------------------------------------------------------------------------------------------

    def _onRun(self, started: _Round, result: Any, run: NetworkRun) -> None:
        source = ResultSource(started.choice.source, run.names)
        wasThere = result is not None
        node = self._existing(result, started, source, run.network)
        note_source(node, source)
        self._write(node, started, run.labels, run.names)
        self._view.showNetwork(_licenceInWords(run))
        notes = [self._lost(wasThere, result, node), started.image.note or ""]
        self._view.say(" ".join([_("Segmented by {network}.").format(network=run.network), *filter(None, notes)]))

    def _onRefined(self, started: _Round, result: Any, source: ResultSource, painted: Labels, outcome: Any) -> None:
        node = self._existing(result, started, source, result.GetName() or "")
        self._write(node, started, outcome.labels, outcome.names)
        left = violations_left(outcome.violations, painted, started.place)
        self._shownGrid = (node, started.image.reference)
        self._view.showViolations(left, outcome.names)
        self._view.say(" ".join([outcomeInWords(outcome), self._lost(True, result, node)]).strip(), problem=bool(left))

    def _write(self, node: Any, started: _Round, labels: Labels, names: tuple[str, ...]) -> None:
        """Write a result as one step that can be undone, here and in the Segment Editor if that edits the node."""
        self.history.follow(node)
        self.history.save()
        editor = _editorOf(node)
        if editor is not None:
            editor.saveStateForUndo()
        with slicer.util.RenderBlocker():
            write_labels(node, started.image.reference, labels, names, started.place)
        self._view.showResult(node)

    def _existing(self, result: Any, started: _Round, source: ResultSource, name: str) -> Any:
        """The segmentation to write to: a new one where there was none, or where it was removed meanwhile."""
        if result is not None and result.GetScene() is not None:
            return result
        volume = started.choice.volumeNode
        if volume.GetScene() is None:
            raise PromptError(
                _("The volume {volume} was removed meanwhile, so there is no place for the result.").format(
                    volume=started.volumeName
                )
            )
        nodeName = (
            name if result is not None else _("{volume} by {network}").format(volume=started.volumeName, network=name)
        )
        return new_result(slicer.mrmlScene, volume, nodeName, source)

    @staticmethod
    def _lost(wasThere: bool, result: Any, node: Any) -> str:
        if not wasThere or node is result:
            return ""
        return _("The segmentation it was for has been removed meanwhile; it is in a new one, {name}.").format(
            name=node.GetName()
        )

    # Preparation ------------------------------------------------------------------------------------------------

    def _resultToWriteTo(self, choice: RefinementChoice) -> Any:
        """The chosen result, if it is of this network and this volume."""
        source = source_of(choice.resultNode)
        if source is None or source.network != choice.source or volume_of(choice.resultNode) is not choice.volumeNode:
            return None
        return choice.resultNode

    def _round(self, choice: RefinementChoice, result: Any) -> _Round:
        image = correction_image(choice.volumeNode, result, self._images)
        gridNode = result if result is not None else choice.volumeNode
        place = None
        if choice.wantsSlice:
            if choice.sliceNode is None:
                raise PromptError(_("There is no slice view. Choose a layout that has one, or the whole volume."))
            place = shown_place(choice.sliceNode, gridNode, image.reference)
            axis = place[0]
        else:
            axis = 0 if choice.sliceNode is None else nearest_axis(choice.sliceNode, gridNode, image.reference)
        request = WorkRequest(
            choice.source,
            image.volume,
            image.token,
            axis,
            None if place is None else place[1],
            choice.device,
            choice.options,
        )
        return _Round(choice, image, place, request, choice.volumeNode.GetName() or "")

    def _painted(
        self, corrections: Any, result: Any, source: ResultSource, started: _Round
    ) -> tuple[Labels, dict[int, str]]:
        """What is painted where the network is refined, and the names of the new labels in it."""
        meanings = segment_meanings(corrections, source.labels, new_labels=started.choice.options.newLabels)
        try:
            everything = painted_labels(corrections, meanings, started.image.reference, result)
        except ContradictionError as error:
            jump_to(result, started.image.reference, error.kji)
            raise
        here = slice_of(everything, started.place)
        if not (here != UNMARKED).any():
            if started.place is None:
                raise PromptError(_("Nothing is painted that the network could follow. Press 'Paint corrections'."))
            axis, index = started.place
            raise PromptError(nothingPaintedInWords(index, marked_slices(everything, axis)))
        return without_gaps(here, len(source.labels), names_of_new_labels(meanings))


def _requireNetwork(choice: RefinementChoice) -> None:
    if not choice.source:
        raise NetworkError(_("No network is chosen. Add one with 'Add...'."))


def _licenceInWords(run: NetworkRun) -> str:
    labels = _("Labels: {labels}.").format(labels=", ".join(run.names[1:]))
    return labels + (" " + _("Licence: {licence}.").format(licence=run.licence) if run.licence else "")


def _editorOf(segmentationNode: Any) -> Any:
    """The Segment Editor's widget if it edits this segmentation, or None; does not make one."""
    editorNode = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    if editorNode is None or editorNode.GetSegmentationNode() is not segmentationNode:
        return None
    return slicer.util.getModuleWidget("SegmentEditor").editor
