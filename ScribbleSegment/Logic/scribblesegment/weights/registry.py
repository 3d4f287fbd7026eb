"""Which weights there are, and getting them: embedded in the package, downloaded once, or imported from a file.

Downloads go to the user's data folder, never into the installation, and count only after their SHA-256 is right.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scribblesegment.errors import ScribbleSegmentError, WeightsError
from scribblesegment.io.storage import PathLike, atomic_file, is_temporary, user_folder

FOLDER_VARIABLE = "SCRIBBLESEGMENT_WEIGHTS_DIR"

Progress = Callable[[float, str], None]
Cancelled = Callable[[], bool]

_HERE = Path(__file__).parent
_CHUNK = 1 << 18
_TIMEOUT_S = 30
_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class WeightsInfo:
    """One entry of the registry."""

    name: str
    description: str  # one sentence
    licence: str  # of the parameters
    file: str  # relative to this folder where `embedded`, else in the user's weights folder
    embedded: bool = False  # whether it comes with the package
    url: str = ""  # of the download; empty for embedded and imported weights
    sha256: str = ""  # of the download, hexadecimal
    bytes: int = 0  # of the download
    model_card: str = ""  # where it is described
    in_context: str = ""  # name of the weights that join these once there is a context; empty if none do

    def path(self, weights_dir: PathLike | None = None) -> Path:
        """Return where the file lies, or will lie."""
        return _HERE / self.file if self.embedded else weights_folder(weights_dir) / self.file


def weights_folder(weights_dir: PathLike | None = None) -> Path:
    """Return the folder of downloaded and imported weights.

    It is `weights_dir` if given; else the environment variable SCRIBBLESEGMENT_WEIGHTS_DIR, else in the user's data
    folder of the operating system.
    """
    return user_folder("weights", FOLDER_VARIABLE, weights_dir)


def list_weights(weights_dir: PathLike | None = None, *, registry: PathLike | None = None) -> list[WeightsInfo]:
    """List known weights: those of the registry first, then files in the user's weights folder.

    Args:
        weights_dir: see `weights_folder`.
        registry: another registry file than the package's.

    Raises:
        WeightsError: the registry cannot be read.
    """
    known = _read_registry(registry)[1]
    taken = {entry.file for entry in known}
    folder = weights_folder(weights_dir)
    imported = [
        WeightsInfo(path.stem, "Imported from a file.", "as stated by its provider", path.name)
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if path.suffix in _SUFFIXES and path.name not in taken and not is_temporary(path.name)
    ]
    return known + imported


def find_weights(
    name: str = "default", weights_dir: PathLike | None = None, *, registry: PathLike | None = None
) -> WeightsInfo:
    """Find weights by name; "default" is the registry's choice.

    Raises:
        WeightsError: there are none of that name; the message lists the known ones.
    """
    if name == "default":
        name = _read_registry(registry)[0]
    known = list_weights(weights_dir, registry=registry)
    for entry in known:
        if entry.name == name:
            return entry
    raise WeightsError(
        f"There are no weights named {name!r}. Known are {', '.join(entry.name for entry in known)}; a path to a "
        ".safetensors or .pt file works too."
    )


def weights_file(
    name: PathLike,
    *,
    weights_dir: PathLike | None = None,
    in_context: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Return the file of a network by its name, as `fetch_weights`, or by its path, which need not exist.

    Args:
        name: name or path.
        weights_dir: see `weights_folder`.
        in_context: whether the weights that join those of a name once there is a context are wanted in their place.
        progress: see `fetch_weights`.

    Raises:
        WeightsError: as `fetch_weights`.
    """
    if is_weights_path(name):
        return Path(name)
    partner = find_weights(str(name), weights_dir).in_context if in_context else ""
    return fetch_weights(partner or str(name), weights_dir=weights_dir, progress=progress)


def is_weights_path(name: PathLike) -> bool:
    """Whether this is the path of a weights file, and not a name."""
    return isinstance(name, os.PathLike) or Path(name).suffix in _SUFFIXES


