from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.data.prompts import Prompts
from scribblesegment.training import second_look as focus
from scribblesegment.training.augmentation import halve
from scribblesegment.training.samples import Batch, TrainingSample, collate
from scribblesegment.training.second_look import enlarge_prompts, second_look

SIZE = 16
FULL = 2 * SIZE


def a_batch(*, top: int = 8, side: int = 6, count: int = 2) -> Batch:
    """Fine images that rise from left to right, with a square; a click in it, one outside, a stroke and a box."""
    image = np.broadcast_to(np.linspace(0, 1, FULL, dtype=np.float32), (FULL, FULL)).copy()
    fine_mask = np.zeros((FULL, FULL), bool)
    fine_mask[top : top + side, top : top + side] = True
    mask = halve(fine_mask) >= 0.5
    stroke = np.zeros((SIZE, SIZE), bool)
    stroke[top // 2, top // 2 : top // 2 + 2] = True
    prompts = Prompts.empty((SIZE, SIZE)).with_scribble(stroke).with_click((top // 2 + 1, top // 2 + 1))
    prompts = prompts.with_click((SIZE - 1, SIZE - 1), positive=False).with_box((1, 1), (SIZE - 1, SIZE - 1))
    return collate([TrainingSample(image, fine_mask, mask, prompts)] * count)


def logits_of(batch: Batch) -> torch.Tensor:
    return 12.0 * batch.masks - 6.0


def generators(seed: int = 0, count: int = 2) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, number)) for number in range(count)]


def look_again(batch, logits, generators):
    look = second_look(batch, logits, generators)
    return look.batch, look.logits


def test_a_part_has_the_form_of_a_batch():
    batch = a_batch()
    part, first = look_again(batch, logits_of(batch), generators())
    assert part.images.shape == part.masks.shape == first.shape == (2, 1, SIZE, SIZE)
    assert part.images.dtype == part.masks.dtype == first.dtype == torch.float32
    assert set(part.masks.unique().tolist()) <= {0.0, 1.0}
    assert torch.isfinite(first).all()
    assert part.encode(first).shape == (2, 5, SIZE, SIZE)
    assert all(prompts.shape == (SIZE, SIZE) for prompts in part.prompts)


def test_the_batch_that_is_given_stays_as_it_is():
    batch = a_batch()
    logits = logits_of(batch).requires_grad_()
    before = (batch.images.clone(), batch.masks.clone(), batch.fine_images.clone(), list(batch.prompts))
    _, first = look_again(batch, logits, generators())
    assert not first.requires_grad
    assert torch.equal(batch.images, before[0])
    assert torch.equal(batch.masks, before[1])
    assert torch.equal(batch.fine_images, before[2])
    assert all(one is other for one, other in zip(batch.prompts, before[3], strict=True))


def test_generators_decide_what_is_looked_at_and_each_decides_for_its_sample():
    batch = a_batch()
    one, other = (look_again(batch, logits_of(batch), generators())[0] for _ in range(2))
    assert torch.equal(one.images, other.images)
    assert not torch.equal(one.images[0], one.images[1])
    swapped, _ = look_again(batch, logits_of(batch), generators()[::-1])
    assert torch.equal(swapped.images, one.images.flip(0))


def test_image_mask_prompts_and_logits_show_the_same_place(monkeypatch):
    region = ((4, 20), (6, 22))  # at the fine image's own resolution, so that nothing is interpolated
    monkeypatch.setattr(focus, "_region", lambda prompts, size, rng: region)
    batch = a_batch()
    part, first = look_again(batch, logits_of(batch), generators())
    torch.testing.assert_close(part.images[0, 0], batch.fine_images[0, 0, 4:20, 6:22])
    torch.testing.assert_close(part.masks[0, 0], batch.fine_masks[0, 0, 4:20, 6:22])
    assert np.argwhere(part.masks[0, 0].numpy()).min(axis=0).tolist() == [8 - 4, 8 - 6]
    assert (first[0, 0][part.masks[0, 0] > 0] > 0).all()
    # The stroke covers cells (4, 4) and (4, 5): fine pixels 8 to 9 by 8 to 11.
    assert np.argwhere(part.prompts[0].scribbles[0]).tolist() == [[r, c] for r in (4, 5) for c in (2, 3, 4, 5)]
    assert part.prompts[0].point_coords.tolist() == [[10 - 4, 10 - 6]]
    assert part.prompts[0].point_labels.tolist() == [1]
    assert part.prompts[0].boxes.tolist() == [[[0, 0], [16, 16]]]


