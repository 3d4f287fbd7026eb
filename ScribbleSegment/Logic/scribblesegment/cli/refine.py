"""`scribblesegment refine`: read, refine the network for this image, write what it then says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scribblesegment.cli.files import check_outputs, listed_slices, progress_bar, read_image, write_result
from scribblesegment.cli.options import (
    NOT_FOLLOWED,
    OK,
    Argument,
    Device,
    DisplayWindow,
    Image,
    Output,
    Series,
    SliceChoice,
    read_slice,
)
from scribblesegment.data.labels import BACKGROUND, LARGEST_LABEL, UNMARKED, LabelScribbles
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from scribblesegment.refinement.correction import CorrectionResult

_NETWORK, _REFINEMENT = "network", "refinement"
_ENDINGS = {
    "satisfied": "every correction is followed",
    "iterations": "no more iterations",
    "stalled": "g did not fall any more",
    "not finite": "the next update had no finite values",
}


def read_new_label(text: str) -> tuple[int, str]:
    """Read "4=tumour"."""
    value, separator, name = text.partition("=")
    if not (separator and value.strip().isdecimal() and name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a new label. Give the painted value and a name: 4=tumour")
    return int(value), name.strip()


def refine(
    image: Image,
    *,
    network: Annotated[
        str,
        Argument(
            "--network NET",
            "TorchScript or torch.export file, file.py:function, folder of an nnU-Net v2, MONAI bundle, or a name "
            "(see: scribblesegment info)",
        ),
    ],
    corrections: Annotated[Path, Argument("--corrections LABELMAP", "painted labels on the image's grid")],
    output: Output,
    background: Annotated[int, Argument("--background VALUE", "value that marks background (default 255)")] = 255,
    new_labels: Annotated[
        tuple[tuple[int, str], ...],
        Argument(
            "--new-label VALUE=NAME",
            "add a label that the network lacks, painted in this value; may be given again",
            read=read_new_label,
        ),
    ] = (),
    slices: Annotated[
        SliceChoice | None,
        Argument(
            "--slice AXIS[:INDEX]",
            "networks that see slices: k:12 corrects that slice alone, j all slices along j (default: all along k)",
            read=read_slice,
        ),
    ] = None,
    series: Series = None,
    window: DisplayWindow = None,
    weights: Annotated[
        Path | None, Argument("--weights FILE", "parameters for a network that file.py:function makes", group=_NETWORK)
    ] = None,
    fold: Annotated[
        str | None, Argument("--fold NAME", "fold of an nnU-Net (default: the first there is)", group=_NETWORK)
    ] = None,
    trust: Annotated[
        bool, Argument("--trust", "run code that comes with the network without asking", group=_NETWORK)
    ] = False,
    layers: Annotated[
        int | None, Argument("--layers N", "refine the last N layers (default 6)", group=_REFINEMENT)
    ] = None,
    layer_names: Annotated[
        tuple[str, ...],
        Argument("--layer NAME", "refine this layer or module instead; may be given again", group=_REFINEMENT),
    ] = (),
    iterations: Annotated[
        int | None, Argument("--iterations M", "most updates of the network (default 130)", group=_REFINEMENT)
    ] = None,
    learning_rate: Annotated[
        float | None, Argument("--learning-rate RATE", "size of an update", group=_REFINEMENT)
    ] = None,
    anchor: Annotated[
        float | None,
        Argument("--anchor WEIGHT", "hold what was not corrected (default 10; 0: not at all)", group=_REFINEMENT),
    ] = None,
    paper: Annotated[
        bool, Argument("--paper", "algorithm 1 of Sambaturu et al. with nothing added", group=_REFINEMENT)
    ] = False,
    growing: Annotated[bool, Argument("--no-growing", "leave corrections as painted", group=_REFINEMENT)] = True,
    threshold: Annotated[
        float | None,
        Argument(
            "--threshold T",
            "corrections grow to neighbours whose intensity differs by less (default: from the image)",
            group=_REFINEMENT,
        ),
    ] = None,
    reach_mm: Annotated[
        float | None, Argument("--reach MM", "farthest they grow (default: five pixels)", group=_REFINEMENT)
    ] = None,
    plot: Annotated[Path | None, Argument("--plot PNG", "also draw how the constraint loss g fell")] = None,
    strict: Annotated[bool, Argument("--strict", "exit with 3 if the result does not follow every correction")] = False,
    device: Device = "auto",
    load: Callable[..., Any] | None = None,
) -> int:
    r"""Correct what a network says about an image.

    The last layers of the network are refined for this image until they follow what was painted; its file is not
    changed. Corrections are a label map or segmentation on the image's grid: segments named like labels of the network
    mean these, other values are the network's label numbers, 0 marks nothing, and --background marks what is none of
    them.

    Examples:
      scribblesegment refine ct.nii.gz --network Dataset003_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres \
          --corrections fixes.seg.nrrd -o liver.seg.nrrd --plot g.png
      scribblesegment refine mri.nrrd --network spine.pt --corrections fixes.nrrd --slice k:12 -o slice.nrrd
      scribblesegment refine ct.nrrd --network nets.py:organs --trust --corrections fixes.nrrd --new-label 4=tumour \
          -o out.seg.nrrd
    """
    from scribblesegment.io import read_labelmap
    from scribblesegment.refinement.adapters import load_network
    from scribblesegment.refinement.correction import Correction
    from scribblesegment.refinement.lagrangian import RefinementConfig
    from scribblesegment.refinement.region_growing import GrowthConfig

    if layers is not None and layer_names:
        raise ConfigError("--layers counts layers and --layer names them. Give one of the two.")
    wanted = {
        "layers": layer_names or layers,
        "iterations": iterations,
        "learning_rate": learning_rate,
        "anchor": anchor,
    }
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    config = RefinementConfig.paper(**given) if paper else RefinementConfig(**given)
    if not growing and (threshold is not None or reach_mm is not None):
        raise ConfigError("--threshold and --reach say how corrections grow; with --no-growing they do not.")
    growth = GrowthConfig(threshold, reach_mm) if growing else None
    new_names = _names_by_value(new_labels)
    check_outputs(output, plot, (image, corrections, weights, Path(network)))
    volume = read_image(image, output, series)
    painted = read_labelmap(corrections, grid=volume)

    if trust:
        confirm: Callable[[str], bool] | None = _note
    else:
        confirm = ask_on_terminal if sys.stdin.isatty() and sys.stderr.isatty() else None
    settings = {} if window is None else {"normalise": window}
    net = (load or load_network)(network, confirm=confirm, weights=weights, fold=fold, **settings)
    print(f"network {net.name}: {_listed(net.labels)}")
    asked = network_corrections(painted, corrections, net.labels, background=background, new_labels=new_names)
    axis, index = slices or (0, None)
    drawn = asked.labels
    if index is not None:
        volume.slice(axis, index)  # refuses a slice that is not there
        drawn = corrections_in_slice(asked.labels, axis, index)
    scribbles = LabelScribbles.from_labels(drawn)
    names = dict(enumerate(net.labels)) | dict(asked.new_names)
    print(f"corrections: {_counted({label: int(scribbles.mask(label).sum()) for label in scribbles.values()}, names)}")
    correction = Correction(net, volume, axis=axis, index=index, device=device, config=config)
    with progress_bar(config.iterations, "refining", "update") as bar:

        def on_iteration(iteration: int, g: float) -> None:
            bar.set_postfix_str(f"g {g:.3g}", refresh=False)
            bar.update(iteration - bar.n)

        result = correction.refine(scribbles, names=asked.new_names, grow=growth, on_iteration=on_iteration)

    write_result(output, _label_volume(result, volume, axis, index, asked.colors), image, series)
    _report(result, scribbles.count, names)
    print(f"wrote {output}")
    if plot is not None:
        from scribblesegment.cli.pictures import draw_loss_curve, write_picture

        write_picture(plot, draw_loss_curve(result.g_history))
        print(f"wrote {plot}")
    return NOT_FOLLOWED if strict and not result.satisfied else OK


def _names_by_value(new_labels: Sequence[tuple[int, str]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for value, name in new_labels:
        if value in names:
            raise PromptError(f"--new-label names {value} twice, {names[value]!r} and {name!r}. Give it one name.")
        names[value] = name
    return names


def ask_on_terminal(reason: str) -> bool:
    """Show why foreign code would run, and ask the person at the terminal."""
    print(f"{reason} Run it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _note(reason: str) -> bool:
    print(f"note: {reason}", file=sys.stderr)
    return True


class Corrections(NamedTuple):
    """What a file of corrections asks of a network."""

    labels: NDArray[np.int16]  # of the file's shape: the network's labels, new ones after its last; UNMARKED elsewhere
    new_names: Mapping[int, str]  # of the new labels by number
    colors: Mapping[int, tuple[float, float, float]]  # that the file gives to labels, by the network's numbers


def network_corrections(
    painted: LabelVolume, path: Path, known: Sequence[str], *, background: int, new_labels: Mapping[int, str]
) -> Corrections:
    """Turn what was painted into the labels of a network, whose names are `known`, the background's first.

    A segment with the name of one of these, whatever its case, is that label. Every other value is the number of a
    label; `background` is the network's label 0, and 0 marks nothing. `new_labels` are to be added, by painted value.

    Raises:
        PromptError: Nothing is painted, a value is no label of the network and none to add, or a label to add is one of
            the network's or was not painted.
    """
    values = painted.labels_present()
    if not values:
        raise PromptError(f"{path} holds no correction. Paint at least one pixel in the label that it should have.")
    for value, name in new_labels.items():
        if value < len(known):
            raise PromptError(
                f"Label {value} is the network's {known[value]!r} and cannot be added as {name!r}. Paint the new label "
                f"in a value from {len(known)} on."
            )
        if value == background:
            raise PromptError(
                f"{value} marks the background and cannot be the new label {name!r}. Change --background."
            )
        if value not in values:
            raise PromptError(f"The new label {value} ({name}) is not painted anywhere. Paint it, or leave it out.")
    if len(known) + len(new_labels) > LARGEST_LABEL:
        raise PromptError(f"The network would have more than {LARGEST_LABEL} labels.")
    numbered = {value: number for number, value in enumerate(sorted(new_labels), start=len(known))}
    by_name = {name.strip().casefold(): index for index, name in reversed(list(enumerate(known)))}
    segments = {segment.label: segment for segment in painted.segments}
    meant: dict[int, int] = {}
    for value in values:
        named = by_name.get(segments[value].name.strip().casefold()) if value in segments else None
        if value in numbered:
            meant[value] = numbered[value]
        elif value == background:
            meant[value] = BACKGROUND
        elif named is not None or value < len(known):
            meant[value] = value if named is None else named
        else:
            raise PromptError(
                f"{path} asks for label {value}, and the network knows {_listed(known)}. Name it with "
                f"--new-label {value}=NAME to add it, or with --background {value} if it marks the background."
            )
    labels = np.full(painted.shape, UNMARKED, np.int16)
    for value, label in meant.items():
        labels[painted.array == value] = label
    return Corrections(
        labels=labels,
        new_names={number: new_labels[value].strip() for value, number in numbered.items()},
        colors={meant[value]: segments[value].color_rgb for value in values if value in segments},
    )


def corrections_in_slice(labels: NDArray[np.int16], axis: int, index: int) -> NDArray[np.int16]:
    """Cut the corrections of one slice out, and name the slices whose corrections are not used.

    Raises:
        PromptError: The slice holds none.
    """
    planes = np.moveaxis(labels, axis, 0)
    held = np.flatnonzero((planes != UNMARKED).any(axis=(1, 2))).tolist()
    if index not in held:
        raise PromptError(
            f"{listed_slices(axis, [index])} holds no correction; corrections are in {listed_slices(axis, held)}."
        )
    if others := [other for other in held if other != index]:
        print(f"not used: corrections in {listed_slices(axis, others)}")
    return planes[index]


def _label_volume(
    result: CorrectionResult,
    volume: Volume,
    axis: int,
    index: int | None,
    colors: Mapping[int, tuple[float, float, float]],
) -> LabelVolume:
    """Put the labels of an image, or of one slice of it, on the image's grid, under the network's names."""
    from scribblesegment.io import default_segment

    labels = result.labels
    if index is not None:
        labels = np.zeros(volume.shape, np.int16)
        np.moveaxis(labels, axis, 0)[index] = result.labels
    segments = tuple(
        Segment(label, name, colors.get(label) or default_segment(label).color_rgb)
        for label, name in enumerate(result.names)
        if label
    )
    return LabelVolume(labels.astype(np.uint16), volume.ijk_to_ras, segments)


def _report(result: CorrectionResult, drawn: int, names: Mapping[int, str]) -> None:
    if result.grown:
        print(f"region growing added {result.grown} pixels to {drawn}")
    updates = f"{result.iterations} update{'' if result.iterations == 1 else 's'}"
    print(
        f"g from {result.g_history[0]:.3g} to {result.g_history[-1]:.3g} with {updates} in {result.seconds:.1f} s: "
        f"{_ENDINGS.get(result.stopped, result.stopped)}"
    )
    for label, name in enumerate(result.names):
        if label:
            print(f"  {label}  {name}: {int(np.count_nonzero(result.labels == label))} pixels")
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if not result.satisfied:
        print(
            f"warning: {sum(result.violation_counts.values())} of {drawn} painted pixels do not have the label that "
            f"was painted: {_counted(result.violation_counts, names)}",
            file=sys.stderr,
        )


def _listed(known: Sequence[str]) -> str:
    return ", ".join(f"{index} {name}" for index, name in enumerate(known))


def _counted(counts: Mapping[int, int], names: Mapping[int, str]) -> str:
    return ", ".join(f"{label} {names[label]} {count}" for label, count in counts.items())
