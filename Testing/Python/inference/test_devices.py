"""How and where a network runs."""

from __future__ import annotations

import time

import pytest
import torch

from scribblesegment.errors import DeviceError
from scribblesegment.inference import devices
from scribblesegment.inference.devices import ExecutionPlan, device_problem, prepare, resolve_device, run
from scribblesegment.models.unet import ScribbleUNet, ScribbleUNetConfig


@pytest.fixture
def network() -> ScribbleUNet:
    torch.manual_seed(0)
    return ScribbleUNet(ScribbleUNetConfig(features=(4, 6, 8))).eval()


def test_a_device_that_computes_is_found_and_another_refused_with_a_remedy() -> None:
    assert resolve_device("cpu") == "cpu"
    assert device_problem(resolve_device("auto")) is None
    for absent in ("cuda:97", "abacus"):  # the second is unknown to torch
        with pytest.raises(DeviceError, match=rf"'{absent}' cannot run the network: .+ Choose 'auto' or 'cpu'"):
            resolve_device(absent)


def test_without_pytorch_there_is_the_processor_alone(monkeypatch) -> None:
    monkeypatch.setattr(devices, "torch_problem", lambda: "PyTorch is not installed.")
    assert [resolve_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(DeviceError, match=r"'cuda' cannot run the network: PyTorch is not installed\. Choose"):
        resolve_device("cuda")


@pytest.mark.parametrize("units", [True, False])
def test_bfloat16_is_used_only_with_hardware_for_it(monkeypatch, units) -> None:
    monkeypatch.setattr(devices, "has_bfloat16_units", lambda: units)
    assert ExecutionPlan.usual("cpu") == ExecutionPlan("cpu", bfloat16=units, channels_last=True)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_format_layout_and_threads_do_not_change_the_logits_nor_the_process_and_the_network(network, device) -> None:
    example, before, threads = torch.rand(1, 5, 16, 16), network.state_dict(), torch.get_num_threads()
    before = {name: value.clone() for name, value in before.items()}
    with torch.no_grad():
        expected = network(example)
    for bfloat16, channels_last, tolerance in ((False, False, 1e-5), (False, True, 1e-5), (True, True, 0.05)):
        plan = ExecutionPlan(device, bfloat16=bfloat16, channels_last=channels_last, threads=1)
        logits = run(prepare(network, plan), example, plan)
        assert logits.dtype == torch.float32
        tolerance = tolerance if device == "cpu" else max(tolerance, 1e-3)
        torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)
    assert torch.get_num_threads() == threads
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_one_thread_is_used_where_it_is_faster() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for fast, best in ((1, 1), (2, None)):
            wait = lambda fast=fast: time.sleep(0.001 if torch.get_num_threads() == fast else 0.02)  # noqa: E731
            assert devices.best_thread_count(wait) == best
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_numpy_takes_the_number_of_threads_that_is_faster_at_the_moment(monkeypatch):
    now, threads, seconds = 0.0, 4, {4: 1.0, 1: 0.1}

    def use(count):
        nonlocal threads
        threads = count

    def multiply(*matrices):
        nonlocal now
        now += seconds[threads]

    monkeypatch.setattr(devices, "_openblas", lambda: (lambda: threads, use))
    monkeypatch.setattr(devices.time, "perf_counter", lambda: now)
    monkeypatch.setattr(devices.time, "monotonic", lambda: now)
    monkeypatch.setattr(devices.np, "matmul", multiply)
    runner = devices.NumpyThreads()
    assert [runner.run(lambda: threads) for _ in range(3)] == [1, 1, 1]
    assert threads == 4, "the process has its own setting back"
    seconds[1] = 3.0  # the other core is free now
    assert runner.run(lambda: threads) == 1
    now += 60.0
    assert runner.run(lambda: threads) == 4


def test_openblas_of_this_numpy_is_found_or_nothing_is():
    found = devices._openblas()
    if found is not None:
        before = found[0]()
        found[1](1)
        assert found[0]() == 1
        found[1](before)
        assert found[0]() == before
