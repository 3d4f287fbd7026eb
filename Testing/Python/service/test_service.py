"""The service that predicts beside a window: its thread is real, its networks mostly are not."""

from __future__ import annotations

import re
import threading
import time

import numpy as np
import pytest
from slice_predictors import Brightness

from scribblesegment import Prompts, Volume
from scribblesegment.context.context_set import ContextEntry, ContextSet, SliceContext
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.errors import DeviceError, PromptError, ScribbleSegmentError, WeightsError
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.propagation import AnnotatedSegment
from scribblesegment.service.service import InferenceService, PropagationJob, SliceRequest, explain

LONG = 300.0  # seconds that no test reaches unless it fails, on a busy machine either
SHAPE = (10, 12)


class OutOfMemoryError(RuntimeError):
    """By its name what torch raises when a graphics card is full."""


class Network(Brightness):
    """Sees what is bright near what is expected, or the image; waits for its gate; fails when told to."""

    def __init__(self, device="cpu", capabilities=("scribbles", "context")):
        super().__init__(trust=1.0, capabilities=capabilities)
        self.plan = ExecutionPlan(device)
        self.gate, self.entered = threading.Semaphore(10**9), 0
        self.errors, self.fails_after = [], 0

    def predict(self, prompts, *, newest=None, cancelled=None):
        self.entered += 1
        assert self.gate.acquire(timeout=LONG)
        if self.errors and len(self.prompts) >= self.fails_after:
            raise self.errors.pop(0)
        return super().predict(prompts)

    def see(self, prompts):
        return self.images[-1][0] if prompts.mask_input is None else super().see(prompts)

    def until_entered(self, count):
        end = time.monotonic() + LONG
        while self.entered < count:
            assert time.monotonic() < end
            time.sleep(0.002)


class Loader:
    """Loads such networks, or fails; remembers what it was asked for."""

    def __init__(self, *errors, capabilities=("scribbles",)):
        self.errors, self.capabilities = list(errors), capabilities
        self.asked, self.loaded = [], []

    def __call__(self, model, device):
        self.asked.append((model, device))
        if self.errors:
            raise self.errors.pop(0)
        self.loaded.append(Network("cpu" if device == "auto" else device, self.capabilities))
        return self.loaded[-1]


def inference_threads():
    return [thread for thread in threading.enumerate() if thread.name == "ScribbleSegment inference"]


@pytest.fixture
def service_of():
    services = []

    def make(*load):
        services.append(InferenceService(*load))
        return services[-1]

    yield make
    assert all(service.close(LONG) for service in services)
    assert inference_threads() == []


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def service(service_of, loader):
    return service_of(loader)


def a_request(value=1.0, context=None, **changes):
    fields = {
        "read": lambda: np.full(SHAPE, value),
        "image_token": value,
        "spacing_mm": (1.0, 1.0),
        "intensity_range": IntensityRange(0.0, 10.0),
        "prompts": Prompts.empty(SHAPE).with_click((2, 3)),
    }
    return SliceRequest(**{**fields, **changes}, context=context)


def ended(task):
    assert task.wait(LONG)
    return task


def answer(service, request=None):
    return ended(service.segment_slice(request or a_request())).result()


def failure(service, request=None):
    error = ended(service.segment_slice(request or a_request())).exception()
    assert isinstance(error, ScribbleSegmentError)
    return error


# Slices -------------------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_before_the_first_request_and_again_only_after_another_choice(service, loader):
    service.choose("some-model", "cpu")
    assert (loader.asked, inference_threads(), service.busy) == ([], [], False)
    state = service.state
    assert (state.kind, state.model, state.device, state.message) == ("idle", "some-model", "cpu", "")
    assert (answer(service, a_request(3.0)) == 3.0).all()
    assert service.state.kind == "ready"
    assert service.state.milliseconds > 0
    service.choose("some-model", "cpu")
    answer(service, a_request(3.0))
    service.choose("other.safetensors", "auto")
    assert service.state.kind == "idle"
    answer(service, a_request(3.0))
    assert loader.asked == [("some-model", "cpu"), ("other.safetensors", "auto")]
    assert [network.calls.count("image") for network in loader.loaded] == [1, 1]
    assert service.state.model == "other.safetensors"


