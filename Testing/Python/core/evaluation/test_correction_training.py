from __future__ import annotations

import dataclasses

import pytest
import torch
from correction_study import TASK, tiny_study, write_shapes

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_network import load_plain_unet
from scribblesegment.evaluation.correction_tasks import read_task
from scribblesegment.evaluation.correction_training import class_loss, learning_rate, train_network, training_batch

CONFIG = tiny_study().training


@pytest.fixture
def images(tmp_path):
    return read_task(write_shapes(tmp_path), TASK)


def test_the_loss_falls_as_the_prediction_becomes_right():
    labels = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    right = 8.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    losses = [float(class_loss(share * right, labels)) for share in (-1.0, 0.0, 1.0)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.02


def test_a_batch_depends_on_the_step_alone(images):
    first, again, other = (training_batch(images.train, CONFIG, step)[0] for step in (3, 3, 4))
    assert first.shape == (2, 1, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_rate_rises_and_falls():
    config = dataclasses.replace(CONFIG, steps=100)
    rates = [learning_rate(config, step) for step in range(100)]
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates[0] < rates[5] < rates[9]
    assert rates[10] > rates[50] > rates[99] > 0


def test_a_stopped_training_ends_as_one_that_was_not(images, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()

    def stop(fraction, _):
        if fraction > 0.7:  # after the checkpoint of step 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(images, CONFIG, parts, progress=stop)
    networks = [load_plain_unet(train_network(images, CONFIG, folder))[0] for folder in (whole, parts)]
    for one, other in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.equal(one, other)
    assert [path.name for path in parts.iterdir()] == ["shapes.safetensors"]


def test_a_finished_network_is_not_trained_again(images, tmp_path):
    path = train_network(images, CONFIG, tmp_path)
    before = path.stat().st_mtime_ns
    assert train_network(images, CONFIG, tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_a_task_may_have_its_own_number_of_steps(images, tmp_path):
    seen = []
    longer = dataclasses.replace(images, task=dataclasses.replace(TASK, steps=5))
    train_network(longer, CONFIG, tmp_path, progress=lambda fraction, _: seen.append(fraction))
    assert len(seen) == 5


def test_another_configuration_is_not_continued(images, tmp_path):
    def stop(fraction, _):
        if fraction > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(images, CONFIG, tmp_path, progress=stop)
    with pytest.raises(ConfigError, match="Remove it"):
        train_network(images, dataclasses.replace(CONFIG, learning_rate=1e-5), tmp_path)
