from pathlib import Path

import pytest

from comics.inference import default_weights as module
from comics.inference.default_weights import VARIABLE, default_weights


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "default.safetensors")
    monkeypatch.delenv(VARIABLE, raising=False)
    return module.SHIPPED


def test_what_is_named_comes_first(shipped, monkeypatch):
    shipped.write_bytes(b"")
    assert default_weights() == shipped
    monkeypatch.setenv(VARIABLE, "from/environment.safetensors")
    assert default_weights() == Path("from/environment.safetensors")
    assert default_weights("given.safetensors") == Path("given.safetensors")


def test_without_any_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(FileNotFoundError, match="--weights FILE .* COMICS_WEIGHTS.*train_net.py"):
        default_weights()


def test_the_licence_of_the_weights_travels_with_them():
    root = Path(module.__file__).resolve().parents[2]
    own = (root / "comics" / "weights" / "LICENSE-WEIGHTS").read_text(encoding="utf-8")
    assert own == (root / "LICENSE-WEIGHTS").read_text(encoding="utf-8")
    assert '"LICENSE-WEIGHTS"' in (root / "setup.py").read_text(encoding="utf-8")
