"""Colour spaces. Shape letters: h, w of an image."""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB to CIE XYZ, and the D65 white point, both of the 2 degree observer (IEC 61966-2-1)
XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)
LINEAR_BELOW = 0.04045  # sRGB's transfer function is linear up to here
CUBE_ROOT_ABOVE = 0.008856  # CIE: (6 / 29) ** 3


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB to CIE L*a*b* (CIE 1976).

    Args:
        images: [..., 3, h, w] float, 0-255.

    Returns:
        [..., 3, h, w] float32: L in 0-100, a and b about -128 to 127.
    """
    rgb = images.float() / 255
    linear = torch.where(rgb <= LINEAR_BELOW, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = linear.new_tensor(XYZ_FROM_RGB) / linear.new_tensor(WHITE)[:, None]
    with torch.autocast(images.device.type, enabled=False):
        xyz = torch.einsum("oc,...chw->...ohw", matrix, linear)
    curved = torch.where(xyz > CUBE_ROOT_ABOVE, xyz.clamp(min=0) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = curved.unbind(-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-3)
