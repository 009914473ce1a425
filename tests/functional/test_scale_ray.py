"""The cases of tests/processes/ray_cluster_cases.py, in a process of their own.

Ray ends the process of a driver, at some later time, whose cluster is taken down.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "processes" / "ray_cluster_cases.py"


@pytest.mark.slow
def test_on_a_cluster_of_two_nodes():
    if importlib.util.find_spec("ray") is None:  # imported by the cases alone: it takes seconds
        pytest.skip('pip install "comics-forensics[scale]"')
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    if "passed" not in done.stdout.splitlines()[-1]:
        pytest.skip(done.stdout[-300:])
