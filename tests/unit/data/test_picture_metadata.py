"""Whether sound pixels are read does not hang on metadata, end markers or names."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from comics.data.images import ImageError, NoImageError, decode_image, read_image_size
from comics.data.jpeg_structure import read_jpeg

Image.init()  # which fills Image.SAVE

LARGE = b"x" * ((1 << 20) + 1)  # more than Pillow takes of one text
UPRIGHT = {  # EXIF 2.3, 4.6.4
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def smooth(height=48, width=80, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(form, image=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(smooth() if image is None else image).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name, content):
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def bad_checksum(whole):
    return whole[:-1] + bytes([whole[-1] ^ 1])


def exif(orientation, order="<"):
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(
        f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0
    )  # fmt: skip


AFTER_HEADER, BEFORE_END = 8 + 25, -12
ODD_CHUNKS = {
    "large zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LARGE, 9)),
    "large tEXt": chunk(b"tEXt", b"prompt\0" + LARGE),
    "large iTXt": chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(LARGE, 9)),
    "iTXt that is no zlib": chunk(b"iTXt", b"prompt\0\1\0\0\0" + b"junk"),
    "large iCCP": chunk(b"iCCP", b"icc\0\0" + zlib.compress(LARGE, 9)),
    "broken iCCP": chunk(b"iCCP", b"icc\0\0junk"),
    "eXIf of junk": chunk(b"eXIf", b"not EXIF at all"),
    "large eXIf": chunk(b"eXIf", exif(1) + LARGE),
    "tEXt, wrong checksum": bad_checksum(chunk(b"tEXt", b"Comment\0hello")),
    "eXIf, wrong checksum": bad_checksum(chunk(b"eXIf", exif(6))),
    "pHYs, too short": chunk(b"pHYs", b"\0"),
    "gAMA, too short": chunk(b"gAMA", b""),
    "unknown": chunk(b"abCd", LARGE),
}


@pytest.mark.parametrize("place", [AFTER_HEADER, BEFORE_END])
@pytest.mark.parametrize("kind", ODD_CHUNKS)
def test_odd_chunks_of_a_png_do_not_matter(tmp_path, kind, place):
    plain = encoded("PNG")
    data = plain[:place] + ODD_CHUNKS[kind] + plain[place:]
    assert np.array_equal(decode_image(data), smooth())
    (tmp_path / "a.png").write_bytes(data)
    assert read_image_size(tmp_path / "a.png") == (48, 80)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"PLTE"])
def test_a_wrong_checksum_of_what_pixels_come_from_is_a_fault(name):
    data = bytearray(encoded("PNG", np.asarray(Image.fromarray(smooth()).quantize(16))))
    if name == b"PLTE":
        buffer = io.BytesIO()
        Image.fromarray(smooth()).quantize(16).save(buffer, "PNG")
        data = bytearray(buffer.getvalue())
    start = data.index(name)
    (length,) = struct.unpack(">I", data[start - 4 : start])
    data[start + 4 + length] ^= 1
    with pytest.raises(ImageError, match=f"checksum of its chunk {name.decode()} is wrong"):
        decode_image(bytes(data))


def test_a_png_without_its_end_is_whole_and_one_without_pixels_is_not():
    plain = encoded("PNG")
    for missing in (1, 4, 8, 12, 14):  # the end's checksum, the end, the checksum of the pixels
        assert np.array_equal(decode_image(plain[:-missing]), smooth())
    for share in (0.3, 0.5, 0.75, 0.9):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode_image(plain[: int(share * len(plain))])
    assert np.array_equal(decode_image(plain + b"what follows the end" * 99), smooth())


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("place", [AFTER_HEADER, BEFORE_END])
def test_orientation_of_a_png_wherever_it_stands(tmp_path, orientation, place):
    plain = encoded("PNG")
    data = plain[:place] + chunk(b"eXIf", exif(orientation, ">")) + plain[place:]
    expected = UPRIGHT[orientation](smooth())
    assert np.array_equal(decode_image(data), expected)
    (tmp_path / "a.png").write_bytes(data)
    assert read_image_size(tmp_path / "a.png") == expected.shape[:2]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}),
                          ("TIFF", {}), ("AVIF", {"quality": 95})],
)  # fmt: skip
def test_every_orientation_in_every_format(tmp_path, form, options, orientation):
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {form}")
    block = Image.Exif()
    block[0x0112] = orientation
    path = tmp_path / "a"
    path.write_bytes(encoded(form, exif=block.tobytes(), **options))
    expected = UPRIGHT[orientation](smooth())
    read = decode_image(path.read_bytes())
    assert read.shape == expected.shape == (*read_image_size(path), 3)
    assert np.abs(read.astype(int) - expected).mean() < 4


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive, restarts": {"progressive": True, "restart_marker_blocks": 4},
    "4:4:4": {"subsampling": 0},
    "optimised": {"optimize": True, "quality": 30},
}


def noise():
    return np.random.default_rng(3).integers(0, 256, (96, 112, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_complete_when_its_pixels_are(kind, mode):
    buffer = io.BytesIO()
    Image.fromarray(noise()).convert(mode).save(buffer, "JPEG", **JPEGS[kind])
    data = buffer.getvalue()
    whole = decode_image(data)
    for missing in (1, 2):  # of the end marker
        assert np.array_equal(decode_image(data[:-missing]), whole)
    assert np.array_equal(decode_image(data + b"\0trailing \xff\xd8 rubbish" * 50), whole)
    for share in (0.5, 0.75, 0.9, 0.97):
        cut = data[: int(share * len(data))]
        for broken in (cut, cut + b"\xff", cut + b"\xff\xd9"):
            with pytest.raises(ImageError, match="truncated|cannot be decoded|cannot be opened"):
                decode_image(broken)


def test_a_plain_corner_is_no_missing_pixel():
    image = np.full((64, 64, 3), 128, np.uint8)
    image[:20, :20] = 250
    whole = decode_image(encoded("JPEG", image))
    assert np.abs(whole.astype(int) - image)[32:, 32:].max() <= 2
    assert np.array_equal(decode_image(encoded("JPEG", image)[:-2]), whole)


def test_a_progressive_jpeg_whose_last_scans_are_missing_is_cut_off():
    data = encoded("JPEG", noise(), progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    tables = data.rindex(b"\xff\xc4", 0, scans[-1])
    assert len(scans) > 4 and tables > scans[-2]
    assert read_jpeg(io.BytesIO(data[:-2])).has_all_scans
    assert not read_jpeg(io.BytesIO(data[:tables])).has_all_scans
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[:tables])


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe2" + struct.pack(">H", 60_002) + b"ICC_PROFILE\0\1\x09" + bytes(59_986),
        b"\xff\xe2\0\x08MPF\0II",
        b"\xff\xe2\0\x1eMPF\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 14,
        b"\xff\xed\0\x12Photoshop 3.0\0\0\0",
        b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\xff",
        b"\xff\xfe\0\x03x" * 500,
    ],
    ids=["profile", "short MPF", "broken MPF", "Photoshop", "broken EXIF", "comments"],
)  # fmt: skip
def test_odd_segments_of_a_jpeg_do_not_matter(segment):
    plain = encoded("JPEG")
    assert np.array_equal(decode_image(plain[:2] + segment + plain[2:]), decode_image(plain))


def test_odd_chunks_of_a_webp_do_not_matter():
    plain = encoded("WEBP", lossless=True, exif=exif(6), icc_profile=b"no profile")
    expected = np.rot90(smooth(), -1)
    assert np.array_equal(decode_image(plain), expected)
    block = plain.index(b"EXIF")
    assert np.array_equal(decode_image(plain[: block + 40]), expected)  # cut off within its EXIF
    assert np.array_equal(decode_image(plain[:block] + b"XMP \xff\xff\xff\x7f<x:"), smooth())
    with pytest.raises(ImageError):
        decode_image(encoded("WEBP", noise())[:-200])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000"])
def test_what_has_an_images_signature_is_an_image_however_broken(form):
    data = encoded(form)
    for broken in (data[:16], data[:16] + b"\xab" * 999, data[: len(data) // 2]):
        try:
            decode_image(broken)
        except NoImageError as error:
            pytest.fail(f"{form}: {error}")
        except ImageError as error:
            assert "not an image" not in error.reason


@pytest.mark.parametrize(
    ("head", "named"), [(b"\xff\x0a", "JPEG XL"), (b"8BPS", "Photoshop"), (b"qoif", "QOI")]
)
def test_pictures_that_are_not_read_are_called_by_their_name(head, named):
    with pytest.raises(ImageError, match=f"in the format {named}, which is not read"):
        decode_image(head + bytes(200))
