"""``comics detect`` against broken folders, full disks, and its own sudden end.

The command runs as it is; only its model is replaced by one that calls red patches faces and notes
every picture it sees in a file, with a little pause, so that there is time to stop it.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

import comics.runs

SCHEMA = json.loads((Path(comics.runs.__file__).parent / "results.schema.json").read_text())
COMMAND = textwrap.dedent("""
    import sys, time
    import torch
    import comics.inference.predictor as module
    from comics.structures import Faces

    LOG, PAUSE = sys.argv[1], float(sys.argv[2])

    class Patches:
        max_pixels, provenance, looks_at_faces = 250_000, {"model": "patches"}, False

        @classmethod
        def from_file(cls, *_, **__):
            from comics.inference.verdict import VideoRule
            predictor = cls()
            predictor.video_rule = VideoRule()
            return predictor

        def predict(self, images):
            time.sleep(PAUSE)
            with open(LOG, "a") as log:
                log.write("".join(f"{image[0, 0].tolist()}\\n" for image in images))
            return [self.find(image) for image in images]

        def find(self, image):
            found = int(image[-1, -1, 0] > 150)
            boxes = torch.tensor([[2.0, 2, 12, 12]] * found).reshape(-1, 4)
            count = len(boxes)
            return Faces(boxes, image.shape[:2], torch.ones(count).long(), torch.ones(count),
                         fake_probability=torch.full((count,), 0.75))

    module.Predictor = Patches
    from comics.cli import main
    sys.exit(main(sys.argv[3:]))
