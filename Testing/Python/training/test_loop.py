from __future__ import annotations

import csv
import errno
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scribblesegment.errors import ConfigError, DatasetError, FileFormatError, TrainingError, WeightsError
from scribblesegment.models.context_unet import ContextUNet
from scribblesegment.models.factory import build_network
from scribblesegment.training import loop
from scribblesegment.training.checkpoint import export_network, load_checkpoint
from scribblesegment.training.config import ContextConfig, NetworkConfig, TrainingConfig
from scribblesegment.training.loop import learning_rate, segmentation_loss, train


class KilledError(Exception):
    """Stands for what ends a process between two lines of code."""


def read_log(folder: Path) -> list[dict[str, str]]:
    """Rows of the log without the speed, which is not the same in any two runs."""
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return [{name: row[name] for name in row if name != "samples_per_second"} for row in csv.DictReader(file)]


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-identical parameters, averages and optimiser, and the same log."""
    one, other = load_checkpoint(first / "checkpoint.pt"), load_checkpoint(second / "checkpoint.pt")
    assert one["step"] == other["step"]
    for part in ("network", "averaged", "optimizer"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
    assert read_log(first) == read_log(second)


def is_finite(state: dict[str, Any]) -> bool:
    return all(value.isfinite().all() for part in ("network", "averaged") for value in state[part].values())


@pytest.fixture(scope="module")
def once(discs, tiny, tmp_path_factory) -> Path:
    """The run of six steps, at once; not to be written to."""
    return train([discs], tiny, tmp_path_factory.mktemp("once"), device="cpu", workers=0).parent


def test_a_run_leaves_a_checkpoint_and_a_log(once, tiny):
    state = load_checkpoint(once / "checkpoint.pt")
    assert state["step"] == 6
    assert is_finite(state)
    log = read_log(once)
    assert [int(row["step"]) for row in log] == [1, 2, 3, 4, 5, 6]
    assert list(log[0]) == ["step", "learning_rate", "loss_1", "dice_1", "loss_2", "dice_2"]
    assert sorted(path.name for path in once.iterdir()) == ["checkpoint.pt", "log.csv"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_continues_as_if_nothing_had_happened(discs, tiny, tmp_path, once, workers):
    def kill(step: int, values: dict[str, float]) -> None:
        if step == 5:
            raise KilledError

    folder = tmp_path / "resumed"
    with pytest.raises(KilledError):
        train([discs], tiny, folder, device="cpu", workers=workers, report=kill)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 3
    assert len(read_log(folder)) == 5  # past the checkpoint; these lines must not stay
    steps: list[int] = []
    train([discs], tiny, folder, device="cpu", workers=workers, report=lambda step, values: steps.append(step))
    assert steps == [4, 5, 6]
    assert_same_run(folder, once)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(discs, tiny, tmp_path, once, workers):
    train([discs], tiny, tmp_path / "other", device="cpu", workers=workers)
    assert_same_run(tmp_path / "other", once)


def test_a_cancelled_run_is_saved_where_it_stopped_and_continues(discs, tiny, tmp_path, once):
    folder, asked = tmp_path / "cancelled", iter([False, True])
    train([discs], tiny, folder, device="cpu", workers=1, cancelled=lambda: next(asked))
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 2
    train([discs], tiny, folder, device="cpu", workers=1, cancelled=lambda: False)
    assert_same_run(folder, once)


def test_a_finished_run_is_left_alone(discs, tiny, once):
    before = {path.name: path.read_bytes() for path in once.iterdir()}
    steps: list[int] = []
    train([discs], tiny, once, device="cpu", workers=0, report=lambda step, values: steps.append(step))
    assert steps == []
    assert {path.name: path.read_bytes() for path in once.iterdir()} == before


def test_half_a_line_of_the_log_does_not_stop_a_run_from_continuing(discs, tiny, tmp_path, once):
    folder = tmp_path / "resumed"
    asked = iter([False, False, True])
    train([discs], tiny, folder, device="cpu", workers=0, cancelled=lambda: next(asked))
    with (folder / "log.csv").open("a", encoding="utf-8") as file:
        file.write("4,0.00")
    train([discs], tiny, folder, device="cpu", workers=0)
    assert_same_run(folder, once)


def test_continuing_with_another_configuration_names_the_field(discs, tiny, once):
    data = replace(tiny.data, augmentation=replace(tiny.data.augmentation, flip_p=0.25))
    before = (once / "checkpoint.pt").read_bytes()
    with pytest.raises(ConfigError, match=r"data\.augmentation\.flip_p: 0\.5 -> 0\.25\. Use the same"):
        train([discs], replace(tiny, data=data), once, device="cpu", workers=0)
    assert (once / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary_rounds": True}, r"vary_rounds: False -> True\."),
        ({"focus_p": 0.5}, r"focus_p: 0\.0 -> 0\.5\."),
        ({"network": NetworkConfig(options={"features": (4, 9)})}, r"network\.options\.features: \[4, 8\] -> \[4, 9\]"),
    ],
)
def test_continuing_with_another_network_or_other_looks_names_the_field(discs, tiny, once, changes, message):
    with pytest.raises(ConfigError, match=message):
        train([discs], replace(tiny, **changes), once, device="cpu", workers=0)


@pytest.fixture(scope="module")
def varied(tiny) -> TrainingConfig:
    """One to three rounds, and now and then a second look."""
    return replace(tiny, seed=4, batch_size=2, steps=8, rounds=3, vary_rounds=True, focus_p=0.5)


@pytest.fixture(scope="module")
def varied_run(discs, varied, tmp_path_factory) -> Path:
    return train([discs], varied, tmp_path_factory.mktemp("varied"), device="cpu", workers=0).parent


def test_rounds_and_second_looks_vary_and_the_columns_do_not(varied_run):
    log = read_log(varied_run)
    looks = [f"{what}_{look}" for look in ("1", "2", "3", "focus") for what in ("loss", "dice")]
    assert [list(row) for row in log] == [["step", "learning_rate", *looks]] * 8
    seen = [{look for look in looks if row[look]} for row in log]
    assert all({"loss_1", "dice_1"} <= names for names in seen)
    rounds = [max(int(name[-1]) for name in names if name[-1].isdigit()) for names in seen]
    assert set(rounds) == {1, 2, 3}
    for names, count in zip(seen, rounds, strict=True):
        assert all(f"loss_{index + 1}" in names for index in range(count))
    assert {"loss_focus" in names for names in seen} == {True, False}
    values = [float(row[look]) for row, names in zip(log, seen, strict=True) for look in names]
    assert all(math.isfinite(value) for value in values)


def test_without_second_looks_the_log_has_no_column_for_them(once):
    assert not any("focus" in name for name in read_log(once)[0])


def test_the_log_tells_means_since_its_last_line(discs, varied, varied_run, tmp_path):
    train([discs], replace(varied, log_every=4), tmp_path, device="cpu", workers=0)
    single, means = read_log(varied_run), read_log(tmp_path)
    assert [row["step"] for row in means] == ["4", "8"]
    for mean, rows in zip(means, (single[:4], single[4:]), strict=True):
        for name in mean:
            values = [float(row[name]) for row in rows if row[name]]
            if name != "step" and values:
                assert float(mean[name]) == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_a_run_stopped_between_two_lines_of_its_log_continues_with_the_same_numbers(discs, varied, tmp_path):
    config = replace(varied, log_every=4, checkpoint_every=3)
    train([discs], config, tmp_path / "once", device="cpu", workers=0)
    asked = iter([False, True])
    train([discs], config, tmp_path / "resumed", device="cpu", workers=0, cancelled=lambda: next(asked))
    assert not (tmp_path / "resumed" / "log.csv").exists()

    def kill(step: int, values: dict[str, float]) -> None:
        if step == 8:
            raise KilledError

    with pytest.raises(KilledError):
        train([discs], config, tmp_path / "resumed", device="cpu", workers=0, report=kill)
    assert load_checkpoint(tmp_path / "resumed" / "checkpoint.pt")["step"] == 6
    train([discs], config, tmp_path / "resumed", device="cpu", workers=0)
    assert_same_run(tmp_path / "resumed", tmp_path / "once")


def test_a_checkpoint_of_an_earlier_version_is_continued(discs, varied, tmp_path):
    asked = iter([False, True])
    path = train([discs], varied, tmp_path, device="cpu", workers=0, cancelled=lambda: next(asked))
    state = load_checkpoint(path)
    del state["unreported"]
    torch.save(state, path)
    train([discs], replace(varied, log_every=4), tmp_path, device="cpu", workers=0)
    assert [row["step"] for row in read_log(tmp_path)] == ["1", "2", "4", "8"]


def test_the_second_look_sees_finer_pixels_the_first_logits_and_is_averaged_in(discs, tiny, tmp_path, monkeypatch):
    looked: list[tuple[Any, Any]] = []
    second_look = loop.second_look

    def spy(batch, logits, generators):
        looked.append((batch, logits))
        return second_look(batch, logits, generators)

    losses: list[torch.Tensor] = []
    monkeypatch.setattr(loop, "second_look", spy)
    monkeypatch.setattr(loop, "segmentation_loss", lambda logits, target, **_: losses.append(logits) or logits.mean())
    gradients: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy_on_gradient(parameters, limit):
        parameters = list(parameters)
        gradients.append(float(parameters[-1].grad))
        return clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy_on_gradient)
    config = replace(tiny, steps=1, focus_p=1.0, gradient_clip=1e9, batch_size=1)
    train([discs], config, tmp_path, device="cpu", workers=0)
    assert len(losses) == 3
    ((batch, logits),) = looked
    torch.testing.assert_close(logits, losses[1].detach())
    assert batch.fine_images.shape[-1] == 2 * batch.images.shape[-1] == 64
    assert gradients == [pytest.approx(1.0, rel=1e-5)]


def test_a_run_may_be_watched_more_closely_when_it_is_continued(discs, tiny, tmp_path):
    asked = iter([False, True])
    folder = tmp_path / "run"
    train([discs], replace(tiny, log_every=5), folder, device="cpu", workers=0, cancelled=lambda: next(asked))
    train([discs], replace(tiny, checkpoint_every=1), folder, device="cpu", workers=0)
    assert [int(row["step"]) for row in read_log(folder)] == [3, 4, 5, 6]


def poisoned(step: int, poison: Any):
    """A loss that goes wrong in the first round of one step (the tiny run has two rounds a step)."""
    calls = 0

    def loss(logits, target, **options):
        nonlocal calls
        calls += 1
        good = segmentation_loss(logits, target, **options)
        return good + poison(logits) if calls == 2 * step - 1 else good

    return loss


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (lambda logits: math.nan, "The loss became nan at step 3"),
        (lambda logits: math.inf, "The loss became inf at step 3"),
        # Zero, with a derivative that is not finite.
        (lambda logits: torch.sqrt(0.0 * logits.sum()), "The norm of the gradient became nan at step 3"),
    ],
)
def test_what_is_not_finite_stops_the_run_before_it_is_learnt(discs, tiny, tmp_path, monkeypatch, poison, message):
    monkeypatch.setattr(loop, "segmentation_loss", poisoned(3, poison))
    config = replace(tiny, checkpoint_every=1)
    with pytest.raises(TrainingError, match=rf"{message}\. The checkpoint of an earlier step is intact"):
        train([discs], config, tmp_path, device="cpu", workers=0)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["step"] == 2
    assert is_finite(state)


def test_a_second_look_that_is_not_finite_stops_the_run_too(discs, tiny, tmp_path, monkeypatch):
    factors = iter([1.0, 1.0, 1.0, math.nan])  # a round and a second look each of two steps
    monkeypatch.setattr(
        loop, "segmentation_loss", lambda logits, target, **options: next(factors) * logits.square().mean()
    )
    config = replace(tiny, rounds=1, focus_p=1.0, checkpoint_every=1, batch_size=2)
    with pytest.raises(TrainingError, match="The loss became nan at step 2"):
        train([discs], config, tmp_path, device="cpu", workers=0)
    assert is_finite(load_checkpoint(tmp_path / "checkpoint.pt"))


def failing(call: int, error: BaseException):
    """A loss that raises at one of its calls."""
    calls = 0

    def loss(logits, target, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return segmentation_loss(logits, target, **options)

    return loss


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 16384 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. "),
    MemoryError("Unable to allocate 2.00 GiB for an array with shape (16384, 16384) and data type float64"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__} {str(error)[:20]}")
def test_running_out_of_memory_is_told_and_leaves_the_last_checkpoint(discs, tiny, tmp_path, monkeypatch, error):
    # The second round of the second step.
    monkeypatch.setattr(loop, "segmentation_loss", failing(4, error))
    config = replace(tiny, batch_size=2, checkpoint_every=1)
    with pytest.raises(
        TrainingError, match=r"^Memory ran out: .*last checkpoint is intact.*batch_size below 2\.$"
    ) as told:
        train([discs], config, tmp_path, device="cpu", workers=0)
    assert "\n" not in str(told.value)
    assert (str(error).splitlines() or ["MemoryError"])[0].rstrip(". ") in str(told.value)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert state["step"] == 1
    assert is_finite(state)


def test_a_run_that_ran_out_of_memory_continues_from_its_checkpoint(discs, tiny, tmp_path, monkeypatch, once):
    folder = tmp_path / "resumed"
    monkeypatch.setattr(loop, "segmentation_loss", failing(10, MemoryError()))
    with pytest.raises(TrainingError, match="Memory ran out"):
        train([discs], tiny, folder, device="cpu", workers=0)
    monkeypatch.undo()
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == 3
    train([discs], tiny, folder, device="cpu", workers=0)
    assert_same_run(folder, once)


def test_a_worker_that_runs_out_of_memory_is_told(discs, tiny, tmp_path, monkeypatch):
    def full(dataset, index):
        raise MemoryError("Unable to allocate 1 GiB")

    monkeypatch.setattr(loop.SampleDataset, "__getitem__", full)
    with pytest.raises(TrainingError, match=r"Memory ran out: .*fewer workers"):
        train([discs], tiny, tmp_path, device="cpu", workers=1)


def test_a_network_that_does_not_fit_is_told(discs, tiny, tmp_path, monkeypatch):
    def too_large(name, options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loop, "build_network", too_large)
    with pytest.raises(TrainingError, match="Memory ran out"):
        train([discs], tiny, tmp_path, device="cpu", workers=0)


def test_other_errors_stay_what_they_are(discs, tiny, tmp_path, monkeypatch):
    error = RuntimeError("The size of tensor a (4) must match the size of tensor b (5)")
    monkeypatch.setattr(loop, "segmentation_loss", failing(1, error))
    with pytest.raises(RuntimeError, match="The size of tensor a") as raised:
        train([discs], tiny, tmp_path, device="cpu", workers=0)
    assert raised.value is error


def test_an_absurd_learning_rate_is_told(discs, tiny, tmp_path):
    config = replace(tiny, learning_rate=1e30, final_learning_rate=1e30, gradient_clip=1e30, checkpoint_every=1)
    with pytest.raises(TrainingError, match="Train anew, in another folder, with a lower learning rate"):
        train([discs], config, tmp_path, device="cpu", workers=0)
    assert is_finite(load_checkpoint(tmp_path / "checkpoint.pt"))


def test_a_disk_that_fills_up_leaves_the_previous_checkpoint(discs, tiny, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def full_at_the_second(state, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", full_at_the_second)
    with pytest.raises(WeightsError, match=r"not written: .*No space left on device"):
        train([discs], tiny, tmp_path, device="cpu", workers=0)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.csv"]


def test_a_folder_that_cannot_be_made_is_told(discs, tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match="Cannot make the folder"):
        train([discs], tiny, tmp_path / "file" / "run", device="cpu", workers=0)


def test_a_log_that_cannot_be_written_is_told(discs, tiny, tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(FileFormatError, match=r"log\.csv"):
        train([discs], tiny, tmp_path, device="cpu", workers=0)


def test_a_damaged_checkpoint_is_not_overwritten(discs, tiny, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"checkpoint\.pt"):
        train([discs], tiny, tmp_path, device="cpu", workers=0)
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"damaged"


def test_bad_arguments_are_refused(discs, tiny, tmp_path):
    with pytest.raises(ConfigError, match="workers must be at least 0, got -1"):
        train([discs], tiny, tmp_path, device="cpu", workers=-1)
    with pytest.raises(ConfigError, match="Unknown network 'resnet'"):
        train([discs], replace(tiny, network=NetworkConfig("resnet")), tmp_path, device="cpu", workers=0)


def test_an_error_in_a_worker_is_still_a_dataset_error(discs, tiny, plain, tmp_path):
    full = replace(discs, labels=np.ones_like(discs.labels))
    config = replace(tiny, data=replace(tiny.data, synthetic_p=0.0, augmentation=plain))
    with pytest.raises(DatasetError, match="drawn structures covers"):
        train([full], config, tmp_path, device="cpu", workers=1)


def test_the_network_learns(discs, tiny, plain, tmp_path):
    data = replace(tiny.data, augmentation=plain, synthetic_p=0.0)
    config = replace(tiny, steps=30, learning_rate=0.03, final_learning_rate=0.01, data=data)
    config = replace(config, network=NetworkConfig(options={"features": (8, 8, 8)}))
    train([discs], config, tmp_path, device="cpu", workers=0)
    losses = [float(row["loss_2"]) for row in read_log(tmp_path)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_prediction_is_fed_back_and_corrected(discs, tiny, tmp_path, monkeypatch):
    inputs: list[tuple[Any, int]] = []
    encode = loop.Batch.encode

    def spy(batch, previous):
        inputs.append(
            (previous, sum(int(prompts.scribbles.any()) + len(prompts.point_coords) for prompts in batch.prompts))
        )
        return encode(batch, previous)

    monkeypatch.setattr(loop.Batch, "encode", spy)
    train([discs], replace(tiny, steps=1, rounds=3), tmp_path, device="cpu", workers=0)
    assert inputs[0][0] is None
    for previous, _ in inputs[1:]:
        assert previous.shape == (4, 1, 32, 32)
        assert not previous.requires_grad
    assert not torch.equal(inputs[1][0], inputs[2][0])
    assert inputs[0][1] < inputs[2][1]


def test_the_rounds_are_averaged_in_the_gradient(discs, tiny, tmp_path, monkeypatch):
    """Equation 1: the first step's gradient is that of the mean of the rounds' losses."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    monkeypatch.setattr(
        loop, "segmentation_loss", lambda logits, target, **_: seen.append((logits, target)) or logits.mean()
    )
    config = replace(tiny, steps=1, rounds=4, gradient_clip=1e9, batch_size=1)
    gradients: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, limit):
        parameters = list(parameters)
        gradients.append(float(parameters[-1].grad))  # bias of the last layer: moves every logit by one
        return clip(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    train([discs], config, tmp_path, device="cpu", workers=0)
    assert len(seen) == 4
    assert gradients == [pytest.approx(1.0, rel=1e-5)]


def test_bfloat16_trains_on_a_processor(discs, tiny, tmp_path, once):
    config = replace(tiny, steps=2, precision="bfloat16")
    train([discs], config, tmp_path / "half", device="cpu", workers=0)
    state = load_checkpoint(tmp_path / "half" / "checkpoint.pt")
    assert is_finite(state)
    assert {value.dtype for value in state["network"].values()} == {torch.float32}
    rows = read_log(tmp_path / "half")
    assert all(math.isfinite(float(row[name])) for row in rows for name in ("loss_1", "loss_2"))
    full = float(read_log(once)[0]["loss_1"])
    assert float(rows[0]["loss_1"]) == pytest.approx(full, rel=0.02)
    assert rows[0]["loss_1"] != read_log(once)[0]["loss_1"]


@pytest.mark.parametrize(("has_units", "same_as"), [(False, "float32"), (True, "bfloat16")])
def test_auto_takes_bfloat16_only_where_the_processor_has_units(discs, tiny, tmp_path, monkeypatch, has_units, same_as):
    monkeypatch.setattr(loop, "has_bfloat16_units", lambda: has_units)
    short = replace(tiny, steps=2)
    train([discs], replace(short, precision="auto"), tmp_path / "auto", device="cpu", workers=0)
    train([discs], replace(short, precision=same_as), tmp_path / "named", device="cpu", workers=0)
    assert_same_run(tmp_path / "auto", tmp_path / "named")


def test_the_learning_rate_warms_up_and_falls_by_a_cosine():
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 4) == pytest.approx(0.5)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.55)
    assert learning_rate(config, 110) == pytest.approx(0.1)
    rates = [learning_rate(config, step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_a_constant_learning_rate():
    config = TrainingConfig()
    assert {learning_rate(config, step) for step in (0, 1, 50_000, 99_999)} == {1e-4}


def test_averages_start_at_the_first_parameters_and_follow(discs, tiny, tmp_path):
    config = replace(tiny, steps=1, ema_decay=0.9)
    train([discs], config, tmp_path, device="cpu", workers=0)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    torch.default_generator.manual_seed(config.seed)
    start = build_network(config.network.name, config.network.options).state_dict()
    for name, value in state["averaged"].items():
        # The decay of step 1 is limited to (1 + 1) / (10 + 1).
        torch.testing.assert_close(value, start[name] * 2 / 11 + state["network"][name] * 9 / 11, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(start[name], value) for name, value in state["network"].items())


def test_without_averaging_the_last_parameters_are_kept(discs, tiny, tmp_path):
    train([discs], replace(tiny, ema_decay=0.0), tmp_path, device="cpu", workers=0)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    torch.testing.assert_close(state["averaged"], state["network"], rtol=0, atol=0)


def test_the_seed_decides_the_parameters_and_the_caller_s_random_numbers_do_not(discs, tiny, tmp_path, once):
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    train([discs], tiny, tmp_path / "again", device="cpu", workers=0)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert_same_run(tmp_path / "again", once)
    train([discs], replace(tiny, seed=4), tmp_path / "other", device="cpu", workers=0)
    assert read_log(tmp_path / "other") != read_log(once)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_training_runs_on_a_gpu_and_continues_on_a_processor(discs, tiny, tmp_path, precision):
    config = replace(tiny, precision=precision)
    asked = iter([False, True])
    train([discs], config, tmp_path, device="cuda", workers=1, cancelled=lambda: next(asked))
    assert is_finite(load_checkpoint(tmp_path / "checkpoint.pt"))
    train([discs], config, tmp_path, device="cpu", workers=0)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 6


def test_a_run_can_start_from_given_weights(once, discs, tiny, tmp_path):
    weights = tmp_path / "first.safetensors"
    export_network(once / "checkpoint.pt", weights)
    config = replace(tiny, steps=1, learning_rate=1e-12, final_learning_rate=1e-12, initial_weights=str(weights))
    state = load_checkpoint(train([discs], config, tmp_path / "second", device="cpu", workers=0))
    given = load_checkpoint(once / "checkpoint.pt")["averaged"]
    torch.testing.assert_close(state["network"], given, rtol=2e-3, atol=1e-4)  # half precision in between


def test_weights_of_another_network_are_refused(once, discs, tiny, tmp_path):
    weights = tmp_path / "first.safetensors"
    export_network(once / "checkpoint.pt", weights)
    config = replace(tiny, network=NetworkConfig(options={"features": (5, 8)}), initial_weights=str(weights))
    with pytest.raises(ConfigError, match="another network"):
        train([discs], config, tmp_path / "second", device="cpu", workers=0)


def test_given_weights_are_not_needed_to_continue(once, discs, tiny, tmp_path):
    weights = tmp_path / "first.safetensors"
    export_network(once / "checkpoint.pt", weights)
    config = replace(tiny, batch_size=2, initial_weights=str(weights))
    asked = iter([True])
    train([discs], config, tmp_path / "run", device="cpu", workers=0, cancelled=lambda: next(asked))
    weights.unlink()
    train([discs], config, tmp_path / "run", device="cpu", workers=0)
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 6
    with pytest.raises(WeightsError, match="no weights file"):
        train([discs], config, tmp_path / "other", device="cpu", workers=0)


CONTEXT_OPTIONS = {"features": [4, 8], "intensity_cues": True}


@pytest.fixture
def in_context(tiny) -> TrainingConfig:
    return replace(
        tiny,
        network=NetworkConfig("context_unet", dict(CONTEXT_OPTIONS)),
        data=replace(tiny.data, context=ContextConfig(max_size=3)),
        focus_p=0.5,
    )


def test_a_network_is_trained_in_context_and_all_of_it_learns(discs, in_context, tmp_path):
    path = train([discs], in_context, tmp_path, device="cpu", workers=0)
    state = load_checkpoint(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(in_context.seed)
        fresh = build_network("context_unet", CONTEXT_OPTIONS).state_dict()
    assert state["step"] == in_context.steps
    assert [name for name, value in state["network"].items() if torch.equal(value, fresh[name])] == []


def test_a_run_in_context_that_was_interrupted_ends_as_one_that_was_not(discs, in_context, tmp_path):
    train([discs], in_context, tmp_path / "whole", device="cpu", workers=0)
    asked = iter([False, True])
    train([discs], in_context, tmp_path / "parts", device="cpu", workers=0, cancelled=lambda: next(asked))
    train([discs], in_context, tmp_path / "parts", device="cpu", workers=0)
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoint.pt")["network"] for name in ("whole", "parts"))
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_gradients_of_all_looks_reach_what_made_the_maps(discs, in_context, tmp_path, monkeypatch):
    config = replace(in_context, steps=1, rounds=2, focus_p=1.0, batch_size=1)
    shown: list[torch.Tensor] = []
    forward = ContextUNet.forward

    def spy(self, x, context=None):
        shown.append(context)
        return forward(self, x, context)

    monkeypatch.setattr(ContextUNet, "forward", spy)
    train([discs], config, tmp_path, device="cpu", workers=0)
    assert len(shown) == 3
    assert shown[0] is shown[1]
    assert shown[2].shape == shown[0].shape  # the part that the second look shows
    assert shown[0].grad is not None or not shown[0].any()


def test_a_network_without_contexts_cannot_be_trained_in_context(discs, in_context, tmp_path):
    config = replace(in_context, network=NetworkConfig("scribble_unet", {"features": [4, 8]}))
    with pytest.raises(ConfigError, match=r"scribble_unet takes no context set; .* data\.context\.max_size to 0"):
        train([discs], config, tmp_path, device="cpu", workers=0)
