"""The command `scribblesegment`: its arguments and its exit codes. The work is done by `scribblesegment.commands`."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from scribblesegment import ScribbleSegmentError, __version__
from scribblesegment.commands.labelled_prompts import AXES, LabelBox, LabelClick, SliceChoice

OK, UNEXPECTED, REFUSED, NOT_FOLLOWED, INTERRUPTED = 0, 1, 2, 3, 130

_EXIT_CODES = """\
exit codes:
  0    done
  2    wrong use or bad input: one line "error: ..." says what and why; files are written whole or not at all
  1    unexpected: out of memory, or a defect of the program
  3    refine --strict: the result was written and does not follow every correction
  130  interrupted (Ctrl-C)
"""

_SEGMENT = """\
Segment slices of an image from strokes, clicks and boxes.

Strokes are a label map on the image's grid, painted for instance in 3D Slicer: label 1 marks the first object, label 2
the second, and so on. What marks one label is background for all others. Every slice with strokes is segmented by
itself; the result has the image's grid, the labels' numbers and, in .seg.nrrd, their names and colours.

Voxels are counted from 0 along the array's axes: k is the slice, j the row, i the column. An image of one slice may
leave k out.
"""

_EXAMPLES = """\
examples:
  scribblesegment segment ct.nii.gz --scribbles strokes.seg.nrrd -o organs.seg.nrrd --overlay organs.png
  scribblesegment segment ct.nii.gz --click 40,120,96,+ --click 40,60,30,- -o liver.nii.gz
  scribblesegment segment mri_folder --click 12,80,90,+1 --click 12,80,140,+2 -o two.seg.nrrd
  scribblesegment segment photo.png --box 20,30,90,120 -o mask.png

"""

_PROPAGATE = """\
Segment the rest of a volume from a few annotated slices.

The annotation is a label map or segmentation on the image's grid in which some slices along one axis are segmented, one
segment or several. From there slices are segmented outward in both directions until the structure ends. Annotated
slices stay as they are; names and colours of segments are kept. What is done when Ctrl-C is pressed is written.
"""

_PROPAGATE_EXAMPLES = """\
examples:
  scribblesegment propagate ct.nii.gz --annotated few.seg.nrrd -o all.seg.nrrd
  scribblesegment propagate mri_folder --annotated few.seg.nrrd -o all.seg.nrrd --axis i --range 20-90
  scribblesegment propagate ct.nii.gz --annotated few.seg.nrrd -o all.seg.nrrd --context Liver

"""

_SIGN = re.compile(r"([+-])(\d+)?")


class _Parser(argparse.ArgumentParser):
    """Reports wrong use in one line, like every other error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None, *, load: Callable[..., Any] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.
        load: Loads the network; `scribblesegment.load_predictor` by default.

    Returns:
        The exit code: 0 done, 2 bad input, 1 out of memory, 3 corrections not followed, 130 interrupted. Wrong use
        raises SystemExit(2). An unexpected exception is not caught: Python shows it and exits with 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a segment's name must not end the program on an old console
    options = _parser().parse_args(argv)
    try:
        if options.command == "info":
            from scribblesegment.commands.info import info

            info(options.image, print)
        elif options.command == "propagate":
            _propagate(options, load)
        elif options.command == "batch":
            _batch(options, load)
        elif options.command == "refine":
            return _refine(options, load)
        else:
            _segment(options, load)
    except ScribbleSegmentError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except MemoryError:
        print("error: not enough memory for this image. Crop or resample it, or close other programs.", file=sys.stderr)
        return UNEXPECTED
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    return OK


def _segment(options: argparse.Namespace, load: Callable[..., Any] | None) -> None:
    from scribblesegment.commands.segment import SegmentRequest, segment

    segment(SegmentRequest(**_fields(options)), load=load or _load_predictor(), say=print)


def _propagate(options: argparse.Namespace, load: Callable[..., Any] | None) -> None:
    from scribblesegment.commands.propagate import PropagateRequest, propagate

    propagate(PropagateRequest(**_fields(options)), load=load or _load_predictor(), say=print)


def _batch(options: argparse.Namespace, load: Callable[..., Any] | None) -> None:
    from scribblesegment.batch.network import load_for_batch
    from scribblesegment.commands.batch import BatchRequest, batch

    batch(BatchRequest(**_fields(options)), load=load or load_for_batch, say=print)


