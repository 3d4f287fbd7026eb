"""Kills a batch at every step at which it changes files, lets it go on, and compares it with an undisturbed run.

Run as `python kill_points.py FOLDER`, or with `second` behind it for a batch that replaces the results of another one.
Needs an operating system that can fork.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batch_folders import BatchFolders, a_context, left_behind, write_context
from batch_networks import load_threshold

from scribblesegment.io.storage import is_temporary

_STEPS = ("fsync", "mkdir", "replace", "unlink")


def run_and_die(folders: BatchFolders, step: int | None, *, before: bool, **changes: Any) -> bool:
    """Run a batch in a process of its own, which ends without warning at a step; returns whether it came to its end."""
    child = os.fork()
    if child == 0:
        if step is not None:
            _die_at(step, before=before)
        folders.run(load_threshold, **changes)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _die_at(step: int, *, before: bool) -> None:
    count = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if before and count == step:
                os._exit(9)
            own = count
            try:
                return function(*args, **options)
            finally:
                if own == step:
                    os._exit(9)

        return call

    for name in _STEPS:
        setattr(os, name, dying(getattr(os, name)))


def main() -> int:
    root, is_second = Path(sys.argv[1]), sys.argv[2:] == ["second"]
    undisturbed = BatchFolders(root / "undisturbed")
    for name, corner in (("a.nrrd", 1), ("sub/c.mha", 3)):
        undisturbed.add(name, corner=corner)
    former = write_context(root / "former.context.zip", a_context("Former"))
    changes: dict[str, Any] = {"folder": undisturbed.images, "recursive": True}
    run_and_die(undisturbed, None, before=True, **changes)
    expected = left_behind(undisturbed.output)
    points, ended = Counter[int](), False
    for step in itertools.count(1):
        if ended:
            break
        for before in (True, False):
            folders = BatchFolders(root / f"{step}-{before}")
            if is_second:
                run_and_die(folders, None, before=True, **changes, contexts=[str(former)])
            ended = run_and_die(folders, step, before=before, **changes)
            found = [path for path in folders.output.rglob("*.seg.nrrd") if not is_temporary(path.name)]
            if not run_and_die(folders, None, before=True, **changes) or left_behind(folders.output) != expected:
                print(f"step {step}, {'before' if before else 'after'} it: {sorted(left_behind(folders.output))}")
                return 1
            points[len(found)] += 1
    print(f"{points.total()} points, with {dict(points)} results before it went on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
