"""What the section *Correct a network's result* does: from nodes to the network, and from its results to nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.data.labels import UNMARKED
from scribblesegment.errors import MissingPackageError, NetworkError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.corrections import (
    ContradictionError,
    CorrectionImage,
    Labels,
    ResultHistory,
    ResultSource,
    SegmentMeaning,
    Violation,
    correction_image,
    corrections_for,
    corrections_of,
    jump_to,
    marked_slices,
    names_of_new_labels,
    nearest_axis,
    new_result,
    note_source,
    painted_labels,
    segment_meanings,
    shown_place,
    slice_of,
    source_of,
    violations_left,
    volume_of,
    without_gaps,
    write_labels,
)
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.service.service import explain
from scribblesegment.service.worker import Task

from .Inference import BackgroundJob
from .Packages import RequiredPackages
from .RefinementText import nothingPaintedInWords, outcomeInWords
from .SegmentEditorAccess import openSegmentEditorOn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribblesegment import Volume


@dataclass(frozen=True)
class RefinementProgress:
    """How far a run or refinement is."""

    part: float = 0.0  # how much is done, from 0 to 1
    text: str = ""  # what is being done
    history: tuple[float, ...] = ()  # g before the first iteration, and after each one
    iteration: int = 0  # number of the newest one

    def followed(self, task: Task[Any]) -> RefinementProgress:
        """Give the state after what a task has brought since."""
        iterations = task.take()
        history = (*self.history, *(float(g) for _, g in iterations))
        number = iterations[-1][0] if iterations else self.iteration
        return RefinementProgress(task.progress.fraction, task.progress.text, history, number)


@dataclass(frozen=True)
class RefinementOptions:
    """What the user set under *Advanced*.

    Attributes:
        layers: How many of the last layers are changed.
        iterations: Most iterations.
        growing: Whether strokes grow into similar voxels beside them.
        holding: Whether the network is held to what it said where nothing was painted.
        threshold: Largest difference of neighbouring intensities that they grow across; None finds one.
        newLabels: Whether segments of unknown names become new labels, or are ignored.
    """

    layers: int = 6
    iterations: int = 130
    growing: bool = True
    holding: bool = True
    threshold: float | None = None
    newLabels: bool = True


@dataclass(frozen=True, eq=False)
class WorkRequest:
    """What to run on what.

    Attributes:
        source: Of the network.
        volume: The image.
        token: Equal for equal content of the image only.
        axis: Axis of the slices that a 2D network sees.
        index: The one slice to work on; None for the volume.
        device: "auto" or a torch device name.
        options: The user's settings.
    """

    source: str
    volume: Volume
    token: Hashable
    axis: int
    index: int | None
    device: str
    options: RefinementOptions

    @property
    def key(self) -> Hashable:
        """What must be the same for what was computed to serve again; the last labels do not change anything else."""
        return (
            self.source,
            self.token,
            self.axis,
            self.index,
            self.device,
            self.options.layers,
            self.options.iterations,
            self.options.holding,
        )


@dataclass(frozen=True, eq=False)
class NetworkRun:
    """What a network says by itself.

    Attributes:
        labels: int16 of the shape of the image, or of the slice.
        names: Of the labels, the background first.
        network: Its name.
        licence: Of its parameters; empty where unknown.
    """

    labels: NDArray[np.int16]
    names: tuple[str, ...]
    network: str
    licence: str


class Backend(Protocol):
    """What loads and refines networks: the package, or a stand-in in tests."""

    @property
    def missing(self) -> Sequence[Any]:
        """Packages that must be installed before anything runs."""

    def load(self, source: str, confirm: Callable[[str], bool]) -> Any:
        """Load a network; asks before code of others runs."""

    def correction(self, network: Any, request: WorkRequest) -> Any:
        """Bring a network and an image together."""

    def refine(
        self,
        correction: Any,
        painted: NDArray[np.int16],
        newNames: Mapping[int, str],
        request: WorkRequest,
        task: Task[Any],
    ) -> Any:
        """Refine; returns a `CorrectionResult`."""


class RefinementWork:
    """Keeps the newest network and what it computed for the newest image. Called on one thread at a time."""

    def __init__(self, backend: Backend | None = None) -> None:
        """Use the package, or what stands in for it."""
        self._backend = backend or PackageBackend()
        self._network: tuple[str, Any] | None = None
        self._correction: tuple[Hashable, Any] | None = None

    @property
    def missing(self) -> Sequence[Any]:
        """Packages that must be installed before anything runs."""
        return self._backend.missing

    def another(self) -> RefinementWork:
        """Make one with the same backend that keeps nothing; for when a thread still uses this one."""
        return RefinementWork(self._backend)

    def forgetImage(self) -> None:
        """Let go of what was computed for an image; the network stays, for the next patient."""
        self._correction = None

    def segment(self, request: WorkRequest, task: Task[Any]) -> NetworkRun:
        """Run a network as it is.

        Raises:
            ScribbleSegmentError: It cannot be loaded or run; the message says what to do.
        """
        network = self._loaded(request, task)
        correction = self._prepared(network, request)
        labels = correction.segment(progress=task.set_progress, cancelled=lambda: task.cancelled)
        return NetworkRun(labels, tuple(network.labels), network.name, getattr(network, "licence", ""))

    def refine(
        self,
        request: WorkRequest,
        painted: NDArray[np.int16],
        names: tuple[str, ...],
        newNames: Mapping[int, str],
        task: Task[Any],
    ) -> Any:
        """Refine a network's result.

        Args:
            request: The network, the image, and the settings.
            painted: int16 of the shape of the image, or of the slice; -1 where nothing is painted.
            names: Of the labels that `painted` is about.
            newNames: Of the new labels in it, by value.
            task: Gets the progress, and each iteration's number and g as partial results.

        Raises:
            ScribbleSegmentError: It cannot be done; the message says what to do.
        """
        network = self._loaded(request, task)
        if tuple(network.labels) != names:
            raise NetworkError(
                f"The result was made by a network with the labels {', '.join(names)}; {network.name} has "
                f"{', '.join(network.labels)}. Press 'Run network' first."
            )
        correction = self._prepared(network, request)
        return self._backend.refine(correction, painted, newNames, request, task)

    def _loaded(self, request: WorkRequest, task: Task[Any]) -> Any:
        if self._network is None or self._network[0] != request.source:
            self._network = self._correction = None  # the old one need not stay in memory meanwhile
            self._network = (request.source, self._backend.load(request.source, task.ask))
        return self._network[1]

    def _prepared(self, network: Any, request: WorkRequest) -> Any:
        if self._correction is None or self._correction[0] != request.key:
            self._correction = None
            self._correction = (request.key, self._backend.correction(network, request))
        return self._correction[1]


class PackageBackend:
    """The package's own; torch is imported on the thread that needs it."""

    @property
    def missing(self) -> Sequence[Any]:
        """Packages that must be installed before anything runs."""
        return RequiredPackages().missing

    def load(self, source: str, confirm: Callable[[str], bool]) -> Any:
        """Load a network; asks before code of others runs."""
        from scribblesegment.refinement.adapters import load_network

        return load_network(source, confirm=confirm)

    def correction(self, network: Any, request: WorkRequest) -> Any:
        """Bring a network and an image together."""
        from scribblesegment.refinement.correction import Correction
        from scribblesegment.refinement.lagrangian import RefinementConfig

        options = request.options
        config = RefinementConfig(layers=options.layers, iterations=options.iterations)
        if not options.holding:
            config = replace(config, anchor=0.0)
        return Correction(
            network, request.volume, axis=request.axis, index=request.index, device=request.device, config=config
        )

    def refine(
        self,
        correction: Any,
        painted: NDArray[np.int16],
        newNames: Mapping[int, str],
        request: WorkRequest,
        task: Task[Any],
    ) -> Any:
        """Refine; returns a `CorrectionResult`."""
        from scribblesegment.data.labels import LabelScribbles
        from scribblesegment.refinement.region_growing import GrowthConfig

        grow = GrowthConfig(threshold=request.options.threshold) if request.options.growing else None
        return correction.refine(
            LabelScribbles.from_labels(painted),
            names=newNames,
            grow=grow,
            on_iteration=lambda number, g: task.put((number, g)),
            progress=task.set_progress,
            cancelled=lambda: task.cancelled,
        )


