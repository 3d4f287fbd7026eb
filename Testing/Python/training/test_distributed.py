from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from scribblesegment.errors import ConfigError, DeviceError
from scribblesegment.training import loop
from scribblesegment.training.checkpoint import load_checkpoint
from scribblesegment.training.config import TrainingConfig, config_to_dict
from scribblesegment.training.loop import Processes, processes, train


@pytest.fixture(autouse=True)
def _no_group(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_without_torchrun_there_is_one_process():
    with processes("cpu") as group:
        assert group == Processes(0, 1, torch.device("cpu"))
        assert group.is_main
        assert group.any(True)
        assert not group.any(False)
        assert not torch.distributed.is_initialized()


def test_torchrun_with_one_process_needs_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with processes("cpu") as group:
        assert group.count == 1
        assert not torch.distributed.is_initialized()


def test_auto_is_the_processor_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with processes("auto") as group:
        assert group.device == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:1"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(DeviceError, match=f"auto, cpu or cuda, got '{name}'"), processes(name):
        pass


def test_a_gpu_that_is_not_there_is_told_with_the_process(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "97")
    message = r"Training process 97 cannot use cuda:97: .*no more processes than"
    with pytest.raises(DeviceError, match=message), processes("cuda"):
        pass


def test_a_batch_that_cannot_be_shared_is_refused(discs, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "processes", lambda device: nullcontext(Processes(0, 3, torch.device("cpu"))))
    with pytest.raises(ConfigError, match="batch_size 4 does not divide among 3 processes"):
        train([discs], tiny, tmp_path)


# Trains, and lets rank 1 alone ask to stop where the second argument says so; each rank keeps its parameters.
_WORKER = """
import os, sys
from pathlib import Path
import torch
from scribblesegment.training import loop
from scribblesegment.training.config import load_config
from scribblesegment.training.corpus import load_corpus

rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
take_step = loop._Run.train_step
taken = []

def record(run, batch):
    values = take_step(run, batch)
    taken.append({name: value.clone() for name, value in run.network.state_dict().items()})
    return values

loop._Run.train_step = record
torch.set_num_threads(1)
stops = sys.argv[2] == "stop" and rank == 1
config, sets = load_config(folder / "config.json"), load_corpus(folder / "corpus")
loop.train(sets, config, folder / "run", device="cpu", workers=1, cancelled=lambda: stops)
torch.save(taken, folder / f"rank{rank}.pt")
"""


@pytest.fixture
def torchrun(tmp_path, save_set) -> Callable[..., list[list[dict[str, torch.Tensor]]]]:
    """Train in two processes; gives the parameters of every step in every rank."""

    def start(config: TrainingConfig, argument: str) -> list[list[dict[str, torch.Tensor]]]:
        save_set()
        (tmp_path / "config.json").write_text(json.dumps(config_to_dict(config)), encoding="utf-8")
        (tmp_path / "worker.py").write_text(_WORKER, encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        with subprocess.Popen(
            [*command, str(tmp_path / "worker.py"), str(tmp_path), argument],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=300)
            finally:
                process.terminate()  # torchrun then ends its workers, which a kill would leave behind
        assert process.returncode == 0, output
        return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]

    return start


@pytest.mark.slow
def test_two_processes_train_as_one(torchrun, discs, tiny, tmp_path):
    config = replace(tiny, steps=2, rounds=2)
    first, second = torchrun(config, "train")
    assert len(first) == len(second) == 2
    torch.testing.assert_close(first, second, rtol=0, atol=0)

    alone = load_checkpoint(train([discs], config, tmp_path / "alone", device="cpu", workers=0))
    together = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert alone["step"] == together["step"] == 2
    torch.testing.assert_close(together["network"], alone["network"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(together["averaged"], alone["averaged"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_processes_stop_together_when_one_is_asked_to(torchrun, tiny, tmp_path):
    first, second = torchrun(tiny, "stop")
    assert len(first) == len(second) == 1
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 1


@pytest.mark.gpu
def test_on_a_gpu_every_process_has_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with processes("auto") as group:
        assert group.device == torch.device("cuda", 0)