def fetch_weights(
    name: str = "default",
    *,
    weights_dir: PathLike | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    registry: PathLike | None = None,
) -> Path:
    """Make sure that weights are on this computer, downloading them if need be.

    Args:
        name: a name of `list_weights`, or "default".
        weights_dir: see `weights_folder`.
        progress: called with the finished fraction and a text with the bytes so far.
        cancelled: asked between pieces; True stops the download and leaves nothing behind.
        registry: another registry file than the package's.

    Returns:
        The path of the file.

    Raises:
        WeightsError: the name is unknown, an embedded file is missing, the download fails or is cancelled, or a file
            has another hash than the registry's.
    """
    entry = find_weights(name, weights_dir, registry=registry)
    path = entry.path(weights_dir)
    if path.is_file():
        if entry.sha256 and _sha256(path) != entry.sha256.lower():
            raise WeightsError(
                f"{path} is damaged, or not the file of {entry.name}. Delete it to have it fetched again."
            )
        return path
    if not entry.url:
        raise WeightsError(f"The file of {entry.name} is missing: {path}. Install the package again, or import it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, path.suffix) as temporary:
        _download(entry, temporary, progress, cancelled)
    return path


def import_weights(source: PathLike, *, name: str | None = None, weights_dir: PathLike | None = None) -> WeightsInfo:
    """Copy a weights file into the user's weights folder, after it has been shown to load.

    This is how a computer without internet access, or a user with a network of their own, gets a model.

    Args:
        source: a file that `checkpoints.load_network` reads.
        name: what it will be called; the file's stem by default.
        weights_dir: see `weights_folder`.

    Returns:
        Its entry.

    Raises:
        WeightsError: the file does not load, or weights of that name exist already.
    """
    from scribblesegment.weights.checkpoints import load_network

    source = Path(source)
    load_network(source)
    name = name or source.stem
    if re.fullmatch(r"\w[\w.-]*", name) is None:
        raise WeightsError(f"{name!r} cannot be the name of weights; use letters, digits, '-', '_' and '.'.")
    if any(entry.name == name for entry in list_weights(weights_dir)):
        raise WeightsError(f"There are weights named {name!r} already; give another name.")
    target = weights_folder(weights_dir) / f"{name}{source.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target, target.suffix) as temporary:
        temporary.write_bytes(source.read_bytes())
    return find_weights(name, weights_dir)


def _read_registry(registry: PathLike | None) -> tuple[str, list[WeightsInfo]]:
    path = Path(registry) if registry is not None else _HERE / "registry.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [_entry(values) for values in content["weights"]]
        return str(content["default"]), entries
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The registry of weights {path} cannot be read: {error}. Install the package again."
        ) from error


def _entry(values: dict[str, Any]) -> WeightsInfo:
    entry = WeightsInfo(**{"embedded": "url" not in values, **values})
    if entry.url and (urllib.parse.urlsplit(entry.url).scheme != "https" or not entry.sha256):
        raise ValueError(f"{entry.name} must be downloaded by https and have a sha256")
    return entry


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _download(entry: WeightsInfo, target: Path, progress: Progress | None, cancelled: Cancelled | None) -> None:
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(entry.url, timeout=_TIMEOUT_S) as response, target.open("wb") as file:
            total = entry.bytes or int(response.headers.get("Content-Length") or 0)
            while piece := response.read(_CHUNK):
                if cancelled is not None and cancelled():
                    raise WeightsError(f"The download of {entry.name} was cancelled; nothing was kept.")
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                if progress is not None:
                    fraction = min(1.0, done / total) if total else 0.0
                    progress(fraction, f"{entry.name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
    except ScribbleSegmentError:
        raise
    except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
        raise WeightsError(
            f"The download of {entry.name} from {entry.url} failed: {error}. Check the connection, or get the file on "
            "another computer and import it."
        ) from error
    if digest.hexdigest() != entry.sha256.lower():
        raise WeightsError(
            f"The download of {entry.name} has SHA-256 {digest.hexdigest()}, expected {entry.sha256}. It was thrown "
            "away; try again, and report it if it stays so."
        )
