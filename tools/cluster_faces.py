#!/usr/bin/env python
"""``comics cluster-faces`` of a checkout: number the content clusters of a manifest's faces."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "cluster_faces", "tools/cluster_faces.py")

if __name__ == "__main__":
    sys.exit(main())
