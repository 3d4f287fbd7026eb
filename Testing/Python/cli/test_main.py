"""What holds for all commands: arguments, help, exit codes, one line for each error."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, run, write_image

import scribblesegment
from scribblesegment import WeightsError, cli
from scribblesegment.cli.labelled_prompts import Mark

COMMANDS = ("segment", "propagate", "batch", "refine", "weights", "info")
DOCUMENTATION = Path(__file__).parents[3] / "docs" / "command_line.md"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(scribblesegment.__file__).parents[1])}
parse = importlib.import_module("scribblesegment.cli.main")._parse  # the package's `main` is the function


def program(code, **environment):
    return subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT | environment, capture_output=True, text=True)


def help_of(capsys, *command):
    assert run(*command, "--help") == 0
    return capsys.readouterr().out


# Every option once.

LINES = {
    "segment i.nrrd --scribbles s.nrrd --click 1,2,3,+ --click=4,5,-2 --box 0,0,2,2 --box 0,1,2,3,4,5,+7 -o o.nrrd "
    "--background 9 --slice j:3 --overlay p.png --model m --threshold 0.3 --device cpu --all-pieces --series 4 "
    "--window -160 240.5": dict(
        image=Path("i.nrrd"), output=Path("o.nrrd"), scribbles=Path("s.nrrd"), background="9", slices=(1, 3),
        clicks=(Mark((1, 2, 3), (2, 3, 4)), Mark((4, 5), (5, 6), False, 2)),
        boxes=(Mark((0, 0), (2, 2), is_box=True), Mark((0, 1, 2), (3, 4, 5), label=7, is_box=True)),
        overlay=Path("p.png"), model="m", threshold=0.3, all_pieces=True, device="cpu", series="4",
        window=(-160, 240.5),
    ),
    "segment i -o o": dict(
        image=Path("i"), output=Path("o"), scribbles=None, background=None, slices=None, clicks=(), boxes=(),
        overlay=None, model="default", threshold=0.5, all_pieces=False, device="auto", series=None, window=None,
    ),
    "propagate v --annotated s --output o --axis J --range 20-90 --complete --context a --context b --weights w "
    "--threshold .1 --device mps --window -600/1500 --series 1.2.840 --no-crossing": dict(
        image=Path("v"), annotated=Path("s"), scribbles=None, output=Path("o"), axis=1, index_range=(20, 91),
        complete=True, contexts=("a", "b"), model="w", threshold=0.1, device="mps", series="1.2.840",
        window=(-1350, 150), crossing=False,
    ),
    "propagate v --scribbles s -o o": dict(
        image=Path("v"), annotated=None, scribbles=Path("s"), output=Path("o"), axis=None, index_range=None,
        complete=False, contexts=(), model="default", threshold=0.5, device="auto", series=None, window=None,
        crossing=True,
    ),
    "batch in --context Liver --context s.zip -o out -r --axis i --weights w.pt --threshold 0.3 --device cpu "
    "--workers 3 --scheduler tcp://a:1 --threads 2 --redo --series 2 --window 40/400": dict(
        folder=Path("in"), contexts=("Liver", "s.zip"), output=Path("out"), recursive=True, axis=2, model="w.pt",
        threshold=0.3, device="cpu", workers=3, scheduler="tcp://a:1", threads=2, redo=True, series="2",
        window=(-160, 240),
    ),
    "refine i --network n --corrections c -o o --background 9 --new-label 4=a --new-label 5=b=c --slice k "
    "--weights w --fold 2 --trust --layers 4 --layer x --layer y --iterations 7 --learning-rate 1e-3 --anchor 0 "
    "--paper --no-growing --threshold 3 --reach 5 --plot g.png --strict --device cpu --series 7 --window=-1e1,.5": dict(
        image=Path("i"), network="n", corrections=Path("c"), output=Path("o"), background=9, slices=(0, None),
        new_labels=((4, "a"), (5, "b=c")), weights=Path("w"), fold="2", trust=True, layers=4, layer_names=("x", "y"),
        iterations=7, learning_rate=0.001, anchor=0.0, paper=True, growing=False, threshold=3.0, reach_mm=5.0,
        plot=Path("g.png"), strict=True, device="cpu", series="7", window=(-10, 0.5),
    ),
    "weights import m.pt --name mine --yes": dict(action="import", what="m.pt", name="mine", yes=True),
    "weights list": dict(action="list", what=None, name=None, yes=False),
    "info --series 3 i": dict(image=Path("i"), series="3", report=False),
    "info --report": dict(image=None, series=None, report=True),
    "info": dict(image=None, series=None, report=False),
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_arguments_arrive_as_they_were_given(line):
    command, options = parse(line.split())
    assert command.__name__ == line.split()[0]
    assert options == LINES[line]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_tested_and_documented(command, capsys):
    options = help_of(capsys, command).split("examples:\n")[0].split("exit codes:\n")[0]
    flags = set(re.findall(r"(?<=\s)--[a-z-]+", options)) - {"--help"}
    lines = " ".join(line for line in LINES if line.startswith(command))
    section = DOCUMENTATION.read_text(encoding="utf-8").split(f"\n## {command}\n")[1].split("\n## ")[0]
    for flag in flags - {"--output", "--recursive", "--model", "--weights"}:  # or by their other name
        assert re.search(rf"{flag}\b", lines), flag
        assert re.search(rf"{flag}\b", section), flag


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_documents_the_exit_codes_and_its_examples_are_understood(command, capsys):
    text = help_of(capsys, *command.split()).replace("\\\n", " ")
    assert all(f"\n  {code} " in text for code in (0, 2, 1, 3, 130))
    examples = re.findall(r"^  scribblesegment (.*)", text, re.MULTILINE)
    assert len(examples) >= 3 or command in ("", "info")
    understood = {parse(example.split())[0].__name__ for example in examples}
    assert command in understood or not examples


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_quick(command):
    code = f"import sys; from scribblesegment.cli import main\ntry: main([*{command!r}.split(), '--help'])\nfinally: "
    result = program(code + "print('!', *{'torch', 'SimpleITK', 'scipy', 'PIL', 'tqdm'} & set(sys.modules))")
    assert result.stdout.splitlines()[-1].strip() == "!", result.stdout + result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs the pipes of Unix")
def test_output_that_nobody_reads_any_more_ends_the_program_without_a_word():
    command = [sys.executable, "-m", "scribblesegment", "info"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.communicate()[1], process.returncode) == ("", 1)


def test_the_version_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scribblesegment", "--version"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert capsys.readouterr().out == f"scribblesegment {scribblesegment.__version__}\n"


# Wrong use and bad input.

NEEDED = {
    "segment": "i -o o",
    "propagate": "i --annotated s -o o",
    "batch": "in --context Liver -o out",
    "refine": "i --network n --corrections c -o o",
}
# Texts by command, option, and what is said about them.
UNREADABLE = {
    ("segment", "--click", "is not a click"): ["1,2,3", "1,+", "1,2,3,4,+", "1,2.5,3,+", "1,2,3,x", "1,2,3,2+", ""],
    ("segment", "--click", "labels are numbered from 1"): ["1,2,3,+0"],
    ("segment", "--box", "is not a box"): ["1,2,3", "1,2,3,4,5", "1,2,3,4,-2", "1,2,3,4,+", "1,2,3,4,5,6,7,8"],
    ("segment", "--box", "labels are numbered from 1"): ["1,2,3,4,+0"],
    ("segment", "--slice", "is not a slice"): ["x:3", "k:", "k:-1"],
    ("segment", "--threshold", "invalid float"): ["half"],
    ("propagate", "--axis", "is not an axis"): ["x", "kj", ""],
    ("propagate", "--range", "is not a range"): ["5", "9-5", "-1-5"],
    ("batch", "--workers", "invalid int"): ["many"],
    ("batch", "--window", "is not a window"): ["", "40", "40,40", "400/-40", "a b", "nan,1", "-1e308,1e308", "0,1,2"],
    ("refine", "--new-label", "is not a new label"): ["4", "=tumour", "4=", "x=tumour", "-4=tumour"],
}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("", "required"),
        ("paint", "'paint'"),
        ("segment", "IMAGE, -o/--output"),
        ("batch in -o out", "--context"),
        ("info a b", "unrecognized arguments: b"),
        ("segment i.nrrd -o o.nrrd --thresh 0.5", "unrecognized arguments"),
        *(
            (f"{key[0]} {NEEDED[key[0]]} {key[1]}={text}", key[2])
            for key, texts in UNREADABLE.items()
            for text in texts
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, match, capsys):
    assert run(*arguments.split()) == 2
    message = error_of(capsys)
    assert match in message
    assert "--help)" in message


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (WeightsError("first\n  second"), 2, "error: first second"),
        (MemoryError(), 1, "error: not enough memory for this image."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError(), None, None),  # a defect is not hidden
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(tmp_path, capsys, error, code, line):
    def load(name, *, device):
        raise error

    image = write_image(tmp_path / "image.nrrd", np.zeros((4, 20, 24), np.int16))
    arguments = ("segment", image, "--click", "1,5,6,+", "-o", tmp_path / "o.nrrd")
    if code is None:
        with pytest.raises(type(error)):
            run(*arguments, load=load)
    else:
        assert run(*arguments, load=load) == code
        assert capsys.readouterr().err.strip().startswith(line)
    assert not (tmp_path / "o.nrrd").exists()


def test_a_name_that_the_console_cannot_show_is_no_error(tmp_path):
    image = write_image(tmp_path / "Bild ä.nrrd", np.zeros((4, 20, 24), np.int16))
    code = f"import sys; from scribblesegment.cli import main; sys.exit(main(['info', {str(image)!r}]))"
    result = program(code, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "Bild ?.nrrd" in result.stdout
