"""How images of a test set are changed so that a network fails on them as it does on another hospital's.

Three synthetic shifts, each with one strength; 0 leaves an image as it is. What is random about one comes from the
generator alone, so that every method sees the same image.

- contrast: another sequence or window. A gamma curve, then a part of the image with tissues darker than a knee made
  bright, as between T1 and T2, or as a narrow window folds grey levels.
- scanner: a smooth bias field of the receiving coil, blur, and noise.
- resolution: fewer pixels, brought back by linear interpolation; the strength is the factor, 1 leaves the image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.errors import ConfigError
from scribblesegment.simulation.fields import FloatArray, gaussian_blur, smooth_noise

NONE, REAL = "none", "real"

# At a strength of 1.
_GAMMA, _FOLD = 1.0, 0.7  # logarithm of the exponent; share of the folded image
_KNEE = (0.3, 0.5)  # quantiles of the image without its dark surroundings
_SURROUNDINGS = 0.04  # what is darker is air
_BIAS, _BIAS_SIGMA = 0.6, 0.25  # logarithm of the field; part of the side
_BLUR, _NOISE = 1.5, 0.12  # pixels; of the range [0, 1]


def contrast(image: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Change which tissue is bright; see the module. (H, W) in [0, 1], float32."""
    exponent = np.exp(_GAMMA * strength * rng.choice([-1.0, 1.0]))
    curved = image**exponent
    tissue = curved[image > _SURROUNDINGS]
    if not tissue.size:
        return image
    knee = float(np.quantile(tissue, rng.uniform(*_KNEE)))
    folded = np.abs(curved - knee) / max(knee, 1 - knee)
    # Air stays dark whatever the sequence.
    share = min(1.0, _FOLD * strength) * np.clip(image / _SURROUNDINGS, 0, 1)
    return _unit((1 - share) * curved + share * folded)


def scanner(image: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Add a bias field, blur and noise; see the module. (H, W) in [0, 1], float32."""
    field = np.exp(_BIAS * strength * smooth_noise(image.shape, _BIAS_SIGMA * max(image.shape), rng))
    blurred = gaussian_blur(image * field, _BLUR * strength)
    # The magnitude of a complex signal with noise in both channels, as in magnetic resonance (Rice distribution).
    real, imaginary = _NOISE * strength * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return _unit(np.hypot(blurred + real, imaginary))


def resolution(image: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Show the image with fewer pixels; see the module. (H, W) in [0, 1], float32."""
    if strength < 1:
        raise ConfigError(f"The strength of a lower resolution is the factor, at least 1; got {strength}.")
    grid = NetworkGrid(image.shape, (1.0, 1.0), max(1, round(max(image.shape) / strength)))
    return _unit(grid.logits_from_grid(grid.image_to_grid(image)))


SHIFTS: dict[str, Callable[[FloatArray, float, np.random.Generator], FloatArray]] = {
    "contrast": contrast,
    "scanner": scanner,
    "resolution": resolution,
}


def shifted(image: FloatArray, name: str, strength: float, rng: np.random.Generator) -> FloatArray:
    """Change an image by name; "none" and "real", images of another scanner, are shown as they are.

    Raises:
        ConfigError: If there is no such shift.
    """
    if name in (NONE, REAL):
        return image
    if name not in SHIFTS:
        raise ConfigError(f"No shift {name!r}; there are {NONE}, {REAL}, {', '.join(SHIFTS)}.")
    return SHIFTS[name](image, strength, rng)


def _unit(image: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> FloatArray:
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)
