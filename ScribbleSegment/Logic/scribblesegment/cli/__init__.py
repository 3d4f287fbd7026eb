"""The command line: `scribblesegment segment`, `propagate`, `batch`, `refine`, `weights` and `info`."""

from scribblesegment.cli.main import main

__all__ = ["main"]
