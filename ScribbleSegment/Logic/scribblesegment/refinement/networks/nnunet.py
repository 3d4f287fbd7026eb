"""Trained-model folders of nnU-Net v2, through nnU-Net's own preprocessing and resampling.

Windows and their weights are nnU-Net's, only that predictions are added up in single precision: nnU-Net takes half,
which rounds them coarsely at the corners of an image. Mirrored predictions, which nnU-Net adds up by default, are left
out: refining every mirror image of a patch would multiply the time of an iteration. One fold is corrected, not an
ensemble of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scribblesegment.exceptions import GeometryError, NetworkError
from scribblesegment.label_scribbles import LabelScribbles
from scribblesegment.refinement.networks.network import (
    PreparedImage,
    copies_of_image,
    outside_logits,
    require_slices,
)
from scribblesegment.refinement.networks.nnunet_model import NnunetModel, read_nnunet
from scribblesegment.refinement.networks.scribble_transfer import DoubleArray, scaling
from scribblesegment.refinement.networks.trust import Confirm
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling
from scribblesegment.volume import Volume

FloatArray = NDArray[np.float32]


def load_nnunet(folder: Path, confirm: Confirm | None = None, *, fold: str | None = None) -> NnunetNetwork:
    """Load a trained-model folder; arguments and errors are those of `read_nnunet`."""
    return NnunetNetwork(*read_nnunet(folder, confirm, fold=fold))


class NnunetTiling(Tiling):
    """Windows whose weights fall to nnU-Net's values at their corners, without a least one."""

    def weights(self) -> torch.Tensor:
        """Weights of a window's pixels, float32 of the patch size, in (0, 1]."""
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        device = torch.device("cpu")
        return torch.as_tensor(compute_gaussian(self.patch_size, dtype=torch.float32, device=device))


class NnunetNetwork:
    """A network of nnU-Net; see `RefinableNetwork`."""

    output = Output("softmax", probabilities=False)
    licence = ""
    takes_scribbles = False

    def __init__(self, module: nn.Module, model: NnunetModel) -> None:
        """Take a network with its plans; `read_nnunet` gives both."""
        self.module = module.eval()
        self.name = model.name
        self.ndim = len(model.configuration.patch_size)
        names = {value: name for name, value in model.dataset["labels"].items() if isinstance(value, int)}
        self.labels = tuple(str(names.get(value, value)) for value in range(model.labels.num_segmentation_heads))
        self._model = model
        self._last: tuple[Volume, int | None, _Preprocessed] | None = None

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Preprocess an image as nnU-Net does; see `RefinableNetwork.prepare`.

        Where all slices are asked for, a 2D network sees those along the axis that its plans name, and `axis` is not
        read. One slice is cut along `axis` out of the preprocessed volume, so that intensities are normalised with all
        of it; the volume is kept for the next slice.

        Raises:
            NetworkError: A slice is asked of a 3D network, or nnU-Net cannot preprocess the image.
            GeometryError: No such axis or slice.
        """
        require_slices(self.ndim, index, self.name)
        if index is not None:
            image.slice(axis, index)  # raises where there is none
        across = None if index is None else axis
        if self._last is None or self._last[0] is not image or self._last[1] != across:
            self._last = (image, across, self._preprocessed(image, across))
        volume = self._last[2]
        return self._whole(volume, image.shape) if index is None else self._slice(volume, axis, index, image.shape)

    def _preprocessed(self, image: Volume, axis: int | None) -> _Preprocessed:
        """Run nnU-Net's preprocessor, on an array turned so that slices along `axis`, if given, are what it sees."""
        model = self._model
        turned = _axes_of_reader(image, model.plans)
        forward = [turned[each] for each in model.plans.transpose_forward]
        if axis is not None:
            first = next(entry for entry in turned if entry[0] == axis)
            forward = [first, *(entry for entry in forward if entry[0] != axis)]
        given = [forward[each] for each in model.plans.transpose_backward]
        array = _turned(image.array, given).astype(np.float32)
        spacing = [image.spacing_kji_mm[each] for each, _ in given]
        properties: dict[str, Any] = {"spacing": spacing}
        copies = copies_of_image(model.channels, self.ndim, self.name)
        preprocessor = model.configuration.preprocessor_class(verbose=False)
        try:
            data, _, properties = preprocessor.run_case_npy(
                np.repeat(array[None], copies, axis=0),
                None,
                properties,
                model.plans,
                model.configuration,
                model.dataset,
            )
        except Exception as error:  # its code, its errors
            raise NetworkError(
                f"nnU-Net cannot preprocess the image of shape {image.shape} for {self.name}: "
                f"{type(error).__name__}: {error}."
            ) from error
        original = [spacing[each] for each in model.plans.transpose_forward]
        wanted = list(model.configuration.spacing)
        return _Preprocessed(
            np.asarray(data, np.float32),
            tuple(forward),
            tuple(original),
            tuple(wanted if len(wanted) == len(original) else [original[0], *wanted]),
            tuple(slice(int(start), int(stop)) for start, stop in properties["bbox_used_for_cropping"]),
            tuple(int(side) for side in properties["shape_before_cropping"]),
        )

    def _whole(self, volume: _Preprocessed, shape: tuple[int, ...]) -> PreparedImage:
        patch = self._model.configuration.patch_size
        grid = volume.data.shape[1:]
        tiling = NnunetTiling.slices(grid, 0, patch_size=patch) if self.ndim == 2 else NnunetTiling.patches(grid, patch)

        def back(logits: FloatArray) -> FloatArray:
            return self._to_image(logits, volume)

        return PreparedImage(torch.from_numpy(volume.data), volume.spacing_mm, tiling, shape, volume.matrix, back)

    def _slice(self, volume: _Preprocessed, axis: int, index: int, shape: tuple[int, ...]) -> PreparedImage:
        """Cut one slice out of the volume; one outside of nnU-Net's crop, where the image is zero, is all zeros."""
        position = index if not volume.axes[0][1] else shape[axis] - 1 - index
        across = position - volume.crop[0].start
        seen = 0 <= across < volume.data.shape[1]
        plane = volume.data[:, across] if seen else np.zeros_like(volume.data[:, 0])
        sides = tuple(side for other, side in enumerate(shape) if other != axis)
        others = [other for other in range(3) if other != axis]

        def back(logits: FloatArray) -> FloatArray:
            if not seen:
                return outside_logits((len(logits), *sides))
            return self._to_image(logits[:, None], volume, across)

        kept = [*others, 3]
        matrix = volume.matrix[np.ix_([1, 2, 3], kept)]
        tiling = NnunetTiling.patches(plane.shape[1:], self._model.configuration.patch_size)
        tensor = torch.from_numpy(np.ascontiguousarray(plane))
        return PreparedImage(tensor, volume.spacing_mm[1:], tiling, sides, matrix, back)

    def _to_image(self, logits: FloatArray, volume: _Preprocessed, across: int | None = None) -> FloatArray:
        """Go nnU-Net's way back: resample to the crop, put it into the image, turn the axes back.

        With `across`, only that slice of the crop is there, and (labels, H, W) is returned.
        """
        crop = volume.crop if across is None else (slice(0, 1), *volume.crop[1:])
        shape = volume.shape if across is None else (1, *volume.shape[1:])
        size = tuple(part.stop - part.start for part in crop)
        resample = self._model.configuration.resampling_fn_probabilities
        inside = resample(logits, size, list(volume.spacing_mm), list(volume.original_mm))
        turned = outside_logits((len(logits), *shape))
        turned[(slice(None), *crop)] = np.asarray(inside, np.float32)
        back = np.stack([_turned_back(each, volume.axes) for each in turned])
        return back if across is None else back.squeeze(1 + volume.axes[0][0])


