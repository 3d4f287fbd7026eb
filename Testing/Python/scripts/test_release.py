"""The repository's address, and what the Extensions Index looks at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
URL = "https://github.com/somebody/SlicerScribbleSegment"


@pytest.fixture
def release():
    return load_script("release")


@pytest.fixture
def checkout(release, tmp_path) -> Path:
    """A copy of all files in which the address may stand, and of the pictures."""
    files = {path for place in (*release.PLACES, "docs/images/*") for path in ROOT.glob(place) if path.is_file()}
    for path in files:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


def test_with_an_address_nothing_stands_in_the_way_of_a_release(release, checkout):
    release.set_repository(checkout, URL)
    assert release.problems(checkout) == []
    assert release.set_repository(checkout, URL) == []
    addresses = [path for path, text in release._texts(checkout) if "somebody/SlicerScribbleSegment" in text]
    assert {"pyproject.toml", "CMakeLists.txt", "ScribbleSegment.json", "CITATION.cff", "SECURITY.md"} <= {
        path.name for path in addresses
    }


def test_here_at_most_the_address_is_missing(release):
    assert {problem.partition(": ")[2] for problem in release.problems(ROOT)} <= {"the repository's address is not set"}


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("CMakeLists.txt", '"PyTorch"', '"NA"', "build_dependencies are not"),
        ("CMakeLists.txt", "main/ScribbleSegment.png", "main/docs/images/slicer_panel.png", "no PNG of 128 x 128"),
        ("CMakeLists.txt", "slicer_effect.png", "slicer_affect.png", "a picture is missing"),
        ("CMakeLists.txt", "Related patents:", "Patents; related", "has a semicolon"),
        ("CMakeLists.txt", 'CATEGORY "Segmentation"', 'CATEGORY "Utilities"', "category is not"),
        ("ScribbleSegment.json", "somebody", "nobody", "scm_url is not"),
        ("CITATION.cff", "\nversion: ", "\nversion: 7", "version is not"),
        ("SECURITY.md", "somebody", "OWNER_TO_BE_SET", "address is not set"),
    ],
)
def test_what_does_not_agree_is_told(release, checkout, file, old, new, complaint):
    release.set_repository(checkout, URL)
    text = (checkout / file).read_text(encoding="utf-8")
    assert old in text
    (checkout / file).write_text(text.replace(old, new), encoding="utf-8")
    (problem,) = release.problems(checkout)
    assert complaint in problem


def test_the_index_entry_has_what_its_schema_asks_for():
    entry = json.loads((ROOT / "ScribbleSegment.json").read_text(encoding="utf-8"))
    assert entry.pop("$schema").endswith("/slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert set(entry) == {*("build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_url", "tier")}
    assert entry["tier"] in (1, 3, 5)
