"""Compression with real codecs: H.264 of clips and single frames, JPEG, WebP and GIF of pictures.

Levels are named as FaceForensics++ names them: "raw", or "c" and the constant rate factor of
x264 ("c23" high quality, "c40" low). Encoding goes to memory and back; x264 runs on one thread,
so that the same frames give the same pictures.

Shape letters: T frames; H, W their height and width in pixels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import av
import numpy as np
from PIL import Image

RAW = "raw"
CRF_RANGE = (0, 51)  # of x264 at 8 bits; 0 is lossless but for the change of colour space
ENCODER: Final = "libx264"
DECODER: Final = "h264"
PIXEL_FORMAT = "yuv420p"  # what every player shows
CLIP_RATE = 25  # frames per second; rate control looks at it, nothing else does
QUALITY_RANGE = (1, 100)  # of JPEG and WebP
# Chroma of JPEG: horizontal and vertical share, by the usual name; numbers are Pillow's
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
GIF_COLOURS = 256


def crf_of(level: str) -> int | None:
    """The constant rate factor of a level's name: None for "raw", 23 for "c23".

    Raises:
        ValueError: for any other name.
    """
    if level == RAW:
        return None
    match = re.fullmatch(r"c(\d{1,2})", level)
    if match is None or not CRF_RANGE[0] <= int(match[1]) <= CRF_RANGE[1]:
        raise ValueError(
            f'a compression is "raw", or "c" and a number of {CRF_RANGE[0]} to {CRF_RANGE[1]}; '
            f"got {level!r}"
        )
    return int(match[1])


def compress_frames(
    frames: Sequence[np.ndarray], crf: int, *, preset: str = "medium"
) -> list[np.ndarray]:
    """Encode a clip as H.264 and decode it: what a viewer of the compressed video sees.

    Args:
        frames: T of [H, W, 3] uint8 RGB, one size. Odd sides are padded by repeating the last
            row or column for the codec, and cut again.
        crf: constant rate factor, 0 to 51.
        preset: of x264; the slower, the fewer bits for a quality.

    Returns:
        T of [H, W, 3] uint8 RGB, in the same order.

    Raises:
        ValueError: for no frame, frames of different sizes or types, or a crf out of range.
    """
    height, width = _checked_size(frames)
    if not CRF_RANGE[0] <= crf <= CRF_RANGE[1]:
        raise ValueError(f"crf must be {CRF_RANGE[0]} to {CRF_RANGE[1]}, got {crf}")
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    encoder = _encoder(height + height % 2, width + width % 2, crf, preset)
    decoder = av.CodecContext.create(DECODER, "r")
    decoder.thread_count = 1
    decoded: list[av.VideoFrame] = []
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.pad(frame, padding, mode="edge"), format="rgb24")
        picture.pts, picture.time_base = number, Fraction(1, CLIP_RATE)
        for packet in encoder.encode(picture):
            decoded += decoder.decode(packet)
    for packet in encoder.encode(None):
        decoded += decoder.decode(packet)
    decoded += decoder.decode(None)
    shown = [frame.to_ndarray(format="rgb24")[:height, :width] for frame in decoded]
    return [np.ascontiguousarray(picture) for picture in shown]


def compress_image(image: np.ndarray, crf: int, before: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The last frame of a clip through H.264: [H, W, 3] uint8 RGB to the same.

    Args:
        image: the frame.
        crf: constant rate factor.
        before: the frames before it, of its size; none: it is the key frame of a video.
    """
    return compress_frames([*before, image], crf)[-1]


def compress_to(image: np.ndarray, level: str, before: Sequence[np.ndarray] = ()) -> np.ndarray:
    """``compress_image`` by the name of a level; "raw" changes nothing."""
    crf = crf_of(level)
    return image if crf is None else compress_image(image, crf, before)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """[H, W, 3] uint8 RGB after saving and reading as JPEG, chroma 4:2:0.

    Raises:
        ValueError: for a quality outside of 1 to 100.
    """
    _check_quality("JPEG", quality)
    from comics.data.forgery.history import jpeg_round_trip  # it imports all of forging

    return jpeg_round_trip(image, quality)


def jpeg_subsampled(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """``jpeg`` with another chroma subsampling, a key of ``SUBSAMPLINGS``.

    Raises:
        ValueError: for a quality outside of 1 to 100, or another subsampling.
    """
    _check_quality("JPEG", quality)
    if subsampling not in SUBSAMPLINGS:
        choices = ", ".join(SUBSAMPLINGS)
        raise ValueError(f"JPEG subsampling is one of {choices}, not {subsampling!r}")
    return _through_pillow(image, "JPEG", quality=quality, subsampling=SUBSAMPLINGS[subsampling])


def webp(image: np.ndarray, quality: int) -> np.ndarray:
    """[H, W, 3] uint8 RGB after saving and reading as lossy WebP.

    Raises:
        ValueError: for a quality outside of 1 to 100.
    """
    _check_quality("WebP", quality)
    return _through_pillow(image, "WEBP", quality=quality)


def gif(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 RGB in 256 colours of its own, dithered (Floyd-Steinberg), as in a GIF."""
    picture = Image.fromarray(image)
    palette = picture.quantize(GIF_COLOURS)
    dithered = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    return np.array(dithered.convert("RGB"))


def _check_quality(name: str, quality: int) -> None:
    if not QUALITY_RANGE[0] <= quality <= QUALITY_RANGE[1]:
        raise ValueError(f"{name} quality must be 1 to 100, got {quality}")


def _through_pillow(image: np.ndarray, kind: str, **options: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return np.array(Image.open(buffer).convert("RGB"))


def _encoder(height: int, width: int, crf: int, preset: str) -> av.VideoCodecContext:
    context = av.CodecContext.create(ENCODER, "w")
    context.width, context.height, context.pix_fmt = width, height, PIXEL_FORMAT
    context.time_base, context.framerate = Fraction(1, CLIP_RATE), Fraction(CLIP_RATE)
    context.options = {"crf": str(crf), "preset": preset}
    context.thread_count = 1
    return context


def _checked_size(frames: Sequence[np.ndarray]) -> tuple[int, int]:
    if not len(frames):
        raise ValueError("a clip needs at least one frame")
    for number, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise ValueError(f"frame {number} must be uint8 [H, W, 3]: {frame.dtype} {frame.shape}")
        if frame.shape != frames[0].shape:
            raise ValueError(f"frame {number} is {frame.shape}, the first one {frames[0].shape}")
    return frames[0].shape[:2]
