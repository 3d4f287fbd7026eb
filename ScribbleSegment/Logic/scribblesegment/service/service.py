"""Predictions beside a window: one service that loads a network on a thread of its own and runs it there.

Everything that can go wrong (PyTorch absent or broken, weights gone, memory full) becomes a typed error whose message
says what to do, as the exception of a task and in the service's state.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextSet, SliceContext
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import DeviceError, ScribbleSegmentError, WeightsError, is_installed
from scribblesegment.service.worker import Task, Worker

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor
    from scribblesegment.propagation import AnnotatedSegment, Propagation

T = TypeVar("T")
Logits = NDArray[np.float32]

_SET_UP = "In 3D Slicer, press 'Install PyTorch' in the module Scribble Segment"

_DURATIONS = 15


@dataclass(frozen=True, eq=False)
class SliceRequest:
    """One slice to segment."""

    read: Callable[[], NDArray[Any]]  # gives (H, W) real numbers; called on the thread that segments, if at all
    image_token: Hashable  # equal for equal image, spacing and intensity range; their part is computed once
    spacing_mm: tuple[float, float]  # distance of neighbouring (rows, columns)
    intensity_range: IntensityRange | None  # of the whole volume; None to estimate it from the slice
    prompts: Prompts  # on the pixels of the image
    context: SliceContext | None = None  # examples; not used by networks that take none
    newest: bool | None = None  # see `Predictor.predict`

    @cached_property
    def image(self) -> NDArray[Any]:
        """The pixels, read when they are first asked for: to interpolate an oblique slice takes a while."""
        return self.read()


@dataclass(frozen=True, eq=False)
class PropagationJob:
    """Segments to propagate through a volume."""

    volume: Volume
    axis: int  # of the array: 0 = K, 1 = J, 2 = I
    segments: Mapping[int, AnnotatedSegment]  # by label, from 1
    index_range: tuple[int, int] | None = None  # half-open range of slices that may be segmented; None for all
    protected: NDArray[np.bool_] | None = None  # (K, J, I), voxels that are not segmented; None for none
    source: str = ""  # name of the volume, as in the entries of context sets
    intensity_range: IntensityRange | None = None  # as for slices; None to estimate it from the volume
    threshold: float = 0.5  # probability from which a pixel belongs to a structure


@dataclass(frozen=True)
class ServiceState:
    """Where the service stands."""

    kind: Literal["idle", "loading", "ready", "failed"]  # "idle" before anything was loaded
    model: str  # name or path of the chosen model, as it was asked for
    device: str  # where the network runs; until it is loaded, the device that was asked for, perhaps "auto"
    message: str = ""  # what the user should know or do
    milliseconds: float | None = None  # median of the newest predictions; before the first, of a run when measured
    takes_context: bool = False  # whether the network segments in context; False until it is loaded


@dataclass(frozen=True)
class _Choice:
    """What to load; a higher number was chosen later."""

    number: int
    model: str
    device: str


class InferenceService:
    """Segments slices and propagates segments on a thread of its own, with the network of the user's choice.

    One service serves everything in the application that predicts. Its thread does the newest task first, and starts
    with the first one. Every method is called from one thread, normally the main one; `state` may be read from any.
    What goes wrong is the exception of a task, always a ScribbleSegmentError; methods raise nothing.
    """

    def __init__(self, load: Callable[[str, str], Predictor] | None = None) -> None:
        """Make a service that has loaded nothing yet.

        Args:
            load: Loads a predictor, given a model's name or path and a device; `load_predictor` when absent.
        """
        self._load_predictor = load or _load_predictor
        self._worker = Worker("ScribbleSegment inference")
        # What both threads touch, under the lock.
        self._lock = threading.Lock()
        self._wanted = _Choice(0, "default", "auto")
        self._state = ServiceState("idle", self._wanted.model, self._wanted.device)
        # What only the worker's thread touches, as long as it runs.
        self._current: _Choice | None = None
        self._network: _LoadedNetwork | None = None
        self._failure: ScribbleSegmentError | None = None
        self._durations: deque[float] = deque(maxlen=_DURATIONS)  # of predictions, in milliseconds

    @property
    def state(self) -> ServiceState:
        """A snapshot; it never changes by itself."""
        with self._lock:
            return self._state

    @property
    def busy(self) -> bool:
        """Whether a task waits or runs."""
        return self._worker.busy

    def choose(self, model: str = "default", device: str = "auto") -> None:
        """Choose network and device; the next task loads them unless they are in use already.

        Args:
            model: A name of `list_weights()`, "default", or the path of a weights file.
            device: "auto" or a torch device name.
        """
        same = (model, device) == (self._wanted.model, self._wanted.device)
        if not same or self.state.kind == "failed":
            self._want(model, device)

    def retry(self) -> None:
        """Load again with the next task, as after a failure, or after the processor had to stand in."""
        self._want(self._wanted.model, self._wanted.device)

    def prepare(self) -> Task[None]:
        """Load the network now, so that the first request finds it ready. `state` shows how it goes."""
        return self._submit(lambda task: self._use(lambda network: None), supersede="prepare")

    def expect(self, request: SliceRequest) -> Task[None]:
        """Get ready for a slice that is about to be asked for, as while a stroke is drawn; its prompts do not count."""
        return self._submit(lambda task: self._use(lambda network: network.expect(request)), supersede="expect")

    def segment_slice(self, request: SliceRequest) -> Task[Logits]:
        """Predict a slice. The result is float32 (H, W), unthresholded."""
        return self._submit(lambda task: self._use(lambda network: self._predict(network, request)))

    def propagate(self, job: PropagationJob) -> Task[dict[int, Propagation]]:
        """Propagate segments, while slices wait; cancelling ends it after the slice it is at.

        The task's partial results are `PropagatedSlice`s as they are made; one that comes twice counts the last time.
        Its value is what was done, by label, also after an error. Its progress counts slices, those of each segment.
        Of an earlier result all is kept that the changes of the accepted slices cannot reach; if nothing would be left
        to do for any segment, all is propagated again.
        """
        return self._submit(lambda task: self._use(lambda network: network.propagate(job, task)))

    def wait(self, seconds: float) -> bool:
        """Let the thread run until a task has ended, nothing is left to do, or time is up; see `Worker.wait`."""
        return self._worker.wait(seconds)

    def rest(self, timeout_s: float = 0.25) -> bool:
        """Cancel all tasks and end the thread, but keep the network: the next task starts at once.

        Returns:
            Whether the thread ended within `timeout_s`; if not, it ends after the slice it is at.
        """
        return self._worker.close(timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Cancel all tasks, end the thread and let go of the network; a later task would load it again.

        Returns:
            Whether the thread ended within `timeout_s`; if not, it ends after what it is doing.
        """
        ended = self.rest(timeout_s)
        self._want(self._wanted.model, self._wanted.device)
        if ended:
            self._unload()
        return ended

    def _want(self, model: str, device: str) -> None:
        with self._lock:
            self._wanted = _Choice(self._wanted.number + 1, model, device)
            self._state = ServiceState("idle", model, device)

    def _submit(self, work: Callable[[Task[T]], T], *, supersede: Hashable | None = None) -> Task[T]:
        def explained(task: Task[T]) -> T:
            try:
                return work(task)
            except ScribbleSegmentError:
                raise
            except BaseException as error:
                raise explain(error) from error

        return self._worker.submit(explained, supersede=supersede)

    # On the worker's thread -------------------------------------------------------------------------------------

    def _predict(self, network: _LoadedNetwork, request: SliceRequest) -> Logits:
        began = time.perf_counter()
        logits = network.predict(request)
        with self._lock:
            if self._state.kind == "ready" and self._current == self._wanted:
                self._durations.append(1000.0 * (time.perf_counter() - began))
                self._state = replace(self._state, milliseconds=float(np.median(self._durations)))
        return logits

    def _use(self, work: Callable[[_LoadedNetwork], T]) -> T:
        """Work with the network; once on the processor instead, where the device fails."""
        network = self._ready_network()
        try:
            return work(network)
        except Exception as error:
            notice = _fall_back_notice(error, network.predictor.plan.device)
            choice = self._current
            if notice is None or choice is None:
                raise
        # Outside of the handler, because the traceback holds on to the memory that has run out.
        del network
        return work(self._load(choice, "cpu", notice))

    def _ready_network(self) -> _LoadedNetwork:
        """Give what is chosen, loaded if need be; a failure is repeated as long as its cause is there."""
        with self._lock:
            wanted = self._wanted
        if wanted == self._current:
            if self._network is not None:
                return self._network
            if self._failure is not None and not _may_have_gone(self._failure):
                raise self._failure
        self._current = wanted
        return self._load(wanted, wanted.device)

    def _load(self, choice: _Choice, device: str, notice: str = "") -> _LoadedNetwork:
        """Load a network; on the processor, with a notice to the user, where the device has no room for it."""
        self._unload()
        self._publish(ServiceState("loading", choice.model, device, "The network is being loaded."))
        try:
            predictor = self._load_predictor(choice.model, device)
        except Exception as error:
            fall_back = _fall_back_notice(error, device)
            if fall_back is None:
                self._failure = explain(error)
                self._publish(ServiceState("failed", choice.model, choice.device, str(self._failure)))
                raise self._failure from error
        else:
            self._network = network = _LoadedNetwork(predictor)
            self._durations.clear()
            in_context = network.takes_context
            self._publish(ServiceState("ready", choice.model, predictor.plan.device, notice, None, in_context))
            return network
        return self._load(choice, "cpu", fall_back)

    def _publish(self, state: ServiceState) -> None:
        """Set the state, unless something else was chosen meanwhile."""
        with self._lock:
            if self._current == self._wanted:
                self._state = state

    def _unload(self) -> None:
        self._network, self._failure = None, None
        torch = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
            # Slicer's rendering needs that memory, too. A device that has gone cannot give anything back.
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()


