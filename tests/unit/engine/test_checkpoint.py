import errno
import logging
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from comics.engine import checkpoint
from comics.engine.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    git_revision,
    hold_run,
    load_checkpoint,
    save_checkpoint,
)
from comics.engine.randomness import random_state, seed_everything, set_random_state, undisturbed
from comics.files import FolderInUse


def state(value):
    return {"format": checkpoint.FORMAT, "weights": torch.full((100,), value), "text": "a"}


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "new" / "a.pt", state(1.5))
    read = load_checkpoint(tmp_path / "new" / "a.pt")
    assert torch.equal(read["weights"], torch.full((100,), 1.5)) and read["text"] == "a"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.pt"]


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*a.pt"):
        load_checkpoint(tmp_path / "a.pt")


def flip_tensor_byte(data):
    place = data.index(np.full(100, 1.5, dtype=np.float32).tobytes()) + 40
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda d: b"", lambda d: d[: len(d) // 2], lambda d: b"x" * 100, flip_tensor_byte],
    ids=["empty", "truncated", "other", "one bit"],
)
def test_damage_is_noticed(tmp_path, damage):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1.5))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match="a.pt is"):
        load_checkpoint(path)


class Command:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**state(1.0), "evil": Command()}, "a.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint("a.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [{"format": 99}, {"a": 1}, [1]])
def test_other_format_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of format"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1.0))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(CheckpointError, match="a.pt: the disk is full; earlier"):
        save_checkpoint(path, state(2.0))
    monkeypatch.undo()
    assert load_checkpoint(path)["weights"][0] == 1.0
    assert list(tmp_path.iterdir()) == [path]


LIMITED = """
import resource, signal, sys, torch
from comics.engine.checkpoint import CheckpointError, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(sys.argv[1], {"weights": torch.zeros(100_000)})
except CheckpointError as error:
    print(error)
"""


def test_write_that_the_system_refuses(tmp_path):
    # A real refusal in the middle of torch.save, which hides it under an error of its own.
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(1.0))
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "a.pt: File too large; earlier checkpoints are intact" in result.stdout
    assert load_checkpoint(path)["weights"][0] == 1.0
    assert list(tmp_path.iterdir()) == [path]


def test_error_of_the_caller_is_not_disguised(tmp_path):
    with pytest.raises(Exception, match="pickle") as raised:
        save_checkpoint(tmp_path / "a.pt", {"a": lambda: None})
    assert not isinstance(raised.value, CheckpointError)
    assert not list(tmp_path.iterdir())


def save_many(folder, iterations, best=None):
    for iteration in iterations:
        known = best if best is not None and best <= iteration else None
        folder.save({"weights": torch.full((3,), float(iteration))}, iteration, known)


@pytest.mark.parametrize(
    "keep, best, kept",
    [(2, None, [40, 50]), (2, 20, [20, 40, 50]), (1, 50, [50]), (0, None, [50]), (9, 10, None)],
)
def test_rotation(tmp_path, keep, best, kept):
    folder = CheckpointFolder(tmp_path, keep)
    save_many(folder, [10, 20, 30, 40, 50], best)
    assert folder.iterations() == (kept or [10, 20, 30, 40, 50])


def test_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        CheckpointFolder(tmp_path, 2).load_last()


def test_broken_last_falls_back_with_a_warning(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path, 3)
    save_many(folder, [10, 20, 30])
    folder.path(30).write_bytes(folder.path(30).read_bytes()[:50])
    with caplog.at_level(logging.WARNING, "comics"):
        read = folder.load_last()
    assert read["iteration"] == 20 and read["weights"][0] == 20.0
    assert "checkpoint_00000030.pt" in caplog.text and "trying the one before" in caplog.text


def test_all_broken(tmp_path):
    folder = CheckpointFolder(tmp_path, 3)
    save_many(folder, [10, 20])
    for iteration in (10, 20):
        folder.path(iteration).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint can be read.*20.pt.*10.pt"):
        folder.load_last()


def draw():
    return [random.random(), np.random.rand(), torch.rand(1).item(), np.random.normal()]  # noqa: NPY002


def test_random_state_round_trip(tmp_path):
    seed_everything(5)
    draw()  # leaves half of a pair of normal numbers in NumPy's state
    torch.save(random_state(), tmp_path / "a.pt")
    expected = draw()
    seed_everything(6)
    set_random_state(torch.load(tmp_path / "a.pt", weights_only=True))
    assert draw() == expected


def test_seed_decides():
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_undisturbed():
    seed_everything(5)
    expected = draw()
    seed_everything(5)
    with pytest.raises(KeyError), undisturbed():
        draw()
        raise KeyError
    assert draw() == expected


def test_git_revision_is_that_of_the_checkout():
    root = os.path.dirname(os.path.dirname(os.path.dirname(checkpoint.__file__)))
    if not os.path.exists(os.path.join(root, ".git")):
        assert git_revision() == ""
        return
    command = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert git_revision().removesuffix("-dirty") == head.stdout.strip()


def test_a_run_clears_what_killed_ones_left_and_keeps_others_out(tmp_path):
    (tmp_path / "inference").mkdir()
    gone = [
        ".x1.part", "inference/.x2.part", ".checkpoint_00000010.pt.k3v",
        ".model_best.safetensors.q1", ".config.yaml.partial",
    ]  # fmt: skip
    kept = ["checkpoint_00000005.pt", "model_best.safetensors", "config.yaml", ".mine"]
    for name in (*gone, *kept):
        (tmp_path / name).write_bytes(b"x")
    with hold_run(tmp_path, ["inference"]):
        assert [name for name in gone if (tmp_path / name).exists()] == []
        assert all((tmp_path / name).exists() for name in kept)
        (tmp_path / ".x4.part").write_bytes(b"x")
        with pytest.raises(FolderInUse, match="another run is writing to"), hold_run(tmp_path):
            pass
        assert (tmp_path / ".x4.part").exists()  # the running one's own
