"""The progress bar of commands that take a while."""

from __future__ import annotations

from typing import Any

# Seconds of work after which it appears, if somebody is watching.
_PATIENCE_S = 1.0


def terminal_bar(total: int, doing: str, unit: str) -> Any:
    """Make a progress bar that is shown on a terminal only, and only if the work takes a while.

    Args:
        total: Number of steps.
        doing: What is done.
        unit: What a step is called.

    Returns:
        A `tqdm` bar, for a `with` statement; it is gone afterwards.
    """
    from tqdm import tqdm

    # disable=None: silent unless standard error is a terminal.
    return tqdm(total=total, desc=doing, unit=unit, delay=_PATIENCE_S, disable=None, leave=False)
