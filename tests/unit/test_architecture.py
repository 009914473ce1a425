"""The rules that keep the layers apart (docs/architecture.md), read from the source itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "comics"
MODULES = sorted(PACKAGE.rglob("*.py"))

LEVELS = {
    "config": 0, "errors": 0, "registry": 0, "ops": 0, "files": 0,
    "structures": 1,
    "data": 2, "modeling": 2,
    "evaluation": 3, "engine": 3, "inference": 3, "pipeline": 3,
    "runs": 4, "video": 4, "pages": 4, "server": 4, "scale": 4, "api": 4,
    "found_faces": 4,
    "integrations": 5,
    "commands": 6,
    "cli": 7,
}  # fmt: skip
FORBIDDEN_PAIRS = {("modeling", "data"), ("data", "modeling")}
VAGUE_NAMES = {"utils", "util", "misc", "helpers", "common"}
# A file is as long as its one idea; beyond this, it has more than one
MAX_FILE_LINES, MAX_FUNCTION_LINES = 900, 60


def room(module: str) -> str | None:
    """'comics.data.coco' -> 'data'; None for anything outside the package or its root."""
    parts = module.split(".")
    return parts[1] if parts[0] == "comics" and len(parts) > 1 else None


def imported_modules(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.append(node.module)
            if node.module == "comics":
                names += [f"comics.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own in ("__init__", "__main__"):
        return
    for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
        if module.split(".")[0] == "detectron2":
            assert "integrations/detectron2" in path.as_posix(), f"{path} imports detectron2"
        other = room(module)
        if other is None or other.startswith("__") or other == own:
            continue
        assert LEVELS[other] <= LEVELS[own], f"{path} ({own}) imports {module}, further right"
        assert (own, other) not in FORBIDDEN_PAIRS, f"{path} ({own}) imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short_and_documented(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert path.stem not in VAGUE_NAMES
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    assert text.count("\n") <= MAX_FILE_LINES, f"{path} has {text.count(chr(10))} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name} {length} lines"


def test_setup_imports_nothing_heavy():
    roots = {
        name.split(".")[0] for name in imported_modules(ast.parse((ROOT / "setup.py").read_text()))
    }
    assert roots == {"re", "shutil", "pathlib", "setuptools"}


DETECTOR_PACKAGES = sorted(
    path.parent.name for path in (PACKAGE / "modeling" / "detectors").glob("*/__init__.py")
)


@pytest.mark.parametrize("package", DETECTOR_PACKAGES)
def test_a_detector_uses_only_the_public_names_of_another(package):
    """A package of ``detectors`` imports another one whole, never a module inside it."""
    folder = PACKAGE / "modeling" / "detectors"
    for path in [*folder.glob("*.py"), *(folder / package).glob("*.py")]:
        for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            parts = module.split(".")
            if parts[:3] != ["comics", "modeling", "detectors"] or len(parts) < 5:
                continue
            assert path.parent.name == parts[3], f"{path} imports {module}, another's inside"


def test_shared_parts_of_detectors_know_no_detector():
    folder = PACKAGE / "modeling" / "detectors"
    for path in folder.glob("*.py"):
        if path.stem == "__init__":
            continue
        for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            assert module.split(".")[3:4] == [] or module.split(".")[3] not in DETECTOR_PACKAGES
