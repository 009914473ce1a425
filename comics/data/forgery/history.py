"""The life of a pasted patch before it was pasted: its own noise and its own compression."""

from __future__ import annotations

import cv2
import numpy as np

JPEG_BLOCK = 8  # pixels; a patch that was cropped after saving has its block grid elsewhere


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of [H, W, 3] uint8 RGB; quality 1-100, chroma subsampled 4:2:0."""
    done, buffer = cv2.imencode(
        ".jpg",
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, int(quality)],
    )
    if not done:
        raise ValueError(f"an image of shape {image.shape} could not be written as JPEG")
    return buffer.tobytes()


def jpeg_round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    """[H, W, 3] uint8 RGB after saving and reading as JPEG of that quality."""
    data = np.frombuffer(encode_jpeg(image, quality), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # what was just encoded
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def add_history(
    patch: np.ndarray, rng: np.random.Generator, strength: float
) -> tuple[np.ndarray, dict]:
    """Give a patch the noise and the JPEG of another file than the one it will be pasted in.

    Args:
        patch: [h, w, 3] float32 RGB, 0-255.
        rng: random source.
        strength: 0 leaves next to no trace, 1 is the usual, 2 is strong.

    Returns:
        The patch [h, w, 3] float32, and what was done (``noise`` sigma in grey levels,
        ``jpeg_quality``, ``jpeg_offset`` of the block grid in pixels).
    """
    sigma = rng.uniform(0.8, 2.2) / max(strength, 0.3)  # below a sensor's: too clean
    quality = int(np.clip(rng.uniform(76, 90) + (1 - strength) * 12, 30, 97))
    offset = rng.integers(0, JPEG_BLOCK, 2)
    noisy = patch + sigma * rng.standard_normal(patch.shape, dtype=np.float32)
    height, width = patch.shape[:2]
    pads = [(int(offset[0]), 0), (int(offset[1]), 0), (0, 0)]
    padded = np.pad(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), pads, mode="edge")
    saved = jpeg_round_trip(padded, quality)[offset[0] :, offset[1] :][:height, :width]
    record = {
        "noise": round(float(sigma), 2),
        "jpeg_quality": quality,
        "jpeg_offset": [int(value) for value in offset],
    }
    return saved.astype(np.float32), record