def _refine(options: argparse.Namespace, load: Callable[..., Any] | None) -> int:
    from scribblesegment.commands.refine import RefineRequest, ask_on_terminal, refine
    from scribblesegment.refinement.adapters import load_network

    request = RefineRequest(**_fields(options))

    def warn(line: str) -> None:
        print(line, file=sys.stderr)

    def trusted(reason: str) -> bool:
        warn(f"note: {reason}")
        return True

    somebody_there = sys.stdin.isatty() and sys.stderr.isatty()
    confirm = trusted if request.trust else ask_on_terminal if somebody_there else None
    followed = refine(request, load=load or load_network, say=print, warn=warn, confirm=confirm)
    return OK if followed or not request.strict else NOT_FOLLOWED


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name != "command"}


def _load_predictor() -> Callable[..., Any]:
    from scribblesegment.inference.predictor import load_predictor

    return load_predictor


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="scribblesegment",
        description="Segmentation of medical images from scribbles, clicks and boxes.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"scribblesegment {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{segment,propagate,batch,refine,info}")
    _add_segment(commands)
    _add_propagate(commands)
    _add_batch(commands)
    _add_refine(commands)
    about = commands.add_parser(
        "info",
        help="tell what is installed, or what an image is",
        description="Without IMAGE: version, models and their licences, torch, and the device that is used.",
        epilog=_EXIT_CODES,
    )
    about.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="tell shape, spacing, orientation instead")
    return parser


def _add_segment(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "segment",
        help="segment an image",
        description=_SEGMENT,
        epilog=_EXAMPLES + _EXIT_CODES,
    )
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE", help=".nrrd, .nii.gz, .mha, .png, .jpg, .tif, ... or a DICOM folder")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help=".seg.nrrd, .nrrd, .nii.gz, .mha, .png (2D)")
    marks = parser.add_argument_group("prompts, at least one")
    mark = marks.add_argument
    mark("--scribbles", type=Path, metavar="LABELMAP", help="strokes painted as labels on the image's grid")
    mark(
        "--click",
        dest="clicks",
        type=parse_click,
        action=_Collected,
        default=(),
        metavar="K,J,I,SIGN",
        help="a click; may be given again. SIGN is + (object) or - (background), with several labels followed by the "
        "label: +2 is object 2 and so background for the others, -2 is not object 2, - alone is no object at all",
    )
    mark(
        "--box",
        dest="boxes",
        type=parse_box,
        action=_Collected,
        default=(),
        metavar="K0,J0,I0,K1,J1,I1",
        help="a box around an object, from the first voxel inside to one past the last; may be given again. With "
        "several labels add the label: ...,+2. A box across several slices segments each of them",
    )
    mark(
        "--background",
        metavar="LABEL",
        help="number or segment name of strokes that mark background only; it is not segmented",
    )
    add(
        "--slice",
        dest="slices",
        type=parse_slice,
        metavar="AXIS[:INDEX]",
        help="k:12 segments that slice only, j all slices along j with strokes. Default: all along k, or along j or i "
        "where the strokes lie in one slice of that axis only",
    )
    add("--overlay", type=Path, metavar="PNG", help="also draw a picture of the result")
    add("--model", default="default", metavar="NAME", help="name (see: scribblesegment info) or file of a network")
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability from which a pixel belongs to a label (default 0.5)",
    )
    add("--all-pieces", action="store_true", help="also keep pieces of a label on which nothing of it was drawn")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")


