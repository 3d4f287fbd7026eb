"""The part of the module that meets the Slicer application.

Installed, the package `scribblesegment` lies beside the module, where Slicer's Python finds it. In a source tree it
lies in `../Logic`, which is appended here, so that the module can be tried without building the extension.
"""

import sys
from pathlib import Path

_LOGIC = Path(__file__).resolve().parent.parent / "Logic"
if _LOGIC.is_dir() and str(_LOGIC) not in sys.path:
    sys.path.append(str(_LOGIC))