Axes = tuple[tuple[int, bool], ...]
"""For each axis of a turned array: the axis it was, and whether it runs the other way."""


@dataclass(frozen=True, eq=False)
class _Preprocessed:
    """A volume as nnU-Net sees it.

    Attributes:
        data: float32 (C, *grid).
        axes: Axes of the grid within the image.
        original_mm: Spacing of the image along the axes of the grid.
        spacing_mm: Spacing of the grid.
        crop: What is left of the turned image when empty borders are cut off.
        shape: Of the turned image.
    """

    data: FloatArray
    axes: Axes
    original_mm: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    crop: tuple[slice, ...]
    shape: tuple[int, ...]

    @property
    def matrix(self) -> DoubleArray:
        """(4, 4) from homogeneous indices of the image to those of the grid; the crop's borders are the grid's."""
        turn = np.zeros((4, 4))
        turn[3, 3] = 1.0
        for new, (old, flipped) in enumerate(self.axes):
            turn[new, old] = -1.0 if flipped else 1.0
            turn[new, 3] = self.shape[new] - 1 if flipped else 0.0
        starts = np.array([part.start for part in self.crop])
        sides = np.array([part.stop - part.start for part in self.crop])
        scales = np.array(self.data.shape[1:]) / sides
        return scaling(scales, (scales - 1) / 2 - scales * starts) @ turn


def _axes_of_reader(image: Volume, plans: Any) -> Axes:
    """Tell in which order and direction the model's reader delivers the axes (K, J, I)."""
    if plans.image_reader_writer_class.__name__ != "NibabelIOWithReorient":
        return ((0, False), (1, False), (2, False))
    import nibabel

    # For each of i, j, k: which of right, anterior and superior it is nearest to, and in which direction.
    orientation = nibabel.io_orientation(image.ijk_to_ras)
    if np.isnan(orientation).any():
        raise GeometryError("The image's axes cannot be told apart by direction; resample it to axes at right angles.")
    found = {int(world): (2 - ijk, bool(sign < 0)) for ijk, (world, sign) in enumerate(orientation)}
    return found[2], found[1], found[0]


def _turned(array: NDArray[Any], axes: Sequence[tuple[int, bool]]) -> NDArray[Any]:
    turned = array.transpose([old for old, _ in axes])
    return np.flip(turned, tuple(new for new, (_, flipped) in enumerate(axes) if flipped))


def _turned_back(array: NDArray[Any], axes: Axes) -> NDArray[Any]:
    unflipped = np.flip(array, tuple(new for new, (_, flipped) in enumerate(axes) if flipped))
    return unflipped.transpose(np.argsort([old for old, _ in axes]))
