"""The command `scribblesegment`: which commands there are, and its exit codes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from scribblesegment import ScribbleSegmentError, __version__
from scribblesegment.cli.options import INTERRUPTED, OK, REFUSED, UNEXPECTED, Parser, with_joined_windows

# Each is a function of its own name in a module of its own name, which is imported when it is asked for.
_COMMANDS = {
    "segment": "segment an image",
    "propagate": "segment the rest of a volume from a few slices",
    "batch": "segment all images of a folder as those of a context set",
    "refine": "correct what any network says about an image",
    "weights": "list, download, import and remove networks",
    "info": "tell what is installed, or what an image is",
}


def main(argv: Sequence[str] | None = None, *, load: Callable[..., Any] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.
        load: Loads the network in place of the command's own function.

    Returns:
        The exit code: 0 done, 2 bad input, 1 out of memory, 3 corrections not followed, 130 interrupted. Wrong use
        raises SystemExit(2). An unexpected exception is not caught: Python shows it and exits with 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a segment's name must not end the program on an old console
    arguments = sys.argv[1:] if argv is None else argv
    command, options = _parse(arguments)
    if load is not None:
        options["load"] = load
    try:
        code = command(**options) or OK
        print(end="", flush=True)  # here, where it can be said that nobody reads
        return code
    except BrokenPipeError:  # as of "| head", which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more at its end
        return UNEXPECTED
    except ScribbleSegmentError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print("error: this needs PyTorch, which is missing: pip install 'scribblesegment[torch]'", file=sys.stderr)
        return REFUSED
    except MemoryError:
        print("error: not enough memory for this image. Crop or resample it, or close other programs.", file=sys.stderr)
        return UNEXPECTED
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED


def _parse(arguments: Sequence[str]) -> tuple[Callable[..., int | None], dict[str, Any]]:
    """Find the command and the values of its parameters; imports no other command."""
    parser = Parser(
        prog="scribblesegment", description="Segmentation of medical images from scribbles, clicks and boxes."
    )
    parser.add_argument("--version", action="version", version=f"scribblesegment {__version__}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(_COMMANDS)}}}")
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    commands = {}
    for name, summary in _COMMANDS.items():
        subparser = parsers.add_parser(name, help=summary)
        if name == chosen:
            commands[name] = getattr(import_module(f"scribblesegment.cli.{name}"), name)
            subparser.add_command(commands[name])
    options = vars(parser.parse_args(with_joined_windows(arguments)))
    return commands[options.pop("command")], options
