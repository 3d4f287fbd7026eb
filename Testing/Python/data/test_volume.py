"""Volumes and label volumes: voxels with their place in the patient; and checks at the doors of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scribblesegment.data.validation import Range, check_ranges
from scribblesegment.data.volume import LabelVolume, Segment, Volume
from scribblesegment.errors import ConfigError, GeometryError, ImageError


@st.composite
def matrices(draw):
    """Oblique, flipped, anisotropic grids anywhere within half a metre."""
    rotation = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))).as_matrix()
    flips = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    spacing = draw(st.tuples(*[st.floats(0.05, 20)] * 3))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * flips * spacing
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return matrix


def a_volume(shape=(3, 4, 5), spacing_ijk=(0.5, 2.0, 5.0)):
    return Volume(np.arange(np.prod(shape)).reshape(shape), np.diag((*spacing_ijk, 1.0)))


@given(matrices())
def test_spacing_directions_and_origin_rebuild_the_matrix(matrix):
    volume = Volume(np.zeros((2, 3, 4)), matrix)
    np.testing.assert_allclose(volume.directions * volume.spacing_ijk_mm, matrix[:3, :3], rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(volume.directions, axis=0), 1)
    np.testing.assert_array_equal(volume.origin_ras, matrix[:3, 3])
    assert not volume.is_sheared


@pytest.mark.parametrize(
    ("axis", "name", "shape", "spacing"),
    [(0, "k", (4, 5), (2.0, 0.5)), (1, "J", (3, 5), (5.0, 0.5)), (2, "i", (3, 4), (5.0, 2.0))],
)
def test_a_slice_has_the_voxels_and_spacings_of_the_other_two_axes(axis, name, shape, spacing):
    volume = a_volume()
    cut = volume.slice(name, 2)
    assert np.shares_memory(cut.image, volume.array)
    np.testing.assert_array_equal(cut.image, np.take(volume.array, 2, axis))
    assert cut.image.shape == shape
    assert cut.spacing_mm == spacing
    assert (cut.axis, cut.index) == (axis, 2)
    assert volume.slice(axis, 2).axis == axis


def test_neither_voxels_nor_matrix_can_be_changed_through_the_volume():
    voxels, matrix = np.zeros((2, 2, 2)), np.eye(4)
    volume = Volume(voxels, matrix)
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        volume.ijk_to_ras[0, 0] = 2
    matrix[0, 0] = 7
    assert volume.ijk_to_ras[0, 0] == 1
    voxels[0, 0, 0] = 3  # the owner's array stays writeable, and is not copied
    assert volume.array[0, 0, 0] == 3


def test_sheared_and_very_anisotropic_grids_are_kept_and_rounding_in_the_last_row_is_removed():
    matrix = np.diag((1e-5, 1e-5, 10.0, 1.0))
    assert not Volume(np.zeros((1, 1, 1)), matrix).is_sheared
    matrix[1, 2], matrix[3, 0] = 5.0, 1e-17
    volume = Volume(np.zeros((1, 1, 1)), matrix)
    assert volume.is_sheared
    np.testing.assert_array_equal(volume.ijk_to_ras[:3], matrix[:3])
    assert volume.ijk_to_ras[3].tolist() == [0, 0, 0, 1]


def test_other_voxels_on_the_same_grid_keep_matrix_and_type():
    labels = LabelVolume(np.zeros((2, 3, 4), np.uint8), np.diag((1.0, 2, 3, 1)), (Segment(1, "liver", (1, 0, 0)),))
    other = labels.with_array(np.ones((2, 3, 4), bool))
    assert isinstance(other, LabelVolume)
    assert other.segments == labels.segments
    assert other.array.all()
    assert other.same_grid(labels)


@settings(max_examples=30)
@given(matrices(), st.integers(0, 2))
def test_grids_half_a_voxel_apart_differ_and_float32_rounding_does_not_matter(matrix, axis):
    volume = Volume(np.zeros((20, 30, 40)), matrix)
    shifted = matrix.copy()
    shifted[:3, 3] += 0.5 * matrix[:3, axis]
    assert not volume.same_grid(Volume(volume.array, shifted))
    assert volume.same_grid(Volume(volume.array, matrix.astype(np.float32)))


def test_a_small_rotation_shows_at_the_far_corner():
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 0.001).as_matrix()
    small, large = np.zeros((1, 2, 2)), np.zeros((1, 500, 500))
    assert Volume(small, np.eye(4)).same_grid(Volume(small, turned))
    assert not Volume(small, np.eye(4)).same_grid(Volume(small[:, :1], np.eye(4)))
    assert not Volume(large, np.eye(4)).same_grid(Volume(large, turned))


def test_labels_present_are_listed_without_background():
    labels = np.zeros((3, 4, 5), np.uint16)
    labels[0, 0, 0], labels[2, 3, 4] = 300, 2
    assert LabelVolume(labels, np.eye(4)).labels_present() == (2, 300)
    assert LabelVolume(labels > 0, np.eye(4)).labels_present() == (1,)
    assert LabelVolume(labels.astype(np.uint32) * 1000, np.eye(4)).labels_present() == (2000, 300000)


PARALLEL = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        *((lambda s=s: Volume(np.zeros(s), np.eye(4)), ImageError) for s in ((2, 2), (1, 2, 2, 2), (0, 2, 2))),
        (lambda: Volume(np.full((1, 1, 1), "a"), np.eye(4)), ImageError),
        *(
            (lambda m=m: Volume(np.zeros((1, 1, 1)), m), GeometryError)
            for m in (np.eye(3), np.diag((1.0, 1, 1, 2)), np.diag((1.0, 1, 0, 1)), np.full((4, 4), np.nan), PARALLEL)
        ),
        (lambda: a_volume().with_array(np.zeros((3, 4, 6))), GeometryError),
        *(
            (lambda a=a, i=i: a_volume().slice(a, i), GeometryError)
            for a, i in ((0, 3), (0, -1), (2, 5), (3, 0), (-1, 0), ("x", 0), (0, 1.5), (0, None))
        ),
        *((lambda a=a: LabelVolume(a, np.eye(4)), ImageError) for a in (np.zeros((1, 1, 2)), np.array([[[-1, 2]]]))),
        (lambda: LabelVolume(np.zeros((1, 1, 1), int), np.eye(4), (Segment(1, "a", (1, 0, 0)),) * 2), ImageError),
        *((lambda v=v: Segment(v, "a", (1, 1, 1)), ImageError) for v in (0, 1.5)),
        (lambda: Segment(1, " ", (1, 1, 1)), ImageError),
        *((lambda c=c: Segment(1, "a", c), ImageError) for c in ((255, 0, 0), (1, 0), (-0.1, 0, 0))),
    ],
)
def test_what_is_no_volume_slice_or_segment_is_refused(make, error):
    with pytest.raises(error):
        make()


# Checks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    weight: Annotated[float, Range(0, 1)] = 0.5
    share: Annotated[float, Range(0, 1, exclusive=True)] = 0.5
    count: Annotated[int, Range(1)] = 1
    limit: Annotated[float | None, Range(high=9)] = None
    name: str = "x"

    def __post_init__(self):
        check_ranges(self)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight": -0.1}, "weight is -0.1; give a finite number from 0 to 1"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": "1"}, "weight is '1'"),
        ({"share": 0.0}, "share is 0.0; give a finite number above 0 below 1"),
        ({"count": 0}, "count is 0; give a whole number from 1"),
        ({"count": True}, "count is True"),
        ({"limit": 10}, "limit is 10; give a finite number to 9"),
    ],
)
def test_fields_of_a_config_outside_their_ranges_are_refused(fields, words):
    Config(weight=0, share=0.01, count=np.int64(7), limit=9)
    Config(weight=np.float32(1))
    with pytest.raises(ConfigError, match=words):
        Config(**fields)
