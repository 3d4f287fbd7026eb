"""Which weights there are, and getting them: embedded in the package, downloaded once, or imported from a file.

Downloads go to the user's data folder, never into the installation. No hashes of published files are known: what a file
had when it came is kept beside it (`NAME.sha256`, as `sha256sum` writes it), and a file that has changed is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribblesegment.errors import FileFormatError, WeightsError, is_installed
from scribblesegment.io.storage import PathLike, atomic_file, file_lock, user_folder
from scribblesegment.weights.download import Cancelled, Progress, download, is_safe_address

if TYPE_CHECKING:
    from torch import nn

    from scribblesegment.weights.checkpoints import NetworkDescription

FOLDER_VARIABLE = "SCRIBBLESEGMENT_WEIGHTS_DIR"

_HERE = Path(__file__).parent
_CHUNK = 1 << 20
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
    sha256: str = ""  # of the download, hexadecimal; empty for published networks, whose authors state none
    bytes: int = 0  # of the download; without a `sha256` about, from the number of parameters
    architecture: str = ""  # of a published network: that of `models.factory` with its default options
    capabilities: tuple[str, ...] = ()  # prompts it understands, and "context"; empty for imported files
    authors: str = ""
    paper: str = ""  # its address
    citation: str = ""  # how to cite it
    model_card: str = ""  # where it is described
    in_context: str = ""  # name of the weights that join these once there is a context; empty if none do

    def path(self, weights_dir: PathLike | None = None) -> Path:
        """Return where the file lies, or will lie."""
        return _HERE / self.file if self.embedded else weights_folder(weights_dir) / self.file

    def recorded_sha256(self, weights_dir: PathLike | None = None) -> str:
        """Return the SHA-256 its file must have, hexadecimal; empty as long as none is known."""
        record = _record(self.path(weights_dir))
        return self.sha256.lower() or (record.read_text(encoding="utf-8").partition(" ")[0] if record.is_file() else "")


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
        if path.suffix in _SUFFIXES and path.name not in taken and not path.name.startswith(".")
    ]
    return known + imported


def find_weights(
    name: str = "default", weights_dir: PathLike | None = None, *, registry: PathLike | None = None
) -> WeightsInfo:
    """Find weights by name; "default" is the registry's choice, another one where PyTorch is missing.

    Raises:
        WeightsError: there are none of that name; the message lists the known ones.
    """
    if name == "default":
        name = default_weights(torch=is_installed("torch"), registry=registry)
    known = list_weights(weights_dir, registry=registry)
    for entry in known:
        if entry.name == name:
            return entry
    raise WeightsError(
        f"There are no weights named {name!r}. Known are {', '.join(entry.name for entry in known)}; a path to a "
        ".safetensors or .pt file works too."
    )


def default_weights(*, torch: bool, registry: PathLike | None = None) -> str:
    """Name of the weights that "default" stands for, with and without a PyTorch that works."""
    usual, _, without_torch = _read_registry(registry)
    return usual if torch else without_torch


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
        progress: see `fetch_weights`. Without it nothing is downloaded: whoever watches has seen the licence.

    Raises:
        WeightsError: as `fetch_weights`; or the file would have to be downloaded and nobody watches.
    """
    if is_weights_path(name):
        return Path(name)
    entry = find_weights(str(name), weights_dir)
    if in_context and entry.in_context:
        entry = find_weights(entry.in_context, weights_dir)
    if progress is None and entry.url and not entry.path(weights_dir).is_file():
        raise WeightsError(
            f"{entry.name} is not on this computer yet. Its licence is {entry.licence}. If you agree to it, download "
            f"it ({entry.bytes / 1e6:.0f} MB) by `scribblesegment weights fetch {entry.name}` or in the module's "
            "panel, or import its file."
        )
    return fetch_weights(entry.name, weights_dir=weights_dir, progress=progress)


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
        cancelled: asked between pieces; True stops the download. The next one goes on from there.
        registry: another registry file than the package's.

    Returns:
        The path of the file.

    Raises:
        WeightsError: the name is unknown, an embedded file is missing, the download fails or is cancelled, or a file
            is another one than when it came, or not that of its network.
    """
    entry = find_weights(name, weights_dir, registry=registry)
    path = entry.path(weights_dir)
    if entry.embedded and path.is_file():
        return path
    if path.is_file():
        with suppress(FileFormatError):  # a shared folder that cannot be written to
            _check_or_record(entry, path, path, weights_dir)
        return path
    if not entry.url:
        raise WeightsError(f"The file of {entry.name} is missing: {path}. Install the package again, or import it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    with file_lock(part.with_suffix(".lock")):
        exact = bool(entry.sha256 and entry.bytes)
        download(
            entry.url, part, name=entry.name, size=entry.bytes, exact=exact, progress=progress, cancelled=cancelled
        )
        try:
            if entry.architecture and _published(*_load(part), [entry]) is None:
                raise WeightsError(f"What {entry.url} gave is another network than {entry.name}; it was thrown away.")
            _check_or_record(entry, part, path, weights_dir)
        except WeightsError:
            part.unlink()
            raise
        os.replace(part, path)
    return path


def import_weights(source: PathLike, *, name: str | None = None, weights_dir: PathLike | None = None) -> WeightsInfo:
    """Copy a weights file into the user's weights folder, after it has been shown to load.

    This is how a computer without internet access, or a user with a network of their own, gets a model. The files of
    published networks are recognised by the names and shapes of their parameters.

    Args:
        source: a file that `checkpoints.load_network` reads.
        name: what it will be called; by default that of the published network, or else the file's own.
        weights_dir: see `weights_folder`.

    Returns:
        Its entry.

    Raises:
        WeightsError: the file does not load, or other weights of that name exist already.
    """
    source = Path(source)
    known = list_weights(weights_dir)
    network, description = _load(source)
    published = _published(network, description, known) if name is None else None
    if published is not None and (source.suffix == ".safetensors") == published.file.endswith(".safetensors"):
        entry = published
    else:
        name = name or _free_name(source.stem, {entry.name for entry in known})
        if re.fullmatch(r"\w[\w.-]*", name) is None:
            raise WeightsError(f"{name!r} cannot be the name of weights; use letters, digits, '-', '_' and '.'.")
        if any(one.name == name for one in known):
            raise WeightsError(f"There are weights named {name!r} already; give another name.")
        entry = WeightsInfo(name, "", "", f"{name}{source.suffix}")
    target = entry.path(weights_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and sha256_of(target) != sha256_of(source):
        raise WeightsError(f"Another file of {entry.name} is here already. Remove it first, or give this one a name.")
    with atomic_file(target, target.suffix) as temporary:
        shutil.copyfile(source, temporary)
        _check_or_record(entry, temporary, target, weights_dir)
    return find_weights(entry.name, weights_dir)


def remove_weights(name: str, *, weights_dir: PathLike | None = None) -> Path:
    """Remove the file of downloaded or imported weights, its recorded hash, and what has arrived of a download.

    Returns:
        The path that the file had.

    Raises:
        WeightsError: the name is unknown, the weights come with the package, or there is nothing of them here.
    """
    entry = find_weights(name, weights_dir)
    path = entry.path(weights_dir)
    if entry.embedded:
        raise WeightsError(f"{entry.name} comes with the package and cannot be removed.")
    there = [one for one in (path, _record(path), _part(path), _part(path).with_suffix(".lock")) if one.is_file()]
    if not there:
        raise WeightsError(f"There is no file of {entry.name} here.")
    for one in there:
        one.unlink()
    return path


def sha256_of(path: PathLike) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _part(path: Path) -> Path:
    return path.with_name(f".{path.stem}.part{path.suffix}")


def _check_or_record(entry: WeightsInfo, file: Path, path: Path, weights_dir: PathLike | None) -> None:
    """Compare a file, which is or will be at `path`, with what it was when it came first; else note what it is now."""
    found, expected = sha256_of(file), entry.recorded_sha256(weights_dir)
    if not expected:
        with atomic_file(_record(path), ".sha256") as temporary:
            temporary.write_text(f"{found}  {path.name}\n", encoding="utf-8")
    elif found != expected:
        raise WeightsError(
            f"The file of {entry.name} has SHA-256 {found}, expected {expected}: it is damaged, or another one. If you "
            f"trust it, remove {entry.name} first (`scribblesegment weights remove {entry.name}`), and get it again."
        )


def _load(path: Path) -> tuple[nn.Module, NetworkDescription]:
    from scribblesegment.weights.checkpoints import load_network  # imports torch

    return load_network(path)


def _published(network: nn.Module, description: NetworkDescription, known: list[WeightsInfo]) -> WeightsInfo | None:
    """Find the published network that a file holds."""
    config: Any = network.config
    default = type(config)()
    return next((e for e in known if e.architecture == description.architecture and config == default), None)


def _free_name(stem: str, taken: set[str]) -> str:
    clean = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model"
    if is_weights_path(clean):
        clean = clean.replace(".", "-")
    taken = {*taken, "default"}
    candidates = [clean, *(f"{clean}-{number}" for number in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)


def _read_registry(registry: PathLike | None) -> tuple[str, list[WeightsInfo], str]:
    path = Path(registry) if registry is not None else _HERE / "registry.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [_entry(values) for values in content["weights"]]
        return str(content["default"]), entries, str(content.get("default_without_torch", content["default"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The registry of weights {path} cannot be read: {error}. Install the package again."
        ) from error


def _entry(values: dict[str, Any]) -> WeightsInfo:
    values = {"embedded": "url" not in values, **values, "capabilities": tuple(values.get("capabilities", ()))}
    entry = WeightsInfo(**values)
    if entry.url and not (is_safe_address(entry.url) and (entry.sha256 or entry.architecture)):
        raise ValueError(f"{entry.name} must be downloaded by https, and have a sha256 or an architecture")
    return entry
