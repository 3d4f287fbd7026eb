from __future__ import annotations

import numpy as np
import pytest
import torch
from batch_folders import a_context
from slice_predictors import SlicePredictor

from scribblesegment.batch.network import check_takes_context, load_for_batch, repeatable_plan, weights_digest
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, DeviceError, WeightsError
from scribblesegment.models.factory import build_network
from scribblesegment.weights.checkpoints import NetworkDescription, save_network

OPTIONS = {"features": [8, 16]}


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    description = NetworkDescription(
        "context_unet", OPTIONS, capabilities=("clicks", "context", "scribbles"), temperature=1.5
    )
    save_network(path, build_network("context_unet", OPTIONS).state_dict(), description)
    return path


def test_a_network_is_loaded_as_its_file_describes_it(weights):
    predictor = load_for_batch(weights, device="cpu", threads=1)
    assert predictor.capabilities == {"clicks", "context", "scribbles"}
    assert (predictor.temperature, predictor.name) == (1.5, "tiny")


def test_how_it_is_run_is_not_measured(weights, monkeypatch):
    def measure(*args, **options):
        raise AssertionError

    monkeypatch.setattr("scribblesegment.inference.predictor.choose_plan", measure)
    monkeypatch.setattr("scribblesegment.inference.devices.choose_plan", measure)
    plans = {load_for_batch(weights, device="cpu", threads=threads).plan for threads in (1, 1, 2)}
    assert {plan.threads for plan in plans} == {1, 2}
    assert len(plans) == 2


def test_two_processes_would_compute_the_same_bits(weights):
    logits = []
    for _ in range(2):
        predictor = load_for_batch(weights, device="cpu", threads=1)
        predictor.set_image(np.linspace(0, 1, 20 * 24).reshape(20, 24))
        predictor.set_context(a_context())
        logits.append(predictor.predict(Prompts.empty((20, 24))).logits)
    assert np.array_equal(*logits)


def test_a_network_that_takes_no_context_is_refused(tmp_path):
    path = tmp_path / "plain.safetensors"
    save_network(
        path, build_network("scribble_unet", OPTIONS).state_dict(), NetworkDescription("scribble_unet", OPTIONS)
    )
    with pytest.raises(ConfigError, match=r"plain\.safetensors takes no context"):
        load_for_batch(path, device="cpu", threads=1)
    with pytest.raises(ConfigError, match="takes no context"):
        check_takes_context(SlicePredictor(capabilities=("scribbles",)), "it")


def test_a_device_that_is_not_there_is_told(weights):
    with pytest.raises(DeviceError, match="nonsense"):
        repeatable_plan(torch.nn.Identity(), "nonsense", 1)


def test_weights_are_told_apart_by_their_bytes(tmp_path):
    paths = [tmp_path / name for name in ("a.pt", "b.pt", "c.pt")]
    for path, content in zip(paths, (b"1", b"1", b"2"), strict=True):
        path.write_bytes(content)
    first, second, third = map(weights_digest, paths)
    assert first == second != third
    with pytest.raises(WeightsError, match=r"Cannot read the weights file .*d\.pt"):
        weights_digest(tmp_path / "d.pt")
