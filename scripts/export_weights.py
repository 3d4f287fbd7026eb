"""Make a weights file from a training checkpoint: `python scripts/export_weights.py RUN/checkpoint.pt OUT.safetensors`.

The averaged parameters are written in half precision, with a description of the network inside the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scribblesegment.errors import ScribbleSegmentError
from scribblesegment.training.checkpoint import export_network


def main() -> int:
    """Parse the arguments and export."""
    parser = argparse.ArgumentParser(description="Make a weights file from a training checkpoint.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="a .safetensors file")
    parser.add_argument("--name", default="", help="what the model is called; the file's name by default")
    parser.add_argument("--licence", default="", help="licence of the parameters")
    parser.add_argument("--mean-with", type=Path, metavar="WEIGHTS", help="write the mean with these weights instead")
    arguments = parser.parse_args()
    try:
        export_network(
            arguments.checkpoint,
            arguments.output,
            name=arguments.name,
            licence=arguments.licence,
            mean_with=arguments.mean_with,
        )
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
