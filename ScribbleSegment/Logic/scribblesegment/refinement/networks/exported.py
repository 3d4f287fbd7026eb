"""Networks exported by `torch.export`, .pt2 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from scribblesegment.exceptions import NetworkError
from scribblesegment.refinement.networks.python_module import ModuleNetwork
from scribblesegment.refinement.networks.settings import NetworkSettings
from scribblesegment.refinement.networks.torchscript import archive_names
from scribblesegment.refinement.networks.trust import Confirm, require_confirmation


class ExportedModule(nn.Module):
    """An exported program as a module.

    A program runs in the mode it was exported in, and PyTorch's own module of it raises an error when it is asked for
    another; this one lets `eval` and `train` pass.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        for part in self.modules():
            part.training = False

    def train(self, mode: bool = True) -> ExportedModule:
        """Remember the mode; the program does not depend on it."""
        self.training = mode
        return self

    def forward(self, image: torch.Tensor) -> Any:
        """Run the program."""
        return self.program(image)


def is_exported(path: Path) -> bool:
    """Tell an exported program by what is in the archive, without loading it."""
    names = archive_names(path)
    return any(
        name.endswith(("serialized_exported_program.json", "archive_format", "models/model.json")) for name in names
    )


def load_exported(path: Path, settings: NetworkSettings, confirm: Confirm | None) -> ModuleNetwork:
    """Load an exported network; where its input has a fixed size, that is the patch it sees at once.

    Raises:
        NetworkError: Not confirmed, the file cannot be loaded, or it takes no single image.
    """
    require_confirmation(
        confirm, f"{path.name} is a torch.export file: reading it can run code, and so can the operations it names."
    )
    try:
        program = torch.export.load(path)
        module = ExportedModule(program)
    except Exception as error:  # a damaged file, or one of another version of PyTorch, fails in arbitrary ways
        raise NetworkError(
            f"{path} cannot be loaded by torch.export of PyTorch {torch.__version__}: {error}. Export it again with "
            "this version."
        ) from error
    changes: dict[str, Any] = {"name": settings.name or path.stem}
    sides = _fixed_sides(program, path)
    if sides is not None and settings.patch_size is None:
        changes["patch_size"] = sides
    return ModuleNetwork(module.eval(), settings, **changes)


def _fixed_sides(program: torch.export.ExportedProgram, path: Path) -> tuple[int, ...] | None:
    """Find the image size a program was exported for; None if it takes any."""
    inputs = set(program.graph_signature.user_inputs)
    images = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    if len(images) != 1 or not isinstance(images[0], torch.Tensor):
        raise NetworkError(f"{path} takes {len(images)} inputs; a network that is corrected takes one image.")
    batch, _, *sides = images[0].shape
    if isinstance(batch, int) and batch != 1:
        raise NetworkError(f"{path} was exported for {batch} images at a time. Export it for one, or for any number.")
    return tuple(sides) if all(isinstance(side, int) for side in sides) else None
