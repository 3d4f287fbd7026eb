"""Networks that segment in context: MultiverSeg, UniverSeg, and the interactive network with a context."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from scribblesegment.errors import GeometryError
from scribblesegment.inference.devices import ExecutionPlan, prepare
from scribblesegment.models.context_unet import ContextMatching, InContextNetwork, crop_maps
from scribblesegment.models.cues import INTENSITY_CHANNELS
from scribblesegment.models.factory import build_network
from scribblesegment.models.multiverseg import SLOPE, CrossBlock

KINDS = ("multiverseg", "universeg")
IN_CONTEXT = ("context_unet", *KINDS)


def some_network(kind="multiverseg", features=(4, 6, 5)):
    torch.manual_seed(0)
    options = {"intensity_cues": True, "geodesic_cues": True} if kind == "context_unet" else {}
    return build_network(kind, {"features": list(features), **options}).eval()


def some_images(*, batch=2, entries=3, size=(16, 16)):
    """Targets, and images and masks of their context sets."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(batch, entries, 1, *size, generator=rng)
    x = torch.rand(batch, 5, *size, generator=rng)
    x[:, 1:4] = (x[:, 1:4] > 0.95).float()
    return x, images, (images > 0.6).float()


def predict(network, x, images, masks):
    with torch.no_grad():
        return network(x, network.encode_context(images, masks))


# Any network in context.


