"""A headless Chromium for tests, which is killed and started again where it hangs."""

from __future__ import annotations

import contextlib
import shutil
import threading
from typing import Any

import psutil

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HANGS_S = 120.0  # since its last new context; a test of ours takes seconds
KILLED = "TargetClosedError"  # what Playwright says in the test that waited for it


class Headless:
    """As much of Playwright's browser as the tests use.

    A call such as ``evaluate`` waits without end, and so would the whole run of tests, for a
    browser that stopped answering. This has been seen once.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._launched: Any = None
        self._timer: threading.Timer | None = None

    def new_context(self, **options: Any) -> Any:
        self._disarm()
        self._timer = threading.Timer(HANGS_S, kill)
        self._timer.daemon = True
        self._timer.start()
        if self._launched is None or not self._launched.is_connected():
            # It refuses to run as root inside its sandbox, which is how containers run tests
            self._launched = self._driver.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox"]
            )
        return self._launched.new_context(**options)

    def close(self) -> None:
        self._disarm()
        if self._launched is not None and self._launched.is_connected():
            self._launched.close()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def kill() -> None:
    """End every browser that this process has started, with its own processes."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "chrom" in process.name():
                process.kill()
