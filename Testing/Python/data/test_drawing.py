"""What was drawn, slice by slice, and its form as text, which scenes keep."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.data import drawing as module
from scribblesegment.data.drawing import Box, Click, Drawing, Lasso, SliceDrawing, Stroke
from scribblesegment.data.geometry import Grid, plane_through
from scribblesegment.errors import FileFormatError, PromptError

relaxed = settings(deadline=None, max_examples=60)

GRID = Grid((20, 30, 40), np.diag([0.7, 0.7, 2.5, 1.0]))
STROKE = Stroke(((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), 2.5)
CLICK = Click((7.0, 8.0, 9.0), positive=False)
BOX = Box((0.0, 1.0, 2.0), (3.0, 4.0, 2.0))


OLD_TEXT = (
    "1AAAAAu_z3pcAAACWAAAAo3icVY3bCoMwEET_ZZ8Xibfa9ldCCCLBBqORJNqC-O-dlD60DweWOczsQavrF0P3g-KjX3HIWnAjFJMPdrSLnmd"
    "kohCc6YoWJvinjsmsv67LHm7wbpuXP_1RX737l3E6OjvkV4JrdTKNJqYtmIhEUkzBT4a45KpoWZaoVqAGDWjBBVOKJQ2YmYgFyw7pFdyyUec"
    "bsJM9E3icXY7dCoMwDIXfJddZ6dpoda8iIk6KE2orVp0gvvviNtjPReDkcL6TbDC42lu4bBBv9cCiII0kS4Qwdm3nq75nTwqJJykUEaV5mmk"
    "ipcho1Ikw317C3BjuVZzs8CGloJxyQ4Y4JpNMq6Ps32O0CW7u_Q9t8NVwfLSE1boquq7hP_3s3I7Q2jjNo40cLuAaVsDnyTOPOqBCs6L3Vpb"
    "7A-wPQdY"
)


def axial(k: int):
    return plane_through(GRID, GRID.to_mm((k, 0, 0)), (0, 0, 1))


def oblique(shift_mm: float = 0.0):
    return plane_through(GRID, GRID.to_mm((10, 15 + shift_mm / 0.7, 20)), (0, 1, 1))


coordinates = st.floats(-1000, 1000)
points = st.tuples(coordinates, coordinates, coordinates)
gestures = st.one_of(
    st.builds(Stroke, st.lists(points, min_size=1, max_size=8).map(tuple), st.floats(1e-6, 100), st.booleans()),
    st.builds(Click, points, st.booleans()),
    st.builds(Box, points, points),
    st.builds(Lasso, st.lists(points, min_size=1, max_size=8).map(tuple), st.booleans()),
)
planes = st.one_of(st.integers(0, 19).map(axial), st.sampled_from([0.0, 1.0, 5.0]).map(oblique))


@st.composite
def drawings(draw):
    drawn = Drawing()
    for plane, gesture in draw(st.lists(st.tuples(planes, gestures), max_size=10)):
        drawn = drawn.added(plane, gesture)
    return drawn


def content(drawn: Drawing):
    return [(slice_.plane.as_dict(), slice_.gestures) for slice_ in drawn.slices]


# Gestures ------------------------------------------------------------------------------------------------------------


def test_coordinates_are_kept_in_tenths_of_a_micrometre_as_plain_numbers():
    stroke = Stroke(np.array([[1.00004, -0.00001, 3.12346]]), np.float32(0.1), np.bool_(True))
    assert stroke.points_mm == ((1.0, 0.0, 3.1235),)
    assert str(stroke.points_mm) == "((1.0, 0.0, 3.1235),)"
    assert stroke.radius_mm == 0.1
    assert Stroke(((0, 0, 0),), 1e-9).radius_mm == 1e-4  # the finest brush does not vanish by rounding
    assert stroke.positive is True
    assert Click([1, 2, 3]).point_mm == (1.0, 2.0, 3.0)


NO_PLACES = ((), (1, 2), (1, 2, float("nan")), (1, 2, float("inf")), (1, 2, "x"), (1e9, 0, 0), None, "abc")


@pytest.mark.parametrize(
    "make",
    [
        *(lambda p=p: Stroke((p,), 1.0) for p in NO_PLACES),
        *(lambda p=p: Stroke(p, 1.0) for p in ((), (1, 2, 3), ((1, 2, 3), (1, 2)), None, "abc", (((1, 2, 3),),))),
        *(lambda p=p: Click(p) for p in NO_PLACES),
        *(lambda p=p: Box(p, (1, 2, 3)) for p in NO_PLACES),
        *(lambda p=p: Box((1, 2, 3), p) for p in NO_PLACES),
        *(
            lambda r=r: Stroke(((0, 0, 0),), r)
            for r in (0, -1, float("nan"), float("inf"), 1e9, "wide", None, (1.0, 2.0))
        ),
        lambda: Drawing().added(axial(3), STROKE).removed(axial(3), 1),
        lambda: Drawing().added(axial(3), STROKE).removed(axial(3), -2),
        lambda: Drawing().added(axial(3), STROKE).removed(axial(4), 0),
    ],
)
def test_what_cannot_be_drawn_or_removed_is_refused(make):
    with pytest.raises(PromptError):
        make()


# Gestures of a segment -----------------------------------------------------------------------------------------------


def test_gestures_are_kept_per_slice_in_the_order_of_drawing_until_they_are_removed():
    drawn = Drawing().added(axial(3), STROKE).added(axial(5), CLICK).added(axial(3), BOX).added(axial(3), CLICK)
    for index, left in ((0, (BOX, CLICK)), (1, (STROKE, CLICK)), (-1, (STROKE, BOX))):
        after = drawn.removed(axial(3), index)
        assert (after.on(axial(3)).gestures, after.on(axial(5)).gestures) == (left, (CLICK,))
    assert drawn.on(axial(3)).gestures == (STROKE, BOX, CLICK)
    assert drawn.on(axial(4)) is None
    assert drawn.cleared(axial(4)) is drawn
    rest = drawn.cleared(axial(3))
    assert [drawn.plane.voxel_slice for drawn in rest.slices] == [(0, 5)]
    assert (rest.is_empty, rest.removed(axial(5), 0).is_empty, rest.cleared(axial(5)).is_empty) == (False, True, True)
    assert Drawing((SliceDrawing(axial(3), ()),)).is_empty


def test_the_plane_that_was_first_drawn_on_stays_when_the_slice_is_seen_with_another_raster():
    first = oblique()
    turned = plane_through(GRID, first.to_mm((3, 4)), -first.normal, column_hint=first.row_step_mm)
    drawn = Drawing().added(first, STROKE).added(turned, CLICK)
    assert len(drawn.slices) == 1
    assert drawn.on(turned).plane is first
    assert drawn.on(oblique(1.0)) is None


def test_more_points_than_can_be_stored_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_POINTS", 4)
    drawn = Drawing().added(axial(3), STROKE).added(axial(4), STROKE)
    with pytest.raises(PromptError, match="5 points"):
        drawn.added(axial(3), CLICK)


# Text ----------------------------------------------------------------------------------------------------------------


@relaxed
@given(drawings())
def test_gestures_come_back_from_text_exactly(drawn):
    text = drawn.to_text()
    module._unpacked.cache_clear()  # read, not remembered
    again = Drawing.from_text(text)
    assert content(again) == content(drawn)
    assert again.to_text() == text
    assert re.fullmatch(r"[A-Za-z0-9_-]*", text)
    assert (text == "") == drawn.is_empty


def test_text_is_read_the_same_after_it_changed_in_one_slice():
    drawn = Drawing().added(axial(3), STROKE).added(axial(4), CLICK)
    Drawing.from_text(drawn.to_text())
    changed = Drawing.from_text(drawn.to_text()).added(axial(4), BOX)
    assert content(Drawing.from_text(changed.to_text())) == content(changed)
    assert changed.to_text() == drawn.added(axial(4), BOX).to_text() != drawn.to_text()


FULL = Drawing().added(axial(3), STROKE).added(axial(4), CLICK).added(oblique(), BOX).to_text()


CLICKS = [Drawing().added(axial(3), Click((number, number * 7.7, 1))).to_text() for number in range(12)]
SPARE = next(text for text in CLICKS if len(text[1:]) % 4 == 2)  # four bits of its last character are spare


@relaxed
@given(
    st.sampled_from([FULL, SPARE]).flatmap(
        lambda text: st.tuples(st.just(text), st.integers(0, len(text) - 1) | st.just(len(text) - 1))
    ),
    st.sampled_from("ABCDQRSTgwxyz0123789-_=+/ \n.é"),
)
def test_a_changed_character_is_found(where, character):
    text, place = where
    damaged = text[:place] + character + text[place + 1 :]
    if damaged != text:
        with pytest.raises(FileFormatError):
            Drawing.from_text(damaged)


OTHER_CHECKSUM = FULL[:8] + ("B" if FULL[8] == "A" else "A") + FULL[9:]


@pytest.mark.parametrize(
    "text",
    [
        *(FULL[:stop] for stop in range(1, len(FULL), 7)),
        *(OTHER_CHECKSUM, FULL + "A", FULL + FULL, FULL + "\n", " " + FULL, None, 1),
    ],
)
def test_text_that_is_truncated_lengthened_or_changed_and_that_of_later_versions_is_refused(text):
    with pytest.raises(FileFormatError):
        Drawing.from_text(text)
    with pytest.raises(FileFormatError, match="Update the extension"):
        Drawing.from_text("2" + FULL[1:])


def test_scenes_of_today_open():
    """The text of version 1, as it was written before."""
    assert Drawing.from_text(OLD_TEXT).to_text() == OLD_TEXT
    assert content(Drawing.from_text(OLD_TEXT)) == [
        (axial(3).as_dict(), (STROKE, CLICK)),
        (oblique().as_dict(), (BOX,)),
    ]


@relaxed
@given(st.text(min_size=1, max_size=40) | st.from_regex(r"1[A-Za-z0-9_-]{0,60}", fullmatch=True))
def test_any_other_text_is_refused(text):
    with pytest.raises(FileFormatError):
        Drawing.from_text(text)


def as_text(*parts: bytes, count: int | None = None):
    """Text with a sound frame around any parts."""
    rest = struct.pack(f">{len(parts)}I", *map(len, parts)) + b"".join(parts)
    payload = struct.pack(">II", len(parts) if count is None else count, zlib.crc32(rest)) + rest
    return "1" + base64.urlsafe_b64encode(payload).decode().rstrip("=")


def a_part(*drawn: object, plane: object = None):
    description = axial(3).as_dict() if plane is None else plane
    return zlib.compress(json.dumps({"plane": description, "gestures": list(drawn)}).encode())


GOOD_CLICK = ["click", 1, [1, 2, 3]]


def test_the_frame_of_these_tests_is_the_real_one():
    drawn = Drawing.from_text(as_text(a_part(GOOD_CLICK), a_part(["stroke", 0, 2, [1, 2, 3, 4, 5, 6]])))
    assert drawn.slices[0].gestures == (Click((1, 2, 3)),)
    assert drawn.slices[1].gestures == (Stroke(((1, 2, 3), (4, 5, 6)), 2, positive=False),)


@pytest.mark.parametrize(
    "gesture",
    [
        None, [], {}, "click", ["wave", 1, [1, 2, 3]], ["click"], ["click", 2, [1, 2, 3]], ["click", 1, [1, 2]],
        ["click", 1, [1, 2, None]], ["click", 1, [1, 2, 1e300]], ["click", 1, [1, 2, float("nan")]],
        ["click", 1, [1, 2, 10**400]], ["click", 1, [1, 2, 3], 4], ["stroke", 1, 2, []], ["stroke", 1, 2, [1, 2]],
        ["stroke", 1, 0, [1, 2, 3]], ["stroke", 1, None, [1, 2, 3]], ["stroke", 1, 2, "abc"], ["stroke", 1, 2, 7],
        ["stroke", 1, 2, [[1], [2], [3]]], ["stroke", None, 2, [1, 2, 3]], ["box", [1, 2, 3]],
        ["lasso", 1, []], ["lasso", 1, 2, [1, 2, 3]],
        ["box", [1, 2, 3], [1, 2]], [["click"], 1, [1, 2, 3]],
    ],
)  # fmt: skip
def test_sound_text_of_impossible_gestures_is_refused(gesture):
    with pytest.raises(FileFormatError, match="damaged"):
        Drawing.from_text(as_text(a_part(GOOD_CLICK), a_part(GOOD_CLICK, gesture)))


@pytest.mark.parametrize(
    "part",
    [
        b"", b"no zlib", zlib.compress(b""), zlib.compress(b"no JSON"), zlib.compress(b"[]"), zlib.compress(b"{}"),
        zlib.compress(b"\xff\xfe"), zlib.compress(b"[" * 200_000), zlib.compress(b'{"plane":1,"gestures":1}'),
        a_part(GOOD_CLICK, plane={}), a_part(GOOD_CLICK, plane={**axial(3).as_dict(), "shape": [0, 0]}),
        a_part(GOOD_CLICK)[:-3], a_part(GOOD_CLICK) + b"x", a_part(),
    ],
)  # fmt: skip
def test_sound_frames_around_damaged_parts_and_other_numbers_of_parts_are_refused(part):
    with pytest.raises(FileFormatError, match="damaged"):
        Drawing.from_text(as_text(a_part(GOOD_CLICK), part))
    for count in (0, 1, 3, 1 << 31):
        with pytest.raises(FileFormatError, match="damaged"):
            Drawing.from_text(as_text(a_part(GOOD_CLICK), a_part(GOOD_CLICK), count=count))


def test_a_small_text_that_unpacks_to_something_huge_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(module, "_MAX_JSON_BYTES", 100_000)
    bomb = zlib.compress(b" " * 50_000_000)
    with pytest.raises(FileFormatError, match="absurdly large"):
        Drawing.from_text(as_text(bomb))
    padded = zlib.compress(zlib.decompress(a_part(GOOD_CLICK)) + b" " * 60_000)
    Drawing.from_text(as_text(padded))
    with pytest.raises(FileFormatError, match="larger"):
        Drawing.from_text(as_text(padded, padded))
    monkeypatch.setattr(module, "MAX_POINTS", 2)
    with pytest.raises(FileFormatError, match="larger"):
        Drawing.from_text(as_text(a_part(GOOD_CLICK, GOOD_CLICK), a_part(GOOD_CLICK)))
