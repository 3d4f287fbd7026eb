"""Predictions beside the user interface: a thread that loads the network and runs it, newest request first.

Everything that can go wrong (PyTorch absent or broken, weights gone, memory full) becomes a typed error whose message
says what to do, as part of an outcome and of the service's state.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextSet, SliceContext, same_entries
from scribblesegment.data import validation
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import DeviceError, PromptError, ScribbleSegmentError, WeightsError
from scribblesegment.service.worker import JobOutcome, Worker

if TYPE_CHECKING:
    from scribblesegment.inference.devices import ExecutionPlan
    from scribblesegment.inference.predictor import Prediction
    from scribblesegment.propagation import PropagatedSlice, Propagation, PropagationRun


Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SegmentToPropagate:
    """One segment of a request.

    Attributes:
        slices: bool (H, W), the accepted masks by slice index; an empty one says that the structure is absent there.
        name: What the structure is called.
        context: Segmented images of the same structure; not used by networks that take none.
        previous: An earlier result in the same volume, of which everything is kept that a change of the accepted
            slices cannot reach. If nothing would be left to do for any segment, all is propagated anew.
    """

    slices: Mapping[int, Mask]
    name: str = ""
    context: ContextSet | None = None
    previous: Propagation | None = None


@dataclass(frozen=True, eq=False)
class PropagationRequest:
    """A volume and the segments to carry on through it.

    Attributes:
        array: (K, J, I) intensities; not copied.
        ijk_to_mm: (4, 4), voxel index (i, j, k, 1) to millimetres.
        axis: Axis of the array (0 = K, 1 = J, 2 = I).
        segments: By label, from 1.
        index_range: Half-open range of slices that may be segmented; None for all.
        protected: bool (K, J, I), voxels that are not segmented; None for none.
        source: Name of the volume, as in the entries of context sets.
        threshold: Probability from which a pixel belongs to a structure.
    """

    array: NDArray[Any]
    ijk_to_mm: NDArray[np.float64]
    axis: int
    segments: Mapping[int, SegmentToPropagate]
    index_range: tuple[int, int] | None = None
    protected: Mask | None = None
    source: str = ""
    threshold: float = 0.5


@dataclass(frozen=True)
class PropagationProgress:
    """How far a propagation is.

    Attributes:
        part: Of the slices that are left at most, in [0, 1].
        made: Slices predicted, those of each segment counted.
        slices_per_second: Speed so far; 0 before the first.
    """

    part: float = 0.0
    made: int = 0
    slices_per_second: float = 0.0


class PropagationFeed:
    """Brings slices from the thread that makes them to the one that asked for them.

    Attributes:
        request: What was asked for.
    """

    def __init__(self, request: PropagationRequest) -> None:
        """Make one on which nothing has come yet."""
        self.request = request
        self._lock = threading.Lock()
        self._begun = self._ended = False
        self._cancelled = False
        self._slices: list[PropagatedSlice] = []
        self._progress = PropagationProgress()
        self._result: Mapping[int, Propagation] = {}
        self._error: ScribbleSegmentError | None = None

    # For the one who asked --------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask for an end after the slice that is being made."""
        with self._lock:
            self._cancelled = True

    def take(self) -> list[PropagatedSlice]:
        """Take the slices that came since the last call, oldest first; a slice that came twice is meant the last time.

        Never waits.
        """
        with self._lock:
            slices, self._slices = self._slices, []
            return slices

    @property
    def progress(self) -> PropagationProgress:
        """How far it is."""
        with self._lock:
            return self._progress

    @property
    def begun(self) -> bool:
        """Whether work on it has begun."""
        with self._lock:
            return self._begun

    @property
    def ended(self) -> bool:
        """Whether no more slices will come."""
        with self._lock:
            return self._ended

    @property
    def result(self) -> Mapping[int, Propagation]:
        """What was done, by label; complete once `ended`."""
        with self._lock:
            return self._result

    @property
    def error(self) -> ScribbleSegmentError | None:
        """Why it went no further, or None."""
        with self._lock:
            return self._error

    # For the thread that makes the slices -----------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether an end was asked for."""
        with self._lock:
            return self._cancelled

    def begin(self) -> None:
        """Work begins."""
        with self._lock:
            self._begun = True

    def put(self, made: PropagatedSlice) -> None:
        """Hand over a slice."""
        with self._lock:
            self._slices.append(made)

    def tell(self, progress: PropagationProgress) -> None:
        """Say how far it is, after every slice that was looked at."""
        with self._lock:
            self._progress = progress

    def leave(self, result: Mapping[int, Propagation]) -> None:
        """Note what was done so far."""
        with self._lock:
            self._result = result

    def end(self, error: ScribbleSegmentError | None = None) -> None:
        """No more slices come; the first call counts."""
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error


