"""The adapter against nnU-Net itself, on small model folders that its own classes wrote."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_models import make_dataset, make_plans, make_volume, predicted_by_nnunet, write_model
from tiled_inference import tiled_logits

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import GeometryError, NetworkError
from scribblesegment.refinement.adapters import load_network

pytest.importorskip("nnunetv2")


@pytest.fixture
def in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net add up windows in float32; its half precision rounds to a tenth at the corners of an image."""
    from nnunetv2.inference import predict_from_raw_data, sliding_window_prediction

    class TorchWithoutHalf:
        half = torch.float32

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    monkeypatch.setattr(predict_from_raw_data, "torch", TorchWithoutHalf())
    gaussian = functools.partial(sliding_window_prediction.compute_gaussian, dtype=torch.float32)
    monkeypatch.setattr(predict_from_raw_data, "compute_gaussian", gaussian)


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(logits), dim=0).numpy()


def predicted(folder: Path, volume: Volume) -> np.ndarray:
    """Probabilities (labels, *shape) by the adapter."""
    network = load_network(folder)  # without confirm: everything in it is plain data
    prepared = network.prepare(volume)
    return softmax(prepared.to_image(tiled_logits(network, prepared)))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
@pytest.mark.usefixtures("in_single_precision")
def test_an_unrefined_prediction_is_that_of_nnunet(tmp_path: Path, name: str, transpose: tuple[int, int, int]) -> None:
    folder = write_model(tmp_path / "model", name, make_plans(transpose), make_dataset())
    volume = make_volume()
    found = predicted(folder, volume)
    expected = predicted_by_nnunet(folder, volume.array, volume.spacing_kji_mm)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.argmax(axis=0).max() > 0  # there is something to see


def test_the_segmentation_is_that_of_nnunet_in_its_own_precision(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "3d_fullres", make_plans(), make_dataset())
    volume = make_volume()
    expected = predicted_by_nnunet(folder, volume.array, volume.spacing_kji_mm).argmax(axis=0)
    assert (predicted(folder, volume).argmax(axis=0) == expected).mean() > 0.99


@pytest.mark.usefixtures("in_single_precision")
def test_an_image_smaller_than_a_patch_is_padded_as_nnunet_does(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "3d_fullres", make_plans(), make_dataset())
    volume = Volume(make_volume().array[2:6, 4:13, 5:16], np.diag([0.9, 1.0, 2.5, 1.0]))
    expected = predicted_by_nnunet(folder, volume.array, volume.spacing_kji_mm)
    np.testing.assert_allclose(predicted(folder, volume), expected, atol=1e-5)


@pytest.mark.usefixtures("in_single_precision")
def test_a_model_whose_reader_turns_images_sees_them_turned(tmp_path: Path) -> None:
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    plans = make_plans((1, 0, 2), reader="NibabelIOWithReorient")
    folder = write_model(tmp_path / "model", "3d_fullres", plans, make_dataset())
    matrix = np.zeros((4, 4))  # i runs to the back, j to the feet, k to the left
    matrix[1, 0], matrix[2, 1], matrix[0, 2], matrix[3, 3] = -0.9, -1.0, -2.5, 1.0
    volume = Volume(make_volume().array, matrix)
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume.array.T, matrix), tmp_path / "image.nii.gz")
    array, properties = NibabelIOWithReorient().read_images([str(tmp_path / "image.nii.gz")])
    turned = predicted_by_nnunet(folder, array[0], properties["spacing"])
    # The reader's axes are (superior, anterior, right), the image's k, j, i run to the left, the feet and the back.
    expected = np.flip(turned, (1, 2, 3)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(predicted(folder, volume), expected, atol=1e-5)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2)])
def test_a_slice_is_seen_as_it_is_within_the_volume(tmp_path: Path, transpose: tuple[int, int, int]) -> None:
    folder = write_model(tmp_path / "model", "2d", make_plans(transpose), make_dataset())
    network, volume = load_network(folder), make_volume()
    whole = network.prepare(volume)
    expected = whole.to_image(tiled_logits(network, whole))
    axis = transpose[0]
    for index in (0, 1, 5):
        one = network.prepare(volume, axis=axis, index=index)
        found = one.to_image(tiled_logits(network, one))
        np.testing.assert_allclose(softmax(found), softmax(expected.take(index, axis=axis + 1)), atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_along_any_axis_has_the_shape_of_that_slice(tmp_path: Path, axis: int) -> None:
    network = load_network(write_model(tmp_path / "model", "2d", make_plans((1, 0, 2)), make_dataset()))
    volume = make_volume()
    prepared = network.prepare(volume, axis=axis, index=4)
    assert prepared.shape == volume.slice(axis, 4).image.shape
    assert prepared.to_image(tiled_logits(network, prepared)).shape == (3, *prepared.shape)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_corrections_come_to_lie_where_the_network_sees_what_they_mark(
    tmp_path: Path, name: str, transpose: tuple[int, int, int]
) -> None:
    network = load_network(write_model(tmp_path / "model", name, make_plans(transpose), make_dataset()))
    array = np.zeros((9, 21, 30), np.float32)
    array[1:8, 3:19, 2:25] = 100
    array[3:6, 6:12, 10:17] = 200
    prepared = network.prepare(Volume(array, np.diag([0.9, 1.0, 2.5, 1.0])))
    seen = prepared.to_grid(LabelScribbles.empty(array.shape).with_scribble(array > 150, 2))
    bright = prepared.tensor[0].numpy() > float(prepared.tensor.max()) / 2
    overlap = 2 * (bright & seen.mask(2)).sum() / (bright.sum() + seen.mask(2).sum())
    assert overlap > 0.9
    assert seen.values() == (2,)


def test_marks_on_borders_that_nnunet_cuts_off_are_left_out(tmp_path: Path) -> None:
    network = load_network(write_model(tmp_path / "model", "2d", make_plans(), make_dataset()))
    volume = make_volume()
    prepared = network.prepare(volume)
    border = LabelScribbles.empty(volume.shape).with_point((0, 10, 10), 1)
    assert prepared.to_grid(border).is_empty
    logits = prepared.to_image(np.ones((3, *prepared.grid), np.float32))
    assert (logits[:, 0].argmax(axis=0) == 0).all()
    assert logits[1:, 0].max() < -10


def test_a_slice_of_an_empty_border_is_background(tmp_path: Path) -> None:
    network = load_network(write_model(tmp_path / "model", "2d", make_plans(), make_dataset()))
    prepared = network.prepare(make_volume(), axis=0, index=0)
    assert not prepared.tensor.any()
    assert (prepared.to_image(tiled_logits(network, prepared)).argmax(axis=0) == 0).all()


def test_logits_of_an_added_label_come_back_too(tmp_path: Path) -> None:
    network = load_network(write_model(tmp_path / "model", "3d_fullres", make_plans(), make_dataset()))
    volume = make_volume()
    prepared = network.prepare(volume)
    assert prepared.to_image(np.zeros((4, *prepared.grid), np.float32)).shape == (4, *volume.shape)


def test_a_3d_network_refuses_a_slice_and_a_2d_one_a_slice_that_is_not_there(tmp_path: Path) -> None:
    volumes = load_network(write_model(tmp_path / "3d", "3d_fullres", make_plans(), make_dataset()))
    slices = load_network(write_model(tmp_path / "2d", "2d", make_plans(), make_dataset()))
    with pytest.raises(NetworkError, match="sees volumes"):
        volumes.prepare(make_volume(), index=3)
    with pytest.raises(GeometryError, match="outside the volume"):
        slices.prepare(make_volume(), index=9)
