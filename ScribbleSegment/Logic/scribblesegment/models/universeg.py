"""UniverSeg: segmentation from a context set alone, without prompts; the baseline in context.

Source: MultiverSeg, sections 2 and 4, which compares with it (Butoi et al., ICCV 2023). Parameter names and layers are
those of the published checkpoint: no normalisation, and no activation after the cross-convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from scribblesegment.models.cross_unet import CrossUNet, check_features


@dataclass(frozen=True)
class UniverSegConfig:
    """Shape of a `UniverSeg`.

    Attributes:
        features: Channels of each resolution level, full resolution first.
    """

    features: tuple[int, ...] = (64, 64, 64, 64)

    def __post_init__(self) -> None:
        """Normalise lists from JSON and refuse impossible shapes.

        Raises:
            ConfigError: If there are fewer than two levels or a width is not positive.
        """
        object.__setattr__(self, "features", check_features(self.features))


class UniverSeg(CrossUNet):
    """Encoder-decoder from an image and a context set to the logits of one structure.

    Of the channels in `scribblesegment.models.encoding` it reads the image only. The method knows no empty context set;
    one is replaced by an entry of 0.5 as in MultiverSeg, and says nothing about the structure.
    """

    def __init__(self, config: UniverSegConfig | None = None) -> None:
        """Build the network with freshly initialised parameters."""
        config = config or UniverSegConfig()
        super().__init__(config.features, 1, normalise=False, cross_activation=False)
        self.config = config
