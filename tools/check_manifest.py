#!/usr/bin/env python
"""``comics check`` of a checkout: list every fault of a data set, of either kind."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "check", "tools/check_manifest.py")

if __name__ == "__main__":
    sys.exit(main())
