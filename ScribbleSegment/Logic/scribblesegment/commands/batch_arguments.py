"""The arguments of `scribblesegment batch`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

DESCRIPTION = """\
Segment all images of a folder as those of a context set are segmented.

Results are OUT/<image>.seg.nrrd and OUT/results.csv. Images that are done already are left as they are, so after an
interruption of any kind the same command goes on where it was left. A damaged image is reported and skipped.
"""

EXAMPLES = """\
examples:
  scribblesegment batch patients --context Liver -o livers
  scribblesegment batch patients --recursive --context Liver --context spleen.context.zip -o organs --workers 4
  scribblesegment batch patients --context Liver -o livers --scheduler tcp://10.0.0.5:8786

"""


def add_batch_arguments(parser: argparse.ArgumentParser, *, parse_axis: Callable[[str], int]) -> None:
    """Add the arguments, named as the fields of `scribblesegment.commands.batch.BatchRequest`."""
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="folder of images, or of folders with one DICOM series each")
    add(
        "--context",
        dest="contexts",
        action="append",
        required=True,
        metavar="TASK_OR_FILE",
        help="segmented images to go by: the name of a task, or a context set's file or folder; given again for each "
        "further structure",
    )
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="folder of the results; made if need be")
    add("-r", "--recursive", action="store_true", help="also take the images in folders inside FOLDER, however deep")
    add(
        "--axis",
        type=parse_axis,
        metavar="AXIS",
        help="k, j or i: axis along which volumes are cut into slices. Default: that of the context sets, else the one "
        "with the largest spacing",
    )
    add(
        "--weights",
        "--model",
        dest="model",
        default="default",
        metavar="NAME",
        help="name (see: scribblesegment info) or file of a network that takes context sets",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability from which a pixel belongs to a structure (default 0.5)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each doing one image at a time; 1 needs no Dask. Default: as many as cores and memory allow, "
        "1 without Dask or with a graphics card",
    )
    add(
        "--scheduler", metavar="ADDRESS", help="use the workers of this Dask scheduler instead, also on other computers"
    )
    add(
        "--threads", type=int, default=1, metavar="N", help="threads of the processor that each worker uses (default 1)"
    )
    add("--redo", action="store_true", help="do all images again, also those whose result was changed by hand")
