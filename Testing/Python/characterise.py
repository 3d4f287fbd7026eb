"""What users can see of ScribbleSegment, as one file to compare with after every move of the code.

    python Testing/Python/characterise.py                    write characterise.json
    python Testing/Python/characterise.py --check            compare with it; 1 and a diff if anything changed
    python Testing/Python/characterise.py --check --only help ui

Values are exact, apart from keys that end in "~": those depend on a network's arithmetic and may differ by 2 %.
Nothing is downloaded and no files but those of the checkout are read. `fixtures` holds files of version 0.1.0 that must
stay readable; they are not written again.
"""

from __future__ import annotations

import argparse
import ast
import csv
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "ScribbleSegment"
FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = Path(__file__).with_suffix(".json")
sys.path[:0] = [str(SOURCES / "Logic"), str(Path(__file__).parent / "helpers")]

from phantom_files import make_phantoms  # noqa: E402

COMMAND_LINE = [sys.executable, "-m", "scribblesegment"]
NUMBER = r"\d+(\.\d+)?(e-?\d+)?"
COMMANDS = ("segment", "propagate", "batch", "refine", "weights", "info")
SCRIPTS = ("demo", "draw_strokes", "test", "train")


# Comparing ------------------------------------------------------------------------------------------------------------


def differences(expected: Any, found: Any, place: str = "", tolerant: bool = False) -> Iterator[str]:
    """Describe every difference of two JSON values, one line each."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            where = f"{place} / {key}" if place else key
            if key not in found:
                yield f"- {where}: {json.dumps(expected[key])}"
            elif key not in expected:
                yield f"+ {where}: {json.dumps(found[key])}"
            else:
                yield from differences(expected[key], found[key], where, tolerant or key.endswith("~"))
    elif isinstance(expected, list) and isinstance(found, list) and (tolerant or len(expected) == len(found)):
        if len(expected) != len(found):
            yield f"! {place}: {json.dumps(expected)} -> {json.dumps(found)}"
        for index, pair in enumerate(zip(expected, found, strict=False)):
            yield from differences(*pair, f"{place} [{index}]", tolerant)
    elif isinstance(expected, list) and isinstance(found, list) and all(isinstance(one, str) for one in expected):
        yield from (f"- {place}: {line}" for line in expected if line not in found)
        yield from (f"+ {place}: {line}" for line in found if line not in expected)
        if sorted(expected) == sorted(found):
            yield f"! {place}: in another order"
    elif tolerant and isinstance(expected, int | float) and isinstance(found, int | float):
        if abs(expected - found) > 0.02 * abs(expected) + 1.0:
            yield f"! {place}: {expected} -> {found}"
    elif expected != found:
        yield f"! {place}: {json.dumps(expected)} -> {json.dumps(found)}"


# Running commands -----------------------------------------------------------------------------------------------------


class Workplace:
    """A folder with phantoms, and commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store = folder / "contexts"
        shutil.copytree(FIXTURES / "contexts", store)
        keep = {name: value for name, value in os.environ.items() if not name.startswith("SCRIBBLESEGMENT_")}
        self.environment = {
            **keep,
            "PYTHONPATH": str(SOURCES / "Logic"),
            "SCRIBBLESEGMENT_CONTEXTS_DIR": str(store),
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "OMP_NUM_THREADS": "1",
        }
        make_phantoms(folder)
        for name in ("bright.py", "bright.py.json", "spleen.context.zip", "tiny.safetensors"):
            shutil.copy(FIXTURES / name, folder)

    def run(self, *arguments: str, program: list[str] = COMMAND_LINE) -> SimpleNamespace:
        done = subprocess.run(
            [*program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=1800,
        )
        return SimpleNamespace(
            code=done.returncode, output=self.lines_of(done.stdout), errors=self.lines_of(done.stderr)
        )

    def run_all(self, lines: list[str]) -> Iterator[tuple[str, SimpleNamespace]]:
        """Run independent command lines, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            yield from zip(lines, pool.map(lambda line: self.run(*line.split()), lines), strict=True)

    def lines_of(self, text: str) -> list[str]:
        """Lines without what differs between machines: folders, wordings of old Pythons, devices of PyTorch."""
        text = text.replace(str(self.folder), "DIR")
        text = re.sub(r"(-\w) [A-Z_]+, (--)", r"\1, \2", text)
        text = re.sub(r"(?<=Expected one of ).*(?= device type)", "...", text)
        text = re.sub(r"\(choose from [^)]*\)", lambda match: match[0].replace("'", ""), text)
        return [line.rstrip() for line in text.splitlines()]


def about_labels(labels: Any) -> dict[str, Any]:
    """How many voxels each label has and where they are, so that a flip or a shift is seen."""
    import numpy as np

    return {
        str(label): {
            "voxels~": int((labels == label).sum()),
            "centre~": [round(float(axis.mean()), 1) for axis in np.nonzero(labels == label)],
        }
        for label in np.unique(labels)
        if label
    }


def about_file(path: Path) -> dict[str, Any]:
    """Describe a file that a command wrote."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813

    from scribblesegment import read_labelmap

    if path.suffix == ".csv":
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        return {"columns": rows[0], "rows": len(rows) - 1}
    if path.suffix == ".json" or not re.search(r"\.(nrrd|nii|nii\.gz|mha|png|tif)$", path.name):
        return {"bytes": path.stat().st_size > 0}
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    image = reader.Execute()
    about: dict[str, Any] = {
        "size": list(image.GetSize()),
        "pixels": f"{image.GetPixelIDTypeAsString()} x {image.GetNumberOfComponentsPerPixel()}",
    }
    if path.suffix == ".png" and image.GetNumberOfComponentsPerPixel() > 1:
        return about
    about["geometry"] = [
        [round(value, 4) + 0.0 for value in values]
        for values in (image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    ]
    labels = read_labelmap(path)
    about["labels"] = about_labels(np.asarray(labels.array))
    if path.name.endswith(".nrrd"):
        about["header"] = sorted({re.sub(r"^Segment\d+_", "Segment#_", key) for key in reader.GetMetaDataKeys()})
        about["segments"] = [
            [one.label, one.name, None if one.color_rgb is None else [round(float(c), 3) for c in one.color_rgb]]
            for one in labels.segments
        ]
    return about


# The sections ---------------------------------------------------------------------------------------------------------


def help_texts(place: Workplace) -> dict[str, Any]:
    """Help of every command, and the options of every script."""
    found: dict[str, Any] = {"--version": place.run("--version").output}
    for name in ("", *COMMANDS):
        text = place.run(*filter(None, [name, "--help"])).output
        found[f"scribblesegment {name}".strip()] = {"options": options_in(text), "text": text}
    for name in SCRIPTS:
        text = place.run("--help", program=[sys.executable, str(ROOT / "scripts" / f"{name}.py")]).output
        found[f"scripts/{name}.py"] = {"options": options_in(text)}
    return found


def options_in(text: list[str]) -> list[str]:
    return sorted({option for line in text for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line)})


MISTAKES = """
segmnt ct.nrrd
segment
segment ct.nrrd -o out.nrrd
segment missing.nrrd --click 5,30,20,+ -o out.nrrd
segment damaged.nii.gz --click 5,30,20,+ -o out.nrrd
segment ct.nrrd --click 5,30,20,+ -o out.docx
segment ct.nrrd --click 5,30,20,+ -o out.png
segment ct.nrrd --click 5,30,20,+ -o nowhere/out.nrrd
segment ct.nrrd --click 5,30,20,- -o out.nrrd
segment ct.nrrd --click 5,30 -o out.nrrd
segment ct.nrrd --click 5,30,99,+ -o out.nrrd
segment ct.nrrd --click 5,30,20,+1 --click 5,30,46,+2 --click 5,30,30,+ -o out.nrrd
segment ct.nrrd --box 5,30,20,4,40,30 -o out.nrrd
segment ct.nrrd --box 5,30,20,6,40 -o out.nrrd
segment ct.nrrd --scribbles shifted.nrrd -o out.nrrd
segment ct.nrrd --scribbles strokes.seg.nrrd --background nothing -o out.nrrd
segment ct.nrrd --scribbles strokes.seg.nrrd --slice x:3 -o out.nrrd
segment ct.nrrd --scribbles strokes.seg.nrrd --slice k:9 -o out.nrrd
segment ct.nrrd --scribbles strokes.seg.nrrd --threshold 1.5 -o out.nrrd
segment ct.nrrd --scribbles strokes.seg.nrrd --model nobody -o out.nrrd
segment ct.nrrd --scribbles strokes.seg.nrrd --device tpu -o out.nrrd
segment ct.nrrd --scribb strokes.seg.nrrd -o out.nrrd
propagate ct.nrrd -o out.nrrd
propagate ct.nrrd --annotated shifted.nrrd -o out.nrrd
propagate ct.nrrd --annotated few.seg.nrrd --axis x -o out.nrrd
propagate ct.nrrd --annotated few.seg.nrrd --range 9-2 -o out.nrrd
propagate ct.nrrd --annotated few.seg.nrrd --range 0-40 -o out.nrrd
propagate ct.nrrd --annotated few.seg.nrrd --context Nobody -o out.nrrd
propagate slice.png --annotated few.seg.nrrd -o out.nrrd
batch scans -o out
batch nowhere --context Liver -o out
batch scans --context Nobody -o out
batch scans --context Liver --workers 0 -o out
batch scans --context Liver --axis x -o out
refine ct.nrrd --network bright.py:bright -o out.nrrd
refine ct.nrrd --network bright.py:bright --corrections marks.nrrd -o out.nrrd
refine ct.nrrd --network bright.py:nobody --trust --corrections marks.nrrd -o out.nrrd
refine ct.nrrd --network bright.py:bright --trust --corrections new_mark.nrrd -o out.nrrd
refine ct.nrrd --network bright.py:bright --trust --corrections marks.nrrd --new-label tumour -o out.nrrd
refine ct.nrrd --network bright.py:bright --trust --corrections marks.nrrd --slice k:2 -o out.nrrd
refine ct.nrrd --network bright.py:bright --trust --corrections marks.nrrd --layer nobody -o out.nrrd
refine ct.nrrd --network missing.pt --trust --corrections marks.nrrd -o out.nrrd
info missing.nrrd
info a b
"""


def mistakes(place: Workplace) -> dict[str, Any]:
    """Exit code and message of what users do wrong; nothing may be written."""
    before = sorted(place.folder.rglob("*"))
    found: dict[str, Any] = {}
    for line, result in place.run_all(MISTAKES.strip().splitlines()):
        found[line] = {"code": result.code, "errors": result.errors, "output": result.output}
    left = [path for path in sorted(place.folder.rglob("*")) if path not in before and "__pycache__" not in str(path)]
    found["left behind"] = [str(path.relative_to(place.folder)) for path in left]
    return found


COMMAND_LINES = """
info
info ct.nii.gz
info dicom
info slice.png
segment ct.nii.gz --scribbles strokes.seg.nrrd --background rest -o a.seg.nrrd --overlay a.png
segment ct.mha --scribbles strokes.seg.nrrd --slice k:6 --threshold 0.7 --all-pieces -o b.nrrd
segment ct.nrrd --click 5,30,20,+1 --click 5,4,4,- --box 6,20,36,8,47,57,+2 -o c.nii.gz
segment ct.nrrd --click 5,30,20,+ --slice j -o d.seg.nrrd
segment slice.png --box 12,7,48,33 -o e.png
segment slice.jpg --box 12,7,48,33 -o f.tif --model tiny.safetensors
segment dicom --click 3,30,20,+ -o g.mha --device cpu
propagate ct.nrrd --annotated few.seg.nrrd -o h.seg.nrrd
propagate ct.nrrd --annotated few_along_j.nii.gz --axis j --range 18-44 --complete --threshold 0.6 -o i.nii.gz
propagate ct.nrrd --annotated few.seg.nrrd --context liver --context spleen.context.zip -o j.seg.nrrd
batch scans --context spleen.context.zip --context Liver -o out -r --workers 1
batch scans --context contexts/liver-ebaf48a9 -o flat --workers 1 --axis k --threshold 0.6 --threads 1
refine ct.nrrd --network bright.py:bright --trust --corrections marks.nrrd -o k.seg.nrrd --plot k.png
refine ct.nrrd --network bright.py:bright --trust --corrections new_mark.nrrd --new-label 7=tumour --slice k:5 -o l.nrrd
refine ct.nrrd --network bright.py:bright --trust --corrections marks.nrrd --strict --no-growing -o o.nrrd \
    --layers 1 --iterations 1 --learning-rate 1e-6
refine ct.nrrd --network bright.py:bright --trust --corrections marks.nrrd --paper --iterations 25 -o m.nrrd \
    --reach 4 --threshold 30
refine slice.tif --network tiny.safetensors --corrections mark_2d.nrrd --layers 2 --anchor 0 --iterations 5 -o n.png
"""


def command_lines(place: Workplace) -> dict[str, Any]:
    """What command lines print and write on the phantoms."""
    found: dict[str, Any] = {}
    lines = COMMAND_LINES.strip().splitlines()
    for line, result in place.run_all(lines):
        name = " ".join(line.split())
        written = [place.folder / path for path in re.findall(r"(?:-o|--overlay|--plot) (\S+)", line)]
        found[name] = {
            "code": result.code,
            # Numbers come from networks and clocks, those about the result are among the files.
            "output": result.output
            if name.startswith("info")
            else [re.sub(NUMBER, "#", text) for text in result.output],
            "errors": [re.sub(NUMBER, "#", text) for text in result.errors],
            "files": {
                path.relative_to(place.folder).as_posix(): about_file(path)
                for top in written
                for path in sorted([top, *top.rglob("*")])
                if path.is_file()
            },
        }
    mine = ("python ", "torch ", "device ", "       ")  # lines about this machine
    found["info"]["output"] = [text for text in found["info"]["output"] if not text.startswith(mine)]
    again = next(line for line in lines if line.startswith("batch"))
    found["the first batch again"] = place.run(*again.split()).output
    return found


def python_interface(place: Workplace) -> dict[str, Any]:
    """Public names with parameters, defaults and members. Annotations are left out: they name private types."""
    import scribblesegment

    found: dict[str, Any] = {}
    for name in scribblesegment.__all__:
        value = getattr(scribblesegment, name)
        if not inspect.isclass(value):
            found[name] = parameters_of(value) if callable(value) else value
            continue
        members: dict[str, Any] = {}
        for base in reversed(value.__mro__):
            if not base.__module__.startswith("scribblesegment"):
                continue
            for member, raw in vars(base).items():
                function = getattr(raw, "__func__", raw)  # of class methods and static methods
                if not member.startswith("_") and (callable(function) or isinstance(raw, property)):
                    members[member] = "property" if isinstance(raw, property) else parameters_of(function)
        bases = [
            base.__name__ for base in value.__mro__[1:] if base.__name__ in {*scribblesegment.__all__, "ValueError"}
        ]
        found[name] = {"parameters": parameters_of(value), "members": members, "bases": bases}
    return found


def parameters_of(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    return [re.sub(r" at 0x\w+", "", str(one.replace(annotation=inspect.Parameter.empty))) for one in parameters]


def designer_forms(place: Workplace) -> dict[str, Any]:
    """Every widget's class, name and texts, of all .ui files."""
    found: dict[str, Any] = {}
    for path in sorted((SOURCES / "Resources" / "UI").glob("*.ui")):
        widgets: dict[str, Any] = {}
        for widget in ElementTree.parse(path).iter("widget"):
            texts = {
                one.get("name"): one.findtext("string")
                for one in widget.findall("property")
                if one.find("string") is not None
            }
            items = [text.text for text in widget.findall("item/property/string")]
            widgets[widget.get("name", "")] = {
                "class": widget.get("class"),
                **texts,
                **({"items": items} if items else {}),
            }
        found[path.name] = widgets
    return found


PARAMETERS = (
    *("Positive", "Tool", "Automatic", "Protect", "LearnFromOthers", "Together", "Threshold", "ShowProbability"),
    *("KeepTouched", "FillHoles", "SmallestIslandMm2", "AddAccepted", "Follow"),
    *("BrushAbsoluteDiameter", "BrushRelativeDiameter", "BrushIsRelative"),
)
KEPT_NAME = re.compile(r"ScribbleSegment[./][A-Z][\w.]*|SCRIBBLESEGMENT_[A-Z_]+|scribbleSegment\w+")


def names_and_texts(place: Workplace) -> dict[str, Any]:
    """Names under which things are kept, defaults of the effect's parameters, and texts that are translated."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCES.rglob("*.py"))]
    names, texts, defaults, parameter_node = set(), set(), {}, {}
    for item in (item for tree in trees for item in ast.walk(tree)):
        if isinstance(item, ast.Constant) and isinstance(item.value, str) and KEPT_NAME.fullmatch(item.value):
            names.add(item.value)
        elif isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "_" and item.args:
            texts.add(ast.literal_eval(item.args[0]))
        elif isinstance(item, ast.ClassDef) and "@parameterNodeWrapper" in ast.unparse(item):
            fields = [field for field in item.body if isinstance(field, ast.AnnAssign) and field.value]
            parameter_node.update({ast.unparse(field.target): ast.unparse(field.value) for field in fields})
    for tree in trees:
        for name, value in pairs_in(tree):
            if name in PARAMETERS and isinstance(value, int | float):
                defaults[name] = value
    return {
        "names": sorted(names),
        "effect parameters": defaults,
        "parameter node": parameter_node,
        "texts": sorted(texts),
    }


def pairs_in(tree: ast.AST) -> Iterator[tuple[Any, Any]]:
    """Literal keys and values of dictionaries and of `setParameterDefault(name, value)`, constants looked up."""
    constants: dict[str, Any] = {}
    for item in ast.walk(tree):
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant):
            constants.update({one.id: item.value.value for one in item.targets if isinstance(one, ast.Name)})
    for item in ast.walk(tree):
        pairs: list[Any] = []
        if isinstance(item, ast.Dict):
            pairs = list(zip(item.keys, item.values, strict=True))
        elif isinstance(item, ast.Call) and "ParameterDefault" in ast.unparse(item.func):
            pairs = [item.args]
        for pair in pairs:
            yield tuple(
                constants.get(one.id) if isinstance(one, ast.Name) else getattr(one, "value", None) for one in pair
            )


def training(place: Workplace) -> dict[str, Any]:
    """A few steps of training with the configuration among the fixtures, and the weights file they end with."""
    import numpy as np
    from safetensors import safe_open

    rows, columns = np.mgrid[:32, :32]
    images = np.random.default_rng(1).integers(0, 60, (6, 32, 32)).astype(np.uint8)
    labels = np.stack([((rows - 16) ** 2 + (columns - 10 - n) ** 2 < 40).astype(np.uint8) for n in range(6)])
    (place.folder / "corpus").mkdir(exist_ok=True)
    np.savez(
        place.folder / "corpus" / "discs.npz", images=images + 150 * labels, labels=labels, meta='{"name": "discs"}'
    )
    config = str(FIXTURES / "training.json")
    train = [sys.executable, str(ROOT / "scripts" / "train.py")]
    result = place.run(config, "--data", "corpus", "-o", "new", "--device", "cpu", program=train)
    with (place.folder / "new" / "log.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    found: dict[str, Any] = {
        "code": result.code,
        "output": result.output,
        "files": sorted(path.name for path in (place.folder / "new").iterdir()),
        "columns": list(table[0]),
        "steps": [row["step"] for row in table],
        "loss~": [round(100 * float(row["loss_1"]), 1) for row in table],
    }
    with safe_open(str(place.folder / "new" / "network.safetensors"), "np") as file:
        found["weights"] = {"description": file.metadata(), "tensors": sorted(file.keys())}
    return found


def stored_files(place: Workplace) -> dict[str, Any]:
    """Files of version 0.1.0 that must stay readable. Networks and runs among them are read by other sections."""
    from scribblesegment import ContextStore, load_predictor, read_labelmap

    store = ContextStore(place.folder / "contexts")
    store.import_file(FIXTURES / "spleen.context.zip", "from a file")
    contexts = {
        name: {
            "label": context.label_name,
            "entries": [
                [e.source, e.axis, e.index, e.created, list(e.spacing_mm), list(e.image.shape), int(e.mask.sum())]
                for e in context.entries
            ],
        }
        for name, context in ((task.name, store.load(task.name)) for task in store.list_tasks())
    }
    store.delete("from a file")
    labels = read_labelmap(FIXTURES / "tagged.seg.nrrd")
    return {
        "contexts": contexts,
        "tagged.seg.nrrd": {
            "labels": about_labels(labels.array),
            "segments": [[one.label, one.name] for one in labels.segments],
        },
        "tiny.safetensors": sorted(load_predictor(str(FIXTURES / "tiny.safetensors"), device="cpu").capabilities),
    }


def scene(place: Workplace) -> dict[str, Any]:
    """Tags and voxels of segments while a user draws, undoes, accepts, propagates and corrects."""
    from scripted_scene import play

    return play(
        image=place.folder / "ct.nrrd",
        labels=place.folder / "few.seg.nrrd",
        to_load=FIXTURES / "tagged.seg.nrrd",
        folder=place.folder,
        names=names_and_texts(place)["names"],
    )


SECTIONS: dict[str, Callable[[Workplace], dict[str, Any]]] = {
    "help": help_texts,
    "mistakes": mistakes,
    "commands": command_lines,
    "python": python_interface,
    "ui": designer_forms,
    "names": names_and_texts,
    "training": training,
    "files": stored_files,
    "scene": scene,
}


def main() -> int:
    """Write or compare; returns 1 where something differs."""
    parser = argparse.ArgumentParser(description="Write down, or compare, what users can see.")
    parser.add_argument("--check", action="store_true", help="compare with characterise.json instead of writing it")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections alone")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="characterise-") as folder:
        place = Workplace(Path(folder).resolve())
        for name in arguments.only:
            start = time.monotonic()
            found[name] = json.loads(json.dumps(SECTIONS[name](place)))
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    expected = json.loads(EXPECTED.read_text(encoding="utf-8")) if EXPECTED.exists() else {}
    if not arguments.check:
        text = json.dumps({**expected, **found}, indent=1, sort_keys=True, ensure_ascii=False)
        EXPECTED.write_text(text + "\n", encoding="utf-8")
        return 0
    changes = list(differences({name: expected.get(name, {}) for name in arguments.only}, found))
    print("\n".join(changes) or "nothing changed")
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
