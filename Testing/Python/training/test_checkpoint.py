from __future__ import annotations

import errno
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.errors import ConfigError, FileFormatError, WeightsError
from scribblesegment.models.factory import build_network
from scribblesegment.training.checkpoint import check_same_run, export_network, load_checkpoint, save_checkpoint
from scribblesegment.training.config import ContextConfig, TrainingConfig, config_to_dict
from scribblesegment.weights.checkpoints import load_network
from scribblesegment.weights.registry import fetch_weights


def a_state(config: TrainingConfig, step: int = 3) -> dict[str, Any]:
    network = build_network(config.network.name, config.network.options)
    optimizer = torch.optim.Adam(network.parameters())
    return {
        "config": config_to_dict(config),
        "step": step,
        "network": network.state_dict(),
        "averaged": {name: value + 0.25 for name, value in network.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_is_read_as_it_was_written(tiny, tmp_path):
    state = a_state(tiny)
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    read = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (read["step"], read["config"]) == (3, state["config"])
    torch.testing.assert_close(read["averaged"], state["averaged"], rtol=0, atol=0)
    assert files_in(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("failed writing")])
def test_a_full_disk_leaves_the_previous_checkpoint(tiny, tmp_path, monkeypatch, error):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, a_state(tiny, step=1))

    def write_half(state, target):
        Path(target).write_bytes(b"half a state")
        raise error

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(WeightsError, match=r"checkpoint was not written: .*An earlier checkpoint is intact"):
        save_checkpoint(path, a_state(tiny, step=2))
    monkeypatch.undo()
    assert load_checkpoint(path)["step"] == 1
    assert files_in(tmp_path) == ["checkpoint.pt"]


