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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from scribblesegment.exceptions import DeviceError, ScribbleSegmentError, WeightsError
from scribblesegment.loaded_predictor import LoadedPredictor, SlicePredictor
from scribblesegment.propagation_request import PropagationFeed
from scribblesegment.slice_request import SliceOutcome, SliceRequest
from scribblesegment.worker import JobOutcome, Worker

__all__ = ["PredictorService", "ServiceState", "SlicePredictor", "Worker", "explain"]

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
    from scribblesegment.predictor import load_predictor

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
        from scribblesegment.devices import device_problem

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
