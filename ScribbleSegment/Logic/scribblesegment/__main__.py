"""`python -m scribblesegment` is the command `scribblesegment`, for installations without a folder for commands."""

import sys

from scribblesegment.cli import main

sys.exit(main())
