"""Small trained-model folders that nnU-Net's own classes wrote: read, refused, and predicted as nnU-Net does."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refinable_networks import tiled_logits

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import GeometryError, NetworkError
from scribblesegment.refinement.adapters import load_network

pytest.importorskip("nnunetv2")

SPACING = {"2d": [0.8, 1.1], "3d_fullres": [2.0, 0.8, 1.1]}
PATCH = {"2d": [16, 24], "3d_fullres": [8, 16, 16]}
LABELS = {"background": 0, "liver": 1, "tumour": 2}


def configuration(name: str) -> dict[str, Any]:
    ndim = len(PATCH[name])
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": PATCH[name],
        "median_image_size_in_voxels": [20.0] * ndim,
        "spacing": SPACING[name],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [True],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 2,
                "features_per_stage": [4, 6],
                "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
                "kernel_sizes": [[3] * ndim] * 2,
                "strides": [[1] * ndim, [2] * ndim],
                "n_conv_per_stage": [1, 1],
                "n_conv_per_stage_decoder": [1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


def make_plans(transpose: tuple[int, int, int] = (0, 1, 2), reader: str = "SimpleITKIO") -> dict[str, Any]:
    return {
        "dataset_name": "Dataset001_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 0.8, 1.1],
        "original_median_shape_after_transp": [10, 20, 20],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": np.argsort(transpose).tolist(),
        "configurations": {name: configuration(name) for name in PATCH},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): {"mean": 100.0, "std": 20.0, "percentile_00_5": 50.0, "percentile_99_5": 150.0}
            for channel in range(3)
        },
    }


def make_dataset(**changes: Any) -> dict[str, Any]:
    return {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz", **changes}


def write_model(
    folder: Path, name: str, plans: dict[str, Any], dataset: dict[str, Any], folds: tuple[str, ...] = ("0",)
) -> Path:
    """Save what a training leaves behind, the checkpoint by nnU-Net's own method."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.manual_seed(0)
    trainer = nnUNetTrainer.__new__(nnUNetTrainer)
    manager = PlansManager(plans)
    trainer.local_rank, trainer.is_ddp, trainer.disable_checkpointing = 0, False, False
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    trainer.network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(name), len(dataset["channel_names"]), heads, True
    )
    trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), lr=1e-2, momentum=0.99, nesterov=True)
    trainer.network.train()
    outputs = trainer.network(torch.randn((1, len(dataset["channel_names"]), *PATCH[name])))
    sum(output.mean() for output in outputs).backward()
    trainer.optimizer.step()
    trainer.logger = LocalLogger()
    trainer.logger.log("mean_fg_dice", np.float64(0.5), 0)
    trainer.logger.log("dice_per_class_or_region", [np.float32(0.25), np.float64(0.75)], 0)
    trainer.logger.log("lrs", 1e-2, 0)
    trainer.grad_scaler, trainer.current_epoch, trainer._best_ema = None, 0, np.float64(0.5)
    trainer.inference_allowed_mirroring_axes = tuple(range(len(PATCH[name])))
    trainer.my_init_kwargs = {
        "plans": plans,
        "configuration": name,
        "fold": 0,
        "dataset_json": dataset,
        "device": torch.device("cpu"),
    }
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def make_volume(seed: int = 0, shape: tuple[int, int, int] = (9, 21, 30)) -> Volume:
    """Noise with empty borders, which nnU-Net cuts off, and anisotropic spacing."""
    array = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    array[0], array[:, :2], array[:, :, -3:] = 0, 0, 0
    return Volume(array, np.diag([0.9, 1.0, 2.5, 1.0]))


def predicted_by_nnunet(folder: Path, array: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Probabilities (labels, *shape) by nnU-Net's own predictor."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    _, probabilities = predictor.predict_single_npy_array(
        array[None], {"spacing": list(spacing)}, None, None, save_or_return_probabilities=True
    )
    return np.asarray(probabilities)


def a_model(folder: Path, name: str = "2d", transpose: tuple[int, int, int] = (0, 1, 2)) -> Path:
    return write_model(folder / name, name, make_plans(transpose), make_dataset())


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
def test_an_unrefined_prediction_is_that_of_nnunet(tmp_path: Path, name: str, transpose: tuple[int, int, int]):
    folder, volume = a_model(tmp_path, name, transpose), make_volume()
    small = Volume(volume.array[2:6, 4:13, 5:16], volume.ijk_to_ras)  # smaller than a patch in 3D
    for image in (volume, small):
        expected = predicted_by_nnunet(folder, image.array, image.spacing_kji_mm)
        np.testing.assert_allclose(predicted(folder, image), expected, atol=1e-5)
        assert expected.argmax(axis=0).max() > 0  # there is something to see