@pytest.mark.parametrize("kind", IN_CONTEXT)
def test_every_entry_counts_whatever_the_order_and_each_target_has_its_own(kind):
    network, (x, images, masks) = some_network(kind), some_images(entries=5)
    assert isinstance(network, InContextNetwork)
    logits, order = predict(network, x, images, masks), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(predict(network, x, images[:, order], masks[:, order]), logits, atol=1e-5, rtol=1e-5)
    assert (predict(network, x, images[:, :4], masks[:, :4]) - logits).abs().max() > 1e-4
    alone = [predict(network, x[n : n + 1], images[n : n + 1], masks[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(torch.cat(alone), logits, atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        context = network.encode_context(images, masks)
        first = network(x, context)
        network(torch.rand_like(x), context)  # a context can be used for many targets
        assert torch.equal(network(x, context), first)


@pytest.mark.parametrize("kind", IN_CONTEXT)
def test_no_context_and_an_empty_one_are_the_same(kind):
    network, (x, images, masks) = some_network(kind), some_images(entries=0)
    with torch.no_grad():
        nothing = network(x)
    torch.testing.assert_close(predict(network, x, images, masks), nothing)
    if kind in KINDS:  # the published networks take one entry of a half for it
        half = torch.full((2, 1, 1, 16, 16), 0.5)
        torch.testing.assert_close(predict(network, x, half, half), nothing)
    else:
        with torch.no_grad():
            torch.testing.assert_close(network(x, torch.zeros(2, network.context_channels, 16, 16)), nothing)


# MultiverSeg and UniverSeg.


def as_in_the_paper(network, x, images, masks, *, activated):
    """Equations 3 and 4 entry by entry, target and entry side by side, on enlarged images."""

    def crossed(block, target, entries):
        mixed = [block.cross_conv(torch.cat([target, entry], dim=1)) for entry in entries]
        mixed = [functional.leaky_relu(z, SLOPE) for z in mixed] if activated else mixed
        return block.target(torch.stack(mixed).mean(0)), [block.support(z) for z in mixed]

    def joined(below, beside):
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
    return network.out_conv(target)


@settings(max_examples=20)
@given(
    kind=st.sampled_from(KINDS),
    features=st.lists(st.integers(2, 6), min_size=2, max_size=4),  # one number alone cannot be normalised
    batch=st.integers(1, 3),
    entries=st.integers(1, 5),
    size=st.tuples(st.integers(8, 19), st.integers(8, 19)),
    piece_values=st.none() | st.integers(1, 4000),
)
def test_any_shape_set_and_pieces_compute_the_equations_of_the_paper(
    kind, features, batch, entries, size, piece_values
):
    network = some_network(kind, features).double()
    network.piece_values = piece_values
    x, images, masks = (tensor.double() for tensor in some_images(batch=batch, entries=entries, size=size))
    logits = predict(network, x, images, masks)
    expected = as_in_the_paper(network, x, images, masks, activated=kind == "multiverseg")
    torch.testing.assert_close(logits, expected.detach(), atol=1e-4, rtol=1e-4)
    network.piece_values = 1
    trained = network(x, network.encode_context(images, masks))  # with gradients
    torch.testing.assert_close(trained.detach(), logits, atol=1e-9, rtol=1e-9)


def test_the_last_of_many_entries_are_not_lost_in_the_rounding_of_bfloat16():
    block = CrossBlock(1, 1, 1, normalise=False, cross_activation=False).bfloat16()
    block.cross_conv.weight.data.zero_()[:, 1, 1, 1] = 1.0  # hands the entries on
    block.cross_conv.bias.data.zero_()
    block.target = torch.nn.Identity()
    entries = torch.where(torch.arange(256)[:, None, None, None] < 200, 1.0, 5.0).expand(-1, 1, 4, 4).bfloat16()
    mean = block(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16), [entries], None)
    assert mean.float().mean().item() == pytest.approx((200 + 56 * 5) / 256, rel=0.01)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_the_logits_are_nearly_the_same(kind, channels_last):
    network, (x, images, masks) = some_network(kind, (16, 16, 16)), some_images(entries=5, size=(32, 32))
    fast = prepare(network, ExecutionPlan(bfloat16=True, channels_last=channels_last))
    exact, logits = predict(network, x, images, masks), predict(fast, x.bfloat16(), images, masks)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).std() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("target", "images", "masks", "message"),
    [
        ((2, 5, 16, 16), (2, 3, 1, 16, 16), (2, 3, 1, 16, 17), r"one shape \(B, S, 1, H, W\), got \(2, 3, 1, 16, 16\)"),
        ((2, 5, 16, 16), (3, 1, 16, 16), (3, 1, 16, 16), r"one shape \(B, S, 1, H, W\), got \(3, 1, 16, 16\)"),
        ((2, 4, 16, 16), None, None, r"5 channels and at least 4 x 4 pixels, got \(2, 4, 16, 16\)"),
        ((2, 5, 16, 3), None, None, r"5 channels and at least 4 x 4 pixels, got \("),
        ((5, 16, 16), None, None, r"5 channels and at least 4 x 4 pixels, got \("),
        ((1, 5, 16, 16), None, None, "is for 2 targets of 16 x 16 pixels, the targets have shape"),
        ((2, 5, 16, 17), None, None, "is for 2 targets of 16 x 16 pixels, the targets have shape"),
    ],
)
def test_targets_and_contexts_that_do_not_fit_are_refused(target, images, masks, message):
    images, masks = (torch.zeros(shape or (2, 3, 1, 16, 16)) for shape in (images, masks))
    with pytest.raises(GeometryError, match=message):
        predict(some_network(), torch.zeros(target), images, masks)


# The interactive network with a context.


def test_maps_stand_for_a_context_and_do_not_depend_on_prompts():
    network, (x, images, masks) = some_network("context_unet", (8, 16)), some_images(size=(32, 32))
    with torch.no_grad():
        context = network.encode_context(images, masks)
        maps = network.context_maps(x[:, :1], context)
        torch.testing.assert_close(network(x, context), network(x, maps))
        assert not torch.allclose(network(x, context), network(x))
        looks = maps[:, -INTENSITY_CHANNELS:]
        assert ((looks[:, :1] > 0) == (x[:, :1] > 0.6)).float().mean() > 0.95
        assert torch.isfinite(network(x, network.encode_context(images, torch.zeros_like(masks)))).all()


def textured(count, side=64):
    """Smooth random images (count, 1, side, side) in which every place looks different."""
    return functional.interpolate(torch.rand(count, 1, side // 4, side // 4), size=(side, side), mode="bilinear")


def a_disc(side=64):
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((rows - 24) ** 2 + (columns - 36) ** 2 < 14**2).float()


def test_masks_are_carried_over_to_what_looks_alike_also_in_half_precision():
    matching, images = ContextMatching().eval(), textured(2)
    masks = a_disc().expand(1, 2, 1, -1, -1)
    maps = matching(images[:1], *matching.encode(images[None], masks))
    assert maps.shape == (1, 6, 64, 64)
    assert ((maps[0, 0] > 0) == (a_disc() > 0)).float().mean() > 0.97  # the head that prefers the same place
    background = matching(images[:1], *matching.encode(images[None], torch.zeros_like(masks)))
    torch.testing.assert_close(background[:, :3], torch.full((1, 3, 64, 64), -1.0))
    grey = torch.full((1, 1, 32, 32), 0.4)
    same = matching(grey, *matching.encode(grey[None], torch.ones(1, 1, 1, 32, 32)))
    torch.testing.assert_close(same[:, 3:], torch.zeros(1, 3, 32, 32), atol=1e-5, rtol=0.0)
    halves = matching.bfloat16()
    half = halves(images[:1].bfloat16(), *halves.encode(images[None].bfloat16(), masks.bfloat16()))
    assert ((half[:, 0] > 0) == (maps[:, 0] > 0)).float().mean() > 0.98


def test_a_part_of_maps_is_what_lies_there_and_beyond_them_their_border_continues():
    maps = torch.arange(64.0).reshape(1, 1, 8, 8)
    torch.testing.assert_close(crop_maps(maps, (0.0, 1.0), (0.0, 1.0), 8), maps)
    torch.testing.assert_close(crop_maps(maps, (0.5, 1.0), (0.25, 0.75), 4), maps[..., 4:, 2:6])
    torch.testing.assert_close(crop_maps(maps, (-1.0, 0.0), (0.0, 1.0), 8), maps[:, :, :1].expand(-1, -1, 8, -1))
