from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.context.context_set import ContextEntry, ContextSet, from_levels, to_levels
from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.errors import ContextError, GeometryError

MAGENTA = (230, 0, 230)


def an_entry(shape=(6, 8), spacing_mm=(1.0, 1.0), **values) -> ContextEntry:
    image = np.linspace(0, 1, shape[0] * shape[1]).reshape(shape)
    return ContextEntry(**{"image": image, "mask": image > 0.5, "spacing_mm": spacing_mm, **values})


def a_set(*identifiers: str) -> ContextSet:
    return ContextSet("liver", tuple(an_entry(identifier=name) for name in identifiers))


def identifiers(context: ContextSet) -> list[str]:
    return [entry.identifier for entry in context]


def test_an_entry_keeps_its_own_unchangeable_copies():
    image, mask = np.full((2, 3), 0.5), np.ones((2, 3), bool)
    entry = ContextEntry(image, mask, (1, 2))
    image[:], mask[:] = 0, False
    assert entry.image.dtype == np.float32
    assert (entry.image == 0.5).all()
    assert entry.mask.all()
    assert entry.spacing_mm == (1.0, 2.0)
    assert entry.shape == (2, 3)
    for array in (entry.image, entry.mask, *entry.on_grid(8)):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_what_is_not_given_is_made_up():
    first, second = an_entry(), an_entry()
    assert first.identifier != second.identifier
    assert len(first.identifier) == 32
    age = datetime.now(timezone.utc) - datetime.fromisoformat(first.created)
    assert abs(age.total_seconds()) < 60
    assert (first.source, first.axis, first.index) == ("", None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": np.zeros((2, 3, 4))}, "3 dimensions"),
        ({"image": np.zeros((0, 3)), "mask": np.zeros((0, 3), bool)}, "empty"),
        ({"image": np.full((6, 8), "a")}, "values"),
        ({"image": np.full((6, 8), np.nan)}, "IntensityRange"),
        ({"image": np.full((6, 8), 1.1)}, "0 to 1"),
        ({"image": np.full((6, 8), -0.1)}, "0 to 1"),
        ({"mask": np.zeros((6, 7), bool)}, r"\(6, 7\)"),
        ({"mask": np.zeros((6, 8))}, "Threshold"),
        ({"mask": np.zeros((6, 8), np.uint8)}, "Threshold"),
        ({"axis": 0}, "both"),
        ({"index": 3}, "both"),
        ({"axis": 3, "index": 0}, "axes are 0, 1 and 2"),
        ({"axis": 0, "index": -1}, "no place"),
        ({"axis": 0, "index": 1.5}, "whole number"),
        ({"axis": True, "index": 1}, "whole number"),
        ({"identifier": ""}, "identify"),
        ({"identifier": "../a"}, "identify"),
        ({"identifier": "A"}, "identify"),
        ({"identifier": "a" * 65}, "identify"),
        ({"identifier": 7}, "identify"),
        ({"source": 7}, "name of the volume"),
        ({"source": "a\nb"}, "line breaks"),
        ({"source": "a" * 201}, "201 characters"),
        ({"created": "yesterday"}, "ISO 8601"),
        ({"created": None}, "ISO 8601"),
    ],
)
def test_entries_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ContextError, match=message):
        an_entry(**values)


@pytest.mark.parametrize("spacing_mm", [(0, 1), (1, -1), (1, np.nan), (1, 1, 1), (1e-300, 1e300)])
def test_unusable_spacings_are_refused(spacing_mm):
    with pytest.raises(GeometryError):
        an_entry(spacing_mm=spacing_mm)


def test_an_empty_mask_is_an_example_too():
    entry = an_entry(mask=np.zeros((6, 8), bool))
    assert not entry.on_grid(4)[1].any()
    assert not (entry.thumbnail(16) == MAGENTA).all(axis=2).any()