""")  # fmt: skip


@pytest.fixture
def detect(tmp_path):
    """Starts ``comics detect`` in a process of its own; its log names the pictures it saw."""
    script, log = tmp_path / "command.py", tmp_path / "log.txt"
    script.write_text(COMMAND)
    log.touch()
    started = []

    def start(*words, pause=0.0):
        arguments = [sys.executable, script, log, str(pause), "detect", "--weights", "none", *words]
        process = subprocess.Popen(
            [str(argument) if not isinstance(argument, str) else argument
             for argument in arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    start.log = log
    yield start
    for process in started:
        process.kill()
        process.communicate()


def seen(log):
    """The top left pixel of each picture that the model saw."""
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()]


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def picture(path, number, shape=(30, 40)):
    """A picture that its top left pixel tells from others; every second one has a face."""
    image = np.full((*shape, 3), 128, np.uint8)
    image[0, 0] = (number // 256, number % 256, 7)
    image[-1, -1] = (200 if number % 2 else 0, 0, 0)
    Image.fromarray(image).save(path)


def results(output):
    document = json.loads((output / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    return document


def may_mount():
    return os.geteuid() == 0 and sys.platform == "linux"


def test_a_folder_of_many_kinds_of_broken_files(tmp_path, detect):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(6):
        picture(folder / f"good{number}.png", number)
    picture(folder / os.fsdecode(b"good\xff\xfe.png"), 6)
    picture(folder / "good\n\x1b[31m<b>.png", 7)
    (folder / "folder.jpg").mkdir()
    picture(folder / "folder.jpg" / "good inside.png", 8)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "picture.mp4").write_bytes((folder / "good1.png").read_bytes())
    Image.fromarray(np.zeros((600, 600, 3), np.uint8)).save(folder / "bomb.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nothing.png").symlink_to("nowhere")
    (folder / "self").symlink_to(".")
    os.mkfifo(folder / "pipe.png")
    (folder / "heic.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    picture(folder / "closed.png", 9)
    (folder / "closed.png").chmod(0)
    process = detect(folder, "--output", output, "--batch-size", "3")
    shown, errors = (text.decode() for text in process.communicate(timeout=240))
    assert process.returncode == 3, errors
    document = results(output)
    failed = {os.path.basename(f["file_name"]): f["reason"] for f in document["files"]
              if f["status"] == "failed"}  # fmt: skip
    expected = {
        "cut.jpg": "truncated",
        "empty.png": "empty",
        "text.jpg": "not an image",
        "bomb.png": "more than the 250000 allowed",
        "loop.png": "symbolic links",
        "nothing.png": "symbolic link to nothing",
        "self": "a folder that contains it",
        "pipe.png": "not a regular file",
        "heic.heic": "",  # in words that depend on whether the plug-in is there
    }
    good = 10  # with picture.mp4, which is a picture under another name
    if os.geteuid():
        expected["closed.png"] = "Permission denied"
    else:  # root reads it all the same
        good += 1
    assert failed.keys() == expected.keys()
    for name, reason in expected.items():
        assert failed[name] and reason in failed[name]
    assert document["summary"]["ok"] == good and document["summary"]["failed"] == len(expected)
    assert len(seen(detect.log)) == good
    assert shown.count("FAILED") == len(expected)
    assert all(line.isprintable() for line in shown.splitlines())
    assert f"{good + len(expected)} files" in shown and f"{len(expected)} failed" in shown
    assert errors == ""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_goes_on_and_does_nothing_twice(tmp_path, detect, end):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(40):
        picture(folder / f"{number:02}.png", number)
    words = [folder, "--output", output, "--batch-size", "2", "--crops"]
    process = detect(*words, pause=0.05)
    wait_until(lambda: len(seen(detect.log)) >= 12, process)
    process.send_signal(end)
    process.wait(timeout=60)
    journal = output / ".comics" / "files.jsonl"
    finished = [json.loads(line.split(b" ", 1)[1])["status"]["file_name"]
                for line in journal.read_bytes().splitlines(keepends=True)
                if line.endswith(b"\n")]  # fmt: skip
    before = seen(detect.log)
    assert 8 <= len(finished) < 40
    if end == signal.SIGKILL:
        assert not (output / "results.json").exists()
    else:
        assert process.returncode == 128 + end
        part = results(output)
        assert part["summary"]["complete"] is False
        assert part["summary"]["pending"] == 40 - len(finished)
        assert [f["file_name"] for f in part["files"]] == sorted(finished)
    for path in (output / "media").iterdir():  # hidden ones are no results
        if not path.name.startswith("."):
            with Image.open(path) as image:
                image.load()
    process = detect(*words)
    shown, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert f"{len(finished)} of 40 files were finished" in shown.decode()
    after = seen(detect.log)[len(before) :]
    assert len(after) == 40 - len(finished)
    assert set(before) | set(after) == {(0, number, 7) for number in range(40)}
    document = results(output)
    assert document["summary"]["complete"] is True and document["summary"]["ok"] == 40
    assert [os.path.basename(f["file_name"]) for f in document["files"]] == [
        f"{number:02}.png" for number in range(40)
    ]
    assert len(document["results"]) == 20
    crops = {p.name for p in (output / "crops").iterdir() if not p.name.startswith(".")}
    assert crops == {f"{number:02}.1.jpg" for number in range(1, 40, 2)}


def test_paths_from_the_standard_input_and_a_list(tmp_path, detect):
    names = ["a.png", "b c.png", os.fsdecode(b"caf\xe9.png"), "line\nend.png"]
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    (tmp_path / "list.txt").write_text(f"{tmp_path / names[0]}\n{tmp_path / 'gone.png'}\n")
    process = detect("-", "--list", tmp_path / "list.txt", "--output", tmp_path / "out",
                     "--no-media")  # fmt: skip
    given = b"\0".join(os.fsencode(tmp_path / name) for name in names)
    _, errors = process.communicate(given, timeout=240)
    assert process.returncode == 3, errors
    document = results(tmp_path / "out")
    assert document["summary"]["ok"] == 4 and document["summary"]["failed"] == 1
    assert document["files"][0]["file_name"].endswith("gone.png")


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="only root may mount a small file system")
def test_a_full_disk_stops_the_run_and_what_is_finished_stays(tmp_path, detect):
    folder, disk = tmp_path / "in", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    for number in range(60):
        picture(folder / f"{number:02}.png", number, (200, 200))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount: {mounted.stderr.decode().strip()}")
    try:
        process = detect(folder, "--output", disk / "out")
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "cannot be written" in errors.decode() and "No space left" in errors.decode()
        assert not (disk / "out" / "results.json").exists()
        assert not list((disk / "out").rglob("*.part"))
        for path in (disk / "out" / "media").iterdir():
            with Image.open(path) as image:
                image.load()
        before = len(seen(detect.log))
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        process = detect(folder, "--output", disk / "out")
        shown, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert "files were finished" in shown.decode()
        assert results(disk / "out")["summary"]["ok"] == 60
        assert len(seen(detect.log)) <= 60 + 4 and before < 60  # of one batch, at most, twice
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_output_that_nothing_can_be_written_to(tmp_path, detect):
    picture(tmp_path / "a.png", 0)
    process = detect(tmp_path / "a.png", "--output", "/proc/nothing/here")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "comics detect: the outputs cannot be written" in errors.decode()


def test_a_reader_that_leaves_stops_nothing(tmp_path, detect):
    for number in range(5):
        picture(tmp_path / f"{number}.png", number)
    process = detect(tmp_path / "0.png", tmp_path / "1.png", "--output", tmp_path / "out")
    process.stdout.close()
    process.wait(timeout=240)
    process.stdout = None
    assert process.returncode == 0, process.stderr.read()
    assert results(tmp_path / "out")["summary"]["ok"] == 2
