"""``comics video`` as a user runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from fractions import Fraction
from importlib.resources import files
from types import SimpleNamespace

import av
import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from comics.cli import main
from comics.commands.video_arguments import parse_time
from comics.inference.verdict import VideoRule
from comics.modeling.build import build_model
from comics.modeling.weights import save_weights
from comics.structures import Faces


def tracks_schema():
    return json.loads(files("comics.video").joinpath("tracks.schema.json").read_text())


def picture(number, size=(48, 64)):
    """A red square, a forged face to the stub below, that moves right."""
    image = np.full((*size, 3), 128, np.uint8)
    image[8:32, 8 + number % 24 : 28 + number % 24] = (255, 0, 0)
    return image


def write_video(path, frames=50, rate=25, codec="libx264"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "10"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        wave = np.sin(np.arange(16000 * frames // rate) / 10).astype(np.float32)[None]
        heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        heard.sample_rate, heard.pts = 16000, 0
        container.mux(sound.encode(heard))
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    return path


class Patches:
    """Instead of a model: red is a forged face."""

    max_pixels, provenance, looks_at_faces = 250_000, {"model": "patches"}, False
    video_rule = VideoRule()

    def predict(self, images):
        found = []
        for image in images:
            rows, columns = np.nonzero((image[..., 0] > 180) & (image[..., 1] < 90))
            count = int(len(rows) > 0)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if count else []
            found.append(
                Faces(
                    torch.tensor(box, dtype=torch.float32).reshape(count, 4), image.shape[:2],
                    torch.ones(count, dtype=torch.int64), torch.full((count,), 0.9),
                    fake_probability=torch.full((count,), 0.8),
                )
            )  # fmt: skip
        return found


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Function: words of ``comics video`` -> (exit code, results.json)."""
    stub = SimpleNamespace(from_file=lambda *_, **__: Patches())
    monkeypatch.setattr("comics.inference.predictor.Predictor", stub)
    (tmp_path / "none.safetensors").touch()

    def go(*words, output=tmp_path / "out"):
        weights = ["--weights", str(tmp_path / "none.safetensors")]
        code = main(["video", *weights, "--output", str(output), *map(str, words)])
        results = output / "results.json"
        return code, json.loads(results.read_text()) if results.exists() else None

    return go


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        main(["video", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for word in (
        "--max-fps",
        "--start",
        "videos/<name>.json",
        "Examples:",
        "Exit code",
        "webcam:0",
    ):
        assert word in shown
    assert shown.index("--stride") < shown.index("--weights")


@pytest.mark.slow
def test_a_video_with_a_real_model(tmp_path, finding_config):
    torch.manual_seed(0)
    cfg = finding_config("COMICSBlendMask", "TEST.VIDEO.MIN_FRAMES", "2", "TEST.VIDEO.TRIM", "0.1")
    model = build_model(cfg)
    save_weights(tmp_path / "tiny.safetensors", model.inference_state_dict(), cfg, {})
    write_video(tmp_path / "clip.mp4", frames=8)
    done = subprocess.run(
        [sys.executable, "-m", "comics.cli", "video", "--weights", tmp_path / "tiny.safetensors",
         "--output", tmp_path / "out", "--device", "cpu", "--max-fps", "12.5",
         tmp_path / "clip.mp4"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    (file,) = document["files"]
    assert (file["frames"], file["analysed_frames"]) == (8, 4)
    tracks = json.loads((tmp_path / "out" / file["tracks_file"]).read_text())
    jsonschema.validate(tracks, tracks_schema())
    assert tracks["aggregation"]["min_frames"] == 2  # the model file's own configuration
    assert tracks["aggregation"]["trim"] == 0.1
    assert len(tracks["tracks"]) == file["tracks"] > 0
    seen = {}
    for face in document["results"]:
        seen[face["track_id"]] = seen.get(face["track_id"], 0) + 1
    assert seen == {track["track_id"]: len(track["frames"]) for track in tracks["tracks"]}
    assert file["fake_probability"] == tracks["fake_probability"]
    assert (tmp_path / "out" / file["timeline"]).read_text().startswith("<svg")


def test_pictures_are_passed_over(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_video(folder / "clip.mp4", frames=6)
    Image.fromarray(picture(0)).save(folder / "photo.png")
    frames = [Image.fromarray(picture(4 * i)) for i in range(6)]
    for name in ("still.webp", "still.gif"):
        frames[0].save(folder / name)
    for name in ("moving.webp", "moving.gif"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=100)
    code, document = run(folder)
    assert code == 0
    names = {os.path.basename(file["file_name"]): file for file in document["files"]}
    assert names.keys() == {"clip.mp4", "moving.webp", "moving.gif"}
    assert {file["analysed_frames"] for file in names.values()} == {6}
    assert {file["tracks"] for file in names.values()} == {1}


def test_a_folder_without_videos(run, tmp_path, capsys):
    Image.fromarray(picture(0)).save(tmp_path / "photo.png")
    code, _ = run(tmp_path)
    assert code == 2
    assert "no video in the inputs" in capsys.readouterr().err


def test_a_part_of_a_video(run, tmp_path):
    write_video(tmp_path / "clip.mp4")
    code, document = run("--start", "0:00.8", "--end", "1.6", "--stride", 5, tmp_path / "clip.mp4")
    assert code == 0
    (file,) = document["files"]
    assert (file["frames"], file["analysed_frames"]) == (20, 4)
    assert [image["frame"] for image in document["images"]] == [0, 5, 10, 15]
    times = [image["time_s"] for image in document["images"]]
    assert times == pytest.approx([0.8, 1.0, 1.2, 1.4])
    xs = [face["bbox"][0] for face in document["results"]]
    assert xs == pytest.approx([8 + n % 24 for n in (20, 25, 30, 35)], abs=2)
    with av.open(str(tmp_path / "out" / file["output"])) as container:
        assert len(list(container.decode(video=0))) == 20
    with av.open(str(tmp_path / "out" / file["output"])) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 16000 == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stride", "0"], "stride must be 1 or more"),
        (["--max-fps", "0"], "max_fps must be above 0"),
        (["--start", "5", "--end", "4"], "must be after start"),
        (["--start", "soon"], "'soon' is no time"),
        (["--end", "1:99"], "'1:99' is no time"),
    ],
)
def test_unusable_arguments(run, tmp_path, capsys, words, message):
    write_video(tmp_path / "clip.mp4", frames=2)
    try:
        code, _ = run(*words, tmp_path / "clip.mp4")
    except SystemExit as end:  # argparse's own
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90.5", 90.5), ("1:30", 90), ("90:00", 5400), ("0:01:30.5", 90.5), ("0", 0)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


def test_a_broken_video_among_good_ones(run, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    whole = write_video(folder / "a.mp4", frames=6).read_bytes()
    (folder / "b.mp4").write_bytes(whole[: len(whole) // 3])
    write_video(folder / "c.mkv", frames=6)
    code, document = run(folder)
    assert code == 3
    assert [file["status"] for file in document["files"]] == ["ok", "failed", "ok"]
    assert not list((tmp_path / "out").rglob("b.*"))


def test_a_continued_run_does_not_look_at_finished_videos_again(run, tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", frames=6)
    _, first = run("--max-fps", "10", tmp_path / "clip.mp4")
    monkeypatch.setattr(Patches, "predict", lambda *_: pytest.fail("looked at again"))
    code, second = run("--max-fps", "10", tmp_path / "clip.mp4")
    told = second.pop("run"), first.pop("run")  # when, and in how many parts
    assert (code, second) == (0, first) and told[0]["parts"] == told[1]["parts"] + 1
    code, _ = run("--max-fps", "5", tmp_path / "clip.mp4")  # other settings in the same folder
    assert code == 2


COMMAND = """
import sys
sys.path.insert(0, sys.argv[1])
from types import SimpleNamespace
import comics.inference.predictor as module
from test_video_command import Patches
module.Predictor = SimpleNamespace(from_file=lambda *_, **__: Patches())
from comics.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_ends_a_live_source_and_keeps_what_came(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = threading.Event()

    def camera():
        address = f"udp://127.0.0.1:{port}?pkt_size=1316"
        with av.open(address, "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            number = 0
            while not done.wait(0.01):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base, number = number, Fraction(1, 25), number + 1
                container.mux(stream.encode(frame))

    thread = threading.Thread(target=camera)
    thread.start()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(COMMAND), os.path.dirname(__file__), "video",
         "--weights", __file__, "--output", tmp_path / "out", f"udp://127.0.0.1:{port}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        entries = tmp_path / "out" / ".comics" / "entries.tsv"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if entries.exists() and any((tmp_path / "out").rglob(".*.part")):
                break
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
        done.set()
        thread.join()
    assert process.returncode == 0, (out, err)  # nothing is left to be done
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    (file,) = document["files"]
    assert (file["status"], file["verdict"]) == ("ok", "forged_face_found"), file
    assert file["analysed_frames"] > 0
    with av.open(str(tmp_path / "out" / file["output"])) as container:
        assert len(list(container.decode(video=0))) > 0
