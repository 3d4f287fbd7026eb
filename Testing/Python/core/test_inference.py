"""Tests of the service that predicts beside the user interface; its thread is real, its networks mostly are not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scribblesegment import Prompts
from scribblesegment.errors import DeviceError, PromptError, ScribbleSegmentError, WeightsError
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.service.service import PredictorService, SliceOutcome, SliceRequest

LONG = 60.0  # seconds that no test reaches unless it fails
SHAPE = (6, 8)


class OutOfMemoryError(RuntimeError):
    """By its name what torch raises when a graphics card is full."""


class FakePredictor:
    """Answers with the image it was given, after a gate that is open unless a test closes it."""

    def __init__(self, device: str = "cpu") -> None:
        self.plan = ExecutionPlan(device, milliseconds=12.0)
        self.images: list[np.ndarray] = []
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.errors: list[Exception] = []

    def set_image(self, image: np.ndarray, *, spacing_mm: object, intensity_range: object) -> None:
        self.images.append(image)

    def predict(self, prompts: Prompts) -> SimpleNamespace:
        self.began.set()
        assert self.gate.wait(LONG)
        if self.errors:
            raise self.errors.pop(0)
        return SimpleNamespace(logits=self.images[-1].astype(np.float32))


class Loader:
    """Loads fakes, or fails; remembers what it was asked for."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked: list[tuple[str, str]] = []
        self.loaded: list[FakePredictor] = []

    def __call__(self, model: str, device: str) -> FakePredictor:
        self.asked.append((model, device))
        if self.errors:
            raise self.errors.pop(0)
        self.loaded.append(FakePredictor("cpu" if device == "auto" else device))
        return self.loaded[-1]


MakeService = Callable[..., PredictorService]


@pytest.fixture
def service_of() -> Iterator[MakeService]:
    services: list[PredictorService] = []

    def make(*arguments: Loader) -> PredictorService:
        services.append(PredictorService(*arguments))
        return services[-1]

    yield make
    assert all(service.close(LONG) for service in services)


def a_request(value: float = 1.0, token: object = None) -> SliceRequest:
    stroke = np.zeros(SHAPE, dtype=bool)
    stroke[2, 2:5] = True
    return SliceRequest(
        image=np.full(SHAPE, value),
        image_token=value if token is None else token,
        spacing_mm=(1.0, 1.0),
        intensity_range=None,
        prompts=Prompts.empty(SHAPE).with_scribble(stroke),
    )


def outcomes_of(service: PredictorService) -> list[SliceOutcome]:
    outcomes = []
    while service.busy:
        service.wait(LONG)
        outcomes += service.poll()
    return outcomes


def answer(service: PredictorService, request: SliceRequest | None = None) -> SliceOutcome:
    ticket = service.submit(request or a_request())
    [outcome] = outcomes_of(service)
    assert outcome.ticket == ticket
    return outcome


def settle(service: PredictorService) -> None:
    """Wait until what was prepared is loaded, or failed."""
    while service.state.kind in ("idle", "loading"):
        service.wait(LONG)


def inference_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ScribbleSegment inference"]


# What comes back ---------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_and_no_thread_starts_before_it_is_asked_for(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    service.choose("some-model", "cpu")
    assert loader.asked == []
    assert inference_threads() == []
    assert (service.state.kind, service.state.model, service.state.device) == ("idle", "some-model", "cpu")
    assert not service.busy