class VolumeInference(Protocol):
    """Propagates in the background. Its methods are called from one thread."""

    @property
    def busy(self) -> bool:
        """Whether something is computed or waits."""

    def propagate(self, feed: PropagationFeed) -> None:
        """Begin a propagation; it is forgotten if something newer comes before it has begun."""


@dataclass(frozen=True, eq=False)
class SliceRequest:
    """One slice to segment.

    Attributes:
        image: (H, W) real numbers; it may be a view into a volume, and is not copied.
        image_token: stands for the image. Requests with equal tokens have the same image, spacing and intensity range,
            so what depends on these alone is computed once.
        spacing_mm: distance between neighbouring (rows, columns) in millimetres.
        intensity_range: intensities of the whole volume that become 0 and 1; None to estimate them from the slice.
        prompts: strokes, clicks and boxes on the pixels of the image.
        context: what else the slice may be predicted from; not used by networks that take no context.

    Raises:
        ImageError: the image is not 2D, empty or not numeric.
        GeometryError: a spacing that is not above zero.
        PromptError: prompts for an image of another shape.
    """

    image: NDArray[Any]
    image_token: Hashable
    spacing_mm: tuple[float, float]
    intensity_range: IntensityRange | None
    prompts: Prompts
    context: SliceContext | None = None

    def __post_init__(self) -> None:
        image = validation.image_array(self.image, ndim=(2,))
        row, column = validation.spacing_mm(self.spacing_mm, 2)
        validation.same_shape(self.prompts.shape, image.shape, name="prompts", error=PromptError)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "spacing_mm", (row, column))


@dataclass(frozen=True, eq=False)
class SliceOutcome:
    """What became of a request.

    Attributes:
        ticket: number that `SliceInference.submit` gave the request.
        logits: float32 (H, W), unthresholded; None when there is an error.
        error: why there are no logits; None when there are.
        seconds: duration of the computation, without the waiting before it.
    """

    ticket: int
    logits: NDArray[np.float32] | None
    error: ScribbleSegmentError | None
    seconds: float


class SliceInference(Protocol):
    """Computes requests in the background, the newest first. Its methods are called from one thread."""

    @property
    def busy(self) -> bool:
        """Whether a request is being computed or waits."""

    def submit(self, request: SliceRequest) -> int:
        """Hand over a request and return its ticket.

        A request that still waits when a newer one comes is dropped, and has no outcome.
        """

    def poll(self) -> list[SliceOutcome]:
        """Take the outcomes that have arrived since the last call, oldest first; never waits."""

    def wait(self, seconds: float) -> bool:
        """Sleep until an outcome can be polled, and say whether there is one; at most `seconds`."""


class SlicePredictor(Protocol):
    """What inference needs of a predictor; `scribblesegment.Predictor` has it.

    One that segments in context has `capabilities` with "context" among them, and `set_context`.
    """

    @property
    def plan(self) -> ExecutionPlan:
        """Where and how it runs."""

    def set_image(
        self,
        image: NDArray[Any],
        *,
        spacing_mm: tuple[float, float] = (1.0, 1.0),
        intensity_range: IntensityRange | None = None,
    ) -> None:
        """Takes the image (H, W) that the following predictions are about."""

    def predict(self, prompts: Prompts, /) -> Prediction:
        """Segments the image."""


