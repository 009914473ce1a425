"""MEInst's mask code: a square mask as a few coefficients of a linear basis (Zhang et al. 2020,
arXiv:2003.11712, section 3.1, eq. 1-5).

The basis is the principal components of the training masks, after a logit where the code is to be
decoded by a sigmoid; ``tools/make_mask_codes.py`` computes it. Details, and the keys of its file,
as in AdelaiDet. A model without a file starts from the discrete cosine basis.

Shape letters: P masks; m side of a mask; D coefficients; F number of faces of a training set.
"""

from __future__ import annotations

import logging
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

# A pixel of a mask becomes a probability of 1 - e or e, with e drawn from [0, SOFTNESS] and raised
# to LEAST_SOFTNESS: a random target, for which logits of masks are finite (AdelaiDet's)
SOFTNESS, LEAST_SOFTNESS = 0.05, 0.01
MEAN_LOGIT = math.log((1 - SOFTNESS / 2) / (SOFTNESS / 2))  # of a pixel inside, about
DECODED_RANGE = (0.01, 0.99)  # of decoded masks without a sigmoid (AdelaiDet's)
EDGE_DECAY = 1.5  # the power of a shape with sharp edges falls with frequency^-3 (Porod's law)
FILE_KEYS = {"components": "components_c", "means": "mean_c", "variances": "explained_variance_c"}
FILE_RATIOS = "ratio_c"  # shares of the variance: AdelaiDet's files hold them, nothing reads them
FILE_SIGMOID = "sigmoid"  # whether the basis is of logits; absent in AdelaiDet's files
TOOL = "tools/make_mask_codes.py"


class MaskBasisError(OSError):
    """A file of a mask basis that is absent, broken or of another size; the text says which."""


@dataclass(frozen=True)
class MaskBasis:
    """A linear basis of masks.

    Attributes:
        components: [D, m * m] orthonormal rows, largest variance first; pixels row-major.
        means: [m * m] mean mask (or mean logits).
        variances: [D] of the coefficients over the training masks, > 0.
    """

    components: Tensor
    means: Tensor
    variances: Tensor


