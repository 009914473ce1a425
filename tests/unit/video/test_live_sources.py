"""Sources that are no files: a stream over UDP on this machine, and what is refused."""

import contextlib
import os
import platform
import socket
import threading
import time
from fractions import Fraction
from pathlib import PurePath

import av
import pytest

from comics.runs.inputs import expand_inputs
from comics.runs.video import VideoOptions, VideoOutputs, run_video
from comics.video.frames import Selection, VideoError
from comics.video.reader import VideoReader
from comics.video.source import LiveSource
from comics.video.stream import process_video

MAX_PIXELS = 1_000_000


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def camera(port, image, seconds_per_frame=0.005):
    """Sends an MPEG transport stream without end to that port."""
    done = threading.Event()

    def send():
        address = f"udp://127.0.0.1:{port}?pkt_size=1316"
        with av.open(address, "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width = image.shape[:2]
            stream.pix_fmt = "yuv420p"
            number = 0
            while not done.is_set():
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
                number += 1
                time.sleep(seconds_per_frame)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield f"udp://127.0.0.1:{port}"
    finally:
        done.set()
        thread.join()


@pytest.fixture
def address(make_scene):
    with camera(free_port(), make_scene(patches=[((255, 0, 0), 8, 8, 24, 32)])) as address:
        yield address


def test_a_stream_is_looked_at_until_the_end_of_the_part(address, patch_predictor, tmp_path):
    seen = []
    report = process_video(
        LiveSource(address), patch_predictor.predict,
        lambda frame, faces: seen.append((frame.time_s, len(faces))),
        max_pixels=MAX_PIXELS, selection=Selection(end_s=0.8), output=tmp_path / "out.mp4",
        annotate=lambda image, faces: image,
    )  # fmt: skip
    assert seen[0][0] == 0
    assert 0.5 < seen[-1][0] < 0.8
    assert all(count == 1 for _, count in seen)
    assert report.fault is None
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(list(container.decode(video=0))) == report.frames - _lost(report)


def _lost(report):
    return int(report.note.split()[0]) if report.note else 0


def test_frames_for_which_there_is_no_time_are_passed_over_and_reported(address, patch_predictor):
    def slow(images):
        time.sleep(0.1)
        return patch_predictor.predict(images)

    report = process_video(
        LiveSource(address), slow, lambda *_: None, max_pixels=MAX_PIXELS, batch_size=1,
        selection=Selection(end_s=2.0),
    )  # fmt: skip
    assert "frames came while there was no time for them" in report.note
    assert report.analysed_frames + _lost(report) == report.frames


def test_stopping_a_live_source_keeps_what_came(address, patch_predictor, tmp_path):
    (source,) = expand_inputs([address]).files
    asked = []

    def stop():
        asked.append(True)
        return len(asked) > 10

    status = run_video(
        source, patch_predictor, VideoOptions(), lambda *_: None,
        VideoOutputs(tmp_path, media="a.mp4", tracks="a.json"), stop,
    )  # fmt: skip
    assert (status.status, status.verdict) == ("ok", "forged_face_found")
    assert status.analysed_frames >= 4
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "a.json"}


def test_passwords_of_addresses_are_in_no_message():
    address = "rtsp://user:secret@127.0.0.1:1/stream"
    with pytest.raises(VideoError) as caught:
        VideoReader(LiveSource(address), MAX_PIXELS)
    assert "secret" not in str(caught.value)
    assert "rtsp://127.0.0.1:1/stream: cannot be opened" in str(caught.value)


def test_a_webcam_that_is_not_there():
    with pytest.raises(VideoError, match="webcam:99: (cannot be opened|webcams are not supported)"):
        VideoReader(LiveSource("webcam:99"), MAX_PIXELS)


def test_systems_without_webcams_say_so(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    with pytest.raises(VideoError, match="webcams are not supported on Plan9"):
        VideoReader(LiveSource("webcam:0"), MAX_PIXELS)


@pytest.mark.parametrize("scheme", ["file", "concat", "subfile", "data", "gopher"])
def test_live_addresses_do_not_read_files(tmp_path, encode_video, make_scene, scheme):
    path = encode_video(tmp_path / "a.ts", [make_scene()] * 3)
    address = {
        "concat": f"concat:{path}",
        "subfile": f"subfile,,start,0,end,0,,:{path}",
        "data": "data:video/mp2t;base64,AAAA",
    }.get(scheme, f"{scheme}://{path}")
    with pytest.raises(VideoError, match="cannot be opened"):
        VideoReader(LiveSource(address), MAX_PIXELS)


def test_a_path_is_never_taken_for_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="No such file"):
        VideoReader("udp://127.0.0.1:9", MAX_PIXELS)
    with pytest.raises(VideoError, match="No such file"):
        VideoReader(PurePath("webcam:0"), MAX_PIXELS)


def test_the_name_of_a_source_is_a_path():
    assert os.fspath(LiveSource("rtsp://a:b@host/x")) == "rtsp://host/x"
    assert os.fspath(LiveSource("webcam:0")) == "webcam:0"
