"""The sentences of the section *Correct a network's result*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from scribblesegment.mrml.corrections import LabelKind, LabelMapping, Violation

if TYPE_CHECKING:
    from scribblesegment import CorrectionResult


def formatMapping(row: LabelMapping) -> str:
    """What a painted segment stands for."""
    if row.kind is LabelKind.IGNORED:
        return _("ignored: the network has no label of this name")
    if row.kind is LabelKind.EMPTY:
        return _("a new label, once something is painted")
    if row.kind is LabelKind.NEW_LABEL:
        return _("new label {label}").format(label=row.label)
    text = _("background") if row.label == 0 else _("label {label}").format(label=row.label)
    return _("{text}; nothing painted").format(text=text) if row.is_empty else text


def formatG(g: float) -> str:
    """A value of g with as many digits as mean something."""
    return f"{g:.3g}"


def formatIteration(number: int, most: int, g: float) -> str:
    """How far the constraints are from being met, while they are worked on."""
    return _("Iteration {number} of at most {most}: g = {g}").format(number=number, most=most, g=formatG(g))


def formatOutcome(result: CorrectionResult) -> str:
    """How a refinement ended."""
    last = formatG(result.g_history[-1]) if result.g_history else "?"
    parts = {
        "satisfied": _("All corrections hold after {iterations} iterations (g = 0)."),
        "iterations": _("Stopped after {iterations} iterations, the most allowed, at g = {g}."),
        "stalled": _("Stopped after {iterations} iterations at g = {g}, which did not get smaller any more."),
        "not finite": _("Stopped after {iterations} iterations: the numbers became too large to go on."),
    }
    text = parts.get(result.stopped, _("Stopped after {iterations} iterations at g = {g}.")).format(
        iterations=result.iterations, g=last
    )
    left = sum(result.violation_counts.values())
    if left:
        text += " " + _(
            "Marked voxels that do not have their label: {count}; the list below shows where. Paint more there, or "
            "allow more iterations or layers under 'Advanced'."
        ).format(count=left)
    return " ".join([text, _("It took {seconds} s.").format(seconds=f"{result.seconds:.1f}"), *result.notes])


def formatViolation(violation: Violation, names: Sequence[str]) -> str:
    """One label that is not there everywhere it was painted."""
    name = names[violation.label] if violation.label < len(names) else str(violation.label)
    return _("{name}: marked voxels with another label: {count}").format(name=name, count=violation.count)


def formatNothingPainted(index: int, others: Sequence[int]) -> str:
    """Why a slice cannot be refined."""
    text = _("Nothing is painted on slice {index}.").format(index=index)
    if others:
        text += " " + _("There are corrections on {slices}: go to one of them.").format(
            slices=", ".join(str(other) for other in others[:20])
        )
    return text


def formatNetwork(network: Any) -> str:
    """Labels and licence of a `NetworkAdapter`."""
    labels = _("Labels: {labels}.").format(labels=", ".join(network.labels[1:]))
    return labels + (" " + _("Licence: {licence}.").format(licence=network.licence) if network.licence else "")
