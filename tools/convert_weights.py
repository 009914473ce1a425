#!/usr/bin/env python
"""``comics convert`` of a checkout: make a model file of weights from elsewhere."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "convert", "tools/convert_weights.py")

if __name__ == "__main__":
    sys.exit(main())
