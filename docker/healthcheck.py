"""Whether the server in this container answers; a container that runs anything else is healthy.

The first process of the container is what it was started for: ``comics serve``, or a tool that ends
by itself, of which there is nothing to ask.
"""

import sys
import urllib.error
import urllib.request
from pathlib import Path

DEFAULT_PORT = "8000"  # of ``comics serve``
SECONDS = 8
UNAVAILABLE = 503


def served_port(arguments: list[str]) -> str | None:
    """The port of a ``comics serve`` command line; None for any other."""
    if "serve" not in arguments or not any("comics" in one for one in arguments):
        return None
    port = DEFAULT_PORT
    for position, argument in enumerate(arguments):
        if argument == "--port" and position + 1 < len(arguments):
            port = arguments[position + 1]
        elif argument.startswith("--port="):
            port = argument.removeprefix("--port=")
    return port


def main() -> int:
    """0 healthy, 1 not."""
    arguments = Path("/proc/1/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    port = served_port(arguments)
    if port is None:
        return 0
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except urllib.error.HTTPError as error:  # it answers; another name than this may be asked for
        return 1 if error.code == UNAVAILABLE else 0
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
