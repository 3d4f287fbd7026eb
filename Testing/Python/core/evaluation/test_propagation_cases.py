from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.propagation_cases import Case, PropagationPlan, find_volumes, read_cases


@pytest.fixture
def write(tmp_path):
    """Writes a volume with the boxes (start and stop along K, J and I) of its labels; returns the image's path."""

    def make(boxes, *, shape=(20, 16, 16), spacing_kji=(1.0, 1.0, 1.0), labels_shape=None):
        labels = np.zeros(labels_shape or shape, np.uint8)
        for label, ((k0, k1), (j0, j1), (i0, i1)) in boxes.items():
            labels[k0:k1, j0:j1, i0:i1] = label
        folder = tmp_path / "a set"
        folder.mkdir(exist_ok=True)
        for name, array in (("image", np.zeros(shape, np.int16)), ("label", labels)):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(tuple(reversed(spacing_kji)))
            SimpleITK.WriteImage(image, str(folder / f"one_{name}.nii.gz"))
        return folder / "one_image.nii.gz"

    return make


BOX = ((4, 14), (2, 12), (3, 13))


def places(cases):
    return [(case.structure, case.axis) for case in cases]


def test_an_isotropic_volume_is_cut_along_all_axes(write):
    volume, cases, left_out = read_cases(write({1: BOX, 3: ((4, 14), (12, 14), (2, 12))}), PropagationPlan())
    assert volume.shape == (20, 16, 16)
    assert places(cases) == [(1, 0), (1, 1), (1, 2), (3, 0), (3, 2)]
    assert (cases[0].set_name, cases[0].volume_name) == ("a set", "one")
    assert list(left_out) == ["a set/one/3 along j"]
    assert left_out["a set/one/3 along j"].startswith("2 slices of usually 100 pixels")
    assert cases[1].slices.shape == (16, 20, 16)
    assert cases[1].extent == (2, 12)


def test_thick_slices_are_cut_as_they_were_acquired(write):
    _, cases, _ = read_cases(write({1: BOX}, spacing_kji=(1.0, 3.0, 1.0)), PropagationPlan())
    assert places(cases) == [(1, 1)]


def test_a_first_look_takes_the_largest_structures_along_one_axis(write):
    path = write({1: ((4, 14), (0, 4), (0, 4)), 2: ((4, 14), (5, 15), (0, 10))})
    _, cases, _ = read_cases(path, PropagationPlan(per_volume=1, one_axis=True))
    assert places(cases) == [(2, 0)]


def test_tiny_structures_are_left_out(write):
    _, cases, left_out = read_cases(write({1: ((4, 14), (0, 3), (0, 5))}), PropagationPlan(one_axis=True))
    assert cases == []
    assert "usually 15 pixels; at least 8 of 16" in left_out["a set/one/1 along k"]


def test_labels_of_another_shape_and_missing_ones_are_refused(write):
    path = write({1: BOX}, labels_shape=(20, 16, 15))
    with pytest.raises(DatasetError, match="Resample"):
        read_cases(path, PropagationPlan())
    assert find_volumes(path.parents[1]) == [path]
    path.with_name("one_label.nii.gz").unlink()
    with pytest.raises(DatasetError, match="no label volume"):
        find_volumes(path.parents[1])
    with pytest.raises(DatasetError, match="no volumes"):
        find_volumes(path.parent)


def a_case(shown, length=20):
    slices = np.zeros((length, 4, 4), bool)
    slices[list(shown)] = True
    return Case("set", "volume", 1, 0, slices)


def test_annotated_are_quarters_and_middle_of_the_extent():
    case = a_case(range(3, 16))
    assert list(case.annotated((0.25, 0.5, 0.75))) == [6, 9, 12]
    assert list(case.annotated((0, 1))) == [3, 15]
    assert all(mask.all() for mask in case.annotated((0.5,)).values())


def test_where_a_slice_does_not_show_the_structure_the_nearest_that_does_is_annotated():
    case = a_case([2, 3, 4, 5, 9, 10, 11, 12])
    assert list(case.annotated((0.25, 0.5, 0.75))) == [4, 5, 9]
    assert list(case.annotated((0.55, 0.6))) == [9]


def test_slices_beyond_the_ends_are_measured_where_there_are_some():
    assert a_case(range(3, 16)).measured(2) == range(1, 18)
    assert a_case(range(0, 19)).measured(2) == range(0, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least_slices": 3}, "least_slices is at least 4"),
        ({"beyond": -1}, "beyond at least 0"),
        ({"per_volume": 0}, "per_volume is 0"),
        ({"annotated": (0.5, 1.5)}, "from 0 to 1"),
        ({"annotated": ()}, "from 0 to 1"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PropagationPlan(**options)
