"""The features in front of the refined layers, window by window, kept as far as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from scribblesegment.refinement.split_network import Features


class FeatureCache:
    """Computes features when they are first asked for, and keeps them up to a size.

    Windows with scribbles are asked for in every iteration, the others once a round: where not all fit, the former
    stay.
    """

    def __init__(self, compute: Callable[[int], Features], limit_bytes: int) -> None:
        """Take the function that computes a window's features, and the most that may be kept."""
        self._compute = compute
        self._limit = limit_bytes
        self._held: dict[int, Features] = {}
        self._preferred: frozenset[int] = frozenset()

    @property
    def nbytes(self) -> int:
        """Size of what is kept."""
        return sum(map(_size, self._held.values()))

    def prefer(self, windows: Iterable[int]) -> None:
        """Name the windows that others give way to."""
        self._preferred = frozenset(windows)

    def get(self, window: int) -> Features:
        """Give a window's features."""
        if window in self._held:
            return self._held[window]
        features = self._compute(window)
        excess = self.nbytes + _size(features) - self._limit
        if excess > 0 and window in self._preferred:
            for other in [held for held in self._held if held not in self._preferred]:
                if excess <= 0:
                    break
                excess -= _size(self._held.pop(other))
        if excess <= 0:
            self._held[window] = features
        return features


def _size(features: Features) -> int:
    return sum(tensor.nbytes for tensor in features)
