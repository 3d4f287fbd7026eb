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
from hypothesis import given, settings
from hypothesis import strategies as st
from refinable_networks import blended, tiled_logits

from scribblesegment.data.labels import LabelScribbles
from scribblesegment.data.volume import Volume
from scribblesegment.errors import MissingPackageError, NetworkError, WeightsError
from scribblesegment.refinement.adapters import load_network
from scribblesegment.refinement.adapters.monai import _require_optional_packages, monai_tiling

inferers = pytest.importorskip("monai.inferers")

SHAPE = (14, 26, 30)
# Oblique by permutation: i runs to the back, j to the feet, k to the left; 1.0 x 1.5 x 2.5 mm.
MATRIX = np.array([[0, 0, -2.5, 40], [-1.0, 0, 0, 10], [0, -1.5, 0, -30], [0, 0, 0, 1]], float)
SIGMOID = {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]}


def agree(_: str) -> bool:
    return True


def sliding_window(roi_size: list[int], **options: Any) -> dict[str, Any]:
    return {"_target_": "SlidingWindowInferer", "roi_size": roi_size, "sw_batch_size": 2, "overlap": 0.5, **options}


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
    prediction = {"num_channels": channels, "channel_def": {str(number): name for number, name in enumerate(names)}}
    formats = {"inputs": {"image": {"num_channels": 1}}, "outputs": {"pred": prediction}}
    return {"name": "small bundle", "license": "CC0-1.0", "network_data_format": formats}


def write_bundle(folder: Path, configuration: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    from monai.bundle import ConfigParser

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(configuration))
    (folder / "configs" / "metadata.json").write_text(json.dumps(make_metadata() if metadata is None else metadata))
    torch.manual_seed(0)
    network = ConfigParser(configuration).get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", make_configuration())


@pytest.fixture
def volume() -> Volume:
    array = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    array[:2], array[:, :3], array[:, :, -4:] = -50, -50, -50
    return Volume(array, MATRIX)


