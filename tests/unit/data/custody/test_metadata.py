"""EXIF and XMP: what is told, what is not, and files that lie."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from custody_files import (
    ascii_entry,
    directory,
    exif,
    exif_segment,
    jpeg,
    segment,
    with_segments,
    xmp,
    xmp_segment,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comics.data.custody.exif import read_exif
from comics.data.custody.facts import read_facts
from comics.data.custody.metadata import PictureMetadata
from comics.data.custody.thumbnail import compare_thumbnail
from comics.data.custody.xmp import read_xmp

MAKE, MODEL, SOFTWARE, CHANGED = 0x010F, 0x0110, 0x0131, 0x0132
POSITION = [
    (1, 2, 2, b"N\0"),
    (2, 5, 3, struct.pack("<6I", 48, 1, 51, 1, 30, 1)),
    (3, 2, 2, b"E\0"),
    (4, 5, 3, struct.pack("<6I", 2, 1, 17, 1, 40, 1)),
]


def metadata(tmp_path, content, name="x.jpg", image=None):
    path = tmp_path / name
    path.write_bytes(content)
    return read_facts(path, image).metadata


@pytest.mark.parametrize("order", ["<", ">"])
def test_fields_of_exif(tmp_path, order):
    block = exif(
        main=[
            ascii_entry(MAKE, "Canon"),
            ascii_entry(MODEL, "Canon EOS R5"),
            ascii_entry(SOFTWARE, "Photoshop 25"),
            ascii_entry(CHANGED, "2024:05:06 07:08:09"),
        ],
        camera=[
            ascii_entry(0x9003, "2024:01:02 03:04:05"),
            ascii_entry(0x9011, "+02:00"),
        ],
        order=order,
    )
    found = metadata(tmp_path, with_segments(jpeg(), exif_segment(block)))
    assert found == PictureMetadata(
        camera="Canon EOS R5",
        software=("Photoshop 25",),
        times={"exif_taken": "2024:01:02 03:04:05 +02:00", "exif_changed": "2024:05:06 07:08:09"},
    )


def test_pillow_reads_the_same_from_the_block_made_here(tmp_path):
    block = exif(main=[ascii_entry(MAKE, "Nikon")], position=POSITION)
    picture = Image.open(io.BytesIO(with_segments(jpeg(), exif_segment(block))))
    assert picture.getexif()[MAKE] == "Nikon"
    assert picture.getexif().get_ifd(0x8825)[2] == (48.0, 51.0, 30.0)


def test_a_position_is_told_as_yes_or_no_only(tmp_path):
    content = with_segments(jpeg(), exif_segment(exif(position=POSITION)))
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    facts = read_facts(path)
    assert facts.metadata.has_gps is True
    told = str(facts.entry()["metadata"])
    assert "48" not in told and "51" not in told
    # A directory for positions without one is none
    version_only = exif(position=[(0, 1, 4, b"\2\3\0\0")])
    assert not metadata(tmp_path, with_segments(jpeg(), exif_segment(version_only))).has_gps
    assert metadata(tmp_path, jpeg()).has_gps is False


def test_fields_of_xmp():
    packet = xmp(
        'xmp:CreatorTool="GIMP 2.10" xmp:CreateDate="2023-01-01T00:00:00Z"',
        "<tiff:Make>Sony</tiff:Make><exif:GPSLatitude>48,51N</exif:GPSLatitude>"
        "<exif:GPSLongitude>2,17E</exif:GPSLongitude><Iptc4xmpExt:DigitalSourceType>"
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
        "</Iptc4xmpExt:DigitalSourceType>",
    )
    found = read_xmp(packet)
    assert found.make == "Sony" and found.software == ("GIMP 2.10",)
    assert found.times == {"xmp_created": "2023-01-01T00:00:00Z"}
    assert found.has_position and found.source_type == "trainedAlgorithmicMedia"


def test_xmp_with_entities_is_not_expanded():
    bomb = (
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
        + b"".join(
            b'<!ENTITY a%d "%s">' % (n, (b"&a;" if n == 0 else b"&a%d;" % (n - 1)) * 10)
            for n in range(12)
        )
        + b"]>"
        + xmp("", "<tiff:Make>&a11;</tiff:Make>")
    )
    start = time.monotonic()
    assert read_xmp(bomb).make is None
    assert time.monotonic() - start < 1


def test_xmp_keeps_what_comes_before_a_fault():
    packet = xmp('xmp:CreatorTool="GIMP"', "<tiff:Make>Sony</tiff:Make>")
    assert read_xmp(packet[:-40]).software == ("GIMP",)
    assert read_xmp(b"no xml at all").software == ()


def webp_with(chunks):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "WEBP", lossless=True)
    body = buffer.getvalue()[12:]
    flags = struct.pack("<4sI", b"VP8X", 10) + bytes([0x0C, 0, 0, 0, 39, 0, 0, 29, 0, 0])
    for name, content in chunks:
        body += struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(flags) + len(body)) + b"WEBP" + flags + body


def png_chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png_with(*chunks):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    content = buffer.getvalue()
    return content[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + content[33:]


BLOCK = exif(main=[ascii_entry(MAKE, "Canon")])
PACKET = xmp('xmp:CreatorTool="GIMP"')
COMPRESSED = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(PACKET)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jpg", with_segments(jpeg(), exif_segment(BLOCK), xmp_segment(PACKET))),
        ("x.png", png_with((b"eXIf", BLOCK), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PACKET))),
        ("z.png", png_with((b"eXIf", BLOCK), (b"iTXt", COMPRESSED))),
        ("x.webp", webp_with([(b"EXIF", BLOCK), (b"XMP ", PACKET)])),
    ],
)  # fmt: skip
def test_every_format_is_read(tmp_path, name, content):
    found = metadata(tmp_path, content, name)
    assert found.camera == "Canon" and found.software == ("GIMP",)


def test_a_tiff_is_its_own_exif(tmp_path):
    path = tmp_path / "x.tif"
    Image.new("RGB", (40, 30)).save(path, tiffinfo={MAKE: "Leica", SOFTWARE: "scan", 700: PACKET})
    found = read_facts(path)
    assert found.type == "image/tiff" and found.metadata.camera == "Leica"
    assert found.metadata.software == ("scan", "GIMP")


def test_an_avif_tells_too(tmp_path):
    path = tmp_path / "x.avif"
    Image.new("RGB", (64, 64)).save(path, exif=b"Exif\0\0" + BLOCK, xmp=PACKET)
    found = read_facts(path)
    assert found.type == "image/avif" and found.metadata.camera == "Canon"
    assert found.metadata.software == ("GIMP",)


# --- lies ---


def test_a_directory_that_names_itself_ends():
    for tag in (0x8769, 0x8825):
        block = b"II*\0\x08\0\0\0" + directory([ascii_entry(MAKE, "Canon"), (tag, 4, 1, 8)], 8, 8)
        start = time.monotonic()
        assert read_exif(block).make == "Canon"
        assert time.monotonic() - start < 0.5


def test_counts_and_places_that_are_not_there():
    entries = [(MAKE, 2, 0xFFFFFFFF, struct.pack("<I", 0xFFFFFFF0)), ascii_entry(MODEL, "X")]
    block = bytearray(b"II*\0\x08\0\0\0" + directory(entries, 8))
    assert read_exif(bytes(block)).model == "X" and read_exif(bytes(block)).make is None
    block[8:10] = b"\xff\xff"  # 65535 entries
    assert read_exif(bytes(block)).model == "X"


def test_texts_are_bounded_and_escaped(tmp_path):
    wild = "<script>\x1b[31m‮Ω\n" + "a" * 5000
    block = exif(main=[ascii_entry(MAKE, wild.encode()), ascii_entry(MODEL, b"\xff\xfeX")])
    found = metadata(tmp_path, with_segments(jpeg(), exif_segment(block)))
    assert len(found.camera) <= 401 and found.camera.isprintable()
    assert found.camera.startswith("<script>\\x1b[31m\\u202eΩ\\n")
    assert found.camera.endswith("\\xff\\xfeX")


def test_names_in_other_scripts_stay(tmp_path):
    block = exif(main=[ascii_entry(MAKE, "富士フイルム"), ascii_entry(SOFTWARE, "Фото редактор")])
    path = tmp_path / "фото 写真 صورة.jpg"
    path.write_bytes(with_segments(jpeg(), exif_segment(block)))
    found = read_facts(path).metadata
    assert found.camera == "富士フイルム" and found.software == ("Фото редактор",)


def test_megabytes_of_metadata_are_said_and_not_read(tmp_path):
    content = png_with((b"eXIf", BLOCK + bytes(3 << 20)), (b"tEXt", b"Software\0" + b"x" * 10**6))
    found = metadata(tmp_path, content, "x.png")
    assert found.camera is None and "not read" in found.left_out[0]
    assert len(found.software[0]) <= 200


def test_a_compressed_packet_that_grows_is_cut(tmp_path):
    bomb = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(PACKET[:-60] + b" " * (200 << 20))
    start = time.monotonic()
    metadata(tmp_path, png_with((b"iTXt", bomb)), "x.png")
    assert time.monotonic() - start < 5


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_block_is_an_error(data):
    block = bytearray(exif(
        main=[ascii_entry(MAKE, "Canon")], camera=[ascii_entry(0x9003, "2024:01:02 03:04:05")],
        position=POSITION, thumbnail=jpeg()[:2000],
    ))  # fmt: skip
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    read_exif(bytes(block[: data.draw(st.integers(0, len(block)))]))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_file_is_an_error(tmp_path_factory, junk, cut):
    path = tmp_path_factory.mktemp("junk") / "x"
    for start in (
        jpeg()[:cut],
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
        b"\0\0\0\x20ftypmif1",
    ):
        path.write_bytes(start + junk)
        facts = read_facts(path)
        assert facts.bytes == len(start + junk)


# --- thumbnails ---


def smooth(seed, size=(320, 240)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def small_of(pixels, size=(160, 120)):
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    return jpeg(np.asarray(picture), quality=70)


def test_a_thumbnail_of_the_picture_agrees_and_another_differs(tmp_path):
    pixels = smooth(0)
    for seed, differs in ((0, False), (1, True)):
        block = exif(thumbnail=small_of(smooth(seed)))
        content = with_segments(jpeg(pixels), exif_segment(block))
        found = metadata(tmp_path, content, image=pixels)
        assert found.thumbnail.differs is differs, found.thumbnail


def test_a_part_that_was_changed_shows():
    pixels = smooth(0).copy()
    before = small_of(pixels)
    pixels[90:150, 120:180] = 255 - pixels[90:150, 120:180]
    assert compare_thumbnail(before, pixels).differs is True


def test_brightness_bars_cuts_and_turns_are_no_difference():
    pixels = smooth(2, (360, 240))
    barred = np.zeros((120, 160, 3), np.uint8)
    barred[7:113] = np.asarray(Image.fromarray(pixels).resize((160, 106)))
    assert compare_thumbnail(jpeg(barred), pixels).differs is False
    cut = np.asarray(Image.fromarray(pixels[:, 20:340]).resize((160, 120)))
    assert compare_thumbnail(jpeg(cut), pixels).differs is False
    brighter = np.clip(pixels.astype(int) * 0.8 + 20, 0, 255).astype(np.uint8)
    assert compare_thumbnail(small_of(pixels, (160, 106)), brighter).differs is False
    turned = np.ascontiguousarray(np.rot90(pixels, -1))  # orientation 6: shown turned clockwise
    assert compare_thumbnail(small_of(pixels, (160, 106)), turned, 6).differs is False
    assert compare_thumbnail(small_of(pixels, (160, 106)), turned, 1).differs is True


@pytest.mark.parametrize("content", [b"", b"no jpeg", jpeg()[:300], segment(0xE1, b"x")])
def test_what_cannot_be_compared_is_not_judged(content):
    found = compare_thumbnail(content, smooth(0))
    assert found.differs is None and found.difference is None
    assert compare_thumbnail(small_of(smooth(0)), None).differs is None