def test_the_newest_waiting_request_is_answered_first_and_one_that_is_cancelled_never(service, loader):
    assert ended(service.prepare()).result() is None
    assert (service.state.kind, service.state.device, service.state.milliseconds) == ("ready", "cpu", None)
    network = loader.loaded[0]
    network.gate = threading.Semaphore(0)
    tasks = [service.segment_slice(a_request(5.0))]
    network.until_entered(1)
    tasks += [service.segment_slice(a_request(value)) for value in (6.0, 7.0)]
    cancelled = service.segment_slice(a_request(9.0))
    cancelled.cancel()
    prepared = [service.prepare(), service.prepare()]
    assert prepared[0].cancelled
    network.gate.release(100)
    assert [ended(task).result()[0, 0] for task in tasks] == [5.0, 6.0, 7.0]
    assert not ended(prepared[1]).cancelled
    assert [image[0, 0] for image, *_ in network.images] == [5.0, 7.0, 6.0]
    assert len(loader.asked) == 1


def test_an_equal_token_means_the_same_image_unless_it_was_refused(service, loader, monkeypatch):
    for token in ("a", "a", "b", "b", "a"):
        answer(service, a_request(image_token=token))
    network = loader.loaded[0]
    assert network.calls.count("image") == 3
    assert ended(service.expect(a_request(image_token="b"))).exception() is None
    assert network.calls[-2:] == ["image", "encode"]
    answer(service, a_request(image_token="b"))
    answer(service, a_request(image_token="a"))
    assert network.calls.count("image") == 5
    with monkeypatch.context() as patch:
        patch.setattr(network, "set_image", lambda image, **how: image.nonsense)
        failure(service, a_request(image_token="bad"))
    for token in ("bad", "a"):
        answer(service, a_request(image_token=token))
    assert network.calls.count("image") == 7


# Contexts -----------------------------------------------------------------------------------------------------------


def entry(name, value=0.5, *, source="", index=None):
    image = np.full(SHAPE, value, np.float32)
    image[int(10 * value) % SHAPE[0]] = 1.0
    axis = None if index is None else 0
    return ContextEntry(image, image > 0.9, (1.0, 1.0), source=source, axis=axis, index=index, identifier=name)


def context(*names):
    return SliceContext(ContextSet("liver", tuple(entry(name) for name in names)))


@pytest.mark.parametrize("takes_context", [True, False])
def test_each_prediction_has_its_own_image_and_context(service_of, monkeypatch, takes_context):
    loader, chosen = Loader(capabilities=("scribbles", "context")[: 1 + takes_context]), []
    original = SliceContext.chosen
    monkeypatch.setattr(SliceContext, "chosen", lambda *a, **k: chosen.append(a) or original(*a, **k))
    service, first = service_of(loader), context("a", "b")
    assert not service.state.takes_context
    for value, examples in ((1, first), (1, context("c")), (2, None), (1, first), (1, first)):
        answer(service, a_request(value, examples))
    assert service.state.takes_context == takes_context
    shown = [one and [entry.identifier for entry in one] for one in loader.loaded[0].contexts]
    assert shown == ([["a", "b"], ["c"], None, ["a", "b"], ["a", "b"]] if takes_context else [])
    assert len(chosen) == (3 if takes_context else 0)  # once for each slice


# The thread and the choice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "kind", "loads"), [("close", "idle", 2), ("rest", "ready", 1)])
def test_ending_joins_the_thread_and_the_next_request_starts_another(service, loader, end, kind, loads):
    answer(service)
    assert len(inference_threads()) == 1
    assert getattr(service, end)(LONG)
    assert inference_threads() == []
    assert service.state.kind == kind
    answer(service)
    assert len(loader.asked) == loads


def test_a_choice_during_loading_is_not_overruled_by_what_was_loaded(service_of):
    loading, go_on, asked = threading.Event(), threading.Event(), []

    def load(model, device):
        asked.append(model)
        loading.set()
        assert go_on.wait(LONG)
        return Network()

    service = service_of(load)
    task = service.segment_slice(a_request())
    assert loading.wait(LONG)
    assert service.state.kind == "loading"
    service.choose("newer")
    go_on.set()
    ended(task)
    assert (service.state.kind, service.state.model) == ("idle", "newer")
    answer(service)
    assert asked == ["default", "newer"]
    assert service.state.kind == "ready"


