"""Looks for finished predictions while there are any to come, and never otherwise."""

from __future__ import annotations

from collections.abc import Callable

import qt

# Slicer's idle event loop keeps Python's global lock, so that the thread that predicts would stand still. Each tick
# therefore waits on it, without the lock; the window stays responsive between ticks.
_WAIT_SECONDS = 0.006
_INTERVAL_MS = 2


class ResultTimer:
    """A timer that runs as long as its slot says so."""

    def __init__(self, inference, onTick: Callable[[], bool]) -> None:
        """Make a timer that stands still.

        Args:
            inference: What is waited for.
            onTick: Called on the main thread after each wait; returns whether to go on.
        """
        self._inference = inference
        self._onTick = onTick
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.timeout.connect(self.tick)

    @property
    def running(self) -> bool:
        """Whether results are looked for."""
        return bool(self._timer.isActive())

    def start(self) -> None:
        """Look for results until there are none to come."""
        if not self._timer.isActive():
            self._timer.start()

    def stop(self) -> None:
        """Look no more, whatever is to come."""
        self._timer.stop()

    def tick(self, seconds: float = _WAIT_SECONDS) -> None:
        """Look for results once.

        Args:
            seconds: How long to wait for one.
        """
        self._inference.wait(seconds)
        if not self._onTick():
            self._timer.stop()
