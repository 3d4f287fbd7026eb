"""`scribblesegment weights`: networks to choose from, downloaded, imported and removed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Annotated

from scribblesegment.cli.options import Argument
from scribblesegment.errors import ConfigError, WeightsError
from scribblesegment.weights.registry import (
    WeightsInfo,
    fetch_weights,
    find_weights,
    import_weights,
    list_weights,
    remove_weights,
)

_ACTIONS = ("list", "fetch", "import", "remove")


def _read_action(text: str) -> str:
    if text not in _ACTIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is not an action. Give one of {', '.join(_ACTIONS)}")
    return text


def weights(
    action: Annotated[str, Argument("ACTION", "list, fetch NAME, import FILE or remove NAME", read=_read_action)],
    what: Annotated[str | None, Argument("NAME|FILE", "what is fetched, imported or removed")] = None,
    name: Annotated[str | None, Argument("--name NAME", "import FILE under this name")] = None,
    yes: Annotated[bool, Argument("--yes", "agree to the licence without being asked")] = False,
) -> None:
    """List networks, download published ones, import files of networks, or remove them.

    Files are kept in the user's data folder, or in SCRIBBLESEGMENT_WEIGHTS_DIR. The SHA-256 of a file is noted when it
    comes, and a file that has changed is refused. A download that broke off goes on where it stopped.

    Examples:
        scribblesegment weights list
        scribblesegment weights fetch scribbleprompt-unet
        scribblesegment weights import MultiverSeg_v1_nf256_res128.pt
        scribblesegment weights import mine.safetensors --name liver
    """
    if (what is None) != (action == "list"):
        raise ConfigError(f"weights {action} takes {'no name' if action == 'list' else 'a name or a file'}.")
    if action == "import":
        _show(import_weights(Path(str(what)), name=name))
    elif action == "remove":
        print(f"removed {remove_weights(str(what))}")
    elif action == "fetch":
        entry = find_weights(str(what))
        if not entry.path().is_file():
            _agree(entry, yes)
        fetch_weights(entry.name, progress=show_download)
        _show(find_weights(entry.name))
    else:
        for entry in list_weights():
            _show(entry)


def show_download(fraction: float, text: str) -> None:
    """Show how far a download is, if somebody is watching."""
    if sys.stderr.isatty():
        end = "\n" if fraction >= 1.0 else ""
        print(f"\r{text} ({100 * fraction:.0f} %)", end=end, file=sys.stderr, flush=True)


def _show(entry: WeightsInfo) -> None:
    path = entry.path()
    state = (
        f"{path.stat().st_size / 1e6:.1f} MB, {path}"
        if path.is_file()
        else f"about {entry.bytes / 1e6:.0f} MB to download"
    )
    facts = {
        "": entry.description,
        "takes": ", ".join(entry.capabilities),
        "licence": entry.licence,
        "authors": entry.authors,
        "paper": entry.paper,
        "cite": entry.citation,
        "file": state,
        "sha256": entry.recorded_sha256(),
    }
    print(entry.name)
    for title, fact in facts.items():
        if fact:
            print(f"  {title:9}{fact}" if title else f"  {fact}")


def _agree(entry: WeightsInfo, yes: bool) -> None:
    """Show what would be downloaded and under what licence, and ask."""
    _show(entry)
    if yes:
        return
    print(f"  from     {entry.url}")
    answer = ""
    if sys.stdin.isatty():
        print("Do you agree to the licence, and is it to be downloaded? [y/N] ", end="", flush=True)
        answer = sys.stdin.readline()  # empty at its end
    if answer.strip().lower() not in ("y", "yes"):
        raise WeightsError(f"{entry.name} was not downloaded. Give --yes if you agree to its licence.")
