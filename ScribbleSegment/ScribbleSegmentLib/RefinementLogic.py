"""What the section *Correct a network's result* does: from nodes to the network, and from its results to nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.data.labels import UNMARKED
from scribblesegment.errors import MissingPackageError, NetworkError, PromptError, ScribbleSegmentError
from scribblesegment.mrml.corrections import (
    ContradictionError,
    CorrectionImage,
    LabelMapping,
    Labels,
    Place,
    ResultHistory,
    ResultSource,
    Violation,
    correction_image,
    corrections_for,
    corrections_of,
    jump_to,
    label_mappings,
    marked_slices,
    names_of_new_labels,
    nearest_axis,
    new_result,
    note_source,
    painted_labels,
    slice_of,
    source_of,
    viewed_slice,
    violations_left,
    volume_of,
    without_gaps,
    write_labels,
)
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.service.service import explain

from .Inference import BackgroundJob
from .Packages import RequiredPackages
from .RefinementText import formatNetwork, formatNothingPainted, formatOutcome
from .SegmentEditorAccess import openSegmentEditorOn

if TYPE_CHECKING:
    from scribblesegment import Correction, CorrectionResult
    from scribblesegment.refinement.adapters import NetworkAdapter
    from scribblesegment.service.worker import Task

    from .RefinementPanel import RefinementPanel

# Translated here because a worker, which needs it, must not call Qt.
_OTHER_LABELS = _(
    "The result was made by a network with the labels {expected}; {network} has {found}. Press 'Run network' first."
)

_NETWORKS_KEY = "ScribbleSegment/CorrectedNetworks"

# How often progress is shown while something is computed. Without a graphics card, every change of a window with slice
# views in it costs some 50 ms, in which the thread stands still.
_INTERVAL_MS = 250


# The list of networks --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkEntry:
    """A network to choose."""

    source: str  # what it is loaded from: a path, `file.py:function`, or the name of one of the extension's own
    name: str  # as it is listed
    added: bool  # whether the user has added it, and can remove it
    missing: bool = False  # whether its file or folder has vanished


class NetworkList:
    """Remembers where added networks lie. Their files stay where they are: a trained-model folder may be large."""

    def __init__(self, settings: Any, own: Callable[[], Sequence[str]]) -> None:
        """Use a QSettings, or what has its `value` and `setValue`, and the names of the extension's own networks."""
        self._settings = settings
        self._own = own

    def all(self) -> list[NetworkEntry]:
        """List them: those that were added, the newest first, then the extension's own."""
        return [
            *map(_addedEntry, self._added()),
            *(NetworkEntry(name, name, added=False) for name in self._own()),
        ]

    def find(self, source: str) -> NetworkEntry | None:
        """Give the one that is loaded from somewhere, or None."""
        return next((entry for entry in self.all() if entry.source == source), None)

    def add(self, source: str) -> NetworkEntry:
        """Remember one; one that is known already becomes the newest."""
        path, function = _split(source)
        source = str(Path(path).expanduser().absolute()) + (f":{function}" if function else "")
        self._save([source, *(other for other in self._added() if other != source)])
        return _addedEntry(source)

    def remove(self, source: str) -> None:
        """Drop one; its file stays."""
        self._save([other for other in self._added() if other != source])

    def _added(self) -> list[str]:
        value = self._settings.value(_NETWORKS_KEY)
        try:
            stored = json.loads(value) if isinstance(value, str) else []
        except ValueError:
            return []
        return [one for one in stored if isinstance(one, str) and one] if isinstance(stored, list) else []

    def _save(self, sources: list[str]) -> None:
        self._settings.setValue(_NETWORKS_KEY, json.dumps(sources))


def nameOf(source: str) -> str:
    """Give a network's name in the list, from where it lies."""
    path, function = _split(source)
    file = Path(path)
    if function:
        return f"{file.stem}:{function}"
    # nnU-Net calls the folders of one data set by trainer, plans and configuration.
    parts = [file.parent.name, file.name] if file.name.count("__") >= 2 else [file.name]
    return " / ".join(part for part in parts if part) or source


def fileOf(source: str) -> Path:
    """Give the file or folder of a network."""
    return Path(_split(source)[0])


