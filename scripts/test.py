"""Set everything up and run every check: `python3 scripts/test.py`.

Makes `.venv-test` beside this checkout's README when it is missing, then runs ruff, mypy and pytest: what must work
without PyTorch as if it were missing, then everything. All checks run even when one fails; pytest comes last, so its
summary ends the output. Options that are not listed here go to the last pytest:
`python3 scripts/test.py --fast -k preprocessing`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from _environment import ROOT, SetupError, ensure_environment

# Tests run beside each other, on one thread each: what they wait for is seldom the processor.
BESIDE = ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "worksteal"]
EXTRAS = ("batch", "dicom", "studies", "test")
# What must work where PyTorch is missing.
WITHOUT_TORCH = [f"Testing/Python/{package}" for package in ("cli", "service", "lib")]


def main() -> int:
    """Run the checks and return 0 if all passed, 1 if any failed, 2 if the environment could not be made."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--fast", action="store_true", help="leave out tests marked slow")
    options, pytest_options = parser.parse_known_args()
    try:
        python = str(ensure_environment(ROOT / ".venv-test", EXTRAS))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    some = ["-m", "not slow"] if options.fast else []
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
        "pytest without PyTorch": ["pytest", "-q", *BESIDE, "--without-torch", "-m", "not slow", *WITHOUT_TORCH],
        "pytest": ["pytest", *BESIDE, *some, *pytest_options],
    }
    failed = [name for name, command in checks.items() if not _passes(name, [python, "-m", *command])]
    if failed and failed != ["pytest"]:
        # Only then is pytest's summary not the last line: it alone would look like success.
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _passes(name: str, command: list[str]) -> bool:
    print(f"\n== {name}", flush=True)
    return subprocess.run(command, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
