import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comics import files
from comics.files import (
    FolderInUse,
    atomic_path,
    hold_folder,
    remove_leftovers,
    write_bytes,
    write_text,
)

HOLD = """
import sys, time
from comics.files import hold_folder
with hold_folder(sys.argv[1]) as alone:
    print(alone, flush=True)
    time.sleep(300)
"""


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_appears_whole_or_not_at_all(tmp_path, durable):
    path = tmp_path / "new" / "a.bin"
    write_bytes(path, b"one", durable=durable)
    assert path.read_bytes() == b"one" and path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(RuntimeError), atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"one" and temporary.parent == path.parent
        raise RuntimeError
    write_text(path, "zwei ß", durable=durable)
    assert path.read_text(encoding="utf-8") == "zwei ß"
    assert names(tmp_path) == ["new/a.bin"]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"precious")
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert target.read_bytes() == b"precious" and not link.is_symlink()


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().strip() == "True"
        with pytest.raises(FolderInUse, match="another run is writing to"), hold_folder(tmp_path):
            pass
    finally:
        process.kill()
        process.communicate()
    assert names(tmp_path) == [".lock"]  # which keeps nobody out
    with hold_folder(tmp_path) as alone:
        assert alone
        with pytest.raises(FolderInUse), hold_folder(tmp_path):
            pass
    assert names(tmp_path) == []


def test_a_lock_file_that_its_owner_deletes_is_not_taken_for_one(tmp_path, monkeypatch):
    """Opened while its owner had it, locked when it was gone: the name is another file's by now."""
    lock, opened = files._lock, []

    def late(handle):
        if not opened:
            (tmp_path / ".lock").unlink()
        opened.append(handle)
        return lock(handle)

    monkeypatch.setattr(files, "_lock", late)
    with hold_folder(tmp_path) as alone:
        assert alone and len(opened) == 2
        monkeypatch.undo()
        with pytest.raises(FolderInUse), hold_folder(tmp_path):
            pass


def wait_for_folder(folder):
    """Whether it comes free while a busy system gets round to running the new process."""
    for _ in range(200):
        try:
            with hold_folder(folder) as alone:
                return alone
        except FolderInUse:
            time.sleep(0.05)
    return False


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)
def test_a_forked_worker_that_outlives_the_owner_does_not_hold_the_folder(tmp_path):
    """A DataLoader's workers are forked, and take seconds to see that they are orphans."""
    worker = None
    with hold_folder(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        assert wait_for_folder(tmp_path) and worker.is_alive()
    finally:
        worker.kill()
        worker.join()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), hold_folder(tmp_path / "folder"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_leftovers_go_and_nothing_else(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "run"
    (folder / "media" / "deep").mkdir(parents=True)
    (folder / "mine").mkdir()
    gone = [".a.part", "media/.b.part", "media/deep/.c.part"]
    kept = ["a.part", ".part.txt", "media/d.jpg", "mine/.e.part"]
    for name in (*gone, *kept):
        (folder / name).write_bytes(b"x")
    (outside / ".f.part").write_bytes(b"x")
    (folder / "media" / "link").symlink_to(outside)
    (folder / "crops").symlink_to(outside)
    (folder / ".g.part").symlink_to(outside / ".f.part")
    (folder / ".h.part").mkdir()
    assert remove_leftovers(folder, ["media", "crops", "absent"]) == len(gone)
    assert names(outside) == [".f.part"]
    assert all((folder / name).exists() for name in (*kept, ".g.part", ".h.part"))
    assert not any((folder / name).exists() for name in gone)


def test_nothing_in_the_package_replaces_files_on_its_own():
    """There is one atomic writer; an ONNX model's files are replaced together, from a folder."""
    package = Path(__file__).resolve().parents[2] / "comics"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "os.replace(" in path.read_text(encoding="utf-8")
    }
    assert "files.py" in found <= {"files.py", "inference/onnx/export.py"}


def test_a_folder_that_cannot_be_written(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_bytes(tmp_path / "a", b"")
    finally:
        tmp_path.chmod(0o700)
