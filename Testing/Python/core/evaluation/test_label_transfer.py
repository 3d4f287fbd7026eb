from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.label_transfer import LabelTransfer
from scribblesegment.evaluation.metrics import dice


def a_disc(row: float, column: float, shape=(64, 64)) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = np.hypot(rows - row, columns - column) < 14
    return np.where(mask, 0.8, 0.2).astype(np.float32), mask


def a_context(*places) -> ContextSet:
    return ContextSet("disc", tuple(ContextEntry(*a_disc(*place), (1.0, 1.0)) for place in places))


def test_an_image_that_is_in_the_context_gets_its_mask():
    image, mask = a_disc(30, 34)
    assert dice(LabelTransfer()(image, (1.0, 1.0), a_context((30, 34))), mask) > 0.97


def test_a_moved_structure_is_found_within_reach_and_not_beyond():
    image, mask = a_disc(30, 34)
    near = LabelTransfer()(image, (1.0, 1.0), a_context((30, 30)))
    far = LabelTransfer()(image, (1.0, 1.0), a_context((30, 5)))
    assert dice(near, mask) > 0.9
    assert dice(far, mask) < 0.5


def test_of_several_images_the_one_that_fits_decides():
    image, mask = a_disc(30, 34)
    assert dice(LabelTransfer()(image, (1.0, 1.0), a_context((10, 10), (50, 50), (30, 34))), mask) > 0.95


def test_the_mask_is_on_the_pixels_of_the_image():
    image, _ = a_disc(20, 30, shape=(40, 90))
    mask = LabelTransfer()(image, (2.0, 0.5), a_context((30, 30)))
    assert mask.shape == (40, 90)
    assert mask.dtype == np.bool_


def test_without_context_nothing_is_segmented():
    assert not LabelTransfer()(a_disc(30, 30)[0], (1.0, 1.0), ContextSet("disc")).any()


@pytest.mark.parametrize("values", [{"size": 0}, {"patch": 4}, {"patch": -1}, {"reach": -1}, {"step": 0}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(ConfigError):
        LabelTransfer(**values)
