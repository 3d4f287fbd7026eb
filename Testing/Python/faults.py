"""Whether the tests notice faults: each of faults.json is made in a copy, where the tests of its package then run.

    python Testing/Python/faults.py                            all of them, after the tests alone
    python Testing/Python/faults.py --only masking --jobs 2    those with this in their name or package
    python Testing/Python/faults.py --find                     only look whether every fault still has its place

A fault is a piece of source text that occurs once, whatever the file, and what to write in its place. Its tests are
those of its package. Where code has moved, adapt the text; where a fault has become impossible, choose another one of
the same kind.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("ScribbleSegment", "scripts")
TESTS = Path("Testing") / "Python"
TIMEOUT_S = 1800.0
NO_END = -1


@dataclass(frozen=True)
class Fault:
    name: str
    package: str  # that its code belongs to
    old: str
    new: str


class LostError(Exception):
    """A fault cannot be found any more."""


def read_faults() -> list[Fault]:
    return [Fault(**entry) for entry in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))]


def place_of(fault: Fault, checkout: Path) -> Path:
    paths = [path for folder in SOURCES for path in sorted((checkout / folder).rglob("*.py"))]
    found = [(path, path.read_text(encoding="utf-8").count(fault.old)) for path in paths]
    found = [(path, count) for path, count in found if count]
    if sum(count for _, count in found) != 1:
        where = ", ".join(f"{path.name} ({count})" for path, count in found) or "nowhere"
        raise LostError(f"its text is to be found once, and is in: {where}")
    return found[0][0]


def tests_of(faults: Sequence[Fault]) -> list[str]:
    return [(TESTS / package).as_posix() for package in dict.fromkeys(fault.package for fault in faults)]


def run_tests(tests: Sequence[str], checkout: Path) -> int:
    """Run test files until one fails; returns pytest's exit code, or NO_END."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout / "ScribbleSegment" / "Logic"),
        "PYTHONDONTWRITEBYTECODE": "1",  # a fault put back within a second must not leave its bytecode
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    try:
        done = subprocess.run(command, cwd=checkout, env=environment, errors="replace", timeout=TIMEOUT_S, **output)
    except subprocess.TimeoutExpired:
        return NO_END
    if done.returncode not in (0, 1):
        print(done.stdout, file=sys.stderr)
    return done.returncode


def try_fault(fault: Fault, checkout: Path) -> str:
    """Make a fault, run its tests, and put things right again; returns what became of it."""
    try:
        path = place_of(fault, checkout)
    except LostError as error:
        return f"lost: {error}"
    right = path.read_text(encoding="utf-8")
    path.write_text(right.replace(fault.old, fault.new), encoding="utf-8")
    try:
        code = run_tests(tests_of([fault]), checkout)
    finally:
        path.write_text(right, encoding="utf-8")
    return {0: "SURVIVED", 1: "caught", NO_END: "no end"}.get(code, f"pytest ended with {code}")


def copy_checkout(folder: Path) -> Path:
    """Copy the checkout; what lies beside it in the folder `shared` is there as well."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "demo_output", "*.egg-info", "build")
    checkout = Path(shutil.copytree(ROOT, folder / "checkout", ignore=ignored))
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (folder / "shared").symlink_to(shared)
    return checkout


def main() -> int:
    """Try the faults; returns 1 unless all are caught."""
    parser = argparse.ArgumentParser(description="Make faults, and see whether the tests notice.")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="faults with this in name or package")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--find", action="store_true", help="only look for the places")
    parser.add_argument("--skip-clean", action="store_true", help="do not run the tests without a fault first")
    arguments = parser.parse_args()
    faults = [
        fault for fault in read_faults() if any(text in f"{fault.package}: {fault.name}" for text in arguments.only)
    ]
    if arguments.find:
        lost = 0
        for fault in faults:
            try:
                print(f"{place_of(fault, ROOT).relative_to(ROOT)}: {fault.name}")
            except LostError as error:
                lost += 1
                print(f"LOST {fault.package}: {fault.name}: {error}")
        return 1 if lost else 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(copy_checkout(Path(folder) / str(number)))

        def outcome_of(fault: Fault) -> str:
            checkout = copies.get()
            try:
                outcome = try_fault(fault, checkout)
            finally:
                copies.put(checkout)
            print(f"{outcome:9} {fault.package}: {fault.name}", flush=True)
            return outcome

        if not arguments.skip_clean:
            checkout = copies.get()
            if run_tests(tests_of(faults), checkout) != 0:
                print("The tests fail without any fault; nothing can be said.")
                return 2
            copies.put(checkout)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            outcomes = list(pool.map(outcome_of, faults))
    caught = outcomes.count("caught")
    print(f"{caught} of {len(faults)} faults were caught")
    return 0 if caught == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