def _add_propagate(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        "propagate",
        help="segment the rest of a volume from a few slices",
        description=_PROPAGATE,
        epilog=_PROPAGATE_EXAMPLES + _EXIT_CODES,
    )
    add = parser.add_argument
    add("image", type=Path, metavar="VOLUME", help=".nrrd, .nii.gz, .mha, ... or a DICOM folder")
    add("--annotated", type=Path, required=True, metavar="SEG", help="segmentation of some slices, on the same grid")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help=".seg.nrrd, .nrrd, .nii.gz, .mha")
    add(
        "--axis",
        type=parse_axis,
        metavar="AXIS",
        help="k, j or i: axis the annotated slices lie along. Default: the one along which few slices have labels",
    )
    add(
        "--range",
        dest="index_range",
        type=parse_range,
        metavar="FIRST-LAST",
        help="segment only these slices, both included: 20-90",
    )
    add(
        "--complete",
        action="store_true",
        help="every annotated slice shows all segments: where one is missing it is absent, and ends there",
    )
    add(
        "--context",
        dest="contexts",
        action=_Collected,
        default=(),
        metavar="FILE_OR_TASK",
        help="segmented images from elsewhere: a context set's file or folder, or the name of a task; may be given "
        "again, each set for the segment of its name",
    )
    add(
        "--weights",
        "--model",
        dest="model",
        default="default",
        metavar="NAME",
        help="name (see: scribblesegment info) or file of a network",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability from which a pixel belongs to a segment (default 0.5)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")


def _add_batch(commands: argparse._SubParsersAction[_Parser]) -> None:
    from scribblesegment.commands import batch_arguments

    parser = commands.add_parser(
        "batch",
        help="segment all images of a folder as those of a context set",
        description=batch_arguments.DESCRIPTION,
        epilog=batch_arguments.EXAMPLES + _EXIT_CODES,
    )
    batch_arguments.add_batch_arguments(parser, parse_axis=parse_axis)


def _add_refine(commands: argparse._SubParsersAction[_Parser]) -> None:
    from scribblesegment.commands import refine_arguments

    parser = commands.add_parser(
        "refine",
        help="correct what any network says about an image",
        description=refine_arguments.DESCRIPTION,
        epilog=refine_arguments.EXAMPLES + _EXIT_CODES,
    )
    refine_arguments.add_refine_arguments(parser, parse_slice=parse_slice)


class _Collected(argparse.Action):
    """Appends to a tuple, so that the default cannot be changed by accident."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: object, option: object = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))


def parse_click(text: str) -> LabelClick:
    """Read "k,j,i,+", "j,i,-", "k,j,i,+2".

    Raises:
        argparse.ArgumentTypeError: Something else.
    """
    *numbers, sign = (part.strip() for part in text.split(","))
    index, label = _integers(numbers), _SIGN.fullmatch(sign)
    if index is None or label is None or len(index) not in (2, 3):
        raise argparse.ArgumentTypeError(f"{text!r} is no click. Give k,j,i,+ or k,j,i,- (or j,i,+ for one slice)")
    return LabelClick(index, label[1] == "+", _label(label[2], text))


def parse_box(text: str) -> LabelBox:
    """Read "k0,j0,i0,k1,j1,i1" or "j0,i0,j1,i1", with or without ",+2".

    Raises:
        argparse.ArgumentTypeError: Something else.
    """
    parts = [part.strip() for part in text.split(",")]
    label = _SIGN.fullmatch(parts[-1]) if len(parts) % 2 else None
    corners = _integers(parts[:-1] if label else parts)
    if corners is None or len(corners) not in (4, 6) or (label and (label[1] == "-" or not label[2])):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no box. Give k0,j0,i0,k1,j1,i1 (or j0,i0,j1,i1 for one slice), and ,+2 for label 2"
        )
    half = len(corners) // 2
    return LabelBox(corners[:half], corners[half:], _label(label[2], text) if label else None)


def parse_slice(text: str) -> SliceChoice:
    """Read "k:12" or "k".

    Raises:
        argparse.ArgumentTypeError: Something else.
    """
    match = re.fullmatch(r"([kji])(?::(\d+))?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no slice. Give an axis k, j or i and an index: k:12")
    return SliceChoice(AXES.index(match[1]), None if match[2] is None else int(match[2]))


def parse_axis(text: str) -> int:
    """Read "k", "j" or "i" as 0, 1 or 2.

    Raises:
        argparse.ArgumentTypeError: Something else.
    """
    name = text.strip().lower()
    if len(name) != 1 or name not in AXES:
        raise argparse.ArgumentTypeError(f"{text!r} is no axis. Give k, j or i")
    return AXES.index(name)


def parse_range(text: str) -> tuple[int, int]:
    """Read "20-90", both included, as (20, 91).

    Raises:
        argparse.ArgumentTypeError: Something else.
    """
    match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of slices. Give the first and the last: 20-90")
    return int(match[1]), int(match[2]) + 1


def _integers(parts: Sequence[str]) -> tuple[int, ...] | None:
    return tuple(map(int, parts)) if all(re.fullmatch(r"-?\d+", part) for part in parts) else None


def _label(digits: str | None, text: str) -> int | None:
    if digits is not None and int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} names label {digits}; labels are numbered from 1")
    return None if digits is None else int(digits)


if __name__ == "__main__":
    sys.exit(main())