def soft_logits(masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Logits of masks whose pixels are certain to a random degree of 95 to 99 %.

    Args:
        masks: [..., m * m] bool.
        generator: source of the degrees; None: torch's own.

    Returns:
        [..., m * m] float32.
    """
    drawn = torch.rand(masks.shape, generator=generator, device=masks.device)
    softness = (SOFTNESS * drawn).clamp(min=LEAST_SOFTNESS)
    return torch.where(masks, 1 - softness, softness).logit()


def cosine_basis(dim: int, size: int, *, sigmoid: bool = True) -> MaskBasis:
    """The ``dim`` lowest frequencies (u, v) of the two-dimensional discrete cosine transform.

    Decision: what a model without a file of principal components starts from. The mean is that of
    masks half of whose pixels are set. Variances fall as (1 + u^2 + v^2)^-1.5, like the spectrum of
    shapes with sharp edges, and over all frequencies add up to the energy of a mask.

    Args:
        dim: D, at most m * m.
        size: m.
        sigmoid: the basis is of logits (mean 0); else of masks (mean 0.5).
    """
    frequency, cell = torch.arange(size, dtype=torch.float64), torch.arange(size) + 0.5
    waves = torch.cos(math.pi * frequency[:, None] * cell / size) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    squared = (frequency[:, None] ** 2 + frequency**2).flatten()
    power = (1 + squared) ** -EDGE_DECAY
    deviation = MEAN_LOGIT if sigmoid else 0.5  # of a pixel from the mean
    variances = power / power.sum() * size**2 * deviation**2
    lowest = squared.argsort(stable=True)[:dim]
    images = waves[lowest // size][:, :, None] * waves[lowest % size][:, None]
    return MaskBasis(
        components=images.flatten(1).float(),
        means=torch.full((size**2,), 0.0 if sigmoid else 0.5),
        variances=variances[lowest].float(),
    )


def read_basis(path: str | os.PathLike, dim: int, size: int, *, sigmoid: bool) -> MaskBasis:
    """The first ``dim`` components of an .npz file of ``TOOL``, or of AdelaiDet.

    Raises:
        MaskBasisError: naming the file and the fault.
    """
    if not Path(path).is_file():
        raise MaskBasisError(
            f"MODEL.MEInst.PATH_COMPONENTS: there is no file {path}; {TOOL} makes it from a "
            f'training set, "" does without, and FLAG_PARAMETERS True keeps the basis that '
            f"MODEL.WEIGHTS brings"
        )
    arrays = _read_arrays(path)
    found = {name: torch.from_numpy(arrays[key][0]).float() for name, key in FILE_KEYS.items()}
    available, pixels = found["components"].shape
    if pixels != size**2 or available < dim:
        raise MaskBasisError(
            f"{path} has {available} components of {pixels} pixels; MODEL.MEInst.DIM_MASK asks for "
            f"{dim}, MASK_SIZE for {size} x {size} = {size**2} pixels"
        )
    stated = arrays.get(FILE_SIGMOID)
    if stated is not None and bool(stated) != sigmoid:
        raise MaskBasisError(
            f"{path} was made with sigmoid {bool(stated)}, MODEL.MEInst.SIGMOID is {sigmoid}"
        )
    return MaskBasis(found["components"][:dim], found["means"], found["variances"][:dim])


def _read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a basis file, of fitting shapes and finite."""
    if not zipfile.is_zipfile(path):  # numpy would suggest to unpickle it
        raise MaskBasisError(f"{path} is not an .npz file of arrays: no archive")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MaskBasisError(f"{path} is not an .npz file of arrays: {error}") from error
    missing = sorted(set(FILE_KEYS.values()) - arrays.keys())
    if missing:
        raise MaskBasisError(f"{path} lacks {missing}; it has {sorted(arrays)}")
    components, means, variances = (arrays[key] for key in FILE_KEYS.values())
    shapes = [value.shape for value in (components, means, variances)]
    if components.ndim != 3 or shapes != [
        (1, *components.shape[1:]),
        (1, components.shape[2]),
        (1, components.shape[1]),
    ]:
        raise MaskBasisError(
            f"{path} has arrays of shapes {shapes}, not [(1, D, m * m), (1, m * m), (1, D)]"
        )
    if not all(np.isfinite(value).all() for value in (components, means, variances)):
        raise MaskBasisError(f"{path} has values that are not finite")
    if (variances <= 0).any():
        raise MaskBasisError(f"{path} has variances that are not positive")
    return arrays


class MaskCoding(nn.Module):
    """Masks to codes and back. The basis lies in buffers, so that a model file carries it.

    Args:
        dim: D.
        size: m.
        whiten: divide coefficients by their standard deviation, so that all weigh the same.
        sigmoid: the basis is of logits, and a decoded mask is a sigmoid.
        path: file of the basis, read by ``prepare``; "": the cosine basis.
        keep_loaded: do not read the file, keep the basis that came with the weights.

    Raises:
        ValueError: if a mask has fewer pixels than the code coefficients.
    """

    components: Tensor
    means: Tensor
    explained_variances: Tensor

    def __init__(
        self,
        dim: int = 60,
        size: int = 28,
        *,
        whiten: bool = True,
        sigmoid: bool = True,
        path: str = "",
        keep_loaded: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < dim <= size**2:
            raise ValueError(f"MODEL.MEInst.DIM_MASK must be 1 to {size}^2 = {size**2}, got {dim}")
        self.dim, self.size = dim, size
        self.whiten, self.sigmoid = whiten, sigmoid
        self.path = "" if keep_loaded else path
        self._prepared = self._loaded = False
        basis = cosine_basis(dim, size, sigmoid=sigmoid)
        self.register_buffer("components", basis.components)
        self.register_buffer("means", basis.means)
        self.register_buffer("explained_variances", basis.variances)

    def prepare(self) -> None:
        """Take the basis from the file; call it before training, once weights are loaded.

        Only the first call does anything: at inference the file is not needed. A file that is
        gone when weights (of a run that continues) have brought the basis is no error.

        Raises:
            MaskBasisError: if the file is absent, broken or does not fit.
        """
        if self._prepared:
            return
        if self.path and self._loaded and not Path(self.path).is_file():
            logger.warning("%s is gone; the basis of the loaded weights stays", self.path)
        elif self.path:
            self.set_basis(read_basis(self.path, self.dim, self.size, sigmoid=self.sigmoid))
        self._prepared = True

    def set_basis(self, basis: MaskBasis) -> None:
        """Replace the basis by another of the same shape."""
        self.components.copy_(basis.components)
        self.means.copy_(basis.means)
        self.explained_variances.copy_(basis.variances)

    @torch.no_grad()
    def encode(self, masks: Tensor) -> Tensor:
        """Codes [P, D] float32 of masks [P, m, m] bool; with a sigmoid they are random targets.

        code = components (x - mean), over the standard deviations with ``whiten`` (eq. 1); x is
        the mask, or its ``soft_logits``.
        """
        flat = masks.flatten(1)
        pixels = soft_logits(flat) if self.sigmoid else flat.float()
        with torch.autocast(masks.device.type, enabled=False):
            codes = (pixels - self.means.float()) @ self.components.float().T
        return codes / self._deviations() if self.whiten else codes

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Masks [P, m, m] float32 of codes [P, D] before the sigmoid or the limits (eq. 2)."""
        scaled = codes.float() * self._deviations() if self.whiten else codes.float()
        with torch.autocast(codes.device.type, enabled=False):
            pixels = scaled @ self.components.float() + self.means.float()
        return pixels.unflatten(1, (self.size, self.size))

    def decode(self, codes: Tensor) -> Tensor:
        """Soft masks [P, m, m] float32 in (0, 1) of codes [P, D]."""
        pixels = self.reconstruct(codes)
        return pixels.sigmoid() if self.sigmoid else pixels.clamp(*DECODED_RANGE)

    def _deviations(self) -> Tensor:
        return self.explained_variances.float().sqrt()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        self._loaded |= f"{prefix}components" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *arguments)