@pytest.mark.parametrize(
    ("given_source", "kept"),
    [
        ("/home/jane.doe/CT.nii.gz", "CT.nii.gz"),
        ("C:\\Users\\jane.doe\\CT.nrrd", "CT.nrrd"),
        ("\\\\server\\jane.doe\\CT.nrrd", "CT.nrrd"),
        ("~/jane.doe/CT.nrrd", "CT.nrrd"),
        ("file:///home/jane.doe/CT.nrrd", "CT.nrrd"),
        ("T1 w/o contrast", "T1 w/o contrast"),
        ("patient 7/CT", "patient 7/CT"),
        ("Leber – später", "Leber – später"),
    ],
)
def test_no_absolute_path_is_kept(given_source, kept):
    entry = an_entry(source=given_source)
    assert entry.source == kept
    assert dataclasses.replace(entry).source == kept


def test_equal_pixels_have_equal_digests_also_after_16_bits(rng):
    image, mask = rng.random((9, 7)), rng.random((9, 7)) > 0.5
    entry = ContextEntry(image, mask, (1, 1))
    rounded = ContextEntry(from_levels(to_levels(entry.image)), mask, (2, 2))
    assert np.abs(rounded.image - entry.image).max() <= 0.5 / 65535 + 1e-7
    assert rounded.digest == entry.digest
    changed = mask.copy()
    changed[3, 3] ^= True
    assert ContextEntry(image, changed, (1, 1)).digest != entry.digest
    assert ContextEntry(image.T, mask.T, (1, 1)).digest != entry.digest


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_levels_survive_the_way_through_intensities(levels):
    array = np.array(levels, np.uint16)
    np.testing.assert_array_equal(to_levels(from_levels(array)), array)


def test_on_the_grid_an_entry_is_what_the_network_is_given(rng):
    entry = ContextEntry(rng.random((50, 30)), rng.random((50, 30)) > 0.4, (0.5, 2.0))
    grid = NetworkGrid((50, 30), (0.5, 2.0), 32)
    image, mask = entry.on_grid(32)
    np.testing.assert_allclose(image, grid.image_to_grid(entry.image), atol=1e-6)
    np.testing.assert_array_equal(mask, grid.image_to_grid(entry.mask) > 0.5)
    assert mask.dtype == np.bool_
    assert entry.on_grid(32)[0] is image  # remembered
    assert entry.on_grid(16)[0].shape == (16, 16)


def test_a_structure_too_small_for_the_grid_does_not_vanish():
    mask = np.zeros((100, 100), bool)
    mask[40, 70] = True
    assert np.argwhere(an_entry((100, 100), mask=mask).on_grid(10)[1]).tolist() == [[4, 7]]


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_sizes_that_are_none_are_refused(size):
    for ask in (an_entry().on_grid, an_entry().thumbnail, a_set("a").to_grid, ContextSet("x").to_grid):
        with pytest.raises(GeometryError):
            ask(size)


