"""What commands share: files that are checked before any work, networks, context sets, words for slices, progress."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribblesegment.cli.options import AXES, Window
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import ContextError, FileFormatError, GeometryError, ImageError

if TYPE_CHECKING:
    from scribblesegment.context.context_set import ContextSet
    from scribblesegment.data.preprocessing import IntensityRange
    from scribblesegment.inference.predictor import Predictor

# Formats without a place in the patient: one slice, matched by its size alone.
_FLAT = (".png", ".tif", ".tiff")
_DICOM = ".dcm"
# Formats that cannot hold axes that are not at right angles.
_STRAIGHT = (*_FLAT, ".nii", ".nii.gz")

_MOST_RANGES = 10
_PATIENCE_S = 1.0  # of work after which a progress bar appears, if somebody is watching


def check_outputs(output: Path, picture: Path | None, sources: Iterable[Path | None]) -> None:
    """Refuse, before any work, a label map and a picture that could not be written or would replace what is read.

    Raises:
        FileFormatError: An extension that holds no labels or no picture; a folder; in a missing or protected folder;
            one of the files that are read; both one file.
    """
    from scribblesegment.io import WRITE_EXTENSIONS

    if output.suffix.lower() == _DICOM:
        from scribblesegment.io.dicom_segmentation import require_highdicom

        require_highdicom()
    elif not _extension(output, WRITE_EXTENSIONS):
        known = ", ".join(WRITE_EXTENSIONS)
        raise FileFormatError(
            f"Cannot write {output}: unknown extension. Choose one of {known}, or {_DICOM} for DICOM images."
        )
    if picture is not None and picture.suffix.lower() != ".png":
        raise FileFormatError(f"Cannot write the picture {picture}: its name must end in .png.")
    read = {source.resolve() for source in sources if source is not None}
    for path in (output, picture):
        if path is None:
            continue
        folder = path.resolve().parent
        if path.is_dir():
            raise FileFormatError(f"Cannot write {path}: it is a folder. Add a file name.")
        if not folder.is_dir():
            raise FileFormatError(f"Cannot write {path}: the folder {folder} does not exist. Create it first.")
        if not os.access(folder, os.W_OK):
            raise FileFormatError(f"Cannot write {path}: the folder {folder} is write-protected. Choose another.")
        if path.resolve() in read:
            raise FileFormatError(f"Cannot write {path}: it is the file that is read. Choose another name.")
    if picture is not None and picture.resolve() == output.resolve():
        raise FileFormatError(f"Segmentation and picture would be the same file, {output}. Give them different names.")


def read_image(path: Path, output: Path, series: str | None = None) -> Volume:
    """Read the image that is segmented; of a folder with several DICOM series the one of a number or UID.

    Raises:
        ImageError: It has several slices and the output's format is a picture.
        GeometryError: Its axes are not at right angles, which the output's format cannot say.
        FileFormatError: The image cannot be read.
    """
    from scribblesegment.io import WRITE_EXTENSIONS, read_volume

    if output.suffix.lower() == _DICOM:
        from scribblesegment.io.dicom_segmentation import is_dicom_source

        if path.exists() and not is_dicom_source(path):
            raise FileFormatError(
                f"Cannot write {output}: a DICOM segmentation refers to DICOM images, and {path} is none. Write "
                ".seg.nrrd or .nii.gz."
            )
    volume = read_volume(path, series=series)
    extension = _extension(output, WRITE_EXTENSIONS)
    if extension in _FLAT and volume.shape[0] != 1:
        raise ImageError(f"{extension} holds one slice, the image has {volume.shape[0]}. Write .seg.nrrd or .nii.gz.")
    if extension in _STRAIGHT and volume.is_sheared:
        raise GeometryError(
            f"The image's axes are not at right angles, which {extension} cannot hold. Write .seg.nrrd or .nrrd."
        )
    return volume


def write_result(output: Path, labels: LabelVolume, image: Path, series: str | None) -> None:
    """Write the segmentation of an image in the format of the output's extension."""
    from scribblesegment.io import write_dicom_segmentation, write_labelmap

    if output.suffix.lower() == _DICOM:
        write_dicom_segmentation(output, labels, image, series=series)
    else:
        write_labelmap(output, labels)


def intensities_of(volume: Volume, window: Window | None) -> IntensityRange:
    """The intensities that are mapped to 0 and 1: those of a display window, else a robust range."""
    from scribblesegment.data.preprocessing import IntensityRange

    return IntensityRange.estimate(volume.array) if window is None else IntensityRange(*window)


def without_voxels(volume: Volume) -> Volume:
    """The grid of a volume, which takes no memory."""
    return Volume(np.broadcast_to(np.zeros((), np.uint8), volume.shape), volume.ijk_to_ras)


def named_segments(labels: Iterable[int], known: Iterable[Segment]) -> list[Segment]:
    """Names and colours of labels: those that a file gave, or others."""
    from scribblesegment.io import default_segment

    named = {segment.label: segment for segment in known}
    return [named.get(label) or default_segment(label) for label in labels]


def load_predictor(name: str, *, device: str) -> Predictor:
    """`scribblesegment.load_predictor`, imported when it is needed; a device that is not there is refused."""
    from scribblesegment.inference.devices import resolve_device
    from scribblesegment.inference.predictor import load_predictor as load

    return load(name, device=resolve_device(device))


def open_context(file_or_task: str) -> ContextSet:
    """Read a context set: that of a task of the user, or else a file or folder.

    Raises:
        ContextError: There is neither such a task nor such a file.
        FileFormatError: The file is damaged.
    """
    from scribblesegment.context.files import read_context
    from scribblesegment.context.store import ContextStore

    store = ContextStore()
    if file_or_task in store:
        return store.load(file_or_task)
    if Path(file_or_task).exists():
        return read_context(file_or_task)
    tasks = ", ".join(repr(task.name) for task in store.list_tasks()) or "none"
    raise ContextError(
        f"{file_or_task!r} is neither a file or folder nor a task with a context set; tasks are: {tasks}."
    )


def listed_slices(axis: int, indices: Sequence[int]) -> str:
    """Write ascending slices as ranges: "3 slices k:3-4,12"."""
    return f"{'slice' if len(indices) == 1 else f'{len(indices)} slices'} {AXES[axis]}:{listed(indices)}"


def listed(indices: Iterable[int]) -> str:
    """Write ascending numbers as ranges: "3-4,12"."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return ",".join(parts[:_MOST_RANGES]) + (",..." if len(parts) > _MOST_RANGES else "")


def progress_bar(total: int, doing: str, unit: str) -> Any:
    """Make a `tqdm` bar for a `with` statement, shown on a terminal only, and only if the work takes a while."""
    from tqdm import tqdm

    # disable=None: silent unless standard error is a terminal.
    return tqdm(total=total, desc=doing, unit=unit, delay=_PATIENCE_S, disable=None, leave=False)


def _extension(path: Path, known: Sequence[str]) -> str:
    return next((extension for extension in known if path.name.lower().endswith(extension)), "")
