"""Decoding, the model and encoding overlap; memory is bounded; any fault ends all three."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from comics.video import stream as module
from comics.video.frames import Selection
from comics.video.stream import process_video
from comics.video.writer import VideoWriter

MAX_PIXELS = 1_000_000


@pytest.fixture
def clip(tmp_path, encode_video, make_scene):
    frames = [make_scene(patches=[((255, 0, 0), 8 + i, 8, 24 + i, 32)]) for i in range(24)]
    return encode_video(tmp_path / "a.mp4", frames, sound="aac")


def process(path, predict, output=None, on_frame=lambda *_: None, annotate=None, **options):
    return process_video(
        path, predict, on_frame, max_pixels=MAX_PIXELS, output=output,
        annotate=annotate or (lambda image, _: image), **options,
    )  # fmt: skip


def test_model_and_encoder_work_at_the_same_time(clip, patch_predictor, tmp_path):
    """The model goes on only once the frames of its last batch are being drawn, and the other way
    round: neither could finish if one waited for the other's end."""
    drawn, analysed = threading.Event(), threading.Event()
    calls = []

    def predict(images):
        calls.append(len(images))
        if len(calls) == 3:
            analysed.set()
            assert drawn.wait(10), "nothing is drawn while the model works"
        return patch_predictor.predict(images)

    def annotate(image, faces):
        drawn.set()
        assert analysed.wait(10), "the model waits for the encoder"
        return image

    process(clip, predict, tmp_path / "out.mp4", annotate=annotate)
    assert sum(calls) == 24


def test_decoder_works_while_the_model_does(clip, patch_predictor, monkeypatch):
    readers = []
    open_reader = module.open_reader

    def spy(*arguments):
        readers.append(open_reader(*arguments))
        return readers[-1]

    monkeypatch.setattr(module, "open_reader", spy)
    ahead = []

    def predict(images):
        deadline = time.monotonic() + 5
        while readers[0].frames <= 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        ahead.append(readers[0].frames)
        return patch_predictor.predict(images)

    process(clip, predict)
    assert ahead[0] > 4


@pytest.mark.parametrize(
    ("where", "error"),
    [(where, RuntimeError("out of memory"))
     for where in ("predict", "on_frame", "annotate", "write", "audio")]
    # Ctrl-C reaches the main thread alone
    + [(where, KeyboardInterrupt()) for where in ("predict", "on_frame")],
)  # fmt: skip
def test_an_error_anywhere_ends_everything(
    clip, patch_predictor, tmp_path, monkeypatch, where, error
):
    count = iter(range(100))

    def fail(*_):
        if next(count) >= 2:
            raise error

    def predict(images):
        if where == "predict":
            fail()
        return patch_predictor.predict(images)

    def annotate(image, _):
        if where == "annotate":
            fail()
        return image

    if where == "write":
        monkeypatch.setattr(VideoWriter, "write", fail)
    if where == "audio":
        monkeypatch.setattr(VideoWriter, "write_audio", fail)
    before = threading.active_count()
    with pytest.raises(type(error)):
        process(
            clip, predict, tmp_path / "out.mp4", fail if where == "on_frame" else lambda *_: None,
            annotate,
        )  # fmt: skip
    assert threading.active_count() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_large_strides_fill_batches_within_a_bound(clip, patch_predictor, tmp_path, monkeypatch):
    process(clip, patch_predictor.predict, tmp_path / "b.mp4", selection=Selection(stride=6))
    assert patch_predictor.batches == [4]
    patch_predictor.batches.clear()
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 7 * 48 * 64 * 3)
    process(clip, patch_predictor.predict, tmp_path / "c.mp4", selection=Selection(stride=6))
    assert patch_predictor.batches == [2, 1, 1]


MEMORY = """
import sys
from pathlib import Path
import numpy as np, torch
from comics.runs.inputs import InputFile
from comics.runs.video import VideoOptions, VideoOutputs, run_video
from comics.structures import Faces

torch.set_num_threads(1)

class Predictor:
    max_pixels = 10**6
    def predict(self, images):
        boxes = torch.tensor([[4.0, 4, 30, 40], [34.0, 4, 60, 40]])
        return [
            Faces(boxes, image.shape[:2], torch.tensor([0, 1]), torch.tensor([0.9, 0.8]),
                  torch.ones(2, *image.shape[:2], dtype=torch.bool), torch.tensor([0.1, 0.9]))
            for image in images
        ]

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

folder = Path(sys.argv[1])
for name in ("short", "short", "long"):
    path = folder / f"{name}.mp4"
    outputs = VideoOutputs(folder / "out", f"{name}.out.mp4", f"{name}.json", f"{name}.svg")
    status = run_video(InputFile(path, Path(path.name)), Predictor(), VideoOptions(),
                       lambda *_: None, outputs)
    print(status.analysed_frames, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_does_not_grow_with_the_length(tmp_path, encode_video, make_scene):
    """Peak memory of a whole run over 75 s of video, beside that over 15 s."""
    scenes = [make_scene(96, 128, [((255, 0, 0), i, 8, i + 8, 32)]) for i in range(40)]
    for name, seconds in (("short", 15), ("long", 75)):
        frames = [scenes[i % 40] for i in range(5 * seconds)]
        encode_video(tmp_path / f"{name}.mp4", frames, rate=5, options={"preset": "ultrafast"})
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path)],
        capture_output=True, text=True, check=True,
        # Freed memory goes back at once: what is measured is what is held, not fragmentation
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
             "MALLOC_MMAP_THRESHOLD_": "8192", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )  # fmt: skip
    lines = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    (_, _), (few, short), (many, long) = lines
    assert (few, many) == (75, 375)
    # 300 frames more: with their masks they would be 19 MB. The encoder's buffers are full by then
    assert long - short < 8_000, f"{short} kB, then {long} kB"


def test_frames_do_not_share_memory(clip, patch_predictor):
    """Frames that wait are not overwritten by the decoder."""
    kept = []
    process(
        clip, patch_predictor.predict, on_frame=lambda f, _: kept.append((f.image, f.image.copy()))
    )
    assert all((now == then).all() for now, then in kept)
    assert len({image.ctypes.data for image, _ in kept}) == 24
