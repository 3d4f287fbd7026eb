from __future__ import annotations

import torch

from scribblesegment.refinement.refiner import FeatureCache


class Windows:
    """Features of 4 bytes a window, and how often each was computed."""

    def __init__(self) -> None:
        self.computed: list[int] = []

    def __call__(self, window: int):
        self.computed.append(window)
        return (torch.full((1,), float(window)),)


def test_features_are_computed_once():
    windows = Windows()
    cache = FeatureCache(windows, 100)
    assert cache.get(3)[0].item() == 3
    assert cache.get(3)[0].item() == 3
    assert windows.computed == [3]
    assert cache.nbytes == 4


def test_what_exceeds_the_limit_is_computed_again():
    windows = Windows()
    cache = FeatureCache(windows, 8)
    for window in (0, 1, 2, 0, 1, 2):
        cache.get(window)
    assert windows.computed == [0, 1, 2, 2]
    assert cache.nbytes == 8


def test_windows_with_scribbles_take_the_place_of_others():
    windows = Windows()
    cache = FeatureCache(windows, 8)
    cache.get(0)
    cache.get(1)
    cache.prefer([2, 3])
    for window in (2, 3, 2, 3, 0):
        cache.get(window)
    assert windows.computed == [0, 1, 2, 3, 0]
    assert cache.nbytes == 8


def test_a_window_with_scribbles_does_not_drive_out_another():
    windows = Windows()
    cache = FeatureCache(windows, 4)
    cache.prefer([1, 2])
    for window in (1, 2, 1):
        cache.get(window)
    assert windows.computed == [1, 2]
