"""F3-Net's two views of frequency: a picture parted into bands, and local band statistics.

docs/methods.md#competitors-f3-net. Shape letters: N crops; S side of a crop; k side of a window;
T windows; B bands.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.modeling.faces.layers import full_precision

# Bands of FAD, as shares of S that i + j of a coefficient lies in: low, middle, high, everything
PARTS = ((0.0, 1 / 16), (1 / 16, 1 / 8), (1 / 8, 1.0), (0.0, 2.0))
START_DEVIATION = 0.1  # of the learnt filters (public code)
LEAST_POWER = 1e-15  # under the logarithm (public code)


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II: [S, S] float32, rows by rising frequency; its inverse is its
    transpose.
    """
    place = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * place[:, None] * (2 * place[None] + 1) / (2 * size))
    rows = rows * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


def band(size: int, low: float, high: float) -> Tensor:
    """[S, S] float32: 1 where ``low * size < i + j <= high * size``, from 0 on where low is 0."""
    index = torch.arange(size)
    total = index[:, None] + index[None]
    above = total >= 0 if low == 0 else total > low * size
    return (above & (total <= high * size)).float()


class LearntBands(nn.Module):
    """Filters on DCT coefficients: fixed bands, plus a learnt part in (-1, 1) each.

    Args:
        bands: [B, S, S], 0 and 1.
    """

    bands: Tensor

    def __init__(self, bands: Tensor) -> None:
        super().__init__()
        self.register_buffer("bands", bands, persistent=False)
        self.learnt = nn.Parameter(START_DEVIATION * torch.randn(bands.shape))

    def forward(self) -> Tensor:
        """[B, S, S]: ``f_base + (2 sigmoid(w) - 1)`` (eq. 2)."""
        return self.bands + 2 * self.learnt.sigmoid() - 1


class BandPictures(nn.Module):
    """FAD: a picture's frequency components, each as a picture (3.1 of the paper).

    Args:
        size: S.
    """

    matrix: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("matrix", dct_matrix(size), persistent=False)
        self.filters = LearntBands(torch.stack([band(size, *part) for part in PARTS]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] to [N, 12, S, S] float32: the three colours of each of four components."""
        with full_precision(x):
            spectrum = self.matrix @ x.float() @ self.matrix.T
            parts = spectrum[:, None] * self.filters()[None, :, None]
            return (self.matrix.T @ parts @ self.matrix).flatten(1, 2)


class BandStatistics(nn.Module):
    """LFS: how strong each band is in a sliding window (3.2 of the paper).

    Args:
        window: k, pixels.
        stride: between windows, pixels.
        bands: B, of equal width in i + j.
    """

    transform: Tensor

    def __init__(self, window: int, stride: int, bands: int) -> None:
        super().__init__()
        self.window = window
        self.stride = stride
        matrix = dct_matrix(window)
        self.register_buffer("transform", torch.kron(matrix, matrix), persistent=False)
        edges = [2 * i / bands for i in range(bands + 1)]
        steps = zip(edges[:-1], edges[1:], strict=True)
        self.filters = LearntBands(torch.stack([band(window, *step) for step in steps]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] to [N, B, h, w] float32: ``log10 |D(window) f|_1`` of the mean colour."""
        with full_precision(x):
            grey = x.float().mean(dim=1, keepdim=True)
            windows = functional.unfold(grey, self.window, stride=self.stride)
            spectrum = self.transform @ windows  # [N, k k, T]
            weights = self.filters().flatten(1).abs()  # |D f| is |D| |f|
            power = weights @ spectrum.abs()
            side = (x.shape[-1] - self.window) // self.stride + 1
            return (power + LEAST_POWER).log10().unflatten(2, (-1, side))
