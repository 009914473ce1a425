"""A page as PDF, printed by a browser that is on this machine.

Chromium and its relatives print without a window. What goes on paper needs no script: the page's
style shows then what its script would not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from comics.files import atomic_path

BROWSER_VARIABLE = "COMICS_BROWSER"
NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge", "msedge", "brave-browser",
)  # fmt: skip
PLACES = (  # where they are on systems that do not put programs on the path
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
TIMEOUT_S = 600  # for a thousand faces on a slow machine
PDF_HEAD = b"%PDF-"


class PrintingError(RuntimeError):
    """Why there is no PDF, for people."""


def find_browser() -> str:
    """A browser that can print: what ``COMICS_BROWSER`` names, else one of those that are known.

    Raises:
        PrintingError: if there is none.
    """
    wanted = os.environ.get(BROWSER_VARIABLE)
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise PrintingError(f"{BROWSER_VARIABLE} names {wanted}, which is no program here")
        return found
    for name in (*NAMES, *PLACES):
        found = shutil.which(name)
        if found is not None:
            return found
    raise PrintingError(
        "a PDF is printed by a browser, and none was found: install Chromium, Chrome or Edge, or "
        f"name one by {BROWSER_VARIABLE}; or open report.html in any browser and print it there"
    )


def print_page(page: Path, target: Path, browser: str, timeout_s: float = TIMEOUT_S) -> None:
    """Print a page into a PDF file, which appears whole or not at all.

    Args:
        page: HTML file.
        target: PDF file.
        browser: path of ``find_browser``.
        timeout_s: seconds after which the browser is ended.

    Raises:
        PrintingError: if the browser fails, or writes no PDF.
        OSError: if the file cannot be written.
    """
    with (
        atomic_path(target) as temporary,
        tempfile.TemporaryDirectory(prefix="comics-print-") as profile,
    ):
        # A profile of its own: a running browser of the user's is left alone
        printed = Path(profile) / "page.pdf"
        command = [
            browser, "--headless", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--no-pdf-header-footer",
            f"--user-data-dir={profile}", f"--print-to-pdf={printed}", *_sandbox(),
            page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=timeout_s, check=False, cwd=profile
            )
        except subprocess.TimeoutExpired:
            raise PrintingError(f"{browser} did not print within {timeout_s:g} seconds") from None
        except OSError as error:
            raise PrintingError(f"{browser} cannot be started: {error}") from None
        if not printed.is_file() or not printed.read_bytes().startswith(PDF_HEAD):
            raise PrintingError(f"{browser} wrote no PDF{_last_line(done.stderr)}")
        shutil.copyfile(printed, temporary)


def _sandbox() -> list[str]:
    """It refuses to run as root inside its sandbox, which is how containers run programs."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return ["--no-sandbox"] if is_root else []


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