class LoadedPredictor:
    """Predicts slices and propagates them; remembers what the predictor was given last.

    Attributes:
        predictor: The predictor.
        takes_context: Whether its network segments in context.
    """

    def __init__(self, predictor: SlicePredictor) -> None:
        """Take a predictor that was given nothing yet."""
        self.predictor: Any = predictor
        self.takes_context = "context" in getattr(predictor, "capabilities", ())
        self._image_token: Hashable = None
        self._shown: ContextSet | None = None
        self._shown_is_known = True
        self._choice: tuple[Hashable, ContextSet, ContextSet] | None = None

    def predict(self, request: SliceRequest) -> NDArray[np.float32]:
        """Segment a slice; returns logits (H, W)."""
        token, self._image_token = self._image_token, None
        is_new = token is None or token != request.image_token
        if self.takes_context:
            chosen = self._chosen(request)
            known, self._shown_is_known = self._shown_is_known, False
            changes = not (known and same_entries(chosen, self._shown))
            if changes and is_new and (self._shown or not known):
                self.predictor.set_context(None)  # else it would be matched with an image it is not for
            if is_new:
                self._set_image(request)
            if changes:
                self.predictor.set_context(chosen)
            self._shown, self._shown_is_known = chosen, True
        elif is_new:
            self._set_image(request)
        self._image_token = request.image_token
        logits: NDArray[np.float32] = self.predictor.predict(request.prompts).logits
        return logits

    def propagate(self, feed: PropagationFeed) -> None:
        """Propagate what a feed asks for until it is done or cancelled; goes on from what the feed has already."""
        self._image_token, self._shown_is_known = None, False

        def tell(part: float, text: str) -> None:
            feed.tell(PropagationProgress(part, run.made, run.slices_per_second))

        run = self._run(feed, tell)
        try:
            for made in run:
                feed.put(made)
        finally:
            feed.leave(run.result())

    def _set_image(self, request: SliceRequest) -> None:
        self.predictor.set_image(request.image, spacing_mm=request.spacing_mm, intensity_range=request.intensity_range)

    def _chosen(self, request: SliceRequest) -> ContextSet | None:
        context = request.context
        if context is None:
            return None
        known = self._choice
        if known is not None and known[:2] == (request.image_token, context.entries):
            return known[2]
        intensities = request.intensity_range or IntensityRange.estimate(request.image)
        chosen = context.chosen(intensities.normalize(request.image), spacing_mm=request.spacing_mm)
        self._choice = (request.image_token, context.entries, chosen)
        return chosen

    def _run(self, feed: PropagationFeed, progress: Callable[[float, str], None]) -> PropagationRun:
        # Here, because it is only needed for this.
        from scribblesegment.data.volume import Volume
        from scribblesegment.propagation import AnnotatedSegment, PropagationConfig, Propagator

        request, done = feed.request, feed.result
        volume = Volume(request.array, request.ijk_to_mm)
        propagator = Propagator(self.predictor, config=PropagationConfig(threshold=request.threshold))

        def run(*, anew: bool) -> PropagationRun:
            segments = {
                label: AnnotatedSegment(
                    segment.slices,
                    segment.name,
                    segment.context if self.takes_context else None,
                    None if anew else done.get(label, segment.previous),
                )
                for label, segment in request.segments.items()
            }
            return propagator.iterate(
                volume,
                segments,
                request.axis,
                index_range=request.index_range,
                protected=request.protected,
                source=request.source,
                progress=progress,
                cancelled=feed.cancelled,
            )

        first = run(anew=False)
        return first if first.remaining or done else run(anew=True)


Logits = NDArray[np.float32]

T = TypeVar("T")


