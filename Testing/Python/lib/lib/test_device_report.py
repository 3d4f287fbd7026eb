"""Tests of the check of a device, which really computes."""

from __future__ import annotations

import torch

from ScribbleSegmentLib.DeviceSection import DeviceReport, checkDevice


def test_the_processor_works() -> None:
    assert checkDevice("cpu") == DeviceReport("cpu")


def test_a_device_that_is_not_there_is_reported_in_torchs_words() -> None:
    report = checkDevice("cuda:97")
    assert report.device == "cuda:97"
    assert report.problem
    assert report.hardware == ""


def test_automatic_names_the_device_that_it_would_take() -> None:
    report = checkDevice("auto")
    assert report.problem is None
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert report.device in (expected, "cpu")
    assert (report.unused is not None) == (report.device == "cpu" and torch.cuda.is_available())
