"""Classical methods with their obvious settings, which docs/evaluation.md compares: `--methods FILE.py:FUNCTION`."""

from __future__ import annotations

from functools import partial

from studies.methods import ClassicalMethod, grabcut, random_walker


def random_walker_beta_90() -> ClassicalMethod:
    """Make the random walker with the beta of Grady's paper."""
    return ClassicalMethod(partial(random_walker, beta=90))


def grabcut_probably_object() -> ClassicalMethod:
    """Make GrabCut that takes unmarked pixels for probable object."""
    return ClassicalMethod(partial(grabcut, unmarked_is_object=True))
