from __future__ import annotations

import json
from pathlib import Path

import pytest

from scribblesegment.errors import ConfigError
from scribblesegment.models.factory import build_network
from scribblesegment.training.config import (
    AugmentationConfig,
    DataConfig,
    TrainingConfig,
    config_from_dict,
    config_to_dict,
    differing_fields,
    load_config,
)

CONFIGS = Path(__file__).resolve().parents[3] / "scripts" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_the_configurations_that_are_shipped_load(path):
    config = load_config(path)
    build_network(config.network.name, config.network.options)
    assert config_from_dict(config_to_dict(config)) == config


def test_the_defaults_are_those_of_the_papers():
    config = TrainingConfig()
    assert (config.batch_size, config.rounds, config.learning_rate) == (8, 5, 1e-4)
    assert (config.focal_gamma, config.focal_weight) == (20.0, 1.0)
    assert (config.data.synthetic_p, config.data.superpixel_scale) == (0.5, (1.0, 500.0))
    assert (config.data.superpixel_area_power, config.data.union_p) == (0.0, 0.0)
    assert (config.vary_rounds, config.focus_p, config.data.superpixel_union_p) == (False, 0.0, 0.0)
    assert (config.data.shapes_p, config.data.modality_balance) == (0.0, 0.0)
    changes = config.data.augmentation
    assert (changes.degrees, changes.translate, changes.scale) == ((0.0, 360.0), 0.2, (0.8, 1.1))
    assert (changes.elastic_alpha, changes.elastic_sigma, changes.sharpness) == ((1.0, 2.0), (6.0, 8.0), 5.0)


def test_plain_values_and_back_give_the_same_configuration():
    config = TrainingConfig(steps=7, data=DataConfig(exclude=("a", "b"), augmentation=AugmentationConfig(flip_p=0.1)))
    plain = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(plain) == config


def test_missing_fields_keep_their_defaults():
    config = config_from_dict({"data": {"augmentation": {"scale": [0.5, 2]}}})
    assert config.data.augmentation == AugmentationConfig(scale=(0.5, 2))
    assert config.steps == TrainingConfig().steps


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"stepps": 5}, "stepps"),
        ({"data": {"colour": 1}}, "data.colour"),
        ({"data": {"augmentation": {"flip": 1}}}, "data.augmentation.flip"),
        ({"user": {"scribbles": {"width": 1}}}, "user.scribbles.width"),
    ],
)
def test_unknown_fields_are_named_with_their_place(values, name):
    with pytest.raises(ConfigError, match=rf"Unknown fields: {name}\. Known here: "):
        config_from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "10"}, "steps must be a whole number, got '10'"),
        ({"steps": 1e3}, "steps must be a whole number, got 1000.0"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"vary_rounds": 1}, "vary_rounds must be true or false, got 1"),
        ({"vary_rounds": "true"}, "vary_rounds must be true or false, got 'true'"),
        ({"vary_rounds": None}, "vary_rounds must be true or false, got None"),
        ({"focus_p": True}, "focus_p must be a number, got True"),
        ({"focus_p": "often"}, "focus_p must be a number, got 'often'"),
        ({"data": {"shapes_pool": 10.5}}, "data.shapes_pool must be a whole number, got 10.5"),
        ({"data": {"modality_balance": []}}, "data.modality_balance must be a number"),
        ({"learning_rate": "fast"}, "learning_rate must be a number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number, got nan"),
        ({"precision": 16}, "precision must be a text"),
        ({"network": {"options": [1]}}, "network.options must be a JSON object"),
        ({"data": {"superpixel_scale": 5}}, "data.superpixel_scale must be a list of 2 values, got 5"),
        ({"data": {"superpixel_scale": [1, 2, 3]}}, "data.superpixel_scale must be a list of 2 values"),
        ({"data": {"exclude": "aorta"}}, "data.exclude must be a list"),
        ({"data": {"exclude": [1]}}, "data.exclude must be a text"),
        ({"user": {"scribbles": {"max_pixels": 1.5}}}, "user.scribbles.max_pixels must be a whole number"),
        ({"data": {"augmentation": None}}, "data.augmentation must be a JSON object, got NoneType"),
    ],
)
def test_values_of_another_type_are_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_read_and_written_as_such(value):
    config = config_from_dict(json.loads(f'{{"vary_rounds": {str(value).lower()}}}'))
    assert config.vary_rounds is value
    assert config_to_dict(config)["vary_rounds"] is value


def test_a_limit_may_be_a_number_or_absent():
    assert config_from_dict({"user": {"scribbles": {"max_pixels": None}}}).user.scribbles.max_pixels is None
    assert config_from_dict({"user": {"scribbles": {"max_pixels": 50}}}).user.scribbles.max_pixels == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"rounds": -1}, "rounds must be at least 1"),
        ({"size": 1}, "size must be at least 2"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"gradient_clip": 0.0}, "gradient_clip must be above 0"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1.0"),
        ({"precision": "float16"}, "precision is auto, bfloat16 or float32, got 'float16'"),
        ({"focus_p": 1.01}, "focus_p is a probability between 0 and 1, got 1.01"),
        ({"data": {"shapes_p": -0.5}}, "shapes_p is a probability between 0 and 1, got -0.5"),
        ({"data": {"shapes_pool": 0}}, "shapes_pool must be at least 1, got 0"),
        ({"data": {"superpixel_union_p": 2}}, "superpixel_union_p is a probability"),
        ({"data": {"modality_balance": 1.5}}, "modality_balance is a probability"),
        ({"data": {"synthetic_p": 1.5}}, "synthetic_p is a probability between 0 and 1, got 1.5"),
        ({"data": {"min_area": 0}}, "min_area must be at least 1"),
        ({"data": {"superpixel_variants": 0}}, "superpixel_variants must be at least 1"),
        ({"data": {"superpixel_scale": [500, 1]}}, r"superpixel_scale must be a range .* got \[500, 1\]"),
        ({"data": {"augmentation": {"blur_p": -0.1}}}, "blur_p is a probability"),
        ({"data": {"augmentation": {"scale": [0, 1]}}}, "scale must be a range"),
        ({"data": {"augmentation": {"degrees": [9, 1]}}}, "degrees must be a range"),
        ({"data": {"augmentation": {"translate": -1}}}, "translate must be at least 0"),
        ({"user": {"max_interactions": 0}}, "max_interactions must be at least 1"),
    ],
)
def test_values_no_run_can_use_are_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


def test_a_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"steps": ', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.json is not valid JSON"):
        load_config(path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "picture.json"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match=r"picture\.json is not valid JSON"):
        load_config(path)


def test_a_file_with_a_list_is_refused(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="The configuration must be a JSON object, got list"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json"):
        load_config(tmp_path / "none.json")


def test_differences_are_told_field_by_field():
    old = config_to_dict(TrainingConfig(steps=5))
    new = config_to_dict(TrainingConfig(steps=6, data=DataConfig(augmentation=AugmentationConfig(flip_p=0.0))))
    assert differing_fields(old, new) == ["data.augmentation.flip_p: 0.5 -> 0.0", "steps: 5 -> 6"]
    assert differing_fields(old, old) == []
