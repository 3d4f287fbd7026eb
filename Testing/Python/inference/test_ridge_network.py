"""The embedded network behind the predictor: contexts, zoom passes, and with and without torch alike."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import WeightsError
from scribblesegment.inference.predictor import Predictor, load_predictor
from scribblesegment.inference.ridge_network import NumpyEngine, RidgeNetwork
from scribblesegment.models.ridge_unet import RidgeUNet
from scribblesegment.training.loop import CAPABILITIES
from scribblesegment.weights.checkpoints import NetworkDescription, load_arrays, save_network
from scribblesegment.weights.safetensors_numpy import read_safetensors

Make = Callable[[bool], Predictor]


@pytest.fixture(scope="module")
def make() -> Make:
    torch.manual_seed(0)
    trained = RidgeUNet()
    trained.encode(torch.rand(4, 1, 64, 64))
    trained.appears.bias.data += 1
    parameters = trained.eval().folded()
    folded = RidgeUNet(dataclasses.replace(trained.config, folded=True)).eval()
    folded.load_state_dict(parameters)
    arrays = {name: value.numpy() for name, value in parameters.items()}
    return lambda with_torch: Predictor(
        RidgeNetwork(folded if with_torch else arrays, capabilities=CAPABILITIES, size=64, focus_size=96)
    )


def picture(seed: int = 0) -> NDArray[np.float32]:
    image = np.random.default_rng(seed).random((200, 150), dtype=np.float32) * 0.2
    image[80:110, 60:100] += 0.7
    return image


def prompts() -> Prompts:
    scribble = np.zeros((200, 150), np.float32)
    scribble[90:94, 70:90] = 1
    outside = np.zeros_like(scribble)
    outside[60:64, 50:110] = 1
    return (
        Prompts.empty((200, 150)).with_scribble(scribble, positive=True).with_scribble(outside, positive=False)
    ).with_click((100, 80), positive=True)


def context(count: int) -> ContextSet:
    return ContextSet("examples", tuple(ContextEntry(picture(n), picture(n) > 0.6, (1.0, 1.0)) for n in range(count)))


@pytest.mark.parametrize("entries", [0, 3])
def test_torch_and_numpy_agree(make, entries):
    results = []
    for with_torch in (True, False):
        predictor = make(with_torch)
        predictor.set_image(picture(7))
        predictor.set_context(context(entries))
        results.append(predictor.predict(prompts()))
    assert results[0].focus is not None
    assert results[0].focus == results[1].focus
    np.testing.assert_allclose(results[0].logits, results[1].logits, atol=2e-3)


def test_entries_are_encoded_once(make, monkeypatch):
    predictor, calls = make(False), []
    entry = NumpyEngine.entry
    monkeypatch.setattr(NumpyEngine, "entry", lambda *arguments: calls.append(1) or entry(*arguments))
    predictor.set_image(picture(7))
    for count in (2, 3, 2):
        predictor.set_context(context(count))
        predictor.predict(prompts())
    assert len(calls) == 3


def test_a_small_slice_is_enlarged_only_beside_examples(make, monkeypatch):
    predictor, seen = make(False), []
    encode = RidgeNetwork.encode_image
    monkeypatch.setattr(RidgeNetwork, "encode_image", lambda self, image: seen.append(image) or encode(self, image))
    predictor.set_image(np.full((30, 40), 0.5), intensity_range=IntensityRange(0.0, 1.0))
    for examples in (None, context(2), context(1), None):  # nothing is encoded anew for other examples
        predictor.set_context(examples)
        predictor.encode()
    assert [np.count_nonzero(image.any(axis=0)) for image in seen] == [60, 64, 60]


def test_nothing_is_found_where_nothing_is_said_to_be(make):
    predictor = make(True)
    predictor.set_image(picture(7))
    predictor.set_context(context(2))
    engine = predictor._network.engine  # type: ignore[attr-defined]
    engine._network.appears.bias.data -= 100
    assert not predictor.predict(Prompts.empty((200, 150))).mask().any()
    assert predictor.predict(prompts()).mask().any()


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from scribblesegment import Prompts, load_predictor
predictor = load_predictor(sys.argv[1])
image = np.load(sys.argv[2])
scribble = np.zeros(image.shape, np.float32)
scribble[90:94, 70:90] = 1
predictor.set_image(image)
np.save(sys.argv[3], predictor.predict(Prompts.empty(image.shape).with_scribble(scribble)).logits)
try:
    load_predictor(sys.argv[4])
except ImportError as error:
    print(error)
"""


def test_a_weights_file_is_used_without_torch(tmp_path):
    torch.manual_seed(0)
    trained = RidgeUNet()
    trained.encode(torch.rand(4, 1, 64, 64))
    path, image, result, other = (tmp_path / name for name in ("a.safetensors", "image.npy", "logits.npy", "b.pt"))
    options = {**vars(trained.config), "folded": True}
    save_network(path, trained.eval().folded(), NetworkDescription("ridge_unet", options, 64, focus_size=96))
    other.write_bytes(b"PK")
    np.save(image, picture(7))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, path, image, result, other], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "The network of b.pt needs PyTorch" in done.stdout
    predictor = load_predictor(path)
    predictor.set_image(picture(7))
    scribble = np.zeros((200, 150), np.float32)
    scribble[90:94, 70:90] = 1
    expected = predictor.predict(Prompts.empty((200, 150)).with_scribble(scribble)).logits
    np.testing.assert_allclose(np.load(result), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "not inside the file"),
        (lambda content: content[:5], "header"),
        (lambda content: b"\xff" * 8 + content[8:], "header"),
        (lambda content: content[:-2] + b"\x00\x7c", "NaN or infinite"),
    ],
)
def test_damaged_files_are_refused_without_torch_too(tmp_path, damage, message):
    path = tmp_path / "a.safetensors"
    save_network(path, {"x": torch.ones(3, 2)}, NetworkDescription("ridge_unet", {}))
    arrays, metadata = read_safetensors(path)
    np.testing.assert_array_equal(arrays["x"], np.ones((3, 2)))
    assert "ridge_unet" in metadata["scribblesegment"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=message):
        read_safetensors(path)


def test_a_flipped_bit_is_noticed_without_torch_too(tmp_path):
    path = tmp_path / "a.safetensors"
    save_network(path, {"x": torch.ones(3, 2)}, NetworkDescription("ridge_unet", {"folded": True}))
    assert load_arrays(path)[1].architecture == "ridge_unet"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="checksum is wrong"):
        load_arrays(path)
