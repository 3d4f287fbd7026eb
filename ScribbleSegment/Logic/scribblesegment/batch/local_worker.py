"""What Dask runs at the start of each worker on this computer (a preload module of `distributed`)."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the program that started the worker and will end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