_SET_UP = "In 3D Slicer, press 'Set up' in the module Scribble Segment"


@dataclass(frozen=True)
class ServiceState:
    """Where the service stands.

    Attributes:
        kind: "idle" before anything was loaded, "loading", "ready", or "failed".
        model: The chosen model, by the name or path it was asked for.
        device: Where the network runs; until it is loaded, the device that was asked for, which may be "auto".
        message: What the user should know or do; empty while there is nothing to say.
        milliseconds: Duration of the newest prediction; before the first one, that of a run of the network alone, if
            it was measured.
        takes_context: Whether the network segments in context; False until it is loaded.
    """

    kind: Literal["idle", "loading", "ready", "failed"]
    model: str
    device: str
    message: str = ""
    milliseconds: float | None = None
    takes_context: bool = False


@dataclass(frozen=True)
class _Attempt:
    """One decision what to load; a higher number was made later."""

    number: int
    model: str
    device: str


@dataclass(frozen=True, eq=False)
class _Failure:
    """What went wrong, and whether to try again before the user asks for it.

    Attributes:
        error: What the user is told.
        missing: The Python package that is not installed.
        transient: Whether another attempt costs little and could end differently.
    """

    error: ScribbleSegmentError
    missing: str | None = None
    transient: bool = False

    @property
    def may_have_gone(self) -> bool:
        if self.missing is None:
            return self.transient
        importlib.invalidate_caches()
        return importlib.util.find_spec(self.missing) is not None


