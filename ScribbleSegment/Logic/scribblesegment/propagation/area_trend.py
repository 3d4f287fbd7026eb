"""How a structure's area goes on beyond its outermost accepted slices.

The cross-sections of an ellipsoid have areas that are quadratic in the position; most structures taper off like that.
A network that sees one slice at a time takes a little too much of each, and with its own result as what is expected of
the next one that adds up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# From one slice to the next an area shrinks to no less than this part: beyond the end that the trend leads to expect,
# the image decides.
_LEAST = 0.5


class AreaTrend:
    """A parabola through the areas of accepted slices; a line where it would open upwards or there are only two."""

    def __init__(self, areas: Mapping[int, float]) -> None:
        """Fit it to areas by slice index; empty slices do not count. With one slice there is no trend."""
        shown = {index: area for index, area in areas.items() if area > 0}
        self._coefficients = np.zeros(0)
        if len(shown) >= 2:
            indices, sizes = np.array(list(shown), float), np.array(list(shown.values()), float)
            parabola = np.polyfit(indices, sizes, 2) if len(shown) >= 3 else np.zeros(3)
            self._coefficients = parabola if parabola[0] < 0 else np.polyfit(indices, sizes, 1)

    def ratio(self, known: int, index: int) -> float:
        """Say what part of the area of slice `known` is expected in slice `index`, in [0.5, 1]: nothing grows."""
        if not self._coefficients.size:
            return 1.0
        before, after = np.polyval(self._coefficients, [known, index])
        return _LEAST if before <= 0 else float(np.clip(after / before, _LEAST, 1.0))
