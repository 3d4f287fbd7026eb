"""Tests of what has to be installed, and how large it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ScribbleSegmentLib.Packages import RequiredPackages, Requirement, downloadSize, installedVersion, parseRequirements


def a_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_and_lowest_versions_are_read_and_comments_are_not() -> None:
    text = "# needed\ntorch>=2.4  # large\n\nsafetensors >= 0.4.3\nscikit-image\n"
    assert parseRequirements(text) == [
        Requirement("torch", "2.4"),
        Requirement("safetensors", "0.4.3"),
        Requirement("scikit-image"),
    ]


@pytest.mark.parametrize("line", ["torch==2.4", "torch>=2.4,<3", "--index-url https://x", ">=2", "torch>=", "-r a.txt"])
def test_any_other_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="is no requirement"):
        parseRequirements(f"scipy>=1\n{line}\n")


def test_a_requirement_reads_as_pip_wants_it() -> None:
    assert str(Requirement("torch", "2.4")) == "torch>=2.4"
    assert Requirement("torch", "2.4").specifier == ">=2.4"
    assert str(Requirement("torch")) == "torch"
    assert Requirement("torch").specifier == ""


@pytest.mark.parametrize(
    ("minimum", "version", "met"),
    [
        ("2.4", "2.4", True),
        ("2.4", "2.4.0", True),
        ("2.4.0", "2.4", True),
        ("2.4", "2.10.1+cu128", True),
        ("2.4", "2.3.9", False),
        ("2.4", "1.13.1+cpu", False),
        ("2.4", "2.5.0a0+git1234", True),
        ("", "0.1", True),
        ("", None, False),
        ("2.4", None, False),
        ("2.4", "unknown", False),
    ],
)
def test_versions_are_compared_by_their_numbers(minimum: str, version: str | None, met: bool) -> None:
    assert Requirement("torch", minimum).isMetBy(version) is met


NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=4)


@given(NUMBERS, NUMBERS)
def test_of_two_versions_one_meets_the_other(one: list[int], other: list[int]) -> None:
    first, second = (".".join(str(number) for number in numbers) for numbers in (one, other))
    assert Requirement("x", first).isMetBy(first)
    assert Requirement("x", first).isMetBy(second) or Requirement("x", second).isMetBy(first)


def test_what_is_absent_or_too_old_is_missing(tmp_path: Path) -> None:
    installed = {"torch": "2.3.1", "scipy": "1.14.1"}
    packages = RequiredPackages(a_file(tmp_path, "torch>=2.4\nsafetensors>=0.4\nscipy>=1.11\n"), installed.get)
    assert [requirement.name for requirement in packages.missing] == ["torch", "safetensors"]
    installed.update(torch="2.8.0", safetensors="0.5")
    assert packages.missing == []


def test_the_versions_come_from_the_running_python() -> None:
    assert installedVersion("a-package-that-nobody-has") is None
    assert Requirement("numpy", "1.26").isMetBy(installedVersion("numpy"))


def test_the_extension_needs_torch_and_this_python_has_all_it_needs() -> None:
    packages = RequiredPackages()
    assert packages.torch in packages.all
    assert packages.missing == []


def test_a_package_that_was_imported_is_told_from_one_that_was_not() -> None:
    assert RequiredPackages.isLoaded(Requirement("numpy"))
    assert not RequiredPackages.isLoaded(Requirement("a_package_that_nobody_has"))


def test_with_a_graphics_card_torch_may_be_far_larger() -> None:
    torch, small = Requirement("torch"), Requirement("safetensors")
    plain = downloadSize([torch, small], mayUseCuda=False)
    assert plain.megabytes == plain.withCuda
    large = downloadSize([torch, small], mayUseCuda=True)
    assert large.megabytes == plain.megabytes
    assert large.withCuda > 5 * large.megabytes
    assert downloadSize([small], mayUseCuda=True).withCuda < 10
