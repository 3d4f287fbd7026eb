"""Trained-model folders of nnU-Net v2, through nnU-Net's own preprocessing and resampling.

Windows and their weights are nnU-Net's, only that predictions are added up in single precision: nnU-Net takes half,
which rounds them coarsely at the corners of an image. Mirrored predictions, which nnU-Net adds up by default, are left
out: refining every mirror image of a patch would multiply the time of an iteration. One fold is corrected, not an
ensemble of them.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import pickle
import pydoc
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import GeometryError, NetworkError, require_package
from scribblesegment.refinement.adapters.base import (
    Confirm,
    DoubleArray,
    FloatArray,
    PreparedImage,
    copies_of_image,
    foreign_errors,
    outside_logits,
    require_consent,
    require_slices,
    scaling,
)
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")

_FILES = ("plans.json", "dataset.json")

# Where networks and their parts come from; plans that name anything else could call any function of this computer.
_NETWORKS, _PARTS = "dynamic_network_architectures.", "torch.nn."


# Reading a folder ------------------------------------------------------------------------------------------------


def is_nnunet(folder: Path) -> bool:
    """Recognise a trained-model folder by its files."""
    return all((folder / name).is_file() for name in _FILES)


@dataclass(frozen=True, eq=False)
class NnunetModel:
    """nnU-Net's description of a trained model."""

    name: str
    plans: Any  # PlansManager
    configuration: Any  # ConfigurationManager
    dataset: dict[str, Any]  # what dataset.json holds

    @property
    def labels(self) -> Any:
        """Its `LabelManager`."""
        return self.plans.get_label_manager(self.dataset)

    @property
    def channels(self) -> int:
        """Number of images it takes."""
        return len(self.dataset.get("channel_names") or self.dataset["modality"])


def load_nnunet(folder: Path, confirm: Confirm | None = None, *, fold: str | None = None) -> NnunetNetwork:
    """Read a trained-model folder and build its network.

    Args:
        folder: With plans.json, dataset.json and fold_X/checkpoint_*.pth.
        confirm: See `require_consent`; needed only if the checkpoint holds more than plain data, or the plans name a
            network from elsewhere.
        fold: "0", "1", ... or "all"; by default the first there is.

    Raises:
        NetworkError: Damaged, not confirmed, of region-based labels, of a cascade's second stage, of several input
            images, or trained by a trainer that is not installed.
        MissingPackageError: nnU-Net is not installed.
    """
    checkpoint_path = _find_checkpoint(folder, fold)
    try:
        plans, dataset = (json.loads((folder / name).read_text(encoding="utf-8")) for name in _FILES)
    except (OSError, ValueError) as error:
        raise NetworkError(f"{folder}: plans.json or dataset.json cannot be read: {error}. Copy them again.") from error
    handler = require_package(
        "nnunetv2.utilities.plans_handling.plans_handler",
        purpose="A trained-model folder of nnU-Net",
        package="nnunetv2",
    )
    checkpoint = _read_checkpoint(checkpoint_path, confirm)
    trained = f"The nnU-Net model in {folder}, trained by {checkpoint['trainer_name']}, cannot be built"
    with foreign_errors(trained, " Check that the installed nnunetv2 can predict with it."):  # of other versions
        manager = handler.PlansManager(plans)
        configuration = manager.get_configuration(checkpoint["init_args"]["configuration"])
        model = NnunetModel(str(plans.get("dataset_name") or folder.name), manager, configuration, dataset)
        _require_supported(model)
        _require_known_parts(model, confirm)
        module = _built(model, str(checkpoint["trainer_name"]))
        module.load_state_dict(checkpoint["network_weights"])
    return NnunetNetwork(module, model)


def _find_checkpoint(folder: Path, fold: str | None) -> Path:
    """Find the checkpoint of a fold, by default of the first that has one."""
    folds = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    wanted = [path for path in folds if fold is None or path.name == f"fold_{fold}"]
    found = [path / name for path in wanted for name in CHECKPOINTS if (path / name).is_file()]
    if found:
        return found[0]
    known = ", ".join(path.name for path in folds) or "no folds"
    raise NetworkError(
        f"{folder} has no {' or '.join(CHECKPOINTS)} in {'any fold' if fold is None else f'fold_{fold}'}; it has "
        f"{known}. Copy a fold of the training there, or choose another."
    )


