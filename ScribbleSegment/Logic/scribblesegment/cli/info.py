"""`scribblesegment info`: what is installed, what runs here, and what an image is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import scribblesegment
from scribblesegment.cli.options import AXES, Argument, Series
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError, is_installed

_DIRECTIONS = (("left", "right"), ("back", "front"), ("feet", "head"))
_PACKAGES = (
    *("numpy", "scipy", "SimpleITK", "pillow", "pydicom", "torch", "safetensors", "scikit-image", "monai", "nnunetv2"),
    *("nibabel", "highdicom", "dask"),
)
_ABOUT_STRAIGHT = 0.999  # cosine of 2.5 degrees


def info(
    image: Annotated[
        Path | None, Argument("IMAGE", "show shape, spacing and orientation instead, of a folder its DICOM series")
    ] = None,
    *,
    series: Series = None,
    report: Annotated[
        bool, Argument("--report", "print what an issue about a wrong result needs; nothing personal")
    ] = False,
) -> None:
    """Without IMAGE: version, models and their licences, torch, and the device that is used."""
    if report:
        if image is not None or series is not None:
            raise ConfigError("--report is about this installation. Give no image and no series with it.")
        _report()
        return
    if image is not None:
        if not image.is_dir() or series is not None or _list_series(image) == 1:
            _about_image(image, series)
        return
    if series is not None:
        raise ConfigError("--series chooses among the series of a folder. Give the folder as well.")
    print(f"scribblesegment {scribblesegment.__version__}")
    print(f"python          {platform.python_version()} on {platform.platform(terse=True)} {platform.machine()}")
    if not is_installed("torch"):
        print("torch           not installed: pip install 'scribblesegment[torch]'")
    else:
        _about_torch()
    _about_models()


def _report() -> None:
    """Print versions, platform, device and networks; no path, no name of a person, a computer or an imported file."""
    from scribblesegment.inference.devices import torch_problem
    from scribblesegment.weights.registry import list_weights, sha256_of

    lines = [("scribblesegment", scribblesegment.__version__)]
    lines += [("python", f"{platform.python_implementation()} {platform.python_version()}")]
    lines += [
        ("platform", f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} processors")
    ]
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            lines.append((package, importlib.metadata.version(package)))
    if torch_problem() is None:
        lines.append(("device", _device()))
    elif is_installed("torch"):
        lines.append(("torch", "is installed and cannot be loaded"))  # the reason may hold paths
    imported = 0
    for entry in list_weights():
        known = entry.embedded or bool(entry.url)
        imported += not known
        if entry.path().is_file():
            name = entry.name if known else f"imported network {imported}"
            lines.append((name, f"SHA-256 {sha256_of(entry.path())}"))
    for name, value in lines:
        print(f"{name:<24}{value}")


def _device() -> str:
    import torch

    from scribblesegment.inference.devices import resolve_device

    device = resolve_device("auto")
    if torch.device(device).type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{device}, {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device


def _about_torch() -> None:
    import torch

    from scribblesegment.inference.devices import device_problem, resolve_device

    print(f"torch           {torch.__version__}")
    chosen = resolve_device("auto")
    print(f"device          {chosen}, computes")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for name in (name for name, there in present.items() if there and name != chosen):
        print(f"                {name} is not used: {device_problem(name) or 'another device comes first'}")


def _about_models() -> None:
    from scribblesegment.weights.registry import find_weights, list_weights

    default = find_weights("default").name
    print("models")
    for entry in list_weights():
        path = entry.path()
        if path.is_file():
            state = f"present, {path.stat().st_size / 1e6:.1f} MB"
        else:
            state = f"not here, {entry.bytes / 1e6:.1f} MB to download" if entry.url else f"missing: {path}"
        print(f"  {entry.name}{' (default)' if entry.name == default else ''}")
        print(f"    {state}; licence {entry.licence}")
        print(f"    {entry.description}{f' With a context, {entry.in_context} joins it.' if entry.in_context else ''}")


def _list_series(folder: Path) -> int:
    from scribblesegment.io import list_series

    found = list_series(folder)
    print(f"folder          {folder}")
    print("series          number, description, columns x rows x slices, UID")
    for one in found:
        size = " x ".join(map(str, one.size))
        number = "-" if one.number is None else one.number
        print(f"  {number:>4}  {one.description or '(no description)'}  {one.modality} {size}  {one.uid}")
    if len(found) > 1:
        print("Choose one with --series and its number or UID.")
    return len(found)


def _about_image(path: Path, series: str | None) -> None:
    from scribblesegment.data.preprocessing import IntensityRange
    from scribblesegment.io import read_volume

    volume = read_volume(path, series=series)
    spacing = ", ".join(f"{value:.6g}" for value in volume.spacing_kji_mm)
    intensities = IntensityRange.estimate(volume.array)
    print(f"image           {path}")
    print(f"shape           {', '.join(map(str, volume.shape))} (k, j, i), {volume.array.dtype}")
    print(f"spacing         {spacing} mm (k, j, i)")
    print(f"orientation     {_orientation(volume)}")
    print(f"intensities     {intensities.low:.6g} to {intensities.high:.6g} (robust range, shown as black to white)")


def _orientation(volume: Volume) -> str:
    from scribblesegment.cli.pictures import has_known_orientation

    if not has_known_orientation(volume):
        return "not given by the file"
    words = []
    for axis, direction in zip(AXES, volume.directions.T[::-1], strict=True):
        strongest = int(abs(direction).argmax())
        towards = _DIRECTIONS[strongest][int(direction[strongest] > 0)]
        words.append(f"{axis} to {towards}" + ("" if abs(direction[strongest]) > _ABOUT_STRAIGHT else " (oblique)"))
    return ", ".join(words) + (", axes not at right angles" if volume.is_sheared else "")
