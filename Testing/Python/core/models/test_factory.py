"""Tests of networks by name."""

from __future__ import annotations

import pytest
import torch

from scribblesegment.errors import ConfigError
from scribblesegment.models.factory import build_network, network_names
from scribblesegment.models.scribble_unet import ScribbleUNet


def test_options_reach_the_network() -> None:
    network = build_network("scribble_unet", {"features": [3, 4, 5]})
    assert isinstance(network, ScribbleUNet)
    assert network.config.features == (3, 4, 5)


def test_every_listed_name_can_be_asked_for() -> None:
    assert network_names() == (
        *("context_unet", "efficient_unet", "multiverseg", "residual_unet", "scribble_unet", "universeg"),
    )
    with torch.device("meta"):  # shapes without numbers
        kinds = [type(build_network(name)).__name__ for name in network_names()]
    assert kinds == ["ContextUNet", "EfficientUNet", "MultiverSeg", "ResidualUNet", "ScribbleUNet", "UniverSeg"]


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Unknown network 'unett'; known are context_unet, efficient_unet, multiv"):
        build_network("unett")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no options depth; known are .*features"):
        build_network("scribble_unet", {"depth": 3})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scribble_unet", {"features": 64}, "Option features of network scribble_unet must be a list of whole numbers"),
        ("scribble_unet", {"features": "64"}, "must be a list of whole numbers, got '64'"),
        ("scribble_unet", {"features": [8, 8.5]}, "must be a list of whole numbers"),
        ("scribble_unet", {"activation": 1}, "Option activation .* must be a text, got 1"),
        ("scribble_unet", {"intensity_cues": "no"}, "Option intensity_cues .* must be true or false, got 'no'"),
        ("residual_unet", {"norm_groups": "8"}, "Option norm_groups .* must be a whole number, got '8'"),
        ("residual_unet", {"separable": 1}, "Option separable .* must be true or false, got 1"),
        ("efficient_unet", {"expansion": 2.5}, "Option expansion .* must be a whole number, got 2.5"),
        ("efficient_unet", {"expansion": True}, "Option expansion .* must be a whole number, got True"),
    ],
)
def test_an_option_of_another_kind_is_refused_by_name(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_network(name, options)


def test_a_value_that_the_network_cannot_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        build_network("residual_unet", {"norm_groups": 7})
