from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import OWN_PICTURE, Limits, manifest_bytes, parse_manifest, record_of
from scribblesegment.errors import ContextError, FileFormatError

LIMITS = Limits()


def a_set(count=2) -> ContextSet:
    image = np.zeros((4, 6))
    entries = [
        ContextEntry(image, image > 0, (0.5, 2.0), source="Leber – CT", axis=1, index=n, identifier=f"e{n}")
        for n in range(count)
    ]
    return ContextSet("Leber", (*entries, ContextEntry(image, image == 0, (1, 1))))


def content_of(context: ContextSet) -> dict:
    return json.loads(manifest_bytes(context))


def parse(content, limits=LIMITS):
    return parse_manifest(json.dumps(content).encode(), "a.context.zip", limits)


def test_what_is_written_is_read():
    context = a_set()
    manifest = parse_manifest(manifest_bytes(context), "a", LIMITS)
    assert manifest.label_name == "Leber"
    assert manifest.records == tuple(record_of(entry) for entry in context)
    assert len(manifest.files()) == 6


def test_names_of_pictures_change_with_the_pixels_and_not_with_the_rest():
    entry = a_set().entries[0]
    changed = ContextEntry(entry.image, ~entry.mask, entry.spacing_mm, identifier=entry.identifier)
    moved = ContextEntry(entry.image, entry.mask, (3.0, 3.0), source="other", identifier=entry.identifier)
    assert record_of(changed).image != record_of(entry).image
    assert (record_of(moved).image, record_of(moved).mask) == (record_of(entry).image, record_of(entry).mask)
    assert all(OWN_PICTURE.fullmatch(name) for name in record_of(entry).files())


def test_it_is_a_text_that_people_can_read():
    text = manifest_bytes(a_set()).decode()
    assert '"label_name": "Leber"' in text
    assert "Leber – CT" in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[]", "is a list, expected a dict"),
        (b"{" * 100_000, "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"format": "other"}', "no context set"),
        (b'{"format": NaN}', "no JSON"),
    ],
)
def test_other_texts_are_refused(data, message):
    with pytest.raises(FileFormatError, match=f"a.context.zip.*{message}"):
        parse_manifest(data, "a.context.zip", LIMITS)


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5])
def test_other_versions_ask_for_an_update(version):
    with pytest.raises(FileFormatError, match=r"version .* reads version 1\. Update"):
        parse({**content_of(a_set()), "version": version})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", "../e0-image.png", "Pictures lie beside"),
        ("image", "/etc/passwd.png", "Pictures lie beside"),
        ("image", "C:image.png", "Pictures lie beside"),
        ("image", "sub\\image.png", "Pictures lie beside"),
        ("image", "image.png.exe", "Pictures lie beside"),
        ("image", ".image.png", "Pictures lie beside"),
        ("image", "con.png", "Pictures lie beside"),
        ("image", "image.png\n", "Pictures lie beside"),
        ("image", "i" * 200 + ".png", "Pictures lie beside"),
        ("image", 3, "int, expected a str"),
        ("mask", None, "NoneType, expected a str"),
        ("shape", [4], "1 numbers"),
        ("shape", [4, 6, 1], "3 numbers"),
        ("shape", [4.0, 6], "float, expected a int"),
        ("shape", [True, 6], "bool, expected a int"),
        ("shape", [0, 6], "1 or above"),
        ("shape", [-4, 6], "1 or above"),
        ("shape", "46", "str, expected a list"),
        ("shape", [20_000, 1], "16384 on a side"),
        ("shape", [5000, 5000], "16777216 pixels"),
        ("spacing_mm", ["1", "1"], "str, expected a float"),
        ("spacing_mm", [10**400, 1], "int, expected a float"),
        ("spacing_mm", None, "NoneType, expected a list"),
        ("source", 1, "int, expected a str"),
        ("axis", "0", "str, expected a int"),
        ("axis", False, "bool, expected a int"),
        ("index", 1.0, "float, expected a int"),
        ("identifier", {}, "dict, expected a str"),
        ("created", [], "list, expected a str"),
    ],
)
def test_a_field_of_another_type_or_size_is_refused_with_its_entry(field, value, message):
    content = content_of(a_set())
    content["entries"][1][field] = value
    with pytest.raises(FileFormatError, match=f"a.context.zip: entry 1.*{message}"):
        parse(content)


@pytest.mark.parametrize("field", sorted(content_of(a_set())["entries"][0]))
def test_every_field_must_be_there(field):
    content = content_of(a_set())
    del content["entries"][0][field]
    with pytest.raises(FileFormatError, match=f"entry 0 lacks '{field}'"):
        parse(content)


@pytest.mark.parametrize(("field", "value"), [("label_name", 3), ("entries", {}), ("entries", [3]), ("entries", None)])
def test_the_outer_fields_have_their_types_too(field, value):
    with pytest.raises(FileFormatError, match="expected a"):
        parse({**content_of(a_set()), field: value})


def test_a_picture_belongs_to_one_entry_also_where_case_does_not_count():
    content = content_of(a_set())
    content["entries"][1]["image"] = content["entries"][0]["mask"].upper().replace(".PNG", ".png")
    with pytest.raises(FileFormatError, match="twice"):
        parse(content)


def test_what_a_later_version_may_add_does_no_harm():
    content = content_of(a_set())
    expected = parse(content)
    content["colour"] = "red"
    content["entries"][0]["weight"] = 3
    assert parse(content) == expected


def test_limits_hold_for_reading_and_writing():
    content = content_of(a_set(2))
    with pytest.raises(FileFormatError, match="3 entries; at most 2"):
        parse(content, Limits(entries=2))
    with pytest.raises(FileFormatError, match="72 pixels in all"):
        parse(content, Limits(pixels_in_all=71))
    with pytest.raises(ContextError, match="72 pixels in all"):
        Limits(pixels_in_all=71).check([(4, 6)] * 3, "the set")
    assert len(parse(content, Limits(entries=3, side=6, pixels=24, pixels_in_all=72)).records) == 3


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=60)
def test_any_value_anywhere_is_read_or_refused_with_the_one_error(data):
    content = content_of(a_set())
    target = data.draw(st.sampled_from([content, *content["entries"]]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(json_values)
    try:
        parse(content)
    except FileFormatError as error:
        assert "a.context.zip" in str(error)  # noqa: PT017
