"""tools/infer.py as a user runs it, with a tiny model of random weights."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from comics.files import file_sha256
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights

TOOL = Path(__file__).resolve().parents[2] / "tools" / "infer.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory, finding_config):
    torch.manual_seed(0)
    cfg = finding_config("COMICSBlendMask", "INPUT.MAX_PIXELS", "250000")
    model = build_model(cfg)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_weights(path, model.inference_state_dict(), cfg, {"iteration": "0"})
    return path


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("infer_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def photo(seed=0, shape=(90, 110)):
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)


def write_video(path, frames=6, size=(48, 64)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(photo(number, size), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(photo()).save(folder / "photo.png")
    return folder


def test_help_teaches():
    shown = subprocess.run(
        [sys.executable, TOOL, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("--weights", "--stride", "results.json", "Examples:", "Exit code", "no proof"):
        assert word in shown


def test_command_on_a_picture_and_a_video(folder, weights, tmp_path):
    write_video(folder / "clip.mp4")
    done = subprocess.run(
        [sys.executable, TOOL, "--weights", weights, "--output", tmp_path / "out",
         "--device", "cpu", "--stride", "2", folder],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 files" in done.stdout and "results.json" in done.stdout
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["provenance"]["weights_sha256"] == file_sha256(weights)
    assert document["provenance"]["model"] == "COMICSBlendMask"
    kinds = {file["kind"]: file for file in document["files"]}
    assert kinds["video"]["analysed_frames"] == 3
    assert kinds["image"]["faces"] > 0
    for entry in document["results"]:
        label = entry["fake_probability"] >= 0.5
        assert entry["category_id"] == label
        assert entry["score"] >= 0.05
    with av.open(str(tmp_path / "out" / kinds["video"]["output"])) as container:
        assert len(list(container.decode(video=0))) == 6
    with Image.open(tmp_path / "out" / kinds["image"]["output"]) as image:
        assert image.size == (110, 90)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_pictures_of_all_modes(main, weights, tmp_path, mode):
    image = Image.fromarray(photo(shape=(40, 50)))
    if mode == "I;16":
        image = Image.fromarray(photo(shape=(40, 50))[..., 0].astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"
    image.save(tmp_path / name)
    code = main(
        ["--weights", str(weights), "--output", str(tmp_path / "out"), "--device", "cpu",
         str(tmp_path / name)]
    )  # fmt: skip
    assert code == 0
    with Image.open(tmp_path / "out" / "media" / "a.jpg") as written:
        assert (written.mode, written.size) == ("RGB", (50, 40))


def test_bad_inputs_are_reported_and_good_ones_processed(main, folder, weights, tmp_path, capsys):
    whole = (folder / "photo.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "movie.mp4").write_text("not a movie" * 50)
    (folder / "picture.jpg").write_text("not a picture")
    (folder / "loop.png").symlink_to("loop.png")
    Image.fromarray(np.zeros((600, 600, 3), np.uint8)).save(folder / "bomb.png")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(whole)
    Image.fromarray(photo(shape=(1, 1))).save(folder / "one.png")
    Image.fromarray(photo(shape=(2, 3000))).save(folder / "thin.png")
    output = tmp_path / "out"
    code = main(
        ["--weights", str(weights), "--output", str(output), "--device", "cpu", str(folder)]
    )
    assert code == 3
    files = json.loads((output / "results.json").read_text())["files"]
    status = {os.path.basename(f["file_name"]): f["status"] for f in files}
    bad = {"cut.png", "empty.jpg", "movie.mp4", "picture.jpg", "loop.png", "bomb.png"}
    good = {"photo.png", "caf\\xe9.png", "one.png", "thin.png"}
    assert {name for name, value in status.items() if value == "failed"} == bad
    assert {name for name, value in status.items() if value == "ok"} == good
    shown = capsys.readouterr().out
    assert shown.count("FAILED") == len(bad)
    assert "6 failed" in shown


def test_the_same_answers_whatever_the_batch(main, folder, weights, tmp_path):
    for seed in range(1, 4):
        Image.fromarray(photo(seed)).save(folder / f"{seed}.png")
    scores = []
    for batch in ("1", "4"):
        output = tmp_path / batch
        main(["--weights", str(weights), "--output", str(output), "--device", "cpu",
              "--batch-size", batch, "--no-media", str(folder)])  # fmt: skip
        results = json.loads((output / "results.json").read_text())["results"]
        scores.append([entry["fake_probability"] for entry in results])
    assert len(scores[0]) == len(scores[1]) > 0
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_thresholds_are_applied_and_recorded(main, folder, weights, tmp_path):
    output = tmp_path / "out"
    main(["--weights", str(weights), "--output", str(output), "--device", "cpu", "--no-media",
          "--score-threshold", "0.999", "--fake-threshold", "0.25", str(folder)])  # fmt: skip
    document = json.loads((output / "results.json").read_text())
    assert document["files"][0]["verdict"] == "no_face_found"
    assert document["provenance"]["score_threshold"] == 0.999
    assert document["provenance"]["fake_threshold"] == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--weights": "nothing.safetensors"}, "no model file"),
        ({"--batch-size": "0"}, "batch_size must be 1 or more"),
        ({"--score-threshold": "2"}, "score_threshold must be in [0, 1]"),
        ({"--device": "abacus"}, "abacus"),
        ({"INPUT": "empty"}, "no picture or video"),
    ],
)
def test_unusable_arguments(main, folder, weights, tmp_path, capsys, change, message):
    (tmp_path / "empty").mkdir()
    options = {"--weights": str(weights), "--output": str(tmp_path / "out"), "--device": "cpu"}
    options |= {key: value for key, value in change.items() if key != "INPUT"}
    inputs = tmp_path / "empty" if "INPUT" in change else folder
    code = main([*(word for pair in options.items() for word in pair), str(inputs)])
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_a_folder(main, folder, weights, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    code = main(["--weights", str(weights), "--output", str(tmp_path / "out"), "--device", "cpu",
                 str(folder)])  # fmt: skip
    assert code == 1
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "a file"
