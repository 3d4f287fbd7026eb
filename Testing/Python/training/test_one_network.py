"""Training the embedded network: a tiny run from beginning to end, interrupted and continued."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scribblesegment.errors import ConfigError
from scribblesegment.training.corpus import SegmentationSet
from scribblesegment.training.groups import GroupConfig
from scribblesegment.training.one_network import OneNetworkConfig, train


def config(**changes: object) -> OneNetworkConfig:
    groups = GroupConfig(size=32, kinds=((1, 2), (2, 1)), kind_shares=(0.5, 0.5), shapes_pool=1, min_area=8)
    values = {"steps": 3, "bfloat16": False, "warmup": 1, "log_every": 1, "kept": (2,), **changes}
    return OneNetworkConfig(groups=groups, **values)  # type: ignore[arg-type]


@pytest.fixture
def corpus() -> list[SegmentationSet]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (4, 256, 256)).astype(np.uint8)
    labels = np.zeros_like(images)
    labels[:, 60:180, 80:200] = 1
    return [SegmentationSet("squares", images + 100 * labels, labels, False, {})]


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(corpus: list[SegmentationSet], tmp_path: Path) -> None:
    whole = train(corpus, config(), tmp_path / "whole", workers=0)
    train(corpus, config(), tmp_path / "halves", workers=0, until=2)
    halves = train(corpus, config(), tmp_path / "halves", workers=0)
    first, second = (torch.load(path, weights_only=True) for path in (whole, halves))
    assert first["step"] == second["step"] == 3
    for name, value in first["averaged"].items():
        torch.testing.assert_close(second["averaged"][name], value)
    assert (tmp_path / "halves" / "step_2.pt").exists()
    assert [line.split(",")[0] for line in (tmp_path / "halves" / "log.csv").read_text().splitlines()] == [
        "1",
        "2",
        "3",
    ]


def test_a_run_starts_from_another(corpus: list[SegmentationSet], tmp_path: Path) -> None:
    earlier = train(corpus, config(steps=1), tmp_path / "earlier", workers=0)
    path = train(corpus, config(steps=1, initial=str(earlier), learning_rate=0.0), tmp_path / "later", workers=0)
    before, after = (torch.load(entry, weights_only=True)["averaged"] for entry in (earlier, path))
    torch.testing.assert_close(after["stem.0.weight"], before["stem.0.weight"])


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"steps": 1, "stepz": 2}))
    with pytest.raises(ConfigError, match="stepz"):
        OneNetworkConfig.read(path)