class _LoadedNetwork:
    """A predictor, and the context that was chosen for it last."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.takes_context = "context" in predictor.capabilities
        self._choice: tuple[Hashable, ContextSet, ContextSet] | None = None

    def predict(self, request: SliceRequest) -> Logits:
        self._set(request)
        return self.predictor.predict(request.prompts, newest=request.newest).logits

    def expect(self, request: SliceRequest) -> None:
        self._set(request)
        self.predictor.encode()

    def _set(self, request: SliceRequest) -> None:
        predictor = self.predictor
        if predictor.image_token is None or predictor.image_token != request.image_token:
            predictor.image_token = None
            predictor.set_image(request.image, spacing_mm=request.spacing_mm, intensity_range=request.intensity_range)
            predictor.image_token = request.image_token
        if self.takes_context:
            predictor.set_context(self._chosen(request))

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

    def propagate(self, job: PropagationJob, task: Task[dict[int, Propagation]]) -> dict[int, Propagation]:
        """Propagate until it is done or cancelled; goes on from what the task has already."""
        # Here, because it is only needed for this.
        from scribblesegment.propagation import PropagationConfig, PropagationRun

        self.predictor.image_token = None
        done = task.value or {}

        def start(earlier: Mapping[int, Propagation | None]) -> PropagationRun:
            return PropagationRun(
                self.predictor,
                job.volume,
                {
                    label: replace(
                        segment,
                        context=segment.context if self.takes_context else None,
                        previous=earlier.get(label),
                    )
                    for label, segment in job.segments.items()
                },
                job.axis,
                config=PropagationConfig(threshold=job.threshold),
                index_range=job.index_range,
                protected=job.protected,
                source=job.source,
                intensity_range=job.intensity_range,
                progress=lambda part, text: task.set_progress(part, text, run.made, run.slices_per_second),
                cancelled=lambda: task.cancelled,
            )

        run = start({label: done.get(label, segment.previous) for label, segment in job.segments.items()})
        if not run.remaining and not done:
            run = start({})
        try:
            for piece in run:
                task.put(piece)
        finally:
            result = dict(run.result())
            task.set_result(result)
        return result


def explain(error: BaseException) -> ScribbleSegmentError:
    """Say what went wrong, and what to do about it, where a network could not be loaded or run.

    An error of this package is returned as it is.
    """
    if isinstance(error, ScribbleSegmentError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.isidentifier():
        explained = ScribbleSegmentError(
            f"The Python package {error.name} is not installed. {_SET_UP}; elsewhere, install it with pip."
        )
    elif isinstance(error, OSError) and error.filename is not None:
        explained = WeightsError(f"The model cannot be read: {error}. Check the file, or choose another model.")
    elif isinstance(error, (ImportError, OSError)):
        explained = ScribbleSegmentError(
            f"A Python package that the network needs is damaged or does not fit this computer: {error}. {_SET_UP} "
            "to install it again, then restart Slicer; elsewhere, install it again with pip."
        )
    elif _is_out_of_memory(error):
        explained = DeviceError(
            "There is not enough memory to run the network. Close other volumes or programs, and retry."
        )
    else:
        details = (str(error).strip() or "no details").splitlines()[0]
        explained = ScribbleSegmentError(
            f"The network failed ({type(error).__name__}: {details}). Choose another model or device; if that does "
            "not help, please report it."
        )
    explained.__cause__ = error
    return explained


def _may_have_gone(failure: ScribbleSegmentError) -> bool:
    """Whether loading again costs little and may end differently, without the user having changed anything."""
    cause = failure.__cause__
    if isinstance(cause, ModuleNotFoundError) and cause.name and cause.name.isidentifier():
        importlib.invalidate_caches()
        return is_installed(cause.name)
    return isinstance(failure, WeightsError) or (cause is not None and _is_out_of_memory(cause))


def _load_predictor(model: str, device: str) -> Predictor:
    # Here, because it imports what may be missing.
    from scribblesegment.inference.predictor import load_predictor
    from scribblesegment.weights.registry import default_weights

    # What "default" stands for depends on whether PyTorch works, not on whether it is there.
    return load_predictor("default" if model == default_weights(torch=True) else model, device=device)


def _fall_back_notice(error: BaseException, device: str) -> str | None:
    """What to tell the user when the processor stands in; None where an error is not the device's fault."""
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
        "it again in the module Scribble Segment."
    )


def _is_out_of_memory(error: BaseException) -> bool:
    # Older releases of torch, and its processor, raise a plain RuntimeError.
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text))
    )
