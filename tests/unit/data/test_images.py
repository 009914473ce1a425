"""Decoding of sound, odd and broken image files."""

import io
import struct

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from comics.data import image_headers
from comics.data.image_headers import TooManyPixels
from comics.data.images import (
    FORMATS,
    ImageError,
    decode_image,
    image_to_tensor,
    read_image,
    read_image_size,
    tensor_to_image,
)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_plain_png_is_read_exactly(tmp_path, pixels):
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    assert np.array_equal(read_image(path), pixels)
    assert read_image_size(path) == (20, 30)


def test_jpeg_matches_another_decoder(tmp_path, pixels):
    smooth = cv2.resize(pixels, (60, 40), interpolation=cv2.INTER_CUBIC)
    path = save(Image.fromarray(smooth), tmp_path / "a.jpg", quality=95)
    other = cv2.imread(str(path))[..., ::-1].astype(int)
    assert np.abs(read_image(path) - other).max() <= 2


# What a viewer does with the stored pixels for each value of the EXIF tag (EXIF 2.3, 4.6.4)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, pixels, orientation, extension):
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = save(image, tmp_path / f"a.{extension}", exif=exif)
    expected = UPRIGHT[orientation](pixels)
    assert np.array_equal(read_image(path), expected)
    assert read_image_size(path) == expected.shape[:2]


@pytest.mark.parametrize("orientation", [1, 6])
def test_header_size_of_a_rotated_jpeg(tmp_path, pixels, orientation):
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = save(image, tmp_path / "a.jpg", exif=exif)
    assert read_image_size(path) == read_image(path).shape[:2]


def test_broken_exif_is_ignored(tmp_path, pixels):
    path = save(Image.fromarray(pixels), tmp_path / "a.jpg", exif=b"Exif\x00\x00garbage, not TIFF")
    assert read_image(path).shape == (20, 30, 3)
    assert read_image_size(path) == (20, 30)


def test_grey_and_one_bit_become_rgb(tmp_path, pixels):
    grey = pixels[..., 0]
    path = save(Image.fromarray(grey), tmp_path / "grey.png")
    assert np.array_equal(read_image(path), np.repeat(grey[..., None], 3, 2))
    bits = grey > 127
    path = save(Image.fromarray(bits), tmp_path / "bits.png")
    assert np.array_equal(read_image(path)[..., 1], bits * np.uint8(255))


