"""MONAI bundles against MONAI itself: small bundles, run by its own transforms and sliding window."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiled_inference import tiled_logits

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import MissingPackageError, NetworkError, WeightsError
from scribblesegment.refinement.adapters import load_network

pytest.importorskip("monai")

SHAPE = (14, 26, 30)
# Oblique by permutation: i runs to the back, j to the feet, k to the left; 1.0 x 1.5 x 2.5 mm.
MATRIX = np.array([[0, 0, -2.5, 40], [-1.0, 0, 0, 10], [0, -1.5, 0, -30], [0, 0, 0, 1]], float)


def sliding_window(roi_size: list[int], mode: str = "constant", overlap: float = 0.25) -> dict[str, Any]:
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": roi_size,
        "sw_batch_size": 2,
        "overlap": overlap,
        "mode": mode,
    }


def make_configuration(ndim: int = 3, channels: int = 3, **changes: Any) -> dict[str, Any]:
    spatial = [
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 1.5, 1.2], "mode": "bilinear"},
        {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"},
    ]
    plane = [{"_target_": "Resized", "keys": "image", "spatial_size": [20, 36], "mode": "bilinear"}]
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "image_key": "image",
        "channels": channels,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in glob.glob('*.nii')]"},
        "network_def": {
            "_target_": "UNet",
            "spatial_dims": ndim,
            "in_channels": 1,
            "out_channels": "@channels",
            "channels": [4, 6],
            "strides": [1],
            "norm": "instance",
        },
        "network": "$@network_def.to(@device)",
        "steps": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            *(spatial if ndim == 3 else plane),
            {"_target_": "ScaleIntensityd", "keys": "image"},
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
        "preprocessing": {"_target_": "Compose", "transforms": "@steps"},
        "inferer": sliding_window([16, 20, 12] if ndim == 3 else [16, 24]),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
        },
        **changes,
    }


def make_metadata(channels: int = 3) -> dict[str, Any]:
    names = ["background", "spleen", "liver"] if channels > 1 else ["spleen"]
    return {
        "name": "small bundle",
        "license": "CC0-1.0",
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1}},
            "outputs": {
                "pred": {
                    "num_channels": channels,
                    "channel_def": {str(number): names[number] for number in range(min(channels, len(names)))},
                }
            },
        },
    }


def write_bundle(folder: Path, configuration: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    from monai.bundle import ConfigParser

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(configuration))
    (folder / "configs" / "metadata.json").write_text(json.dumps(make_metadata() if metadata is None else metadata))
    torch.manual_seed(0)
    parser = ConfigParser(configuration)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    return folder


def make_volume() -> Volume:
    array = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    array[:2], array[:, :3], array[:, :, -4:] = -50, -50, -50
    return Volume(array, MATRIX)


def trust(_: str) -> bool:
    return True


def predicted_by_monai(folder: Path, volume: Volume, image: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits on the grid and, inverted by MONAI, on the image (labels, K, J, I); the image from a file, if given."""
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor
    from monai.transforms import Compose, Invertd

    parser = ConfigParser()
    parser.read_meta(str(folder / "configs" / "metadata.json"))
    parser.read_config(str(folder / "configs" / "inference.json"))
    module = parser.get_parsed_content("network_def").eval()
    module.load_state_dict(torch.load(folder / "models" / "model.pt"))
    preprocessing = parser.get_parsed_content("preprocessing")
    if image is None:
        preprocessing = Compose(preprocessing.transforms[1:])
        given: Any = MetaTensor(torch.from_numpy(volume.array.T.copy()), torch.from_numpy(volume.ijk_to_ras))
        given.meta["original_channel_dim"] = "no_channel"
    else:
        given = str(image)
    data = preprocessing({"image": given})
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], module)[0]
    grid = data["pred"].numpy()
    inverted = Invertd("pred", preprocessing, "image", nearest_interp=False)(data)["pred"].numpy()
    return grid, inverted.transpose(0, 3, 2, 1)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("roi_size", [[16, 20, 12], [64, 20, 12], [-1, 20, 64]])
def test_an_unrefined_prediction_is_that_of_monai(tmp_path: Path, roi_size: list[int], mode: str) -> None:
    configuration = make_configuration(inferer=sliding_window(roi_size, mode, 0.5))
    folder = write_bundle(tmp_path / "bundle", configuration)
    volume = make_volume()
    network = load_network(folder, confirm=trust)
    prepared = network.prepare(volume)
    expected_grid, expected = predicted_by_monai(folder, volume)
    logits = tiled_logits(network, prepared)
    np.testing.assert_allclose(logits, expected_grid, atol=1e-4)
    found = prepared.to_image(logits)
    assert found.shape == (3, *SHAPE)
    seen = (expected != 0).all(axis=0)  # MONAI fills what was cut off with zeros
    np.testing.assert_allclose(found[:, seen], expected[:, seen], atol=2e-4)
    assert (found[:, ~seen].argmax(axis=0) == 0).all()