@dataclass(frozen=True)
class RefinementChoice:
    """What the user has chosen.

    Attributes:
        source: Of the network.
        volumeNode: vtkMRMLScalarVolumeNode or None.
        resultNode: vtkMRMLSegmentationNode or None.
        wantsSlice: Whether only the shown slice is worked on.
        sliceNode: vtkMRMLSliceNode that gives slice and direction, or None.
        device: "auto" or a torch device name.
        options: What is set under *Advanced*.
    """

    source: str
    volumeNode: Any
    resultNode: Any
    wantsSlice: bool
    sliceNode: Any
    device: str
    options: RefinementOptions


@dataclass(frozen=True, eq=False)
class RefinementView:
    """Where it is shown what happens.

    Attributes:
        say: Tells the user something; with `problem=True` that something is wrong.
        showProgress: Shows how far a computation is.
        showRunning: Shows whether there is one.
        showResult: Shows the segmentation that a result was written to.
        showViolations: Lists what a result does not follow, with the names of all labels.
        showNetwork: Shows what is known of the network.
        ask: Asks whether code that comes with a network may run; given the reason.
        offerPackage: Offers to install what a network's format needs.
    """

    say: Callable[..., None]
    showProgress: Callable[[RefinementProgress], None]
    showRunning: Callable[[bool], None]
    showResult: Callable[[Any], None]
    showViolations: Callable[[tuple[Violation, ...], tuple[str, ...]], None]
    showNetwork: Callable[[str], None]
    ask: Callable[[str], bool]
    offerPackage: Callable[[MissingPackageError], None]


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
        self._task: Task[Any] | None = None
        self._asking = False
        self._progress = RefinementProgress()
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
        self._start(lambda task: work.segment(started.request, task), lambda run: self._onRun(started, result, run))

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
            lambda task: work.refine(started.request, painted, source.labels, newNames, task),
            lambda outcome: self._onRefined(started, result, source, painted, outcome),
        )

    def cancel(self) -> None:
        """Let what is computed end; nothing is written then."""
        if self._task is not None:
            self._task.cancel()
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
        if self._task is not None:
            self._task.cancel()
        self._timer.stop()
        if self.running:
            self._job.cancel()
            self.work = self.work.another()
        self.work.forgetImage()
        self._task = None
        self._images.forget()
        self.history.follow(None)
        self._shownGrid = None
        self._view.showRunning(False)
        self._view.showViolations((), ())

    # While it is computed ---------------------------------------------------------------------------------------

    def _start(self, work: Callable[[Task[Any]], Any], done: Callable[[Any], None]) -> None:
        if self.running:
            raise PromptError(_("Something is being computed. Wait, or press 'Cancel'."))
        self._progress = RefinementProgress()
        self._view.say("")
        self._view.showProgress(self._progress)
        self._view.showRunning(True)
        self._timer.start()
        task = self._task = self._job.start(work, lambda value, error: self._onDone(task, done, value, error))

    def _onTimer(self) -> None:
        task = self._task
        if task is None or self._asking:  # a dialog lets timers run
            return
        self._showProgress(task)
        question = task.question
        if question is not None and not task.cancelled:
            self._asking = True
            try:
                task.answer(self._view.ask(question))
            finally:
                self._asking = False

    def _showProgress(self, task: Task[Any]) -> None:
        before, self._progress = self._progress, self._progress.followed(task)
        if self._progress != before:
            self._view.showProgress(self._progress)

    def _onDone(self, task: Task[Any], done: Callable[[Any], None], value: Any, error: BaseException | None) -> None:
        self._timer.stop()
        self._task = None
        self._showProgress(task)
        self._view.showRunning(False)
        if task.cancelled:
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
