"""Pictures of corrections: image, truth, what the network said, and what it said after some interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.errors import ConfigError, require_package
from scribblesegment.evaluation.correction_shifts import NONE
from scribblesegment.evaluation.correction_study import Job, Round, Study
from scribblesegment.evaluation.correction_user import Labels
from scribblesegment.io.storage import atomic_file
from scribblesegment.simulation.fields import FloatArray
from scribblesegment.simulation.regions import BoolArray, bounding_slices

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXAMPLE = "refinement_example_{task}.png"

# Okabe and Ito's palette for the labels from 1 on; strokes of the background are white.
_COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00")
_BACKGROUND = "#FFFFFF"
_INK, _FILL, _STROKE = "#1a1a1a", 0.45, 1.0
_PANEL_INCHES, _TOP_INCHES, _BOTTOM_INCHES, _DPI = 1.9, 0.3, 0.35, 100
_MARGIN = 16  # pixels of the image around the structures


@dataclass(frozen=True, eq=False)
class Frame:
    """One panel.

    Attributes:
        title: Above it.
        labels: (H, W), shown over the image; None for the image alone.
        strokes: (H, W), -1 where nothing was drawn; None for none.
        note: In its corner.
    """

    title: str
    labels: Labels | None = None
    strokes: Labels | None = None
    note: str = ""


def write_frames(path: str | Path, image: FloatArray, frames: Sequence[Frame], names: Sequence[str]) -> None:
    """Draw panels of one image side by side, cut to what the frames show.

    Args:
        path: The PNG file to write, whole or not at all.
        image: (H, W) in [0, 1].
        frames: At least one.
        names: Of all labels, the background first.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        ConfigError: If there is no frame, or there are more labels than colours.
        FileFormatError: If the file cannot be written.
    """
    require_package(
        "matplotlib",
        purpose="The picture of corrections",
        remedy='It is drawn by matplotlib. Install it with: pip install "scribblesegment[evaluation]".',
    )
    if not frames or len(names) > 1 + len(_COLORS):
        raise ConfigError(f"{len(frames)} frames of {len(names)} labels; at least one frame and at most 7 labels.")
    # Without pyplot, which would choose a window system and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    box = _shown(image, frames)
    height, width = image[box].shape
    panel = (_PANEL_INCHES, _PANEL_INCHES * height / width)
    size = (panel[0] * len(frames), panel[1] + _TOP_INCHES + _BOTTOM_INCHES)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(frames), squeeze=False)[0]
    figure.subplots_adjust(
        left=0.003, right=0.997, top=1 - _TOP_INCHES / size[1], bottom=_BOTTOM_INCHES / size[1], wspace=0.02
    )
    for area, frame in zip(axes, frames, strict=True):
        _draw(area, image, frame, box, len(names))
    handles = [Patch(color=color, label=name) for name, color in zip(names[1:], _COLORS, strict=False)]
    if any(frame.strokes is not None and (frame.strokes == 0).any() for frame in frames):
        handles.append(Patch(facecolor=_BACKGROUND, edgecolor=_INK, label="stroke of the background"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, labelcolor=_INK)
    with atomic_file(path, ".png") as temporary:
        figure.savefig(temporary, dpi=_DPI, facecolor="white")


def correction_frames(truth: Labels, rounds: Sequence[Round], interactions: Sequence[int]) -> list[Frame]:
    """Give the frames of one correction: image, truth, network, and after some interactions with the strokes so far."""
    frames = [Frame("image"), Frame("truth", truth)]
    for number in (0, *interactions):
        entry = rounds[number]
        title = "network" if number == 0 else f"after {number} interaction{'s' if number > 1 else ''}"
        frames.append(Frame(title, entry.labels, entry.scribbles.labels, f"Dice {entry.result.dice:.2f}"))
    return frames


def write_examples(folder: Path, study: Study, jobs: Sequence[Job]) -> list[Path]:
    """Draw one correction of every task: of the refinement, on the first shifted image.

    Returns:
        The files.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        FileFormatError: If a file cannot be written.
    """
    written = []
    for task in dict.fromkeys(job.task.name for job in jobs):
        own = [job for job in jobs if job.task.name == task and job.variant.kind == "refinement"]
        if not own:
            continue
        job = next((job for job in own if job.shift.name != NONE), own[0])
        rounds = list(study.rounds(job))
        last = len(rounds) - 1
        interactions = sorted({1, (last + 1) // 2, last} - {0})
        path = folder / EXAMPLE.format(task=task)
        frames = correction_frames(job.image.labels, rounds, interactions)
        write_frames(path, study.shown_image(job), frames, job.task.labels)
        written.append(path)
    return written


def _shown(image: FloatArray, frames: Sequence[Frame]) -> tuple[slice, slice]:
    """Cut to the box of what is labelled or marked, with a margin."""
    region: BoolArray = np.zeros(image.shape, dtype=bool)
    for frame in frames:
        if frame.labels is not None:
            region |= frame.labels > 0
        if frame.strokes is not None:
            region |= frame.strokes >= 0
    if not region.any():
        return slice(0, image.shape[0]), slice(0, image.shape[1])
    box = bounding_slices(region)
    return tuple(  # type: ignore[return-value]
        slice(max(part.start - _MARGIN, 0), min(part.stop + _MARGIN, side))
        for part, side in zip(box, image.shape, strict=True)
    )


def _draw(area: Axes, image: FloatArray, frame: Frame, box: tuple[slice, slice], count: int) -> None:
    area.imshow(image[box], cmap="gray", vmin=0, vmax=max(float(image.max()), 1e-3), interpolation="bilinear")
    area.set_xticks([])
    area.set_yticks([])
    area.spines[:].set_visible(False)
    area.set_title(frame.title, fontsize=9, color=_INK, pad=3)
    if frame.labels is not None:
        for label in range(1, count):
            area.imshow(_tinted(frame.labels[box] == label, _COLORS[label - 1], _FILL), interpolation="nearest")
    if frame.strokes is not None and (frame.strokes >= 0).any():
        strokes = frame.strokes[box]
        drawn = strokes >= 0
        # A dark rim, so that strokes stand out on their own colour.
        rim = ndimage.binary_dilation(drawn, iterations=1) & ~drawn
        area.imshow(_tinted(rim, _INK, _STROKE), interpolation="nearest")
        for label in range(count):
            color = _BACKGROUND if label == 0 else _COLORS[label - 1]
            area.imshow(_tinted(strokes == label, color, _STROKE), interpolation="nearest")
    if frame.note:
        area.text(
            0.03,
            0.97,
            frame.note,
            transform=area.transAxes,
            va="top",
            fontsize=8,
            color="white",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "black", "alpha": 0.65, "linewidth": 0},
        )


def _tinted(mask: BoolArray, color: str, opacity: float) -> NDArray[np.float32]:
    from matplotlib.colors import to_rgb

    picture = np.zeros((*mask.shape, 4), dtype=np.float32)
    picture[mask] = (*to_rgb(color), opacity)
    return picture
