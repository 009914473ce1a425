"""Resynthesis traces: a face that keeps its content and loses its camera's fine structure.

Each function takes a patch [h, w, 3] float32 RGB (0-255), a Generator and a strength (1 usual),
and returns a patch of the same shape and a record of its parameters.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.fft import dctn, idctn

UPSAMPLERS = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
Traced = tuple[np.ndarray, dict]


def down_up(patch: np.ndarray, rng: np.random.Generator, strength: float) -> Traced:
    """Shrink by area averaging and enlarge again by a drawn interpolation."""
    factor = float(np.clip(1 - rng.uniform(0.3, 0.45) * strength, 0.2, 0.95))
    name = str(rng.choice(list(UPSAMPLERS)))
    height, width = patch.shape[:2]
    small = (max(2, round(width * factor)), max(2, round(height * factor)))
    low = cv2.resize(patch, small, interpolation=cv2.INTER_AREA)
    high = cv2.resize(low, (width, height), interpolation=UPSAMPLERS[name])
    return high, {"factor": round(factor, 3), "upsampler": name}


def blur_sharpen(patch: np.ndarray, rng: np.random.Generator, strength: float) -> Traced:
    """Blur, then unsharp masking at a wider scale: edges return, noise does not."""
    sigma = rng.uniform(0.7, 1.0) * max(strength, 0.2)
    amount = rng.uniform(0.5, 0.9)
    blurred = cv2.GaussianBlur(patch, (0, 0), sigma)
    wide = cv2.GaussianBlur(blurred, (0, 0), 2 * sigma)
    record = {"sigma": round(float(sigma), 2), "amount": round(float(amount), 2)}
    return blurred + np.float32(amount) * (blurred - wide), record


def upsampling_grid(patch: np.ndarray, rng: np.random.Generator, strength: float) -> Traced:
    """Transposed convolution whose kernel weighs its output phases unequally.

    Zero insertion by the stride, then a separable kernel near the linear one: the unequal gain
    of the phases is the checkerboard of Odena et al. 2016, and its replicas stand in the
    spectrum at multiples of 1/stride.
    """
    stride = int(rng.choice([2, 3, 4]))
    height, width = patch.shape[:2]
    phase = [int(value) for value in rng.integers(0, stride, 2)]
    pads = [(phase[0], -(height + phase[0]) % stride), (phase[1], -(width + phase[1]) % stride)]
    padded = np.pad(patch, (*pads, (0, 0)), mode="edge")
    rows, columns = padded.shape[0] // stride, padded.shape[1] // stride
    low = padded.reshape(rows, stride, columns, stride, 3).mean((1, 3))
    sparse = np.zeros_like(padded)
    sparse[stride // 2 :: stride, stride // 2 :: stride] = low
    taps = 1 - np.abs(np.arange(1 - stride, stride)) / stride  # linear interpolation
    x_kernel, y_kernel = (
        (taps * (1 + 0.012 * strength * rng.standard_normal(taps.size))).astype(np.float32)
        for _ in range(2)
    )
    x_kernel, y_kernel = (
        kernel * np.float32(stride / kernel.sum()) for kernel in (x_kernel, y_kernel)
    )
    high = cv2.sepFilter2D(sparse, -1, x_kernel, y_kernel, borderType=cv2.BORDER_REFLECT_101)
    # Keep part of the finest content, as a generator with skip connections does
    fine = padded - cv2.GaussianBlur(padded, (0, 0), stride / 2)
    kept = 0.5 / max(strength, 0.5)
    result = high + np.float32(min(kept, 0.9)) * cv2.GaussianBlur(fine, (0, 0), 0.8)
    inner = result[phase[0] : phase[0] + height, phase[1] : phase[1] + width]
    return inner, {"stride": stride, "phase": phase}


def dct_truncation(patch: np.ndarray, rng: np.random.Generator, strength: float) -> Traced:
    """Keep the lowest DCT coefficients of 16 x 16 blocks, as a bottleneck would."""
    block = 16
    kept = int(np.clip(rng.integers(10, 15) - 4 * (strength - 1), 4, 2 * block))
    height, width = patch.shape[:2]
    offset = [int(value) for value in rng.integers(0, block, 2)]
    pads = [(offset[0], -(height + offset[0]) % block), (offset[1], -(width + offset[1]) % block)]
    padded = np.pad(patch, (*pads, (0, 0)), mode="symmetric")
    rows, columns = padded.shape[0] // block, padded.shape[1] // block
    tiles = padded.reshape(rows, block, columns, block, 3)
    spectrum = dctn(tiles, axes=(1, 3), norm="ortho")
    order = np.add.outer(np.arange(block), np.arange(block))
    spectrum *= (order < kept)[None, :, None, :, None]
    back = idctn(spectrum, axes=(1, 3), norm="ortho").reshape(padded.shape)
    inner = back[offset[0] : offset[0] + height, offset[1] : offset[1] + width]
    return inner.astype(np.float32), {"coefficients": kept, "offset": offset}


def pca_autoencoder(patch: np.ndarray, rng: np.random.Generator, strength: float) -> Traced:
    """Project the patch's own 6 x 6 tiles on their first principal components.

    A linear autoencoder of the face. Two grids half a tile apart are averaged, so that no block
    edges show.
    """
    tile = 6
    rank = int(max(2, round(rng.integers(9, 15) / max(strength, 0.25))))
    height, width = patch.shape[:2]
    total = np.zeros_like(patch)
    for shift in (0, tile // 2):
        pads = [(shift, -(height + shift) % tile), (shift, -(width + shift) % tile)]
        padded = np.pad(patch, (*pads, (0, 0)), mode="symmetric")
        rows, columns = padded.shape[0] // tile, padded.shape[1] // tile
        tiles = padded.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 1, 3, 4)
        flat = tiles.reshape(rows * columns, -1)
        mean = flat.mean(0)
        # Principal axes: eigenvectors of the covariance, eigenvalues ascending
        _, basis = np.linalg.eigh((flat - mean).T @ (flat - mean))
        first = basis[:, -rank:].astype(np.float32)
        coded = (flat - mean) @ first @ first.T + mean
        back = coded.reshape(rows, columns, tile, tile, 3).transpose(0, 2, 1, 3, 4)
        total += back.reshape(padded.shape)[shift : shift + height, shift : shift + width]
    return (total / 2).astype(np.float32), {"rank": rank}


def jitter_colour(patch: np.ndarray, rng: np.random.Generator, strength: float) -> Traced:
    """Shift colours, contrast and sharpness a little (source transforms of Shiohara 2022)."""
    shift = rng.uniform(-3.5, 3.5, 3) * strength
    contrast = 1 + rng.uniform(-0.05, 0.05) * strength
    mean = patch.mean((0, 1))
    moved = ((patch - mean) * contrast + mean + shift).astype(np.float32)
    sharpness = rng.uniform(-0.5, 0.4)
    if sharpness < 0:
        moved = cv2.GaussianBlur(moved, (0, 0), 0.5 - 0.5 * sharpness * strength)
    else:
        moved = moved + np.float32(sharpness) * (moved - cv2.GaussianBlur(moved, (0, 0), 1.5))
    record = {
        "shift": [round(float(value), 1) for value in shift],
        "contrast": round(float(contrast), 3),
        "sharpness": round(float(sharpness), 2),
    }
    return moved, record
