#!/usr/bin/env python
"""``comics make-face-videos`` of a checkout: forge clips of single faces."""

import sys
from functools import partial

from comics.cli import run_command

main = partial(run_command, "make_face_videos", "tools/make_face_videos.py")

if __name__ == "__main__":
    sys.exit(main())