def test_a_request_loads_the_network_and_is_answered(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    outcome = answer(service, a_request(3.0))
    assert outcome.error is None
    assert outcome.logits is not None
    assert (outcome.logits == 3.0).all()
    assert outcome.seconds > 0
    assert loader.asked == [("default", "auto")]


def test_the_newest_request_wins(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service)
    predictor = loader.loaded[0]
    predictor.gate.clear()
    predictor.began.clear()
    first = service.submit(a_request(1.0))
    assert predictor.began.wait(LONG)
    tickets = [service.submit(a_request(value)) for value in (2.0, 3.0, 4.0)]
    predictor.gate.set()
    outcomes = outcomes_of(service)
    assert [outcome.ticket for outcome in outcomes] == [first, tickets[-1]]
    assert outcomes[-1].logits is not None
    assert (outcomes[-1].logits == 4.0).all()


def test_an_equal_token_means_the_same_image(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    for token in ("a", "a", "b", "b", "a"):
        answer(service, a_request(token=token))
    assert len(loader.loaded[0].images) == 3


def test_an_image_that_was_refused_is_not_taken_for_set(
    service_of: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service, a_request(token="good"))
    predictor = loader.loaded[0]
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "set_image", lambda image, **_: predictor.predict(image.nonsense))
        assert answer(service, a_request(token="bad")).error is not None
    for token in ("bad", "good"):
        assert answer(service, a_request(token=token)).error is None
    assert len(predictor.images) == 3


def test_an_error_comes_back_and_the_next_request_is_answered(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service)
    error = PromptError("All prompts are negative.")
    loader.loaded[0].errors = [error]
    outcome = answer(service)
    assert outcome.error is error
    assert outcome.logits is None
    assert service.state.kind == "ready"
    assert answer(service).error is None


def test_an_unforeseen_error_is_explained_with_its_cause(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service)
    loader.loaded[0].errors = [ZeroDivisionError("division by zero\nand more")]
    error = answer(service).error
    assert isinstance(error, ScribbleSegmentError)
    assert "ZeroDivisionError: division by zero)" in str(error)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert answer(service).error is None


# The thread --------------------------------------------------------------------------------------------------------


def test_close_joins_the_thread(service_of: MakeService) -> None:
    service = service_of(Loader())
    answer(service)
    assert len(inference_threads()) == 1
    assert service.close(LONG)
    assert inference_threads() == []
    assert service.state.kind == "idle"


def test_rest_ends_the_thread_and_keeps_the_network(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service)
    assert service.rest(LONG)
    assert inference_threads() == []
    assert service.state.kind == "ready"
    assert answer(service).error is None
    assert len(loader.asked) == 1


def test_a_request_after_close_loads_again(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service)
    service.close(LONG)
    assert answer(service).error is None
    assert len(loader.asked) == 2


# What is loaded ----------------------------------------------------------------------------------------------------


def test_preparing_loads_without_an_outcome(service_of: MakeService) -> None:
    service = service_of(Loader())
    service.prepare()
    settle(service)
    assert (service.state.kind, service.state.device, service.state.milliseconds) == ("ready", "cpu", 12.0)
    assert service.poll() == []
    assert not service.busy


def test_preparing_does_not_replace_a_request(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service)
    predictor = loader.loaded[0]
    predictor.gate.clear()
    predictor.began.clear()
    service.submit(a_request())
    assert predictor.began.wait(LONG)
    waiting = service.submit(a_request())
    service.prepare()
    predictor.gate.set()
    assert outcomes_of(service)[-1].ticket == waiting


def test_another_choice_is_loaded_with_the_next_request_and_the_same_is_not(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service, a_request(token="same"))
    service.choose("default", "auto")
    answer(service, a_request(token="same"))
    service.choose("other.safetensors", "auto")
    assert service.state.kind == "idle"
    answer(service, a_request(token="same"))
    assert loader.asked == [("default", "auto"), ("other.safetensors", "auto")]
    assert [len(predictor.images) for predictor in loader.loaded] == [1, 1]
    assert service.state.model == "other.safetensors"


def test_a_choice_during_loading_is_not_overruled_by_what_was_loaded(service_of: MakeService) -> None:
    loading, go_on = threading.Event(), threading.Event()
    asked = []

    def load(model: str, device: str) -> FakePredictor:
        asked.append(model)
        loading.set()
        assert go_on.wait(LONG)
        return FakePredictor()

    service = service_of(load)
    service.submit(a_request())
    assert loading.wait(LONG)
    assert service.state.kind == "loading"
    service.choose("newer")
    go_on.set()
    outcomes_of(service)
    assert (service.state.kind, service.state.model) == ("idle", "newer")
    answer(service)
    assert asked == ["default", "newer"]
    assert service.state.kind == "ready"


# What can go wrong -------------------------------------------------------------------------------------------------


def test_a_failed_load_is_a_state_and_an_outcome_that_say_what_to_do(service_of: MakeService) -> None:
    loader = Loader(DeviceError("Device 'cuda:9' cannot run the network. Choose 'auto' or 'cpu'."))
    service = service_of(loader)
    service.choose("default", "cuda:9")
    outcome = answer(service)
    assert isinstance(outcome.error, DeviceError)
    state = service.state
    assert (state.kind, state.device, state.message) == ("failed", "cuda:9", str(outcome.error))


@pytest.mark.parametrize("again", ["choose the same", "choose another", "retry"])
def test_a_failed_load_is_repeated_only_when_asked_for(service_of: MakeService, again: str) -> None:
    error = DeviceError("The device is gone. Choose 'cpu'.")
    loader = Loader(error)
    service = service_of(loader)
    for _ in range(3):
        assert answer(service).error is error
    assert len(loader.asked) == 1
    if again == "retry":
        service.retry()
    else:
        service.choose("default", "auto" if again == "choose the same" else "cpu")
    assert service.state.kind == "idle"
    assert answer(service).error is None
    assert len(loader.asked) == 2


def test_without_torch_the_user_is_sent_to_set_up(service_of: MakeService) -> None:
    # find_spec tells that torch is there in this test's Python, so the cause may have gone at once.
    loader = Loader(ModuleNotFoundError("No module named 'torch'", name="torch"))
    service = service_of(loader)
    error = answer(service).error
    assert "The Python package torch is not installed" in str(error)
    assert "press 'Set up' in the module Scribble Segment" in str(error)
    assert service.state.message == str(error)


def test_a_package_that_was_missing_is_looked_for_with_every_request(
    service_of: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    loader = Loader(ModuleNotFoundError("No module named 'a_package'", name="a_package"))
    service = service_of(loader)
    for _ in range(2):
        assert answer(service).error is not None
    assert len(loader.asked) == 1
    (tmp_path / "a_package.py").touch()
    assert answer(service).error is None


@pytest.mark.parametrize(
    "error",
    [
        OSError("libcudart.so.12: cannot open shared object file: No such file or directory"),
        ImportError("DLL load failed while importing _C: The specified module could not be found."),
        ModuleNotFoundError("No module named 'torch._C'", name="torch._C"),
    ],
    ids=["library", "dll", "part"],
)
def test_a_broken_torch_is_to_be_installed_again(service_of: MakeService, error: Exception) -> None:
    loader = Loader(error)
    service = service_of(loader)
    for _ in range(2):
        message = str(answer(service).error)
        assert str(error) in message
        assert "install it again, then restart Slicer" in message
    assert len(loader.asked) == 1


def test_vanished_weights_are_reported_and_found_again_when_they_are_back(
    service_of: MakeService, tmp_path: Path
) -> None:
    path = tmp_path / "gone.safetensors"
    service = service_of()
    service.choose(str(path))
    error = answer(service).error
    assert isinstance(error, WeightsError)
    assert str(path) in str(error)
    assert service.state.kind == "failed"

    from scribblesegment.weights.registry import find_weights

    path.write_bytes(find_weights().path().read_bytes())
    assert answer(service).error is None
    path.unlink()
    assert answer(service).error is None


def test_a_file_that_must_not_be_read_is_no_broken_torch(service_of: MakeService) -> None:
    loader = Loader(PermissionError(13, "Permission denied", "model.safetensors"))
    error = answer(service_of(loader)).error
    assert isinstance(error, WeightsError)
    assert "model.safetensors" in str(error)


def test_too_little_memory_is_said_in_words(service_of: MakeService) -> None:
    loader = Loader(MemoryError())
    service = service_of(loader)
    assert "not enough memory" in str(answer(service).error)
    assert answer(service).error is None
    loader.loaded[0].errors = [RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes")]
    error = answer(service).error
    assert isinstance(error, DeviceError)
    assert "not enough memory" in str(error)


# Falling back to the processor -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("CUDA"), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")], ids=["new", "old"]
)
def test_a_full_graphics_card_sends_the_request_to_the_processor(service_of: MakeService, error: Exception) -> None:
    loader = Loader()
    service = service_of(loader)
    service.choose("default", "cuda")
    answer(service)
    loader.loaded[0].errors = [error]
    outcome = answer(service, a_request(5.0))
    assert outcome.error is None
    assert outcome.logits is not None
    assert (outcome.logits == 5.0).all()
    assert loader.asked == [("default", "cuda"), ("default", "cpu")]
    assert (service.state.kind, service.state.device) == ("ready", "cpu")
    assert "graphics card is full, so the network runs on the processor" in service.state.message
    answer(service)
    assert len(loader.asked) == 2


def test_a_card_too_full_to_load_on_is_replaced_by_the_processor(service_of: MakeService) -> None:
    loader = Loader(OutOfMemoryError("CUDA out of memory"))
    service = service_of(loader)
    assert answer(service).error is None
    assert loader.asked == [("default", "auto"), ("default", "cpu")]
    assert "runs on the processor" in service.state.message


def test_after_falling_back_retry_tries_the_device_again(service_of: MakeService) -> None:
    loader = Loader(OutOfMemoryError("CUDA out of memory"))
    service = service_of(loader)
    answer(service)
    service.retry()
    answer(service)
    assert loader.asked[-1] == ("default", "auto")
    assert service.state.message == ""


def test_it_falls_back_only_once_for_a_request(service_of: MakeService) -> None:
    asked = []

    def load(model: str, device: str) -> FakePredictor:
        asked.append(device)
        predictor = FakePredictor(device)
        predictor.errors = [OutOfMemoryError("out of memory")] * 3
        return predictor

    service = service_of(load)
    service.choose("default", "cuda")
    assert "not enough memory" in str(answer(service).error)
    assert asked == ["cuda", "cpu"]


def test_a_device_that_stops_working_is_replaced_by_the_processor(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    service.choose("default", "cuda:97")  # which no computer has, so its check fails
    answer(service)
    loader.loaded[0].errors = [RuntimeError("CUDA error: unspecified launch failure")]
    assert answer(service).error is None
    assert service.state.device == "cpu"
    assert "The device cuda:97 stopped working" in service.state.message


def test_an_error_of_the_network_is_not_blamed_on_a_device_that_works(service_of: MakeService) -> None:
    loader = Loader()
    service = service_of(loader)
    answer(service)
    loader.loaded[0].errors = [RuntimeError("mat1 and mat2 shapes cannot be multiplied")]
    assert "shapes cannot be multiplied" in str(answer(service).error)
    assert len(loader.asked) == 1


# The real network --------------------------------------------------------------------------------------------------


def test_the_embedded_network_finds_a_disc(service_of: MakeService) -> None:
    service = service_of()
    service.choose("default", "cpu")
    service.prepare()
    settle(service)
    assert service.state.kind == "ready"
    rows, columns = np.ogrid[:128, :160]
    from_centre = np.hypot(rows - 60, columns - 90)
    disc = from_centre <= 30
    image = 50 * disc + np.random.default_rng(0).normal(100, 4, disc.shape)
    prompts = (
        Prompts.empty(disc.shape)
        .with_scribble(abs(from_centre - 20) < 1.5)
        .with_scribble(abs(from_centre - 40) < 1.5, positive=False)
    )
    outcome = answer(service, SliceRequest(image, "disc", (1.0, 1.0), None, prompts))
    assert outcome.error is None
    assert outcome.logits is not None
    assert outcome.logits.dtype == np.float32
    mask = outcome.logits > 0
    assert 2 * (mask & disc).sum() / (mask.sum() + disc.sum()) > 0.8
    assert service.state.milliseconds is not None
