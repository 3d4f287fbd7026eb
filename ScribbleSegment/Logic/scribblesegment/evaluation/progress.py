"""How long measurements take is shown in one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from scribblesegment.evaluation.protocols import Progress


@contextmanager
def progress_bar(title: str | None = None) -> Iterator[Progress]:
    """Give a function that shows the fraction done, and what is being done.

    Args:
        title: What is shown before anything is done.
    """
    with tqdm(total=1.0, desc=title, bar_format="{percentage:3.0f}% |{bar}| {elapsed}<{remaining} {desc}") as bar:

        def show(fraction: float, doing: str) -> None:
            bar.set_description_str(doing, refresh=False)
            bar.update(fraction - bar.n)

        yield show