class PredictorService:
    """Predicts slices on a thread of its own, and propagates them.

    It is a `slice_request.SliceInference` and a `propagation_request.VolumeInference`; slices wait while it propagates.

    One service serves everything in the application that predicts. The thread starts with the first request. Every
    method is called from one thread, normally the main one; `state` may be read from any.
    """

    def __init__(self, load: Callable[[str, str], SlicePredictor] | None = None) -> None:
        """Make a service that has loaded nothing yet.

        Args:
            load: Loads a predictor, given a model's name or path and a device; `load_predictor` when absent.
        """
        self._load_predictor = load or _load_predictor
        self._worker: Worker[Logits | None] = Worker("ScribbleSegment inference")
        # What both threads touch, under the lock.
        self._lock = threading.Lock()
        self._wanted = _Attempt(0, "default", "auto")
        self._state = ServiceState("idle", self._wanted.model, self._wanted.device)
        # What only the worker's thread touches, as long as it runs.
        self._current: _Attempt | None = None
        self._loaded: LoadedPredictor | None = None
        self._failure: _Failure | None = None
        # What only the caller's thread touches.
        self._feed: PropagationFeed | None = None

    @property
    def state(self) -> ServiceState:
        """A snapshot; it never changes by itself."""
        with self._lock:
            return self._state

    @property
    def busy(self) -> bool:
        """Whether a request waits or runs, or an outcome waits for `poll`."""
        return self._worker.busy

    def choose(self, model: str = "default", device: str = "auto") -> None:
        """Choose network and device; the next request loads them unless they are in use already.

        Args:
            model: A name of `list_weights()`, "default", or the path of a weights file.
            device: "auto" or a torch device name.
        """
        same = (model, device) == (self._wanted.model, self._wanted.device)
        if not same or self.state.kind == "failed":
            self._want(model, device)

    def retry(self) -> None:
        """Load anew with the next request, as after a failure, or after the processor had to stand in."""
        self._want(self._wanted.model, self._wanted.device)

    def prepare(self) -> None:
        """Load the network now, so that the first request finds it ready. `state` tells how it goes."""
        # A request that waits loads it as well, and must not be replaced by this.
        if not self._worker.has_waiting:
            self._worker.run(self._prepare, report=False)

    def submit(self, request: SliceRequest) -> int:
        """Ask for a prediction; a request that has not begun is dropped for it, without an outcome.

        Returns:
            The ticket of its outcome.
        """
        return self._worker.run(lambda: self._answer(request))

    def propagate(self, feed: PropagationFeed) -> None:
        """Begin a propagation, after what is being predicted; what comes of it, errors included, is on the feed.

        A request that has not begun is dropped for it, and it is dropped for a newer request before it has begun.
        """
        self._feed = feed
        self._worker.run(lambda: self._propagate(feed), report=False)

    def poll(self) -> list[SliceOutcome]:
        """Take the outcomes since the last call; what went wrong is part of an outcome, nothing is raised."""
        return [_slice_outcome(outcome) for outcome in self._worker.poll()]

    def wait(self, seconds: float) -> bool:
        """Let the worker run until there is an outcome, nothing is left to do, or time is up.

        Returns:
            Whether there is an outcome to poll.
        """
        return self._worker.wait(seconds)

    def rest(self, timeout_s: float = 0.25) -> bool:
        """End the thread and drop requests and outcomes, but keep the network: the next request starts at once.

        Returns:
            Whether the thread ended within `timeout_s`; if not, it ends after what it is doing. A propagation ends
            after the slice it is at.
        """
        if self._feed is not None:
            self._feed.cancel()
            self._feed = None
        return self._worker.close(timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread and let go of the network; a later request would load it again.

        Returns:
            Whether the thread ended within `timeout_s`; if not, it ends after what it is doing.
        """
        ended = self.rest(timeout_s)
        self._want(self._wanted.model, self._wanted.device)
        if ended:
            self._forget_predictor()
        return ended

    def _want(self, model: str, device: str) -> None:
        with self._lock:
            self._wanted = _Attempt(self._wanted.number + 1, model, device)
            self._state = ServiceState("idle", model, device)

    # On the worker's thread ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        # The state tells what went wrong.
        with contextlib.suppress(ScribbleSegmentError):
            self._ready_predictor()

    def _answer(self, request: SliceRequest) -> Logits:
        return self._do(lambda loaded: self._predict(loaded, request))

    def _propagate(self, feed: PropagationFeed) -> None:
        feed.begin()
        try:
            self._do(lambda loaded: loaded.propagate(feed))
        except ScribbleSegmentError as error:
            feed.end(error)
        finally:
            feed.end()

    def _do(self, work: Callable[[LoadedPredictor], T]) -> T:
        """Use the network; on the processor, once, where the device fails."""
        loaded = self._ready_predictor()
        try:
            return work(loaded)
        except ScribbleSegmentError:
            raise
        except Exception as error:
            notice = _fall_back_notice(error, loaded.predictor.plan.device)
            attempt = self._current
            if notice is None or attempt is None:
                raise explain(error) from error
        # Outside of the handler, because the traceback holds on to the memory that has run out.
        del loaded
        try:
            return work(self._load(attempt, "cpu", notice))
        except ScribbleSegmentError:
            raise
        except Exception as error:
            raise explain(error) from error

    def _predict(self, loaded: LoadedPredictor, request: SliceRequest) -> Logits:
        began = time.perf_counter()
        logits = loaded.predict(request)
        with self._lock:
            if self._state.kind == "ready" and self._current == self._wanted:
                self._state = replace(self._state, milliseconds=1000.0 * (time.perf_counter() - began))
        return logits

    def _ready_predictor(self) -> LoadedPredictor:
        """Give what is chosen, loaded if need be; a failure is repeated as long as its cause is there."""
        with self._lock:
            wanted = self._wanted
        if wanted == self._current:
            if self._loaded is not None:
                return self._loaded
            if self._failure is not None and not self._failure.may_have_gone:
                raise self._failure.error
        self._current = wanted
        return self._load(wanted, wanted.device)

    def _load(self, attempt: _Attempt, device: str, notice: str = "") -> LoadedPredictor:
        """Load the chosen network; on the processor, with a notice to the user, where the device has no room for it."""
        self._forget_predictor()
        model = attempt.model
        self._publish(ServiceState("loading", model, device, "The network is being loaded."))
        try:
            self._loaded = loaded = LoadedPredictor(self._load_predictor(model, device))
        except Exception as error:
            fall_back = _fall_back_notice(error, device)
            if fall_back is None:
                self._failure = _failure_of(error)
                self._publish(ServiceState("failed", model, attempt.device, str(self._failure.error)))
                raise self._failure.error from error
        else:
            plan = loaded.predictor.plan
            self._publish(ServiceState("ready", model, plan.device, notice, plan.milliseconds, loaded.takes_context))
            return loaded
        return self._load(attempt, "cpu", fall_back)

    def _publish(self, state: ServiceState) -> None:
        """Set the state, unless something else was chosen meanwhile."""
        with self._lock:
            if self._current == self._wanted:
                self._state = state

    def _forget_predictor(self) -> None:
        self._loaded, self._failure = None, None
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
            # Slicer's rendering needs that memory, too. A device that has gone cannot give anything back.
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()


def explain(error: BaseException) -> ScribbleSegmentError:
    """Say what went wrong, and what to do about it, where a network could not be loaded or run.

    Args:
        error: What was raised; an error of this package is returned as it is.
    """
    return _failure_of(error).error


def _load_predictor(model: str, device: str) -> SlicePredictor:
    # Here, because it imports what may be missing.
    from scribblesegment.inference.predictor import load_predictor

    return load_predictor(model, device=device)


def _slice_outcome(outcome: JobOutcome[Logits | None]) -> SliceOutcome:
    error = None if outcome.error is None else explain(outcome.error)
    return SliceOutcome(outcome.ticket, outcome.value, error, outcome.seconds)


def _fall_back_notice(error: BaseException, device: str) -> str | None:
    """Tell the user that the processor stands in, where an error is the device's fault; None where it is not."""
    if device == "cpu" or isinstance(error, ScribbleSegmentError) or not isinstance(error, RuntimeError):
        return None
    if _is_out_of_memory(error):
        reason = "The memory of the graphics card is full"
    else:
        from scribblesegment.inference.devices import device_problem

        problem = None if device == "auto" else device_problem(device)
        if problem is None:
            return None
        reason = f"The device {device} stopped working ({problem.rstrip('.')})"
    return (
        f"{reason}, so the network runs on the processor. To use the device again, close what else uses it, and choose "
        "it anew in the module Scribble Segment."
    )


def _is_out_of_memory(error: BaseException) -> bool:
    # Older releases of torch, and its processor, raise a plain RuntimeError.
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text))
    )


