"""The job behind `scribblesegment refine`: read, refine the network for this image, write what it then says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scribblesegment.commands.corrections_file import Corrections, network_corrections
from scribblesegment.commands.job_files import (
    check_format_holds,
    check_labelmap_target,
    check_picture_target,
    check_same_grid,
    listed_slices,
)
from scribblesegment.commands.labelled_prompts import SliceChoice
from scribblesegment.commands.terminal_bar import terminal_bar
from scribblesegment.data.labels import UNMARKED, LabelScribbles
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import ConfigError, PromptError
from scribblesegment.io import read_labelmap, read_volume, write_labelmap
from scribblesegment.io.segmentation import default_segment
from scribblesegment.refinement.lagrangian import RefinementConfig
from scribblesegment.refinement.region_growing import GrowthConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scribblesegment.refinement.adapters.base import NetworkAdapter
    from scribblesegment.refinement.correction import CorrectionResult

_ENDINGS = {
    "satisfied": "every correction is followed",
    "iterations": "no more iterations",
    "stalled": "g did not fall any more",
    "not finite": "the next update had no finite values",
}


class LoadNetwork(Protocol):
    """What loads a network: `scribblesegment.refinement.adapters.load_network`, or a stand-in for it."""

    def __call__(
        self, source: str, *, confirm: Callable[[str], bool] | None, weights: Path | None, fold: str | None
    ) -> NetworkAdapter:
        """Load the network `source`, asking `confirm` before code that comes with it runs."""


@dataclass(frozen=True)
class RefineRequest:
    """What the user asked for.

    Attributes:
        image: File or DICOM folder.
        network: What `load_network` takes.
        corrections: Label map or segmentation on the image's grid.
        output: Label map or segmentation to write, in the format of its extension.
        background: Value of corrections that marks the background.
        new_labels: Values and names of labels to add to the network.
        slices: Axis of the array that a 2D network does not see, and index of the slice alone; None: all along k.
        weights: File of parameters for a network that a function makes.
        fold: Fold of an nnU-Net.
        trust: Whether code that comes with the network may run.
        layers: How many of the last layers are refined; None for the default.
        layer_names: Names of layers or modules to refine instead.
        iterations: Most updates; None for the default.
        learning_rate: Size of an update; None for the default.
        anchor: How much the prediction is held where nothing was corrected; None for the default.
        paper: Whether to add nothing to the paper's algorithm.
        growing: Whether corrections grow into pixels like them.
        threshold: Difference of intensity below which they do; None estimates it.
        reach_mm: Farthest they grow; None for the default.
        plot: PNG picture of g to write.
        strict: Whether corrections that the result does not follow are a failure.
        device: "auto" or a torch device name.
    """

    image: Path
    network: str
    corrections: Path
    output: Path
    background: int = 255
    new_labels: Iterable[tuple[int, str]] = ()
    slices: SliceChoice | None = None
    weights: Path | None = None
    fold: str | None = None
    trust: bool = False
    layers: int | None = None
    layer_names: Iterable[str] = ()
    iterations: int | None = None
    learning_rate: float | None = None
    anchor: float | None = None
    paper: bool = False
    growing: bool = True
    threshold: float | None = None
    reach_mm: float | None = None
    plot: Path | None = None
    strict: bool = False
    device: str = "auto"


def refine(
    request: RefineRequest,
    *,
    load: LoadNetwork,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    confirm: Callable[[str], bool] | None = None,
) -> bool:
    """Refine a network for an image and write what it then says.

    Args:
        request: What to do.
        load: Loads the network.
        say: Told, line by line, what was done.
        warn: Told, line by line, what the user should know.
        confirm: Asked, with the reason, whether code that comes with the network may run; None is a no.

    Returns:
        Whether the result follows every correction.

    Raises:
        ScribbleSegmentError: Whatever is wrong with files, corrections or network; the output is then not touched.
    """
    from scribblesegment.refinement.correction import Correction

    config, grow, new_labels = _config(request), _growth(request), _new_labels(request)
    _check_targets(request)
    painted = read_labelmap(request.corrections)
    volume = read_volume(request.image)
    check_format_holds(request.output, volume)
    check_same_grid(request.corrections, painted, request.image, volume, what="corrections")
    network = load(request.network, confirm=confirm, weights=request.weights, fold=request.fold)
    say(f"network {network.name}: {', '.join(f'{index} {name}' for index, name in enumerate(network.labels))}")
    wanted = network_corrections(
        painted, request.corrections, network.labels, background=request.background, new_labels=new_labels
    )
    names = dict(enumerate(network.labels)) | dict(wanted.new_names)
    axis, index = (request.slices.axis, request.slices.index) if request.slices else (0, None)
    scribbles = _in_slice(wanted, volume, axis, index, say)
    say(f"corrections: {_counted({label: int(scribbles.mask(label).sum()) for label in scribbles.values()}, names)}")
    correction = Correction(network, volume, axis=axis, index=index, device=request.device, config=config)
    with _progress(config.iterations) as on_iteration:
        result = correction.refine(scribbles, names=wanted.new_names, grow=grow, on_iteration=on_iteration)
    _write(request.output, result, volume, axis, index, wanted)
    _tell(result, scribbles.count, names, say, warn)
    say(f"wrote {request.output}")
    if request.plot is not None:
        from scribblesegment.commands.loss_curve import draw_loss_curve
        from scribblesegment.commands.overlay import write_picture

        write_picture(request.plot, draw_loss_curve(result.g_history))
        say(f"wrote {request.plot}")
    return result.satisfied


def ask_on_terminal(reason: str) -> bool:
    """Show why foreign code would run, and ask the person at the terminal."""
    print(f"{reason} Run it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _config(request: RefineRequest) -> RefinementConfig:
    if request.layers is not None and request.layer_names:
        raise ConfigError("--layers counts layers and --layer names them. Give one of the two.")
    changes: dict[str, Any] = {
        "layers": tuple(request.layer_names) or request.layers,
        "iterations": request.iterations,
        "learning_rate": request.learning_rate,
        "anchor": request.anchor,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return RefinementConfig.paper(**given) if request.paper else RefinementConfig(**given)


def _growth(request: RefineRequest) -> GrowthConfig | None:
    if not request.growing:
        if request.threshold is not None or request.reach_mm is not None:
            raise ConfigError("--threshold and --reach say how corrections grow; with --no-growing they do not.")
        return None
    return GrowthConfig(request.threshold, request.reach_mm)


def _new_labels(request: RefineRequest) -> dict[int, str]:
    named: dict[int, str] = {}
    for value, name in request.new_labels:
        if value in named:
            raise PromptError(f"--new-label names {value} twice, {named[value]!r} and {name!r}. Give it one name.")
        named[value] = name
    return named


def _check_targets(request: RefineRequest) -> None:
    """Refuse, before any work, what could not be written."""
    sources = (request.image, request.corrections, request.weights, Path(request.network))
    check_labelmap_target(request.output, sources)
    check_picture_target(request.plot, request.output, sources)


def _in_slice(
    wanted: Corrections, volume: Volume, axis: int, index: int | None, say: Callable[[str], None]
) -> LabelScribbles:
    """Give the corrections of the image, or of the slice that is corrected alone."""
    if index is None:
        return LabelScribbles.from_labels(wanted.labels)
    volume.slice(axis, index)  # refuses a slice that is not there
    planes = np.moveaxis(wanted.labels, axis, 0)
    held = np.flatnonzero((planes != UNMARKED).any(axis=(1, 2))).tolist()
    if index not in held:
        raise PromptError(
            f"{listed_slices(axis, [index])} holds no correction; corrections are in {listed_slices(axis, held)}."
        )
    if len(held) > 1:
        say(f"not used: corrections in {listed_slices(axis, [other for other in held if other != index])}")
    return LabelScribbles.from_labels(planes[index])


@contextmanager
def _progress(iterations: int) -> Iterator[Callable[[int, float], None]]:
    with terminal_bar(iterations, "refining", "update") as bar:

        def show(iteration: int, g: float) -> None:
            bar.set_postfix_str(f"g {g:.3g}", refresh=False)
            bar.update(iteration - bar.n)

        yield show


def _write(
    path: Path, result: CorrectionResult, volume: Volume, axis: int, index: int | None, wanted: Corrections
) -> None:
    labels = result.labels
    if index is not None:
        labels = np.zeros(volume.shape, np.int16)
        np.moveaxis(labels, axis, 0)[index] = result.labels
    segments = tuple(
        Segment(label, name, wanted.colors.get(label, default_segment(label).color_rgb))
        for label, name in enumerate(result.names)
        if label
    )
    write_labelmap(path, LabelVolume(labels.astype(np.uint16), volume.ijk_to_ras, segments))


def _tell(
    result: CorrectionResult,
    drawn: int,
    names: Mapping[int, str],
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    if result.grown:
        say(f"region growing added {result.grown} pixels to {drawn}")
    updates = f"{result.iterations} update{'' if result.iterations == 1 else 's'}"
    say(
        f"g from {result.g_history[0]:.3g} to {result.g_history[-1]:.3g} with {updates} in {result.seconds:.1f} s: "
        f"{_ENDINGS.get(result.stopped, result.stopped)}"
    )
    for label, name in enumerate(result.names):
        if label:
            say(f"  {label}  {name}: {int(np.count_nonzero(result.labels == label))} pixels")
    for note in result.notes:
        warn(f"note: {note}")
    if not result.satisfied:
        left = sum(result.violation_counts.values())
        warn(
            f"warning: {left} of {drawn} painted pixels do not have the label that was painted: "
            f"{_counted(result.violation_counts, names)}"
        )


def _counted(counts: Mapping[int, int], names: Mapping[int, str]) -> str:
    return ", ".join(f"{label} {names[label]} {count}" for label, count in counts.items())
