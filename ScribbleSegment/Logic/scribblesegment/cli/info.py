"""`scribblesegment info`: what is installed, what runs here, and what an image is."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import Annotated

import scribblesegment
from scribblesegment.cli.options import AXES, Argument, Series
from scribblesegment.data.volume import Volume
from scribblesegment.errors import ConfigError

_DIRECTIONS = (("left", "right"), ("back", "front"), ("feet", "head"))
_ABOUT_STRAIGHT = 0.999  # cosine of 2.5 degrees


def info(
    image: Annotated[
        Path | None, Argument("IMAGE", "show shape, spacing and orientation instead, of a folder its DICOM series")
    ] = None,
    *,
    series: Series = None,
) -> None:
    """Without IMAGE: version, models and their licences, torch, and the device that is used."""
    if image is not None:
        if not image.is_dir() or series is not None or _list_series(image) == 1:
            _about_image(image, series)
        return
    if series is not None:
        raise ConfigError("--series chooses among the series of a folder. Give the folder as well.")
    print(f"scribblesegment {scribblesegment.__version__}")
    print(f"python          {platform.python_version()} on {platform.platform(terse=True)} {platform.machine()}")
    if importlib.util.find_spec("torch") is None:
        print("torch           not installed: pip install torch")
    else:
        _about_torch()
    _about_models()


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