def _failure_of(error: BaseException) -> _Failure:
    """Say what went wrong in the user's words."""
    if isinstance(error, ScribbleSegmentError):
        return _Failure(error, transient=isinstance(error, WeightsError))
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.isidentifier():
        return _Failure(
            ScribbleSegmentError(
                f"The Python package {error.name} is not installed. {_SET_UP}; elsewhere, install it with pip."
            ),
            missing=error.name,
        )
    if isinstance(error, OSError) and error.filename is not None:
        return _Failure(
            WeightsError(f"The model cannot be read: {error}. Check the file, or choose another model."), transient=True
        )
    if isinstance(error, (ImportError, OSError)):
        return _Failure(
            ScribbleSegmentError(
                f"A Python package that the network needs is damaged or does not fit this computer: {error}. {_SET_UP} "
                "to install it again, then restart Slicer; elsewhere, install it anew with pip."
            )
        )
    if _is_out_of_memory(error):
        return _Failure(
            DeviceError("There is not enough memory to run the network. Close other volumes or programs, and retry."),
            transient=True,
        )
    text = str(error).strip()
    name = type(error).__name__
    return _Failure(
        ScribbleSegmentError(
            f"The network failed ({name}: {text.splitlines()[0] if text else 'no details'}). Choose another model or "
            "device; if that does not help, please report it."
        )
    )
