"""Training the embedded network: a tiny run from beginning to end, interrupted, continued, and refused."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scribblesegment.errors import ConfigError, FileFormatError, TrainingError, WeightsError
from scribblesegment.models.ridge_unet import RidgeUNet, RidgeUNetConfig
from scribblesegment.training import loop
from scribblesegment.training.corpus import SegmentationSet
from scribblesegment.training.groups import GroupConfig
from scribblesegment.training.loop import TrainingConfig, focal_loss, load_checkpoint, soft_dice_loss, train
from scribblesegment.weights.checkpoints import load_network

NETWORK = RidgeUNetConfig(widths=(4, 6, 8, 8, 8), decoder_widths=(4, 6, 8, 8, 8), embedding=6, key=4)


def config(**changes: Any) -> TrainingConfig:
    groups = GroupConfig(
        size=32, kinds=((1, 3), (2, 1)), kind_shares=(0.5, 0.5), shapes_pool=1, min_area=8, published_p=0.3
    )
    values: dict[str, Any] = {"precision": "float32", "warmup": 1, "log_every": 1, "network": NETWORK, **changes}
    return TrainingConfig(steps=values.pop("steps", 5), groups=groups, **values)


@pytest.fixture(scope="module")
def corpus() -> list[SegmentationSet]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (4, 256, 256)).astype(np.uint8)
    labels = np.zeros_like(images)
    labels[:3, 60:180, 80:200] = 1
    labels[3, 30:60] = 2
    return [SegmentationSet("squares", images + 50 * labels, labels, False, {})]


@pytest.fixture(scope="module")
def whole(corpus: list[SegmentationSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(corpus, config(), tmp_path_factory.mktemp("whole"), device="cpu", workers=0)


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a run's log without the speed, which is not the same in any two runs."""
    with path.with_name("log.csv").open(newline="", encoding="utf-8") as file:
        return [{name: row[name] for name in row if name != "seconds_per_step"} for row in csv.DictReader(file)]


def test_a_run_leaves_checkpoint_log_and_weights(whole):
    assert [row["step"] for row in rows(whole)] == ["1", "2", "3", "4", "5"]
    assert {"loss_1", "dice_1", "score_1", "presence_1"} <= rows(whole)[0].keys()
    network, description = load_network(whole.with_name("network.safetensors"))
    assert (description.architecture, description.size, description.focus_size) == ("ridge_unet", 32, 256)
    assert "context" in description.capabilities
    averaged = RidgeUNet(NETWORK)
    averaged.load_state_dict(load_checkpoint(whole)["averaged"])
    prompts = torch.rand(1, 5, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(prompts), averaged.eval()(prompts), rtol=0.02, atol=0.02)
    state = load_checkpoint(whole)  # its parameters are averaged, not the newest
    assert any(not torch.equal(state["averaged"][name], value) for name, value in state["network"].items())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(whole, corpus, tmp_path, workers):
    steps: list[int] = []
    train(
        corpus,
        config(),
        tmp_path,
        device="cpu",
        workers=workers,
        report=lambda step, _: steps.append(step),
        cancelled=lambda: len(steps) >= 1,
    )
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 2
    path = train(corpus, config(), tmp_path, device="cpu", workers=workers)
    first, second = load_checkpoint(whole), load_checkpoint(path)
    for part in ("network", "averaged", "optimizer"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    assert rows(whole) == rows(path)


def test_a_run_starts_from_another_or_from_weights(whole, corpus, tmp_path):
    still = {"steps": 1, "learning_rate": 0.0}
    path = train(corpus, config(initial=str(whole), **still), tmp_path / "a", device="cpu", workers=0)
    torch.testing.assert_close(
        load_checkpoint(path)["network"]["stem.0.weight"], load_checkpoint(whole)["averaged"]["stem.0.weight"]
    )
    weights = str(whole.with_name("network.safetensors"))
    options = RidgeUNetConfig(**{**vars(NETWORK), "folded": True})
    path = train(corpus, config(initial=weights, network=options, **still), tmp_path / "b", device="cpu", workers=0)
    assert "stem.1.weight" not in load_checkpoint(path)["network"]
    with pytest.raises(ConfigError, match="of another network"):
        train(corpus, config(initial=weights, **still), tmp_path / "c", device="cpu", workers=0)


def test_another_configuration_does_not_continue_a_run(whole, corpus):
    with pytest.raises(ConfigError, match="different are gradient_clip, steps"):
        train(corpus, config(steps=9, gradient_clip=2.0), whole.parent, device="cpu", workers=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "cannot be read"),
        ('{"stepz": 2}', "unknown stepz; known are"),
        ('{"groups": {"sizes": 2}}', "groups: unknown sizes"),
        ('{"steps": "many"}', "steps must be of the kind of 4000"),
        ("[]", "must be named values"),
        ('{"precision": "bf16"}', "precision is auto, float32 or bfloat16"),
        ('{"warmup": 0}', "at least 1"),
        ('{"groups": {"size": 100}}', "a multiple of 32"),
        ('{"groups": {"kind_shares": [0.7]}}', "add up to 1"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(tmp_path, values, message):
    path = tmp_path / "config.json"
    path.write_text(values)
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.read(path)


def test_shipped_configurations_are_read():
    root = Path(__file__).parents[3]
    for path in (root / "scripts" / "configs").glob("*.json"):
        read = TrainingConfig.read(path)
        assert json.loads(path.read_text())["steps"] == read.steps
        assert read.network.folded == bool(read.initial)
        if read.initial:  # what comes with the package
            loop.start_from(RidgeUNet(read.network), root / read.initial)


def test_a_full_disk_keeps_the_last_checkpoint(whole, corpus, tmp_path, monkeypatch):
    train(corpus, config(), tmp_path, device="cpu", workers=0, until=1)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop.torch, "save", full)
    with pytest.raises((FileFormatError, WeightsError), match="No space left"):
        train(corpus, config(), tmp_path, device="cpu", workers=0)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_loss_that_is_not_finite_ends_the_run(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "focal_loss", lambda logits, *_, **__: logits.mean() * torch.nan)
    with pytest.raises(TrainingError, match="The loss became nan at step 1"):
        train(corpus, config(), tmp_path, device="cpu", workers=0)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_memory_that_runs_out_is_told(corpus, tmp_path, monkeypatch):
    def out(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.")

    monkeypatch.setattr(loop.Run, "train_step", out)
    with pytest.raises(TrainingError, match="Memory ran out"):
        train(corpus, config(), tmp_path, device="cpu", workers=0)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04cos\nsystem\n"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        load_checkpoint(path)
    torch.save({"step": 1}, path)
    with pytest.raises(WeightsError, match="not a checkpoint of a training run"):
        load_checkpoint(path)


def test_losses_know_right_from_wrong():
    target = torch.zeros(2, 1, 8, 8)
    target[:, :, 2:5, 2:5] = 1
    right = 20 * (2 * target - 1)
    for loss in (soft_dice_loss, focal_loss):
        assert (loss(right, target) < 0.01).all()
        assert (loss(-right, target) > 0.5).all()
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(focal_loss(logits, target, gamma=0.0).mean(), cross_entropy)
    focal_loss(logits, target, gamma=0.5).mean().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_vessel_is_told_from_an_organ_for_the_loss():
    masks = torch.zeros(3, 1, 64, 64)
    masks[0, 0, 8:56, 30:33] = 1  # three pixels wide
    masks[1, 0, 10:50, 10:50] = 1
    assert loop._largeness(masks).tolist() == [0, pytest.approx((36 / 40) ** 2), 1]
