from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scribblesegment.context import files as context_files
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import (
    Limits,
    holds_other_files,
    read_context,
    read_context_summary,
    remove_context_folder,
    write_context_file,
    write_context_folder,
)
from scribblesegment.errors import ContextError, FileFormatError

RESET = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def an_entry(seed: int = 0, shape=(5, 7), **values) -> ContextEntry:
    rng = np.random.default_rng(seed)
    return ContextEntry(rng.random(shape), rng.random(shape) > 0.5, (0.5, 2.0), **values)


def a_set(count: int = 2, label_name: str = "Leber") -> ContextSet:
    entries = [
        an_entry(n, source="CT", axis=2, index=n, identifier=f"entry{n}", created="2025-01-31T12:00:00+00:00")
        for n in range(count)
    ]
    return ContextSet(label_name, tuple(entries))


def assert_same(read: ContextSet, written: ContextSet) -> None:
    assert read.label_name == written.label_name
    assert len(read) == len(written)
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


def files_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


entries = st.builds(
    an_entry,
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    source=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=10),
)


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "S")), min_size=1, max_size=20), st.lists(entries))
@RESET
def test_any_set_comes_back_from_a_file_and_from_a_folder(tmp_path_factory, label_name, drawn):
    folder = tmp_path_factory.mktemp("sets")
    context = ContextSet(label_name, tuple(drawn))
    write_context_file(folder / "a.context.zip", context)
    assert_same(read_context(folder / "a.context.zip"), context)
    write_context_folder(folder / "a", context)
    assert_same(read_context(folder / "a"), context)
    assert read_context_summary(folder / "a").entries == len(drawn)
    assert read_context_summary(folder / "a").label_name == context.label_name


def test_the_file_holds_exactly_what_the_folder_holds(tmp_path):
    write_context_folder(tmp_path / "a", a_set())
    assert members_of(a_set(), tmp_path).keys() == files_in(tmp_path / "a").keys()
    contents = {name: content for name, (content, _) in files_in(tmp_path / "a").items() if name.endswith(".png")}
    assert {name: content for name, content in members_of(a_set(), tmp_path).items() if name in contents} == contents


def test_other_programs_open_the_pictures(tmp_path):
    context = a_set(1)
    write_context_folder(tmp_path / "a", context)
    (image,) = (tmp_path / "a").glob("*-image.png")
    (mask,) = (tmp_path / "a").glob("*-mask.png")
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    assert pixels.dtype == np.uint16
    np.testing.assert_allclose(pixels / 65535, context.entries[0].image, atol=1 / 65535)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(mask))), 255 * context.entries[0].mask)


def test_the_same_set_gives_the_same_file(tmp_path):
    context = a_set()
    for name in "ab":
        write_context_file(tmp_path / f"{name}.context.zip", context)
    assert (tmp_path / "a.context.zip").read_bytes() == (tmp_path / "b.context.zip").read_bytes()


def test_a_mask_that_was_repainted_in_another_program_is_read(tmp_path):
    write_context_folder(tmp_path / "a", a_set(1))
    (mask,) = (tmp_path / "a").glob("*-mask.png")
    sitk.WriteImage(sitk.GetImageFromArray(np.full((5, 7), 255, np.uint8)), str(mask))
    assert read_context(tmp_path / "a").entries[0].mask.all()
    sitk.WriteImage(sitk.GetImageFromArray(np.full((5, 7), 128, np.uint8)), str(mask))
    with pytest.raises(FileFormatError, match=r"entry 0.*-mask\.png has grey values"):
        read_context(tmp_path / "a")


# --- Writing ---------------------------------------------------------------------------------------------------------


def test_one_more_entry_does_not_write_the_others_again(tmp_path):
    context = a_set(3)
    write_context_folder(tmp_path, context)
    before = files_in(tmp_path)
    write_context_folder(tmp_path, context.add(an_entry(9)).move("entry0", 2))
    after = files_in(tmp_path)
    pictures = [name for name in before if name.endswith(".png")]
    assert len(pictures) == 6
    assert all(after[name] == before[name] for name in pictures)
    assert len(after) == len(before) + 2


def test_pictures_that_are_no_longer_named_are_removed_and_other_files_stay(tmp_path):
    write_context_folder(tmp_path, a_set(3))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "holiday.png").write_text("mine")
    leftover = tmp_path / f".{'0' * 32}.png"
    leftover.write_text("half")
    write_context_folder(tmp_path, a_set(1))
    assert len(files_in(tmp_path)) == 3 + 2
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "holiday.png").exists()
    assert not leftover.exists()


