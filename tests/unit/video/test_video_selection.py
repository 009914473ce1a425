"""Parts of videos: seeking, the frames of a part, its sound, and its times."""

import av
import numpy as np
import pytest
from PIL import Image

from comics.inference.draw import draw_faces
from comics.video.frames import Selection, VideoError
from comics.video.reader import VideoReader
from comics.video.stream import process_video

MAX_PIXELS = 1_000_000
RATE = 25


def numbered(make_scene, count=100):
    """Frames that say their number: so many eighths of the width are white, in base 8, a row a
    digit."""
    frames = []
    for number in range(count):
        frame = make_scene(48, 64)
        for row, digit in enumerate((number // 64, number // 8 % 8, number % 8)):
            frame[row * 16 : row * 16 + 16] = 0
            frame[row * 16 : row * 16 + 16, : digit * 8] = 255
        frames.append(frame)
    return frames


def read_number(image):
    digits = [(image[row * 16 + 8, 4::8, 0] > 128).sum() for row in range(3)]
    return int(digits[0] * 64 + digits[1] * 8 + digits[2])


def read(path, all_frames=False, **selection):
    with VideoReader(
        path, MAX_PIXELS, selection=Selection(**selection), all_frames=all_frames
    ) as reader:
        frames = list(reader)
        return frames, reader


def process(path, predictor, output=None, **selection):
    seen = []
    report = process_video(
        path, predictor.predict, lambda frame, faces: seen.append(frame),
        max_pixels=MAX_PIXELS, selection=Selection(**selection), output=output,
        annotate=lambda image, faces: image,
    )  # fmt: skip
    return report, seen


@pytest.fixture(scope="module")
def clips(tmp_path_factory, encode_video, make_scene):
    """The same hundred frames in several containers, with key frames every 30 frames."""
    folder = tmp_path_factory.mktemp("clips")
    frames = numbered(make_scene)
    options = {"g": "30", "keyint_min": "30", "sc_threshold": "0"}
    paths = {
        extension: encode_video(
            folder / f"a.{extension}", frames, options=options | {"bf": "2"}, sound="aac"
        )
        for extension in ("mp4", "mkv", "ts")
    }
    paths["avi"] = encode_video(folder / "a.avi", frames, codec="mpeg4", options=options)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(folder / "a.gif", save_all=True, append_images=images[1:], duration=40)
    images[0].save(
        folder / "a.webp", save_all=True, append_images=images[1:], duration=40, lossless=True
    )
    paths |= {name: folder / f"a.{name}" for name in ("gif", "webp")}
    return paths


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts", "avi", "gif", "webp"])
@pytest.mark.parametrize(("start", "end"), [(0.4, 0.8), (1.2, 2.0), (3.0, None), (0.0, 0.52)])
def test_the_frames_of_a_part_are_those_of_its_time(clips, patch_predictor, extension, start, end):
    report, seen = process(clips[extension], patch_predictor, start_s=start, end_s=end)
    first, last = round(start * RATE), 100 if end is None else round(end * RATE)
    assert [read_number(frame.image) for frame in seen] == list(range(first, last))
    assert [frame.time_s for frame in seen] == pytest.approx(
        [number / RATE for number in range(first, last)], abs=2e-3
    )
    assert [frame.index for frame in seen] == list(range(last - first))
    assert (report.frames, report.fault) == (last - first, None)
    assert report.end_s == pytest.approx(last / RATE, abs=0.05)


def test_only_the_part_is_decoded(clips):
    """From the key frame before it, not from the beginning, nor to the end."""
    frames, reader = read(clips["mkv"], start_s=3.0, end_s=3.2)
    assert len(frames) == 5
    # The group of pictures from frame 60 on, and what the decoder and the queue hold
    assert reader._reading.packets <= 45


@pytest.mark.parametrize("start", [4.0, 100.0])
def test_a_part_beyond_the_end_is_an_error(clips, patch_predictor, start, tmp_path):
    for extension in ("mp4", "ts", "webp"):
        with pytest.raises(VideoError, match=f"no frame from {start:g} s on"):
            process(clips[extension], patch_predictor, tmp_path / "out.mp4", start_s=start)
    assert not (tmp_path / "out.mp4").exists()


def test_an_end_beyond_the_end_is_no_fault(clips, patch_predictor):
    report, seen = process(clips["mp4"], patch_predictor, start_s=3.6, end_s=60.0)
    assert (len(seen), report.fault) == (10, None)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_the_annotated_part_starts_at_zero_with_its_sound(
    clips, patch_predictor, tmp_path, extension
):
    report, _ = process(
        clips[extension], patch_predictor, tmp_path / "out.mp4", start_s=1.2, end_s=2.4
    )
    assert (report.frames, report.fault, report.note) == (30, None, None)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [read_number(f.to_ndarray(format="rgb24")) for f in frames] == list(range(30, 60))
    times = [frame.time for frame in frames]
    assert times == pytest.approx([i / RATE for i in range(30)], abs=2e-3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = [(float(p.pts * p.time_base), float(p.duration * p.time_base), bytes(p))
                 for p in container.demux(audio=0) if p.size]  # fmt: skip
    packet = 1024 / 16000
    assert 0 <= sound[0][0] < packet + 2e-3
    assert sound[-1][0] < 1.2 <= sound[-1][0] + packet + 2e-3
    # They are the source's packets of that time
    with av.open(str(clips[extension])) as container:
        start = float(container.streams.video[0].start_time * container.streams.video[0].time_base)
        source = [(float(p.pts * p.time_base) - start, bytes(p))
                  for p in container.demux(audio=0) if p.size]  # fmt: skip
    inside = [(t - 1.2, content) for t, content in source if 1.2 <= t < 2.4]
    assert [t for t, *_ in sound] == pytest.approx([t for t, _ in inside], abs=3e-3)
    if extension != "ts":  # where every packet carries a header that MP4 keeps once
        assert [content for *_, content in sound] == [content for _, content in inside]


def test_at_most_so_many_frames_a_second_of_a_variable_rate(
    tmp_path, encode_video, make_scene, patch_predictor
):
    times = [0, 40, 80, 120, 500, 520, 540, 1500, 1510, 1999]
    path = encode_video(tmp_path / "a.mp4", numbered(make_scene, 10), times=times)
    report, seen = process(path, patch_predictor, max_fps=5)
    assert [frame.time_s for frame in seen] == pytest.approx([0, 0.5, 1.5, 1.999], abs=1e-3)
    assert (report.frames, report.analysed_frames) == (10, 4)


def test_an_annotated_video_has_the_frames_that_were_not_analysed_too(
    clips, patch_predictor, tmp_path
):
    report, seen = process(
        clips["mp4"], patch_predictor, tmp_path / "out.mp4", start_s=1.0, end_s=2.0, max_fps=5
    )
    assert (report.frames, report.analysed_frames) == (25, 5)
    assert [frame.index for frame in seen] == [0, 5, 10, 15, 20]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(list(container.decode(video=0))) == 25


def test_a_part_of_a_video_that_is_cut_off(tmp_path, encode_video, patch_predictor):
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), dtype=np.uint8)
    path = encode_video(
        tmp_path / "a.mp4", list(noise), options={"g": "10"},
        container_options={"movflags": "faststart"},
    )  # fmt: skip
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    report, seen = process(path, patch_predictor, start_s=1.0)
    assert seen[0].time_s == pytest.approx(1.0)
    assert 0 < report.frames < 20
    assert "ends early" in report.fault
    report, _ = process(path, patch_predictor, start_s=0.4, end_s=0.8)
    assert (report.frames, report.fault) == (10, None)


def test_a_rotated_part(tmp_path, encode_video, make_scene, patch_predictor):
    stored = [make_scene(patches=[((255, 0, 0), 0, 0, 16, 24)])] * 50
    path = encode_video(tmp_path / "a.mp4", stored, rotation=90, options={"g": "10"})
    report, seen = process(path, patch_predictor, tmp_path / "out.mp4", start_s=1.0)
    assert report.frames == 25
    assert {frame.image.shape for frame in seen} == {(64, 48, 3)}


def test_animated_webp_is_read_with_its_durations_and_transparency(tmp_path, patch_predictor):
    frames = [Image.new("RGBA", (33, 21), (i * 20, 0, 255 - i * 20, 255)) for i in range(4)]
    frames[2] = Image.new("RGBA", (33, 21), (0, 0, 0, 0))
    durations = [100, 300, 50, 2000]  # ms
    frames[0].save(
        tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=durations,
        lossless=True,
    )  # fmt: skip
    report, seen = process(tmp_path / "a.webp", patch_predictor, tmp_path / "out.mp4")
    assert [frame.time_s for frame in seen] == pytest.approx([0, 0.1, 0.4, 0.45])
    assert seen[1].image[0, 0].tolist() == [20, 0, 235]
    assert seen[2].image[0, 0].tolist() == [255, 255, 255]  # transparent: white, as for pictures
    assert report.end_s == pytest.approx(2.45)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(2.45, abs=0.01)


def test_a_gif_without_times_has_all_of_its_frames(tmp_path, patch_predictor):
    frames = [Image.new("P", (32, 24), i) for i in range(4)]
    for frame in frames:
        frame.putpalette([value for i in range(256) for value in (i * 40 % 256, 0, 0)])
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.gif").read_bytes()
    assert content.startswith(b"GIF87a")
    report, seen = process(tmp_path / "a.gif", patch_predictor)
    assert [frame.image[0, 0, 0] for frame in seen] == [0, 40, 80, 120]
    assert report.fault is None
    for missing, fault in ((1, "cut off after frame 3"), (4, "stopped after frame 3 of 4")):
        (tmp_path / "cut.gif").write_bytes(content[:-missing])
        report, seen = process(tmp_path / "cut.gif", patch_predictor)
        assert fault in report.fault
        assert len(seen) >= 3


def test_animated_webp_that_is_broken(tmp_path, clips, patch_predictor):
    content = clips["webp"].read_bytes()
    (tmp_path / "cut.webp").write_bytes(content[: len(content) // 2])
    try:
        report, seen = process(tmp_path / "cut.webp", patch_predictor)
    except VideoError as error:
        assert "not a readable animation" in error.reason
    else:
        assert report.fault and 0 < len(seen) < 100
    (tmp_path / "text.webp").write_bytes(b"RIFF\0\0\0\0WEBP" + b"text" * 50)
    with pytest.raises(VideoError, match="not a readable animation"):
        process(tmp_path / "text.webp", patch_predictor)


def test_large_animations_are_refused_before_decoding(clips, patch_predictor):
    with pytest.raises(VideoError, match=r"64x48 are 3072 pixels, more than the 3000 allowed"):
        process_video(
            clips["webp"], patch_predictor.predict, lambda *_: None, max_pixels=3000,
            annotate=draw_faces,
        )  # fmt: skip
