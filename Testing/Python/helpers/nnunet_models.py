"""Trained-model folders of nnU-Net v2, small, and written by nnU-Net's own classes; needs nnunetv2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scribblesegment.data.volume import Volume

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
