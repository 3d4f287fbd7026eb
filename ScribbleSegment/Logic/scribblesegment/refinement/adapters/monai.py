"""MONAI bundles: network, preprocessing and sliding window as the bundle's inference configuration describes them.

The configuration's transforms run on the image in memory in place of its loader, and their inverse brings logits back.
MONAI indexes arrays (I, J, K), so that the grid's axes run the other way round than the image's.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import MissingPackageError, NetworkError, require_package
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
    stacked_matrix,
)
from scribblesegment.refinement.adapters.modules import (
    archive_names,
    first_convolution,
    labels_by_trial,
    load_parameters,
    numbered_labels,
)
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling, windows_at

_CONFIGURATIONS = tuple(f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml"))

_METADATA = "configs/metadata.json"

# Pixels of the image that take less than this part of their logits from the grid are taken for cut off.
_LEAST_COVER = 1e-3


# Windows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MonaiTiling(Tiling):
    """Windows whose weights are those of MONAI, which centres its Gaussian between pixels."""

    sigma: float | Sequence[float] = 0.125  # of the Gaussian, as a fraction of a window's side
    padding: str = "constant"  # around an image that is smaller than the window, as `torch.nn.functional.pad` names it
    fill: float = 0.0  # for "constant"

    def padded(self, image: Tensor) -> Tensor:
        """Pad (C, *shape) to the padded shape, as the inferer does."""
        if not any(self.pads):
            return image
        value = self.fill if self.padding == "constant" else None
        return nn.functional.pad(image[None], self.pads, mode=self.padding, value=value)[0]

    def weights(self) -> torch.Tensor:
        """Weights of a window's pixels, float32 of the patch size, in (0, 1]."""
        from monai.data.utils import compute_importance_map

        mode = "gaussian" if self.gaussian else "constant"
        return torch.as_tensor(compute_importance_map(self.patch_size, mode=mode, sigma_scale=self.sigma))


def monai_tiling(shape: Sequence[int], inferer: Any, slice_axis: int | None, name: str) -> Tiling:
    """Lay out the windows of a bundle's inferer on a grid.

    Args:
        shape: Of the grid.
        inferer: A sliding window, or one that gives the network the whole image; None is the latter.
        slice_axis: Axis that a 2D network does not see.
        name: Of the network, for messages.

    Raises:
        NetworkError: Another inferer.
    """
    from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer
    from monai.utils import ensure_tuple_rep, fall_back_tuple

    seen = [int(side) for axis, side in enumerate(shape) if axis != slice_axis]
    if inferer is None or isinstance(inferer, SimpleInferer):
        return Tiling.whole(shape) if slice_axis is None else Tiling.slices(shape, slice_axis)
    if not isinstance(inferer, SlidingWindowInferer) or isinstance(inferer, SliceInferer):
        raise NetworkError(
            f"{name} is run by {type(inferer).__name__}, which is not supported; a bundle that is corrected has a "
            "SlidingWindowInferer or a SimpleInferer."
        )
    patch = [int(side) for side in fall_back_tuple(inferer.roi_size, seen)]
    starts = []
    for side, size, overlap in zip(seen, patch, ensure_tuple_rep(inferer.overlap, len(patch)), strict=True):
        # At equal steps, the last window moved back to end with the image.
        last = max(side, size) - size
        starts.append([*range(0, last, max(1, int(size * (1 - overlap)))), last])
    if slice_axis is not None:
        patch.insert(slice_axis, 1)
        starts.insert(slice_axis, list(range(shape[slice_axis])))
    sides = tuple(int(side) for side in shape)
    gaussian = str(getattr(inferer.mode, "value", inferer.mode)) == "gaussian"
    padding = str(getattr(inferer.padding_mode, "value", inferer.padding_mode))
    windows = windows_at(starts, patch)
    return MonaiTiling(
        sides, tuple(patch), windows, slice_axis, gaussian, inferer.sigma_scale, padding, float(inferer.cval)
    )


# Reading a bundle ------------------------------------------------------------------------------------------------


def is_bundle(path: Path) -> bool:
    """Recognise a bundle, a folder or a zip file of one, by its inference configuration."""
    if path.is_dir():
        return any((path / name).is_file() for name in _CONFIGURATIONS)
    return path.suffix == ".zip" and any(name.endswith(_CONFIGURATIONS) for name in archive_names(path))


