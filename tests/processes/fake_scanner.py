"""A scanner without a model, for tests of what lies around it: a file's content says what happens.

``faces N``: it holds N faces; ``kill``, ``segv``: it ends the process; ``raise``; ``hang``: no sign
of life; ``slow S``: it takes so long, with signs of life. It imports nothing of PyTorch.
"""

import json
import os
import signal
import time
from pathlib import Path

from comics.scale.tables import face_row, file_row

PROVENANCE = {"model": "fake", "weights_sha256": "0" * 64, "fake_threshold": 0.5}


class FakeScanner:
    """See ``comics.scale.scanner.FaceScanner``."""

    def __init__(self, refuse=None, provenance=None, log=None, **settings):
        if refuse:
            raise FileNotFoundError(refuse)
        self.provenance = {**PROVENANCE, **(provenance or {}), "device": settings.get("device")}
        self.model_seconds = 0.0
        self._log = log

    def scan_items(self, items, max_length_s, alive):
        found = []
        for item in items:
            if self._log:
                with open(self._log, "a") as file:
                    file.write(item["name"] + "\n")
            found.append(self._scan(item, alive))
        return found

    def _scan(self, item, alive):
        words = Path(item["path"]).read_text().split() or ["broken"]
        if words[0] in ("kill", "segv"):
            number = signal.SIGKILL if words[0] == "kill" else signal.SIGSEGV
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if words[0] == "raise":
            raise RuntimeError("what no file should do")
        if words[0] == "full":
            raise OSError(28, "No space left on device", "/tmp/x")
        if words[0] == "hang":
            time.sleep(1000)
        if words[0] == "slow":
            end = time.monotonic() + float(words[1])
            while time.monotonic() < end:
                time.sleep(0.02)
                alive()
            words = ["faces", "1"]
        if words[0] != "faces":
            return {"row": self._failed(item["name"]), "faces": [], "length_s": 0.0}
        return {**rows(item["name"], int(words[1])), "length_s": 0.0}

    def _failed(self, name):
        entry = {"file_name": name, "kind": "image", "status": "failed", "verdict": None,
                 "faces": 0, "forged_faces": 0, "unclear_faces": 0, "reason": "broken"}  # fmt: skip
        return file_row(entry)


def rows(name, count):
    """What is in a picture of so many faces."""
    image = {"file_name": name, "width": 64, "height": 48}
    faces = [
        {"category_id": n % 2, "bbox": [float(n), 2.0, 3.5, 4.25], "score": 0.9,
         "segmentation": {"size": [48, 64], "counts": "abc"},
         "fake_probability": 0.5 + 0.4 * (n % 2), "file_name": name,
         "verdict": ("real", "fake")[n % 2]}
        for n in range(count)
    ]  # fmt: skip
    forged = count // 2
    verdict = "forged_face_found" if forged else "no_forgery_found" if count else "no_face_found"
    entry = {"file_name": name, "kind": "image", "status": "ok", "verdict": verdict, "faces": count,
             "forged_faces": forged, "unclear_faces": 0, "reason": None, "sha256": "0" * 64,
             "bytes": 7, "type": "image/png"}  # fmt: skip
    return {"row": file_row(entry, [image]), "faces": [face_row(image, 0, face) for face in faces]}


def write_files(folder, contents):
    """A file of that content for each name."""
    for name, content in contents.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def read_rows(output, table):
    """The rows of a job's table, part by part."""
    from pyarrow import parquet

    found = []
    for path in sorted(Path(output, table).glob("part-*.parquet")):
        found += parquet.read_table(path).to_pylist()
    return found


def log_of(path):
    """Names that were looked at, in order."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def settings_text(**settings):
    """JSON, for the command line."""
    return json.dumps(settings)
