"""``comics serve`` as a user runs it: a process of its own, a tiny model, an end by a signal."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from comics.cli import main
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

for package in ("fastapi", "uvicorn", "python_multipart"):
    pytest.importorskip(package, reason="needs the extra 'serve'")
httpx = pytest.importorskip("httpx2")
START_S = 120  # seconds that a busy machine may take to import torch


@pytest.fixture(scope="module")
def weights(tmp_path_factory, finding_config):
    torch.manual_seed(0)
    cfg = finding_config("FCOS")
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_weights(path, build_model(cfg).state_dict(), cfg, {"iteration": "0"})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_photo_goes_in_and_results_come_out(weights, tmp_path, ending):
    photo = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (90, 110, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photo)
    command = [sys.executable, "-m", "comics.cli", "serve", "--weights", str(weights)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--device", "cpu", "--max-upload", "0.5"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("Serving on http://127.0.0.1:"), process.stderr.read()
        address = line.split()[-1]
        for _ in range(START_S):
            try:
                health = httpx.get(f"{address}/healthz").json()
                break
            except httpx.ConnectError:
                time.sleep(1)
        assert health["model"] == "FCOS" and health["weights"] == weights.name
        with open(photo, "rb") as file:
            answer = httpx.post(f"{address}/api/detect", files={"file": file}, timeout=60)
        assert answer.status_code == 200
        assert answer.json()["files"][0]["file_name"] == "photo.png" and answer.json()["results"]
        refused = httpx.post(f"{address}/api/detect", files={"file": b"x" * 600_000}, timeout=60)
        assert refused.status_code == 413
        foreign = httpx.get(address, headers={"host": "evil.example"})
        assert foreign.status_code == 403
        process.send_signal(ending)
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert "photo.png" not in log and "upload of" in log


def test_unusable_arguments(weights, tmp_path, capsys, monkeypatch):
    for words, said in (
        (["--max-video", "0"], "video_s must be above 0"),
        (["--queue", "-1"], "queue must be"),
        (["--fake-threshold", "3"], "fake_threshold"),
        (["--trust-list", str(tmp_path / "none.pem")], "none.pem"),
    ):
        assert main(["serve", "--weights", str(weights), "--device", "cpu", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["serve", "--weights", str(tmp_path / "none.safetensors")]) == 2
    (tmp_path / "file").write_text("")
    keep = ["--keep", str(tmp_path / "file" / "kept")]
    assert main(["serve", "--weights", str(weights), "--device", "cpu", *keep]) == 2
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--weights", str(weights)]) == 2
    assert "pip install 'comics-forensics[serve]'" in capsys.readouterr().err


def test_an_address_that_is_taken(weights, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ["serve", "--weights", str(weights), "--device", "cpu", "--port", port]
        assert main(arguments) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
    assert main([*arguments[:-1], "99999"]) == 1
    capsys.readouterr()
