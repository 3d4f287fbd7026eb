"""What the module keeps in the scene."""

from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class ScribbleSegmentParameterNode:
    """The choice that was made in this scene; empty texts stand for the user's last choice.

    Attributes:
        model: Name of a network.
        device: "auto" or a torch device name.
    """

    model: str = ""
    device: str = ""
