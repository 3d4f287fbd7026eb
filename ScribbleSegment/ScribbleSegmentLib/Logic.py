"""The network that comes with the extension, as scripts and the module's self-test use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from scribblesegment import Predictor


class EmbeddedModel:
    """Segments slices where the caller is, without a thread; torch is imported only when it is first used."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    @property
    def predictor(self) -> Predictor:
        """The default predictor, loaded on first use.

        Raises:
            scribblesegment.WeightsError: The embedded weights are missing or damaged.
        """
        if self._predictor is None:
            from scribblesegment import load_predictor

            self._predictor = load_predictor()
        return self._predictor

    def segmentSlice(self, image: np.ndarray, scribbles: np.ndarray, spacingMm: tuple[float, float]) -> np.ndarray:
        """Segment one slice from strokes.

        Args:
            image: Intensities, shape (H, W).
            scribbles: Positive and negative strokes in [0, 1], shape (2, H, W).
            spacingMm: Distance between rows and between columns in millimetres.

        Returns:
            Mask, bool, shape (H, W).
        """
        from scribblesegment import Prompts

        prompts = Prompts.empty(image.shape).with_scribble(scribbles[0] > 0)
        if scribbles[1].any():
            prompts = prompts.with_scribble(scribbles[1] > 0, positive=False)
        self.predictor.set_image(image, spacing_mm=spacingMm)
        return self.predictor.predict(prompts).mask()
