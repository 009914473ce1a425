#!/usr/bin/env python
"""``comics evaluate`` of a checkout: AP, oLRP, AUC, calibration, robustness."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "evaluate", "tools/evaluate.py")

if __name__ == "__main__":
    sys.exit(main())
