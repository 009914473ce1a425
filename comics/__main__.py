"""``python -m comics``: the command ``comics``."""

import sys

from comics.cli import main

sys.exit(main())
