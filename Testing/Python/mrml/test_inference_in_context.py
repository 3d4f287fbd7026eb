"""Predictions in context and propagation on the inference thread: what the predictor is given, and when."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from slice_predictors import Brightness

from scribblesegment import Prompts
from scribblesegment.context.context_set import CONTEXT_LIMIT, ContextEntry, ContextSet, SliceContext, same_entries
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.errors import PromptError
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.service.service import (
    PredictorService,
    PropagationFeed,
    PropagationRequest,
    SegmentToPropagate,
    SliceRequest,
)

SHAPE = (10, 12)
LONG = 60.0


class Recording:
    """Remembers what it was given, in order."""

    def __init__(self, capabilities=("scribbles", "context"), device="cpu") -> None:
        self.capabilities = frozenset(capabilities)
        self.plan = ExecutionPlan(device, milliseconds=1.0)
        self.calls: list[tuple[str, object]] = []

    def set_image(self, image, *, spacing_mm, intensity_range):
        self.calls.append(("image", float(image[0, 0])))
        self.shape = image.shape

    def set_context(self, context):
        self.calls.append(("context", None if context is None else [entry.identifier for entry in context]))

    def predict(self, prompts):
        self.calls.append(("predict", None))
        return SimpleNamespace(logits=np.zeros(self.shape, np.float32))

    def since(self):
        calls, self.calls = self.calls, []
        return calls


def entry(name, value=0.5, *, source="", index=None):
    image = np.full(SHAPE, value, np.float32)
    image[int(10 * value) % SHAPE[0]] = 1.0
    axis = None if index is None else 0
    return ContextEntry(image, image > 0.9, (1.0, 1.0), source=source, axis=axis, index=index, identifier=name)


def request(value, context=None):
    return SliceRequest(
        image=np.full(SHAPE, value),
        image_token=value,
        spacing_mm=(1.0, 1.0),
        intensity_range=IntensityRange(0.0, 10.0),
        prompts=Prompts.empty(SHAPE).with_click((2, 3)),
        context=context,
    )


@pytest.fixture
def serve():
    services = []

    def make(predictor):
        services.append(PredictorService(lambda model, device: predictor))
        return services[-1]

    yield make
    assert all(service.close(LONG) for service in services)


def answer(service, one):
    service.submit(one)
    outcomes = []
    while service.busy:
        service.wait(LONG)
        outcomes += service.poll()
    return outcomes[-1]


# Contexts of slices -------------------------------------------------------------------------------------------------


def test_a_context_is_set_before_a_prediction_and_again_only_when_it_changes(serve):
    predictor = Recording()
    service = serve(predictor)
    first, second = ContextSet("liver", (entry("a"), entry("b"))), ContextSet("liver", (entry("c"),))
    answer(service, request(1, SliceContext(first)))
    assert predictor.since() == [("image", 1.0), ("context", ["a", "b"]), ("predict", None)]
    answer(service, request(1, SliceContext(first)))
    assert predictor.since() == [("predict", None)]
    answer(service, request(2, SliceContext(first)))
    assert predictor.since() == [("image", 2.0), ("predict", None)]
    answer(service, request(2, SliceContext(second)))
    assert predictor.since() == [("context", ["c"]), ("predict", None)]
    answer(service, request(2))
    assert predictor.since() == [("context", None), ("predict", None)]


def test_a_context_that_gives_way_is_not_matched_with_the_next_image(serve):
    predictor = Recording()
    service = serve(predictor)
    answer(service, request(1, SliceContext(ContextSet("liver", (entry("a"),)))))
    predictor.since()
    answer(service, request(2, SliceContext(ContextSet("liver", (entry("b"),)))))
    assert predictor.since() == [("context", None), ("image", 2.0), ("context", ["b"]), ("predict", None)]


def test_a_network_that_takes_no_context_is_never_given_one(serve):
    predictor = Recording(capabilities=("scribbles", "clicks"))
    service = serve(predictor)
    answer(service, request(1, SliceContext(ContextSet("liver", (entry("a"),)))))
    assert predictor.since() == [("image", 1.0), ("predict", None)]
    assert service.state.kind == "ready"
    assert not service.state.takes_context


def test_the_state_says_whether_the_network_takes_a_context(serve):
    service = serve(Recording())
    assert not service.state.takes_context
    answer(service, request(1))
    assert service.state.takes_context


def test_of_a_large_set_some_entries_are_chosen_in_the_order_of_the_set():
    entries = [entry(f"e{n}", n / 40, source="ct", index=n) for n in range(20)]
    context = SliceContext(ContextSet("liver", tuple(entries)), "ct", 0, 10)
    chosen = context.chosen(entries[10].image, spacing_mm=(1.0, 1.0))
    assert len(chosen) == CONTEXT_LIMIT
    indices = [one.index for one in chosen]
    assert indices == sorted(indices)
    assert {9, 11} <= set(indices)


def test_the_slice_itself_is_not_its_own_example():
    entries = [entry("a", source="ct", index=4), entry("b", source="ct", index=5), entry("c", source="mr", index=4)]
    everything = ContextSet("liver", tuple(entries))
    chosen = SliceContext(everything, "ct", 0, 4).chosen(np.zeros(SHAPE), spacing_mm=(1.0, 1.0))
    assert [one.identifier for one in chosen] == ["b", "c"]
    assert SliceContext(everything, "ct", 0, 9).chosen(np.zeros(SHAPE), spacing_mm=(1.0, 1.0)) is everything
    assert SliceContext(everything).chosen(np.zeros(SHAPE), spacing_mm=(1.0, 1.0)) is everything


def test_equal_sets_have_the_very_same_entries():
    a, b = entry("a"), entry("b")
    assert same_entries(ContextSet("x", (a, b)), ContextSet("y", (a, b)))
    assert not same_entries(ContextSet("x", (a, b)), ContextSet("x", (b, a)))
    assert not same_entries(ContextSet("x", (a,)), None)
    assert same_entries(ContextSet("x"), None)


# Propagation --------------------------------------------------------------------------------------------------------


class Network(Brightness):
    """Sees what is bright; waits while its gate is closed, and fails as often as it is told to."""

    def __init__(self, device="cpu", **options) -> None:
        super().__init__(trust=1.0, **options)
        self.plan = ExecutionPlan(device, milliseconds=1.0)
        self.gate = threading.Semaphore(10**9)
        self.errors: list[Exception] = []
        self.entered = 0

    def predict(self, prompts):
        self.entered += 1
        assert self.gate.acquire(timeout=LONG)
        if self.errors and len(self.prompts) >= 2:
            raise self.errors.pop()
        return super().predict(prompts)


def feed_of(*accepted, previous=None, **options):
    array = np.zeros((9, *SHAPE), np.float32)
    array[2:8, 3:8, 3:9] = 100.0
    slices = {index: array[index] > 50 for index in accepted}
    segment = SegmentToPropagate(slices, "block", previous=previous, **options)
    return PropagationFeed(PropagationRequest(array, np.eye(4), 0, {1: segment}))


def run(service, feed):
    service.propagate(feed)
    while not feed.ended:
        service.wait(0.01)
    return feed


def test_slices_come_as_they_are_made_and_then_the_result(serve):
    network = Network()
    network.gate = threading.Semaphore(2)
    service = serve(network)
    feed = feed_of(4)
    assert not feed.begun
    service.propagate(feed)
    while network.entered < 3:  # at the third, those before it have been handed over
        service.wait(0.01)
    assert {made.index for made in feed.take()} == {3, 5}
    assert feed.take() == []
    assert not feed.ended
    assert 0 < feed.progress.part < 1
    network.gate.release(100)
    while not feed.ended:
        service.wait(0.01)
    assert sorted(feed.result[1].slices) == [2, 3, 5, 6, 7]
    assert feed.error is None
    assert feed.progress.slices_per_second > 0
    assert not service.poll()


def test_cancelling_ends_after_the_slice_in_work(serve):
    network = Network()
    network.gate = threading.Semaphore(1)
    service = serve(network)
    feed = feed_of(4)
    service.propagate(feed)
    while network.entered < 2:
        service.wait(0.01)
    feed.cancel()
    network.gate.release(100)
    while not feed.ended:
        service.wait(0.01)
    assert feed.result[1].cancelled
    assert len(feed.result[1].slices) <= 2


def test_resting_cancels(serve):
    network = Network()
    network.gate = threading.Semaphore(1)
    service = serve(network)
    feed = feed_of(4)
    service.propagate(feed)
    while network.entered < 2:
        service.wait(0.01)
    network.gate.release(1)
    assert service.rest(LONG)
    assert feed.ended
    assert feed.result[1].cancelled


def test_a_slice_predicted_after_a_propagation_gets_its_own_image_and_context(serve):
    network = Network()
    service = serve(network)
    context = SliceContext(ContextSet("block", (entry("a"),)))
    one = SliceRequest(
        np.zeros(SHAPE),
        "token",
        (1.0, 1.0),
        IntensityRange(0.0, 1.0),
        Prompts.empty(SHAPE).with_mask_input(np.zeros(SHAPE, np.float32)),
        context,
    )
    answer(service, one)
    run(service, feed_of(4))
    network.calls.clear()
    network.contexts.clear()
    answer(service, one)
    assert network.calls == ["context", "image", "context", "predict"]
    assert [entry.identifier for entry in network.contexts[-1]] == ["a"]


def test_what_an_earlier_result_has_is_not_made_again_unless_nothing_would_be_left(serve):
    network = Network()
    service = serve(network)
    first = run(service, feed_of(3, 6)).result[1]
    made = len(network.images)
    again = run(service, feed_of(3, 5, 6, previous=first)).result[1]
    assert len(network.images) - made == 1
    assert again.reused == {2, 7}
    made = len(network.images)
    anew = run(service, feed_of(3, 6, previous=first)).result[1]
    assert len(network.images) - made >= 4
    assert anew.reused == frozenset()


def test_a_network_without_context_is_given_none_from_elsewhere_either(serve):
    network = Network(capabilities=("scribbles",))
    feed = run(serve(network), feed_of(4, context=ContextSet("block", (entry("a"),))))
    assert feed.error is None
    assert network.contexts == []
    assert len(feed.result[1].slices) == 5


def test_an_error_ends_it_and_what_was_done_is_there(serve):
    network = Network()
    network.errors = [ZeroDivisionError("a fault")]
    feed = run(serve(network), feed_of(4))
    assert "ZeroDivisionError" in str(feed.error)
    assert len(feed.result[1].slices) == 2


def test_what_cannot_be_propagated_is_an_error_too(serve):
    feed = run(serve(Network()), feed_of())
    assert isinstance(feed.error, PromptError)
    assert feed.result == {}


def test_when_the_device_is_full_the_processor_goes_on_where_it_stopped():
    made = []

    def load(model, device):
        made.append(Network("cpu" if device == "cpu" else "cuda:0"))
        if device != "cpu":
            made[-1].errors = [RuntimeError("CUDA out of memory")]
        return made[-1]

    service = PredictorService(load)
    feed = run(service, feed_of(4))
    assert feed.error is None
    assert sorted(feed.result[1].slices) == [2, 3, 5, 6, 7]
    assert [network.plan.device for network in made] == ["cuda:0", "cpu"]
    assert len(made[0].prompts) == 2
    assert len(made[1].prompts) < 7
    assert "processor" in service.state.message
    assert service.close(LONG)
