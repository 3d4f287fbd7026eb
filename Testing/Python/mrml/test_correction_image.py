from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="needs slicer-core")

from scribblesegment.errors import GeometryError, ImageError
from scribblesegment.mrml.corrections import (
    ResultSource,
    correction_image,
    jump_to,
    nearest_axis,
    new_result,
    shown_place,
)
from scribblesegment.mrml.geometry import array_of
from scribblesegment.mrml.source_image import SourceImages

SOURCE = ResultSource("n", ("background", "Liver"))


def image_of(editor, result=None):
    return correction_image(editor.volume, result, SourceImages())


def test_without_a_result_the_volume_is_taken_as_it_is(an_editor, oblique):
    image = image_of(an_editor)
    assert np.array_equal(image.volume.array, np.arange(480).reshape(6, 8, 10) - 200)
    assert np.allclose(image.volume.ijk_to_ras, oblique)
    assert image.note is None


@pytest.mark.parametrize("start_ijk", [(0, 0, 0), (4, -2, 9)])
def test_a_new_result_has_the_grid_that_the_image_had_before_it(new_editor, matrix_of, start_ijk):
    editor = new_editor(start_ijk=start_ijk)
    editor.put_under(editor.volume, np.diag([1.0, -1.0, 1.0, 1.0]))
    images = SourceImages()
    before = correction_image(editor.volume, None, images)
    after = correction_image(editor.volume, new_result(editor.scene, editor.volume, "r", SOURCE), images)
    assert np.array_equal(before.volume.array, after.volume.array)
    assert before.reference.grid.same_as(after.reference.grid)
    assert before.reference.start_ijk == after.reference.start_ijk


def test_the_image_comes_on_the_grid_of_the_result(an_editor, new_volume, oblique):
    result = new_result(an_editor.scene, an_editor.volume, "r", SOURCE)
    halved = oblique.copy()
    halved[:3, :3] /= 2
    fine = new_volume(np.arange(12 * 16 * 20, dtype=np.int16).reshape(12, 16, 20), halved)
    image = correction_image(fine, result, SourceImages())
    assert image.volume.shape == (6, 8, 10)


def test_the_token_changes_with_the_voxels_and_with_the_place(an_editor, matrix_of, oblique):
    images = SourceImages()
    tokens = [correction_image(an_editor.volume, None, images).token]
    assert correction_image(an_editor.volume, None, images).token == tokens[0]
    an_editor.volume.GetImageData().Modified()
    tokens.append(correction_image(an_editor.volume, None, images).token)
    an_editor.volume.SetIJKToRASMatrix(matrix_of(oblique @ np.diag([2, 1, 1, 1])))
    tokens.append(correction_image(an_editor.volume, None, images).token)
    assert len(set(tokens)) == 3


def test_without_a_volume_the_message_says_what_to_choose():
    with pytest.raises(ImageError, match=r"No volume is selected\. Choose"):
        correction_image(None, None, SourceImages())


def test_an_empty_volume_is_refused(an_editor):
    empty = an_editor.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    with pytest.raises(ImageError, match="'Nothing' is empty"):
        correction_image(empty, None, SourceImages())


def look_at(editor, slice_node, axis, index, matrix_of):
    """Turn a view to a slice of the volume."""
    grid = image_of(editor).reference.grid
    kji = (np.array(grid.shape) - 1) / 2
    kji[axis] = index
    first, second = (grid.steps_kji_mm[other] for other in range(3) if other != axis)
    to_ras = np.eye(4)
    to_ras[:3, 0] = second / np.linalg.norm(second)
    to_ras[:3, 2] = np.cross(second, first)
    to_ras[:3, 2] /= np.linalg.norm(to_ras[:3, 2])
    to_ras[:3, 1] = np.cross(to_ras[:3, 2], to_ras[:3, 0])
    to_ras[:3, 3] = grid.to_mm(kji)
    world = np.eye(4)
    transform = editor.volume.GetParentTransformNode()
    if transform is not None:
        matrix = matrix_of(np.eye(4))
        transform.GetMatrixTransformToWorld(matrix)
        world = array_of(matrix)
    slice_node.GetSliceToRAS().DeepCopy(matrix_of(world @ to_ras))
    slice_node.UpdateMatrices()


@pytest.mark.parametrize(("axis", "index"), [(0, 4), (1, 0), (2, 9)])
@pytest.mark.parametrize("moved", [False, True])
def test_the_slice_that_a_view_shows_is_found(an_editor, a_slice_node, matrix_of, axis, index, moved):
    if moved:
        an_editor.put_under(an_editor.volume, [[0, 0, 1, 5], [1, 0, 0, 0], [0, 1, 0, -9], [0, 0, 0, 1.0]])
    look_at(an_editor, a_slice_node, axis, index, matrix_of)
    reference = image_of(an_editor).reference
    assert shown_place(a_slice_node, an_editor.volume, reference) == (axis, index)
    assert nearest_axis(a_slice_node, an_editor.volume, reference) == axis


def test_an_oblique_view_shows_no_slice_but_has_a_nearest_axis(an_editor, a_slice_node, matrix_of):
    look_at(an_editor, a_slice_node, 1, 3, matrix_of)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    a_slice_node.GetSliceToRAS().DeepCopy(matrix_of(array_of(a_slice_node.GetSliceToRAS()) @ tilt))
    a_slice_node.UpdateMatrices()
    reference = image_of(an_editor).reference
    with pytest.raises(GeometryError, match=r"oblique.*whole volume"):
        shown_place(a_slice_node, an_editor.volume, reference)
    assert nearest_axis(a_slice_node, an_editor.volume, reference) == 1


def test_a_view_beside_the_volume_shows_no_slice(an_editor, a_slice_node, matrix_of):
    look_at(an_editor, a_slice_node, 0, 50, matrix_of)
    with pytest.raises(GeometryError):
        shown_place(a_slice_node, an_editor.volume, image_of(an_editor).reference)


def test_a_voxel_is_shown_in_the_middle_of_the_views(an_editor, a_slice_node):
    shift = np.eye(4)
    shift[:3, 3] = (100, 20, -30)
    an_editor.put_under(an_editor.volume, shift)
    reference = image_of(an_editor).reference
    jump_to(an_editor.volume, reference, (4, 1, 7))
    to_ras = a_slice_node.GetSliceToRAS()
    middle = np.array([to_ras.GetElement(row, 3) for row in range(3)])
    assert np.allclose(middle - shift[:3, 3], reference.grid.to_mm((4, 1, 7)), atol=1e-3)
