from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def environment(monkeypatch):
    """The module scripts/_environment.py, with commands recorded instead of run."""
    module = load_script("_environment")
    module.commands = []

    def record(command, *, what):
        module.commands.append(command)

    monkeypatch.setattr(module, "run", record)
    monkeypatch.setattr(module, "_works", lambda folder: folder.is_dir())
    return module


def installs(environment) -> list[str]:
    return [command[-1] for command in environment.commands if "install" in command]


def test_a_new_environment_gets_torch_first_and_then_the_package(environment, tmp_path):
    environment.ensure_environment(tmp_path / "venv", ["test"])
    made, *_ = environment.commands
    assert made[-2:] == ["venv", str(tmp_path / "venv")]
    assert re.fullmatch(r"torch==[\d.]+", installs(environment)[0])
    assert installs(environment)[1:] == [f"{ROOT}[test]"]


def test_an_environment_is_used_as_it_is_until_extras_constraints_or_python_change(environment, tmp_path, monkeypatch):
    folder, deciding = tmp_path / "venv", tmp_path / "constraints.txt"
    deciding.write_text("torch==1.0\n", encoding="utf-8")
    monkeypatch.setattr(environment, "_FILES_THAT_DECIDE", (deciding,))
    environment.ensure_environment(folder)
    (folder / "kept").touch()
    environment.commands.clear()
    assert environment.ensure_environment(folder) == environment.python_of(folder)
    assert environment.commands == []
    environment.ensure_environment(folder, ["test"])
    assert installs(environment)[-1] == f"{ROOT}[test]"
    environment.commands.clear()
    deciding.write_text("torch==2.0\n", encoding="utf-8")
    environment.ensure_environment(folder, ["test"])
    assert len(installs(environment)) == 2
    assert (folder / "kept").exists()
    monkeypatch.setattr(environment, "_works", lambda folder: False)
    environment.ensure_environment(folder, ["test"])
    assert not (folder / "kept").exists()


def test_an_environment_whose_install_was_broken_off_is_made_anew(environment, tmp_path, monkeypatch):
    def fail(folder, extras):
        (folder / "half").touch()
        raise environment.SetupError("no network")

    with monkeypatch.context() as broken:
        broken.setattr(environment, "_install", fail)
        with pytest.raises(environment.SetupError, match="no network"):
            environment.ensure_environment(tmp_path / "venv")
    environment.ensure_environment(tmp_path / "venv")
    assert not (tmp_path / "venv" / "half").exists()


def test_a_folder_of_the_user_s_own_is_refused_and_left_alone(environment, tmp_path):
    own = tmp_path / "venv" / "thesis.txt"
    own.parent.mkdir()
    own.write_text("years of work", encoding="utf-8")
    with pytest.raises(environment.SetupError, match="was not made by this script"):
        environment.ensure_environment(own.parent)
    assert own.read_text(encoding="utf-8") == "years of work"


def test_what_is_missing_and_what_fails_is_named(environment, tmp_path, monkeypatch):
    with monkeypatch.context() as old:
        old.setattr(environment, "MINIMUM_PYTHON", (sys.version_info[0] + 1, 0))
        with pytest.raises(environment.SetupError, match="or newer is needed"):
            environment.ensure_environment(tmp_path / "venv")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(environment.SetupError, match=r"venv and ensurepip is missing.*apt install python3\.\d+-venv"):
        environment.ensure_environment(tmp_path / "venv")
    module = load_script("_environment")
    with pytest.raises(module.SetupError, match="Baking failed with exit code 3"):
        module.run([sys.executable, "-c", "raise SystemExit(3)"], what="Baking")


def test_commits_are_checked_by_the_pinned_ruff():
    (pinned,) = re.findall(r"^ruff==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))) == {
        pinned
    }


def test_every_dependency_is_pinned_and_satisfies_its_bound():
    tomllib = pytest.importorskip("tomllib")
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(line for group in project["optional-dependencies"].values() for line in group),
    ]
    text = re.sub(r"#.*", "", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    pins: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        pin = Requirement(line)
        pins.setdefault(pin.name.lower(), []).extend(spec.version for spec in pin.specifier)
    for requirement in (one for one in map(Requirement, wanted) if one.name != "scribblesegment"):
        versions = pins.get(requirement.name.lower(), [])
        assert versions, f"{requirement.name} is not pinned in constraints.txt"
        assert all(version in requirement.specifier for version in versions), f"{requirement}: {versions}"
