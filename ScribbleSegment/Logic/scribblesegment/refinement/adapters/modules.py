"""Networks that are a Python module, from code or a function in a file, and TorchScript and torch.export files."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.volume import Volume
from scribblesegment.errors import NetworkError, WeightsError
from scribblesegment.refinement.adapters.base import (
    Confirm,
    FloatArray,
    ImageGrid,
    NetworkSettings,
    PreparedImage,
    copies_of_image,
    foreign_errors,
    require_consent,
    require_slices,
)
from scribblesegment.refinement.outputs import Output
from scribblesegment.refinement.tiling import Tiling
from scribblesegment.weights.checkpoints import fill_parameters, open_safetensors, read_pickle

_LARGEST_PATCH = 128

_TRIAL_SIDE = 64

# Training tools put one of these before every parameter's name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


class ModuleNetwork:
    """A Python module with the settings it was trained with; a `NetworkAdapter`.

    Without settings, intensities are mapped to 0..1 by the volume's robust range and nothing is resampled.
    """

    takes_scribbles = False

    def __init__(self, module: nn.Module, settings: NetworkSettings | None = None, **changes: Any) -> None:
        """Take a module that maps (B, C, *spatial) to logits (B, K, *spatial); it is put into evaluation mode.

        Keyword arguments are fields of `NetworkSettings` that differ from `settings`.

        Raises:
            ConfigError: An unknown setting, or a value out of range.
            NetworkError: Dimension, channels or labels are not given and cannot be found, or it takes several images.
        """
        self.settings = (settings or NetworkSettings()).replaced(**changes)
        self.module = module.eval()
        self.name = self.settings.name or type(module).__name__
        self.licence = self.settings.licence
        self.output: Output = self.settings.reading()
        first = first_convolution(module)
        self.ndim = self.settings.ndim or self._found("ndim", None if first is None else first.ndim - 2)
        channels = self.settings.channels or self._found("channels", None if first is None else int(first.shape[1]))
        self._copies = copies_of_image(channels, self.ndim, self.name)
        # Once more, now that the dimension is known: sizes must have as many sides.
        self.settings = self.settings.replaced(ndim=self.ndim, channels=channels)
        sides = self.settings.patch_size or (_rounded_up(_TRIAL_SIDE, self.settings.multiple_of),) * self.ndim
        self.labels = self.settings.labels or labels_by_trial(module, self.output, self._copies, sides, self.name)

    def _found(self, name: str, value: int | None) -> int:
        if value is None:
            raise NetworkError(
                f"The {name} of the network {self.name} cannot be found in its parameters. Give it as an option of "
                "load_network, or in the settings beside its file."
            )
        return value

    def prepare(
        self, image: Volume, *, axis: int = 0, index: int | None = None, scribbles: LabelScribbles | None = None
    ) -> PreparedImage:
        """Normalise, resample and tile an image; see `NetworkAdapter.prepare`."""
        require_slices(self.ndim, index, self.name)
        part: NDArray[Any] = image.array
        spacing: tuple[float, ...] = image.spacing_kji_mm
        slice_axis = axis if self.ndim == 2 else None
        if index is not None:
            cut = image.slice(axis, index)
            part, spacing, slice_axis = cut.image, cut.spacing_mm, None
        wanted: list[float | None] = list(self.settings.spacing_mm or (None,) * self.ndim)
        if slice_axis is not None:
            wanted.insert(slice_axis, None)
        grid = ImageGrid.lay_out(part.shape, spacing, wanted)
        on_grid = grid.image_to_grid(normalised(part, image.array, self.settings.normalise))
        tensor = torch.from_numpy(on_grid)[None].expand(self._copies, *grid.shape).contiguous()
        tiling = self._tiling(grid.shape, slice_axis)
        return PreparedImage(tensor, tiling, part.shape, grid.matrix, grid.logits_from_grid)

    def _tiling(self, shape: Sequence[int], slice_axis: int | None) -> Tiling:
        """Lay out the windows; where no patch size is known, a slice is one window, padded to the multiple."""
        seen = [side for axis, side in enumerate(shape) if axis != slice_axis]
        patch = self.settings.patch_size
        if patch is None:
            largest = _LARGEST_PATCH if self.ndim == 3 else max(seen) + self.settings.multiple_of
            patch = tuple(_rounded_up(min(side, largest), self.settings.multiple_of) for side in seen)
        gaussian = any(side > size for side, size in zip(seen, patch, strict=True))
        if slice_axis is None:
            return Tiling.patches(shape, patch, overlap=self.settings.overlap, gaussian=gaussian)
        return Tiling.slices(shape, slice_axis, patch_size=patch, overlap=self.settings.overlap, gaussian=gaussian)


def labels_by_trial(
    module: nn.Module, output: Output, channels: int, sides: Sequence[int], name: str
) -> tuple[str, ...]:
    """Run a network, in evaluation mode, once on zeros (1, channels, *sides) to see how many labels it has.

    Raises:
        NetworkError: It fails, or returns no logits; the message calls the network `name`.
    """
    example = next(module.parameters(), torch.zeros(()))
    trial = torch.zeros((1, channels, *sides), device=example.device, dtype=example.dtype)
    try:
        with torch.no_grad():
            values = output.tensor(module(trial))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NetworkError(
            f"A trial run of the network {name} on zeros of shape {tuple(trial.shape)} failed: {error}. Check ndim, "
            "channels and patch_size, or give its labels, with which no trial is needed."
        ) from error
    output.require_logits(values, trial)
    return numbered_labels(output.resolved(values).label_count(int(values.shape[1])))


def numbered_labels(count: int) -> tuple[str, ...]:
    """Name labels that have no names: "background", "label 1", "label 2", ..."""
    return ("background", *(f"label {number}" for number in range(1, count)))


def normalised(part: NDArray[Any], whole: NDArray[Any], how: str | tuple[float, float]) -> FloatArray:
    """Normalise a volume's part, a slice or all of it, by the whole, so that its slices agree.

    Returns:
        float32 of the shape of `part`, finite: NaN counts as 0, and before normalising by "zscore" as the mean. See
        `NetworkSettings.normalise` for how.
    """
    if how == "robust":
        return IntensityRange.estimate(whole).normalize(part)
    if not isinstance(how, str):
        return IntensityRange(*map(float, how)).normalize(part)
    values = part.astype(np.float32)
    if how == "zscore":
        finite = whole[np.isfinite(whole)] if whole.dtype.kind == "f" else whole
        mean, deviation = (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 0.0)
        values = (values - np.float32(mean)) / np.float32(deviation or 1.0)
    largest = float(np.finfo(np.float32).max)
    return np.nan_to_num(values, copy=False, nan=0.0, posinf=largest, neginf=-largest)


def first_convolution(module: nn.Module) -> Tensor | None:
    """Find the weights (out, in, *kernel) of the first convolution, which show dimension and channels; None if none.

    Parameters come in the order in which layers were made, which is nearly always that of their use.
    """
    return next((value for value in module.parameters() if value.ndim in (4, 5)), None)


def _rounded_up(side: int, multiple: int) -> int:
    return math.ceil(side / multiple) * multiple


# Functions that make a network --------------------------------------------------------------------------------------


def names_function(source: str) -> bool:
    """Whether this is "file.py:function" or "package.module:function"."""
    place, separator, function = source.rpartition(":")
    dotted = bool(re.fullmatch(r"\w+(\.\w+)*", place)) and len(place) > 1  # one letter is a drive: C:model
    return bool(separator) and function.isidentifier() and (place.endswith(".py") or dotted)


def make_module(source: str, confirm: Confirm | None, *, folder: Path | None = None) -> nn.Module:
    """Call the function, "file.py:function" or "package.module:function", that makes a network, after consent.

    Args:
        source: The function; a relative path of a file starts in `folder`.
        confirm: See `require_consent`.
        folder: By default the working folder.

    Raises:
        NetworkError: Not confirmed, no such file, module or function, it fails, or it returns no module.
    """
    place, _, function = source.rpartition(":")
    if not names_function(source):
        raise NetworkError(f"{source!r} names no function; write file.py:function or package.module:function.")
    path = (folder or Path()) / place
    if place.endswith(".py") and not path.is_file():
        raise NetworkError(f"There is no file {path}. Check the path.")
    require_consent(
        confirm, f"The network is made by the function {function} of {place}: Python code, which can do anything."
    )
    with foreign_errors(f"{source} could not make the network"):
        module = _module_of_file(path) if place.endswith(".py") else importlib.import_module(place)
        made = getattr(module, function)()
    if not isinstance(made, nn.Module):
        raise NetworkError(f"{source} returns {type(made).__name__}; it must return a torch.nn.Module.")
    return made


def _module_of_file(path: Path) -> Any:
    """Import a file under a name of its own, without entering it among the program's modules."""
    spec = importlib.util.spec_from_file_location(f"_network_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_parameters(module: nn.Module, path: Path) -> None:
    """Fill a module with parameters from a .safetensors, .pt or .pth file; never code.

    Raises:
        WeightsError: The file is missing, damaged, holds more than tensors, or its parameters do not fit.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file of parameters {path}. Check the path.")
    parameters = open_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickle(path)
    known = set(module.state_dict())
    while parameters and not known & set(parameters):
        prefix = next((each for each in _PREFIXES if all(name.startswith(each) for name in parameters)), None)
        if prefix is None:
            break
        parameters = {name.removeprefix(prefix): value for name, value in parameters.items()}
    fill_parameters(module, parameters, path)


# Files that hold a network with its code ----------------------------------------------------------------------------


def archive_names(path: Path) -> list[str]:
    """List what a zip archive holds; nothing for files of other formats."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return []


def is_torchscript(path: Path) -> bool:
    """Distinguish a TorchScript file from one of parameters by what is in it, without loading it."""
    names = archive_names(path)
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def load_torchscript(path: Path, settings: NetworkSettings, confirm: Confirm | None) -> ModuleNetwork:
    """Load a TorchScript network; raises NetworkError if that is not confirmed or fails."""
    require_consent(confirm, f"{path.name} is a TorchScript file: it holds the network's code, which is run as it is.")
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # a damaged file fails in arbitrary ways
        raise NetworkError(f"{path} cannot be loaded as TorchScript: {error}. Get or export it again.") from error
    return ModuleNetwork(module, settings, name=settings.name or path.stem)


class ExportedModule(nn.Module):
    """An exported program as a module.

    A program runs in the mode it was exported in, and PyTorch's own module of it raises an error when another one is
    set; this one lets `eval` and `train` pass.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        for part in self.modules():
            part.training = False

    def train(self, mode: bool = True) -> ExportedModule:
        """Remember the mode; the program does not depend on it."""
        self.training = mode
        return self

    def forward(self, image: torch.Tensor) -> Any:
        """Run the program."""
        return self.program(image)


def is_exported(path: Path) -> bool:
    """Recognise an exported program by what is in the archive, without loading it."""
    known = ("serialized_exported_program.json", "archive_format", "models/model.json")
    return any(name.endswith(known) for name in archive_names(path))


def load_exported(path: Path, settings: NetworkSettings, confirm: Confirm | None) -> ModuleNetwork:
    """Load an exported network; where its input has a fixed size, that is the patch it sees at once.

    Raises:
        NetworkError: Not confirmed, the file cannot be loaded, or it takes no single image.
    """
    require_consent(
        confirm, f"{path.name} is a torch.export file: reading it can run code, and so can the operations it names."
    )
    try:
        program = torch.export.load(path)
        module = ExportedModule(program)
    except Exception as error:  # a damaged file, or one of another version of PyTorch, fails in arbitrary ways
        raise NetworkError(
            f"{path} cannot be loaded by torch.export of PyTorch {torch.__version__}: {error}. Export it again with "
            "this version."
        ) from error
    inputs = set(program.graph_signature.user_inputs)
    images = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    if len(images) != 1 or not isinstance(images[0], torch.Tensor):
        raise NetworkError(f"{path} takes {len(images)} inputs; a network that is corrected takes one image.")
    batch, _, *sides = images[0].shape
    if isinstance(batch, int) and batch != 1:
        raise NetworkError(f"{path} was exported for {batch} images at a time. Export it for one, or for any number.")
    changes: dict[str, Any] = {"name": settings.name or path.stem}
    if settings.patch_size is None and all(isinstance(side, int) for side in sides):
        changes["patch_size"] = tuple(sides)
    return ModuleNetwork(module, settings, **changes)
