import io
import threading
import time
import wave

import av
import numpy as np
import pytest
from PIL import Image

from comics.inference.draw import draw_faces
from comics.video.frames import Selection
from comics.video.reader import Frame, VideoError, VideoReader
from comics.video.stream import process_video

MAX_PIXELS = 1_000_000


def decoded(path):
    """(times in seconds, frames, container) of a video, by PyAV alone."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.time for frame in frames], [f.to_ndarray(format="rgb24") for f in frames]


def process(path, predictor, output=None, batch_size=4, **selection):
    seen = []
    report = process_video(
        path,
        predictor.predict,
        lambda frame, faces: seen.append((frame, faces)),
        max_pixels=MAX_PIXELS,
        output=output,
        annotate=draw_faces,
        batch_size=batch_size,
        selection=Selection(**selection),
    )
    return report, seen


def moving(make_scene, count=12, **size):
    """A red patch that moves right by two pixels a frame."""
    return [make_scene(patches=[((255, 0, 0), 8 + 2 * i, 8, 24 + 2 * i, 32)], **size)
            for i in range(count)]  # fmt: skip


def test_every_frame_is_analysed_in_order(tmp_path, encode_video, make_scene, patch_predictor):
    path = encode_video(tmp_path / "a.mp4", moving(make_scene))
    report, seen = process(path, patch_predictor, tmp_path / "out.mp4", batch_size=5)
    assert (report.frames, report.analysed_frames, report.fault) == (12, 12, None)
    assert patch_predictor.batches == [5, 5, 2]
    for number, (frame, faces) in enumerate(seen):
        assert frame.index == number
        assert frame.time_s == pytest.approx(number / 25)
        assert faces.boxes[0, 0].item() == pytest.approx(8 + 2 * number, abs=1)
    times, frames = decoded(tmp_path / "out.mp4")
    assert times == pytest.approx([i / 25 for i in range(12)])
    # The background is the source's, the face is drawn on
    assert abs(frames[6][44, 60].astype(int) - 128).max() <= 3
    assert (np.abs(frames[6].astype(int) - moving(make_scene)[6]).max(axis=2) > 40).sum() > 50


def test_variable_frame_rate_is_kept(tmp_path, encode_video, make_scene, patch_predictor):
    times = [0, 40, 200, 230, 700, 720]
    path = encode_video(tmp_path / "a.mp4", moving(make_scene, 6), times=times)
    report, seen = process(path, patch_predictor, tmp_path / "out.mp4")
    assert [frame.time_s for frame, _ in seen] == pytest.approx([t / 1000 for t in times])
    assert decoded(tmp_path / "out.mp4")[0] == pytest.approx([t / 1000 for t in times], abs=1e-3)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotated_video_is_turned_upright(
    tmp_path, encode_video, make_scene, patch_predictor, rotation, turns
):
    stored = make_scene(patches=[((255, 0, 0), 0, 0, 16, 24)])  # in the top left corner
    path = encode_video(tmp_path / "a.mp4", [stored] * 4, rotation=rotation)
    _, seen = process(path, patch_predictor, tmp_path / "out.mp4")
    expected = np.rot90(stored, turns)  # counter-clockwise, as the display matrix asks
    rows, columns = np.nonzero(expected[..., 0] == 255)
    frame, faces = seen[0]
    assert frame.image.shape == expected.shape
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert faces.boxes[0].tolist() == pytest.approx(box, abs=1)
    with av.open(str(tmp_path / "out.mp4")) as container:
        first = next(container.decode(video=0))
    assert (first.height, first.width) == expected.shape[:2]
    assert first.rotation == 0


def test_odd_sizes_are_padded_to_even(tmp_path, encode_video, make_scene, patch_predictor):
    frames = moving(make_scene, 4, height=47, width=65)
    path = encode_video(tmp_path / "a.avi", frames, codec="mjpeg", pixels="yuvj444p")
    _, seen = process(path, patch_predictor, tmp_path / "out.mp4")
    assert seen[0][0].image.shape == (47, 65, 3)
    times, written = decoded(tmp_path / "out.mp4")
    assert written[0].shape == (48, 66, 3)
    assert abs(written[0][-1].astype(int) - 128).max() <= 4  # the padding repeats the edge
    assert times == pytest.approx([0, 0.04, 0.08, 0.12])


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_sound_is_copied(tmp_path, encode_video, make_scene, patch_predictor, extension):
    path = encode_video(tmp_path / f"a.{extension}", moving(make_scene), sound="aac")
    report, _ = process(path, patch_predictor, tmp_path / "out.mp4")
    assert report.note is None

    def sound_packets(file):
        with av.open(str(file)) as container:
            name = container.streams.audio[0].codec_context.name
            packets = list(container.demux(audio=0))
        start = next(p.pts * p.time_base for p in packets if p.size)
        return name, [bytes(p) for p in packets if p.size], float(start)

    source, copy = sound_packets(path), sound_packets(tmp_path / "out.mp4")
    assert copy[0] == source[0] == "aac"
    if extension != "ts":  # where every packet carries a header that MP4 keeps once
        assert copy[1] == source[1]
    assert len(copy[1]) == len(source[1])
    video_starts = [decoded(file)[0][0] for file in (path, tmp_path / "out.mp4")]
    assert copy[2] - video_starts[1] == pytest.approx(source[2] - video_starts[0], abs=2e-3)


def test_sound_that_mp4_cannot_hold_is_left_out_and_reported(
    tmp_path, encode_video, make_scene, patch_predictor
):
    path = encode_video(tmp_path / "a.wmv", moving(make_scene), sound="wmav2", codec="mpeg4")
    report, _ = process(path, patch_predictor, tmp_path / "out.mp4")
    assert report.note == "sound left out: MP4 cannot hold wmav2"
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio
    assert len(decoded(tmp_path / "out.mp4")[0]) == 12


def test_gif_is_read_with_its_durations(tmp_path, patch_predictor):
    frames = [Image.new("RGB", (33, 21), (i * 20, 0, 255 - i * 20)) for i in range(4)]
    durations = [100, 300, 50, 2000]  # ms
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=durations)
    report, seen = process(tmp_path / "a.gif", patch_predictor, tmp_path / "out.mp4")
    assert [frame.time_s for frame, _ in seen] == pytest.approx([0, 0.1, 0.4, 0.45])
    assert decoded(tmp_path / "out.mp4")[0] == pytest.approx([0, 0.1, 0.4, 0.45])
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(2.45, abs=0.01)


def test_stride_analyses_some_frames_and_holds_their_faces(
    tmp_path, encode_video, make_scene, patch_predictor
):
    path = encode_video(tmp_path / "a.mp4", moving(make_scene, 11))
    report, seen = process(path, patch_predictor, tmp_path / "out.mp4", stride=4, batch_size=2)
    assert (report.frames, report.analysed_frames) == (11, 3)
    assert [frame.index for frame, _ in seen] == [0, 4, 8]
    assert sum(patch_predictor.batches) == 3
    _, frames = decoded(tmp_path / "out.mp4")
    assert len(frames) == 11
    # Frame 3 shows the label and box of frame 0, frame 4 its own further right
    background = make_scene().astype(int)
    drawn = [np.abs(frame[36:] - background[36:]).max() > 40 or
             (np.abs(frame[32:34] - background[32:34]).max(axis=2) > 40).any(axis=0)
             for frame in frames]  # fmt: skip
    lefts = [np.nonzero(row)[0].min() for row in drawn]
    assert lefts[0] == pytest.approx(lefts[3], abs=1)
    assert lefts[4] >= lefts[3] + 6


def test_without_output_only_analysed_frames_are_converted(
    tmp_path, encode_video, make_scene, patch_predictor
):
    path = encode_video(tmp_path / "a.mp4", moving(make_scene, 11), sound="aac")
    report, seen = process(path, patch_predictor, stride=3)
    assert [frame.index for frame, _ in seen] == [0, 3, 6, 9]
    assert report.frames == 11
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def noisy(count, seed=0):
    """Frames that compress badly, so that cutting the file cuts frames."""
    generator = np.random.default_rng(seed)
    return list(generator.integers(0, 255, (count, 48, 64, 3), dtype=np.uint8))


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def test_video_cut_off_is_delivered_up_to_the_cut(tmp_path, encode_video, patch_predictor):
    whole = encode_video(tmp_path / "a.mp4", noisy(40), container_options={"movflags": "faststart"})
    report, seen = process(cut(whole, 0.6), patch_predictor, tmp_path / "out.mp4")
    assert 10 < report.frames < 35
    assert report.fault == f"the file ends early, after frame {report.frames} of 40"
    assert len(seen) == report.frames
    assert len(decoded(tmp_path / "out.mp4")[0]) == report.frames


def test_cut_is_noticed_where_frames_are_not_counted(tmp_path, encode_video, patch_predictor):
    whole = encode_video(tmp_path / "a.mkv", noisy(40))
    report, _ = process(cut(whole, 0.5), patch_predictor)
    assert 5 < report.frames < 35
    assert report.fault == f"the file ends early, after frame {report.frames}"


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi", "ts"])
def test_sound_videos_have_no_fault(tmp_path, encode_video, make_scene, patch_predictor, extension):
    codec = "mpeg4" if extension == "avi" else "libx264"
    path = encode_video(tmp_path / f"a.{extension}", moving(make_scene), codec=codec)
    report, _ = process(path, patch_predictor)
    assert (report.frames, report.fault) == (12, None)


def test_damage_in_the_middle_is_passed_over_and_reported(tmp_path, encode_video, patch_predictor):
    path = encode_video(tmp_path / "a.mp4", noisy(40), container_options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    path.write_bytes(content)
    report, seen = process(path, patch_predictor, tmp_path / "out.mp4")
    assert len(seen) == report.frames > 30
    assert seen[-1][0].time_s == pytest.approx(39 / 25)
    assert "damaged" in report.fault


def test_unusable_files_are_named_with_their_fault(
    tmp_path, encode_video, make_scene, patch_predictor
):
    cases = {
        "missing.mp4": (None, "No such file"),
        "empty.mp4": (b"", "the file is empty"),
        "text.mp4": (b"hello world " * 50, "not a readable video"),
        "no_index.mp4": ("cut", "not a readable video"),
        "nul\0.mp4": (None, "cannot be read"),
    }
    whole = encode_video(tmp_path / "whole.mp4", moving(make_scene)).read_bytes()
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(whole[:-300] if content == "cut" else content)
        with pytest.raises(VideoError) as caught:
            process(path, patch_predictor, tmp_path / "out.mp4")
        assert message in caught.value.reason, name
        assert str(path) in str(caught.value)
        assert not (tmp_path / "out.mp4").exists()


def test_a_file_with_sound_alone_holds_no_video(tmp_path, patch_predictor):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        process(tmp_path / "a.mp4", patch_predictor)


def test_a_stream_without_frames_is_an_error(tmp_path, encode_video, patch_predictor):
    path = encode_video(tmp_path / "a.mkv", noisy(3))
    with av.open(str(path)) as container:
        first = next(p.pos for p in container.demux(video=0) if p.size)
    path.write_bytes(path.read_bytes()[:first])
    with pytest.raises(VideoError, match="no frame|ends early, after frame 0"):
        process(path, patch_predictor, tmp_path / "out.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{target}\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{target}\n"),
        ("list.mkv", "ffconcat version 1.0\nfile {target}\n"),
    ],
)
def test_playlists_that_name_other_files_are_not_followed(
    tmp_path, encode_video, make_scene, patch_predictor, name, content
):
    target = encode_video(tmp_path / "private.mp4", moving(make_scene))
    (tmp_path / name).write_text(content.format(target=target))
    with pytest.raises(VideoError, match="not a readable video"):
        process(tmp_path / name, patch_predictor)


def test_an_image_named_as_a_video_is_not_one(tmp_path, patch_predictor):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.mp4", "JPEG")
    with pytest.raises(VideoError, match="not a readable video"):
        process(tmp_path / "a.mp4", patch_predictor)


def test_frames_too_large_are_refused_before_decoding(tmp_path, encode_video, make_scene):
    path = encode_video(tmp_path / "a.mp4", moving(make_scene, 2))
    with pytest.raises(VideoError, match=r"64x48 are 3072 pixels, more than the 3000 allowed"):
        VideoReader(path, max_pixels=3000)


def test_a_name_that_is_not_utf8(tmp_path, encode_video, make_scene, patch_predictor):
    path = encode_video(tmp_path / "a.mp4", moving(make_scene, 3))
    odd = path.with_name("caf\udce9: concat.mp4")
    path.rename(odd)
    assert process(odd, patch_predictor)[0].frames == 3


def test_memory_is_bounded_by_the_queue(tmp_path, encode_video):
    path = encode_video(tmp_path / "a.mp4", noisy(60))
    with VideoReader(path, MAX_PIXELS, queue_size=4) as reader:
        stream = iter(reader)
        first = next(stream)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline and reader.frames < 6:
            time.sleep(0.01)
        # delivered, queued, and the one the thread holds
        assert isinstance(first, Frame)
        assert reader.frames <= 1 + 4 + 1 + reader.stream.codec_context.delay + 16
        assert reader.frames < 60


def test_leaving_early_ends_the_thread(tmp_path, encode_video):
    path = encode_video(tmp_path / "a.mp4", noisy(30))
    before = threading.active_count()
    with VideoReader(path, MAX_PIXELS, queue_size=2) as reader:
        next(iter(reader))
    assert threading.active_count() == before


def test_a_fault_of_the_detector_leaves_nothing_behind(tmp_path, encode_video, make_scene):
    path = encode_video(tmp_path / "a.mp4", moving(make_scene))
    before = threading.active_count()

    def broken(images):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        process_video(
            path, broken, lambda *_: None, max_pixels=MAX_PIXELS,
            output=tmp_path / "out.mp4", annotate=draw_faces,
        )  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert threading.active_count() == before


@pytest.mark.parametrize("option", ["stride", "batch_size"])
def test_steps_below_one_are_refused(tmp_path, patch_predictor, option):
    with pytest.raises(ValueError, match="1 or more"):
        process(tmp_path / "a.mp4", patch_predictor, **{option: 0})


def test_a_wave_file_is_no_video(tmp_path, patch_predictor):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    (tmp_path / "a.mp4").write_bytes(buffer.getvalue())
    with pytest.raises(VideoError, match="not a readable video"):
        process(tmp_path / "a.mp4", patch_predictor)


@pytest.mark.parametrize(
    ("name", "selection", "expected"),
    [
        ("a.mp4", {}, 50),
        ("a.mp4", {"start_s": 0.5, "end_s": 1.5}, 25),
        ("a.mp4", {"start_s": 1.0}, 25),
        ("a.mp4", {"end_s": 60.0, "max_fps": 5.0}, 50),  # those to be read, not those analysed
        ("a.mkv", {}, 50),  # by its duration: the container counts no frames
        ("a.h264", {}, None),  # which says nothing of its length
    ],
)
def test_progress_tells_frames_done_of_how_many(
    tmp_path, encode_video, make_scene, patch_predictor, name, selection, expected
):
    path = encode_video(tmp_path / name, moving(make_scene, 10) * 5, options={"bf": "0", "g": "5"})
    told = []
    report = process_video(
        path, patch_predictor.predict, lambda frame, faces: None, max_pixels=MAX_PIXELS,
        selection=Selection(**selection), progress=lambda *one: told.append(one),
    )  # fmt: skip
    done = [count for count, _ in told]
    assert done == sorted(done) and len(set(done)) > 2
    assert {total for _, total in told} == {expected}
    last = max(done)
    assert last <= report.frames
    if "max_fps" not in selection:  # else the last frames are read and not looked at
        assert last == report.frames == (expected or 50)


def test_an_animation_says_how_many_frames_it_has(tmp_path, patch_predictor):
    frames = [Image.new("RGB", (64, 48), (number * 20, 0, 0)) for number in range(6)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    told = []
    process_video(
        tmp_path / "a.webp", patch_predictor.predict, lambda frame, faces: None,
        max_pixels=MAX_PIXELS, batch_size=2, progress=lambda *one: told.append(one),
    )  # fmt: skip
    assert told[-1] == (6, 6) and [count for count, _ in told[:3]] == [2, 4, 6]