def _read_checkpoint(path: Path, confirm: Confirm | None) -> dict[str, Any]:
    """Read a checkpoint as plain data if it is that, and else with the code in it, once that is confirmed."""
    content: Any = None
    with contextlib.ExitStack() as stack:
        if hasattr(torch.serialization, "safe_globals"):  # PyTorch 2.5
            stack.enter_context(torch.serialization.safe_globals(_safe_globals()))
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # Which class it was, without the long advice of PyTorch.
            lines = [line.strip() for line in str(error).splitlines() if "global" in line.lower()]
            require_consent(
                confirm,
                f"The checkpoint {path.name} in {path.parent} holds more than parameters ({[*lines, 'code'][0]}); "
                "reading that can run any code.",
            )
        except Exception as error:  # arbitrary bytes make the unpickler fail in arbitrary ways
            raise NetworkError(f"{path} is damaged, or not a checkpoint: {error}. Copy it again.") from error
    if content is None:
        with foreign_errors(f"{path} cannot be read"):
            content = torch.load(path, map_location="cpu", weights_only=False)
    missing = {"network_weights", "init_args", "trainer_name"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise NetworkError(f"{path} is not a checkpoint of nnU-Net v2: it lacks {', '.join(sorted(missing))}.")
    return dict(content)


def _safe_globals() -> list[Any]:
    """List what the trainer's log of numpy numbers is made of."""
    from _codecs import encode

    kinds = (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)
    numbers = [type(np.dtype(kind)) for kind in kinds]
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    parts: list[Any] = [encode, np.dtype, np.ndarray, scalar, rebuild, *numbers]
    # numpy below 2 wrote its functions under this name.
    return [*parts, (scalar, "numpy.core.multiarray.scalar"), (rebuild, "numpy.core.multiarray._reconstruct")]


def _require_supported(model: NnunetModel) -> None:
    if model.labels.has_regions:
        raise NetworkError(
            f"{model.name} predicts overlapping regions (region-based training), so that no pixel has one label. Only "
            "models with labels that exclude each other can be corrected."
        )
    if model.configuration.previous_stage_name is not None:
        raise NetworkError(
            f"{model.name} is the second stage of a cascade and needs the first stage's result beside the image. "
            "Correct the 3d_fullres or 2d configuration."
        )


def _require_known_parts(model: NnunetModel, confirm: Confirm | None) -> None:
    """Ask before anything but a network of nnU-Net's own library, made of PyTorch's layers, is called."""
    configuration = model.configuration
    options = configuration.network_arch_init_kwargs
    parts = [options.get(name) for name in configuration.network_arch_init_kwargs_req_import]
    named = [(configuration.network_arch_class_name, _NETWORKS)]
    named += [(part, _PARTS) for part in parts if part is not None]
    foreign = [str(name) for name, home in named if not _is_layer(str(name), home)]
    if foreign:
        require_consent(
            confirm, f"The plans of {model.name} call {', '.join(foreign)}, which is no part of nnU-Net: any code."
        )


def _is_layer(name: str, home: str) -> bool:
    """Whether a dotted name is a layer or network of a library; looking it up imports only modules of that library."""
    if not name.startswith(home):
        return False
    found = pydoc.locate(name)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _built(model: NnunetModel, trainer_name: str) -> nn.Module:
    """Build the network as its trainer does, without deep supervision."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    trainer = recursive_find_python_class(str(folder), trainer_name, "nnunetv2.training.nnUNetTrainer")
    if trainer is None:
        raise NetworkError(
            f"{model.name} was trained by {trainer_name}, which the installed nnunetv2 does not have. Copy the file of "
            "that trainer into it, as nnU-Net itself needs it too."
        )
    configuration = model.configuration
    channels = copies_of_image(model.channels, len(configuration.patch_size), model.name)
    heads = model.labels.num_segmentation_heads
    described: tuple[Any, ...] = (
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
    )
    if "plans_manager" in inspect.signature(trainer.build_network_architecture).parameters:  # nnunetv2 2.7
        described = (model.plans, configuration)
    network = trainer.build_network_architecture(*described, channels, heads, enable_deep_supervision=False)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"The trainer {trainer_name} made {type(network).__name__}, which is not a network.")
    return network


# The network -----------------------------------------------------------------------------------------------------


class NnunetTiling(Tiling):
    """Windows whose weights fall to nnU-Net's values at their corners, without a least one."""

    def weights(self) -> torch.Tensor:
        """Weights of a window's pixels, float32 of the patch size, in (0, 1]."""
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        device = torch.device("cpu")
        return torch.as_tensor(compute_gaussian(self.patch_size, dtype=torch.float32, device=device))


class NnunetNetwork:
    """A network of nnU-Net; a `NetworkAdapter`."""

    output = Output("softmax", probabilities=False)
    licence = ""
    takes_scribbles = False

    def __init__(self, module: nn.Module, model: NnunetModel) -> None:
        """Take a network with its plans; `load_nnunet` makes it."""
        self.module = module.eval()
        self.name = model.name
        self.ndim = len(model.configuration.patch_size)
        names = {value: name for name, value in model.dataset["labels"].items() if isinstance(value, int)}
        self.labels = tuple(str(names.get(value, value)) for value in range(model.labels.num_segmentation_heads))
        self._model = model
        self._last: weakref.WeakKeyDictionary[Volume, tuple[int | None, _Preprocessed]] = weakref.WeakKeyDictionary()

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Preprocess an image as nnU-Net does; see `NetworkAdapter.prepare`.

        Where all slices are wanted, a 2D network sees those along the axis that its plans name, and `axis` is not read.
        One slice is cut along `axis` out of the preprocessed volume, so that intensities are normalised with all of it;
        the volume is kept for the next slice.

        Raises:
            NetworkError: A slice is asked of a 3D network, or nnU-Net cannot preprocess the image.
            GeometryError: No such axis or slice.
        """
        require_slices(self.ndim, index, self.name)
        if index is not None:
            image.slice(axis, index)  # raises where there is none
        across = None if index is None else axis
        if image not in self._last or self._last[image][0] != across:
            self._last[image] = across, self._preprocessed(image, across)
        volume = self._last[image][1]
        if index is not None:
            return self._slice(volume, axis, index, image.shape)
        patch, grid = self._model.configuration.patch_size, volume.data.shape[1:]
        tiling = NnunetTiling.slices(grid, 0, patch_size=patch) if self.ndim == 2 else NnunetTiling.patches(grid, patch)
        data = torch.from_numpy(volume.data)
        return PreparedImage(data, tiling, image.shape, volume.matrix, lambda logits: self._to_image(logits, volume))

    def _preprocessed(self, image: Volume, axis: int | None) -> _Preprocessed:
        """Run nnU-Net's preprocessor, on an array turned so that slices along `axis`, if given, are what it sees."""
        model = self._model
        plans, configuration = model.plans, model.configuration
        turned = _axes_of_reader(image, plans)
        forward = [turned[each] for each in plans.transpose_forward]
        if axis is not None:
            first = next(entry for entry in turned if entry[0] == axis)
            forward = [first, *(entry for entry in forward if entry[0] != axis)]
        given = [forward[each] for each in plans.transpose_backward]
        array = image.array.transpose([old for old, _ in given])
        array = np.flip(array, tuple(new for new, (_, flipped) in enumerate(given) if flipped)).astype(np.float32)
        spacing = [image.spacing_kji_mm[each] for each, _ in given]
        copies = copies_of_image(model.channels, self.ndim, self.name)
        with foreign_errors(f"nnU-Net cannot preprocess the image of shape {image.shape} for {self.name}"):
            properties: dict[str, Any] = {"spacing": spacing}  # filled in place; before 2.6 it is not returned
            data = configuration.preprocessor_class(verbose=False).run_case_npy(
                np.repeat(array[None], copies, axis=0), None, properties, plans, configuration, model.dataset
            )[0]
        original = [spacing[each] for each in plans.transpose_forward]
        wanted = list(configuration.spacing)
        return _Preprocessed(
            np.asarray(data, np.float32),
            tuple(forward),
            tuple(original),
            tuple(wanted if len(wanted) == len(original) else [original[0], *wanted]),
            tuple(slice(int(start), int(stop)) for start, stop in properties["bbox_used_for_cropping"]),
            tuple(int(side) for side in properties["shape_before_cropping"]),
        )

    def _slice(self, volume: _Preprocessed, axis: int, index: int, shape: tuple[int, ...]) -> PreparedImage:
        """Cut one slice out of the volume; one outside of nnU-Net's crop, where the image is zero, is all zeros."""
        position = index if not volume.axes[0][1] else shape[axis] - 1 - index
        across = position - volume.crop[0].start
        seen = 0 <= across < volume.data.shape[1]
        plane = volume.data[:, across] if seen else np.zeros_like(volume.data[:, 0])
        others = [other for other in range(3) if other != axis]
        sides = tuple(shape[other] for other in others)

        def way_back(logits: FloatArray) -> FloatArray:
            if not seen:
                return outside_logits((len(logits), *sides))
            return self._to_image(logits[:, None], volume, one_slice=True)

        matrix = volume.matrix[np.ix_([1, 2, 3], [*others, 3])]
        tiling = NnunetTiling.patches(plane.shape[1:], self._model.configuration.patch_size)
        return PreparedImage(torch.from_numpy(np.ascontiguousarray(plane)), tiling, sides, matrix, way_back)

    def _to_image(self, logits: FloatArray, volume: _Preprocessed, *, one_slice: bool = False) -> FloatArray:
        """Go nnU-Net's way back: resample to the crop, put it into the image, turn the axes back.

        With `one_slice`, only that slice of the crop is there, and (labels, H, W) is returned.
        """
        crop = (slice(0, 1), *volume.crop[1:]) if one_slice else volume.crop
        shape = (1, *volume.shape[1:]) if one_slice else volume.shape
        size = tuple(part.stop - part.start for part in crop)
        resample = self._model.configuration.resampling_fn_probabilities
        inside = resample(logits, size, list(volume.spacing_mm), list(volume.original_mm))
        turned = outside_logits((len(logits), *shape))
        turned[(slice(None), *crop)] = np.asarray(inside, np.float32)
        unflipped = np.flip(turned, tuple(1 + new for new, (_, flipped) in enumerate(volume.axes) if flipped))
        back = unflipped.transpose([0, *(1 + np.argsort([old for old, _ in volume.axes]))])
        return back.squeeze(1 + volume.axes[0][0]) if one_slice else back


Axes = tuple[tuple[int, bool], ...]  # for each axis of a turned array: which it was, and whether it runs backwards


@dataclass(frozen=True, eq=False)
class _Preprocessed:
    """A volume as nnU-Net sees it."""

    data: FloatArray  # (C, *grid)
    axes: Axes  # of the grid within the image
    original_mm: tuple[float, ...]  # spacing of the image along the axes of the grid
    spacing_mm: tuple[float, ...]  # of the grid
    crop: tuple[slice, ...]  # what is left of the turned image when empty borders are cut off
    shape: tuple[int, ...]  # of the turned image

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
    """In which order and direction the model's reader delivers the axes (K, J, I)."""
    if not plans.image_reader_writer_class.__name__.endswith("WithReorient"):
        return ((0, False), (1, False), (2, False))
    import nibabel

    # For each of i, j, k: which of right, anterior and superior it is nearest to, and in which direction.
    orientation = nibabel.io_orientation(image.ijk_to_ras)
    if np.isnan(orientation).any():
        raise GeometryError("The image's axes have no clear directions; resample it to axes at right angles.")
    found = {int(world): (2 - ijk, bool(sign < 0)) for ijk, (world, sign) in enumerate(orientation)}
    return found[2], found[1], found[0]
