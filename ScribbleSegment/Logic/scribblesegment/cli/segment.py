"""`scribblesegment segment`: read, predict each label in each slice, write.

The volume is read once and let go before the network is loaded and before the label map of the result is made, so a
large CT costs little more memory than its own voxels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from scribblesegment.cli.files import (
    check_outputs,
    intensities_of,
    listed_slices,
    load_predictor,
    named_segments,
    progress_bar,
    read_image,
    without_voxels,
    write_result,
)
from scribblesegment.cli.labelled_prompts import LabelledPrompts, Mark, SlicePrompts, Strokes, read_box, read_click
from scribblesegment.cli.options import (
    Argument,
    Device,
    DisplayWindow,
    Image,
    Model,
    Output,
    Series,
    SliceChoice,
    Threshold,
    read_slice,
)
from scribblesegment.cli.pictures import MAX_PANELS, SliceDisplay, draw_overlay, write_picture
from scribblesegment.data.masks import keep_touched, logits_to_mask, probability_to_logit, resolve_labels
from scribblesegment.data.volume import LabelVolume, Segment, SliceImage
from scribblesegment.errors import PromptError

if TYPE_CHECKING:
    from scribblesegment.data.preprocessing import IntensityRange
    from scribblesegment.inference.predictor import Predictor

_PROMPTS = "prompts, at least one"
# Slices that make up less than this part of the volume are copied, so that the volume can be let go.
_SMALL_PART = 1 / 8


def segment(
    image: Image,
    *,
    output: Output,
    scribbles: Annotated[
        Path | None, Argument("--scribbles LABELMAP", "strokes painted as labels on the image's grid", group=_PROMPTS)
    ] = None,
    clicks: Annotated[
        tuple[Mark, ...],
        Argument(
            "--click K,J,I,SIGN",
            "a click; may be given again. SIGN is + (object) or - (background), with several labels followed by the "
            "label: +2 is object 2 and so background for the others, -2 is not object 2, - alone is no object at all",
            read=read_click,
            group=_PROMPTS,
        ),
    ] = (),
    boxes: Annotated[
        tuple[Mark, ...],
        Argument(
            "--box K0,J0,I0,K1,J1,I1",
            "a box around an object, from the first voxel inside to one past the last; may be given again. With "
            "several labels add the label: ...,+2. A box across several slices segments each of them",
            read=read_box,
            group=_PROMPTS,
        ),
    ] = (),
    background: Annotated[
        str | None,
        Argument(
            "--background LABEL",
            "number or segment name of strokes that mark background only; it is not segmented",
            group=_PROMPTS,
        ),
    ] = None,
    slices: Annotated[
        SliceChoice | None,
        Argument(
            "--slice AXIS[:INDEX]",
            "k:12 segments that slice only, j all slices along j with strokes. Default: all along k, or along j or i "
            "where the strokes lie in one slice of that axis only",
            read=read_slice,
        ),
    ] = None,
    overlay: Annotated[Path | None, Argument("--overlay PNG", "also draw a picture of the result")] = None,
    series: Series = None,
    window: DisplayWindow = None,
    model: Model = "default",
    threshold: Threshold = 0.5,
    all_pieces: Annotated[
        bool, Argument("--all-pieces", "also keep pieces of a label on which nothing of it was drawn")
    ] = False,
    device: Device = "auto",
    load: Callable[..., Any] = load_predictor,
) -> None:
    """Segment slices of an image from strokes, clicks and boxes.

    Strokes are a label map on the image's grid, painted for instance in 3D Slicer: label 1 marks the first object,
    label 2 the second, and so on. What marks one label is background for all others. Every slice with strokes is
    segmented by itself; the result has the image's grid, the labels' numbers and, in .seg.nrrd, their names and
    colours.

    Voxels are counted from 0 along the array's axes: k is the slice, j the row, i the column. An image of one slice may
    leave k out.

    Examples:
      scribblesegment segment ct.nii.gz --scribbles strokes.seg.nrrd -o organs.seg.nrrd --overlay organs.png
      scribblesegment segment ct.nii.gz --click 40,120,96,+ --click 40,60,30,- -o liver.nii.gz
      scribblesegment segment mri_folder --click 12,80,90,+1 --click 12,80,140,+2 -o two.seg.nrrd
      scribblesegment segment photo.png --box 20,30,90,120 -o mask.png
    """
    from scribblesegment.io import read_labelmap

    # Before any work, what could not be finished.
    if scribbles is None and not clicks and not boxes:
        raise PromptError("Nothing marks the object. Give --scribbles, --click or --box.")
    if scribbles is None and background is not None:
        raise PromptError("--background names a label of the scribbles. Give --scribbles, or use negative clicks.")
    probability_to_logit(threshold)
    check_outputs(output, overlay, (image, scribbles))

    known: tuple[Segment, ...] = ()
    volume = read_image(image, output, series)
    strokes = Strokes(volume.shape)
    if scribbles is not None:
        painted = read_labelmap(scribbles, grid=volume)
        strokes, known = Strokes.of(painted), painted.segments
        del painted
        if not len(strokes.labels):
            raise PromptError(f"{scribbles} holds no stroke. Paint at least one pixel of the object.")
    drawn = LabelledPrompts(strokes, (*clicks, *boxes), None if background is None else _label_of(background, known))
    axis, indices = drawn.find_slices(slices)
    if unused := drawn.unused_slices(axis, indices):
        why = "" if slices is not None and slices[1] is not None else ", which mark background only"
        print(f"not used: prompts in {listed_slices(axis, unused)}{why}")
    prompts = [drawn.in_slice(axis, index) for index in indices]
    segments = named_segments(sorted({label for piece in prompts for label in piece.labels}), known)
    images = [volume.slice(axis, index) for index in indices]
    if sum(piece.image.nbytes for piece in images) < _SMALL_PART * volume.array.nbytes:
        images = [dataclasses.replace(piece, image=np.array(piece.image)) for piece in images]
    intensity_range, grid = intensities_of(volume, window), without_voxels(volume)
    del volume

    predictor = load(model, device=device)
    results = predict_slices(predictor, images, prompts, intensity_range, threshold, all_pieces=all_pieces)
    picture = None
    if overlay is not None:
        picture = draw_overlay(images, results, prompts, grid, intensity_range, segments)
    images.clear()  # the last hold on the volume, where the slices are no copies
    labels = np.zeros(grid.shape, np.min_scalar_type(segments[-1].label))
    for index, result in zip(indices, results, strict=True):
        np.moveaxis(labels, axis, 0)[index] = result
    write_result(output, LabelVolume(labels, grid.ijk_to_ras, tuple(segments)), image, series)
    print(f"segmented {listed_slices(axis, indices)} ({SliceDisplay.radiological(grid.ijk_to_ras, axis).plane})")
    for entry in segments:
        count = sum(int(np.count_nonzero(result == entry.label)) for result in results)
        print(f"  {entry.label}  {entry.name}: {count} pixels" + ("" if count else ", nothing found"))
    print(f"wrote {output}")
    if overlay is not None and picture is not None:
        write_picture(overlay, picture)
        some = f" ({MAX_PANELS} of the {len(results)} slices)" if len(results) > MAX_PANELS else ""
        print(f"wrote {overlay}{some}")


def _label_of(wanted: str, known: Sequence[Segment]) -> int:
    """The label that a segment's name or a number means."""
    matching = [segment.label for segment in known if segment.name == wanted]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise PromptError(f"Several segments are named {wanted!r}, of labels {matching}. Give the label's number.")
    if wanted.isdecimal():
        return int(wanted)
    names = ", ".join(repr(segment.name) for segment in known) or "none"
    raise PromptError(f"No segment of the scribbles is named {wanted!r}; there are {names}. Or give a label's number.")


def predict_slices(
    predictor: Predictor,
    images: Sequence[SliceImage],
    prompts: Sequence[SlicePrompts],
    intensity_range: IntensityRange,
    threshold: float,
    *,
    all_pieces: bool,
) -> list[NDArray[Any]]:
    """Predict every label in every slice; returns label maps (H, W) with the labels' own numbers."""
    results = []
    with progress_bar(sum(len(piece.labels) for piece in prompts), "segmenting", "label") as bar:
        for piece, drawn in zip(images, prompts, strict=True):
            predictor.set_image(piece.image, spacing_mm=piece.spacing_mm, intensity_range=intensity_range)
            logits = []
            for label in drawn.labels:
                given = drawn.prompts(label)
                found = predictor.predict(given).logits
                if not all_pieces:  # before labels compete for pixels
                    kept = keep_touched(logits_to_mask(found, threshold), given.positive_pixels())
                    found = np.where(kept, found, -np.inf)
                logits.append(found)
                bar.update()
            numbers = np.array([0, *drawn.labels], np.min_scalar_type(drawn.labels[-1]))
            results.append(numbers[resolve_labels(np.stack(logits), threshold)])
    return results