def predicted_by_monai(folder: Path, volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Logits on the grid and, inverted by MONAI, on the image (labels, K, J, I), which MONAI reads from a file."""
    from monai.bundle import ConfigParser
    from monai.transforms import Invertd

    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(volume.array.T, volume.ijk_to_ras), folder / "image.nii")
    parser = ConfigParser()
    parser.read_meta(str(folder / "configs" / "metadata.json"))
    parser.read_config(str(folder / "configs" / "inference.json"))
    module = parser.get_parsed_content("network_def").eval()
    module.load_state_dict(torch.load(folder / "models" / "model.pt"))
    preprocessing = parser.get_parsed_content("preprocessing")
    data = preprocessing({"image": str(folder / "image.nii")})
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], module)[0]
    grid = data["pred"].numpy()
    inverted = Invertd("pred", preprocessing, "image", nearest_interp=False)(data)["pred"].numpy()
    return grid, inverted.transpose(0, 3, 2, 1)


@pytest.mark.parametrize(
    ("roi_size", "options"),
    [
        ([16, 20, 12], {"mode": "gaussian"}),
        ([64, 20, 12], {}),  # small images are padded as the bundle says
        ([64, 20, 12], {"padding_mode": "replicate"}),
        ([64, 20, 12], {"cval": -3.0}),
        ([-1, 20, 64], {"mode": "gaussian"}),
    ],
)
def test_an_unrefined_prediction_is_that_of_monai(tmp_path: Path, volume: Volume, roi_size: list[int], options: Any):
    folder = write_bundle(tmp_path / "bundle", make_configuration(inferer=sliding_window(roi_size, **options)))
    network = load_network(folder, confirm=agree)
    prepared = network.prepare(volume)
    expected_grid, expected = predicted_by_monai(folder, volume)
    logits = tiled_logits(network, prepared)
    np.testing.assert_allclose(logits, expected_grid, atol=1e-4)
    found = prepared.to_image(logits)
    assert found.shape == (3, *SHAPE)
    seen = (expected != 0).all(axis=0)  # MONAI fills what was cut off with zeros
    np.testing.assert_allclose(found[:, seen], expected[:, seen], atol=2e-4)
    assert (found[0, ~seen] == 0).all()
    assert (found[1:, ~seen] < -10).all()


def test_corrections_come_to_lie_where_the_network_sees_what_they_mark(bundle: Path):
    network = load_network(bundle, confirm=agree)
    array = np.zeros(SHAPE, np.float32)
    array[2:12, 3:22, 2:25] = 100
    array[3:10, 5:17, 6:20] = 200
    prepared = network.prepare(Volume(array, MATRIX))
    seen = prepared.to_grid(LabelScribbles.empty(SHAPE).with_scribble(array > 150, 2)).mask(2)
    bright = prepared.tensor[0].numpy() > 0.75
    assert 2 * (bright & seen).sum() / (bright.sum() + seen.sum()) > 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_2d_bundle_are_the_same_alone_and_together(tmp_path: Path, volume: Volume, axis: int):
    network = load_network(write_bundle(tmp_path / "bundle", make_configuration(ndim=2)), confirm=agree)
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
    everywhere = LabelScribbles.from_labels(np.moveaxis(stacked, 0, axis))
    assert np.array_equal(whole.to_grid(everywhere).labels[5], one.to_grid(marks).labels)


@pytest.mark.parametrize("channel_first", [True, False])
def test_a_2d_bundle_of_colour_images_sees_the_grey_image_three_times(
    tmp_path: Path, volume: Volume, channel_first: bool
):
    configuration = make_configuration(ndim=2)
    configuration["network_def"]["in_channels"] = 3
    if channel_first:
        configuration["steps"][0]["ensure_channel_first"] = True
        del configuration["steps"][1]
    network = load_network(write_bundle(tmp_path / "bundle", configuration, {}), confirm=agree)
    prepared = network.prepare(volume, index=3)
    assert prepared.tensor.shape == (3, 20, 36)
    assert torch.equal(prepared.tensor[0], prepared.tensor[2])


# Windows -------------------------------------------------------------------------------------------------------------


def predictor(patch: torch.Tensor) -> torch.Tensor:
    """Differs from window to window where they overlap, so that their places and weights show."""
    place = torch.arange(patch[0, 0].numel(), dtype=torch.float32).reshape(patch.shape[2:])
    return patch + place / place.numel()


@settings(max_examples=60)
@given(st.data())
def test_windows_and_weights_are_those_of_monai(data: st.DataObject):
    ndim = data.draw(st.sampled_from([2, 3]))
    shape = [data.draw(st.integers(1, 24)) for _ in range(ndim)]
    inferer = inferers.SlidingWindowInferer(
        roi_size=[data.draw(st.sampled_from([-1, 3, 4, 7, 12, 30])) for _ in range(ndim)],
        overlap=data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.8])),
        mode=data.draw(st.sampled_from(["constant", "gaussian"])),
    )
    image = torch.rand(1, *shape)
    expected = inferer(image[None], predictor)[0]
    found = blended(monai_tiling(shape, inferer, None, "net"), image, predictor)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if ndim == 2:  # slices are seen as images of their own
        axis = data.draw(st.integers(0, 2))
        stack = torch.stack([image] * 2, dim=1 + axis)
        slices = blended(monai_tiling(stack.shape[1:], inferer, axis, "net"), stack, predictor)
        torch.testing.assert_close(slices.select(1 + axis, 1), expected, atol=1e-4, rtol=1e-4)
    for whole in (None, inferers.SimpleInferer()):
        assert len(monai_tiling(shape, whole, None, "net").windows) == 1


# Reading -------------------------------------------------------------------------------------------------------------


def test_name_licence_and_labels_come_from_the_metadata_or_a_trial_run(tmp_path: Path, bundle: Path):
    network = load_network(bundle, confirm=agree)
    assert (network.name, network.licence, network.ndim) == ("small bundle", "CC0-1.0", 3)
    assert network.labels == ("background", "spleen", "liver")
    assert not network.module.training
    plain = load_network(write_bundle(tmp_path / "plain", make_configuration(), {}), confirm=agree)
    assert (plain.name, plain.labels) == ("plain", ("background", "label 1", "label 2"))
    one = make_configuration(channels=1, postprocessing=SIGMOID)
    single = load_network(write_bundle(tmp_path / "one", one, make_metadata(1)), confirm=agree)
    assert (single.labels, single.output.activation) == (("background", "spleen"), "sigmoid")


def test_zip_yaml_and_torchscript_are_the_same_network(tmp_path: Path, bundle: Path):
    yaml = pytest.importorskip("yaml")
    expected, image = load_network(bundle, confirm=agree).module, torch.rand(1, 1, 16, 16, 16)
    shutil.copytree(bundle, tmp_path / "packed" / "bundle")
    archive = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", tmp_path / "packed"))
    torch.testing.assert_close(load_network(archive, confirm=agree).module(image), expected(image))
    (bundle / "configs" / "inference.json").unlink()
    (bundle / "configs" / "inference.yaml").write_text(yaml.safe_dump(make_configuration()))
    torch.jit.script(expected).save(str(bundle / "models" / "model.ts"))
    (bundle / "models" / "model.pt").unlink()
    torch.testing.assert_close(load_network(bundle, confirm=agree).module(image), expected(image))


def test_an_expression_runs_nothing_before_it_is_confirmed(tmp_path: Path, bundle: Path, refusal: Any):
    mark = tmp_path / "ran"
    evil = make_configuration(network_def=f"$__import__('os').mkdir({str(mark)!r})")
    (bundle / "configs" / "inference.json").write_text(json.dumps(evil))
    with pytest.raises(NetworkError, match=r"bundle is a MONAI bundle.*can run any code"):
        load_network(bundle, confirm=refusal)
    assert not mark.exists()
    with pytest.raises(NetworkError):
        load_network(bundle, confirm=agree)
    assert mark.is_dir()  # the attack works once it is confirmed, so that this test can fail


def test_parameters_with_code_are_refused_even_when_the_bundle_is_trusted(bundle: Path, attack: Any):
    torch.save({"model": attack}, bundle / "models" / "model.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load_network(bundle, confirm=agree)
    assert not attack.folder.exists()


def test_a_bundle_imports_its_own_scripts_and_leaves_none_behind(tmp_path: Path):
    for name, channels in (("first", 2), ("second", 4)):
        folder = write_bundle(tmp_path / name, make_configuration(channels=channels), {})
        configuration = make_configuration(channels="$CHANNELS", imports=["$from scripts.sizes import CHANNELS"])
        (folder / "configs" / "inference.json").write_text(json.dumps(configuration))
        (folder / "scripts").mkdir()
        (folder / "scripts" / "__init__.py").touch()
        (folder / "scripts" / "sizes.py").write_text(f"CHANNELS = {channels}\n")
        assert len(load_network(folder, confirm=agree).labels) == channels
        assert "scripts.sizes" not in sys.modules
        assert str(folder) not in sys.path


def test_transforms_may_be_named_in_an_expression(tmp_path: Path, bundle: Path, volume: Volume):
    expected = load_network(bundle, confirm=agree).prepare(volume).tensor
    configuration = make_configuration(preprocessing={"_target_": "Compose", "transforms": "$@steps"})
    folder = write_bundle(tmp_path / "named", configuration)
    assert torch.equal(load_network(folder, confirm=agree).prepare(volume).tensor, expected)


def with_steps(*steps: dict[str, Any]) -> dict[str, Any]:
    configuration = make_configuration()
    return {**configuration, "steps": [*configuration["steps"], *steps]}


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (make_configuration(preprocessing="@nothing"), "no list of transforms"),
        (make_configuration(inferer={"_target_": "SliceInferer", "roi_size": [8, 8]}), "run by SliceInferer"),
        (make_configuration(network_def={"_target_": "NoSuchNetwork"}), "cannot be used"),
        (make_configuration(network_def=3), "is not a network"),
        (make_configuration(postprocessing=SIGMOID), "may overlap"),
        (make_configuration(later=SIGMOID["transforms"], postprocessing={"transforms": "$@later"}), "may overlap"),
        (with_steps({"_target_": "SpatialPadd", "keys": "image", "spatial_size": [1, 2]}), "preprocessing of small"),
        (with_steps({"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x[:, 0]"}), "expected a MetaTensor"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    bundle: Path, volume: Volume, configuration: dict[str, Any], message: str
):
    (bundle / "configs" / "inference.json").write_text(json.dumps(configuration))
    with pytest.raises(NetworkError, match=message):
        load_network(bundle, confirm=agree).prepare(volume)


def test_missing_parameters_slices_of_volumes_several_images_and_packages_are_named(
    tmp_path: Path, bundle: Path, volume: Volume
):
    with pytest.raises(NetworkError, match="sees volumes"):
        load_network(bundle, confirm=agree).prepare(volume, index=0)
    configuration = make_configuration()
    configuration["network_def"]["in_channels"] = 4
    with pytest.raises(NetworkError, match="4 channels"):
        load_network(write_bundle(tmp_path / "several", configuration, {}), confirm=agree)
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(NetworkError, match="large_files"):
        load_network(bundle, confirm=agree)
    from monai.utils import OptionalImportError

    failed = RuntimeError("applying transform")
    _require_optional_packages(failed, "the bundle")
    failed.__cause__ = OptionalImportError("import nibabel (No module named 'nibabel').")
    with pytest.raises(MissingPackageError, match="pip install nibabel") as raised:
        _require_optional_packages(failed, "the bundle")
    assert raised.value.package == "nibabel"
