"""The job behind `scribblesegment info`: what is installed, what runs here, and what an image is."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path

import scribblesegment
from scribblesegment.commands.slice_display import has_known_orientation
from scribblesegment.data.volume import Volume

_DIRECTIONS = (("left", "right"), ("back", "front"), ("feet", "head"))
_ABOUT_STRAIGHT = 0.999  # cosine of 2.5 degrees


def info(image: Path | None, say: Callable[[str], None]) -> None:
    """Tell about the installation, and about an image if there is one.

    Args:
        image: File or DICOM folder.
        say: Told line by line.

    Raises:
        ScribbleSegmentError: The image or the registry of models cannot be read.
    """
    if image is not None:
        _about_image(image, say)
        return
    say(f"scribblesegment {scribblesegment.__version__}")
    say(f"python          {platform.python_version()} on {platform.platform(terse=True)} {platform.machine()}")
    _about_torch(say)
    _about_models(say)


def _about_torch(say: Callable[[str], None]) -> None:
    if importlib.util.find_spec("torch") is None:
        say("torch           not installed: pip install torch")
        return
    import torch

    from scribblesegment.inference.devices import device_problem, resolve_device

    say(f"torch           {torch.__version__}")
    chosen = resolve_device("auto")
    say(f"device          {chosen}, computes")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for name in (name for name, there in present.items() if there and name != chosen):
        say(f"                {name} is not used: {device_problem(name) or 'another device comes first'}")


def _about_models(say: Callable[[str], None]) -> None:
    from scribblesegment.weights.registry import find_weights, list_weights

    default = find_weights("default").name
    say("models")
    for entry in list_weights():
        path = entry.path()
        if path.is_file():
            state = f"present, {path.stat().st_size / 1e6:.1f} MB"
        else:
            state = f"not here, {entry.bytes / 1e6:.1f} MB to download" if entry.url else f"missing: {path}"
        say(f"  {entry.name}{' (default)' if entry.name == default else ''}")
        say(f"    {state}; licence {entry.licence}")
        say(f"    {entry.description}{f' With a context, {entry.in_context} joins it.' if entry.in_context else ''}")


def _about_image(path: Path, say: Callable[[str], None]) -> None:
    from scribblesegment.data.preprocessing import IntensityRange
    from scribblesegment.io import read_volume

    volume = read_volume(path)
    spacing = ", ".join(f"{value:.6g}" for value in volume.spacing_kji_mm)
    intensities = IntensityRange.estimate(volume.array)
    say(f"image           {path}")
    say(f"shape           {', '.join(map(str, volume.shape))} (k, j, i), {volume.array.dtype}")
    say(f"spacing         {spacing} mm (k, j, i)")
    say(f"orientation     {_orientation(volume)}")
    say(f"intensities     {intensities.low:.6g} to {intensities.high:.6g} (robust range, shown as black to white)")


def _orientation(volume: Volume) -> str:
    if not has_known_orientation(volume.ijk_to_ras, volume.shape):
        return "not given by the file"
    words = []
    for axis, direction in zip("kji", volume.directions.T[::-1], strict=True):
        strongest = int(abs(direction).argmax())
        towards = _DIRECTIONS[strongest][int(direction[strongest] > 0)]
        words.append(f"{axis} to {towards}" + ("" if abs(direction[strongest]) > _ABOUT_STRAIGHT else " (oblique)"))
    return ", ".join(words) + (", axes not at right angles" if volume.is_sheared else "")
