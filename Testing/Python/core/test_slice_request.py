"""Tests of scribblesegment.service.service: what goes to inference and comes back."""

from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import GeometryError, ImageError, PromptError
from scribblesegment.service.service import SliceOutcome, SliceRequest


def a_request(**fields) -> SliceRequest:
    image = np.zeros((4, 6), np.int16)
    defaults = {
        "image": image, "image_token": ("volume", 3), "spacing_mm": (1.0, 0.5), "intensity_range": None,
        "prompts": Prompts.empty((4, 6)),
    }  # fmt: skip
    return SliceRequest(**{**defaults, **fields})


def test_the_image_of_a_request_stays_a_view_into_the_volume():
    volume = np.zeros((3, 4, 6), np.int16)
    request = a_request(image=volume[1])
    assert np.shares_memory(request.image, volume)
    assert request.spacing_mm == (1.0, 0.5)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"image": np.zeros((1, 4, 6))}, ImageError),
        ({"image": np.zeros((0, 6))}, ImageError),
        ({"image": np.zeros((4, 6), complex)}, ImageError),
        ({"spacing_mm": (1.0, 0.0)}, GeometryError),
        ({"spacing_mm": (1.0, 1.0, 1.0)}, GeometryError),
        ({"prompts": Prompts.empty((6, 4))}, PromptError),
        ({"prompts": Prompts.empty((1, 4, 6))}, PromptError),
    ],
)
def test_requests_whose_parts_do_not_fit_are_refused(fields, error):
    with pytest.raises(error):
        a_request(**fields)


def test_an_outcome_is_either_logits_or_an_error():
    error = ImageError("the image is gone")
    assert SliceOutcome(1, None, error, 0.0).error is error
    logits = np.zeros((4, 6), np.float32)
    assert SliceOutcome(2, logits, None, 0.1).logits is logits