def load_bundle(path: Path, confirm: Confirm | None = None) -> BundleNetwork:
    """Load a bundle from its folder or a zip file of it; consent is always asked.

    Raises:
        NetworkError: Not confirmed, without parameters, several input images, channels that may overlap, or a
            configuration that cannot be used.
        MissingPackageError: MONAI is not installed.
    """
    bundle = require_package("monai.bundle", purpose="A MONAI bundle", package="monai")
    require_consent(
        confirm,
        f"{path.name} is a MONAI bundle: its configuration builds any Python object and holds expressions, all of "
        "which can run any code.",
    )
    with contextlib.ExitStack() as stack:
        folder = path
        if path.is_file():
            unpacked = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            with zipfile.ZipFile(path) as archive:
                archive.extractall(unpacked)
            folder = next(
                file.parents[1]
                for name in _CONFIGURATIONS
                for file in unpacked.rglob(Path(name).name)
                if file.parent.name == "configs"
            )
        stack.enter_context(_own_scripts(folder))
        remedy = " Check that it runs with the installed version of MONAI."
        stack.enter_context(foreign_errors(f"The MONAI bundle {path} cannot be used", remedy))
        return _read(bundle.ConfigParser(), folder, path.stem if path.is_file() else path.name)


@contextlib.contextmanager
def _own_scripts(folder: Path) -> Iterator[None]:
    """Let a bundle import its own scripts, and unload them afterwards: other bundles' have the same names."""
    own = {each.stem for each in folder.iterdir() if each.suffix == ".py" or (each / "__init__.py").is_file()}

    def unload() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}

    others = unload()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        unload()
        sys.modules.update(others)


@dataclass(frozen=True, eq=False)
class _Parts:
    """What a bundle describes besides its network."""

    name: str
    licence: str
    preprocessing: Any
    key: str  # of the image in the transforms' dictionary
    channel_first: bool  # whether the loader, which is replaced, puts channels first
    inferer: Any
    activation: str
    inputs: dict[str, Any]  # metadata of the input image
    outputs: dict[str, Any]  # metadata of the prediction


def _read(parser: Any, folder: Path, name: str) -> BundleNetwork:
    configuration = next(folder / each for each in _CONFIGURATIONS if (folder / each).is_file())
    if (folder / _METADATA).is_file():
        parser.read_meta(str(folder / _METADATA))
    parser.read_config(str(configuration))
    parser["bundle_root"] = str(folder)
    key, channel_first = _take_out_loader(parser)
    module = _module(parser, folder)
    activations = [step for step in _steps(parser, "postprocessing") or [] if _target(step).startswith("Activations")]
    parts = _Parts(
        name=str(parser.get("_meta_::name") or name),
        licence=str(parser.get("_meta_::license") or ""),
        preprocessing=parser.get_parsed_content("preprocessing"),
        key=key,
        channel_first=channel_first,
        inferer=parser.get_parsed_content("inferer") if "inferer" in parser else None,
        activation="sigmoid" if any(step.get("sigmoid") for step in activations) else "softmax",
        inputs=dict(parser.get("_meta_::network_data_format::inputs::image") or {}),
        outputs=dict(parser.get("_meta_::network_data_format::outputs::pred") or {}),
    )
    return BundleNetwork(module, parts)


def _take_out_loader(parser: Any) -> tuple[str, bool]:
    """Take the transforms that load files out of the preprocessing, before anything of it is built.

    Returns:
        The key of the image, and whether the loader puts channels first.
    """
    steps = _steps(parser, "preprocessing")
    if steps is None:
        raise NetworkError(
            "The bundle's inference configuration has no list of transforms under `preprocessing`, so that what the "
            "network wants to see is not known."
        )
    key, channel_first = "image", False
    for step in [step for step in steps if _target(step).startswith("LoadImage")]:
        steps.remove(step)
        keys = step.get("keys", key)
        if isinstance(keys, str) and keys.startswith("@"):
            keys = parser.get_parsed_content(keys[1:])
        key = keys if isinstance(keys, str) else str(keys[0])
        channel_first = bool(step.get("ensure_channel_first"))
    return key, channel_first


def _steps(parser: Any, name: str) -> list[Any] | None:
    """Find the list of transforms of a configuration entry, through references to other entries."""
    entry = parser.get(name)
    for _ in range(10):
        if isinstance(entry, dict):
            entry = entry.get("transforms")
        elif isinstance(entry, str) and (named := re.fullmatch(r"\$?\s*@([\w:#]+)\s*", entry)):
            entry = parser.get(named[1])
    return entry if isinstance(entry, list) else None


