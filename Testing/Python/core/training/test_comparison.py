from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scribblesegment.exceptions import ConfigError, DatasetError, FileFormatError
from scribblesegment.models.encoding import IMAGE, POSITIVE
from scribblesegment.training import comparison
from scribblesegment.training.comparison import compare_networks, read_networks, validation_samples
from scribblesegment.training.config import NetworkConfig

SEARCHED = Path(__file__).resolve().parents[4] / "scripts" / "configs" / "networks"

NETWORKS = {
    "paper, tiny": NetworkConfig("scribble_unet", {"features": [4, 8]}),
    "residual": NetworkConfig(
        "residual_unet", {"features": [4, 4], "blocks": [1, 1], "head_features": 2, "norm_groups": 2}
    ),
}


@pytest.fixture
def short(tiny):
    return dataclasses.replace(tiny, steps=2, batch_size=2, rounds=1)


@pytest.fixture
def samples(save_set, short):
    return validation_samples(save_set().parent, short, 2)


@pytest.fixture
def compare(discs, samples, short, tmp_path):
    def run(networks=NETWORKS, *, config=short, output=tmp_path / "out", progress=None):
        return compare_networks(networks, [discs], samples, config, output, device="cpu", workers=0, progress=progress)

    return run


def test_every_network_is_trained_measured_and_listed(compare, tmp_path):
    seen = []
    scores = compare(progress=lambda name, step: seen.append((name, step)))
    assert seen == [("paper, tiny", 1), ("paper, tiny", 2), ("residual", 1), ("residual", 2)]
    assert [score.network for score in scores] == list(NETWORKS)
    # Weights, biases and slopes of (5 -> 4), (4 -> 8), (8 + 4 -> 4) and (4 -> 1).
    assert scores[0].parameters == (180 + 4 + 1) + (288 + 8 + 1) + (432 + 4 + 1) + (4 + 1)
    for score in scores:
        assert 0.0 <= score.first_dice <= 1.0
        assert 0.0 <= score.corrected_dice <= 1.0
        assert 0.0 <= score.corrected_hausdorff95_px <= 31 * np.sqrt(2)
        assert score.milliseconds > 0.0

    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert table.startswith("2 steps of 2 samples; means of 2 validation examples")
    assert [line.split("|")[1].strip() for line in table.splitlines()[4:]] == list(NETWORKS)
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open(encoding="utf-8")))
    assert [row["network"] for row in rows] == list(NETWORKS)
    assert float(rows[1]["corrected_dice"]) == scores[1].corrected_dice
    assert not list((tmp_path / "out").glob(".*"))  # nothing half written


def test_run_again_it_trains_only_what_is_missing(compare, tmp_path):
    first = compare({"residual": NETWORKS["residual"]})
    before = (tmp_path / "out" / "residual" / "checkpoint.pt").read_bytes()
    trained = []
    both = compare(progress=lambda name, _: trained.append(name))
    assert set(trained) == {"paper, tiny"}
    assert (tmp_path / "out" / "residual" / "checkpoint.pt").read_bytes() == before
    timeless = [dataclasses.replace(score, milliseconds=0.0) for score in (first[0], both[1])]
    assert timeless[0] == timeless[1]


def test_the_table_of_an_interrupted_comparison_holds_what_is_done(compare, tmp_path):
    def interrupt(name, _):
        if name == "residual":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(progress=interrupt)
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open(encoding="utf-8")))
    assert [row["network"] for row in rows] == ["paper, tiny"]


def test_a_run_with_another_configuration_is_not_continued(compare, short):
    one = {"residual": NETWORKS["residual"]}
    compare(one)
    with pytest.raises(ConfigError, match="steps: 2 -> 3"):
        compare(one, config=dataclasses.replace(short, steps=3))


class Threshold(nn.Module):
    """Segments what is brighter than half."""

    def forward(self, x):
        return 20.0 * (x[:, IMAGE : IMAGE + 1] - 0.5)


class Nothing(nn.Module):
    """Finds nothing before the first correction, and then what positive strokes cover."""

    def forward(self, x):
        return torch.where(x[:, 4:5] != 0, 2.0 * x[:, POSITIVE : POSITIVE + 1] - 1.0, -1.0)


@pytest.fixture
def squares(save_set, short):
    """Samples that a threshold segments without an error."""
    labels = np.zeros((2, 32, 32), np.uint8)
    labels[:, 8:20, 10:22] = 1
    return validation_samples(save_set("squares", images=200 * labels, labels=labels).parent, short, 2)


