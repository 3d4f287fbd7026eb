"""What is measured: networks, the classical methods that people use today, and segmentation from a context alone.

A method is any object with `set_image(image)` and `predict(prompts)`, which gives logits: positive where the structure
is. `load_methods` knows methods by name.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.masks import interpolate_slices
from scribblesegment.data.preprocessing import IntensityRange, NetworkGrid
from scribblesegment.data.prompts import Prompts
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, MissingPackageError, PromptError, WeightsError, require_package
from scribblesegment.simulation.scribbles import VISIBLE
from scribblesegment.weights.registry import find_weights
from studies.common import INSTALL, PIXEL_MM, FloatArray, Mask

PROMPT_KINDS = frozenset({"scribbles", "clicks", "boxes"})
CLASSICAL = ("grow-from-seeds", "random-walker", "grabcut")
LABEL_FUSION = "label-fusion"
INTERPOLATION = "interpolation"

# Chosen on training images with simulated strokes; see docs/evaluation.md.
RANDOM_WALKER_BETA = 5000.0

# As wide as a stroke drawn by hand on these images (4 to 5 pixels of 256, see docs/evaluation.md).
_CLICK_RADIUS = 2.0
_GRABCUT_ITERATIONS = 5
_OBJECT, _BACKGROUND = 1, 2
_SURE = np.float32(20)

# Of label fusion, in cells: the grid's side, a patch's, how far it is looked around a pixel, and in which steps.
_FUSION_SIDE, _PATCH, _REACH, _STEP = 48, 5, 4, 2

Segment = Callable[[FloatArray, NDArray[np.uint8]], Mask]
"""Maps an image (H, W) in [0, 1] and seeds, 1 on the object and 2 on the background, to a mask."""


class Method(Protocol):
    """What is prompted, corrected and measured on one image after the other."""

    prompts: frozenset[str]  # which of `PROMPT_KINDS` can be all that it is given
    least_context: int | None  # the fewest entries from which it predicts without prompts; None if it looks at none

    def set_context(self, context: ContextSet | None) -> None:
        """Take what the next predictions are to be like; the last prediction is forgotten. `set_image` follows."""

    def set_image(self, image: FloatArray) -> None:
        """Take an image (H, W) in [0, 1]; the last prediction is forgotten."""

    def predict(self, prompts: Prompts) -> FloatArray:
        """Give logits (H, W), calibrated, from the context and all prompts so far.

        Raises:
            PromptError: If nothing can be segmented from these prompts.
        """


class NetworkMethod:
    """A network that gets its last logits back with the next prompts.

    Args:
        predictor: As `scribblesegment.Predictor`. Any object with `set_image(image, spacing_mm=…)` and
            `predict(prompts)` will do, which gives logits or something that has them; with `set_context(context)` if
            "context" is among its `capabilities`.
        alone: Whether it is never shown a context, also if it takes some.
    """

    def __init__(self, predictor: Any, *, alone: bool = False) -> None:
        capabilities = frozenset(getattr(predictor, "capabilities", PROMPT_KINDS))
        self.predictor, self.prompts = predictor, PROMPT_KINDS & capabilities
        takes_some = not alone and "context" in capabilities
        self.least_context = getattr(predictor, "least_context", 1) if takes_some else None
        self._takes_context = "context" in capabilities
        self._previous: FloatArray | None = None

    def set_context(self, context: ContextSet | None) -> None:
        """See `Method`."""
        if self._takes_context:
            self.predictor.set_context(None if self.least_context is None else context)
        self._previous = None

    def set_image(self, image: FloatArray) -> None:
        """See `Method`."""
        self.predictor.set_image(image, spacing_mm=PIXEL_MM)
        self._previous = None

    def predict(self, prompts: Prompts) -> FloatArray:
        """See `Method`."""
        found = self.predictor.predict(prompts.with_mask_input(self._previous))
        self._previous = np.asarray(getattr(found, "logits", found), np.float32)
        return self._previous


class ClassicalMethod:
    """A classical method, which starts anew from all strokes each time, as *Grow from seeds* does in Slicer.

    It is made to understand clicks, a disc of seeds each (the later one holds where discs overlap, and every clicked
    pixel itself holds), and boxes, outside of which is background. Where a pixel was painted as both nothing is known
    about it, and where nothing was painted as background nothing stands against the object.

    Args:
        segment: The method.
        from_box: The method from background alone, which a box leaves; None if it has no way to start from that.
    """

    least_context: int | None = None

    def __init__(self, segment: Segment, *, from_box: Segment | None = None) -> None:
        self.prompts = PROMPT_KINDS if from_box is not None else PROMPT_KINDS - {"boxes"}
        self._segment, self._from_box = segment, from_box
        self._image: FloatArray | None = None

    def set_context(self, context: ContextSet | None) -> None:
        """Look at no context."""

    def set_image(self, image: FloatArray) -> None:
        """See `Method`."""
        self._image = image

    def predict(self, prompts: Prompts) -> FloatArray:
        """See `Method`."""
        if self._image is None or prompts.shape != self._image.shape:
            raise PromptError("No image of the prompts' shape was set; call set_image before predict.")
        positive, negative = _painted(prompts) > 0
        seeds = np.where(positive & ~negative, _OBJECT, np.where(negative & ~positive, _BACKGROUND, 0)).astype(np.uint8)
        if not (seeds == _OBJECT).any():
            if self._from_box is None or not len(prompts.boxes):
                raise PromptError(
                    "No stroke is on the object alone, so nothing says where it is. Add a positive stroke."
                )
            return _logits(self._from_box(self._image, seeds))
        if not (seeds == _BACKGROUND).any():
            return _logits(np.ones(seeds.shape, bool))
        return _logits(self._segment(self._image, seeds))


class LabelFusion:
    """Non-local patch-based label fusion: what a network in context should beat. It takes no prompts.

    A pixel's label is the mean label of the context's pixels in a window around its place, weighted by how much the
    patches around both resemble each other (Coupé et al. 2011, Patch-based segmentation using expert priors. NeuroImage
    54:940, sections 2.2 and 2.3): ``exp(-d / h)`` with the mean squared difference ``d`` and the smallest one as ``h``.
    """

    prompts: frozenset[str] = frozenset()
    least_context: int | None = 1

    def __init__(self) -> None:
        self._context: ContextSet | None = None
        self._image: FloatArray | None = None

    def set_context(self, context: ContextSet | None) -> None:
        """See `Method`."""
        self._context = context

    def set_image(self, image: FloatArray) -> None:
        """See `Method`."""
        self._image = IntensityRange.estimate(image).normalize(image)

    def predict(self, prompts: Prompts) -> FloatArray:
        """See `Method`."""
        if self._image is None or not self._context or not prompts.is_empty:
            raise PromptError("Labels are fused from an image and a context alone; prompts are not understood.")
        grid = NetworkGrid(self._image.shape, PIXEL_MM, _FUSION_SIDE)
        images, masks = (part[:, 0] for part in self._context.to_grid(_FUSION_SIDE))
        margin = ((0, 0), (_REACH, _REACH), (_REACH, _REACH))
        images, masks = np.pad(images, margin, mode="edge"), np.pad(masks, margin)
        starts = range(0, 2 * _REACH + 1, _STEP)
        windows = [(..., slice(r, r + _FUSION_SIDE), slice(c, c + _FUSION_SIDE)) for r in starts for c in starts]
        squares = np.concatenate([(images[one] - grid.image_to_grid(self._image)) ** 2 for one in windows])
        distances = ndimage.uniform_filter(squares, (0, _PATCH, _PATCH), mode="nearest")
        weights = np.exp(-distances / (distances.min(axis=0) + 1e-4))
        labels = np.concatenate([masks[one] for one in windows])
        return _logits(grid.logits_from_grid((weights * labels).sum(axis=0) / weights.sum(axis=0)) > 0.5)


def grow_from_seeds(image: FloatArray, seeds: NDArray[np.uint8]) -> Mask:
    """Segment by Slicer's *Grow from seeds*, the slice seen in 256 steps and repeated three times along K."""
    # In whole numbers the sums of differences along a path are exact, and paths that are equally good stay so.
    return np.asarray(grow_cut(np.round(255 * image).astype(np.uint8)[None], seeds[None])[0] == _OBJECT)