@pytest.mark.usefixtures("in_single_precision")
@pytest.mark.parametrize("library", ["Nibabel", "SimpleITK"])
def test_a_model_whose_reader_turns_images_sees_them_turned(tmp_path: Path, library: str):
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    reader = f"{library}IOWithReorient"
    plans = make_plans((1, 0, 2), reader=reader)
    folder = write_model(tmp_path / "model", "3d_fullres", plans, make_dataset())
    matrix = np.zeros((4, 4))  # i runs to the back, j to the feet, k to the left
    matrix[1, 0], matrix[2, 1], matrix[0, 2], matrix[3, 3] = -0.9, -1.0, -2.5, 1.0
    volume = Volume(make_volume().array, matrix)
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume.array.T, matrix), tmp_path / "image.nii.gz")
    array, properties = recursive_find_reader_writer_by_name(reader)().read_images([str(tmp_path / "image.nii.gz")])
    turned = predicted_by_nnunet(folder, array[0], properties["spacing"])
    # The reader's axes are (superior, anterior, right), the image's k, j, i run to the left, the feet and the back.
    expected = np.flip(turned, (1, 2, 3)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(predicted(folder, volume), expected, atol=1e-5)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2)])
def test_a_slice_is_seen_as_it_is_within_the_volume_and_along_any_axis_in_its_shape(tmp_path: Path, transpose: Any):
    network, volume = load_network(a_model(tmp_path, "2d", transpose)), make_volume()
    whole = network.prepare(volume)
    expected = whole.to_image(tiled_logits(network, whole))
    axis = transpose[0]
    for index in (0, 1, 5):
        one = network.prepare(volume, axis=axis, index=index)
        found = one.to_image(tiled_logits(network, one))
        np.testing.assert_allclose(softmax(found), softmax(expected.take(index, axis=axis + 1)), atol=1e-4)
    for axis in range(3):
        prepared = network.prepare(volume, axis=axis, index=4)
        assert prepared.shape == volume.slice(axis, 4).image.shape
        assert prepared.to_image(tiled_logits(network, prepared)).shape == (3, *prepared.shape)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_corrections_come_to_lie_where_the_network_sees_what_they_mark(tmp_path: Path, name: str, transpose: Any):
    network = load_network(a_model(tmp_path, name, transpose))
    array = np.zeros((9, 21, 30), np.float32)
    array[1:8, 3:19, 2:25] = 100
    array[3:6, 6:12, 10:17] = 200
    prepared = network.prepare(Volume(array, np.diag([0.9, 1.0, 2.5, 1.0])))
    seen = prepared.to_grid(LabelScribbles.empty(array.shape).with_scribble(array > 150, 2))
    bright = prepared.tensor[0].numpy() > float(prepared.tensor.max()) / 2
    assert 2 * (bright & seen.mask(2)).sum() / (bright.sum() + seen.mask(2).sum()) > 0.9
    assert seen.values() == (2,)


def test_borders_that_nnunet_cuts_off_are_background_and_take_no_marks(tmp_path: Path):
    network, volume = load_network(a_model(tmp_path)), make_volume()
    prepared = network.prepare(volume)
    assert prepared.to_grid(LabelScribbles.empty(volume.shape).with_point((0, 10, 10), 1)).is_empty
    logits = prepared.to_image(np.ones((4, *prepared.grid), np.float32))  # one label was added
    assert logits.shape == (4, *volume.shape)
    assert (logits[:, 0].argmax(axis=0) == 0).all()
    assert logits[1:, 0].max() < -10
    border = network.prepare(volume, axis=0, index=0)
    assert not border.tensor.any()
    assert (border.to_labels(tiled_logits(network, border)) == 0).all()
    with pytest.raises(GeometryError, match="outside the volume"):
        network.prepare(volume, index=9)
    with pytest.raises(NetworkError, match="sees volumes"):
        load_network(a_model(tmp_path, "3d_fullres")).prepare(volume, index=3)


# Reading -------------------------------------------------------------------------------------------------------------


