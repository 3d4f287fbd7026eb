"""MultiverSeg: interactive segmentation in context, at any width and depth.

Source: MultiverSeg, section 3.2 and appendix A.1. Parameter names, the number of levels, the places of the
normalisation and the maximum pooling are those of the published checkpoint, which the text describes differently.
"""

from __future__ import annotations

from dataclasses import dataclass

from scribblesegment.errors import ConfigError
from scribblesegment.models.cross_unet import CrossUNet, check_features
from scribblesegment.models.encoding import CHANNELS


@dataclass(frozen=True)
class MultiverSegConfig:
    """Shape of a `MultiverSeg`.

    Attributes:
        features: Channels of each resolution level, full resolution first.
        in_channels: Channels of the target: image, box, positive and negative prompts, previous logits.
    """

    features: tuple[int, ...] = (256, 256, 256, 256)
    in_channels: int = CHANNELS

    def __post_init__(self) -> None:
        """Normalise lists from JSON and refuse impossible shapes.

        Raises:
            ConfigError: If a number is not positive or there are fewer than two levels.
        """
        object.__setattr__(self, "features", check_features(self.features))
        if self.in_channels < 1:
            raise ConfigError(f"in_channels must be positive, got {self.in_channels}.")


class MultiverSeg(CrossUNet):
    """Encoder-decoder from image, prompts and a context set to the logits of one structure."""

    def __init__(self, config: MultiverSegConfig | None = None) -> None:
        """Build the network with freshly initialised parameters."""
        config = config or MultiverSegConfig()
        super().__init__(config.features, config.in_channels, normalise=True, cross_activation=True)
        self.config = config
