"""What goes to the inference thread to propagate accepted slices through a volume, and how its slices come back."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment.context import ContextSet
from scribblesegment.exceptions import ScribbleSegmentError

if TYPE_CHECKING:
    from scribblesegment.propagation import PropagatedSlice, Propagation

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SegmentToPropagate:
    """One segment of a request.

    Attributes:
        slices: bool (H, W), the accepted masks by slice index; an empty one says that the structure is absent there.
        name: What the structure is called.
        context: Segmented images of the same structure; not used by networks that take none.
        previous: An earlier result in the same volume, of which everything is kept that a change of the accepted
            slices cannot reach. If nothing would be left to do for any segment, all is propagated anew.
    """

    slices: Mapping[int, Mask]
    name: str = ""
    context: ContextSet | None = None
    previous: Propagation | None = None


@dataclass(frozen=True, eq=False)
class PropagationRequest:
    """A volume and the segments to carry on through it.

    Attributes:
        array: (K, J, I) intensities; not copied.
        ijk_to_mm: (4, 4), voxel index (i, j, k, 1) to millimetres.
        axis: Axis of the array (0 = K, 1 = J, 2 = I).
        segments: By label, from 1.
        index_range: Half-open range of slices that may be segmented; None for all.
        protected: bool (K, J, I), voxels that are not segmented; None for none.
        source: Name of the volume, as in the entries of context sets.
        threshold: Probability from which a pixel belongs to a structure.
    """

    array: NDArray[Any]
    ijk_to_mm: NDArray[np.float64]
    axis: int
    segments: Mapping[int, SegmentToPropagate]
    index_range: tuple[int, int] | None = None
    protected: Mask | None = None
    source: str = ""
    threshold: float = 0.5


@dataclass(frozen=True)
class PropagationProgress:
    """How far a propagation is.

    Attributes:
        part: Of the slices that are left at most, in [0, 1].
        made: Slices predicted, those of each segment counted.
        slices_per_second: Speed so far; 0 before the first.
    """

    part: float = 0.0
    made: int = 0
    slices_per_second: float = 0.0


class PropagationFeed:
    """Brings slices from the thread that makes them to the one that asked for them.

    Attributes:
        request: What was asked for.
    """

    def __init__(self, request: PropagationRequest) -> None:
        """Make one on which nothing has come yet."""
        self.request = request
        self._lock = threading.Lock()
        self._begun = self._ended = False
        self._cancelled = False
        self._slices: list[PropagatedSlice] = []
        self._progress = PropagationProgress()
        self._result: Mapping[int, Propagation] = {}
        self._error: ScribbleSegmentError | None = None

    # For the one who asked --------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask for an end after the slice that is being made."""
        with self._lock:
            self._cancelled = True

    def take(self) -> list[PropagatedSlice]:
        """Take the slices that came since the last call, oldest first; a slice that came twice is meant the last time.

        Never waits.
        """
        with self._lock:
            slices, self._slices = self._slices, []
            return slices

    @property
    def progress(self) -> PropagationProgress:
        """How far it is."""
        with self._lock:
            return self._progress

    @property
    def begun(self) -> bool:
        """Whether work on it has begun."""
        with self._lock:
            return self._begun

    @property
    def ended(self) -> bool:
        """Whether no more slices will come."""
        with self._lock:
            return self._ended

    @property
    def result(self) -> Mapping[int, Propagation]:
        """What was done, by label; complete once `ended`."""
        with self._lock:
            return self._result

    @property
    def error(self) -> ScribbleSegmentError | None:
        """Why it went no further, or None."""
        with self._lock:
            return self._error

    # For the thread that makes the slices -----------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether an end was asked for."""
        with self._lock:
            return self._cancelled

    def begin(self) -> None:
        """Work begins."""
        with self._lock:
            self._begun = True

    def put(self, made: PropagatedSlice) -> None:
        """Hand over a slice."""
        with self._lock:
            self._slices.append(made)

    def tell(self, progress: PropagationProgress) -> None:
        """Say how far it is, after every slice that was looked at."""
        with self._lock:
            self._progress = progress

    def leave(self, result: Mapping[int, Propagation]) -> None:
        """Note what was done so far."""
        with self._lock:
            self._result = result

    def end(self, error: ScribbleSegmentError | None = None) -> None:
        """No more slices come; the first call counts."""
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error


class VolumeInference(Protocol):
    """Propagates in the background. Its methods are called from one thread."""

    @property
    def busy(self) -> bool:
        """Whether something is computed or waits."""

    def propagate(self, feed: PropagationFeed) -> None:
        """Begin a propagation; it is forgotten if something newer comes before it has begun."""
