"""The arguments of `scribblesegment refine`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

DESCRIPTION = """\
Correct what a network says about an image: refine its last layers for this image until they follow what was painted.

Corrections are a label map or segmentation on the image's grid: segments named like labels of the network mean these,
other values are the network's label numbers, 0 marks nothing, and --background marks what is none of them. The network
itself is not changed.
"""

EXAMPLES = """\
examples:
  scribblesegment refine ct.nii.gz --network Dataset003_Liver/nnUNetTrainer__nnUNetPlans__3d_fullres \\
      --corrections fixes.seg.nrrd -o liver.seg.nrrd --plot g.png
  scribblesegment refine mri.nrrd --network spine.pt --corrections fixes.nrrd --slice k:12 -o slice.nrrd
  scribblesegment refine ct.nrrd --network nets.py:organs --trust --corrections fixes.nrrd --new-label 4=tumour \\
      -o out.seg.nrrd

"""


def add_refine_arguments(parser: argparse.ArgumentParser, *, parse_slice: Callable[[str], object]) -> None:
    """Add the arguments, named as the fields of `scribblesegment.commands.refine.RefineRequest`."""
    add = parser.add_argument
    add("image", type=Path, metavar="IMAGE", help=".nrrd, .nii.gz, .mha, .png, .jpg, .tif, ... or a DICOM folder")
    add(
        "--network",
        required=True,
        metavar="NET",
        help="TorchScript or torch.export file, file.py:function, folder of an nnU-Net v2, MONAI bundle, or a name "
        "(see: scribblesegment info)",
    )
    add("--corrections", type=Path, required=True, metavar="LABELMAP", help="painted labels on the image's grid")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help=".seg.nrrd, .nrrd, .nii.gz, .mha, .png (2D)")
    add("--background", type=int, default=255, metavar="VALUE", help="value that marks background (default 255)")
    add(
        "--new-label",
        dest="new_labels",
        type=parse_new_label,
        action="append",
        default=[],
        metavar="VALUE=NAME",
        help="add a label that the network lacks, painted in this value; may be given again",
    )
    add(
        "--slice",
        dest="slices",
        type=parse_slice,
        metavar="AXIS[:INDEX]",
        help="networks that see slices: k:12 corrects that slice alone, j all slices along j (default: all along k)",
    )
    _add_network_options(parser)
    _add_refinement_options(parser)
    add("--plot", type=Path, metavar="PNG", help="also draw how the constraint loss g fell")
    add("--strict", action="store_true", help="exit with 3 if the result does not follow every correction")
    add("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("network").add_argument
    add("--weights", type=Path, metavar="FILE", help="parameters for a network that file.py:function makes")
    add("--fold", metavar="NAME", help="fold of an nnU-Net (default: the first there is)")
    add("--trust", action="store_true", help="run code that comes with the network without asking")


def _add_refinement_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("refinement").add_argument
    add("--layers", type=int, metavar="N", help="refine the last N layers (default 6)")
    add(
        "--layer",
        dest="layer_names",
        action="append",
        default=[],
        metavar="NAME",
        help="refine this layer or module instead; may be given again",
    )
    add("--iterations", type=int, metavar="M", help="most updates of the network (default 130)")
    add("--learning-rate", type=float, metavar="RATE", help="size of an update")
    add("--anchor", type=float, metavar="WEIGHT", help="hold what was not corrected (default 10; 0: not at all)")
    add("--paper", action="store_true", help="algorithm 1 of Sambaturu et al. with nothing added")
    add("--no-growing", dest="growing", action="store_false", help="leave corrections as painted")
    add(
        "--threshold",
        type=float,
        metavar="T",
        help="corrections grow to neighbours whose intensity differs by less (default: from the image)",
    )
    add("--reach", dest="reach_mm", type=float, metavar="MM", help="farthest they grow (default: five pixels)")


def parse_new_label(text: str) -> tuple[int, str]:
    """Read "4=tumour".

    Raises:
        argparse.ArgumentTypeError: Something else.
    """
    value, separator, name = text.partition("=")
    if not (separator and value.strip().isdecimal() and name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no new label. Give the painted value and a name: 4=tumour")
    return int(value), name.strip()
