#!/usr/bin/env python
"""``comics manifest`` of a checkout: a manifest out of folders of real and of forged faces."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "manifest", "tools/make_manifest.py")

if __name__ == "__main__":
    sys.exit(main())
