from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comics.data.video_frames import (
    ClipError,
    count_frames,
    even_positions,
    random_positions,
    read_clip,
)


def encode(path, frames, *, times=None, options=None):
    """Frames whose brightness is their number times 10, at given presentation times."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1", "g": "2"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p" if frames[0].shape[0] % 2 else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = 4 * number if times is None else times[number]
            picture.time_base = Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def grey(count, height=64, width=48):
    return [np.full((height, width, 3), 20 + 25 * i, np.uint8) for i in range(count)]


def levels(frames):
    return {position: round((frame.mean() - 20) / 25) for position, frame in frames.items()}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_chosen_frames_of_a_video(tmp_path, suffix):
    path = encode(tmp_path / f"a.{suffix}", grey(7))
    assert count_frames(path) == 7
    frames = read_clip(path, lambda count: [count - 1, 2, 0])
    assert levels(frames) == {0: 0, 2: 2, 6: 6}
    assert frames[2].shape == (64, 48, 3)


def test_variable_frame_rate(tmp_path):
    path = encode(tmp_path / "a.mp4", grey(6), times=[0, 4, 30, 31, 90, 400])
    assert levels(read_clip(path, range)) == {i: i for i in range(6)}


def test_odd_sizes_and_one_frame(tmp_path):
    path = encode(tmp_path / "a.mp4", grey(1, 33, 47))
    frames = read_clip(path, range)
    assert frames[0].shape == (33, 47, 3)


def big_endian(values):
    return b"".join(value.to_bytes(4, "big", signed=True) for value in values)


def test_rotation_is_applied(tmp_path):
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, :32] = 250  # the left half is bright
    plain = encode(tmp_path / "plain.mp4", [frame] * 3)
    turned = tmp_path / "turned.mp4"
    data = bytearray(plain.read_bytes())
    matrix = big_endian((65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    # the matrix of the track's header, after that of the movie's; a quarter turn clockwise
    place = data.index(matrix, data.index(b"tkhd"))
    quarter = (0, 65536, 0, -65536, 0, 0, 32 * 65536, 0, 1 << 30)
    data[place : place + 36] = big_endian(quarter)
    turned.write_bytes(data)
    (upright,) = read_clip(turned, lambda count: [1]).values()
    assert upright.shape == (64, 32, 3)
    assert upright[:24].mean() > 200  # left has become top
    assert upright[40:].mean() < 50


def test_bad_videos_are_named(tmp_path):
    whole = encode(tmp_path / "whole.mp4", grey(8), options={"movflags": "faststart"})
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 2 // 3])
    headless = tmp_path / "headless.mp4"
    headless.write_bytes(encode(tmp_path / "b.mp4", grey(8)).read_bytes()[:-300])
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    for path in (cut, headless, empty, text, sound, tmp_path / "absent.mp4"):
        with pytest.raises(ClipError) as error:
            read_clip(path, range)
        assert str(path) in str(error.value)
    with pytest.raises(ClipError, match="no video stream"):
        count_frames(sound)
    with pytest.raises(ClipError, match="too large"):
        count_frames(whole, max_pixels=100)


def test_folders_of_pictures_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("x")
    frames = read_clip(tmp_path, range)
    assert [int(frame.mean()) for frame in frames.values()] == [1, 2, 10]
    (tmp_path / "2.png").write_bytes(b"broken")
    with pytest.raises(ClipError, match=r"2\.png"):
        read_clip(tmp_path, range)
    (tmp_path / "none").mkdir()
    with pytest.raises(ClipError, match="no pictures"):
        read_clip(tmp_path / "none", range)


@given(st.integers(1, 400), st.integers(1, 40))
def test_even_positions_cover_the_whole_clip(count, wanted):
    positions = even_positions(count, wanted)
    assert len(positions) == min(count, wanted) == len(set(positions))
    assert positions == sorted(positions)
    assert positions[0] >= 0 and positions[-1] < count
    if wanted < count:  # the middle of each of the equal parts
        middles = [(i + Fraction(1, 2)) * Fraction(count, wanted) for i in range(wanted)]
        assert all(p <= middle < p + 1 for p, middle in zip(positions, middles, strict=True))


@given(st.integers(1, 100), st.integers(1, 40), st.integers(0, 9))
def test_random_positions(count, wanted, seed):
    draw = lambda: random_positions(count, wanted, np.random.default_rng(seed))  # noqa: E731
    positions = draw()
    assert positions == draw() == sorted(set(positions))
    assert len(positions) == min(count, wanted)
    assert set(positions) <= set(range(count))