@pytest.fixture
def measure(squares, discs, short, tmp_path, monkeypatch):
    """Measure a network that was not trained."""

    def run(network):
        monkeypatch.setattr(comparison, "load_network", lambda path: (network, None))
        one = {"any": NETWORKS["residual"]}
        return compare_networks(one, [discs], squares, short, tmp_path / "out", device="cpu", workers=0)[0]

    return run


def test_a_perfect_network_has_perfect_scores(measure):
    score = measure(Threshold())
    assert (score.first_dice, score.corrected_dice, score.corrected_hausdorff95_px) == (1.0, 1.0, 0.0)
    assert score.parameters == 0


def test_the_second_score_is_after_one_correction_with_the_first_logits(measure, squares):
    score = measure(Nothing())
    assert score.first_dice == 0.0
    assert 0.0 < score.corrected_dice < 0.9
    assert 0.0 < score.corrected_hausdorff95_px < 12.0


def test_validation_samples_have_one_stroke_of_each_sign_and_are_not_changed(squares):
    for sample in squares:
        assert len(sample.prompts.point_coords) == len(sample.prompts.boxes) == 0
        assert sample.prompts.scribbles[0].any()
        assert sample.prompts.scribbles[1].any()
        assert not (sample.prompts.scribbles[0] > 0)[~sample.mask].any()
        assert np.argwhere(sample.mask).min(axis=0).tolist() == [8, 10]
        assert sample.mask.sum() == 12 * 12
        np.testing.assert_array_equal(sample.image > 0.5, sample.mask)
        assert set(np.unique(sample.image[10:18, 12:20])) == {1.0}


def test_validation_samples_do_not_depend_on_how_networks_are_trained(save_set, short):
    folder = save_set().parent
    other = dataclasses.replace(short, seed=9, steps=50, batch_size=7)
    for first, second in zip(validation_samples(folder, short, 2), validation_samples(folder, other, 2), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.prompts.scribbles, second.prompts.scribbles)


def test_sets_with_strokes_drawn_by_people_are_left_out(save_set, short, samples):
    path = save_set("medscribble_heart", images=None)
    assert len(validation_samples(path.parent, short, 2)) == 2


def test_too_few_examples_and_empty_folders_are_refused(tmp_path, short):
    with pytest.raises(ConfigError, match="at least one validation example, got 0"):
        validation_samples(tmp_path, short, 0)
    with pytest.raises(DatasetError, match="No training set"):
        validation_samples(tmp_path / "none", short, 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a b", "A-b"), "'A-b' is not told apart .* share the folder 'a_b' with 'a b'"),
        (("?!",), "there are none"),
    ],
)
def test_names_that_give_no_folder_of_their_own_are_refused_before_training(compare, tmp_path, names, message):
    with pytest.raises(ConfigError, match=message):
        compare(dict.fromkeys(names, NETWORKS["residual"]))
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(compare, tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(FileFormatError, match="Cannot make the folder"):
        compare(output=tmp_path / "taken")


@pytest.mark.parametrize("path", sorted(SEARCHED.glob("*.json")), ids=lambda path: path.stem)
def test_the_networks_that_are_shipped_can_be_built(path):
    assert len(read_networks(path)) > 1


def test_networks_are_read_with_their_options(tmp_path):
    path = tmp_path / "networks.json"
    path.write_text(json.dumps({name: dataclasses.asdict(network) for name, network in NETWORKS.items()}))
    assert read_networks(path) == NETWORKS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', r"networks\.json are not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "must hold a JSON object"),
        ('{"a": "residual_unet"}', "'a': network must be a JSON object"),
        ('{"a": {"nome": "residual_unet"}}', r"'a': Unknown fields: network\.nome"),
        ('{"a": {"name": "resnet"}}', "'a': Unknown network 'resnet'"),
        (
            '{"a": {"name": "residual_unet", "options": {"depth": 3}}}',
            "'a': Network residual_unet has no options depth",
        ),
        ('{"a": {"name": "residual_unet", "options": {"norm_groups": 7}}}', "'a': norm_groups 7 does not divide"),
    ],
)
def test_bad_descriptions_of_networks_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "networks.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_networks(path)


def test_a_missing_file_of_networks_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read the networks .*none\.json"):
        read_networks(tmp_path / "none.json")
