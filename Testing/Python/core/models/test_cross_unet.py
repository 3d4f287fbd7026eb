"""Tests of what the networks in context share: any context set, in pieces of any size."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from scribblesegment.errors import GeometryError
from scribblesegment.inference.devices import ExecutionPlan, prepare
from scribblesegment.models import cross_unet
from scribblesegment.models.cross_block import SLOPE, EntryConvolution
from scribblesegment.models.cross_unet import CrossUNet, EntryReader, check_features
from scribblesegment.models.in_context import InContextNetwork

KINDS = {"multiverseg": (5, {"normalise": True, "cross_activation": True})} | {
    "universeg": (1, {"normalise": False, "cross_activation": False})
}
kinds = pytest.mark.parametrize("kind", KINDS)


def some_network(kind: str = "multiverseg", features: tuple[int, ...] = (4, 6, 5), seed: int = 0) -> CrossUNet:
    torch.manual_seed(seed)
    channels, options = KINDS[kind]
    return CrossUNet(features, channels, **options)


def some_images(
    *, batch: int = 2, entries: int = 3, size: tuple[int, int] = (8, 8), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, and images and masks of their context sets."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, entries, 1, *size, generator=rng)
    masks = (torch.rand(images.shape, generator=rng) > 0.6).float()
    return torch.rand(batch, 5, *size, generator=rng), images, masks


def as_in_the_paper(network: CrossUNet, x: Tensor, images: Tensor, masks: Tensor, *, activated: bool) -> Tensor:
    """Equations 3 and 4 entry by entry, target and entry side by side, on enlarged images."""

    def crossed(block: Any, target: Tensor, entries: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mixed = [block.cross_conv(torch.cat([target, entry], dim=1)) for entry in entries]
        mixed = [functional.leaky_relu(z, SLOPE) for z in mixed] if activated else mixed
        return block.target(torch.stack(mixed).mean(0)), [block.support(z) for z in mixed]

    def joined(below: Tensor, beside: Tensor) -> Tensor:
        enlarged = functional.interpolate(below, size=beside.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat([enlarged, beside], dim=1)

    target = x[:, : network.target_channels]
    entries = list(torch.cat([images, masks], dim=2).unbind(1))
    skips = []
    for number, block in enumerate(network.enc_blocks):
        if number > 0:
            skips.append((target, entries))
            target, entries = functional.max_pool2d(target, 2), [functional.max_pool2d(v, 2) for v in entries]
        target, entries = crossed(block, target, entries)
    for block in network.dec_blocks:
        beside, entries_beside = skips.pop()
        target = joined(target, beside)
        entries = [joined(v, u) for v, u in zip(entries, entries_beside, strict=True)]
        target, entries = crossed(block, target, entries)
    logits: Tensor = network.out_conv(target)
    return logits


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    features=st.lists(st.integers(2, 6), min_size=2, max_size=4),  # one number alone cannot be normalised
    batch=st.integers(1, 3),
    entries=st.integers(1, 4),
    size=st.tuples(st.integers(8, 19), st.integers(8, 19)),
)
def test_any_shape_of_network_and_set_computes_the_equations_of_the_paper(
    kind: str, features: list[int], batch: int, entries: int, size: tuple[int, int]
) -> None:
    network = some_network(kind, tuple(features)).double()
    x, images, masks = (tensor.double() for tensor in some_images(batch=batch, entries=entries, size=size))
    with torch.no_grad():
        logits = network(x, network.encode_context(images, masks))
        expected = as_in_the_paper(network, x, images, masks, activated=kind == "multiverseg")
    assert logits.shape == (batch, 1, *size)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    batch=st.integers(1, 2),
    entries=st.integers(0, 9),
    piece_values=st.integers(1, 4000),
    with_gradients=st.booleans(),
)
def test_the_size_of_the_pieces_does_not_matter(
    kind: str, batch: int, entries: int, piece_values: int, with_gradients: bool
) -> None:
    network = some_network(kind)
    x, images, masks = some_images(batch=batch, entries=entries)
    with torch.set_grad_enabled(with_gradients):
        context = network.encode_context(images, masks)
        network.piece_values = 10**9
        whole = network(x, context)
        network.piece_values = piece_values
        in_pieces = network(x, context)
    torch.testing.assert_close(in_pieces, whole, atol=1e-5, rtol=1e-5)


def test_as_many_entries_are_gone_through_at_once_as_a_piece_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    network = some_network(features=(4, 4))
    network.piece_values = 2 * 4 * 8 * 8  # two entries at full resolution, eight at half of it
    seen: list[tuple[int, int]] = []
    convolve = EntryConvolution.__call__

    def counted(self: EntryConvolution, target: Tensor, entries: Tensor, below: Tensor | None = None) -> Tensor:
        seen.append((entries.shape[-1], len(entries)))
        return convolve(self, target, entries, below)

    monkeypatch.setattr(EntryConvolution, "__call__", counted)
    x, images, masks = some_images(batch=1, entries=5)
    with torch.no_grad():
        network(x, network.encode_context(images, masks))
    assert seen == [(8, 2), (8, 2), (8, 1), (4, 5), (8, 2), (8, 2), (8, 1)]


@kinds
def test_the_order_of_the_entries_does_not_matter(kind: str) -> None:
    network = some_network(kind)
    x, images, masks = some_images(entries=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        logits = [
            network(x, network.encode_context(*pair)) for pair in ((images, masks), (images[:, order], masks[:, order]))
        ]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@kinds
def test_every_entry_counts_and_copies_of_one_count_as_one(kind: str) -> None:
    network = some_network(kind)
    x, images, masks = some_images(entries=1)
    with torch.no_grad():
        one = network(x, network.encode_context(images, masks))
        copies = network(x, network.encode_context(images.expand(-1, 6, -1, -1, -1), masks.expand(-1, 6, -1, -1, -1)))
        other = torch.cat([masks, 1.0 - masks], dim=1)
        two = network(x, network.encode_context(images.expand(-1, 2, -1, -1, -1), other))
    torch.testing.assert_close(copies, one, atol=1e-5, rtol=1e-5)
    assert (two - one).abs().max() > 1e-3


def test_each_target_has_its_own_set() -> None:
    network = some_network()
    x, images, masks = some_images(batch=3)
    with torch.no_grad():
        together = network(x, network.encode_context(images, masks))
        alone = [
            network(x[n : n + 1], network.encode_context(images[n : n + 1], masks[n : n + 1])) for n in range(len(x))
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@kinds
def test_an_empty_set_is_one_entry_of_a_half(kind: str) -> None:
    network = some_network(kind)
    x, images, masks = some_images(entries=0)
    half = torch.full((2, 1, 1, 8, 8), 0.5)
    with torch.no_grad():
        expected = network(x, network.encode_context(half, half))
        torch.testing.assert_close(network(x), expected)
        torch.testing.assert_close(network(x, network.encode_context(images, masks)), expected)


def test_a_context_can_be_used_for_many_targets() -> None:
    network = some_network()
    x, images, masks = some_images()
    with torch.inference_mode():
        context = network.encode_context(images, masks)
        first = network(x, context)
        network(torch.rand_like(x), context)
        assert torch.equal(network(x, context), first)


@pytest.mark.parametrize("encoded_with_gradients", [True, False])
@kinds
def test_gradients_reach_every_parameter_that_has_a_say(kind: str, encoded_with_gradients: bool) -> None:
    network = some_network(kind)
    x, images, masks = some_images()
    with torch.set_grad_enabled(encoded_with_gradients):
        context = network.encode_context(images, masks)
    for _ in range(2):  # as in training: several rounds with one context
        network(x, context).square().sum().backward()
    # Nobody reads the entries' features of the last block; the published checkpoints hold its parameters all the same.
    silent = {name for name, _ in network.named_parameters() if name.startswith("dec_blocks.1.support.")}
    assert silent
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (name in silent), name
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("channels_last", [True, False])
@kinds
def test_in_bfloat16_the_logits_are_nearly_the_same(kind: str, channels_last: bool) -> None:
    network = some_network(kind, features=(16, 16, 16))
    x, images, masks = some_images(entries=5, size=(32, 32))
    fast = prepare(network, ExecutionPlan(bfloat16=True, channels_last=channels_last))
    with torch.inference_mode():
        exact = network(x, network.encode_context(images, masks))
        logits = fast(x.bfloat16(), fast.encode_context(images, masks))  # type: ignore[operator]
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).std() < 0.05 * exact.std()


def test_a_copy_goes_through_pieces_of_the_same_size() -> None:
    network = some_network()
    network.piece_values = 77
    assert copy.deepcopy(network).piece_values == 77


def test_it_is_a_network_in_context() -> None:
    assert isinstance(some_network(), InContextNetwork)


def test_features_of_a_fresh_network_keep_their_size() -> None:
    network = some_network("universeg", features=(16,) * 5)
    x, images, masks = some_images(entries=4, size=(64, 64))
    seen: list[float] = []
    for block in network.enc_blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(float(output.std())))
    with torch.no_grad():
        network(x, network.encode_context(images, masks))
    assert len(seen) == 5
    assert max(seen) < 20 * min(seen)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ((2, 3, 1, 8, 8), (2, 3, 1, 8, 9)),
        ((2, 3, 1, 8, 8), (2, 2, 1, 8, 8)),
        ((2, 3, 2, 8, 8), (2, 3, 2, 8, 8)),
        ((3, 1, 8, 8), (3, 1, 8, 8)),
    ],
)
def test_images_and_masks_of_other_shapes_are_refused_by_name(images: tuple[int, ...], masks: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"one shape \(B, S, 1, H, W\), got") as caught:
        some_network().encode_context(torch.zeros(images), torch.zeros(masks))
    assert str(images) in str(caught.value)
    assert str(masks) in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 5, 3, 8), (5, 8, 8), (2, 5, 8, 3)])
def test_targets_that_do_not_fit_the_network_are_refused(shape: tuple[int, ...]) -> None:
    network, (_, images, masks) = some_network(), some_images()
    context = network.encode_context(images, masks)
    with pytest.raises(GeometryError, match=r"5 channels and at least 4 x 4 pixels, got \("):
        network(torch.zeros(shape), context)
    with pytest.raises(GeometryError, match=r"5 channels and at least 4 x 4 pixels, got \("):
        network(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 5, 8, 8), (2, 5, 8, 9), (2, 5, 16, 16)])
def test_a_context_of_another_batch_or_grid_is_refused(shape: tuple[int, ...]) -> None:
    network, (_, images, masks) = some_network(), some_images()
    context = network.encode_context(images, masks)
    with pytest.raises(GeometryError, match=r"is for 2 targets of 8 x 8 pixels, the targets have shape"):
        network(torch.zeros(shape), context)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data(), batch=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_entries_are_read_once_each_in_any_portions(sizes: list[int], data: st.DataObject, batch: int) -> None:
    total = sum(sizes)
    entries = torch.arange(float(total * batch)).reshape(total * batch, 1, 1, 1)
    reader = EntryReader(iter(entries.split([size * batch for size in sizes])), batch)
    taken = []
    while total > 0:
        count = data.draw(st.integers(1, total))
        taken.append(reader.take(count))
        assert len(taken[-1]) == count * batch
        total -= count
    assert torch.equal(torch.cat(taken), entries)


def test_a_piece_is_not_asked_for_before_it_is_needed_and_then_forgotten() -> None:
    pieces = deque(torch.zeros(2, 1, 1, 1) for _ in range(3))
    reader = EntryReader(cross_unet._forgetting(pieces), 1)
    left = []
    for _ in range(3):
        reader.take(2)
        left.append(len(pieces))
    assert left == [2, 1, 0]


def test_widths_from_a_file_become_a_tuple() -> None:
    assert check_features([8, 4]) == (8, 4)
