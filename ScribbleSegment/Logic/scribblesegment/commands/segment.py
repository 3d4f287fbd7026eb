"""The job behind `scribblesegment segment`: read, predict each label in each slice, write.

The volume is read once and let go before the network is loaded and before the label map of the result is made, so a
large CT costs little more memory than its own voxels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scribblesegment.commands.job_files import (
    check_format_holds,
    check_labelmap_target,
    check_picture_target,
    check_same_grid,
    listed_slices,
    show_download,
)
from scribblesegment.commands.labelled_prompts import (
    LabelBox,
    LabelClick,
    LabelledPrompts,
    SliceChoice,
    SlicePrompts,
    Strokes,
)
from scribblesegment.commands.slice_display import SliceDisplay
from scribblesegment.commands.terminal_bar import terminal_bar
from scribblesegment.data.masks import keep_touched, logits_to_mask, probability_to_logit, resolve_labels
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import LabelVolume, Segment, SliceImage, Volume
from scribblesegment.errors import PromptError
from scribblesegment.io import read_labelmap, read_volume, write_labelmap
from scribblesegment.io.segmentation import default_segment

if TYPE_CHECKING:
    from scribblesegment.inference.predictor import Predictor

# Slices that make up less than this part of the volume are copied, so that the volume can be let go.
_SMALL_PART = 1 / 8


class LoadPredictor(Protocol):
    """What loads a network: `scribblesegment.load_predictor`, or a stand-in for it."""

    def __call__(self, name: str, *, device: str, progress: Callable[[float, str], None]) -> Predictor:
        """Load the network `name` on `device`, telling `progress` of a download."""


@dataclass(frozen=True)
class SegmentRequest:
    """What the user asked for.

    Attributes:
        image: File or DICOM folder to segment.
        output: Label map or segmentation to write, in the format of its extension.
        scribbles: Label map of strokes on the image's grid.
        clicks: Clicks, in voxels.
        boxes: Boxes, in voxels.
        background: Label number, or name of a segment, whose strokes mark background only.
        slices: Which slices; None finds them from the prompts.
        overlay: PNG picture to write.
        model: Name or path of the network.
        threshold: Probability in (0, 1) from which a pixel belongs to a label.
        device: "auto" or a torch device name.
        all_pieces: Whether a label also keeps pieces on which nothing of it was drawn.
    """

    image: Path
    output: Path
    scribbles: Path | None = None
    clicks: tuple[LabelClick, ...] = ()
    boxes: tuple[LabelBox, ...] = ()
    background: str | None = None
    slices: SliceChoice | None = None
    overlay: Path | None = None
    model: str = "default"
    threshold: float = 0.5
    device: str = "auto"
    all_pieces: bool = False


@dataclass
class _Case:
    """What is left of image and prompts once the volume is let go."""

    shape: tuple[int, int, int]
    ijk_to_ras: NDArray[np.float64]
    slices: list[SliceImage]
    prompts: list[SlicePrompts]
    segments: tuple[Segment, ...]
    intensity_range: IntensityRange


def segment(request: SegmentRequest, *, load: LoadPredictor, say: Callable[[str], None]) -> None:
    """Segment slices of an image and write the result.

    Args:
        request: What to do.
        load: Loads the network.
        say: Told, line by line, what was done.

    Raises:
        ScribbleSegmentError: Whatever is wrong with files, prompts or network; the output is then not touched.
    """
    _check_request(request)
    case = _read(request, say)
    predictor = load(request.model, device=request.device, progress=show_download)
    results = _predict(predictor, case, request.threshold, all_pieces=request.all_pieces)
    picture = None
    if request.overlay is not None:
        from scribblesegment.commands.overlay import draw_overlay

        picture = draw_overlay(
            case.slices,
            results,
            case.prompts,
            shape=case.shape,
            ijk_to_ras=case.ijk_to_ras,
            intensity_range=case.intensity_range,
            segments=case.segments,
        )
    case.slices.clear()  # the last hold on the volume, where the slices are no copies
    _write(request.output, case, results)
    _tell(case, results, say)
    say(f"wrote {request.output}")
    if picture is not None and request.overlay is not None:
        from scribblesegment.commands.overlay import MAX_PANELS, write_picture

        write_picture(request.overlay, picture)
        some = f" ({MAX_PANELS} of the {len(results)} slices)" if len(results) > MAX_PANELS else ""
        say(f"wrote {request.overlay}{some}")


def _check_request(request: SegmentRequest) -> None:
    """Refuse, before any work, what could not be finished."""
    if request.scribbles is None and not request.clicks and not request.boxes:
        raise PromptError("Nothing marks the object. Give --scribbles, --click or --box.")
    if request.scribbles is None and request.background is not None:
        raise PromptError("--background names a label of the scribbles. Give --scribbles, or use negative clicks.")
    probability_to_logit(request.threshold)
    sources = (request.image, request.scribbles)
    check_labelmap_target(request.output, sources)
    check_picture_target(request.overlay, request.output, sources)


def _read(request: SegmentRequest, say: Callable[[str], None]) -> _Case:
    painted = None if request.scribbles is None else _read_strokes(request.scribbles)
    volume = read_volume(request.image)
    check_format_holds(request.output, volume)
    names: tuple[Segment, ...] = ()
    strokes = Strokes.none(volume.shape)
    if painted is not None and request.scribbles is not None:
        strokes, grid, names = painted
        check_same_grid(request.scribbles, grid, request.image, volume, what="strokes")
        if not len(strokes.positions):
            raise PromptError(f"{request.scribbles} holds no stroke. Paint at least one pixel of the object.")
    background = None if request.background is None else _background_label(request.background, names)
    prompts = LabelledPrompts(strokes, request.clicks, request.boxes, background)
    axis, indices = prompts.find_slices(request.slices)
    unused = prompts.unused_slices(axis, indices)
    if unused:
        chosen = request.slices is not None and request.slices.index is not None
        say(f"not used: prompts in {listed_slices(axis, unused)}" + ("" if chosen else ", which mark background only"))
    slices = [volume.slice(axis, index) for index in indices]
    if sum(piece.image.nbytes for piece in slices) < _SMALL_PART * volume.array.nbytes:
        slices = [dataclasses.replace(piece, image=np.array(piece.image)) for piece in slices]
    in_slices = [prompts.in_slice(axis, index) for index in indices]
    named = {segment.label: segment for segment in names}
    labels = sorted({label for piece in in_slices for label in piece.labels})
    return _Case(
        volume.shape,
        volume.ijk_to_ras,
        slices,
        in_slices,
        tuple(named.get(label) or default_segment(label) for label in labels),
        IntensityRange.estimate(volume.array),
    )


def _read_strokes(path: Path) -> tuple[Strokes, Volume, tuple[Segment, ...]]:
    """Read strokes, their grid as a volume that takes no memory, and the names of the labels."""
    labelmap = read_labelmap(path)
    grid = Volume(np.broadcast_to(np.zeros((), np.uint8), labelmap.shape), labelmap.ijk_to_ras)
    return Strokes.of(labelmap), grid, labelmap.segments


def _background_label(wanted: str, names: Sequence[Segment]) -> int:
    matching = [segment.label for segment in names if segment.name == wanted]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise PromptError(f"Several segments are named {wanted!r}, of labels {matching}. Give the label's number.")
    if wanted.isdecimal():
        return int(wanted)
    known = ", ".join(repr(segment.name) for segment in names) or "none"
    raise PromptError(f"No segment of the scribbles is named {wanted!r}; there are {known}. Or give a label's number.")


def _predict(predictor: Predictor, case: _Case, threshold: float, *, all_pieces: bool) -> list[NDArray[Any]]:
    """Predict every label in every slice; returns label maps (H, W) with the labels' own numbers."""
    largest = case.segments[-1].label
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(t).max)
    results: list[NDArray[Any]] = []
    total = sum(len(prompts.labels) for prompts in case.prompts)
    with terminal_bar(total, "segmenting", "label") as bar:
        for piece, prompts in zip(case.slices, case.prompts, strict=True):
            predictor.set_image(piece.image, spacing_mm=piece.spacing_mm, intensity_range=case.intensity_range)
            logits = []
            for label in prompts.labels:
                given = prompts.prompts(label)
                found = predictor.predict(given).logits
                logits.append(found if all_pieces else _touched(found, given, threshold))
                bar.update()
            numbers = np.array([0, *prompts.labels], dtype)
            results.append(numbers[resolve_labels(np.stack(logits), threshold)])
    return results


def _touched(logits: NDArray[np.float32], prompts: Prompts, threshold: float) -> NDArray[np.float32]:
    """Take the pieces away on which nothing positive was drawn, before labels compete for pixels."""
    kept = keep_touched(logits_to_mask(logits, threshold), prompts.positive_pixels())
    return np.where(kept, logits, -np.inf)


def _write(path: Path, case: _Case, results: Sequence[NDArray[Any]]) -> None:
    labels = np.zeros(case.shape, results[0].dtype)
    for prompts, result in zip(case.prompts, results, strict=True):
        np.moveaxis(labels, prompts.axis, 0)[prompts.index] = result
    write_labelmap(path, LabelVolume(labels, case.ijk_to_ras, case.segments))


def _tell(case: _Case, results: Sequence[NDArray[Any]], say: Callable[[str], None]) -> None:
    axis = case.prompts[0].axis
    plane = SliceDisplay.radiological(case.ijk_to_ras, axis).plane
    say(f"segmented {listed_slices(axis, [prompts.index for prompts in case.prompts])} ({plane})")
    for entry in case.segments:
        count = sum(int(np.count_nonzero(result == entry.label)) for result in results)
        say(f"  {entry.label}  {entry.name}: {count} pixels" + ("" if count else ", nothing found"))
