"""Images on known grids, command lines run in this process, and what they say."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813

from scribblesegment import Volume, cli, write_labelmap, write_segmentation

STRAIGHT = np.array([[-0.8, 0, 0, 12.0], [0, -0.7, 0, -5.0], [0, 0, 3.0, 7.0], [0, 0, 0, 1.0]])
"""The grid of images in these tests, voxel index (i, j, k, 1) to RAS millimetres."""


def write_image(path, array, ijk_to_ras=STRAIGHT):
    image = sitk.GetImageFromArray(array)
    if image.GetDimension() == 3:
        lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ ijk_to_ras
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


def paint(path, marks, *, shape, ijk_to_ras=STRAIGHT, segments=None):
    """Write a label map from pairs of places and labels, with names of `segments` if there are any."""
    labels = np.zeros(shape, np.uint8)
    for index, label in marks:
        labels[index] = label
    if segments:
        write_segmentation(path, Volume(labels, ijk_to_ras), segments)
    else:
        write_labelmap(path, Volume(labels, ijk_to_ras))
    return path


def run(*arguments, load=None) -> int:
    """Run a command line; wrong use counts as its exit code."""
    try:
        return cli.main([str(argument) for argument in arguments], load=load)
    except SystemExit as stopped:
        return stopped.code


def error_of(capsys) -> str:
    """The one line on standard error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
