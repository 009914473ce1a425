#!/usr/bin/env python
"""``comics make-dataset`` of a checkout: forge photos, in COCO's format."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "make_dataset", "tools/make_dataset.py")

if __name__ == "__main__":
    sys.exit(main())