def grow_cut(intensities: NDArray[Any], seeds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give every voxel (K, J, I) the label of the seed it is reached from with the least change on the way.

    It is `vtkImageGrowCutSegment`, the filter of *Grow from seeds* (Zhu et al. 2014, An effective interactive medical
    image segmentation method using fast GrowCut. MICCAI workshop on interactive medical image computing).
    """
    from slicer import vtkImageGrowCutSegment
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData

    def framed(array: NDArray[Any]) -> Any:
        # The filter expects padding: outer voxels take labels but pass none on.
        padded = np.pad(array, 1, mode="edge")
        image = vtkImageData()
        image.SetDimensions(*reversed(padded.shape))
        image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
        return image

    grow = vtkImageGrowCutSegment()
    grow.SetIntensityVolume(framed(intensities))
    grow.SetSeedLabelVolume(framed(seeds))
    grow.Update()
    labels = vtk_to_numpy(grow.GetOutput().GetPointData().GetScalars())
    # A copy: the array shares the memory of an output that goes away with the filter.
    return np.array(labels.reshape([side + 2 for side in seeds.shape])[1:-1, 1:-1, 1:-1], dtype=np.uint8)


def random_walker(image: FloatArray, seeds: NDArray[np.uint8], *, beta: float = RANDOM_WALKER_BETA) -> Mask:
    """Segment by scikit-image's random walker (Grady 2006, IEEE TPAMI 28:1768)."""
    from skimage.segmentation import random_walker as walk

    if seeds.all():
        return np.asarray(seeds == _OBJECT)
    if image.min() == image.max():  # scikit-image divides by the standard deviation of the image
        nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
        return np.asarray(seeds[tuple(nearest)] == _OBJECT)
    # Solved directly: at a large beta the iterative solvers stop short of their tolerance, and are no faster.
    return np.asarray(walk(image.astype(np.float64), seeds.astype(np.int32), beta=beta, mode="bf") == _OBJECT)


def grabcut(image: FloatArray, seeds: NDArray[np.uint8], *, unmarked_is_object: bool = False) -> Mask:
    """Segment by OpenCV's GrabCut (Rother et al. 2004, ACM TOG 23:309), with seeds as certain pixels.

    Pixels without a stroke start as probable background: taken for object most of the image stays so, and the result is
    far worse (docs/evaluation.md). From a box alone those inside are probably object.
    """
    import cv2

    trimap = np.full(seeds.shape, cv2.GC_PR_FGD if unmarked_is_object else cv2.GC_PR_BGD, np.uint8)
    trimap[seeds == _OBJECT] = cv2.GC_FGD
    trimap[seeds == _BACKGROUND] = cv2.GC_BGD
    if not np.isin(trimap, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        return np.ones(seeds.shape, bool)
    if not np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        raise PromptError("Everything is marked as background. Leave the object unmarked, or add a positive stroke.")
    grey = np.repeat(np.round(image * 255).astype(np.uint8)[..., None], 3, axis=2)
    background, foreground = np.zeros((2, 1, 65))  # OpenCV's layout of five Gaussians in three channels
    cv2.setRNGSeed(0)  # the mixtures start from k-means with random centres
    cv2.grabCut(grey, trimap, (0, 0, 0, 0), background, foreground, _GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


def interpolate_volume(volume: Volume, annotated: Mapping[int, Mask], axis: int, measured: range) -> Mapping[int, Mask]:
    """Interpolate shapes without looking at the image; beyond the outermost annotated slices is nothing."""
    return interpolate_slices(annotated, spacing_mm=volume.slice(axis, 0).spacing_mm)


def grow_volume(volume: Volume, annotated: Mapping[int, Mask], axis: int, measured: range) -> Mapping[int, Mask]:
    """Grow from annotated slices in three dimensions by `grow_cut`, as the effect *Grow from seeds* would.

    The structure in the annotated slices are the seeds of one segment, all the rest of them those of the other. The
    effect works on the box around the seeds enlarged by a fifth of it and three voxels at least; here that box is
    enlarged to all slices that are measured, where the effect would leave the outermost ones empty.
    """
    if not any(mask.any() for mask in annotated.values()):
        raise PromptError("No annotated slice shows the structure, so nothing can grow. Annotate one that does.")
    seeds = {index: np.where(mask, np.uint8(_OBJECT), np.uint8(_BACKGROUND)) for index, mask in annotated.items()}
    grown = grow_slices(volume, seeds, axis, measured)
    return {index: mask for index, mask in grown.items() if index not in annotated}


def grow_strokes(volume: Volume, strokes: Mapping[int, Prompts], axis: int, measured: range) -> Mapping[int, Mask]:
    """Grow from strokes in some slices in three dimensions, as `grow_volume` does from whole slices."""
    seeds = {}
    for index, prompts in strokes.items():
        positive, negative = prompts.scribbles >= VISIBLE
        seeds[index] = np.where(positive, _OBJECT, np.where(negative, _BACKGROUND, 0)).astype(np.uint8)
    return grow_slices(volume, seeds, axis, measured)


def grow_slices(
    volume: Volume, seeds: Mapping[int, NDArray[np.uint8]], axis: int, measured: range
) -> Mapping[int, Mask]:
    """Grow from seeds (H, W) in some slices; gives the masks of those that the box holds."""
    slices = np.moveaxis(volume.array, axis, 0)
    first, stop = min(seeds), max(seeds) + 1
    margin = max(3, int(0.2 * (stop - 1 - first)))
    start, stop = max(min(first - margin, measured.start), 0), min(max(stop + margin, measured.stop), len(slices))
    marked = np.zeros((stop - start, *slices.shape[1:]), np.uint8)
    for index, of_slice in seeds.items():
        marked[index - start] = of_slice
    grown = grow_cut(np.ascontiguousarray(slices[start:stop]), marked) == _OBJECT
    return {index: grown[index - start] for index in range(start, stop)}


VOLUME_METHODS = {INTERPOLATION: interpolate_volume, "grow-from-seeds": grow_volume}


def load_method(name: str, *, device: str = "auto", alone: bool = False) -> Method:
    """Load a method, once; it then serves one image after another.

    Args:
        name: One of `CLASSICAL`, `LABEL_FUSION`, "random-walker-90" and "grabcut-object", which are classical methods
            with their obvious settings (docs/evaluation.md), a network's name ("default") or the path of its weights,
            `INTERACTIVE+IN_CONTEXT` for both (SP+UVS), or `FILE.py:FUNCTION` for what a function returns.
        device: Where networks run: "auto" or a torch device name.
        alone: Whether a network is never shown a context.

    Raises:
        ConfigError: If there is no such method.
        MissingPackageError: If the method's library is not installed.
        WeightsError: If the file of weights is damaged.
        DeviceError: If the device cannot run the network.
    """
    if name == "grow-from-seeds":
        require_package("slicer", purpose="Grow from seeds", remedy=f"It is part of slicer-core. {INSTALL}")
        return ClassicalMethod(grow_from_seeds)
    if name == "random-walker":
        return ClassicalMethod(random_walker)
    if name == "random-walker-90":
        return ClassicalMethod(partial(random_walker, beta=90))
    if name in ("grabcut", "grabcut-object"):
        require_package("cv2", purpose="GrabCut", remedy=f"It is part of OpenCV. {INSTALL}")
        if name == "grabcut-object":
            return ClassicalMethod(partial(grabcut, unmarked_is_object=True))
        return ClassicalMethod(grabcut, from_box=lambda image, seeds: grabcut(image, seeds, unmarked_is_object=True))
    if name == LABEL_FUSION:
        return LabelFusion()
    return NetworkMethod(load_predictor_of(name, device=device), alone=alone)


def load_predictor_of(name: str, *, device: str = "auto") -> Any:
    """Load a network as a predictor; names and errors as in `load_method`."""
    from scribblesegment.inference.predictor import load_predictor

    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        if spec is None or spec.loader is None or not Path(file).is_file():
            raise ConfigError(f"There is no file {file}.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(getattr(module, function, None)):
            raise ConfigError(f"{file} has no function {function}.")
        return getattr(module, function)()
    try:
        return load_predictor(name, device=device)
    except WeightsError as cause:
        if Path(name).exists():
            raise
        known = ", ".join((*CLASSICAL, LABEL_FUSION))
        raise ConfigError(f"No method {name!r}. Known are {known}; other names are networks, and: {cause}") from cause


def load_methods(names: Iterable[str], *, device: str = "auto") -> tuple[dict[str, Method], dict[str, str]]:
    """Load methods under their short names, leaving out those whose library is not installed.

    Returns:
        The methods by name, and for each that was left out the reason.

    Raises:
        ConfigError: If there is no such method, none is left, or two would be called the same; others as `load_method`.
    """
    methods: dict[str, Method] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            method = load_method(name, device=device)
        except MissingPackageError as error:
            skipped[name] = str(error)
            continue
        if short_name(name) in methods:
            raise ConfigError(f"Two methods would be called {short_name(name)}. Rename a file of weights.")
        methods[short_name(name)] = method
    if not methods:
        raise ConfigError(f"There is no method to measure. {' '.join(skipped.values())}")
    return methods, skipped


def short_name(name: str) -> str:
    """Shorten the path of weights to the file's name, and `FILE.py:FUNCTION` to the function's."""
    parts = [part.rpartition(".py:")[2] or part for part in name.split("+")]
    return "+".join(Path(part).stem if Path(part).suffix in (".safetensors", ".pt", ".pth") else part for part in parts)


def weights_digests(names: Iterable[str]) -> dict[str, str]:
    """Give, by the short names of methods that are files, what tells these files from other ones."""
    digests = {}
    for name in names:
        files = [path for part in name.split("+") for path in _files_of(part)]
        if files:
            content = b"".join(path.read_bytes() for path in files)
            digests[short_name(name)] = hashlib.sha256(content).hexdigest()[:16]
    return digests


def _files_of(name: str) -> list[Path]:
    """The files of a network by its path or its name, with that of its partner; none for other methods."""
    if Path(name).is_file():
        return [Path(name)]
    try:
        info = find_weights(name)
    except WeightsError:
        return []
    partner = _files_of(info.in_context) if info.in_context else []
    return [path for path in (info.path(), *partner) if path.is_file()]


def _logits(mask: Mask) -> FloatArray:
    return np.where(mask, _SURE, -_SURE)


def _painted(prompts: Prompts) -> FloatArray:
    """Turn all prompts into strokes, float32 (2, H, W)."""
    scribbles = np.array(prompts.scribbles)
    rows, columns = np.ogrid[: prompts.shape[0], : prompts.shape[1]]
    clicks = list(zip(prompts.point_coords.tolist(), prompts.point_labels.tolist(), strict=True))
    for (row, column), label in clicks:
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= _CLICK_RADIUS**2
        scribbles[:, disc] = [[label], [1 - label]]
    for (row, column), label in clicks:
        scribbles[:, row, column] = label, 1 - label
    if len(prompts.boxes):
        outside = np.ones(prompts.shape, dtype=bool)
        for (top, left), (bottom, right) in prompts.boxes.tolist():
            outside[top:bottom, left:right] = False
        scribbles[1, outside] = 1
    return scribbles
