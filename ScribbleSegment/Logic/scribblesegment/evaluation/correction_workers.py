"""Runs the jobs of the study of refinement, several at a time, and remembers what is finished.

A study that was stopped goes on where it was, and one whose configuration changed does anew only what the change
concerns.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from scribblesegment.errors import ConfigError, FileFormatError
from scribblesegment.evaluation.correction_study import Job, RoundResult, Study
from scribblesegment.evaluation.protocols import Progress

_worker: Study | None = None


def run_jobs(
    study: Study, jobs: Sequence[Job], log: Path, *, workers: int = 1, progress: Progress | None = None
) -> list[RoundResult]:
    """Run the jobs that the log does not know yet, and give the results of all.

    Args:
        study: Holds networks and configuration.
        jobs: What to run.
        log: A JSON-lines file; made when missing, and extended as soon as a job is done.
        workers: Processes at the same time, each with one thread; 1 runs everything in this one.
        progress: Told the fraction done, and what was done.

    Raises:
        ConfigError: If there is no worker.
        FileFormatError: If the log cannot be read or written.
    """
    if workers < 1:
        raise ConfigError(f"There must be at least one worker, got {workers}.")
    known = read_log(log)
    keys = [study.key(job) for job in jobs]
    missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in known}
    for number, (key, results) in enumerate(_run_missing(study, missing, workers), start=1):
        _append(log, key, results)
        known[key] = results
        if progress is not None:
            done = results[0]
            progress(number / len(missing), f"{done.experiment}, {done.task}, {done.shift}, {done.variant}")
    # The same job may belong to several experiments.
    return [
        dataclasses.replace(entry, experiment=job.experiment.name)
        for key, job in zip(keys, jobs, strict=True)
        for entry in known[key]
    ]


def _run_missing(study: Study, missing: dict[str, Job], workers: int) -> Iterator[tuple[str, list[RoundResult]]]:
    if workers == 1 or len(missing) < 2:
        for key, job in missing.items():
            yield key, study.run(job)
        return
    # Not forked: a copy of a process in which torch has started threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (study.config, study.networks)) as pool:
        try:
            yield from zip(missing, pool.map(_work, missing.values()), strict=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker(config: Any, networks: Path) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    _worker = Study(config, networks)


def _work(job: Job) -> list[RoundResult]:
    if _worker is None:
        raise ConfigError("A worker runs jobs only after it was started with a study.")
    return _worker.run(job)


def read_log(log: Path) -> dict[str, list[RoundResult]]:
    """Read the results of finished jobs by their key; a last line that was broken off is ignored.

    Raises:
        FileFormatError: If the file cannot be read, or another line is damaged.
    """
    if not log.exists():
        return {}
    try:
        lines = log.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as cause:
        raise FileFormatError(f"Cannot read {log}: {cause}. Remove it to run everything anew.") from cause
    known = {}
    # What follows the last line break was broken off, or is nothing.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
            known[entry["key"]] = [_parsed(row) for row in entry["rounds"]]
        except (ValueError, KeyError, TypeError) as cause:
            raise FileFormatError(f"{log}, line {number}, is damaged: {cause}. Remove the line.") from cause
    return known


def _append(log: Path, key: str, results: list[RoundResult]) -> None:
    line = json.dumps({"key": key, "rounds": [dataclasses.asdict(entry) for entry in results]})
    try:
        with log.open("a+b") as file:
            # A line that was broken off must not take the next one with it.
            if file.tell() and not _ends_a_line(log):
                file.truncate(log.read_bytes().rfind(b"\n") + 1)
            file.write(line.encode() + b"\n")
    except OSError as cause:
        raise FileFormatError(f"Cannot write {log}: {cause.strerror}. Finished jobs are kept; start again.") from cause


def _ends_a_line(log: Path) -> bool:
    with log.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _parsed(row: dict[str, Any]) -> RoundResult:
    return RoundResult(**{**row, "class_dice": tuple(row["class_dice"])})
