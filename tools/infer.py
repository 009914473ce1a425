#!/usr/bin/env python
"""``comics detect`` of a checkout: find the faces in pictures and videos, say which are forged."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "detect", "tools/infer.py")

if __name__ == "__main__":
    sys.exit(main())
