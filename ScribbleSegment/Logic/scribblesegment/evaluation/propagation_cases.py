"""Structures of volumes that are propagated, and which of their slices are annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.baselines import Mask

_IMAGE, _LABEL = "_image.nii.gz", "_label.nii.gz"


@dataclass(frozen=True)
class PropagationPlan:
    """What is propagated.

    Attributes:
        least_slices: Structures with fewer slices along an axis are left out there.
        least_area: So are those whose usual slice (the median) is smaller, in pixels.
        beyond: So many slices beyond each end are looked at as well: nothing should be segmented there.
        anisotropy: A volume whose largest spacing is more than this many times its smallest is cut along that axis
            only, as it was acquired; others are cut along all three.
        per_volume: Most structures of a volume, the largest ones; None for all.
        one_axis: Whether only the first of the axes is used.
        annotated: Where annotated slices lie in the extent, from 0 at its first slice to 1 at its last; by default at
            the first quarter, the middle and the last quarter.

    Raises:
        ConfigError: If a number is out of range.
    """

    least_slices: int = 8
    least_area: int = 16
    beyond: int = 2
    anisotropy: float = 1.5
    per_volume: int | None = None
    one_axis: bool = False
    annotated: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.least_slices < 4 or self.least_area < 1 or self.beyond < 0 or self.anisotropy < 1:
            raise ConfigError(
                f"least_slices is at least 4, least_area and anisotropy at least 1 and beyond at least 0; got {self}."
            )
        if self.per_volume is not None and self.per_volume < 1:
            raise ConfigError(f"per_volume is {self.per_volume}; give at least 1.")
        if not self.annotated or not all(0 <= place <= 1 for place in self.annotated):
            raise ConfigError(f"Annotated slices lie in the extent, from 0 to 1; got {self.annotated}.")

    def axes(self, volume: Volume) -> tuple[int, ...]:
        """Give the axes along which a volume is cut."""
        spacing = volume.spacing_kji_mm
        if max(spacing) > self.anisotropy * min(spacing):
            return (int(np.argmax(spacing)),)
        return (0,) if self.one_axis else (0, 1, 2)


@dataclass(frozen=True, eq=False)
class Case:
    """One structure along one axis.

    Attributes:
        set_name: Name of the volume's folder.
        volume_name: Name of the volume.
        structure: Number of the label.
        axis: Axis of the array.
        slices: bool (slices, H, W), the reference.
    """

    set_name: str
    volume_name: str
    structure: int
    axis: int
    slices: NDArray[np.bool_]

    @property
    def extent(self) -> tuple[int, int]:
        """Half-open range from the first slice that shows the structure to the last one."""
        shown = np.flatnonzero(self.slices.any(axis=(1, 2)))
        return int(shown[0]), int(shown[-1]) + 1

    def annotated(self, places: Sequence[float]) -> dict[int, Mask]:
        """Give the slices at `places` of the extent; where one would not show the structure, the nearest that does."""
        shown = np.flatnonzero(self.slices.any(axis=(1, 2)))
        wanted = [shown[0] + place * (shown[-1] - shown[0]) for place in places]
        indices = sorted({int(shown[np.argmin(np.abs(shown - place))]) for place in wanted})
        return {index: self.slices[index] for index in indices}

    def measured(self, beyond: int) -> range:
        """The slices that are looked at: the extent, and some beyond each end."""
        start, stop = self.extent
        return range(max(start - beyond, 0), min(stop + beyond, len(self.slices)))


def find_volumes(folder: str | Path) -> list[Path]:
    """List the volumes of a folder, `<set>/<name>_image.nii.gz` with `<name>_label.nii.gz` beside it.

    Raises:
        DatasetError: If there are none, or one has no labels.
    """
    paths = sorted(Path(folder).glob(f"*/*{_IMAGE}"))
    if not paths:
        raise DatasetError(f"There are no volumes (*/*{_IMAGE}) in {folder}. Give the folder that holds their folders.")
    for path in paths:
        if not _label_path(path).is_file():
            raise DatasetError(f"{path} has no label volume {_label_path(path).name} beside it.")
    return paths


def read_cases(path: Path, plan: PropagationPlan) -> tuple[Volume, list[Case], dict[str, str]]:
    """Read a volume with its structures.

    Args:
        path: Of `find_volumes`.
        plan: Which structures are wanted.

    Returns:
        The volume, its structures along their axes, and by structure and axis why others were left out.

    Raises:
        DatasetError: If image and labels are not of the same shape.
        FileFormatError: If one of them cannot be read.
    """
    from scribblesegment.io import read_labelmap, read_volume

    volume, labels = read_volume(path), read_labelmap(_label_path(path)).array
    if labels.shape != volume.shape:
        raise DatasetError(f"{path} has the shape {volume.shape} and its labels have {labels.shape}. Resample them.")
    name = path.name.removesuffix(_IMAGE)
    counts = np.bincount(labels.ravel())
    structures = sorted((np.flatnonzero(counts[1:]) + 1).tolist(), key=lambda label: -counts[label])
    cases: list[Case] = []
    left_out: dict[str, str] = {}
    for label in sorted(structures[: plan.per_volume]):
        for axis in plan.axes(volume):
            mask = np.moveaxis(labels == label, axis, 0)
            areas = mask.sum(axis=(1, 2))
            shown, usual = int((areas > 0).sum()), float(np.median(areas[areas > 0]))
            if shown < plan.least_slices or usual < plan.least_area:
                left_out[f"{path.parent.name}/{name}/{label} along {'kji'[axis]}"] = (
                    f"{shown} slices of usually {usual:g} pixels; at least {plan.least_slices} of {plan.least_area} "
                    "are needed"
                )
            else:
                cases.append(Case(path.parent.name, name, label, axis, mask))
    return volume, cases, left_out


def _label_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_IMAGE) + _LABEL)