@pytest.mark.parametrize("writes", range(5))
def test_an_interrupted_save_leaves_the_former_set(tmp_path, monkeypatch, writes):
    former = a_set(2)
    write_context_folder(tmp_path, former)
    replace, left = os.replace, [writes]

    def power_cut(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(source, target)

    changed = former.remove("entry0").add(an_entry(7)).add(an_entry(8))
    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_context_folder(tmp_path, changed)
    monkeypatch.undo()
    assert_same(read_context(tmp_path), former)
    write_context_folder(tmp_path, changed)
    assert_same(read_context(tmp_path), changed)
    assert len(files_in(tmp_path)) == 1 + 2 * 3


def test_a_save_that_was_interrupted_the_first_time_can_be_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(context_files, "manifest_bytes", lambda context: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_context_folder(tmp_path / "a", a_set())
    with pytest.raises(FileFormatError, match="lacks context"):
        read_context(tmp_path / "a")
    monkeypatch.undo()
    write_context_folder(tmp_path / "a", a_set())
    assert_same(read_context(tmp_path / "a"), a_set())


def test_a_folder_with_other_files_is_not_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert holds_other_files(tmp_path)
    with pytest.raises(FileFormatError, match="other files and no context set"):
        write_context_folder(tmp_path, a_set())
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_missing_parent_and_a_file_in_the_way_are_named(tmp_path):
    with pytest.raises(FileFormatError, match="parent must be an existing folder"):
        write_context_folder(tmp_path / "absent" / "a", a_set())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileFormatError, match="Cannot write to the folder"):
        write_context_folder(tmp_path / "file", a_set())


def test_a_file_needs_its_extension(tmp_path):
    with pytest.raises(FileFormatError, match=r"must end in \.context\.zip"):
        write_context_file(tmp_path / "a.zip", a_set())


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    for write, path in ((write_context_file, tmp_path / "a.context.zip"), (write_context_folder, tmp_path / "a")):
        with pytest.raises(ContextError, match="3 entries; at most 2"):
            write(path, a_set(3), limits=Limits(entries=2))
    assert os.listdir(tmp_path) == []


def test_a_removed_set_takes_only_its_own_files_with_it(tmp_path):
    for name in "ab":
        write_context_folder(tmp_path / name, a_set())
    (tmp_path / "b" / "notes.txt").write_text("mine")
    remove_context_folder(tmp_path / "a")
    remove_context_folder(tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]
    assert os.listdir(tmp_path / "b") == ["notes.txt"]


# --- Reading what others wrote ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/cron.d/job", "absolute path"),
        ("\\windows\\job", "absolute path"),
        ("C:\\windows\\job", "absolute path"),
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
def test_members_that_do_not_belong_there_are_refused_and_nothing_is_written(tmp_path, monkeypatch, name, message):
    path = an_archive(tmp_path / "a.zip", members_of(a_set(), tmp_path), (name, b"content"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileFormatError, match=f"a.zip.*{message}"):
        read_context(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_with_a_zero_byte_is_refused(tmp_path):
    members = members_of(a_set(1), tmp_path)
    path = an_archive(tmp_path / "a.zip", members, ("context.jsonXevil", b"{}"))
    path.write_bytes(path.read_bytes().replace(b"context.jsonXevil", b"context.json\0evil"))
    with pytest.raises(FileFormatError, match=r"proper name|twice"):
        read_context(path)


def test_a_symbolic_link_is_refused(tmp_path):
    members = members_of(a_set(1), tmp_path)
    name = next(name for name in members if name.endswith("mask.png"))
    del members[name]
    link = zipfile.ZipInfo(name)
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with pytest.raises(FileFormatError, match=r"mask\.png.*link"):
        read_context(an_archive(tmp_path / "a.zip", members, (link, b"/etc/passwd")))


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    members = members_of(a_set(1), tmp_path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = an_archive(tmp_path / "a.zip", members, ("context.json", b"{}"))
    with pytest.raises(FileFormatError, match=r"'context\.json' twice"):
        read_context(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("context.json", b"{}")
    with pytest.raises(FileFormatError, match="unusual"):
        read_context(tmp_path / "a.zip")


def test_encrypted_members_are_refused(tmp_path):
    path = an_archive(tmp_path / "a.zip", members_of(a_set(1), tmp_path))
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="encrypted"):
        read_context(path)


@pytest.mark.parametrize("part", ["context.json", "-image.png", "-mask.png"])
def test_a_member_that_inflates_beyond_its_limit_is_refused(tmp_path, part):
    members = members_of(a_set(1), tmp_path)
    name = next(name for name in members if name.endswith(part))
    members[name] = bytes(20_000_000)
    path = an_archive(tmp_path / "a.zip", members)
    assert path.stat().st_size < 100_000
    with pytest.raises(FileFormatError, match=f"a.zip: .*{part} is larger than"):
        read_context(path)


@pytest.mark.parametrize("part", ["context.json", "-image.png", "-mask.png"])
def test_a_member_that_lies_about_its_size_is_refused_without_inflating_it(tmp_path, part, monkeypatch):
    members = members_of(a_set(1), tmp_path)
    name = next(name for name in members if name.endswith(part))
    members[name] = bytes(20_000_000)
    path = an_archive(tmp_path / "a.zip", members)
    honest = struct.pack("<I", 20_000_000)
    data = path.read_bytes()
    assert data.count(honest) == 2  # before the member and in the directory
    path.write_bytes(data.replace(honest, struct.pack("<I", 100)))
    inflated = []
    original = zipfile.ZipExtFile.read

    def counted(self, count=-1):
        content = original(self, count)
        inflated.append(len(content))
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    with pytest.raises(FileFormatError):
        read_context(path)
    assert max(inflated, default=0) <= 20_000


def test_more_entries_or_pixels_than_the_limits_are_refused(tmp_path):
    path = tmp_path / "a.context.zip"
    write_context_file(path, a_set(3))
    for limits, message in (
        (Limits(entries=2), "3 entries|7 members"),
        (Limits(entries=3, side=6), "entry 0 has 5 x 7"),
        (Limits(entries=3, pixels=34), "entry 0 has 5 x 7"),
        (Limits(entries=3, pixels_in_all=104), "105 pixels in all"),
        (Limits(entries=3, manifest_bytes=100), "context.json is larger than the 100 bytes"),
    ):
        with pytest.raises(FileFormatError, match=message):
            read_context(path, limits=limits)
    assert len(read_context(path, limits=Limits(entries=3, side=7, pixels=35, pixels_in_all=105))) == 3


def test_a_directory_of_millions_of_members_is_not_read_into_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    an_archive(path, {f"{n}.png": b"" for n in range(200)})
    monkeypatch.setattr(zipfile, "ZipFile", lambda file: pytest.fail("the archive must not be opened"))
    with pytest.raises(FileFormatError, match=r"200 members.*at most 5"):
        read_context(path, limits=Limits(entries=2))
    end = path.read_bytes().rfind(b"PK\x05\x06")
    zip64 = path.read_bytes()[:end] + b"PK\x06\x07" + bytes(16) + path.read_bytes()[end:]
    zip64 = zip64[: end + 28] + struct.pack("<HHII", 1, 1, 60, 0) + zip64[end + 40 :]
    path.write_bytes(zip64)
    with pytest.raises(FileFormatError, match="members"):
        read_context(path)


def test_missing_members_are_named(tmp_path):
    members = members_of(a_set(1), tmp_path)
    for part in ("context.json", "image.png", "mask.png"):
        rest = {name: content for name, content in members.items() if not name.endswith(part)}
        with pytest.raises(FileFormatError, match=f"a.zip lacks .*{part}"):
            read_context(an_archive(tmp_path / "a.zip", rest))


def test_a_picture_of_another_size_than_announced_is_refused(tmp_path):
    members = members_of(a_set(1), tmp_path)
    content = json.loads(members["context.json"])
    content["entries"][0]["shape"] = [7, 5]
    members["context.json"] = json.dumps(content).encode()
    with pytest.raises(FileFormatError, match=r"a\.zip: entry 0, .*image\.png has 5 rows and 7 columns"):
        read_context(an_archive(tmp_path / "a.zip", members))


def test_truncated_pictures_are_refused_in_file_and_folder(tmp_path):
    members = members_of(a_set(1), tmp_path)
    name = next(name for name in members if name.endswith("image.png"))
    members[name] = members[name][:-20]
    with pytest.raises(FileFormatError, match=f"a.zip: entry 0, {name} is damaged"):
        read_context(an_archive(tmp_path / "a.zip", members))
    write_context_folder(tmp_path / "a", a_set(1))
    (tmp_path / "a" / name).write_bytes(members[name])
    with pytest.raises(FileFormatError, match=f"entry 0, {name} is damaged"):
        read_context(tmp_path / "a")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spacing_mm", [0, 1], "entry 1.*above zero"),
        ("spacing_mm", [1e-300, 1e300], "entry 1.*extreme"),
        ("identifier", "entry0", "identifier 'entry0'"),
        ("identifier", "../x", "entry 1.*identify"),
        ("index", 0, "slice 0 of 'CT'"),
        ("axis", None, "entry 1.*both"),
        ("axis", 7, "entry 1.*axes are"),
        ("created", "now", "entry 1.*ISO"),
        ("source", "a\u0000b", "entry 1.*control"),
    ],
)
def test_what_no_context_set_may_hold_is_refused(tmp_path, field, value, message):
    members = members_of(a_set(), tmp_path)
    content = json.loads(members["context.json"])
    content["entries"][1][field] = value
    members["context.json"] = json.dumps(content).encode()
    with pytest.raises(FileFormatError, match=message):
        read_context(an_archive(tmp_path / "a.zip", members))


def test_files_that_are_no_archive_are_refused(tmp_path):
    (tmp_path / "a.context.zip").write_bytes(b"")
    (tmp_path / "b.context.zip").write_bytes(b"PK\x05\x06")
    (tmp_path / "c.context.zip").write_bytes(b"hello" * 100)
    for name in "abc":
        with pytest.raises(FileFormatError, match="no zip file"):
            read_context(tmp_path / f"{name}.context.zip")
    with pytest.raises(FileFormatError, match="no such file"):
        read_context(tmp_path / "d.context.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match=r"lacks context\.json"):
        read_context(tmp_path / "empty")


def test_a_link_in_a_folder_is_not_followed(tmp_path):
    write_context_folder(tmp_path / "a", a_set(1))
    (image,) = (tmp_path / "a").glob("*-image.png")
    image.rename(tmp_path / "elsewhere.png")
    try:
        image.symlink_to(tmp_path / "elsewhere.png")
    except OSError:
        pytest.skip("links need a privilege here")
    with pytest.raises(FileFormatError, match="is a link"):
        read_context(tmp_path / "a")


def test_a_folder_that_is_saved_while_it_is_read_gives_the_newer_set(tmp_path, monkeypatch):
    write_context_folder(tmp_path, a_set(2))
    newer = a_set(2).remove("entry0").add(an_entry(7))
    original, calls = context_files._read_file, []

    def read(folder, name, most):
        calls.append(name)
        data = original(folder, name, most)
        if len(calls) == 1:
            write_context_folder(tmp_path, newer)
        return data

    monkeypatch.setattr(context_files, "_read_file", read)
    assert_same(read_context(tmp_path), newer)


@pytest.fixture(scope="module")
def sound_archive(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "a.context.zip"
    write_context_file(path, a_set(2))
    return path.read_bytes()


def read_or_refuse(path: Path) -> None:
    try:
        assert isinstance(read_context(path), ContextSet)
    except FileFormatError as error:
        assert path.name in str(error)  # noqa: PT017


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_damaged_archives_end_in_the_one_error(tmp_path_factory, sound_archive, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(sound_archive)
    for _ in range(rng.integers(1, 5)):
        # The headers are at the end; that is where damage has the most varied effects.
        place = int(rng.integers(len(data)) if rng.random() < 0.5 else len(data) - 1 - rng.integers(400))
        data[place : place + int(rng.integers(0, 5))] = rng.bytes(int(rng.integers(0, 5)))
    path = tmp_path_factory.getbasetemp() / "damaged.context.zip"
    path.write_bytes(data)
    read_or_refuse(path)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_archives_with_exchanged_contents_end_in_the_one_error(tmp_path_factory, sound_archive, seed):
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(io.BytesIO(sound_archive)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = list(members)
    for _ in range(rng.integers(1, 4)):
        ours, theirs = rng.choice(names, 2)
        action = rng.integers(4)
        if action == 0:
            members[ours] = members[theirs] = members.get(theirs, b"")
        elif action == 1:
            members[ours] = members.get(ours, b"")[: rng.integers(200)]
        elif action == 2:
            members.pop(ours, None)
        else:
            members["a" * int(rng.integers(1, 300))] = rng.bytes(20)
    read_or_refuse(an_archive(tmp_path_factory.getbasetemp() / "exchanged.context.zip", members))


@pytest.mark.parametrize("length", [0, 10, 22, 100, 500, -1, -22, -100])
def test_archives_that_were_cut_off_are_refused(tmp_path, sound_archive, length):
    path = tmp_path / "a.context.zip"
    path.write_bytes(sound_archive[:length])
    with pytest.raises(FileFormatError, match=r"a\.context\.zip"):
        read_context(path)