def test_sixteen_bits_keep_the_high_byte(tmp_path):
    values = np.random.default_rng(1).integers(0, 65536, (20, 30)).astype(np.uint16)
    path = tmp_path / "grey16.png"
    cv2.imwrite(str(path), values)
    assert Image.open(path).mode.startswith("I")  # it is not 8-bit in the file
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    assert np.array_equal(read_image(path), expected)
    cv2.imwrite(str(tmp_path / "rgb16.png"), np.stack([values] * 3, axis=2))
    assert np.array_equal(read_image(tmp_path / "rgb16.png"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(tmp_path, pixels, mode):
    alpha = np.random.default_rng(2).integers(0, 256, (20, 30), dtype=np.uint8)
    colour = Image.fromarray(pixels).convert(mode[:-1])
    colour.putalpha(Image.fromarray(alpha))
    path = save(colour, tmp_path / "a.png")
    solid = np.asarray(Image.fromarray(pixels).convert(mode[:-1]).convert("RGB"), dtype=float)
    share = alpha[..., None] / 255
    expected = solid * share + 255 * (1 - share)
    assert np.abs(read_image(path) - expected).max() <= 1


def test_palettes_with_and_without_transparency(tmp_path, pixels):
    palette = Image.fromarray(pixels).quantize(16)
    path = save(palette, tmp_path / "p.png")
    assert np.array_equal(read_image(path), np.asarray(palette.convert("RGB")))
    path = save(palette, tmp_path / "t.png", transparency=3)
    result = read_image(path)
    clear = np.asarray(palette) == 3
    assert clear.any()
    assert (result[clear] == 255).all()
    assert np.array_equal(result[~clear], np.asarray(palette.convert("RGB"))[~clear])


def test_cmyk(tmp_path, pixels):
    cmyk = Image.fromarray(pixels).convert("CMYK")
    path = save(cmyk, tmp_path / "a.tif")
    assert np.array_equal(read_image(path), pixels)  # K is 0: the conversion is exact
    path = save(cmyk, tmp_path / "a.jpg", quality=95)
    assert read_image(path).shape == (20, 30, 3)


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path, extension):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    path = tmp_path / f"a.{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(path).reshape(-1, 3).tolist() == [[255, 0, 0]] * 48


def test_floating_point_is_refused(tmp_path):
    path = save(Image.fromarray(np.zeros((4, 4), np.float32)), tmp_path / "a.tif")
    with pytest.raises(ImageError, match="a.tif.*no defined range"):
        read_image(path)


def test_a_plugin_that_checks_the_size_itself_is_understood(tmp_path):
    """Pillow's WebP plugin refuses before it tells the size; the header here says 16384 x 16384."""
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0" * 2
    path = tmp_path / "huge.webp"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended)
    with pytest.raises(TooManyPixels, match="pixels"):
        read_image(path)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    data = io.BytesIO()
    Image.new("L", (100, 100)).save(data, "PNG")
    broken_pixels = data.getvalue()[:60]  # header only: decoding would fail differently
    with pytest.raises(ImageError, match="100x100 is 10000 pixels, more than the 9999"):
        decode_image(broken_pixels, "big.png", max_pixels=9999)
    path = tmp_path / "big.png"
    path.write_bytes(data.getvalue())
    with pytest.raises(ImageError, match="INPUT.MAX_PIXELS"):
        read_image_size(path, max_pixels=9999)
    assert read_image(path, max_pixels=10_000).shape == (100, 100, 3)


def test_a_bomb_that_pillow_refuses_is_an_image_error(monkeypatch, tmp_path):
    path = save(Image.new("L", (100, 100)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="bomb.png"):
        read_image(path)


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_truncated_files_are_errors_with_their_name(tmp_path, extension):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"cut.{extension}")
    data = path.read_bytes()
    for share in (0.05, 0.5, 0.8):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageError, match=f"cut.{extension}"):
            read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"hello", "not an image"), (b"\x00" * 999, "image|opened")],
)
def test_what_is_no_image(tmp_path, content, reason):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert caught.value.reason in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "a.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    with pytest.raises(ImageError, match="not an image in a known format"):
        read_image(path)


def test_random_damage_never_escapes_as_another_error(pixels):
    rng = np.random.default_rng(5)
    for extension in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, extension)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(len(data), size=6):
                data[place] = int(rng.integers(256))
            try:
                image = decode_image(bytes(data), "damaged", max_pixels=10**6)
            except ImageError:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2] == 3


def test_tensor_round_trip(pixels):
    tensor = image_to_tensor(pixels)
    assert tensor.shape == (3, 20, 30)
    assert tensor.is_contiguous()
    assert tensor.dtype == torch.uint8
    assert tensor[2, 4, 5] == pixels[4, 5, 2]
    assert np.array_equal(tensor_to_image(tensor), pixels)


def test_heic_is_read_where_its_plug_in_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the plug-in is optional")
    pillow_heif.register_heif_opener()
    image = np.zeros((60, 100, 3), np.uint8)
    image[:30, :50] = (250, 0, 0)
    Image.fromarray(image).save(tmp_path / "a.heic", quality=95)
    read = read_image(tmp_path / "a.heic")
    assert read_image_size(tmp_path / "a.heic") == read.shape[:2] == (60, 100)
    assert np.abs(read.astype(int) - image).mean() < 3


def test_heic_without_its_plug_in_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(image_headers, "FORMATS", tuple(set(FORMATS) - {"HEIF"}))
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    with pytest.raises(ImageError, match="pillow-heif"):
        read_image(tmp_path / "a.heic")
