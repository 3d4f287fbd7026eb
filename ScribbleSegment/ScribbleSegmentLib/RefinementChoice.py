"""What the form of *Correct a network's result* and what it does tell each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scribblesegment.exceptions import MissingPackageError
from scribblesegment.mrml.correction_scribbles import Violation

from .RefinementTalk import TalkState
from .RefinementWork import RefinementOptions


@dataclass(frozen=True)
class RefinementChoice:
    """What the user has chosen.

    Attributes:
        source: Of the network.
        volumeNode: vtkMRMLScalarVolumeNode or None.
        resultNode: vtkMRMLSegmentationNode or None.
        wantsSlice: Whether only the shown slice is worked on.
        sliceNode: vtkMRMLSliceNode that gives slice and direction, or None.
        device: "auto" or a torch device name.
        options: What is set under *Advanced*.
    """

    source: str
    volumeNode: Any
    resultNode: Any
    wantsSlice: bool
    sliceNode: Any
    device: str
    options: RefinementOptions


@dataclass(frozen=True, eq=False)
class RefinementView:
    """Where it is shown what happens.

    Attributes:
        say: Tells the user something; with `problem=True` that something is wrong.
        showTalk: Shows how far a computation is.
        showRunning: Shows whether there is one.
        showResult: Shows the segmentation that a result was written to.
        showViolations: Lists what a result does not follow, with the names of all labels.
        showNetwork: Shows what is known of the network.
        ask: Asks whether code that comes with a network may run; given the reason.
        offerPackage: Offers to install what a network's format needs.
    """

    say: Callable[..., None]
    showTalk: Callable[[TalkState], None]
    showRunning: Callable[[bool], None]
    showResult: Callable[[Any], None]
    showViolations: Callable[[tuple[Violation, ...], tuple[str, ...]], None]
    showNetwork: Callable[[str], None]
    ask: Callable[[str], bool]
    offerPackage: Callable[[MissingPackageError], None]
