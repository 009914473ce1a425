"""Jobs with a scanner that has no model: tests/processes/fake_scanner.py."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROCESSES = ROOT / "tests" / "processes"


@pytest.fixture(autouse=True)
def _with_pyarrow():
    pytest.importorskip("pyarrow", reason='pip install "comics-forensics[scale]"')


@pytest.fixture(autouse=True)
def _quick_to_retry(monkeypatch):
    from comics.scale import storage

    monkeypatch.setattr(storage, "PAUSE_S", 0.01)
    storage.file_system.cache_clear()


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Keywords of a ``JobRequest`` whose workers look at files with the fake scanner."""
    path = os.pathsep.join([str(PROCESSES), str(ROOT)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert sys.executable
    return {"scanner_class": "fake_scanner:FakeScanner", "pause_s": 0.01}


@pytest.fixture
def do(fake):
    """Function that does a job on this machine: its request's keywords to its outcome."""
    from comics.scale.engines.local import LocalEngine
    from comics.scale.job import JobRequest, run_job

    def run(output, *inputs, workers=1, engine=None, report=lambda line: None, stop=None, **more):
        engine = engine or LocalEngine(workers)
        request = JobRequest(output=str(output), inputs=[str(i) for i in inputs], **fake | more)
        try:
            return run_job(request, engine, report, stop=stop or (lambda: False))
        finally:
            engine.close()

    return run
