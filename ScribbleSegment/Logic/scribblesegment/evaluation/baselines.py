"""Classical methods that people use today, to compare with.

Each takes an image and strokes and gives a mask. None of them learns anything; all of them need strokes on the object,
and all follow the same rules: a stroke holds, wherever a pixel was painted both as object and as background nothing is
known about it, and where nothing was painted as background nothing stands against the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scribblesegment.data import validation
from scribblesegment.errors import ImageError, PromptError, require_package

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

Method = Callable[[FloatArray, FloatArray], Mask]
"""Maps an image float32 (H, W) in [0, 1] and strokes float32 (2, H, W) to a mask bool (H, W)."""

RANDOM_WALKER_BETA = 5000.0
"""Chosen among 90 to 20000 on training images with simulated strokes; see docs/evaluation.md."""

GRABCUT_ITERATIONS = 5

_OBJECT, _BACKGROUND = 1, 2
_GROW_FROM_SEEDS = "scribblesegment.mrml.grow_from_seeds"
_INSTALL = 'Install the comparison\'s libraries with: pip install "scribblesegment[evaluation]".'


def grow_from_seeds(image: FloatArray, scribbles: FloatArray) -> Mask:
    """Segment by Slicer's *Grow from seeds* (`vtkImageGrowCutSegment`), the slice repeated three times.

    Args:
        image: (H, W) in [0, 1].
        scribbles: (2, H, W) in [0, 1]: strokes on the object, strokes on the background.

    Returns:
        bool (H, W).

    Raises:
        MissingDependencyError: If slicer-core is not installed.
        ImageError: If the image is not 2D or has values outside [0, 1].
        PromptError: If the strokes have another shape, or none is on the object.
    """
    grow_slice = load_grow_from_seeds()
    seeds = _seeds(image, scribbles)
    if not (seeds == _BACKGROUND).any():
        return np.ones(seeds.shape, dtype=bool)
    return np.asarray(grow_slice(image, seeds) == _OBJECT)


def load_grow_from_seeds() -> Callable[[FloatArray, NDArray[np.uint8]], NDArray[np.uint8]]:
    """Load Slicer's filter.

    Raises:
        MissingDependencyError: If slicer-core is not installed.
    """
    # By name: this layer does not know Slicer, and lives without it.
    module = require_package(
        _GROW_FROM_SEEDS,
        purpose="Grow from seeds",
        remedy=f"It is part of slicer-core, which exists for Python 3.10 to 3.13 on common machines. {_INSTALL}",
    )
    function: Callable[[FloatArray, NDArray[np.uint8]], NDArray[np.uint8]] = module.grow_from_seeds
    return function


def random_walker(image: FloatArray, scribbles: FloatArray, *, beta: float = RANDOM_WALKER_BETA) -> Mask:
    """Segment by scikit-image's random walker: which strokes a random walk from each pixel reaches first.

    Args:
        image: (H, W) in [0, 1].
        scribbles: (2, H, W) in [0, 1]: strokes on the object, strokes on the background.
        beta: How much an edge hinders the walk.

    Returns:
        bool (H, W).

    Raises:
        ImageError: If the image is not 2D or has values outside [0, 1].
        PromptError: If the strokes have another shape, or none is on the object.

    References:
        Grady 2006, Random walks for image segmentation. IEEE TPAMI 28:1768.
    """
    from skimage.segmentation import random_walker as walk

    seeds = _seeds(image, scribbles)
    if not (seeds == _BACKGROUND).any():
        return np.ones(seeds.shape, dtype=bool)
    if seeds.all():
        return seeds == _OBJECT
    if image.min() == image.max():
        return _nearest_seed(seeds) == _OBJECT  # scikit-image divides by the standard deviation of the image
    # Solved directly: at a large beta the iterative solvers stop short of their tolerance, and are no faster.
    labels = walk(image.astype(np.float64), seeds.astype(np.int32), beta=beta, mode="bf")
    return np.asarray(labels == _OBJECT)


def grabcut(
    image: FloatArray, scribbles: FloatArray, *, unmarked: Literal["background", "object"] = "background"
) -> Mask:
    """Segment by OpenCV's GrabCut, with strokes as certain pixels.

    Its mixture models start from a guess about the pixels without strokes. Taken for background until they prove to be
    object, the cut grows from the strokes on the object and does far better than the other way round, where most of the
    image starts as object and stays so.

    Args:
        image: (H, W) in [0, 1].
        scribbles: (2, H, W) in [0, 1]: strokes on the object, strokes on the background.
        unmarked: What pixels without a stroke are probably. Taken for object they need no stroke on it, where there
            are strokes on the background: that is how GrabCut starts from a box.

    Returns:
        bool (H, W).

    Raises:
        MissingDependencyError: If OpenCV is not installed.
        ImageError: If the image is not 2D or has values outside [0, 1].
        PromptError: If the strokes have another shape, or nothing can be object.

    References:
        Rother et al. 2004, "GrabCut": interactive foreground extraction using iterated graph cuts. ACM TOG 23:309.
    """
    cv2 = load_opencv()
    seeds = _seeds(image, scribbles, need_object=unmarked == "background")
    guess = cv2.GC_PR_BGD if unmarked == "background" else cv2.GC_PR_FGD
    trimap = np.full(seeds.shape, guess, dtype=np.uint8)
    trimap[seeds == _OBJECT] = cv2.GC_FGD
    trimap[seeds == _BACKGROUND] = cv2.GC_BGD
    if not np.isin(trimap, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        return np.ones(seeds.shape, dtype=bool)
    if not np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
        raise PromptError("Everything is marked as background. Leave the object unmarked, or add a positive stroke.")
    grey = np.round(image * 255).astype(np.uint8)
    models = [np.zeros((1, 65)) for _ in range(2)]  # OpenCV's layout of five Gaussians in three channels
    cv2.setRNGSeed(0)  # the mixtures start from k-means with random centres
    cv2.grabCut(
        np.repeat(grey[..., np.newaxis], 3, axis=2), trimap, None, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK
    )
    return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


def load_opencv() -> Any:
    """Import OpenCV.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    return require_package("cv2", purpose="GrabCut", remedy=f"It is part of OpenCV. {_INSTALL}")


def _seeds(image: FloatArray, scribbles: FloatArray, *, need_object: bool = True) -> NDArray[np.uint8]:
    """Turn strokes into a map of 1 (object), 2 (background) and 0 (not painted, or painted as both)."""
    validation.unit_range(validation.image_array(image, ndim=(2,)), name="image", error=ImageError)
    strokes = validation.image_array(scribbles, ndim=(3,), name="scribbles", error=PromptError)
    validation.same_shape(
        strokes.shape, (2, *image.shape), name="scribbles", reference="two strokes' maps on the image"
    )
    validation.unit_range(strokes, name="scribbles", error=PromptError)
    positive, negative = strokes > 0
    seeds = np.zeros(image.shape, dtype=np.uint8)
    seeds[positive & ~negative] = _OBJECT
    seeds[negative & ~positive] = _BACKGROUND
    if need_object and not (seeds == _OBJECT).any():
        raise PromptError("No stroke is on the object alone, so nothing says where it is. Add a positive stroke.")
    return seeds


def _nearest_seed(seeds: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return np.asarray(seeds[tuple(nearest)])