def test_the_prediction_is_that_of_an_image_that_monai_reads_itself(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder, volume = write_bundle(tmp_path / "bundle", make_configuration()), make_volume()
    nibabel.save(nibabel.Nifti1Image(volume.array.T, volume.ijk_to_ras), tmp_path / "image.nii")
    network = load_network(folder, confirm=trust)
    expected, _ = predicted_by_monai(folder, volume, tmp_path / "image.nii")
    np.testing.assert_allclose(tiled_logits(network, network.prepare(volume)), expected, atol=1e-4)


def test_a_yaml_configuration_is_read_too(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    folder = write_bundle(tmp_path / "bundle", make_configuration())
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(make_configuration()))
    assert load_network(folder, confirm=trust).ndim == 3


def test_a_zip_file_of_a_bundle_is_the_same_network(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "packed" / "bundle", make_configuration())
    archive = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", tmp_path / "packed"))
    first, second = load_network(folder, confirm=trust), load_network(archive, confirm=trust)
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))


def test_name_licence_and_labels_come_from_the_metadata(tmp_path: Path) -> None:
    network = load_network(write_bundle(tmp_path / "bundle", make_configuration()), confirm=trust)
    assert (network.name, network.licence, network.ndim) == ("small bundle", "CC0-1.0", 3)
    assert network.labels == ("background", "spleen", "liver")
    assert not network.module.training


def test_without_metadata_labels_are_counted_by_a_trial_run(tmp_path: Path) -> None:
    network = load_network(write_bundle(tmp_path / "bundle", make_configuration(), {}), confirm=trust)
    assert (network.name, network.labels) == ("bundle", ("background", "label 1", "label 2"))


def test_one_sigmoid_channel_is_one_structure(tmp_path: Path) -> None:
    sigmoid = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    configuration = make_configuration(channels=1, postprocessing={"_target_": "Compose", "transforms": sigmoid})
    network = load_network(write_bundle(tmp_path / "bundle", configuration, make_metadata(1)), confirm=trust)
    assert network.labels == ("background", "spleen")
    assert network.output.activation == "sigmoid"


def test_channels_that_may_overlap_are_refused(tmp_path: Path) -> None:
    sigmoid = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    configuration = make_configuration(postprocessing={"_target_": "Compose", "transforms": sigmoid})
    folder = write_bundle(tmp_path / "bundle", configuration)
    with pytest.raises(NetworkError, match="may overlap"):
        load_network(folder, confirm=trust)


