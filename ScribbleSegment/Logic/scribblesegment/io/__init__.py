"""Images, label maps and segmentations from files and to files, with their geometry.

The names below are imported when they are first used: `io.storage` is needed everywhere, SimpleITK only here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scribblesegment.io.dicom import SeriesInfo, list_series
    from scribblesegment.io.dicom_segmentation import write_dicom_segmentation
    from scribblesegment.io.segmentation import default_segment, write_segmentation
    from scribblesegment.io.volumes import READ_EXTENSIONS, WRITE_EXTENSIONS, read_labelmap, read_volume, write_labelmap

__all__ = [
    "READ_EXTENSIONS",
    "WRITE_EXTENSIONS",
    "SeriesInfo",
    "default_segment",
    "list_series",
    "read_labelmap",
    "read_volume",
    "write_dicom_segmentation",
    "write_labelmap",
    "write_segmentation",
]

_MODULE_OF = {
    "SeriesInfo": "dicom",
    "list_series": "dicom",
    "write_dicom_segmentation": "dicom_segmentation",
    "default_segment": "segmentation",
    "write_segmentation": "segmentation",
}


def __getattr__(name: str) -> object:
    """Import a name of this package from the module that defines it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULE_OF.get(name, "volumes")
    return getattr(import_module(f"{__name__}.{module}"), name)
