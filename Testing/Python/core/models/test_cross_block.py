"""Tests of the block that mixes a target with context entries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from scribblesegment.errors import GeometryError
from scribblesegment.models.cross_block import SLOPE, CrossBlock, EntryMean


def some_block(**options: object) -> CrossBlock:
    torch.manual_seed(0)
    return CrossBlock(3, 2, 4, **{"normalise": True, "cross_activation": True, **options})  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_mean_does_not_depend_on_how_the_entries_are_grouped(sizes: list[int], batch: int, seed: int) -> None:
    entries = torch.randn(sum(sizes), batch, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    before, mean = entries.clone(), EntryMean()
    for piece in entries.split(sizes):
        mean.add(piece.flatten(0, 1), entries=len(piece))
    torch.testing.assert_close(mean.result(), entries.mean(0))
    assert torch.equal(entries, before)


def test_a_mean_of_many_in_bfloat16_does_not_lose_the_last_ones() -> None:
    mean = EntryMean()
    for number in range(256):
        mean.add(torch.full((1, 1, 1, 1), 1.0 if number < 200 else 5.0, dtype=torch.bfloat16), entries=1)
    assert float(mean.result()) == pytest.approx((200 + 56 * 5) / 256, rel=0.01)


def test_there_is_no_mean_over_no_entries() -> None:
    with pytest.raises(GeometryError, match="over no entries"):
        EntryMean().result()


def test_split_parts_are_the_convolution_of_target_and_entry_side_by_side() -> None:
    block = some_block()
    target, entries = torch.randn(2, 3, 6, 5), torch.randn(3, 2, 2, 6, 5)
    mixed = block.entry_convolution()(block.read_target(target), entries.flatten(0, 1))
    expected = torch.stack([block.cross_conv(torch.cat([target, entry], dim=1)) for entry in entries])  # equation 3
    torch.testing.assert_close(mixed, expected.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_channels_of_the_level_below_come_first_and_are_enlarged() -> None:
    block = some_block(below_channels=1)
    target, below = torch.randn(1, 2, 8, 6), torch.randn(1, 1, 4, 3)
    entries, entries_below = torch.randn(1, 1, 8, 6), torch.randn(1, 1, 4, 3)
    mixed = block.entry_convolution()(block.read_target(target, below), entries, entries_below)
    enlarged, entries_enlarged = (
        functional.interpolate(features, size=(8, 6), mode="bilinear", align_corners=True)
        for features in (below, entries_below)
    )
    expected = block.cross_conv(torch.cat([enlarged, target, entries_enlarged, entries], dim=1))
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cross_activation", [True, False])
def test_the_mean_and_the_entries_are_activated_where_the_network_does_that(cross_activation: bool) -> None:
    block, kept = some_block(cross_activation=cross_activation), list[torch.Tensor]()
    mixed = torch.randn(3, 4, 5, 5)
    with torch.no_grad():
        target = block(iter([mixed.clone()]), 1, kept.append)
        activated = functional.leaky_relu(mixed, SLOPE) if cross_activation else mixed
        torch.testing.assert_close(target, block.target(activated.mean(0, keepdim=True)))
        torch.testing.assert_close(kept[0], block.support(activated))


def test_normalisation_runs_over_channels_and_pixels_together() -> None:
    block = some_block()
    features = block.support(torch.randn(3, 4, 7, 7))
    torch.testing.assert_close(features.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std((1, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert features.mean((2, 3)).abs().max() > 0.05  # not channel by channel


def test_entries_come_out_in_their_order() -> None:
    block, kept = some_block(), list[torch.Tensor]()
    pieces = [torch.randn(count, 4, 5, 5) for count in (1, 3)]
    with torch.no_grad():
        expected = block.support(functional.leaky_relu(torch.cat(pieces), SLOPE))
        block(iter(pieces), 1, kept.append)
    torch.testing.assert_close(torch.cat(kept), expected)