def test_corrections_come_to_lie_where_the_network_sees_what_they_mark(tmp_path: Path) -> None:
    network = load_network(write_bundle(tmp_path / "bundle", make_configuration()), confirm=trust)
    array = np.zeros(SHAPE, np.float32)
    array[2:12, 3:22, 2:25] = 100
    array[3:10, 5:17, 6:20] = 200
    prepared = network.prepare(Volume(array, MATRIX))
    seen = prepared.to_grid(LabelScribbles.empty(SHAPE).with_scribble(array > 150, 2)).mask(2)
    bright = prepared.tensor[0].numpy() > 0.75
    assert 2 * (bright & seen).sum() / (bright.sum() + seen.sum()) > 0.9
    np.testing.assert_allclose(prepared.spacing_mm, (2.0, 1.5, 1.2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_2d_bundle_are_the_same_alone_and_together(tmp_path: Path, axis: int) -> None:
    network = load_network(write_bundle(tmp_path / "bundle", make_configuration(ndim=2)), confirm=trust)
    volume = make_volume()
    whole = network.prepare(volume, axis=axis)
    together = whole.to_image(tiled_logits(network, whole))
    assert together.shape == (3, *SHAPE)
    one = network.prepare(volume, axis=axis, index=5)
    assert one.tensor.shape == (1, 20, 36)
    alone = one.to_image(tiled_logits(network, one))
    np.testing.assert_allclose(alone, together.take(5, axis=axis + 1), atol=1e-4)
    marks = LabelScribbles.empty(one.shape).with_scribble(volume.slice(axis, 5).image > 120, 1)
    stacked = np.full((SHAPE[axis], *one.shape), -1)
    stacked[5] = marks.labels
    all_marks = LabelScribbles.from_labels(np.moveaxis(stacked, 0, axis))
    assert np.array_equal(whole.to_grid(all_marks).labels[5], one.to_grid(marks).labels)


@pytest.mark.parametrize("channel_first", [True, False])
def test_a_2d_bundle_of_colour_images_sees_the_grey_image_three_times(tmp_path: Path, channel_first: bool) -> None:
    configuration = make_configuration(ndim=2)
    configuration["network_def"]["in_channels"] = 3
    if channel_first:
        configuration["steps"][0]["ensure_channel_first"] = True
        del configuration["steps"][1]
    network = load_network(write_bundle(tmp_path / "bundle", configuration, {}), confirm=trust)
    prepared = network.prepare(make_volume(), index=3)
    assert prepared.tensor.shape == (3, 20, 36)
    assert torch.equal(prepared.tensor[0], prepared.tensor[2])


class Mark:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self.folder,)


def test_an_expression_runs_nothing_before_it_is_confirmed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = write_bundle(tmp_path / "bundle", make_configuration())
    evil = make_configuration(network_def=f"$__import__('os').mkdir({str(mark)!r})")
    (folder / "configs" / "inference.json").write_text(json.dumps(evil))
    reasons: list[str] = []

    def refuse(reason: str) -> bool:
        reasons.append(reason)
        assert not mark.exists()
        return False

    with pytest.raises(NetworkError, match="not confirmed"):
        load_network(folder, confirm=refuse)
    with pytest.raises(NetworkError, match="can run any code"):
        load_network(folder)
    assert not mark.exists()
    assert "bundle is a MONAI bundle" in reasons[0]
    with pytest.raises(NetworkError):
        load_network(folder, confirm=trust)
    assert mark.is_dir()  # the attack works once it is trusted, so that this test can fail


def test_parameters_with_code_are_refused_even_when_the_bundle_is_trusted(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", make_configuration())
    torch.save({"model": Mark(tmp_path / "mark")}, folder / "models" / "model.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load_network(folder, confirm=trust)
    assert not (tmp_path / "mark").exists()


def test_a_bundle_imports_its_own_scripts_and_leaves_none_behind(tmp_path: Path) -> None:
    for name, channels in (("first", 2), ("second", 4)):
        folder = write_bundle(tmp_path / name, make_configuration(channels=channels), {})
        configuration = make_configuration(channels="$CHANNELS", imports=["$from scripts.sizes import CHANNELS"])
        (folder / "configs" / "inference.json").write_text(json.dumps(configuration))
        (folder / "scripts").mkdir()
        (folder / "scripts" / "__init__.py").touch()
        (folder / "scripts" / "sizes.py").write_text(f"CHANNELS = {channels}\n")
        assert len(load_network(folder, confirm=trust).labels) == channels
        assert "scripts.sizes" not in sys.modules
        assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocessing": "@nothing"}, "no list of transforms"),
        ({"inferer": {"_target_": "SliceInferer", "roi_size": [8, 8]}}, "run by SliceInferer"),
        ({"network_def": {"_target_": "NoSuchNetwork"}}, "cannot be used"),
        ({"network_def": 3}, "is no network"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_bundle(tmp_path / "bundle", make_configuration())
    (folder / "configs" / "inference.json").write_text(json.dumps(make_configuration(**changes)))
    with pytest.raises(NetworkError, match=message):
        load_network(folder, confirm=trust).prepare(make_volume())


def test_a_preprocessing_that_fails_is_told(tmp_path: Path) -> None:
    configuration = make_configuration()
    configuration["steps"].append({"_target_": "SpatialPadd", "keys": "image", "spatial_size": [1, 2, 3, 4, 5]})
    configuration["steps"].append({"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x[:, 0, 0]"})
    network = load_network(write_bundle(tmp_path / "bundle", configuration), confirm=trust)
    with pytest.raises(NetworkError, match="preprocessing of small bundle"):
        network.prepare(make_volume())


def test_a_bundle_without_parameters_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", make_configuration())
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(NetworkError, match="large_files"):
        load_network(folder, confirm=trust)


def test_torchscript_in_a_bundle_is_taken_where_there_are_no_parameters(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", make_configuration())
    expected = load_network(folder, confirm=trust).module
    torch.jit.script(expected).save(str(folder / "models" / "model.ts"))
    (folder / "models" / "model.pt").unlink()
    found = load_network(folder, confirm=trust).module
    image = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(found(image), expected(image))


def test_a_bundle_of_several_images_is_refused(tmp_path: Path) -> None:
    configuration = make_configuration()
    configuration["network_def"]["in_channels"] = 4
    folder = write_bundle(tmp_path / "bundle", configuration, {})
    with pytest.raises(NetworkError, match="4 channels"):
        load_network(folder, confirm=trust)


def test_a_3d_bundle_refuses_a_slice(tmp_path: Path) -> None:
    network = load_network(write_bundle(tmp_path / "bundle", make_configuration()), confirm=trust)
    with pytest.raises(NetworkError, match="sees volumes"):
        network.prepare(make_volume(), index=0)


def test_without_the_package_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bundle(tmp_path / "bundle", make_configuration())
    monkeypatch.setitem(sys.modules, "monai.bundle", None)
    with pytest.raises(MissingPackageError, match="pip install monai") as caught:
        load_network(folder, confirm=trust)
    assert caught.value.package == "monai"


def test_a_package_that_a_transform_lacks_is_named() -> None:
    from monai.utils import OptionalImportError

    from scribblesegment.refinement.adapters.monai import _require_optional_packages

    failed = RuntimeError("applying transform")
    failed.__cause__ = OptionalImportError("import nibabel (No module named 'nibabel').")
    with pytest.raises(MissingPackageError, match="pip install nibabel") as raised:
        _require_optional_packages(failed, "the bundle")
    assert raised.value.package == "nibabel"
    _require_optional_packages(RuntimeError("another reason"), "the bundle")
