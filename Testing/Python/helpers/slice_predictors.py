"""Stand-ins for networks that segment slices, for tests of propagation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Settings under which a slice is what the network sees in it, and nothing is added.
NETWORK_ALONE = {"prior_weight": 0.0, "image_weight": 0.0, "trend": False}


@dataclass
class Prediction:
    """Logits with the mask they stand for."""

    logits: NDArray[np.float32]

    def mask(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        return self.logits > 0


class SlicePredictor:
    """Remembers what it was given, in order; subclasses say what they see."""

    def __init__(self, capabilities: tuple[str, ...] = ("scribbles", "context")) -> None:
        self.capabilities = frozenset(capabilities)
        self.images: list[tuple[NDArray, tuple[float, float], object]] = []
        self.contexts: list[object] = []
        self.prompts: list[object] = []
        self.calls: list[str] = []
        self.context = None
        self.image_token = None

    def set_image(self, image, *, spacing_mm=(1.0, 1.0), intensity_range=None):
        self.calls.append("image")
        self.images.append((image, spacing_mm, intensity_range))
        self.normalized = intensity_range.normalize(image)

    def set_context(self, context):
        self.calls.append("context")
        self.contexts.append(context)
        self.context = context

    def encode(self):
        self.calls.append("encode")

    def predict(self, prompts, *, newest=None, cancelled=None):
        self.calls.append("predict")
        self.prompts.append(prompts)
        return Prediction(np.asarray(self.see(prompts), np.float32))

    def see(self, prompts):
        raise NotImplementedError


class Follower(SlicePredictor):
    """Sees in every slice what its neighbours lead to expect."""

    def see(self, prompts):
        return prompts.mask_input


class Brightness(SlicePredictor):
    """Sees what is bright, near what is expected."""

    def __init__(self, *, contrast: float = 16.0, trust: float = 0.5, threshold: float = 0.5, **options) -> None:
        super().__init__(**options)
        self.contrast, self.trust, self.threshold = contrast, trust, threshold

    def see(self, prompts):
        return self.contrast * (self.normalized - self.threshold) + self.trust * prompts.mask_input


class Constant(SlicePredictor):
    """Sees the same logit everywhere."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def see(self, prompts):
        return np.full(prompts.shape, self.logit)