# What can go wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["choose the same", "choose another", "retry"])
def test_a_failed_load_is_a_state_and_is_repeated_only_when_asked_for(service_of, again):
    error = DeviceError("Device 'cuda:9' cannot run the network. Choose 'auto' or 'cpu'.")
    loader = Loader(error)
    service = service_of(loader)
    service.choose("default", "cuda:9")
    for _ in range(3):
        assert failure(service) is error
    assert (service.state.kind, service.state.device, service.state.message) == ("failed", "cuda:9", str(error))
    assert len(loader.asked) == 1
    if again == "retry":
        service.retry()
    else:
        service.choose("default", "cuda:9" if again == "choose the same" else "cpu")
    assert service.state.kind == "idle"
    answer(service)
    assert len(loader.asked) == 2


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ModuleNotFoundError("torch", name="torch"), ScribbleSegmentError, "torch is not.*press 'Install PyTorch' in"),
        (OSError("libcudart.so.12: cannot open"), ScribbleSegmentError, r"libcudart\.so\.12.*restart Slicer"),
        (ImportError("DLL load failed: _C"), ScribbleSegmentError, "DLL load.*install it again, then restart Slicer"),
        (ModuleNotFoundError("No 'torch._C'", name="torch._C"), ScribbleSegmentError, r"torch\._C.*install it again"),
        (PermissionError(13, "denied", "model.safetensors"), WeightsError, r"model\.safetensors.*Check the file"),
        (MemoryError(), DeviceError, "not enough memory.*Close other volumes"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), DeviceError, "not enough memory"),
        (
            ZeroDivisionError("by zero\nand more"),
            ScribbleSegmentError,
            r"\(ZeroDivisionError: by zero\).*please report",
        ),
        (ValueError(""), ScribbleSegmentError, "ValueError: no details"),
        (PromptError("Only background is marked."), PromptError, "Only background"),
    ],
)
def test_errors_are_explained_with_what_to_do_and_the_next_request_is_answered(service, loader, error, kind, words):
    explained = explain(error)
    assert type(explained) is kind
    assert re.search(words, str(explained))
    assert explained is error or explained.__cause__ is error
    answer(service)
    loader.loaded[0].errors = [error]
    assert str(failure(service)) == str(explained)
    assert service.state.kind == "ready"
    answer(service)


@pytest.mark.parametrize(
    ("error", "repeated"),
    [
        (ImportError("DLL"), False),
        (MemoryError(), True),
        (WeightsError("It is gone."), True),
        (ModuleNotFoundError("No module named 'a_package'", name="a_package"), False),
        (ModuleNotFoundError("No module named 'json'", name="json"), True),  # installed meanwhile
    ],
)
def test_loading_is_tried_again_where_that_costs_little_and_may_help(service_of, error, repeated):
    loader = Loader(error)
    service = service_of(loader)
    assert service.state.message == ""
    assert str(failure(service)) == service.state.message
    again = ended(service.segment_slice(a_request())).exception()
    assert (again is None) == repeated
    assert len(loader.asked) == 1 + repeated


def test_vanished_weights_are_reported_and_found_again_when_they_are_back(service_of, tmp_path):
    from scribblesegment.weights.registry import find_weights

    path = tmp_path / "gone.safetensors"
    service = service_of()
    service.choose(str(path))
    error = failure(service)
    assert isinstance(error, WeightsError)
    assert str(path) in str(error)
    assert service.state.kind == "failed"
    path.write_bytes(find_weights().path().read_bytes())
    answer(service)
    path.unlink()
    answer(service)


