#!/usr/bin/env python
"""``comics train`` of a checkout: train a detector or a face method, or evaluate one."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "train", "tools/train_net.py")

if __name__ == "__main__":
    sys.exit(main())
