"""What README and docs tell a reader to type exists, with those options."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "datasets/README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARTS = ("benchmark_", "face_grid")  # modules of the tools beside them, no commands of their own
TOOLS = sorted(p for p in (ROOT / "tools").rglob("*.py") if not p.name.startswith(PARTS))


def commands() -> list[list[str]]:
    """Command lines of the pages' shell blocks that start one of our tools."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if any(word.startswith("tools/") for word in words):
                    found.append(words)
    return found


@cache
def help_of(tool: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / tool, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("tool", TOOLS, ids=lambda p: p.name)
def test_every_tool_explains_itself(tool):
    text = help_of(str(tool.relative_to(ROOT)))
    assert len(text) > 300
    assert "usage" in text


def test_commands_of_the_pages_use_options_that_exist():
    lines = commands()
    assert len(lines) > 5
    for words in lines:
        tool = next(word for word in words if word.startswith("tools/"))
        for option in re.findall(r"--[a-z][a-z-]*", " ".join(words[words.index(tool) :])):
            assert option in help_of(tool), f"{' '.join(words)}: no {option}"
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), word


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_first_screen_has_the_two_commands():
    first = (ROOT / "README.md").read_text().splitlines()[:20]
    assert any(line.startswith("make demo") for line in first)
    assert any(line.startswith("make test") for line in first)
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile
    assert "\ntest:" in makefile


def test_the_site_is_built_and_fetches_nothing(tmp_path):
    """`make docs`: every page is in the navigation, and none asks another machine for anything."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert len(pages) > 12 and all(f": {name}\n" in navigation for name in pages)
    for page in tmp_path.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="([^"]+)"', text)
        assert fetched and not [url for url in fetched if url.startswith(("http", "//"))], page
