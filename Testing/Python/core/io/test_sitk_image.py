from __future__ import annotations

import gc

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from scribblesegment.errors import FileFormatError, ImageError
from scribblesegment.io.sitk import ijk_to_ras_of, image_from, simpleitk_errors, spatial_size, voxels_of


def test_voxels_share_the_image_s_memory_and_outlive_it():
    image = sitk.Image([64, 64, 64], sitk.sitkInt16)
    image += 7
    address = sitk.GetArrayViewFromImage(image).__array_interface__["data"][0]
    voxels = voxels_of(image)
    assert voxels.__array_interface__["data"][0] == address
    del image
    gc.collect()
    others = [sitk.Image([64, 64, 64], sitk.sitkInt16) for _ in range(20)]  # would take the memory, were it free
    assert (voxels == 7).all()
    assert len(others) == 20
    assert not voxels.flags.writeable


@pytest.mark.parametrize(
    ("size", "pixel", "shape"),
    [
        ((5, 4), sitk.sitkUInt8, (1, 4, 5)),
        ((5, 4, 3), sitk.sitkFloat32, (3, 4, 5)),
        ((5, 4, 3, 1), sitk.sitkUInt8, (3, 4, 5)),
        ((5, 4), sitk.sitkVectorUInt8, (1, 4, 5, 2)),
        ((5, 4, 3), sitk.sitkVectorUInt8, (3, 4, 5, 3)),
    ],
)
def test_voxels_come_as_planes_rows_columns_and_components(size, pixel, shape):
    assert voxels_of(sitk.Image(size, pixel)).shape == shape


def test_left_and_posterior_change_sign():
    image = sitk.Image([2, 2, 2], sitk.sitkUInt8)
    image.SetOrigin((10, 20, 30))
    image.SetSpacing((1, 2, 3))
    np.testing.assert_array_equal(ijk_to_ras_of(image), [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])


def test_a_2d_image_lies_in_the_plane_zero():
    image = sitk.Image([2, 2], sitk.sitkUInt8)
    image.SetOrigin((10, 20))
    np.testing.assert_array_equal(ijk_to_ras_of(image), [[-1, 0, 0, -10], [0, -1, 0, -20], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_a_matrix_comes_back_from_an_image():
    matrix = np.array([[0.0, -2, 0.1, 5], [1, 0, 0.2, 6], [0, 0.3, 3, 7], [0, 0, 0, 1]])
    np.testing.assert_allclose(ijk_to_ras_of(image_from(np.zeros((2, 2, 2), np.uint8), matrix)), matrix)


def test_four_long_sides_are_refused_and_a_fourth_of_length_one_is_not():
    assert spatial_size(sitk.Image([5, 4, 3, 1], sitk.sitkUInt8), "x.nrrd") == (5, 4, 3)
    with pytest.raises(ImageError, match=r"x\.nrrd has 4 dimensions"):
        spatial_size(sitk.Image([5, 4, 3, 2], sitk.sitkUInt8), "x.nrrd")


def test_simpleitk_s_errors_become_one_line_with_cause_and_remedy():
    with pytest.raises(FileFormatError) as caught, simpleitk_errors("/no/where.nrrd", "read", "Check the path."):
        sitk.ReadImage("/no/where.nrrd")
    message = str(caught.value)
    assert message.startswith("Cannot read /no/where.nrrd: ")
    assert message.endswith(". Check the path.")
    assert "\n" not in message
    assert "0x" not in message
    assert ".cxx" not in message
