"""Which runtime runs: with Detectron2 absent, and with one that is there but broken.

None of this needs Detectron2: a package of that name on the path stands for the broken one.
"""

import importlib.util
import logging
import sys
from pathlib import Path

import pytest

from comics.integrations import runtime
from comics.integrations.runtime import architecture_of, choose_runtime, read_yaml

TOOL = Path(__file__).resolve().parents[3] / "tools" / "train_net.py"
BROKEN = "raise ImportError('libcudart.so.9: cannot open shared object file')\n"


def forget_detectron2(monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "detectron2" or name.startswith(runtime.BRIDGE):
            monkeypatch.delitem(sys.modules, name)
    runtime.detectron2_fault.cache_clear()


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A Detectron2 that cannot be imported."""
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    forget_detectron2(monkeypatch)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    runtime.detectron2_fault.cache_clear()


@pytest.fixture
def absent(monkeypatch):
    """No Detectron2 at all."""
    find = importlib.util.find_spec
    forget_detectron2(monkeypatch)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "detectron2" else find(name),
    )
    yield
    runtime.detectron2_fault.cache_clear()


def test_absent_auto_is_native_without_a_word(absent):
    assert choose_runtime("auto", "BlendMask") == runtime.Choice("native")
    with pytest.raises(ValueError, match="needs Detectron2, which is not installed"):
        choose_runtime("detectron2", "BlendMask")


@pytest.mark.parametrize("wanted", ["auto", "native", "detectron2"])
def test_absent_its_own_model_is_refused(absent, wanted):
    with pytest.raises(ValueError, match="needs (Detectron2, which|--runtime detectron2)"):
        choose_runtime(wanted, "COMICSGeneralizedRCNN")


def test_broken_auto_is_native_with_a_warning(broken):
    choice = choose_runtime("auto", "BlendMask")
    assert choice.runtime == "native"
    assert "installed but cannot be used: ImportError: libcudart.so.9" in choice.warning
    with pytest.raises(ValueError, match="--runtime detectron2: .* ImportError: libcudart.so.9"):
        choose_runtime("detectron2", "BlendMask")


def test_native_does_not_look_at_it(broken):
    assert choose_runtime("native", "BlendMask") == runtime.Choice("native")
    assert choose_runtime("auto", "FaceMethod") == runtime.Choice("native")
    assert "detectron2" not in sys.modules


@pytest.fixture(autouse=True)
def quiet():
    """Leaves the logging as it was."""
    yield
    package = logging.getLogger("comics")
    for handler in list(package.handlers):
        package.removeHandler(handler)
        handler.close()
    package.setLevel(logging.NOTSET)


def run_tool(*words):
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.main([str(word) for word in words])


def test_the_tool_says_so(broken, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_tool("--runtime", "detectron2") == 2
    error = capsys.readouterr().err
    assert "installed but cannot be used: ImportError" in error and "Traceback" not in error
    assert not (tmp_path / "output").exists()
    assert run_tool("DATASETS.VAL", "['absent.json']") == 2
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert "runtime: native" in first
    assert "WARNING" in second and "libcudart.so.9" in second


def test_processes_of_launch_are_not_the_native_runtimes(absent, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_tool("--num-gpus", "2") == 2
    assert "--num-gpus is for --runtime detectron2" in capsys.readouterr().err


def test_architecture_comes_from_the_last_word(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL:\n  META_ARCHITECTURE: FCOS\n")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nSEED: 1\n")
    content = read_yaml(tmp_path / "own.yaml")
    key = "MODEL.META_ARCHITECTURE"
    assert architecture_of(content, []) == "FCOS"
    assert architecture_of(content, [key, "BlendMask", "SEED", "2", key, "SOLOv2"]) == "SOLOv2"
    assert architecture_of(read_yaml(None), []) == "COMICSBlendMask"
    assert architecture_of({"MODEL": "no mapping"}, ["odd"]) == "COMICSBlendMask"
