#!/usr/bin/env python
"""``comics export`` of a checkout: make ONNX files of a model file."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "export", "tools/export_onnx.py")

if __name__ == "__main__":
    sys.exit(main())
