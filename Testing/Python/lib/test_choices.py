"""Networks, devices and packages to choose from and to set up, as far as no widget is needed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from weights_server import serving, write_registry

from scribblesegment.errors import WeightsError
from scribblesegment.models.factory import build_network
from scribblesegment.service.worker import Task
from scribblesegment.weights import registry
from scribblesegment.weights.registry import find_weights
from ScribbleSegmentLib.DeviceSection import checkDevice
from ScribbleSegmentLib.NetworkChoices import ModelChoice, ModelChoices, RememberedSelection, Selection, deviceNames
from ScribbleSegmentLib.Packages import RequiredPackages, Requirement, downloadSize, installedVersion, parseRequirements


@pytest.fixture
def choices(tmp_path: Path) -> ModelChoices:
    return ModelChoices(tmp_path / "added")


@pytest.fixture
def a_network(tmp_path: Path) -> Path:
    path = tmp_path / "My network (v2).safetensors"
    shutil.copy(find_weights().path(), path)
    return path


def test_the_embedded_network_comes_first_with_its_licence(choices):
    first = choices.all()[0]
    assert first.name == choices.defaultName
    assert first.info.embedded
    assert first.licence == "CC-BY-SA-4.0"
    assert not first.missing
    assert first.downloadMegabytes == 0


def test_an_added_network_is_copied_and_keeps_the_licence_it_states(choices, a_network):
    stated = choices.statedLicence(str(a_network))
    added, again = (choices.add(str(a_network)) for _ in range(2))
    a_network.unlink()
    assert (added.name, again.name, added.info.embedded) == ("My-network-v2", "My-network-v2-2", False)
    assert added.licence == stated == "CC-BY-SA-4.0"
    assert choices.find(added.name) == added
    assert ModelChoices(choices.folder).find(added.name) == added
    (choices.folder / "My-network-v2.safetensors").unlink()
    assert choices.find(added.name) is None


def test_a_published_network_is_downloaded_with_progress_cancelled_continued_and_removed(tmp_path, monkeypatch):
    state = build_network("universeg").state_dict()
    torch.save(state, tmp_path / "universeg.pt")
    content = (tmp_path / "universeg.pt").read_bytes()
    choices, task = ModelChoices(tmp_path / "added"), Task[ModelChoice]()
    offered = choices.find("universeg")
    assert offered is not None
    assert (offered.downloadMegabytes, offered.missing, offered.sha256) == (5, False, "")
    assert all((offered.info.authors, offered.info.paper, offered.info.citation, "research" in offered.licence))
    with serving(content) as (address, _):
        known = write_registry(
            tmp_path, name="universeg", url=f"{address}/good", architecture="universeg", bytes=len(content)
        )
        monkeypatch.setattr(registry, "_HERE", known.parent)
        task.cancel()
        with pytest.raises(WeightsError, match="cancelled"):
            choices.download("universeg", task)
        got = choices.download("universeg", task := Task[ModelChoice]())
    assert (got.downloadMegabytes, got.sha256) == (0, hashlib.sha256(content).hexdigest())
    assert task.progress.fraction == 1.0
    assert "4.7 of 4.7 MB" in task.progress.text
    choices.remove("universeg")
    assert list(choices.folder.iterdir()) == []


def test_a_file_that_is_no_network_is_refused_and_one_without_a_licence_said_to_have_none(choices, tmp_path):
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    plain, picture = tmp_path / "plain.safetensors", tmp_path / "picture.safetensors"
    plain.write_bytes(len(header).to_bytes(8, "little") + header)
    picture.write_bytes(b"no network")
    assert choices.statedLicence(str(plain)) == choices.statedLicence(str(tmp_path / "gone.pt")) == ""
    with pytest.raises(WeightsError, match=r"picture\.safetensors"):
        choices.add(str(picture))
    assert all(choice.info.embedded or choice.downloadMegabytes for choice in choices.all())
    assert not choices.folder.exists()


# Selections ---------------------------------------------------------------------------------------------------------


def test_what_the_scene_says_comes_before_what_was_chosen_last_unless_it_does_not_exist_here():
    scene, last, default = Selection("a", ""), Selection("b", "cpu"), Selection("c", "auto")
    assert scene.completedBy(last).completedBy(default) == Selection("a", "cpu")
    assert Selection().completedBy(Selection()).completedBy(default) == default
    assert Selection("elsewhere", "mps").restrictedTo(["embedded"], ["auto", "cpu"]) == Selection()
    assert Selection("here", "mps").restrictedTo(["here"], ["auto", "cpu"]) == Selection("here", "")
    assert [deviceNames(platform)[-1] for platform in ("darwin", "linux", "win32")] == ["mps", "cuda", "cuda"]


class Settings(dict[str, object]):
    """A QSettings."""

    value, setValue = dict.get, dict.__setitem__  # noqa: N815 - as Qt names it


def test_a_choice_is_remembered_and_settings_of_another_kind_count_as_none():
    settings = Settings()
    RememberedSelection(settings).save(Selection("a", "cuda"))
    assert RememberedSelection(settings).load() == Selection("a", "cuda")
    assert all(key.startswith("ScribbleSegment/") for key in settings)
    for value in (None, 3, ["a", "b"], ""):
        settings.update(dict.fromkeys(settings, value))
        assert RememberedSelection(settings).load() == Selection()


# Devices ------------------------------------------------------------------------------------------------------------


def test_a_device_is_checked_by_computing_on_it_and_auto_names_the_one_it_would_take():
    works = checkDevice("cpu")
    assert (works.device, works.problem, works.unused) == ("cpu", None, None)
    assert min(works.milliseconds) > 0
    absent = checkDevice("cuda:97")
    assert (absent.device, absent.hardware) == ("cuda:97", "")
    assert absent.problem  # in torch's words
    report = checkDevice("auto")
    assert report.problem is None
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert report.device in (expected, "cpu")
    assert (report.unused is not None) == (report.device == "cpu" and torch.cuda.is_available())


def test_without_pytorch_the_processor_is_checked_and_nothing_else_works(monkeypatch):
    monkeypatch.setattr("ScribbleSegmentLib.DeviceSection.torch_problem", lambda: "PyTorch is not installed.")
    report = checkDevice("auto")
    assert (report.device, report.problem, report.unused) == ("cpu", None, "PyTorch is not installed.")
    assert report.milliseconds[0] > 0
    assert report.milliseconds[1] is None
    assert checkDevice("cuda").problem == "PyTorch is not installed."


# Packages -----------------------------------------------------------------------------------------------------------


def test_names_and_lowest_versions_are_read_and_what_is_absent_or_too_old_is_missing(tmp_path):
    text, path = "# needed\ntorch>=2.4  # large\n\nsafetensors >= 0.4.3\nscikit-image\n", tmp_path / "needed.txt"
    read = parseRequirements(text)
    assert read == [Requirement("torch", "2.4"), Requirement("safetensors", "0.4.3"), Requirement("scikit-image")]
    assert [str(one) for one in read] == ["torch>=2.4", "safetensors>=0.4.3", "scikit-image"]
    assert [one.specifier for one in read] == [">=2.4", ">=0.4.3", ""]
    path.write_text(text, encoding="utf-8")
    installed = {"torch": "2.3.1", "scikit-image": "0.22"}
    packages = RequiredPackages(path, installed.get)
    assert packages.missing == read[:2]
    installed.update({"torch": "2.8.0", "safetensors": "0.5"})
    assert packages.missing == []


@pytest.mark.parametrize("line", ["torch==2.4", "torch>=2.4,<3", "--index-url https://x", ">=2", "torch>=", "-r a.txt"])
def test_any_other_line_is_refused(line):
    with pytest.raises(ValueError, match="is not a requirement"):
        parseRequirements(f"scipy>=1\n{line}\n")


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
def test_versions_are_compared_by_their_numbers(minimum, version, met):
    assert Requirement("torch", minimum).isMetBy(version) is met


def test_the_extension_needs_torch_and_this_python_has_all_it_needs():
    packages = RequiredPackages()
    assert packages.torch in packages.all
    assert packages.missing == []
    assert Requirement("numpy", "1.26").isMetBy(installedVersion("numpy"))
    assert installedVersion("a-package-that-nobody-has") is None
    assert packages.isLoaded(Requirement("numpy"))
    assert not packages.isLoaded(Requirement("a_package_that_nobody_has"))


def test_with_a_graphics_card_torch_may_be_far_larger():
    torch, small = Requirement("torch"), Requirement("safetensors")
    plain, most = downloadSize([torch, small], mayUseCuda=False)
    assert plain == most
    least, most = downloadSize([torch, small], mayUseCuda=True)
    assert least == plain
    assert most > 5 * least
    assert downloadSize([small], mayUseCuda=True)[1] < 10
