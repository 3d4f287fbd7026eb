from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_shifts import SHIFTS, shifted

STRENGTH = {"contrast": 0.8, "scanner": 1.0, "resolution": 4.0}


@pytest.fixture
def image():
    rows, columns = np.mgrid[:64, :64]
    picture = np.where((rows - 32) ** 2 + (columns - 32) ** 2 < 600, 0.2 + rows / 128, 0.0)
    picture[20:30, 20:40] = 0.9
    return picture.astype(np.float32)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_changes_the_image_and_keeps_its_range(name, image):
    changed = shifted(image, name, STRENGTH[name], np.random.default_rng(0))
    assert changed.shape == image.shape
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert np.abs(changed - image).mean() > 0.01


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_is_the_same_for_the_same_generator(name, image):
    first, again, other = (shifted(image, name, STRENGTH[name], np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name == "resolution")


@pytest.mark.parametrize(("name", "nothing"), [("contrast", 0.0), ("scanner", 0.0), ("resolution", 1.0)])
def test_the_least_strength_leaves_the_image(name, nothing, image):
    assert np.allclose(shifted(image, name, nothing, np.random.default_rng(0)), image, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "real"])
def test_images_that_are_not_changed_are_given_back(name, image):
    assert shifted(image, name, 1.0, np.random.default_rng(0)) is image


def test_air_stays_dark_whatever_the_contrast(image):
    assert not shifted(image, "contrast", 1.0, np.random.default_rng(0))[0].any()
    nothing = np.zeros((8, 8), np.float32)
    assert not shifted(nothing, "contrast", 1.0, np.random.default_rng(0)).any()


def test_what_is_no_shift_is_refused(image):
    with pytest.raises(ConfigError, match="No shift 'hue'"):
        shifted(image, "hue", 1.0, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="at least 1"):
        shifted(image, "resolution", 0.5, np.random.default_rng(0))
