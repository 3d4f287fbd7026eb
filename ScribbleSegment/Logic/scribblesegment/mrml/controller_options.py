"""The user's options for predicting slices."""

from __future__ import annotations

from dataclasses import dataclass, field

from scribblesegment.clean_up import CleanUp


@dataclass(frozen=True)
class ControllerOptions:
    """What the user set in the effect's options.

    Attributes:
        automatic: Write a result as soon as it is there; otherwise it becomes a preview until `accept`.
        protect_visible: Other visible segments are never overwritten.
        learn_from_others: Other visible segments tell the network where the object is not.
        clean_up: From logits to mask.
    """

    automatic: bool = True
    protect_visible: bool = True
    learn_from_others: bool = False
    clean_up: CleanUp = field(default_factory=CleanUp)