def _state(source: str) -> Hashable:
    """When the files of a network were changed, settings and parameters beside code included."""
    file = fileOf(source)
    beside = [file, *file.parent.glob(f"{file.stem}*")] if not file.is_dir() else file.glob("*")
    inside = [*file.glob("configs/*"), *file.glob("models/*"), *file.glob("fold_*/*.pth"), *file.glob("*.pth")]
    return tuple(sorted((str(one), one.stat().st_mtime_ns) for one in {*beside, *inside} if one.is_file()))


def isSameNetwork(noted: str, chosen: str) -> bool:
    """Whether a result's network is the chosen one, also where its file has been moved."""
    return noted == chosen or (nameOf(noted) == nameOf(chosen) and not fileOf(noted).exists())


def _addedEntry(source: str) -> NetworkEntry:
    return NetworkEntry(source, nameOf(source), added=True, missing=not fileOf(source).exists())


def _split(source: str) -> tuple[str, str]:
    """Take the function off `file.py:function`; a drive's colon is none."""
    path, colon, function = source.rpartition(":")
    return (path, function) if colon and path.endswith(".py") else (source, "")


# Running and refining --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RefinementOptions:
    """What the user set under *Advanced*."""

    layers: int = 6  # how many of the last layers are changed
    iterations: int = 130  # at most
    growing: bool = True  # whether strokes grow into similar voxels beside them
    holding: bool = True  # whether the network is held to its own prediction where nothing was painted
    threshold: float | None = None  # largest difference of intensities that strokes grow across; None finds one
    newLabels: bool = True  # whether segments of unknown names become new labels, or are ignored


@dataclass(frozen=True, eq=False)
class RefinementRequest:
    """One run or refinement: the user's choice, and the image as it was when it began."""

    source: str  # of the network
    volumeNode: Any
    volumeName: str
    resultNode: Any  # to write to; None for a new one
    image: CorrectionImage
    axis: int  # of the slices that a 2D network sees
    place: Place | None  # the slice to work on; None for the volume
    device: str
    options: RefinementOptions

    @property
    def key(self) -> Hashable:
        """What must be the same for what was computed to serve again; corrections change nothing of it."""
        options = (self.options.layers, self.options.iterations, self.options.holding)
        return self.source, self.image.token, self.axis, self.place, self.device, options


@dataclass
class _Computed:
    """The newest network and what was computed for the newest image; used on one thread at a time."""

    source: Hashable = None
    network: Any = None
    key: Hashable = None
    correction: Any = None


