"""What a file is, is told from its content, not from its name."""

import struct

import av
import numpy as np
import pytest
from PIL import Image

from comics.data.animation_length import animation_length
from comics.data.content import content_kind
from comics.data.file_kinds import is_beside, is_side_file
from comics.data.picture_parts import parts_left_out

Image.init()  # which fills Image.SAVE

COLOURS = ("red", "green", "blue")


def stills(size=(32, 24)):
    return [Image.new("RGB", size, colour) for colour in COLOURS]


def video(path, container, codec="libx264", pixels="yuv420p", count=6):
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(count):
            image = np.full((48, 64, 3), 40 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["a", "a.gif", "a.jpg", "a.txt", "a.mp4"])
@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations(tmp_path, form, name):
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {form}")
    path = tmp_path / name
    first, *rest = stills()
    first.save(path, form)
    assert content_kind(path, named=False) == "picture"
    assert animation_length(path) == (1, 0)
    first.save(path, form, save_all=True, append_images=rest, duration=[40, 500, 60])
    assert content_kind(path, named=False) == "animation"
    length = animation_length(path)
    assert length.frames == 3 and length.seconds == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("mpegts", "libx264"),
     ("asf", "mpeg4"), ("3g2", "libx264"), ("h264", "libx264"), ("m4v", "mpeg4"),
     ("hevc", "libx265"),
     ("mpeg1video", "mpeg1video"), ("vob", "mpeg2video"), ("flv", "flv1"), ("nut", "ffv1"),
     ("ivf", "libvpx-vp9"), ("obu", "libsvtav1"), ("mxf", "mpeg2video"),
     ("yuv4mpegpipe", "rawvideo")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a", "a.dat", "a.jpg"])
def test_videos(tmp_path, container, codec, name):
    path = tmp_path / name
    try:
        video(tmp_path / "v", container, codec)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg cannot write it: {error}")
    path.write_bytes((tmp_path / "v").read_bytes())
    assert content_kind(path, named=False) == "video"


def test_what_is_neither(tmp_path):
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "sound"), "w", format="mp3") as file:
        stream = file.add_stream("mp3", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    contents = {
        "text": b"hello\n" * 999,
        "empty": b"",
        "letters": "Grüße\n".encode() * 999,
        "zip": b"PK\3\4" + rng.bytes(9999),
        "pdf": b"%PDF-1.7\n" + rng.bytes(9999),
        "program": b"\x7fELF" + rng.bytes(9999),
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n",
        "zeros": bytes(9999),
        **{f"noise{n}": rng.bytes(9999) for n in range(5)},
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert content_kind(tmp_path / name, named=False) is None, name
    assert content_kind(tmp_path / "sound", named=False) is None
    (tmp_path / "a.jpg").write_bytes(contents["zip"])
    (tmp_path / "a.mkv").write_bytes(contents["zip"])
    assert content_kind(tmp_path / "a.jpg", named=False) == "picture"
    assert content_kind(tmp_path / "a.mkv", named=False) == "video"


def test_jpeg_after_jpeg_is_a_video_and_a_multi_picture_file_is_not(tmp_path):
    first, *rest = stills()
    for number, image in enumerate(stills()):
        image.save(tmp_path / f"{number}.jpg")
    stream = b"".join((tmp_path / f"{n}.jpg").read_bytes() for n in range(3))
    (tmp_path / "camera").write_bytes(stream)
    assert content_kind(tmp_path / "camera", named=False) == "video"
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=rest)
    assert content_kind(tmp_path / "a.jpg") == "picture"
    assert parts_left_out(tmp_path / "a.jpg") == "looked at the first of 3 pictures in it only"


def test_what_is_left_out_of_a_file(tmp_path):
    first, *rest = stills()
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    assert parts_left_out(tmp_path / "a.tif") == (
        "looked at page 1 (32x24) only; not at 2 other pages (32x24)"
    )
    first.save(tmp_path / "a.jpg")
    assert parts_left_out(tmp_path / "a.jpg") is None
    phone = (tmp_path / "a.jpg").read_bytes() + b"MotionPhoto_Data"
    (tmp_path / "a.jpg").write_bytes(phone + video(tmp_path / "v", "mp4").read_bytes())
    assert content_kind(tmp_path / "a.jpg") == "picture"
    assert parts_left_out(tmp_path / "a.jpg") == "a video behind the picture was not looked at"


def test_the_length_of_a_long_animation_is_known_without_decoding_it(tmp_path):
    frame = b"\x21\xf9\x04\0\0\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0)
    frame += b"\x02\x02\x4c\x01\0"
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    (tmp_path / "a.gif").write_bytes(head + frame * 20_000 + b";")
    assert animation_length(tmp_path / "a.gif") == (20_000, 2000)  # a tenth of a second each
    assert animation_length(tmp_path / "a.gif", limit_s=60).seconds == pytest.approx(60.1)
    (tmp_path / "a.gif").write_bytes(head + frame * 3 + frame[:-4])
    assert animation_length(tmp_path / "a.gif").frames in (3, 4)  # cut off


@pytest.mark.parametrize(
    "name", ["._x.mp4", "._", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "ehthumbs.db"]
)
def test_side_files(name):
    assert is_side_file(name) and is_beside(f"a/b/{name}")
    assert not is_side_file(name.lstrip(".").replace(".", "-") + ".jpg")


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", ".Spotlight-V100"])
def test_side_folders(name):
    assert is_beside(f"a/{name}/b.jpg") and not is_side_file(name + ".jpg")