@pytest.mark.parametrize("kind", ["uncertain", "nothing", "everything"])
def test_any_prediction_can_be_looked_at_again(kind):
    batch = a_batch()
    logits = {"uncertain": 0.0, "nothing": -20.0, "everything": 20.0}[kind] + torch.zeros_like(batch.masks)
    part, first = look_again(batch, logits, generators())
    torch.testing.assert_close(first, logits)
    assert torch.isfinite(part.images).all()


def test_without_prompts_and_prediction_a_part_from_the_middle_is_looked_at():
    batch = replace(a_batch(), prompts=[Prompts.empty((SIZE, SIZE))] * 2)
    part, _ = look_again(batch, torch.full((2, 1, SIZE, SIZE), -9.0), generators())
    width = part.images[:, 0, 0, -1] - part.images[:, 0, 0, 0]
    assert ((width > 0.3) & (width < 0.65)).all()


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000), top=st.integers(0, FULL - 8), side=st.integers(1, 8), grid=st.sampled_from([16, 32])
)
def test_a_part_is_a_square_of_the_image_of_a_quarter_of_its_side_or_more(seed, top, side, grid):
    full = 2 * grid
    logits = np.full((full, full), -5.0, np.float32)
    logits[top : top + side, top : top + side] = 5.0
    prompts = Prompts.empty((full, full)).with_click((top, top)).with_mask_input(logits)
    (first_row, last_row), (first_column, last_column) = focus._region(prompts, grid, np.random.default_rng(seed))
    assert last_row - first_row == last_column - first_column >= full // 4
    assert min(first_row, first_column) >= 0
    assert max(last_row, last_column) <= full
    # Never all of it: that was the first look.
    assert last_row - first_row <= 0.65 * full


def test_the_grid_s_prompts_lie_on_the_same_places_of_the_fine_image():
    prompts = a_batch().prompts[0].with_mask_input(np.arange(256.0).reshape(16, 16))
    fine = enlarge_prompts(prompts)
    assert fine.shape == (FULL, FULL)
    np.testing.assert_array_equal(fine.scribbles[:, ::2, ::2], prompts.scribbles)
    np.testing.assert_array_equal(fine.scribbles[:, 1::2, 1::2], prompts.scribbles)
    np.testing.assert_array_equal(fine.point_coords, 2 * prompts.point_coords)
    np.testing.assert_array_equal(fine.point_labels, prompts.point_labels)
    np.testing.assert_array_equal(fine.boxes, 2 * prompts.boxes)
    assert fine.mask_input is not None
    np.testing.assert_allclose(halve(fine.mask_input)[1:-1, 1:-1], prompts.mask_input[1:-1, 1:-1], rtol=1e-5)
    assert enlarge_prompts(replace(prompts, mask_input=None)).mask_input is None


def test_prompts_come_back_to_the_grid_as_they_were():
    prompts = a_batch().prompts[0]
    whole = NetworkGrid((FULL, FULL), size=SIZE)
    assert whole.prompts_to_grid(enlarge_prompts(prompts)).equals(prompts)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_structure_is_looked_at_as_closely_as_prediction_looks_at_it(seed):
    full = 256
    logits = np.full((full, full), -5.0, np.float32)
    logits[120:126, 90:100] = 5.0
    prompts = Prompts.empty((full, full)).with_click((122, 95)).with_mask_input(logits)
    (top, bottom), (left, right) = focus._region(prompts, full // 2, np.random.default_rng(seed))
    assert bottom - top == right - left == full // 4
    assert top <= 120 - 12
    assert bottom >= 126 + 12
    assert left <= 90 - 12
    assert right >= 100 + 12
