"""Entries, sets and the choice among them."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.context.context_set import (
    ContextEntry,
    ContextSet,
    SliceContext,
    from_uint16,
    same_entries,
    to_uint16,
)
from scribblesegment.context.selection import choose, image_descriptor
from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.errors import ContextError, GeometryError

MAGENTA = (230, 0, 230)


def an_entry(shape=(6, 8), spacing_mm=(1.0, 1.0), **values) -> ContextEntry:
    image = np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)
    return ContextEntry(**{"image": image, "mask": image > 0.5, "spacing_mm": spacing_mm, **values})


def a_set(*identifiers: str) -> ContextSet:
    return ContextSet("liver", tuple(an_entry(identifier=name) for name in identifiers))


def a_volume_set(indices) -> ContextSet:
    entries = [an_entry(source="CT", axis=0, index=n, identifier=f"ct{n}") for n in indices]
    return ContextSet("liver", tuple(entries))


def identifiers(context: ContextSet) -> list[str]:
    return [entry.identifier for entry in context]


# --- Entries ---------------------------------------------------------------------------------------------------------


def test_an_entry_keeps_its_own_unchangeable_copies_and_makes_up_what_is_not_given():
    image, mask = np.full((2, 3), 0.5), np.ones((2, 3), bool)
    entry = ContextEntry(image, mask, (1, 2))
    image[:], mask[:] = 0, False
    assert (entry.image.dtype, entry.spacing_mm, entry.shape) == (np.float32, (1.0, 2.0), (2, 3))
    assert (entry.image == 0.5).all()
    assert entry.mask.all()
    for array in (entry.image, entry.mask, *entry.on_grid(8)):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    assert len({entry.identifier, an_entry().identifier, an_entry().identifier}) == 3
    age = datetime.now(timezone.utc) - datetime.fromisoformat(entry.created)
    assert abs(age.total_seconds()) < 60
    assert (entry.source, entry.axis, entry.index) == ("", None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": np.zeros((2, 3, 4))}, "3 dimensions"),
        ({"image": np.zeros((0, 3)), "mask": np.zeros((0, 3), bool)}, "empty"),
        ({"image": np.full((6, 8), "a")}, "values"),
        ({"image": np.full((6, 8), np.nan)}, "IntensityRange"),
        *(({"image": np.full((6, 8), level)}, "0 to 1") for level in (1.1, -0.1)),
        ({"mask": np.zeros((6, 7), bool)}, r"\(6, 7\)"),
        *(({"mask": np.zeros((6, 8), kind)}, "Threshold") for kind in (float, np.uint8)),
        *((place, "both") for place in ({"axis": 0}, {"index": 3})),
        ({"axis": 3, "index": 0}, "axes are 0, 1 and 2"),
        ({"axis": 0, "index": -1}, "do not name"),
        *(({"axis": axis, "index": index}, "whole number") for axis, index in ((0, 1.5), (True, 1))),
        *(({"identifier": name}, "identify") for name in ("", "../a", "A", "a" * 65, 7)),
        *(
            ({"source": name}, words)
            for name, words in ((7, "name of the vol"), ("a\nb", "breaks"), ("a" * 201, "201"))
        ),
        *(({"created": date}, "ISO 8601") for date in ("yesterday", None)),
    ],
)
def test_entries_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ContextError, match=message):
        an_entry(**values)


@pytest.mark.parametrize("spacing_mm", [(0, 1), (1, np.nan), (1, 1, 1), (1e-300, 1e300)])
def test_unusable_spacings_sizes_and_targets_are_refused(spacing_mm):
    target = {"image": np.zeros((4, 4)), "spacing_mm": (1, 1), "limit": 1}
    for act in (
        lambda: an_entry(spacing_mm=spacing_mm),
        lambda: a_set("a", "b").select(**{**target, "spacing_mm": spacing_mm}),
        *(lambda ask=ask: ask(1.5) for ask in (an_entry().on_grid, an_entry().thumbnail, ContextSet("x").to_grid)),
    ):
        with pytest.raises(GeometryError):
            act()
    for values in ({"limit": -1}, {"limit": 1.5}, {"image": np.full((4, 4), 7.0)}, {"axis": 0}, {"index": 0}):
        with pytest.raises(ContextError):
            a_set("a", "b").select(**{**target, **values})


@pytest.mark.parametrize(
    ("given_source", "kept"),
    [
        ("/home/jane.doe/CT.nii.gz", "CT.nii.gz"),
        ("C:\\Users\\jane.doe\\CT.nrrd", "CT.nrrd"),
        ("\\\\server\\jane.doe\\CT.nrrd", "CT.nrrd"),
        ("~/jane.doe/CT.nrrd", "CT.nrrd"),
        ("file:///home/jane.doe/CT.nrrd", "CT.nrrd"),
        ("T1 w/o contrast", "T1 w/o contrast"),
        ("Leber – später", "Leber – später"),
    ],
)
def test_no_absolute_path_is_kept(given_source, kept):
    assert dataclasses.replace(an_entry(source=given_source)).source == kept


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_equal_pixels_have_equal_digests_also_after_16_bits(numbers):
    array = np.array([numbers], np.uint16)
    np.testing.assert_array_equal(to_uint16(from_uint16(array)), array)
    image, mask = from_uint16(array), array > 1000
    digest = ContextEntry(image, mask, (1, 1)).digest
    assert ContextEntry(from_uint16(to_uint16(image)), mask, (2, 2)).digest == digest
    assert ContextEntry(image, ~mask, (1, 1)).digest != digest
    assert len(numbers) == 1 or ContextEntry(image.T, mask.T, (1, 1)).digest != digest


def test_on_the_grid_an_entry_is_what_the_network_is_given():
    rng = np.random.default_rng(0)
    entry = ContextEntry(rng.random((50, 30)), rng.random((50, 30)) > 0.4, (0.5, 2.0))
    grid = NetworkGrid((50, 30), (0.5, 2.0), 32)
    image, mask = entry.on_grid(32)
    np.testing.assert_allclose(image, grid.image_to_grid(entry.image), atol=1e-6)
    np.testing.assert_array_equal(mask, grid.image_to_grid(entry.mask) > 0.5)
    assert entry.on_grid(32)[0] is image  # remembered
    assert entry.on_grid(16)[0].shape == (16, 16)
    tiny = np.zeros((100, 100), bool)
    tiny[40, 70] = True
    assert np.argwhere(an_entry((100, 100), mask=tiny).on_grid(10)[1]).tolist() == [[4, 7]]
    images, masks = ContextSet("liver", (entry, an_entry())).to_grid(16)
    assert (images.shape, images.dtype, masks.dtype) == ((2, 1, 16, 16), np.float32, np.float32)
    np.testing.assert_array_equal(images[0, 0], entry.on_grid(16)[0])
    np.testing.assert_array_equal(masks[0, 0], entry.on_grid(16)[1])
    assert ContextSet("liver").to_grid(16)[0].shape == (0, 1, 16, 16)


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_the_outline_in_a_thumbnail_is_seen_on_any_grey_and_the_aspect_kept(grey):
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    picture = ContextEntry(np.full((64, 64), grey), mask, (1, 1)).thumbnail(64)
    outline = (picture == MAGENTA).all(axis=2)
    assert outline.sum() == 4 * 31
    assert outline[16, 16:48].all()
    assert not outline[20:40, 20:40].any()  # the inside stays visible
    contrast = picture[outline].astype(int) - picture[30, 30].astype(int)
    assert np.linalg.norm(contrast, axis=1).min() > 150
    picture = ContextEntry(np.ones((10, 10)), np.zeros((10, 10), bool), (1.0, 4.0)).thumbnail(32)
    rows, columns = np.nonzero(picture[..., 0])
    assert (picture.shape, np.ptp(rows) + 1, np.ptp(columns) + 1) == ((32, 32, 3), 8, 32)
    assert not (picture == MAGENTA).all(axis=2).any()


# --- Sets ------------------------------------------------------------------------------------------------------------


def test_entries_are_added_removed_and_moved_in_another_set():
    context = a_set("a", "b", "c")
    assert identifiers(context.move("a", 2).remove("b").add(an_entry(identifier="d"))) == ["c", "a", "d"]
    assert identifiers(context.move("c", 0)) == ["c", "a", "b"]
    assert identifiers(context) == ["a", "b", "c"]
    assert ContextSet(" liver ").label_name == "liver"


def test_a_slice_that_is_added_again_takes_the_place_of_the_old_one_and_others_come_beside_it():
    context = a_volume_set(range(3))
    newer = an_entry(source="CT", axis=0, index=1, identifier="newer")
    assert identifiers(context.add(newer)) == ["ct0", "newer", "ct2"]
    same = dataclasses.replace(context.entries[1], mask=~context.entries[1].mask)
    assert context.add(same).get("ct1") is same
    place = {"source": "CT", "axis": 0, "index": 1}
    others = ({"source": "MR"}, {"axis": 1}, {"index": 6}, {"source": ""}, {"shape": (8, 6)}, {"spacing_mm": (1, 1.1)})
    assert all(len(context.add(an_entry(**{**place, **values}))) == 4 for values in others)
    unnamed = {**place, "source": ""}  # which never replace each other
    assert len(context.add(an_entry(**unnamed)).add(an_entry(**unnamed))) == 5


def test_sets_that_contradict_themselves_and_unknown_entries_are_refused():
    one, other = (an_entry(source="CT", axis=0, index=3) for _ in range(2))
    for make, message in (
        (lambda: a_set("a", "a"), "identifier 'a'"),
        (lambda: a_set("a").add(an_entry(identifier="a")), "identifier 'a'"),
        (lambda: ContextSet("x", (one, other)), "slice 3 of 'CT'"),
        (lambda: ContextSet("x", ("entry",)), "not str"),
        (lambda: a_set("a").remove("c"), "'liver' has the identifier 'c'"),
        (lambda: a_set("a").get("c"), "'liver' has the identifier 'c'"),
        (lambda: a_set("a").move("c", 0), "'liver' has the identifier 'c'"),
        *((lambda place=place: a_set("a", "b").move("a", place), "position") for place in (-1, 2, 0.5)),
        *((lambda name=name: ContextSet(name), "label name") for name in ("", " ", None, "a\nb", "\ud800", "a" * 201)),
    ):
        with pytest.raises(ContextError, match=message):
            make()


# --- Selection -------------------------------------------------------------------------------------------------------


def test_the_nearest_slices_on_both_sides_come_first_if_they_are_of_the_same_volume_and_axis():
    context = a_volume_set([0, 10, 20, 22, 24, 60])
    target = {"image": context.entries[0].image, "spacing_mm": (1.0, 1.0), "axis": 0, "index": 23, "source": "CT"}
    assert identifiers(context.select(**target, limit=2)) == ["ct22", "ct24"]
    target["index"] = 50
    assert identifiers(context.select(**target, limit=2)) == ["ct60", "ct24"]
    assert identifiers(context.select(**{**target, "source": "/data/CT"}, limit=1)) == ["ct60"]  # kept by its name
    for other in ({"source": "MR"}, {"axis": 1}, {"source": ""}):
        assert identifiers(context.select(**{**target, **other}, limit=1)) == ["ct0"]


def test_the_most_similar_image_of_other_volumes_comes_first_and_a_small_set_stays_as_it_is():
    rng = np.random.default_rng(0)
    images = rng.random((6, 32, 32))
    context = ContextSet("liver", tuple(ContextEntry(image, image > 0.5, (1, 1)) for image in images))
    noisy = np.clip(images[4] + rng.normal(scale=0.05, size=(32, 32)), 0, 1)
    assert context.select(noisy, spacing_mm=(1, 1), limit=3).entries[0] is context.entries[4]
    assert context.select(noisy, spacing_mm=(1, 1), limit=6) is context
    assert len(context.select(noisy, spacing_mm=(1, 1), limit=0)) == 0
    assert ContextSet("x").select(noisy, spacing_mm=(1, 1), limit=4).entries == ()


def test_a_slice_is_not_its_own_example_and_the_chosen_keep_their_order():
    context = a_volume_set([9, 5, 4, 6, 1])
    chosen = SliceContext(context, "CT", 0, 5).chosen(context.entries[0].image, spacing_mm=(1, 1), limit=2)
    assert identifiers(chosen) == ["ct4", "ct6"]
    everything = SliceContext(context).chosen(context.entries[0].image, spacing_mm=(1, 1))
    assert everything is context
    assert same_entries(context, ContextSet("spleen", context.entries))
    assert same_entries(None, ContextSet("x"))
    assert not same_entries(context, chosen)
    assert not same_entries(a_set("a"), a_set("a"))


def test_similarity_falls_with_the_distance_of_structures_in_millimetres():
    def disc(column):
        rows, columns = np.mgrid[:64, :64]
        return np.where(np.hypot(rows - 32, columns - column) < 12, 0.8, 0.2).astype(np.float32)

    image, spacing = image_descriptor(disc(32), (1.0, 1.0)), (2.0, 1.0)
    moved = [float(image @ image_descriptor(disc(32 + step), (1.0, 1.0))) for step in (0, 4, 12, 30)]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] == pytest.approx(1, abs=1e-5)
    coarse = disc(32)[::2]  # the same field of view with rows twice as far apart
    assert image @ image_descriptor(coarse, spacing) > 0.98 > 0.9 > image @ image_descriptor(coarse, (1.0, 1.0))
    assert np.isfinite(image_descriptor(np.full((5, 7), 0.5, np.float32), spacing)).all()


def test_similar_entries_come_first_and_copies_last():
    base, other, unlike = np.eye(3, 8, dtype=np.float32)
    entries = np.stack([unlike, base, base, base, other])
    assert choose(entries, 0.8 * base + 0.6 * other, np.full(5, np.nan), 5) == [1, 4, 2, 3, 0]


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 14))
@settings(max_examples=60)
def test_a_choice_has_no_entry_twice_and_its_beginning_is_the_smaller_choice(seed, count, limit):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count + 1, 8)).astype(np.float32)
    target, *entries = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    entries, offsets = np.reshape(entries, (count, 8)), rng.integers(-20, 20, count)
    offsets = np.where(rng.random(count) < 0.5, np.nan, offsets)
    chosen = choose(entries, target, offsets, limit)
    assert len(chosen) == len(set(chosen)) == min(limit, count)
    assert chosen[: limit // 2] == choose(entries, target, offsets, limit // 2)
