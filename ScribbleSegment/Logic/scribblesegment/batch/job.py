"""What is the same for all images of a batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scribblesegment.batch.network import LoadNetwork
from scribblesegment.batch.segmentation import BatchConfig
from scribblesegment.context.context_set import ContextSet

# Raised when the same image, context, network and options would give another result than before.
_METHOD = 1

TRIES = 3
"""An image is given up when so many worker processes died while they were at it."""


@dataclass(frozen=True)
class BatchJob:
    """What a process needs to know to segment images; small, and sent to other processes.

    Attributes:
        run: Differs from those of other runs of the program.
        output: Folder of the results.
        weights: Name or path of the network.
        axis: Axis of the array slices are taken along; None leaves it to each volume.
        config: How images are segmented.
        device: "auto" or a torch device name.
        threads: Threads of the processor that each process uses.
        made_by: Digests of context sets, network and options, by the words in which a change of them is reported.
        load: Loads the network.
        contexts: Where other processes find the context sets.
    """

    run: str
    output: Path
    weights: str
    axis: int | None
    config: BatchConfig
    device: str
    threads: int
    made_by: dict[str, str]
    load: LoadNetwork
    contexts: tuple[Path, ...] = ()


def fingerprints(
    contexts: Sequence[ContextSet], network_digest: str, *, axis: int | None, config: BatchConfig, threads: int
) -> dict[str, str]:
    """Give a digest of everything a result depends on besides the image, by the words that name it."""
    options = {"method": _METHOD, "axis": axis, "threads": threads, **asdict(config)}
    return {
        "context": _digest([_context_parts(context) for context in contexts]),
        "network": network_digest,
        "options": _digest(options),
    }


def _context_parts(context: ContextSet) -> list[object]:
    """What of a context set decides on results; who made it and when does not."""
    entries = [[entry.digest, *map(repr, entry.spacing_mm), entry.axis] for entry in context]
    return [context.label_name, entries]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
