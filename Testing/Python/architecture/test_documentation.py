"""The documentation: recipes run as they are printed, links and commands lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import STRAIGHT, write_image
from propagation_phantoms import dice
from refinable_networks import small_unet
from scripts import load_script

from scribblesegment import (
    Correction,
    LabelScribbles,
    Segment,
    Volume,
    load_network,
    read_labelmap,
    read_volume,
    write_segmentation,
)

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def recipes() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text_of(ROOT / "docs/python.md"), flags=re.MULTILINE)
    blocks = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return {title: "".join(blocks.findall(part)) for title, part in zip(parts[1::2], parts[2::2], strict=True)}


def anchors(page: Path) -> set[str]:
    """The fragments GitHub gives to the headings of a page."""
    titles = HEADING.findall(re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def phantom() -> np.ndarray:
    """An ellipsoid, bool (16, 96, 112), where the recipes draw."""
    k, j, i = np.indices((16, 96, 112))
    return ((k - 8) / 6) ** 2 + ((j - 48) / 20) ** 2 + ((i - 60) / 26) ** 2 < 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that recipes name: a phantom in two images, its segmentation, and a network that was not trained."""
    path = tmp_path_factory.mktemp("recipes")
    (path / "patients").mkdir()
    structure, rng = phantom(), np.random.default_rng(0)
    for name in ("ct.nrrd", "patients/one.nrrd"):
        write_image(path / name, (100 * structure + rng.normal(0, 8, structure.shape)).astype(np.int16))
    labels = Volume(structure.astype(np.uint8), STRAIGHT)
    write_segmentation(path / "ct_liver.seg.nrrd", labels, [Segment(1, "Liver", (0.8, 0.4, 0.3))])
    torch.jit.trace(small_unet(2), torch.zeros(1, 1, 96, 112)).save(str(path / "liver.pt"))
    return path


@pytest.mark.parametrize("title", recipes())
def test_a_recipe_runs_as_it_is_printed(title, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if title == "Segment a folder" and not Path("liver.context.zip").exists():  # where recipes run one by one
        exec(recipes()["Show the network examples"], {})
    names: dict[str, object] = {}
    exec(compile(recipes()[title], f"docs/python.md, {title}", "exec"), names)
    truth = phantom()
    checks = {
        "Segment a slice": lambda: dice(read_labelmap("slice.seg.nrrd").array[8] == 1, truth[8]) > 0.8,
        "Correct it step by step, with undo": lambda: dice(names["final"], truth[8]) > 0.8,
        "Show the network examples": lambda: dice(names["mask"], truth[8]) > 0.8,
        "Propagate to a volume": lambda: dice(read_labelmap("liver.nii.gz").array == 1, truth) > 0.8,
        "Segment a folder": lambda: dice(read_labelmap("results/one.nrrd.seg.nrrd").array == 1, truth) > 0.5,
        "Refine another network": lambda: names["result"].satisfied,
    }
    assert checks[title]()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text_of(page))):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, fragment = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        if not aim.exists() or (fragment and fragment not in anchors(aim)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_that_are_named_exist(page):
    named = set(re.findall(r"\bscripts/[\w/.]*\w", text_of(page)))
    assert not {name for name in named if not (ROOT / name).exists()}


def test_two_strokes_correct_the_network_of_the_tutorial():
    sample = load_script("sample_data")
    name, index = "ScribbleSegmentMR2", 24
    labels = sample.abdomen(sample.PATIENTS[name])[1][index]
    expected = np.select([np.isin(labels, (1, 5)), labels == 3], [1, 2], 0)
    network = load_network(f"{ROOT / 'docs/tutorial_network.py'}:network", confirm=lambda reason: True)
    correction = Correction(network, read_volume(sample.FOLDER / f"{name}.nrrd"), index=index)
    scribbles = LabelScribbles.empty(correction.shape)
    for label, rows, columns in ((0, (78, 86), (122, 126)), (1, (55, 58), (30, 60))):
        stroke = np.zeros(correction.shape, bool)
        stroke[slice(*rows), slice(*columns)] = True
        scribbles = scribbles.with_scribble(stroke, label)
    before, after = correction.segment(), correction.refine(scribbles).labels
    for label in (1, 2):
        assert dice(after == label, expected == label) > dice(before == label, expected == label)
    assert dice(after == 1, expected == 1) > 0.9
