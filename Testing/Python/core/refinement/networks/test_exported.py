from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from small_networks import SmallNet
from torch import Tensor, nn

from scribblesegment.errors import NetworkError
from scribblesegment.refinement.adapters.base import NetworkSettings
from scribblesegment.refinement.adapters.modules import is_exported, is_torchscript, load_exported


def write(path: Path, module: nn.Module, *images: Tensor, free: tuple[int, ...] = ()) -> Path:
    shapes = ({axis: torch.export.Dim(f"d{axis}", min=1, max=512) for axis in free},)
    program = torch.export.export(module.eval(), images, dynamic_shapes=shapes if free else None)
    torch.export.save(program, path)
    return path


def test_an_exported_file_is_told_from_others_without_loading_it(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pt2", SmallNet(), torch.zeros(1, 1, 8, 8))
    torch.jit.script(SmallNet()).save(str(tmp_path / "script.pt"))
    torch.save(SmallNet().state_dict(), tmp_path / "parameters.pt")
    assert is_exported(path)
    assert not is_torchscript(path)
    assert not is_exported(tmp_path / "script.pt")
    assert not is_exported(tmp_path / "parameters.pt")


def test_a_program_of_one_size_sees_patches_of_that_size(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pt2", SmallNet(), torch.zeros(1, 1, 24, 16))
    network = load_exported(path, NetworkSettings(), lambda _: True)
    image = torch.rand(1, 1, 24, 16)
    torch.testing.assert_close(network.module(image), SmallNet()(image))
    assert network.settings.patch_size == (24, 16)
    assert (network.name, network.ndim, network.labels) == ("net", 2, ("background", "label 1", "label 2"))


def test_a_program_of_any_size_sees_whole_slices(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pt2", SmallNet(), torch.zeros(2, 1, 24, 16), free=(0, 2, 3))
    network = load_exported(path, NetworkSettings(), lambda _: True)
    assert network.settings.patch_size is None
    image = torch.rand(1, 1, 33, 47)
    torch.testing.assert_close(network.module(image), SmallNet()(image))


def test_asking_for_a_mode_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pt2", SmallNet(), torch.zeros(1, 1, 8, 8))
    module = load_exported(path, NetworkSettings(), lambda _: True).module
    assert module.train().training
    assert not any(part.training for part in module.eval().modules())


def test_its_parameters_have_gradients(tmp_path: Path) -> None:
    path = write(tmp_path / "net.pt2", SmallNet(), torch.zeros(1, 1, 8, 8))
    module = load_exported(path, NetworkSettings(), lambda _: True).module
    module(torch.rand(1, 1, 8, 8)).sum().backward()
    assert all(value.grad is not None for value in module.parameters())
    assert sum(1 for _ in module.parameters()) == 4


class TwoImages(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


@pytest.mark.parametrize("confirm", [None, lambda _: False])
def test_unconfirmed_it_is_not_loaded(tmp_path: Path, confirm: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "net.pt2", SmallNet(), torch.zeros(1, 1, 8, 8))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch.export, "load", fail)
    with pytest.raises(NetworkError, match=r"torch\.export file"):
        load_exported(path, NetworkSettings(), confirm)  # type: ignore[arg-type]


def test_a_program_of_two_images_or_of_a_batch_is_refused(tmp_path: Path) -> None:
    image = torch.zeros(1, 1, 8, 8)
    two = write(tmp_path / "two.pt2", TwoImages(), image, image)
    batch = write(tmp_path / "batch.pt2", SmallNet(), torch.zeros(4, 1, 8, 8))
    with pytest.raises(NetworkError, match="takes 2 inputs"):
        load_exported(two, NetworkSettings(), lambda _: True)
    with pytest.raises(NetworkError, match="exported for 4 images"):
        load_exported(batch, NetworkSettings(), lambda _: True)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/models/model.json", b"{}")
    assert is_exported(tmp_path / "net.pt2")
    with pytest.raises(NetworkError, match=r"cannot be loaded by torch\.export"):
        load_exported(tmp_path / "net.pt2", NetworkSettings(), lambda _: True)
