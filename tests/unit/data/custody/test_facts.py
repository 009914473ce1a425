"""A file's fingerprint and its kin, against hashlib, os and files made by other libraries."""

import hashlib
import os
from datetime import UTC, datetime

import numpy as np
import pytest
from custody_files import ascii_entry, exif, exif_segment, jpeg, with_segments
from PIL import Image

from comics.data.custody.facts import FileFacts, media_type, modification_time, read_facts


def test_facts_are_those_of_the_file(tmp_path):
    path = tmp_path / "写真.jpg"
    path.write_bytes(jpeg())
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    facts = read_facts(path)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts.bytes == path.stat().st_size and facts.type == "image/jpeg"
    assert facts.modified == "2023-11-14T22:13:20.123Z"
    assert datetime.fromisoformat(facts.modified) == datetime(
        2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC
    )
    assert facts.c2pa is None


def test_a_large_file_is_not_held_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "large.bin"
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    tracemalloc.start()
    facts = read_facts(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM"])
def test_types_of_pictures(tmp_path, form):
    path = tmp_path / "no name says it"
    Image.new("RGB", (32, 32)).save(path, form)
    assert read_facts(path).type == (
        "image/x-portable-anymap" if form == "PPM" else Image.MIME[form]
    )


@pytest.mark.parametrize(
    ("form", "codec", "kind"),
    [
        ("mp4", "mpeg4", "video/mp4"),
        ("mov", "mpeg4", "video/quicktime"),
        ("avi", "mpeg4", "video/x-msvideo"),
        ("matroska", "mpeg4", "video/x-matroska"),
        ("mpegts", "mpeg2video", "video/mp2t"),
        ("flv", "flv1", "video/x-flv"),
    ],
)
def test_types_of_videos(tmp_path, form, codec, kind):
    av = pytest.importorskip("av")
    path = tmp_path / "clip"
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 64, 48
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    facts = read_facts(path)
    assert facts.type == kind and facts.metadata is None


def test_what_is_nothing_known_is_bytes(tmp_path):
    assert media_type(b"") == media_type(b"hello") == "application/octet-stream"


def test_a_time_that_no_calendar_has():
    assert modification_time(10**30) is None


def test_a_file_that_is_gone_has_no_facts(tmp_path):
    assert read_facts(tmp_path / "gone.jpg") is None
    assert read_facts(tmp_path) is None


def test_facts_survive_their_entry(tmp_path):
    path = tmp_path / "x.jpg"
    block = exif(main=[ascii_entry(0x010F, "Canon")], thumbnail=jpeg())
    path.write_bytes(with_segments(jpeg(), exif_segment(block)))
    facts = read_facts(path, np.asarray(Image.open(path)))
    assert facts.metadata.thumbnail.differs is False
    assert FileFacts.from_entry(facts.entry()) == facts
