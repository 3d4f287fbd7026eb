"""Which weights there are, and how they come: downloaded, imported, checked ever after, removed."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
import torch
from weights_server import serving, write_registry

from scribblesegment.errors import WeightsError
from scribblesegment.models.factory import build_network
from scribblesegment.models.unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.weights import download
from scribblesegment.weights.registry import (
    FOLDER_VARIABLE,
    WeightsInfo,
    fetch_weights,
    find_weights,
    import_weights,
    list_weights,
    remove_weights,
    weights_file,
    weights_folder,
)

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PUBLISHED = {entry.name: entry for entry in list_weights() if entry.architecture}


@pytest.fixture
def server():
    with serving(CONTENT) as address_and_requests:
        yield address_and_requests


@pytest.fixture
def fetch(tmp_path, server, monkeypatch):
    """Downloads from a page of the server."""
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.3)

    def fetched(page, **options):
        values = {"sha256": SHA256, "bytes": len(CONTENT), **options.pop("values", {})}
        known = write_registry(tmp_path, url=f"{server[0]}/{page}", **values)
        return fetch_weights("large", weights_dir=tmp_path / "weights", registry=known, **options)

    return fetched


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


# Downloaded.


@pytest.mark.parametrize("page", ["good", "plain", "moved", "slow"])
def test_a_download_is_kept_after_its_hash_was_checked(tmp_path, fetch, page):
    seen = []
    path = fetch(page, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    assert seen[-1] == (1.0, "large: 1.0 of 1.0 MB")
    assert names(tmp_path / "weights") == ["large.pt"]
    assert fetch("missing") == path  # it is here already


@pytest.mark.parametrize("page", ["cut", "stall", "slow"])
def test_a_download_that_breaks_off_or_is_cancelled_goes_on_where_it_stopped(tmp_path, server, fetch, page):
    steps = []
    stop = {"cancelled": lambda: len(steps) > 1, "progress": lambda *step: steps.append(step)} if page == "slow" else {}
    with pytest.raises(WeightsError, match=r"cancelled\. What has arrived is kept" if page == "slow" else "failed"):
        fetch(page, **stop)
    assert names(tmp_path / "weights") == [".large.part.pt"]
    there = (tmp_path / "weights" / ".large.part.pt").stat().st_size
    assert 0 < there < len(CONTENT)
    page = "good" if page == "slow" else page
    assert fetch(page).read_bytes() == CONTENT
    assert server[1][-1] == (f"/{page}", f"bytes={there}-")


def test_what_has_arrived_counts_only_where_the_server_goes_on_from_there(tmp_path, fetch):
    folder = tmp_path / "weights"
    folder.mkdir()
    for page, arrived in (("plain", CONTENT[:1000]), ("good", CONTENT), ("good", CONTENT + b"x")):
        (folder / ".large.part.pt").write_bytes(arrived)
        path = fetch(page)
        assert path.read_bytes() == CONTENT
        path.unlink()


@pytest.mark.parametrize(
    ("page", "values", "message"),
    [
        ("good", {"sha256": "00" * 32}, f"has SHA-256 {SHA256}, expected 0000"),
        ("page", {}, f"gives 17 bytes for large instead of {len(CONTENT)}"),
        ("page", {"sha256": "", "architecture": "universeg"}, "instead of about"),
        ("endless", {}, f"gives more than the {len(CONTENT)} bytes"),
        ("good", {"sha256": "", "architecture": "universeg"}, "not a torch file"),
        ("missing", {}, "404"),
        ("unsafe", {}, r"leads on to http://example\.org/good, which is not https"),
    ],
)
def test_what_is_wrong_is_thrown_away_and_said_in_one_sentence(tmp_path, fetch, page, values, message):
    with pytest.raises(WeightsError, match=message):
        fetch(page, values=values)
    assert names(tmp_path / "weights") == []


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_is_said_and_left_as_it_was(tmp_path, fetch, monkeypatch, when):
    if when == "before":
        monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": 1000}))
    else:
        real = Path.open

        def full(path, mode="r", *rest, **options):
            if "part" in path.name and mode == "wb":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, mode, *rest, **options)

        monkeypatch.setattr(Path, "open", full)
    with pytest.raises(WeightsError, match=r"0 MB left\. Free" if when == "before" else "The disk is full"):
        fetch("good")
    assert names(tmp_path / "weights") == []


def test_no_connection_is_reported_with_the_way_out(tmp_path):
    source = write_registry(tmp_path, url="https://127.0.0.1:1/large.pt", sha256=SHA256)
    with pytest.raises(WeightsError, match=r"failed: .* import it"):
        fetch_weights("large", weights_dir=tmp_path / "weights", registry=source)


# Published.


def shapes_of(name):
    """Parameters of the published names and shapes, whose numbers take no place."""
    with torch.device("meta"):
        state = build_network(PUBLISHED[name].architecture).state_dict()
    return {key: torch.tensor(0.01).expand(value.shape) for key, value in state.items()}


def write_published(name, path):
    torch.save({"model": shapes_of(name)} if name == "multiverseg" else shapes_of(name), path)
    return path


def test_every_published_network_is_told_with_authors_licence_size_and_address():
    assert list(PUBLISHED) == ["scribbleprompt-unet", "scribbleprompt-sam", "multiverseg", "universeg"]
    for entry in PUBLISHED.values():
        assert all((entry.licence, entry.authors, entry.paper, entry.citation, entry.capabilities))
        assert entry.url.startswith("https://")
        count = sum(value.numel() for value in shapes_of(entry.name).values())
        assert entry.bytes == 4 * count
    assert "research" in PUBLISHED["universeg"].licence


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one[-3:] == "sam")) for one in PUBLISHED]
)
def test_a_published_file_is_recognised_and_refused_once_it_has_changed(tmp_path, name):
    source, folder = write_published(name, tmp_path / "some file.pt"), tmp_path / "weights"
    entry = import_weights(source, weights_dir=folder)
    assert entry == PUBLISHED[name]
    path, digest = entry.path(folder), hashlib.sha256(source.read_bytes()).hexdigest()
    assert (path.read_bytes(), entry.recorded_sha256(folder)) == (source.read_bytes(), digest)
    assert import_weights(source, weights_dir=folder) == entry  # once more
    assert weights_file(name, weights_dir=folder) == path
    path.write_bytes(path.read_bytes() + b"x")
    for act in (lambda: weights_file(name, weights_dir=folder), lambda: import_weights(source, weights_dir=folder)):
        with pytest.raises(WeightsError, match=rf"expected {digest}|Another file of {name} is here"):
            act()
    remove_weights(name, weights_dir=folder)
    assert names(folder) == []


def test_a_published_network_comes_from_its_address_and_stays_what_it_was(tmp_path):
    source = write_published("universeg", tmp_path / "universeg.pt")
    folder, values = tmp_path / "weights", {"architecture": "universeg", "bytes": source.stat().st_size}
    with serving(source.read_bytes()) as (address, _):
        known = write_registry(tmp_path, url=f"{address}/good", **values)
        path = fetch_weights("large", weights_dir=folder, registry=known)
        record = path.with_name("large.pt.sha256").read_text()
        assert record == f"{hashlib.sha256(source.read_bytes()).hexdigest()}  large.pt\n"
        path.unlink()  # without its record: the next one must be the same
        path.with_name("large.pt.sha256").write_text(f"{SHA256}  large.pt\n")
        with pytest.raises(WeightsError, match=f"expected {SHA256}: it is damaged, or another one"):
            fetch_weights("large", weights_dir=folder, registry=known)
        other = write_registry(tmp_path, url=f"{address}/good", **{**values, "architecture": "multiverseg"})
        with pytest.raises(WeightsError, match="is another network than large"):
            fetch_weights("large", weights_dir=folder, registry=other)
    assert names(folder) == ["large.pt.sha256"]


def test_nothing_is_downloaded_before_anybody_has_seen_the_licence(tmp_path):
    with pytest.raises(WeightsError, match=r"licence is OpenRAIL.*research.*weights fetch universeg"):
        weights_file("universeg", weights_dir=tmp_path)


def test_where_nothing_can_be_noted_a_file_is_used_all_the_same(tmp_path):
    path = write_published("universeg", tmp_path / PUBLISHED["universeg"].file)
    path.with_name(f"{path.name}.sha256").mkdir()  # as in a shared folder that cannot be written to
    assert weights_file("universeg", weights_dir=tmp_path) == path


# Imported.


@pytest.fixture
def own_network(tmp_path):
    torch.save(ScribbleUNet(ScribbleUNetConfig(features=(2, 2))).state_dict(), tmp_path / "Leber & Milz.pt")
    return tmp_path / "Leber & Milz.pt"


def test_another_network_is_imported_under_a_name_of_its_own(tmp_path, own_network):
    folder = tmp_path / "weights"
    for stem in ("default", "net.pt"):
        renamed = own_network.rename(own_network.with_name(f"{stem}{own_network.suffix}"))
        added = import_weights(renamed, weights_dir=folder)
        assert weights_file(added.name, weights_dir=folder) == added.path(folder)
        remove_weights(added.name, weights_dir=folder)
        renamed.rename(own_network)
    added = [import_weights(own_network, weights_dir=folder, name=name).name for name in ("hospital", None, None)]
    assert added == ["hospital", "Leber-Milz", "Leber-Milz-2"]
    assert fetch_weights("hospital", weights_dir=folder).read_bytes() == own_network.read_bytes()
    (folder / f".scribblesegment-{'0' * 32}.pt").write_bytes(b"half")  # of an import that was interrupted
    assert [known.name for known in list_weights(folder)][-3:] == ["Leber-Milz-2", "Leber-Milz", "hospital"]
    for name, message in (("hospital", "already"), ("../outside", "cannot be the name"), ("..", "cannot be the name")):
        with pytest.raises(WeightsError, match=message):
            import_weights(own_network, name=name, weights_dir=folder)
    assert remove_weights("hospital", weights_dir=folder) == folder / "hospital.pt"
    for name, message in (
        ("hospital", "no weights named"),
        ("multiverseg", "no file of"),
        ("scribble-unet-embedded", "comes with the package"),
    ):
        with pytest.raises(WeightsError, match=message):
            remove_weights(name, weights_dir=folder)


# Listed and found.


def test_the_embedded_weights_are_present_small_and_the_default():
    embedded = [entry for entry in list_weights() if entry.embedded]
    assert find_weights("default") in embedded
    for entry in embedded:
        assert fetch_weights(entry.name) == entry.path()
        assert entry.path().stat().st_size <= 12_000_000
        assert entry.licence


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "http://example.org/a.pt", "sha256": SHA256}, "https, and have a sha256 or an architecture"),
        ({"url": "https://example.org/a.pt"}, "https, and have a sha256 or an architecture"),
        ({"colour": "red"}, "registry"),
    ],
)
def test_a_registry_that_makes_no_sense_is_refused(tmp_path, values, message):
    with pytest.raises(WeightsError, match=message):
        list_weights(tmp_path, registry=write_registry(tmp_path, **values))
    (tmp_path / "registry.json").write_text("{")
    with pytest.raises(WeightsError, match="registry"):
        list_weights(tmp_path, registry=tmp_path / "registry.json")


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights named 'x'.*scribble-unet-embedded"):
        find_weights("x", tmp_path)
    with pytest.raises(WeightsError, match="Install the package again"):
        fetch_weights(registry=write_registry(tmp_path, file="embedded/nothing.safetensors"))


def test_weights_are_found_by_path_or_by_name_and_those_that_join_in_context():
    for in_context, expected in ((False, "scribble-unet-embedded"), (True, "context-unet-embedded")):
        assert weights_file("some/where.pt", in_context=in_context) == Path("some/where.pt")
        assert weights_file(Path("without-suffix"), in_context=in_context) == Path("without-suffix")
        assert weights_file("default", in_context=in_context) == fetch_weights(expected)
        assert weights_file("context-unet-embedded", in_context=in_context) == fetch_weights("context-unet-embedded")


def test_the_folder_follows_argument_and_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "env"))
    assert weights_folder(tmp_path / "given") == tmp_path / "given"
    assert weights_folder() == tmp_path / "env"
    assert WeightsInfo("a", "", "", "a.pt").path() == tmp_path / "env" / "a.pt"
