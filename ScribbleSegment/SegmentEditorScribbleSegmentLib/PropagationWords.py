"""What became of a propagation, in the user's words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from slicer.i18n import tr as _

from scribblesegment.mrml.propagation_report import PropagationReport, SegmentReport


def reportInWords(report: PropagationReport) -> str:
    """Say how much was done, how sure it is, why it ended, and what to look at next."""
    if report.undone:
        return _("The propagation ended because what it built on was taken back or changed.")
    parts = [_("Cancelled; what was done is kept, and Propagate goes on from there.")] if report.cancelled else []
    done = _("{count} slices propagated").format(count=report.made)
    if report.slices_per_second > 0:
        done += ", " + _("{speed} per second").format(speed=f"{report.slices_per_second:.1f}")
    if report.mean_confidence is not None:
        done += ", " + _("mean confidence {percent} %").format(percent=round(100 * report.mean_confidence))
    parts.append(done + ".")
    several = len(report.segments) > 1
    for segment in report.segments:
        ends = _endsInWords(segment)
        if ends:
            parts.append(f"{segment.name}: {ends}" if several else ends)
    best = report.worth_correcting
    if best is not None:
        place = _("slice {index}").format(index=best.next_slice)
        parts.append(_("Worth correcting next: {place}.").format(place=f"{place} ({best.name})" if several else place))
    elif not report.cancelled and report.mean_confidence is not None:
        parts.append(_("All slices are certain."))
    return " ".join(parts)


def goToInWords(report: PropagationReport) -> str:
    """Name the slice whose correction would help most."""
    segment = report.worth_correcting
    if segment is None:
        return _("Go to slice")
    text = _("Go to slice {index}").format(index=segment.next_slice)
    return f"{text} ({segment.name})" if len(report.segments) > 1 else text


def certaintyInWords(index: int, confidence: float, name: str) -> str:
    """One of the slices that are not certain; `name` is empty if there is only one segment."""
    text = _("Slice {index}: {percent} %").format(index=index, percent=round(100 * confidence))
    return f"{text} ({name})" if name else text


def acceptedInWords(indices: Sequence[int]) -> str:
    """List the accepted slices of the shown direction."""
    if not indices:
        return _("No slice is accepted in this direction yet.")
    return _("Accepted slices: {slices}").format(slices=listed(indices))


def listed(indices: Iterable[int]) -> str:
    """Ascending whole numbers, neighbours drawn together: 3, 5–9."""
    runs = []
    for _distance, run in groupby(enumerate(indices), key=lambda one: one[1] - one[0]):
        members = [index for _place, index in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}")
    return ", ".join(runs)


def _endsInWords(segment: SegmentReport) -> str:
    reasons = {
        "ENDED": _("the structure ends"),
        "UNCERTAIN": _("too uncertain to go on"),
        "ABSENT": _("the next accepted slice is without the structure"),
        "RANGE": _("end of the range"),
        "CANCELLED": _("cancelled"),
    }
    return " ".join(
        _("Slice {index}: {reason}.").format(index=end.index, reason=reasons.get(end.reason.name, end.reason.value))
        for end in sorted(segment.ends, key=lambda end: end.index)
    )
