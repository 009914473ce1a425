#!/usr/bin/env python
"""``comics mask-codes`` of a checkout: compute the basis of MEInst's mask codes."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "mask_codes", "tools/make_mask_codes.py")

if __name__ == "__main__":
    sys.exit(main())
