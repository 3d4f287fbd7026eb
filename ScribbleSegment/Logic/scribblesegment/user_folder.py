"""Where the user's own files are kept: never in the installation, which an update replaces."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_folder(kind: str, variable: str, chosen: str | os.PathLike[str] | None = None) -> Path:
    """Tell where files of one kind are kept; the folder need not exist.

    Args:
        kind: Name of the folder among the user's data, such as "weights".
        variable: Environment variable that names another folder.
        chosen: The answer, if given; else that of the environment variable, else a folder in the user's data folder of
            the operating system.
    """
    elsewhere = chosen or os.environ.get(variable)
    if elsewhere:
        return Path(elsewhere)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "ScribbleSegment" / kind