def test_a_thumbnail_keeps_the_aspect_in_millimetres():
    entry = ContextEntry(np.ones((10, 10)), np.zeros((10, 10), bool), (1.0, 4.0))
    picture = entry.thumbnail(32)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    rows, columns = np.nonzero(picture[..., 0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (8, 32)


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_the_outline_is_seen_on_any_grey(grey):
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    picture = ContextEntry(np.full((64, 64), grey), mask, (1, 1)).thumbnail(64)
    outline = (picture == MAGENTA).all(axis=2)
    assert outline.sum() == 4 * 31
    assert outline[16, 16:48].all()
    assert not outline[20:40, 20:40].any()  # the inside stays visible
    contrast = picture[outline].astype(int) - picture[30, 30].astype(int)
    assert np.linalg.norm(contrast, axis=1).min() > 150


def test_the_outline_contrasts_with_black_and_with_white_as_graphics_must():
    """Contrast of at least 3 to 1: Web Content Accessibility Guidelines 2.1, 1.4.11."""
    luminance = float(np.array([0.2126, 0.7152, 0.0722]) @ (np.array(MAGENTA) / 255) ** 2.2)
    assert (luminance + 0.05) / 0.05 >= 3
    assert 1.05 / (luminance + 0.05) >= 3


def test_a_single_pixel_is_seen_in_the_thumbnail():
    mask = np.zeros((500, 500), bool)
    mask[123, 400] = True
    picture = an_entry((500, 500), mask=mask).thumbnail(50)
    assert np.argwhere((picture == MAGENTA).all(axis=2)).tolist() == [[12, 40]]


def test_a_set_is_in_the_order_of_its_user():
    context = a_set("a", "b", "c")
    assert identifiers(context.move("a", 2)) == ["b", "c", "a"]
    assert identifiers(context.move("c", 0)) == ["c", "a", "b"]
    assert identifiers(context.remove("b")) == ["a", "c"]
    assert identifiers(context.add(an_entry(identifier="d"))) == ["a", "b", "c", "d"]
    assert identifiers(context) == ["a", "b", "c"]  # no change changes a set
    assert len(context) == 3
    assert context.get("b") is context.entries[1]
    assert ContextSet(" liver ", list(context.entries)).label_name == "liver"


def test_a_slice_that_is_added_again_takes_the_place_of_the_old_one():
    entries = [an_entry(source="CT", axis=0, index=n, identifier=f"a{n}") for n in range(3)]
    context = ContextSet("liver", tuple(entries))
    newer = an_entry(source="CT", axis=0, index=1, identifier="newer")
    assert identifiers(context.add(newer)) == ["a0", "newer", "a2"]
    same = dataclasses.replace(entries[1], mask=~entries[1].mask)
    assert context.add(same).get("a1") is same


@pytest.mark.parametrize(
    "values",
    [
        {"source": "MR"},
        {"axis": 1},
        {"index": 6},
        {"source": ""},
        {"shape": (8, 6)},
        {"spacing_mm": (1.0, 1.1)},
    ],
)
def test_other_slices_are_added_beside_it(values):
    place = {"source": "CT", "axis": 0, "index": 5}
    assert len(ContextSet("liver").add(an_entry(**place)).add(an_entry(**{**place, **values}))) == 2


def test_images_without_a_source_never_replace_each_other():
    assert len(ContextSet("liver").add(an_entry()).add(an_entry())) == 2
    place = {"axis": 0, "index": 5}
    assert len(ContextSet("liver").add(an_entry(**place)).add(an_entry(**place))) == 2


def test_sets_that_contradict_themselves_are_refused():
    with pytest.raises(ContextError, match="identifier 'a'"):
        a_set("a", "a")
    with pytest.raises(ContextError, match="identifier 'a'"):
        a_set("a").add(an_entry(identifier="a"))
    with pytest.raises(ContextError, match="slice 3 of 'CT'"):
        ContextSet("x", (an_entry(source="CT", axis=0, index=3), an_entry(source="CT", axis=0, index=3)))
    with pytest.raises(ContextError, match="not str"):
        ContextSet("x", ("entry",))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "  ", None, "a\nb", "\ud800", "a" * 201])
def test_label_names_that_are_none_are_refused(name):
    with pytest.raises(ContextError, match="label name"):
        ContextSet(name)


def test_unknown_entries_and_places_are_named():
    context = a_set("a", "b")
    for change in (context.remove, context.get, lambda name: context.move(name, 0)):
        with pytest.raises(ContextError, match="'liver' has the identifier 'c'"):
            change("c")
    for place in (-1, 2, 0.5):
        with pytest.raises(ContextError, match="place"):
            context.move("a", place)


@given(st.data())
@settings(max_examples=40)
def test_any_sequence_of_changes_is_that_of_a_list(data):
    context, expected = ContextSet("liver"), []
    for number in range(data.draw(st.integers(0, 8))):
        action = data.draw(st.sampled_from(["add", "remove", "move"] if expected else ["add"]))
        if action == "add":
            context = context.add(an_entry((2, 2), identifier=f"e{number}"))
            expected.append(f"e{number}")
            continue
        name = data.draw(st.sampled_from(expected))
        expected.remove(name)
        if action == "remove":
            context = context.remove(name)
        else:
            place = data.draw(st.integers(0, len(expected)))
            context = context.move(name, place)
            expected.insert(place, name)
        assert identifiers(context) == expected


