"""How the signature of a command becomes its command line, and the arguments that several commands share.

A command is a function. Each parameter annotated with `Annotated[type, Argument(...)]` is an argument: name, type and
default come from the parameter, everything else from `Argument`. The docstring is the help.
"""

from __future__ import annotations

import argparse
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NoReturn, get_args, get_origin

AXES = "kji"
"""Names of the array's axes 0, 1 and 2."""

EXIT_CODES = """\
exit codes:
  0    done
  2    wrong use or bad input: one line "error: ..." says what and why; files are written whole or not at all
  1    unexpected: out of memory, or a defect of the program
  3    refine --strict: the result was written and does not follow every correction
  130  interrupted (Ctrl-C)
"""

OK, UNEXPECTED, REFUSED, NOT_FOLLOWED, INTERRUPTED = 0, 1, 2, 3, 130


class Argument:
    """What the command line says about a parameter.

    Args:
        name: As in the help: "-o, --output OUT", "--trust", or "IMAGE" for one that is known by its position.
        text: What it means.
        read: Reads a value where calling the parameter's type does not.
        group: Title under which the help lists it.
    """

    def __init__(self, name: str, text: str, *, read: Callable[[str], Any] | None = None, group: str = "") -> None:
        words = name.split()
        self.flags = [word.rstrip(",") for word in words if word.startswith("-")]
        self.metavar = next((word for word in words if not word.startswith("-")), None)
        self.text, self.read, self.group = text, read, group


class Parser(argparse.ArgumentParser):
    """Reports wrong use in one line, like every other error."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)
        self.epilog = EXIT_CODES

    def error(self, message: str) -> NoReturn:
        """Exit with the message and a hint."""
        self.exit(REFUSED, f"error: {message} (see {self.prog} --help)\n")

    def add_command(self, command: Callable[..., Any]) -> None:
        """Add the arguments of a command, its description and its examples."""
        self.description, _, examples = (inspect.getdoc(command) or "").partition("Examples:\n")
        if examples:
            self.epilog = f"examples:\n{textwrap.indent(textwrap.dedent(examples), '  ')}\n\n{EXIT_CODES}"
        groups: dict[str, Any] = {"": self}
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            if get_origin(parameter.annotation) is not Annotated:
                continue
            kind, argument = get_args(parameter.annotation)
            if argument.group not in groups:
                groups[argument.group] = self.add_argument_group(argument.group)
            needed = parameter.default is parameter.empty
            settings: dict[str, Any] = {"help": argument.text}
            if kind is bool:
                settings["action"] = "store_false" if parameter.default else "store_true"
            else:
                several = get_origin(kind) is tuple
                (value, *_) = [part for part in get_args(kind) or (kind,) if part is not NoneType]
                settings |= {"metavar": argument.metavar, "type": argument.read or value}
                settings |= {"action": _Collect} if several else {}
                settings["default"] = () if several else None if needed else parameter.default
            if argument.flags:
                settings |= {"dest": name, "required": needed}
            elif not needed:
                settings["nargs"] = "?"
            groups[argument.group].add_argument(*(argument.flags or [name]), **settings)


class _Collect(argparse.Action):
    """Appends to a tuple, so that the default cannot be changed by accident."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: object = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))


SliceChoice = tuple[int, int | None]
"""Slices along an axis (0 = K, 1 = J, 2 = I): that at an index, or all that hold something."""


def read_slice(text: str) -> SliceChoice:
    """Read "k:12" or "k"."""
    match = re.fullmatch(r"([kji])(?::(\d+))?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a slice. Give an axis k, j or i and an index: k:12")
    return AXES.index(match[1]), None if match[2] is None else int(match[2])


def read_axis(text: str) -> int:
    """Read "k", "j" or "i" as 0, 1 or 2."""
    name = text.strip().lower()
    if len(name) != 1 or name not in AXES:
        raise argparse.ArgumentTypeError(f"{text!r} is not an axis. Give k, j or i")
    return AXES.index(name)


def read_range(text: str) -> tuple[int, int]:
    """Read "20-90", both included, as (20, 91)."""
    match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of slices. Give the first and the last: 20-90")
    return int(match[1]), int(match[2]) + 1


Window = tuple[float, float]
"""Intensities shown as black and white, the first below the second."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def read_window(text: str) -> Window:
    """Read "-160,240" or "40/400", centre and width, as (-160, 240)."""
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([,/])\s*({_NUMBER})\s*", text)
    low, high = (0.0, 0.0) if match is None else (float(match[1]), float(match[3]))
    if match is not None and match[2] == "/":
        low, high = low - high / 2, low + high / 2
    if not low < high or not math.isfinite(high - low):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a window. Give the intensities shown as black and white, LOW HIGH with LOW below HIGH, "
            "or CENTER/WIDTH: -160 240 or 40/400"
        )
    return low, high


def with_joined_windows(arguments: Iterable[str]) -> list[str]:
    """Make one word of "--window LOW HIGH"; for the parser, a negative number could be the name of an option."""
    joined: list[str] = []
    numbers = 0
    for word in arguments:
        is_number = re.fullmatch(_NUMBER, word) is not None
        if numbers == 2 or (numbers == 1 and is_number):
            joined[-1] += ("=" if numbers == 2 else ",") + word
            numbers = numbers - 1 if is_number else 0
        else:
            joined.append(word)
            numbers = 2 if word == "--window" else 0
    return joined


# Arguments that mean the same in several commands.

Image = Annotated[Path, Argument("IMAGE", ".nrrd, .nii.gz, .mha, .png, .jpg, .tif, ... or a DICOM folder")]
Output = Annotated[Path, Argument("-o, --output OUT", ".seg.nrrd, .nrrd, .nii.gz, .mha, .png (2D), .dcm (of DICOM)")]
Series = Annotated[
    str | None,
    Argument("--series NUMBER", "which DICOM series of a folder: its number or UID (see: scribblesegment info FOLDER)"),
]
DisplayWindow = Annotated[
    Window | None,
    Argument(
        "--window LOW HIGH",
        "intensities shown as black and white, or CENTER/WIDTH: --window -160 240, --window 40/400. Default: a robust "
        "range of the whole image",
        read=read_window,
    ),
]
Model = Annotated[str, Argument("--weights, --model NAME", "name (see: scribblesegment info) or file of a network")]
Threshold = Annotated[
    float, Argument("--threshold P", "probability from which a pixel belongs to a label (default 0.5)")
]
Device = Annotated[str, Argument("--device DEVICE", "auto, cpu, cuda, mps (default auto)")]
