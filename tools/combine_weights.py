#!/usr/bin/env python
"""``comics combine`` of a checkout: join a detector's and a face method's model files into one."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "combine", "tools/combine_weights.py")

if __name__ == "__main__":
    sys.exit(main())
