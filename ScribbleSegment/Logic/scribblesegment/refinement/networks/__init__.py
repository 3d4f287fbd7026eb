"""Networks that can be corrected, in the formats that people have them in."""

from scribblesegment.refinement.networks.embedded import EmbeddedNetwork
from scribblesegment.refinement.networks.loading import load_network
from scribblesegment.refinement.networks.network import PreparedImage, RefinableNetwork
from scribblesegment.refinement.networks.python_module import ModuleNetwork
from scribblesegment.refinement.networks.settings import NetworkSettings

__all__ = [
    "EmbeddedNetwork",
    "ModuleNetwork",
    "NetworkSettings",
    "PreparedImage",
    "RefinableNetwork",
    "load_network",
]
