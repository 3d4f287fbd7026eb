"""Regions a simulated user draws in: what scribbles, clicks and boxes all check and need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scribblesegment.errors import ConfigError, PromptError

BoolArray = NDArray[np.bool_]


def require_mask(mask: BoolArray, name: str) -> None:
    """Refuse what is not one slice's mask.

    Integers are refused and not converted: `~` and indexing mean something else for them, silently.

    Raises:
        PromptError: If `mask` is not a bool array (H, W); the message calls it `name`.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.bool_:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise PromptError(
            f"The {name} has shape {np.shape(mask)} and type {kind}; give a two-dimensional bool array, "
            "for example `labels == 1`."
        )


def require_region(region: BoolArray, *, count: int = 1) -> None:
    """Refuse what nothing can be drawn in.

    Raises:
        PromptError: If `region` is not a bool array (H, W), or is empty.
        ConfigError: If `count`, the number of prompts wanted, is below one.
    """
    require_mask(region, "region")
    if not region.any():
        raise PromptError(
            f"The region of shape {region.shape} is empty; a prompt can be simulated only where there are pixels."
        )
    if count < 1:
        raise ConfigError(f"At least one prompt is drawn at a time, got a count of {count}.")


def bounding_slices(region: BoolArray) -> tuple[slice, slice]:
    """Return the rows and columns of the smallest box around a region (H, W) that is not empty."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
