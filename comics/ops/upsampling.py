"""Enlarging maps so that their cells stay at the pixels they stand for.

A cell (i, j) of a map with stride s stands for pixel (s * i + s // 2, s * j + s // 2), the
convention of FCOS's locations; bilinear interpolation that puts a cell at the centre of its s x s
block of pixels would shift a map by half a cell each time.

Shape letters: N maps; C channels; h, w of a map; f integer factor.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def aligned_upsample(maps: Tensor, factor: int) -> Tensor:
    """Enlarge maps bilinearly by an integer factor.

    Output o of a row or column reads the input at max(o - f // 2, 0) / f, linearly between
    neighbours; beyond the last cell its value goes on. As CondInst's upsampling in AdelaiDet.

    Args:
        maps: [N, C, h, w] float.
        factor: f, 1 or more; 1 returns ``maps`` itself.

    Returns:
        [N, C, f * h, f * w].

    Raises:
        ValueError: if ``factor`` is below 1.
    """
    if factor < 1:
        raise ValueError(f"maps are enlarged by an integer of 1 or more, got {factor}")
    if factor == 1:
        return maps
    height, width = maps.shape[-2] * factor, maps.shape[-1] * factor
    # One more row and column make h + 1 corner-aligned cells f apart; then shift by f // 2
    longer = functional.pad(maps, (0, 1, 0, 1), mode="replicate")
    enlarged = functional.interpolate(
        longer, size=(height + 1, width + 1), mode="bilinear", align_corners=True
    )
    shift = factor // 2
    shifted = functional.pad(enlarged, (shift, 0, shift, 0), mode="replicate")
    return shifted[..., :height, :width]
