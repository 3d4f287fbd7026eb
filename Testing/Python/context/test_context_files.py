"""Context sets in folders and archives: written whole, read as if a stranger had sent them."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from scribblesegment.context import files as context_files
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import (
    Limits,
    holds_other_files,
    png_bytes,
    read_context,
    read_context_summary,
    read_png,
    remove_context_folder,
    write_context_file,
    write_context_folder,
)
from scribblesegment.errors import ContextError, FileFormatError


def an_entry(seed: int = 0, shape=(5, 7), **values) -> ContextEntry:
    rng = np.random.default_rng(seed)
    return ContextEntry(rng.random(shape), rng.random(shape) > 0.5, (0.5, 2.0), **values)


def a_set(count: int = 2) -> ContextSet:
    entries = [
        an_entry(n, source="CT", axis=2, index=n, identifier=f"entry{n}", created="2025-01-31T12:00:00+00:00")
        for n in range(count)
    ]
    return ContextSet("Leber – CT", tuple(entries))


def assert_same(read: ContextSet, written: ContextSet) -> None:
    assert (read.label_name, len(read)) == (written.label_name, len(written))
    for ours, theirs in zip(read, written, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        assert np.abs(ours.image - theirs.image).max() <= 1 / 65535
        for name in ("spacing_mm", "source", "axis", "index", "identifier", "created", "shape", "digest"):
            assert getattr(ours, name) == getattr(theirs, name), name


def members_of(context: ContextSet, folder: Path) -> dict[str, bytes]:
    """The files of a set by name, as its archive holds them."""
    path = folder / "original.context.zip"
    write_context_file(path, context)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def an_archive(path: Path, members: dict[str, bytes], *more: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*members.items(), *more]:
            archive.writestr(name, content)
    return path


def an_edited_archive(folder: Path, edit, count: int = 2) -> Path:
    """An archive whose context.json was edited; its pictures are sound."""
    members = members_of(a_set(count), folder)
    content = json.loads(members["context.json"])
    edit(content)
    return an_archive(folder / "a.zip", {**members, "context.json": json.dumps(content).encode()})


def files_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


entries = st.builds(
    an_entry,
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    source=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=10),
)


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "S")), min_size=1, max_size=20), st.lists(entries))
@example("liver", [an_entry(source="/A:"), an_entry(source="~/~b"), an_entry(source="file:///file:c")])
@settings(max_examples=25)
def test_any_set_comes_back_from_a_file_and_from_a_folder(tmp_path_factory, label_name, drawn):
    folder = tmp_path_factory.mktemp("sets")
    context = ContextSet(label_name, tuple(drawn))
    write_context_file(folder / "a.context.zip", context)
    write_context_folder(folder / "a", context)
    for name in ("a.context.zip", "a"):
        assert_same(read_context(folder / name), context)
    assert read_context_summary(folder / "a") == (context.label_name, len(drawn))
    assert members_of(context, folder).keys() == files_in(folder / "a").keys()
    first = (folder / "a.context.zip").read_bytes()
    write_context_file(folder / "a.context.zip", context)
    assert (folder / "a.context.zip").read_bytes() == first


def test_other_programs_open_the_pictures_and_may_repaint_a_mask(tmp_path):
    context = a_set(1)
    write_context_folder(tmp_path, context)
    (image,), (mask,) = tmp_path.glob("*-image.png"), tmp_path.glob("*-mask.png")
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    assert pixels.dtype == np.uint16
    np.testing.assert_allclose(pixels / 65535, context.entries[0].image, atol=1 / 65535)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(mask))), 255 * context.entries[0].mask)
    sitk.WriteImage(sitk.GetImageFromArray(np.full((5, 7), 255, np.uint8)), str(mask))
    assert read_context(tmp_path).entries[0].mask.all()
    Image.fromarray(np.ones((5, 7), bool)).save(mask)  # one bit a pixel
    assert read_context(tmp_path).entries[0].mask.all()
    sitk.WriteImage(sitk.GetImageFromArray(np.full((5, 7), 128, np.uint8)), str(mask))
    with pytest.raises(FileFormatError, match=r"entry 0.*-mask\.png has grey values"):
        read_context(tmp_path)


# --- Writing ---------------------------------------------------------------------------------------------------------


def test_a_save_writes_and_removes_only_what_has_changed_and_a_removal_only_what_is_named(tmp_path):
    folder = tmp_path / "a"
    write_context_folder(folder, a_set(3))
    foreign = ["notes.txt", "holiday.png"]
    for name in foreign:
        (folder / name).write_text("mine")
    before = files_in(folder)
    write_context_folder(folder, a_set(3).add(an_entry(9)).move("entry0", 2))
    after = files_in(folder)
    assert [name for name in before if after[name] != before[name]] == ["context.json"]
    assert len(after) == len(before) + 2
    write_context_folder(folder, a_set(1))
    assert len(files_in(folder)) == 3 + 2
    remove_context_folder(folder)
    assert sorted(os.listdir(folder)) == sorted(foreign)
    assert holds_other_files(folder)
    with pytest.raises(FileFormatError, match="other files and no context set"):
        write_context_folder(folder, a_set())
    write_context_folder(tmp_path / "b", a_set())
    remove_context_folder(tmp_path / "b")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("writes", range(6))
def test_an_interrupted_save_leaves_the_former_set_and_is_made_good_by_the_next(tmp_path, monkeypatch, writes):
    folder, former = tmp_path / "a", a_set(2)
    if writes < 5:
        write_context_folder(folder, former)
    replace, left = os.replace, [writes % 5]

    def power_cut(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    changed = former.remove("entry0").add(an_entry(7)).add(an_entry(8))
    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_context_folder(folder, changed)
    monkeypatch.undo()
    if writes < 5:
        assert_same(read_context(folder), former)
    else:
        with pytest.raises(FileFormatError, match="lacks context"):
            read_context(folder)
    write_context_folder(folder, changed)
    assert_same(read_context(folder), changed)
    assert len(files_in(folder)) == 1 + 2 * 3


def test_what_cannot_be_written_or_read_again_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for write, path, message in (
        (write_context_folder, tmp_path / "absent" / "a", "parent must be an existing folder"),
        (write_context_folder, tmp_path / "file", "Cannot write to the folder"),
        (write_context_file, tmp_path / "a.zip", r"must end in \.context\.zip"),
    ):
        with pytest.raises(FileFormatError, match=message):
            write(path, a_set())
    monkeypatch.setattr(context_files, "LIMITS", Limits(entries=2))
    for write, path in ((write_context_file, tmp_path / "a.context.zip"), (write_context_folder, tmp_path / "a")):
        with pytest.raises(ContextError, match="3 entries; at most 2"):
            write(path, a_set(3))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["context.json", "-image.png", "-mask.png"])
def test_no_link_in_a_folder_is_followed_for_reading_or_writing(tmp_path, name):
    folder, outside = tmp_path / "a", tmp_path / "outside"
    write_context_folder(folder, a_set(1))
    (path,) = (file for file in folder.iterdir() if file.name.endswith(name))
    path.rename(outside)
    before = outside.read_bytes()
    try:
        path.symlink_to(outside)
    except OSError:
        pytest.skip("links need a privilege here")
    with pytest.raises(FileFormatError, match="is a link"):
        read_context(folder)
    with pytest.raises(FileFormatError, match="is a link"):
        write_context_folder(folder, a_set(1))
    assert outside.read_bytes() == before


# --- Reading what others wrote ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/cron.d/job", "absolute path"),
        ("\\windows\\job", "absolute path"),
        ("c:job", "absolute path"),
        ("../../.bashrc", "leads out"),
        ("a/../../b", "leads out"),
        ("..\\b", "leads out"),
        ("..", "leads out"),
        ("folder/", "folder"),
        ("folder/a.png", "folder"),
        ("extra.png", "does not name"),
        ("CONTEXT.JSON", "twice"),
    ],
)
def test_members_that_do_not_belong_there_are_refused_and_nothing_is_written(tmp_path, name, message):
    path = an_archive(tmp_path / "a.zip", members_of(a_set(), tmp_path), (name, b"content"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileFormatError, match=f"a.zip.*{message}"):
        read_context(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_exotic_members_are_refused(tmp_path):
    members = members_of(a_set(1), tmp_path)
    name = next(name for name in members if name.endswith("mask.png"))
    link = zipfile.ZipInfo(name)
    link.create_system, link.external_attr = 3, 0o120777 << 16
    rest = {other: content for other, content in members.items() if other != name}
    plain = an_archive(tmp_path / "plain.zip", members, ("context.jsonXevil", b"{}")).read_bytes()
    encrypted = bytearray(plain)
    encrypted[plain.find(b"PK\x01\x02") + 8] |= 1
    with zipfile.ZipFile(tmp_path / "bzip2.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("context.json", b"{}")
    for content, message in (
        (an_archive(tmp_path / "link.zip", rest, (link, b"/etc/passwd")).read_bytes(), r"mask\.png.*link"),
        (plain.replace(b"context.jsonXevil", b"context.json\0evil"), r"proper name|twice"),
        (plain.replace(b"context.jsonXevil", b"context.json"[:12] + b"Xevil"), "does not name"),
        (bytes(encrypted), "encrypted"),
        ((tmp_path / "bzip2.zip").read_bytes(), "unusual"),
        (b"", "not a zip file"),
        (b"PK\x05\x06", "not a zip file"),
        (b"hello" * 100, "not a zip file"),
    ):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(FileFormatError, match=message):
            read_context(tmp_path / "a.zip")
    (tmp_path / "empty").mkdir()
    for absent, message in (("d.context.zip", "no such file"), ("empty", r"lacks context\.json")):
        with pytest.raises(FileFormatError, match=message):
            read_context(tmp_path / absent)


@pytest.mark.parametrize("part", ["context.json", "-image.png", "-mask.png"])
def test_a_member_that_inflates_beyond_its_limit_or_lies_about_it_is_refused_early(tmp_path, part, monkeypatch):
    members = members_of(a_set(1), tmp_path)
    name = next(name for name in members if name.endswith(part))
    without = an_archive(tmp_path / "b.zip", {other: content for other, content in members.items() if other != name})
    with pytest.raises(FileFormatError, match=f"b.zip lacks .*{part}"):
        read_context(without)
    members[name] = bytes(20_000_000)
    path = an_archive(tmp_path / "a.zip", members)
    assert path.stat().st_size < 100_000
    with pytest.raises(FileFormatError, match=f"a.zip: .*{part} is larger than"):
        read_context(path)
    honest = struct.pack("<I", 20_000_000)
    assert path.read_bytes().count(honest) == 2  # before the member and in the directory
    path.write_bytes(path.read_bytes().replace(honest, struct.pack("<I", 100)))
    inflated, original = [], zipfile.ZipExtFile.read

    def counted(self, count=-1):
        content = original(self, count)
        inflated.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    with pytest.raises(FileFormatError):
        read_context(path)
    assert max(inflated, default=0) <= 20_000


def test_more_than_the_limits_is_refused_and_a_long_directory_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.context.zip"
    write_context_file(path, a_set(3))
    for limits, message in (
        (Limits(entries=2), r"3 entries|7 members"),
        (Limits(entries=3, side=6), "entry 0 has 5 x 7"),
        (Limits(entries=3, pixels=34), "entry 0 has 5 x 7"),
        (Limits(entries=3, pixels_in_all=104), "105 pixels in all"),
        (Limits(entries=3, manifest_bytes=100), "context.json is larger than the 100 bytes"),
    ):
        with pytest.raises(FileFormatError, match=message):
            read_context(path, limits=limits)
    assert len(read_context(path, limits=Limits(entries=3, side=7, pixels=35, pixels_in_all=105))) == 3
    an_archive(path, {f"{n}.png": b"" for n in range(200)})
    monkeypatch.setattr(zipfile, "ZipFile", lambda file: pytest.fail("the archive must not be opened"))
    with pytest.raises(FileFormatError, match=r"200 members.*at most 5"):
        read_context(path, limits=Limits(entries=2))
    end = path.read_bytes().rfind(b"PK\x05\x06")
    zip64 = path.read_bytes()[:end] + b"PK\x06\x07" + bytes(16) + path.read_bytes()[end:]
    path.write_bytes(zip64[: end + 28] + struct.pack("<HHII", 1, 1, 60, 0) + zip64[end + 40 :])
    with pytest.raises(FileFormatError, match="members"):
        read_context(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *(("image", name, "Pictures lie beside") for name in (
            "../e0-image.png", "/etc/passwd.png", "C:image.png", "sub\\image.png", "image.png.exe", ".image.png",
            "con.png", "image.png\n", "i" * 200 + ".png",
        )),
        ("mask", None, "null, expected a text"),
        ("mask", "ENTRY0", "Pictures"),
        ("shape", [True, 7], "a truth value"),
        ("shape", [0, 7], "from 1"),
        ("shape", [7, 5], r"image\.png has 5 rows and 7 columns of 16-bit grey; expected 7 and 5"),
        ("shape", [20_000, 1], "16384 on a side"),
        ("shape", [5000, 5000], "16777216 pixels"),
        ("spacing_mm", [10**400, 1], "expected a number"),
        ("spacing_mm", [0, 1], "expected a number from 1e-06"),
        ("spacing_mm", [1, 1e7], r"to 1e\+06"),
        ("source", "a\u0000b", "control"),
        ("axis", False, "a truth value"),
        ("axis", None, "both"),
        ("axis", 7, "from 0 to 2"),
        ("index", 10**400, "expected a whole number"),
        ("index", 0, "slice 0 of 'CT'"),
        ("identifier", "entry0", "identifier 'entry0'"),
        ("identifier", "../x", "identify"),
        ("created", "now", "ISO"),
    ],
)  # fmt: skip
def test_a_field_of_another_type_size_or_meaning_is_refused(tmp_path, field, value, message):
    with pytest.raises(FileFormatError, match=rf"a\.zip.*{message}"):
        read_context(an_edited_archive(tmp_path, lambda content: content["entries"][1].update({field: value})))


def test_the_outer_fields_and_missing_ones_are_checked_and_later_additions_do_no_harm(tmp_path):
    def use_a_picture_twice(content):
        content["entries"][1]["image"] = content["entries"][0]["mask"].upper().replace(".PNG", ".png")

    def added(content):
        content["colour"] = content["entries"][0]["weight"] = 3

    for edit, message in (
        *((lambda content, field=field: content["entries"][0].pop(field), f"entry 0 lacks '{field}'")
          for field in vars(context_files._record_of(an_entry()))),
        *((lambda content, version=version: content.update(version=version), r"version .* reads version 1\. Update")
          for version in (0, 2, "1", None, True, 1.5)),
        (lambda content: content.update(format="other"), "not a context set"),
        (lambda content: content.update(label_name=3), "expected a text"),
        (lambda content: content.update(entries={}), "expected a list"),
        (lambda content: content.update(entries=[3]), "entry 0 is 3, expected an object"),
        (use_a_picture_twice, "twice"),
    ):  # fmt: skip
        with pytest.raises(FileFormatError, match=message):
            read_context(an_edited_archive(tmp_path, edit))
    assert_same(read_context(an_edited_archive(tmp_path, added)), a_set())


def test_a_folder_that_is_saved_while_it_is_read_gives_the_newer_set(tmp_path, monkeypatch):
    write_context_folder(tmp_path, a_set(2))
    newer = a_set(2).remove("entry0").add(an_entry(7))
    original, calls = context_files.read_plain_file, []

    def read(folder, name, most):
        calls.append(name)
        data = original(folder, name, most)
        if len(calls) == 1:
            write_context_folder(tmp_path, newer)
        return data

    monkeypatch.setattr(context_files, "read_plain_file", read)
    assert_same(read_context(tmp_path), newer)


# --- Damage ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_archives_with_any_damage_end_in_the_one_error_and_no_bit_is_another_without_notice(tmp_path_factory, seed):
    rng, folder = np.random.default_rng(seed), tmp_path_factory.getbasetemp()
    path, sound = folder / "damaged.context.zip", a_set(2)
    members = members_of(sound, folder)
    names, exchanged = list(members), int(rng.integers(0, 3))
    for _ in range(exchanged):
        ours, theirs = rng.choice(names, 2)
        members[ours] = [members[theirs], members[ours][: rng.integers(200)], rng.bytes(20)][rng.integers(3)]
    data = bytearray(an_archive(path, members).read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    for _ in range(rng.integers(0, 4)):
        # The headers are at the end; that is where damage has the most varied effects.
        place = int(rng.integers(len(data)) if rng.random() < 0.5 else len(data) - 1 - rng.integers(400))
        data[place : place + int(rng.integers(0, 5))] = rng.bytes(int(rng.integers(0, 5)))
    path.write_bytes(data[: len(data) if rng.random() < 0.7 else rng.integers(len(data))])
    try:
        read = read_context(path)
    except FileFormatError as error:
        assert path.name in str(error)  # noqa: PT017
    else:  # a date in the directory, for instance
        assert exchanged or assert_same(read, sound) is None


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(height: int, width: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def saved(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG"),
        (b"GIF89a" + bytes(100), "not a PNG"),
        (png_bytes(np.zeros((5, 4), np.uint8)), "5 rows and 4 columns of 8-bit grey; expected 4 and 5"),
        (png_bytes(np.zeros((4, 5), np.uint16)), "16-bit grey; expected 4 and 5 of 8-bit grey"),
        (saved(np.zeros((4, 5, 3), np.uint8)), "of colours"),
        (b"\x89PNG\r\n\x1a\n" + header(4, 5) + header(9000, 9000) + chunk(b"IDAT", zlib.compress(bytes(24))), "9000"),
    ],
)
def test_other_pictures_are_refused(data, message):
    with pytest.raises(FileFormatError, match=f"the mask.*{message}"):
        read_png(data, (4, 5), 8, "the mask")


def test_no_byte_of_a_picture_can_be_missing_or_wrong_and_what_inflates_further_is_not_kept():
    pixels = np.random.default_rng(0).integers(0, 65535, (6, 5), np.uint16)
    data = png_bytes(pixels)
    np.testing.assert_array_equal(read_png(data, (6, 5), 16, "a"), pixels)
    end = len(data) - 12  # the last chunk is the mark of the end, without content
    for length in range(end + 8):
        with pytest.raises(FileFormatError):
            read_png(data[:length], (6, 5), 16, "a")
    for place in range(end):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(FileFormatError):
            read_png(bytes(damaged), (6, 5), 16, "a")
    bomb = b"\x89PNG\r\n\x1a\n" + header(4, 5) + chunk(b"IDAT", zlib.compress(bytes(50_000_000))) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read_png(bomb, (4, 5), 8, "a"), np.zeros((4, 5)))
