"""Finding, downloading and importing weights."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from scribblesegment.errors import WeightsError
from scribblesegment.models.unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.weights import registry as manager
from scribblesegment.weights.registry import (
    FOLDER_VARIABLE,
    WeightsInfo,
    fetch_weights,
    find_weights,
    import_weights,
    list_weights,
    weights_file,
    weights_folder,
)

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server on this computer that offers CONTENT at /good and breaks off at /short."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: 1000 if self.path == "/short" else None])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def a_registry(folder: Path, **values: Any) -> Path:
    entry = {
        "name": "large",
        "description": "A larger network.",
        "licence": "CC0-1.0",
        "file": "large.pt",
        "url": "https://127.0.0.1/large.pt",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "bytes": len(CONTENT),
        **values,
    }
    path = folder / "registry.json"
    path.write_text(json.dumps({"default": "large", "weights": [entry]}))
    return path


@pytest.fixture
def from_server(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets a registry's https addresses reach the plain server of this test."""
    original = manager.urllib.request.urlopen
    monkeypatch.setattr(
        manager.urllib.request, "urlopen", lambda url, timeout: original(url.replace("https://test", server), timeout=5)
    )
    return "https://test"


def test_the_embedded_weights_are_present_small_and_the_default() -> None:
    embedded = [entry for entry in list_weights() if entry.embedded]
    assert find_weights("default") in embedded
    for entry in embedded:
        assert fetch_weights(entry.name) == entry.path()
        assert entry.path().stat().st_size <= 5_000_000
        assert entry.licence


def test_a_download_is_kept_after_its_hash_was_checked(tmp_path: Path, from_server: str) -> None:
    registry = a_registry(tmp_path, url=f"{from_server}/good")
    seen: list[tuple[float, str]] = []
    folder = tmp_path / "weights"
    path = fetch_weights("large", weights_dir=folder, registry=registry, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    assert seen[-1] == (1.0, "large: 1.0 of 1.0 MB")
    assert [file.name for file in folder.iterdir()] == ["large.pt"]


def test_what_is_on_the_computer_is_not_downloaded_again_and_not_used_if_it_changed(tmp_path: Path) -> None:
    registry = a_registry(tmp_path, url="https://127.0.0.1:1/nobody-listens")
    (tmp_path / "large.pt").write_bytes(CONTENT)
    assert fetch_weights("large", weights_dir=tmp_path, registry=registry).read_bytes() == CONTENT
    (tmp_path / "large.pt").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"damaged, or not the file of large\. Delete it"):
        fetch_weights("large", weights_dir=tmp_path, registry=registry)


@pytest.mark.parametrize(
    ("page", "sha256", "message"),
    [
        ("/good", "00" * 32, "has SHA-256"),
        ("/short", hashlib.sha256(CONTENT).hexdigest(), "large"),
        ("/missing", hashlib.sha256(CONTENT).hexdigest(), "404"),
    ],
)
def test_a_bad_download_leaves_nothing_behind(
    tmp_path: Path, from_server: str, page: str, sha256: str, message: str
) -> None:
    registry = a_registry(tmp_path, url=f"{from_server}{page}", sha256=sha256)
    folder = tmp_path / "weights"
    with pytest.raises(WeightsError, match=message):
        fetch_weights("large", weights_dir=folder, registry=registry)
    assert list(folder.iterdir()) == []


def test_a_cancelled_download_leaves_nothing_behind(tmp_path: Path, from_server: str) -> None:
    registry = a_registry(tmp_path, url=f"{from_server}/good")
    folder = tmp_path / "weights"
    with pytest.raises(WeightsError, match="cancelled"):
        fetch_weights("large", weights_dir=folder, registry=registry, cancelled=lambda: True)
    assert list(folder.iterdir()) == []


def test_no_connection_is_reported_with_the_way_out(tmp_path: Path) -> None:
    registry = a_registry(tmp_path, url="https://127.0.0.1:1/large.pt")
    with pytest.raises(WeightsError, match=r"failed: .* import it"):
        fetch_weights("large", weights_dir=tmp_path / "weights", registry=registry)


@pytest.mark.parametrize("values", [{"url": "http://example.org/a.pt"}, {"sha256": ""}])
def test_a_registry_entry_without_https_or_hash_is_refused(tmp_path: Path, values: dict[str, str]) -> None:
    with pytest.raises(WeightsError, match="https and have a sha256"):
        list_weights(tmp_path, registry=a_registry(tmp_path, **values))


def test_a_damaged_registry_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text("{")
    with pytest.raises(WeightsError, match="registry"):
        list_weights(tmp_path, registry=tmp_path / "registry.json")


def test_an_imported_file_is_found_by_its_name(tmp_path: Path) -> None:
    source, folder = tmp_path / "mine.pt", tmp_path / "weights"
    torch.save(ScribbleUNet(ScribbleUNetConfig(features=(2, 2))).state_dict(), source)
    entry = import_weights(source, name="hospital", weights_dir=folder)
    assert entry.name == "hospital"
    assert fetch_weights("hospital", weights_dir=folder).read_bytes() == source.read_bytes()
    (folder / f".scribblesegment-{'0' * 32}.pt").write_bytes(b"half")  # of an import that was interrupted
    names = [known.name for known in list_weights(folder)]
    assert names == ["scribble-unet-embedded", "context-unet-embedded", "hospital"]
    with pytest.raises(WeightsError, match="already"):
        import_weights(source, name="hospital", weights_dir=folder)


@pytest.mark.parametrize("name", ["../outside", "a/b", ".."])
def test_a_name_cannot_leave_the_weights_folder(tmp_path: Path, name: str) -> None:
    source = tmp_path / "mine.pt"
    torch.save(ScribbleUNet(ScribbleUNetConfig(features=(2, 2))).state_dict(), source)
    with pytest.raises(WeightsError, match="cannot be the name"):
        import_weights(source, name=name, weights_dir=tmp_path / "weights")


def test_a_file_that_does_not_load_is_not_imported(tmp_path: Path) -> None:
    source = tmp_path / "junk.pt"
    source.write_bytes(b"junk")
    with pytest.raises(WeightsError, match="damaged"):
        import_weights(source, weights_dir=tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_unknown_weights_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights named 'x'.*scribble-unet-embedded"):
        find_weights("x", tmp_path)


def test_a_missing_embedded_file_says_what_to_do(tmp_path: Path) -> None:
    registry = tmp_path / "registry.json"
    entry = {"name": "a", "description": "", "licence": "", "file": "embedded/nothing.safetensors"}
    registry.write_text(json.dumps({"default": "a", "weights": [entry]}))
    with pytest.raises(WeightsError, match="Install the package again"):
        fetch_weights(registry=registry)


def test_weights_are_found_by_path_or_by_name_and_those_that_join_in_context() -> None:
    for in_context, expected in ((False, "scribble-unet-embedded"), (True, "context-unet-embedded")):
        assert weights_file("some/where.pt", in_context=in_context) == Path("some/where.pt")
        assert weights_file(Path("without-suffix"), in_context=in_context) == Path("without-suffix")
        assert weights_file("default", in_context=in_context) == fetch_weights(expected)
        assert weights_file("context-unet-embedded", in_context=in_context) == fetch_weights("context-unet-embedded")


def test_the_folder_follows_argument_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "env"))
    assert weights_folder(tmp_path / "given") == tmp_path / "given"
    assert weights_folder() == tmp_path / "env"
    assert WeightsInfo("a", "", "", "a.pt").path() == tmp_path / "env" / "a.pt"