def test_a_limit_of_the_system_leaves_the_previous_checkpoint(tiny, tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, a_state(tiny, step=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(WeightsError, match="not written"):
            save_checkpoint(path, a_state(tiny, step=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path)["step"] == 1
    assert files_in(tmp_path) == ["checkpoint.pt"]


def test_an_interruption_while_writing_leaves_the_previous_checkpoint(tiny, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, a_state(tiny, step=1))

    def interrupted(state, target):
        Path(target).write_bytes(b"half a state")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, a_state(tiny, step=2))
    monkeypatch.undo()
    assert load_checkpoint(path)["step"] == 1
    assert files_in(tmp_path) == ["checkpoint.pt"]


def test_a_folder_that_is_gone_is_told(tiny, tmp_path):
    with pytest.raises(WeightsError, match=r"not written: .*does not exist"):
        save_checkpoint(tmp_path / "gone" / "checkpoint.pt", a_state(tiny))


def test_a_folder_without_permission_is_told(tiny, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        (folder / "probe").touch()
    except PermissionError:
        with pytest.raises(WeightsError, match=r"not written: .*Permission denied"):
            save_checkpoint(folder / "checkpoint.pt", a_state(tiny))
    else:
        pytest.skip("this user may write everywhere")
    finally:
        folder.chmod(0o700)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pt: No such file"):
        load_checkpoint(tmp_path / "none.pt")


class _TouchWhenLoaded:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_code_in_a_checkpoint_is_not_run(tmp_path, write):
    path = tmp_path / "checkpoint.pt"
    write({"config": _TouchWhenLoaded(tmp_path / "ran")}, path)
    with pytest.raises(WeightsError, match="could run code"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"step": 5}, [1, 2]])
def test_what_is_no_training_state_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt is no checkpoint of a training run"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("written") / "checkpoint.pt"
    save_checkpoint(path, a_state(TrainingConfig()) | {"network": {}, "averaged": {}, "optimizer": {}})
    return path.read_bytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_or_read_and_nothing_else_happens(tmp_path, written, data):
    content = bytearray(written)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    try:
        state = load_checkpoint(path)
    except WeightsError as error:
        assert "damaged.pt" in str(error)  # noqa: PT017 (an undamaged reading is allowed too)
    else:
        assert {"config", "step"} <= set(state)


def test_another_configuration_is_refused_field_by_field(tiny):
    state = a_state(tiny)
    other = TrainingConfig(**{**vars(tiny), "learning_rate": 0.5, "steps": 9})
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.001 -> 0\.5; steps: 6 -> 9\. Use the same"):
        check_same_run(state, other, Path("checkpoint.pt"))


def test_how_a_run_is_watched_may_change(tiny):
    other = TrainingConfig(**{**vars(tiny), "log_every": 50, "checkpoint_every": 77})
    check_same_run(a_state(tiny), other, Path("checkpoint.pt"))


def test_the_averaged_parameters_are_exported(tiny, tmp_path):
    state = a_state(tiny)
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    export_network(tmp_path / "checkpoint.pt", tmp_path / "net.safetensors", licence="Apache-2.0")
    network, description = load_network(tmp_path / "net.safetensors")
    assert (description.architecture, description.size) == ("scribble_unet", tiny.size)
    assert (description.name, description.licence) == ("net", "Apache-2.0")
    for name, value in network.state_dict().items():
        np.testing.assert_allclose(value, state["averaged"][name].half(), atol=0)


def test_an_export_may_be_named(tiny, tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", a_state(tiny))
    export_network(tmp_path / "checkpoint.pt", tmp_path / "net.safetensors", name="First")
    assert load_network(tmp_path / "net.safetensors")[1].name == "First"


@pytest.mark.parametrize(("focus_p", "focus_size"), [(0.0, 0), (0.25, 48)])
def test_a_network_is_exported_as_taking_second_looks_only_where_it_was_trained_to(tiny, tmp_path, focus_p, focus_size):
    save_checkpoint(tmp_path / "checkpoint.pt", a_state(replace(tiny, focus_p=focus_p)))
    export_network(tmp_path / "checkpoint.pt", tmp_path / "net.safetensors")
    assert load_network(tmp_path / "net.safetensors")[1].focus_size == focus_size


@pytest.mark.parametrize(("max_size", "takes_context"), [(0, False), (8, True)])
def test_a_network_is_exported_as_taking_contexts_only_where_it_was_trained_to(tiny, tmp_path, max_size, takes_context):
    config = replace(tiny, data=replace(tiny.data, context=ContextConfig(max_size=max_size)))
    save_checkpoint(tmp_path / "checkpoint.pt", a_state(config))
    export_network(tmp_path / "checkpoint.pt", tmp_path / "net.safetensors")
    assert ("context" in load_network(tmp_path / "net.safetensors")[1].capabilities) is takes_context


def test_a_checkpoint_from_before_second_looks_is_exported_without(tiny, tmp_path):
    state = a_state(tiny)
    del state["config"]["focus_p"]
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    export_network(tmp_path / "checkpoint.pt", tmp_path / "net.safetensors")
    assert load_network(tmp_path / "net.safetensors")[1].focus_size == 0


def test_an_export_into_a_missing_folder_is_refused(tiny, tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", a_state(tiny))
    with pytest.raises(FileFormatError, match="does not exist"):
        export_network(tmp_path / "checkpoint.pt", tmp_path / "gone" / "net.safetensors")


def test_the_mean_with_the_weights_of_an_earlier_run_may_be_exported(tiny, tmp_path):
    first = a_state(tiny)
    second = {**first, "averaged": {name: value + 1.0 for name, value in first["averaged"].items()}}
    save_checkpoint(tmp_path / "first.pt", first)
    save_checkpoint(tmp_path / "second.pt", second)
    export_network(tmp_path / "first.pt", tmp_path / "first.safetensors")
    export_network(tmp_path / "second.pt", tmp_path / "mean.safetensors", mean_with=tmp_path / "first.safetensors")
    for name, value in load_network(tmp_path / "mean.safetensors")[0].state_dict().items():
        np.testing.assert_allclose(value, first["averaged"][name] + 0.5, atol=2e-3)


def test_there_is_no_mean_with_another_network(tiny, tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", a_state(tiny))
    other = fetch_weights("scribble-unet-embedded")
    with pytest.raises(WeightsError, match="different networks"):
        export_network(tmp_path / "checkpoint.pt", tmp_path / "mean.safetensors", mean_with=other)
    assert not (tmp_path / "mean.safetensors").exists()