# Falling back to the processor --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("CUDA"), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")], ids=["new", "old"]
)
def test_a_full_graphics_card_sends_the_request_to_the_processor_and_retry_back(service, loader, error):
    service.choose("default", "cuda")
    loader.errors = [error]  # no room for the network
    assert (answer(service, a_request(5.0)) == 5.0).all()
    assert loader.asked == [("default", "cuda"), ("default", "cpu")]
    assert (service.state.kind, service.state.device) == ("ready", "cpu")
    service.retry()
    answer(service)
    assert (loader.asked[-1], service.state.message) == (("default", "cuda"), "")
    loader.loaded[-1].errors = [error]  # none for a slice
    assert (answer(service, a_request(6.0)) == 6.0).all()
    assert "graphics card is full, so the network runs on the processor" in service.state.message
    answer(service)
    assert len(loader.asked) == 4
    loader.loaded[-1].errors = [OutOfMemoryError("out of memory")]  # which the processor has no stand-in for
    assert "not enough memory" in str(failure(service))
    assert len(loader.asked) == 4


def test_a_device_that_stops_working_is_replaced_and_one_that_works_is_not_blamed(service, loader):
    pytest.importorskip("torch")
    service.choose("default", "cuda:97")  # which no computer has, so its check fails
    answer(service)
    loader.loaded[0].errors = [RuntimeError("CUDA error: unspecified launch failure")]
    answer(service)
    assert service.state.device == "cpu"
    assert "The device cuda:97 stopped working" in service.state.message
    loader.loaded[1].errors = [RuntimeError("mat1 and mat2 shapes cannot be multiplied")]
    assert "shapes cannot be multiplied" in str(failure(service))
    assert len(loader.asked) == 2


# Propagation --------------------------------------------------------------------------------------------------------


def job_of(*accepted, context=None, **options):
    array = np.zeros((9, *SHAPE), np.float32)
    array[2:8, 3:8, 3:9] = 100.0
    slices = {index: array[index] > 50 for index in accepted}
    segment = AnnotatedSegment(slices, "block", context)
    return PropagationJob(Volume(array, np.eye(4)), 0, {1: segment}, **options)


def test_slices_come_as_they_are_made_and_then_the_result(service_of):
    network, protected = Network(), np.zeros((9, *SHAPE), bool)
    protected[5, 3:8, 3:6] = True
    network.gate = threading.Semaphore(2)
    service = service_of(lambda model, device: network)
    task = service.propagate(job_of(4, index_range=(3, 7), protected=protected))
    network.until_entered(3)  # at the third, those before it have been handed over
    assert {piece.index for piece in task.take()} == {3, 5}
    assert task.take() == []
    assert not task.done
    assert 0 < task.progress.fraction < 1
    assert task.progress.count == 2
    network.gate.release(100)
    slices = ended(task).result()[1].slices
    assert sorted(slices) == [3, 5, 6]
    assert not (slices[5].mask & protected[5]).any()
    assert task.progress.per_second > 0
    request = a_request(0.0, context("a"), prompts=Prompts.empty(SHAPE).with_mask_input(np.zeros(SHAPE, np.float32)))
    network.calls.clear()
    answer(service, request)  # gets its own image and context again
    assert network.calls == ["image", "context", "predict"]
    assert [one.identifier for one in network.contexts[-1]] == ["a"]


def test_resting_ends_it_after_the_slice_in_work(service_of):
    network = Network()
    network.gate = threading.Semaphore(1)
    service = service_of(lambda model, device: network)
    task = service.propagate(job_of(4))
    network.until_entered(2)
    assert not service.rest(0.0)
    network.gate.release(100)
    result = ended(task).result()[1]
    assert result.cancelled
    assert len(result.slices) <= 2


def test_when_the_device_is_full_the_processor_goes_on_where_it_stopped(service_of):
    networks = []

    def load(model, device):
        networks.append(Network("cpu" if device == "cpu" else "cuda:0"))
        if device != "cpu":
            networks[-1].errors, networks[-1].fails_after = [RuntimeError("CUDA out of memory")], 2
        return networks[-1]

    service = service_of(load)
    task = ended(service.propagate(job_of(4)))
    assert sorted(task.result()[1].slices) == [2, 3, 5, 6, 7]
    assert [network.plan.device for network in networks] == ["cuda:0", "cpu"]
    assert len(networks[0].prompts) == 2
    assert len(networks[1].prompts) < 7
    assert "processor" in service.state.message