def change_checkpoint(folder: Path, change: Any, fold: str = "0") -> Path:
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    changed = change(content)
    torch.save(content if changed is None else changed, path)
    return path


def test_labels_are_those_of_the_data_set_and_folds_are_chosen(tmp_path: Path):
    dataset = make_dataset(labels={**LABELS, "ignore": 3})
    folder = write_model(tmp_path / "model", "2d", make_plans(), dataset, folds=("1", "3"))

    def fill(content: dict[str, Any]) -> None:
        for value in content["network_weights"].values():
            value.fill_(0.5)

    path = change_checkpoint(folder, fill, "3")
    first, third, same = load_network(folder), load_network(folder, fold="3"), load_network(path)
    assert (first.name, first.ndim, first.labels) == ("Dataset001_Small", 2, ("background", "liver", "tumour"))
    assert not first.module.training
    assert not all(torch.equal(a, b) for a, b in zip(first.module.parameters(), third.module.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(same.module.parameters(), third.module.parameters(), strict=True))
    with pytest.raises(NetworkError, match="in fold_7; it has fold_1, fold_3"):
        load_network(folder, fold="7")


def test_a_checkpoint_with_code_runs_nothing_before_it_is_confirmed(tmp_path: Path, attack: Any, refusal: Any):
    folder = a_model(tmp_path)
    change_checkpoint(folder, lambda content: {**content, "extra": attack})
    reasons: list[str] = []
    with pytest.raises(NetworkError, match="can run any code"):
        load_network(folder, confirm=refusal)
    with pytest.raises(NetworkError, match="not confirmed"):
        load_network(folder, confirm=lambda reason: reasons.append(reason))  # type: ignore[func-returns-value]
    assert "mkdir" in reasons[0]
    assert not attack.folder.exists()
    assert load_network(folder, confirm=lambda _: True).labels == tuple(LABELS)
    assert attack.folder.is_dir()


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("network_class_name", "subprocess.Popen"),
        ("conv_op", "os.system"),
        ("conv_op", "torch.nn.modules.module.torch.hub.load"),
        ("nonlin", "torch.nn.functional.relu"),
    ],
)
def test_plans_that_call_something_else_are_confirmed_first(tmp_path: Path, entry: str, value: str):
    folder, plans = a_model(tmp_path), make_plans()
    architecture = plans["configurations"]["2d"]["architecture"]
    (architecture if entry == "network_class_name" else architecture["arch_kwargs"])[entry] = value
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(NetworkError, match=f"call {value}"):
        load_network(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}, "regions"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "2 channels"),
        ({"cascade": True}, "second stage of a cascade"),
    ],
)
def test_a_model_that_cannot_be_corrected_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    cascade = changes.pop("cascade", False)
    plans, dataset = make_plans(), make_dataset(**changes)
    for each in plans["configurations"].values():
        each["normalization_schemes"] *= len(dataset["channel_names"])
        each["use_mask_for_norm"] *= len(dataset["channel_names"])
    folder = write_model(tmp_path / "model", "2d", plans, dataset)
    if cascade:
        plans["configurations"]["2d"]["previous_stage"] = "3d_lowres"
        (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(NetworkError, match=message):
        load_network(folder)


def test_damaged_folders_and_missing_trainers_are_named(tmp_path: Path):
    def truncate(folder: Path) -> None:
        path = folder / "fold_0" / "checkpoint_final.pth"
        path.write_bytes(path.read_bytes()[:1000])

    damages: dict[str, Any] = {
        "cannot be read": lambda folder: (folder / "plans.json").write_text("{"),
        "damaged, or not a checkpoint": truncate,
        "lacks init_args": lambda folder: change_checkpoint(folder, lambda _: {"network_weights": torch.zeros(3)}),
        "has no checkpoint_final": lambda folder: (folder / "fold_0" / "checkpoint_final.pth").unlink(),
        "cannot be built": lambda folder: change_checkpoint(folder, lambda content: {**content, "network_weights": {}}),
        "trained by nnUNetTrainerOfMine": lambda folder: change_checkpoint(
            folder, lambda content: {**content, "trainer_name": "nnUNetTrainerOfMine"}
        ),
    }
    for number, (message, damage) in enumerate(damages.items()):
        folder = a_model(tmp_path / str(number))
        damage(folder)
        with pytest.raises(NetworkError, match=message):
            load_network(folder)