def _target(step: Any) -> str:
    """Name of a transform's class, without its package."""
    return str(step.get("_target_", "")).rpartition(".")[2] if isinstance(step, dict) else ""


def _module(parser: Any, folder: Path) -> nn.Module:
    """Build the network and fill it with the bundle's parameters; TorchScript where there are no others."""
    name = next((each for each in ("network_def", "network") if each in parser), None)
    parameters, script = folder / "models" / "model.pt", folder / "models" / "model.ts"
    if name is not None and parameters.is_file():
        module = parser.get_parsed_content(name)
        if not isinstance(module, nn.Module):
            raise NetworkError(f"The bundle's {name} makes {type(module).__name__}, which is not a network.")
        module = module.cpu()
        load_parameters(module, parameters)
        return module
    if script.is_file():
        loaded: nn.Module = torch.jit.load(str(script), map_location="cpu")
        return loaded
    raise NetworkError(
        f"The bundle has neither models/model.pt with a network_def nor models/model.ts in {folder}. Download its "
        "parameters (large_files.yml says from where)."
    )


# The network -----------------------------------------------------------------------------------------------------


class BundleNetwork:
    """The network of a MONAI bundle; a `NetworkAdapter`."""

    takes_scribbles = False

    def __init__(self, module: nn.Module, parts: _Parts) -> None:
        """Take a network with what its bundle describes; `load_bundle` makes it."""
        self.module = module.eval()
        self.name = parts.name
        self.licence = parts.licence
        first = first_convolution(module)
        sides = parts.inputs.get("spatial_shape") or ()
        self.ndim = len(sides) if first is None else first.ndim - 2
        channels = parts.inputs.get("num_channels") or (1 if first is None else first.shape[1])
        self._copies = copies_of_image(int(channels), self.ndim, self.name)
        self.output = Output(parts.activation)
        count = parts.outputs.get("num_channels")
        labels = (
            labels_by_trial(module, self.output, self._copies, (64,) * self.ndim, self.name)
            if count is None
            else numbered_labels(max(2, int(count)))
        )
        if parts.activation == "sigmoid" and len(labels) > 2:
            raise NetworkError(
                f"{self.name} gives each of {len(labels)} structures a probability of its own, so that they may "
                "overlap. Only networks with labels that exclude each other can be corrected."
            )
        names = parts.outputs.get("channel_def") or {}
        first_named = 1 if len(names) < len(labels) else 0  # a network of one channel names no background
        self.labels = tuple(str(names.get(str(value - first_named), name)) for value, name in enumerate(labels))
        self._parts = parts

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Run the bundle's preprocessing; see `NetworkAdapter.prepare`.

        A 2D network's slices are preprocessed one by one, as if each was an image of its own, and stacked on a grid of
        (slices, I, J).

        Raises:
            NetworkError: A slice is asked of a 3D network, the preprocessing fails, or slices come out of it in
                different sizes.
            GeometryError: No such axis or slice.
        """
        require_slices(self.ndim, index, self.name)
        if self.ndim == 3:
            return self._as_prepared(self._preprocessed(image.array.T, image.ijk_to_ras), image.shape)
        cuts = [image.slice(axis, each) for each in (range(image.shape[axis]) if index is None else [index])]
        row_mm, column_mm = cuts[0].spacing_mm
        affine = np.diag([column_mm, row_mm, 1.0, 1.0])
        planes = [self._preprocessed(cut.image.T, affine) for cut in cuts]
        if index is not None:
            return self._as_prepared(planes[0], cuts[0].image.shape)
        sizes = {tuple(plane.result.shape) for plane in planes}
        if len(sizes) > 1:
            raise NetworkError(
                f"The preprocessing of {self.name} gives slices different sizes, {sorted(sizes)[:3]}; correct one "
                "slice at a time."
            )
        tensor = torch.stack([plane.result.as_tensor() for plane in planes], dim=1)

        def way_back(logits: FloatArray) -> FloatArray:
            return np.stack([plane.way_back(logits[:, each]) for each, plane in enumerate(planes)], axis=axis + 1)

        tiling = monai_tiling(tensor.shape[1:], self._parts.inferer, 0, self.name)
        return PreparedImage(tensor, tiling, image.shape, stacked_matrix(planes[0].matrix, axis), way_back, slack=0.5)

    def _as_prepared(self, preprocessed: _Preprocessed, shape: tuple[int, ...]) -> PreparedImage:
        tensor = preprocessed.result.as_tensor().contiguous()
        tiling = monai_tiling(tensor.shape[1:], self._parts.inferer, None, self.name)
        return PreparedImage(tensor, tiling, tuple(shape), preprocessed.matrix, preprocessed.way_back, slack=0.5)

    def _preprocessed(self, array_ijk: NDArray[Any], affine: DoubleArray) -> _Preprocessed:
        """Run the transforms on an image whose axes are in MONAI's order."""
        from monai.data import MetaTensor

        values = torch.from_numpy(np.ascontiguousarray(array_ijk, np.float32))
        dimension = float("nan")  # MONAI's "no channel"
        if self._parts.channel_first:
            values, dimension = values[None].expand(self._copies, *values.shape).clone(), 0
        elif self._copies > 1:
            values, dimension = values[..., None].expand(*values.shape, self._copies).clone(), -1
        meta = {
            "original_channel_dim": dimension,
            "spatial_shape": np.array(array_ijk.shape),
            "original_affine": affine.copy(),
            "space": "RAS",
            "filename_or_obj": "image",
        }
        given = MetaTensor(values, affine=torch.from_numpy(affine.copy()), meta=meta)
        try:
            result = self._parts.preprocessing({self._parts.key: given})[self._parts.key]
        except Exception as error:  # the bundle's code, the bundle's errors
            _require_optional_packages(error, self.name)
            raise NetworkError(
                f"The preprocessing of {self.name} fails on an image of {array_ijk.shape[::-1]}: "
                f"{type(error).__name__}: {error}."
            ) from error
        if not isinstance(result, MetaTensor) or result.ndim != self.ndim + 1 or result.shape[0] != self._copies:
            raise NetworkError(
                f"The preprocessing of {self.name} turns an image of {array_ijk.shape[::-1]} into "
                f"{type(result).__name__} {tuple(getattr(result, 'shape', ()))}; expected a MetaTensor of "
                f"{self._copies} channels and {self.ndim} axes, which knows where it lies."
            )
        return _Preprocessed(result.float(), affine, self._parts)


