"""Tests of how and where a network runs."""

from __future__ import annotations

import time

import pytest
import torch

from scribblesegment.errors import DeviceError
from scribblesegment.inference import devices
from scribblesegment.inference.devices import ExecutionPlan, choose_plan, device_problem, prepare, resolve_device, run
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig


@pytest.fixture
def network() -> ScribbleUNet:
    torch.manual_seed(0)
    return ScribbleUNet(ScribbleUNetConfig(features=(4, 6, 8))).eval()


def test_the_processor_always_works() -> None:
    assert device_problem("cpu") is None
    assert resolve_device("cpu") == "cpu"


def test_auto_finds_a_device_that_computes() -> None:
    assert device_problem(resolve_device("auto")) is None


def test_a_device_that_cannot_compute_is_refused_with_a_remedy() -> None:
    absent = "cuda:97"
    with pytest.raises(DeviceError, match=r"'cuda:97' cannot run the network: .+ Choose 'auto' or 'cpu'"):
        resolve_device(absent)


def test_a_device_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(DeviceError, match="abacus"):
        resolve_device("abacus")


def test_the_plan_is_measured_and_names_its_device(network: ScribbleUNet) -> None:
    plan = choose_plan(network, torch.zeros(1, 5, 16, 16))
    assert plan.device == "cpu"
    assert plan.milliseconds is not None
    assert plan.milliseconds > 0


def test_bfloat16_is_not_tried_without_hardware_for_it(network: ScribbleUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bfloat16_units", lambda: False)
    tried: list[ExecutionPlan] = []
    original = devices.prepare
    monkeypatch.setattr(devices, "prepare", lambda net, plan: tried.append(plan) or original(net, plan))
    choose_plan(network, torch.zeros(1, 5, 16, 16))
    assert tried
    assert not any(plan.bfloat16 for plan in tried)


def test_the_fastest_candidate_wins(network: ScribbleUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {True: 1.0, False: 5.0}
    now = [0.0]

    def fake_run(prepared: torch.nn.Module, example: torch.Tensor, plan: ExecutionPlan) -> torch.Tensor:
        now[0] += cost[plan.channels_last] + (1.0 if plan.bfloat16 else 0.0)
        return example

    monkeypatch.setattr(devices, "run", fake_run)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: now[0])
    plan = choose_plan(network, torch.zeros(1, 5, 16, 16))
    assert plan.channels_last
    assert not plan.bfloat16
    assert plan.milliseconds == pytest.approx(1000.0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_layout_and_threads_do_not_change_the_logits(network: ScribbleUNet, channels_last: bool) -> None:
    example = torch.rand(1, 5, 16, 16)
    with torch.no_grad():
        expected = network(example)
    plan = ExecutionPlan(channels_last=channels_last, threads=1)
    torch.testing.assert_close(run(prepare(network, plan), example, plan), expected, atol=1e-5, rtol=1e-5)


def test_bfloat16_changes_the_logits_only_by_its_rounding(network: ScribbleUNet) -> None:
    example = torch.rand(1, 5, 16, 16)
    with torch.no_grad():
        expected = network(example)
    plan = ExecutionPlan(bfloat16=True, channels_last=True)
    logits = run(prepare(network, plan), example, plan)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.05, rtol=0.05)


def test_running_gives_the_process_its_thread_count_back(network: ScribbleUNet) -> None:
    before = torch.get_num_threads()
    plan = ExecutionPlan(threads=1)
    run(prepare(network, plan), torch.zeros(1, 5, 16, 16), plan)
    assert torch.get_num_threads() == before


def test_preparing_leaves_the_network_as_it_was(network: ScribbleUNet) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepare(network, ExecutionPlan(bfloat16=True))
    assert all(parameter.requires_grad for parameter in network.parameters())
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


@pytest.mark.gpu
def test_a_gpu_computes_the_same_logits(network: ScribbleUNet) -> None:
    example = torch.rand(1, 5, 16, 16)
    with torch.no_grad():
        expected = network(example)
    plan = ExecutionPlan(device="cuda", channels_last=True)
    torch.testing.assert_close(run(prepare(network, plan), example, plan), expected, atol=1e-3, rtol=1e-3)


def test_one_thread_is_used_where_it_is_faster():
    def faster_alone() -> None:
        time.sleep(0.001 if torch.get_num_threads() == 1 else 0.02)

    def faster_together() -> None:
        time.sleep(0.02 if torch.get_num_threads() == 1 else 0.001)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert devices.best_thread_count(faster_alone) == 1
        assert devices.best_thread_count(faster_together) is None
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_bfloat16_is_used_where_the_processor_multiplies_it():
    assert devices.computes_bfloat16("cpu") == devices.has_bfloat16_units()
