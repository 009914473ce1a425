"""What comments and pages cite can be opened: an anchor, a paper's key, no private file."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("comics", "tools", "tests", "configs", "datasets", "docs", "docker")
SUFFIXES = {".py", ".yaml", ".md", ".html", ".css", ".js", ".toml", ".txt", ".sh", ""}
ANCHOR = re.compile(r"<a id=\"([\w.-]+)\"></a>")
CITED = re.compile(r"\b(docs/[\w/.-]+?\.md)#([\w.-]*\w)")
# What only the machine of the first developers has: a page "METHODS", papers by number
PRIVATE = re.compile(r"\bMETHODS(?:\.md|\s+\d)|\b[Pp]apers?\s+00\d\b|\(00[0-4], ")


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z", *FOLDERS, "README.md", "Makefile", "setup.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    names = [Path(name) for name in done.stdout.split("\0") if name]
    return [n for n in names if n.suffix in SUFFIXES and (ROOT / n).is_file()]


def texts() -> dict[str, str]:
    own = Path(__file__).relative_to(ROOT)
    return {str(n): (ROOT / n).read_text("utf-8") for n in tracked() if n != own}


def anchors(page: str) -> list[str]:
    """Explicit ids, and the ids that a site gives to headings."""
    text = (ROOT / page).read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    made = [re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings]
    explicit = ANCHOR.findall(text)
    return explicit + [name for name in made if name not in explicit]


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def test_cited_anchors_exist():
    known: dict[str, set[str]] = {}
    wrong, count = [], 0
    for name, text in texts().items():
        for match in CITED.finditer(text):
            page, anchor = match.groups()
            count += 1
            if not (ROOT / page).is_file():
                wrong.append(f"{name}:{line_of(text, match.start())}: no page {page}")
                continue
            if page not in known:
                known[page] = set(anchors(page))
            if anchor not in known[page]:
                wrong.append(f"{name}:{line_of(text, match.start())}: {page} has no #{anchor}")
    assert wrong == []
    assert count > 80  # the search finds what there is


def test_links_between_the_pages_resolve():
    wrong = []
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text("utf-8")
        for match in re.finditer(r"\]\(([\w.-]+\.md)?#([\w.-]+)\)", text):
            target = f"docs/{match[1]}" if match[1] else f"docs/{page.name}"
            if not (ROOT / target).is_file() or match[2] not in anchors(target):
                wrong.append(f"{page.name}:{line_of(text, match.start())}: {match[0]}")
    assert wrong == []


def test_nothing_private_is_cited():
    wrong = [
        f"{name}:{line_of(text, match.start())}: {match[0]!r}"
        for name, text in texts().items()
        for match in PRIVATE.finditer(text)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(METHODS 1.4)", True),
        ("see METHODS.md", True),
        ("another (METHODS\n        1.4)", True),
        ("paper 003, eq. 2", True),
        ("Papers 001 and 004", True),
        ("as published (002, Table 1)", True),
        ("from comics.data.forgery import METHODS", False),
        ("METHODS = (1, 2)", False),
        ("the paper, 3 pages", False),
    ],
)
def test_what_counts_as_private(text, found):
    assert bool(PRIVATE.search(text)) == found


@pytest.mark.parametrize("page", ["docs/methods.md", "docs/papers.md"])
def test_each_anchor_is_there_once(page):
    explicit = ANCHOR.findall((ROOT / page).read_text("utf-8"))
    assert len(explicit) == len(set(explicit)) > 30