class RefinementLogic:
    """Runs and refines networks for the panel; one at a time, on a thread of its own.

    The panel holds what the user has chosen (`source`, `volumeNode`, `resultNode`, `sliceNode`, `wantsSlice`, `device`,
    `options`) and shows what happens (`say`, `ask`, `offerPackage`, `showProgress`, `showIterations`, `showRunning`,
    `showResult`, `showViolations`, `showNetwork`).
    """

    def __init__(self, panel: RefinementPanel) -> None:
        self._panel = panel
        self._job = BackgroundJob("ScribbleSegment refinement")
        self._task: Task[Any] | None = None
        self._asking = False
        self._iterations: list[tuple[int, float]] = []  # number and g of each so far
        self._most = 0
        self._shown: tuple[float, str, int] | None = None
        self._computed = _Computed()
        self._images = SourceImages()
        self._image: CorrectionImage | None = None  # the newest; networks keep what they make of it as long as it lives
        self._shownGrid: tuple[Any, Any] | None = None
        self.history = ResultHistory()
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.connect("timeout()", self._onTimer)

    @property
    def running(self) -> bool:
        """Whether something is computed."""
        return self._job.running

    # What the user does -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Segment with the chosen network as it is.

        Raises:
            ScribbleSegmentError: It cannot begin; the message says what to do.
        """
        self._requireReady()
        panel = self._panel
        result, source = panel.resultNode, source_of(panel.resultNode)
        # The chosen result is written to if it is of this network and this volume.
        if (
            source is None
            or not isSameNetwork(source.network, panel.source)
            or volume_of(result) is not panel.volumeNode
        ):
            result = None
        request = self._request(result)
        self._start(
            request,
            lambda task, correction: (correction.network, self._segmented(task, correction)),
            lambda outcome: self._onRun(request, *outcome),
        )

    def refine(self) -> None:
        """Refine the chosen result by what is painted.

        Raises:
            ScribbleSegmentError: It cannot begin; the message says what to do.
        """
        self._requireReady()
        source = self._sourceOfResult()
        if not isSameNetwork(source.network, self._panel.source):
            raise PromptError(
                _(
                    "The chosen result is that of another network, {network}. Choose that one, or press 'Run network'."
                ).format(network=source.network)
            )
        volume = volume_of(self._panel.resultNode)
        if volume is not None and volume is not self._panel.volumeNode:
            raise PromptError(
                _(
                    "The chosen result is that of another volume, {volume}. Choose that one, or press 'Run network'."
                ).format(volume=volume.GetName())
            )
        corrections = corrections_of(self._panel.resultNode)
        if corrections is None:
            raise PromptError(_("Nothing is painted yet. Press 'Paint corrections'."))
        request = self._request(self._panel.resultNode)
        painted, newNames = self._painted(request, corrections, source)
        self._start(
            request,
            lambda task, correction: self._refined(task, correction, request.options, source, painted, newNames),
            lambda outcome: self._onRefined(request, source, painted, outcome),
        )

    def cancel(self) -> None:
        """Let what is computed end; nothing is written then."""
        if self._task is not None:
            self._task.cancel()
            self._panel.say(_("Cancelling..."))

    def paint(self) -> None:
        """Open the Segment Editor on the corrections of the chosen result.

        Raises:
            ScribbleSegmentError: There is no result.
        """
        source, result = self._sourceOfResult(), self._panel.resultNode
        volume = volume_of(result) or self._panel.volumeNode
        if volume is None:
            raise PromptError(_("The volume of this result has gone. Load it, and choose it above."))
        name = _("{result} corrections").format(result=result.GetName())
        openSegmentEditorOn(corrections_for(result, volume, source.labels, name), volume)

    def undo(self) -> None:
        """Take the newest result back."""
        if self.history.undo():
            self._panel.showViolations((), ())
            self._panel.say(_("The newest result was taken back."))

    def redo(self) -> None:
        """Bring a result back that was undone."""
        if self.history.redo():
            self._panel.say(_("The result is back."))

    def goTo(self, violation: Violation) -> None:
        """Show a voxel that does not have its label in the slice views.

        Raises:
            ScribbleSegmentError: Its segmentation has gone.
        """
        if self._shownGrid is None or self._shownGrid[0].GetScene() is None:
            raise PromptError(_("The result has gone."))
        jump_to(*self._shownGrid, violation.kji)

    def mappings(self) -> tuple[LabelMapping, ...]:
        """What the painted segments of the chosen result stand for."""
        source = source_of(self._panel.resultNode)
        corrections = None if source is None else corrections_of(self._panel.resultNode)
        if source is None or corrections is None:
            return ()
        return label_mappings(corrections, source.labels, new_labels=self._panel.options.newLabels)

    def reset(self) -> None:
        """Let go of everything that belongs to a scene that closes; the network stays, for the next patient."""
        self._timer.stop()
        if self._task is not None:
            self._task.cancel()
        if self.running:
            self._job.cancel()
            self._computed = _Computed()  # the thread may still use the other one
        self._computed.key = self._computed.correction = self._task = None
        self._images.clear()
        self._image = None
        self.history.follow(None)
        self._shownGrid = None
        self._panel.showRunning(False)
        self._panel.showViolations((), ())

    # On the thread: neither Qt nor MRML -------------------------------------------------------------------------

    def missingPackages(self) -> Sequence[Any]:
        """Packages that must be installed before anything runs."""
        return RequiredPackages().missing

    def loadNetwork(self, source: str, ask: Callable[[str], bool]) -> NetworkAdapter:
        """Load a network; asks before code that comes with it runs."""
        from scribblesegment.refinement.adapters import load_network

        return load_network(source, confirm=ask)

    def newCorrection(self, network: NetworkAdapter, request: RefinementRequest) -> Correction:
        """Bring a network and an image together."""
        from scribblesegment import Correction, RefinementConfig

        options = request.options
        config = RefinementConfig(layers=options.layers, iterations=options.iterations)
        if not options.holding:
            config = replace(config, anchor=0.0)
        index = None if request.place is None else request.place[1]
        return Correction(
            network, request.image.volume, axis=request.axis, index=index, device=request.device, config=config
        )

    def _corrected(self, computed: _Computed, request: RefinementRequest, ask: Callable[[str], bool]) -> Correction:
        """The correction of a request, from what was computed before as far as that serves."""
        source = request.source, _state(request.source)
        if computed.network is None or computed.source != source:
            # What was there need not stay in memory meanwhile.
            computed.network = computed.key = computed.correction = None
            computed.network, computed.source = self.loadNetwork(request.source, ask), source
        if computed.correction is None or computed.key != request.key:
            computed.correction = None
            computed.correction, computed.key = self.newCorrection(computed.network, request), request.key
        correction: Correction = computed.correction
        return correction

    @staticmethod
    def _segmented(task: Task[Any], correction: Correction) -> Labels:
        return correction.segment(progress=task.set_progress, cancelled=lambda: task.cancelled)

    @staticmethod
    def _refined(
        task: Task[Any],
        correction: Correction,
        options: RefinementOptions,
        source: ResultSource,
        painted: Labels,
        newNames: dict[int, str],
    ) -> CorrectionResult:
        from scribblesegment import GrowthConfig, LabelScribbles

        network = correction.network
        if tuple(network.labels) != source.labels:
            raise NetworkError(
                _OTHER_LABELS.format(
                    expected=", ".join(source.labels), network=network.name, found=", ".join(network.labels)
                )
            )
        return correction.refine(
            LabelScribbles.from_labels(painted),
            names=newNames,
            grow=GrowthConfig(threshold=options.threshold) if options.growing else None,
            on_iteration=lambda number, g: task.put((number, g)),
            progress=task.set_progress,
            cancelled=lambda: task.cancelled,
        )

    # While it is computed ---------------------------------------------------------------------------------------

    def _start(
        self,
        request: RefinementRequest,
        work: Callable[[Task[Any], Correction], Any],
        done: Callable[[Any], None],
    ) -> None:
        """Do some work on the thread with the request's network and image, and something with its outcome here."""
        if self.running:
            raise PromptError(_("Something is being computed. Wait, or press 'Cancel'."))
        computed = self._computed
        self._iterations, self._most, self._shown = [], request.options.iterations, None
        self._panel.showViolations((), ())
        self._panel.say("")
        self._panel.showRunning(True)
        self._timer.start()
        self._task = task = self._job.start(
            lambda task: work(task, self._corrected(computed, request, task.ask)),
            lambda value, error: self._onDone(task, done, value, error),
        )
        self._showProgress(task)

    def _onTimer(self) -> None:
        task = self._task
        if task is None or self._asking:  # a dialog lets timers run
            return
        self._showProgress(task)
        question = task.question
        if question is not None and not task.cancelled:
            self._asking = True
            try:
                task.answer(self._panel.ask(question))
            finally:
                self._asking = False

    def _showProgress(self, task: Task[Any]) -> None:
        self._iterations += task.take()
        progress = task.progress
        state = progress.fraction, progress.text, len(self._iterations)
        if state != self._shown:
            self._shown = state
            self._panel.showProgress(progress.fraction, progress.text)
            number = self._iterations[-1][0] if self._iterations else 0
            self._panel.showIterations([g for _number, g in self._iterations], number, self._most)

    def _onDone(self, task: Task[Any], done: Callable[[Any], None], value: Any, error: BaseException | None) -> None:
        self._timer.stop()
        self._task = None
        self._showProgress(task)
        self._panel.showRunning(False)
        if task.cancelled:
            self._panel.say(_("Cancelled. Nothing was changed."))
            return
        if error is not None:
            self._panel.say(str(explain(error)), problem=True)
            if isinstance(error, MissingPackageError) and error.package:
                self._panel.offerPackage(error)
            return
        try:
            done(value)
        except ScribbleSegmentError as problem:
            self._panel.say(str(problem), problem=True)

    # Results ----------------------------------------------------------------------------------------------------

    def _onRun(self, request: RefinementRequest, network: NetworkAdapter, labels: Labels) -> None:
        source = ResultSource(request.source, tuple(network.labels))
        name = _("{volume} by {network}").format(volume=request.volumeName, network=network.name)
        node, lost = self._nodeToWriteTo(request, source, name)
        note_source(node, source)
        self._write(node, request, labels, source.labels)
        self._panel.showNetwork(formatNetwork(network))
        segmented = _("Segmented by {network}.").format(network=network.name)
        self._panel.say(" ".join(filter(None, [segmented, lost, request.image.note])))

    def _onRefined(
        self, request: RefinementRequest, source: ResultSource, painted: Labels, outcome: CorrectionResult
    ) -> None:
        node, lost = self._nodeToWriteTo(request, source, request.resultNode.GetName() or "")
        note_source(node, ResultSource(request.source, source.labels))
        self._write(node, request, outcome.labels, outcome.names)
        left = violations_left(outcome.violations, painted, request.place)
        self._shownGrid = (node, request.image.reference)
        self._panel.showViolations(left, outcome.names)
        self._panel.say(" ".join(filter(None, [formatOutcome(outcome), lost])), problem=bool(left))

    def _nodeToWriteTo(self, request: RefinementRequest, source: ResultSource, name: str) -> tuple[Any, str]:
        """The segmentation to write to, a new one where there was none; and a sentence if it was removed meanwhile."""
        result = request.resultNode
        if result is not None and result.GetScene() is not None:
            return result, ""
        if request.volumeNode.GetScene() is None:
            raise PromptError(
                _("The volume {volume} was removed meanwhile, so there is no place for the result.").format(
                    volume=request.volumeName
                )
            )
        node = new_result(slicer.mrmlScene, request.volumeNode, name, source)
        if result is None:
            return node, ""
        return node, _("The segmentation it was for has been removed meanwhile; it is in a new one, {name}.").format(
            name=node.GetName()
        )

    def _write(self, node: Any, request: RefinementRequest, labels: Labels, names: Sequence[str]) -> None:
        """Write a result as one step that can be undone, here and in the Segment Editor if that edits the node."""
        self.history.follow(node)
        self.history.save()
        editorNode = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if editorNode is not None and editorNode.GetSegmentationNode() is node:
            slicer.util.getModuleWidget("SegmentEditor").editor.saveStateForUndo()
        with slicer.util.RenderBlocker():
            write_labels(node, request.image.reference, labels, names, request.place)
        self._panel.showResult(node)

    # Preparation ------------------------------------------------------------------------------------------------

    def _requireReady(self) -> None:
        missing = self.missingPackages()
        if missing:
            raise ScribbleSegmentError(
                _("Networks of others need {packages}. Press 'Install PyTorch' under Speed below.").format(
                    packages=", ".join(str(package) for package in missing)
                )
            )
        if not self._panel.source:
            raise NetworkError(_("No network is chosen. Add one with 'Add...'."))

    def _sourceOfResult(self) -> ResultSource:
        source = source_of(self._panel.resultNode)
        if source is None:
            raise PromptError(_("There is no result to correct yet. Press 'Run network', or choose one."))
        return source

    def _request(self, result: Any) -> RefinementRequest:
        panel = self._panel
        volume, view = panel.volumeNode, panel.sliceNode
        image = correction_image(volume, result, self._images)
        if self._image is not None and self._image.token == image.token:
            image = replace(image, volume=self._image.volume)
        self._image = image
        gridNode = result if result is not None else volume
        place, axis = None, 0
        if panel.wantsSlice:
            if view is None:
                raise PromptError(_("There is no slice view. Choose a layout that has one, or the whole volume."))
            place = viewed_slice(view, gridNode, image.reference)
            axis = place[0]
        elif view is not None:
            axis = nearest_axis(view, gridNode, image.reference)
        name = volume.GetName() or ""
        return RefinementRequest(panel.source, volume, name, result, image, axis, place, panel.device, panel.options)

    def _painted(
        self, request: RefinementRequest, corrections: Any, source: ResultSource
    ) -> tuple[Labels, dict[int, str]]:
        """What is painted where the network is refined, and the names of the new labels in it."""
        mappings = label_mappings(corrections, source.labels, new_labels=request.options.newLabels)
        reference = request.image.reference
        try:
            everything = painted_labels(corrections, mappings, reference, request.resultNode)
        except ContradictionError as error:
            jump_to(request.resultNode, reference, error.kji)
            raise
        here = slice_of(everything, request.place)
        if not (here != UNMARKED).any():
            if request.place is None:
                raise PromptError(_("Nothing is painted that the network could follow. Press 'Paint corrections'."))
            axis, index = request.place
            raise PromptError(formatNothingPainted(index, marked_slices(everything, axis)))
        return without_gaps(here, len(source.labels), names_of_new_labels(mappings))
