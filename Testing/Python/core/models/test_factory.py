"""Tests of networks by name."""

from __future__ import annotations

import pytest

from scribblesegment.exceptions import ConfigError
from scribblesegment.models.factory import build_network, network_names
from scribblesegment.models.scribble_unet import ScribbleUNet


def test_options_reach_the_network() -> None:
    network = build_network("scribble_unet", {"features": [3, 4, 5]})
    assert isinstance(network, ScribbleUNet)
    assert network.config.features == (3, 4, 5)


def test_every_listed_name_can_be_asked_for() -> None:
    assert network_names() == ("scribble_unet",)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Unknown network 'unett'; known are scribble_unet"):
        build_network("unett")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no options depth; known are .*features"):
        build_network("scribble_unet", {"depth": 3})
