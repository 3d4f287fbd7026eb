"""Images, label maps and segmentations from files and to files, with their geometry. Imports SimpleITK."""

from scribblesegment.io.dicom import SeriesInfo, list_series
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
    "write_labelmap",
    "write_segmentation",
]
