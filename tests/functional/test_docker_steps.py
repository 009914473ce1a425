"""The CPU image's steps without an engine: its pip lines, in a fresh virtual environment.

What an engine would add is left out: the base image, and the downloads of packages that this
environment already has in the pinned version (PyTorch alone is gigabytes): they are made visible to
the new environment, and pip finds them installed.
"""

import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240  # a pip that waits for a network is stopped


@pytest.fixture(scope="module")
def dockerfile():
    """The parser of tests/unit/test_dockerfile.py, and what it found."""
    path = ROOT / "tests" / "unit" / "test_dockerfile.py"
    spec = importlib.util.spec_from_file_location("dockerfile_parser", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(command: str, folder: Path, venv: Path) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
                    "TORCH_INDEX_URL": "https://pypi.org/simple",
                    "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1"}  # fmt: skip
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip


def copy(words: list[str], destination: Path, patterns: list[str], ignored) -> None:
    """COPY: files, and the content of folders, as far as .dockerignore lets them through."""
    *sources, target = words
    for source in sources:
        path = ROOT / source
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        for one in files:
            if ignored(one.relative_to(ROOT).as_posix(), patterns):
                continue
            inner = one.name if path.is_file() else one.relative_to(path).as_posix()
            whole = path.is_file() and not target.endswith("/")
            place = destination / target.lstrip("/") if whole else (
                destination / target.lstrip("/") / inner)  # fmt: skip
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one, place)


@pytest.mark.slow
def test_the_cpu_images_pip_lines_make_an_environment_that_works(tmp_path, dockerfile):
    pins = dockerfile.pinned()
    for name in ("torch", "torchvision"):
        installed = importlib.metadata.version(name).split("+")[0]
        if installed != pins[name]:
            pytest.skip(f"{name} {installed} is installed, the images pin {pins[name]}")
    venv, build, root = tmp_path / "venv", tmp_path / "build", tmp_path / "root"
    build.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "already_downloaded.pth").write_text(sysconfig.get_path("purelib") + "\n")
    index = run("pip download --quiet --no-deps --dest wheels 'setuptools>=68'", tmp_path, venv)
    if index.returncode:  # pip builds with a fresh one
        pytest.skip(f"no package index can be reached: {index.stderr}")

    patterns = dockerfile.ignore_patterns()
    installs = 0
    for instruction, text in dockerfile.BY_NAME["cpu-builder"].steps:
        words = text.split()
        if instruction == "COPY":
            copy(words, build, patterns, dockerfile.ignored)
        elif instruction == "RUN" and "pip install" in text:
            command = " ".join(word for word in words if not word.startswith("--mount="))
            done = run(command, build, venv)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert "Downloading torch-" not in done.stdout
            installs += 1
    assert installs >= 3
    for text in dockerfile.BY_NAME["project"].texts("COPY"):
        copy(text.split(), root, patterns, dockerfile.ignored)

    (health,) = dockerfile.BY_NAME["cpu"].texts("HEALTHCHECK")
    words = json.loads(health.split("CMD ", 1)[1])
    done = run(shlex.join(words).replace("/app/", f"{root}/app/"), root / "app", venv)
    assert done.returncode == 0, done.stderr
    done = run("python tools/infer.py --help", root / "app", venv)
    assert done.returncode == 0, done.stderr
    found = run(
        'python -c "import comics, pathlib; home = pathlib.Path(comics.__file__).parent; '
        "print(home, len(list(home.rglob('*.html'))))\"", root / "app", venv,
    )  # fmt: skip
    home, pages = found.stdout.split()
    assert home.startswith(str(venv))
    assert int(pages) > 0  # files that are no Python came along
