"""TIFF: the range of values is what the file says, and the picture is not its thumbnail."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from comics.data.images import ImageError, decode_image

BYTE, ASCII, SHORT, LONG = 1, 2, 3, 4
FORMS = {BYTE: "B", SHORT: "H", LONG: "I", 12: "d", 11: "f"}


def pack_bits(values, bits):
    """Rows of ``bits``-bit values, highest bit first, each row filled up to a whole byte."""
    rows = []
    for row in values:
        text = "".join(f"{int(value):0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def page(width, height, data, *, bits=8, samples=1, photometric=1, extra=None, kind=None):
    """Tags and pixels of an uncompressed page of one strip."""
    tags = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * samples),
        259: (SHORT, [1]),
        262: (SHORT, [photometric]),
        277: (SHORT, [samples]),
        278: (LONG, [height]),
    }
    if kind is not None:
        tags[254] = (LONG, [kind])
    return tags | (extra or {}), data


def tiff_bytes(pages, order="<", below=None):
    """A classic TIFF; ``below`` are pictures below its first page (SubIFDs)."""
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    below_places = [_add(out, tags, data, order) for tags, data in below or []]
    link = 4
    for number, (tags, data) in enumerate(pages):
        tags = dict(tags)
        if below_places and not number:
            tags[330] = (LONG, below_places)
        place = _add(out, tags, data, order)
        out[link : link + 4] = struct.pack(order + "I", place)
        link = place + 2 + 12 * (len(tags) + 2)
    return bytes(out)


def _add(out, tags, data, order):
    strip = len(out)
    out += data + bytes(len(data) % 2)
    tags = tags | {273: (LONG, [strip]), 279: (LONG, [len(data)])}
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{FORMS[kind]}", *values)
        if len(packed) > 4:
            value = struct.pack(order + "I", len(out))
            out += packed + bytes(len(packed) % 2)
        else:
            value = packed.ljust(4, b"\0")
        entries.append(struct.pack(order + "HHI", tag, kind, len(values)) + value)
    place = len(out)
    out += struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return place


H, W = 6, 9


def values(bits, *shape):
    found = np.random.default_rng(bits).integers(0, 2**bits, shape)
    found.flat[0], found.flat[1] = 0, 2**bits - 1
    return found


def packed(found, bits, order):
    if bits in (16, 32):
        return found.astype(f"{order}u{bits // 8}").tobytes()
    return pack_bits(found.reshape(found.shape[0], -1), bits)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_of_every_depth(bits, white_is_zero, order):
    found = values(bits, H, W)
    one = page(W, H, packed(found, bits, order), bits=bits, photometric=int(not white_is_zero))
    # The 8 highest bits; of fewer, the share of the highest value
    expected = found >> (bits - 8) if bits >= 8 else np.rint(found * 255 / (2**bits - 1))
    expected = 255 - expected if white_is_zero else expected
    read = decode_image(tiff_bytes([one], order))
    assert np.array_equal(read, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_grey_of_32_bits(white_is_zero):
    found = values(32, H, W)
    one = page(W, H, packed(found, 32, "<"), bits=32, photometric=int(not white_is_zero))
    expected = found >> 24
    assert np.array_equal(
        decode_image(tiff_bytes([one]))[..., 0], 255 - expected if white_is_zero else expected
    )


@pytest.mark.parametrize("compression", ["tiff_deflate", "tiff_lzw", "packbits"])
def test_white_is_zero_in_compressed_16_bits(compression):
    found = values(16, H, W).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(found).save(buffer, "TIFF", compression=compression)
    data = bytearray(buffer.getvalue())
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8] = 0
    assert np.array_equal(decode_image(bytes(data))[..., 1], 255 - (found >> 8))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_colour_of_every_depth(bits, order):
    found = values(bits, H, W, 3)
    one = page(W, H, packed(found, bits, order), bits=bits, samples=3, photometric=2)
    assert np.array_equal(decode_image(tiff_bytes([one], order)), found >> (bits - 8))


@pytest.mark.parametrize("order", "<>")
def test_more_samples_than_colours(order):
    found = values(8, H, W, 5)
    one = page(
        W, H, packed(found, 8, order), samples=5, photometric=2, extra={338: (SHORT, [0, 0])}
    )
    assert np.array_equal(decode_image(tiff_bytes([one], order)), found[..., :3])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_ink(bits, order):
    found = values(8, H, W, 4)
    stored = found if bits == 8 else found * 257
    one = page(W, H, packed(stored, bits, order), bits=bits, samples=4, photometric=5)
    expected = (255.0 - found[..., :3]) * (255 - found[..., 3:]) / 255
    assert np.abs(decode_image(tiff_bytes([one], order)) - expected).max() <= 1


def test_a_palette_of_16_bits():
    found, colours = values(2, H, W), np.random.default_rng(1).integers(0, 65536, (3, 4))
    table = {320: (SHORT, colours.ravel().tolist())}
    one = page(W, H, pack_bits(found, 2), bits=2, photometric=3, extra=table)
    assert np.array_equal(decode_image(tiff_bytes([one])), (colours >> 8).T[found])


@pytest.mark.parametrize("factors", [None, (1, 1), (2, 1), (2, 2)])
def test_brightness_and_colour_difference(factors):
    """BT.601 in full range (TIFF 6.0, section 21), blocks of Y with one Cb and Cr; 2 x 2 unsaid."""
    across, down = factors or (2, 2)
    colour = np.array([200, 40, 90], np.uint8)
    y, cr, cb = cv2.cvtColor(colour[None, None], cv2.COLOR_RGB2YCrCb)[0, 0]
    block = bytes([y] * (across * down) + [cb, cr])
    extra = {} if factors is None else {530: (SHORT, list(factors))}
    one = page(8, 4, block * (32 // (across * down)), samples=3, photometric=6, extra=extra)
    read = decode_image(tiff_bytes([one])).astype(int)
    assert read.shape == (4, 8, 3)
    assert np.abs(read - colour).max() <= 3


@pytest.mark.parametrize(("form", "named"), [(2, "signed"), (3, "floating-point")])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_values_without_a_range_are_refused(form, named, bits):
    one = page(4, 4, bytes(16 * bits // 8), bits=bits, extra={339: (SHORT, [form])})
    with pytest.raises(ImageError, match=f"{named} pixels have no defined range"):
        decode_image(tiff_bytes([one]))


def grey_page(width, height, value, **options):
    return page(width, height, bytes([value]) * (width * height), **options)


def shown(*pages, **options):
    read = decode_image(tiff_bytes(pages, **options))
    return read.shape[1], read.shape[0], int(read[0, 0, 0])


def test_the_picture_is_not_the_thumbnail_before_it():
    picture = grey_page(40, 30, 9)
    assert shown(grey_page(8, 6, 200, kind=1), picture) == (40, 30, 9)
    assert shown(grey_page(8, 6, 200, extra={255: (SHORT, [2])}), picture) == (40, 30, 9)
    assert shown(grey_page(8, 6, 200), picture) == (40, 30, 9)  # it does not say so
    assert shown(grey_page(40, 30, 77, kind=4), picture) == (40, 30, 9)  # a mask
    assert shown(grey_page(8, 6, 200, kind=1), below=[picture]) == (40, 30, 9)
    # Pages of a document, and a pyramid, begin with what is to be seen
    assert shown(grey_page(40, 30, 1), picture, grey_page(60, 30, 5)) == (40, 30, 1)
    assert shown(picture, grey_page(20, 15, 5, kind=1)) == (40, 30, 9)


@pytest.mark.parametrize("order", "<>")
def test_raw_pictures_of_cameras_are_not_judged_by_their_preview(order):
    raw = grey_page(400, 300, 1, photometric=32803)
    for pages, below in [([grey_page(40, 30, 9, kind=1)], [raw]), ([raw], None)]:
        with pytest.raises(ImageError, match="400x300 is camera raw data"):
            decode_image(tiff_bytes(pages, order, below))


def test_circles_and_long_chains_end():
    data = bytearray(tiff_bytes([grey_page(4, 4, 7)]))
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    struct.pack_into("<I", data, place + 2 + 12 * count, place)
    assert decode_image(bytes(data))[0, 0, 0] == 7
    below = page(4, 4, bytes(16), extra={330: (LONG, [place] * 3)})
    assert decode_image(tiff_bytes([below])).shape == (4, 4, 3)


def test_a_big_tiff_is_read():
    buffer = io.BytesIO()
    found = values(8, H, W).astype(np.uint8)
    Image.fromarray(found).save(buffer, "TIFF", big_tiff=True)
    assert buffer.getvalue()[2] == 43
    assert np.array_equal(decode_image(buffer.getvalue())[..., 0], found)
