"""Set the repository's address everywhere, and check what the Extensions Index and PyPI ask for.

    python scripts/release.py --repository https://github.com/OWNER/SlicerScribbleSegment --check

The address is the variable `Repository` in pyproject.toml. `--repository` changes it there and wherever else it stands;
`--check` lists what still stands in the way of a release and exits with 1 if there is anything. docs/releasing.md has
the rest.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "OWNER_TO_BE_SET"  # no owner on GitHub can have underscores in its name
PLACES = ("*.*", ".github/**/*.yml", "docs/**/*.md", "ScribbleSegment/**/*.py")
_SUFFIXES = (".cff", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml")
_ADDRESS = re.compile(r"https://github\.com/([\w.-]+/Slicer[\w.-]*?)(?:\.git)?/?")


def main() -> int:
    """Do what the options say; 0 if nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", metavar="URL", help="the repository's address on GitHub")
    parser.add_argument("--check", action="store_true", help="list what stands in the way of a release")
    options = parser.parse_args()
    if options.repository is None and not options.check:
        parser.error("give --repository, --check or both")
    if options.repository is not None:
        if _ADDRESS.fullmatch(options.repository) is None:
            parser.error("the Extensions Index wants an address like https://github.com/OWNER/SlicerScribbleSegment")
        print("\n".join(f"changed {path}" for path in set_repository(ROOT, options.repository)))
    found = problems(ROOT) if options.check else []
    print("\n".join(found) or "nothing stands in the way" if options.check else "")
    return 1 if found else 0


def set_repository(root: Path, url: str) -> list[str]:
    """Replace the address by `url` in all files that have it, and return their names."""
    old, new = _slug(root), _ADDRESS.fullmatch(url)[1]  # type: ignore[index]
    changed = []
    for path, text in _texts(root):
        filled = re.sub(rf"(github\.com|githubusercontent\.com)/{re.escape(old)}\b", rf"\1/{new}", text)
        if filled != text:
            path.write_text(filled, encoding="utf-8", newline="\n")
            changed.append(str(path.relative_to(root)))
    return changed


def problems(root: Path) -> list[str]:
    """What the Extensions Index and PyPI would refuse in the checkout `root`, one line each."""
    found = [f"{path.relative_to(root)}: the repository's address is not set" for path, text in _texts(root)
             if PLACEHOLDER in text]  # fmt: skip
    address = f"https://github.com/{_slug(root)}"
    raw = f"https://raw.githubusercontent.com/{_slug(root)}/main/"

    cmake = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    values = dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"]*)"\)$', cmake, re.MULTILINE))
    project = re.search(r"^project\((\w+)\)", cmake, re.MULTILINE)[1]  # type: ignore[index]
    entry = json.loads((root / f"{project}.json").read_text(encoding="utf-8"))
    icon, screenshots = values["ICONURL"], values["SCREENSHOTURLS"].split()
    pictures = {url: root / url.removeprefix(raw) for url in (icon, *screenshots)}
    dependencies = [] if values["DEPENDS"] == "NA" else values["DEPENDS"].split()
    version = _first(r'^__version__ = "(.+)"', root / "ScribbleSegment/Logic/scribblesegment/__init__.py")
    checks = [
        (values["HOMEPAGE"] == address, "CMakeLists.txt: EXTENSION_HOMEPAGE is not the repository's address"),
        (entry["scm_url"] == f"{address}.git", f"{project}.json: scm_url is not the repository's address"),
        (entry["category"] == values["CATEGORY"], f"{project}.json: category is not that of CMakeLists.txt"),
        (entry["build_dependencies"] == dependencies, f"{project}.json: build_dependencies are not EXTENSION_DEPENDS"),
        # Slicer's macros pass the description on without quotes, so that a semicolon would end it.
        (";" not in values["DESCRIPTION"], "CMakeLists.txt: EXTENSION_DESCRIPTION has a semicolon"),
        (all(url.startswith(raw) for url in pictures), "CMakeLists.txt: a picture is not in the repository"),
        (_png_size(pictures[icon]) == (128, 128), "CMakeLists.txt: the icon is no PNG of 128 x 128 pixels"),
        (len(screenshots) >= 3, "CMakeLists.txt: there are less than three screenshots"),
        (all(map(_png_size, pictures.values())), "CMakeLists.txt: a picture is missing, or no PNG"),
        (_first(r"^version: (.+)$", root / "CITATION.cff") == version, "CITATION.cff: version is not the package's"),
    ]
    return found + [message for passed, message in checks if not passed]


def _slug(root: Path) -> str:
    """OWNER/NAME of the repository."""
    return _first(r'^Repository = "https://github\.com/(.+)"$', root / "pyproject.toml")


def _first(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise SystemExit(f"error: {path} has no line like {pattern}")
    return match[1]


def _texts(root: Path) -> list[tuple[Path, str]]:
    files = sorted({path for place in PLACES for path in root.glob(place) if path.suffix in _SUFFIXES})
    return [(path, path.read_text(encoding="utf-8")) for path in files]


def _png_size(path: Path) -> tuple[int, int] | None:
    """Width and height; None if there is no PNG."""
    head = path.read_bytes()[:24] if path.is_file() else b""
    if not head.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


if __name__ == "__main__":
    sys.exit(main())