@dataclass(frozen=True, eq=False)
class _Preprocessed:
    """An image after the bundle's preprocessing."""

    result: Any  # MetaTensor (C, *grid), which remembers what was done to it
    affine: DoubleArray  # (4, 4) of the image before, for indices in MONAI's order
    parts: _Parts

    @property
    def matrix(self) -> DoubleArray:
        """Map homogeneous indices of the image, in the package's order of axes, to those of the grid."""
        from monai.data.utils import to_affine_nd

        ndim = self.result.ndim - 1
        before = self.affine[np.ix_([*range(ndim), 3], [*range(ndim), 3])]
        after = np.asarray(to_affine_nd(ndim, np.asarray(self.result.affine, np.float64)))
        reverse = np.eye(ndim + 1)[[*range(ndim)[::-1], ndim]]
        return np.asarray(np.linalg.solve(after, before @ reverse))

    def way_back(self, logits: FloatArray) -> FloatArray:
        """Undo the spatial transforms on class logits (labels, *grid); what they cut off is background."""
        from monai.data import MetaTensor
        from monai.transforms import Invertd

        key = self.parts.key
        ones = np.ones((1, *logits.shape[1:]), np.float32)
        values = MetaTensor(torch.from_numpy(np.concatenate([logits, ones])))
        inverse = Invertd(keys="logits", transform=self.parts.preprocessing, orig_keys=key, nearest_interp=False)
        found = inverse({"logits": values, key: self.result})["logits"]
        image: Tensor = found.as_tensor() if isinstance(found, MetaTensor) else found
        array = image.cpu().numpy()
        array = array.transpose([0, *range(1, array.ndim)[::-1]])
        covered = array[-1] > _LEAST_COVER
        return np.where(covered, array[:-1], outside_logits(array[:-1].shape))


def _require_optional_packages(error: BaseException, name: str) -> None:
    """Raise MissingPackageError if a transform of MONAI failed for want of a package."""
    from monai.utils import OptionalImportError

    cause: BaseException | None = error
    while cause is not None:
        named = re.search(r"No module named '(\w+)", str(cause)) if isinstance(cause, OptionalImportError) else None
        if named is not None:
            raise MissingPackageError(
                f"The preprocessing of {name} needs the Python package {named[1]}, which is not installed. Install it "
                f"with: pip install {named[1]}",
                named[1],
            ) from error
        cause = cause.__cause__ or cause.__context__