def test_all_entries_go_to_the_grid_each_by_its_own_shape():
    entries = (an_entry((40, 20), (1.0, 1.0)), an_entry((30, 30), (0.5, 2.0)))
    images, masks = ContextSet("liver", entries).to_grid(16)
    assert images.shape == masks.shape == (2, 1, 16, 16)
    assert images.dtype == masks.dtype == np.float32
    for place, entry in enumerate(entries):
        image, mask = entry.on_grid(16)
        np.testing.assert_array_equal(images[place, 0], image)
        np.testing.assert_array_equal(masks[place, 0], mask)
    assert set(np.unique(masks)) == {0.0, 1.0}


def test_an_empty_set_goes_to_the_grid():
    images, masks = ContextSet("liver").to_grid(16)
    assert images.shape == masks.shape == (0, 1, 16, 16)


def a_volume_set(indices, source="CT", axis=0) -> ContextSet:
    entries = [an_entry(source=source, axis=axis, index=n, identifier=f"{source.lower()}{n}") for n in indices]
    return ContextSet("liver", tuple(entries))


def test_the_nearest_slices_on_both_sides_come_first():
    context = a_volume_set([0, 10, 20, 22, 24, 60])
    target = {"image": context.entries[0].image, "spacing_mm": (1.0, 1.0), "axis": 0, "index": 23, "source": "CT"}
    assert identifiers(context.select(**target, limit=2)) == ["ct22", "ct24"]
    target["index"] = 50
    assert identifiers(context.select(**target, limit=2)) == ["ct60", "ct24"]
    target["source"] = "/data/CT"  # kept by its name here as in the entries
    assert identifiers(context.select(**target, limit=1)) == ["ct60"]


def test_positions_count_only_in_the_same_volume_and_axis():
    context = a_volume_set([0, 10, 20])
    image = context.entries[0].image
    for other in ({"source": "MR"}, {"axis": 1}, {"source": ""}):
        place = {"source": "CT", "axis": 0, "index": 20, **other}
        assert identifiers(context.select(image, spacing_mm=(1, 1), limit=1, **place)) == ["ct0"]


def test_the_most_similar_image_of_other_volumes_comes_first(rng):
    images = rng.random((6, 32, 32))
    context = ContextSet("liver", tuple(ContextEntry(image, image > 0.5, (1, 1)) for image in images))
    noisy = np.clip(images[4] + rng.normal(scale=0.05, size=(32, 32)), 0, 1)
    assert context.select(noisy, spacing_mm=(1, 1), limit=3).entries[0] is context.entries[4]


def test_a_set_within_the_limit_stays_as_it_is():
    context = a_set("a", "b")
    image = context.entries[0].image
    assert context.select(image, spacing_mm=(1, 1), limit=2) is context
    assert len(context.select(image, spacing_mm=(1, 1), limit=0)) == 0
    assert ContextSet("x").select(image, spacing_mm=(1, 1), limit=4).entries == ()


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"limit": -1}, ContextError),
        ({"limit": 1.5}, ContextError),
        ({"image": np.full((4, 4), 7.0)}, ContextError),
        ({"image": np.zeros((2, 4, 4))}, ContextError),
        ({"axis": 0}, ContextError),
        ({"index": 0}, ContextError),
        ({"spacing_mm": (0, 1)}, GeometryError),
    ],
)
def test_targets_that_make_no_sense_are_refused(values, error):
    arguments = {"image": np.zeros((4, 4)), "spacing_mm": (1, 1), "limit": 1, **values}
    with pytest.raises(error):
        a_set("a", "b").select(**arguments)
