"""Encoders that see more than colours: their first convolution takes further channels.

Shape letters: O outputs of the convolution; k side of its kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from comics.modeling.faces.encoder import Encoder

RGB = 3


def stem_of(encoder: Encoder) -> nn.Conv2d:
    """The first convolution of an encoder, which sees the picture.

    Raises:
        ValueError: if there is none, or it is a grouped one.
    """
    stem = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d)), None)
    if stem is None or stem.groups != 1 or stem.in_channels < RGB:
        raise ValueError(f"{type(encoder).__name__} has no first convolution that sees colours")
    return stem


def widened_kernel(kernel: Tensor, channels: int) -> Tensor:
    """[O, 3 + n, k, k] to [O, channels + n, k, k]; n further inputs, such as residuals, stay last.

    Input i gets the kernel of colour i modulo 3, all scaled by ``3 / channels``, so that the
    response to equal inputs stays (decision).
    """
    copies = kernel[:, [i % RGB for i in range(channels)]] * (RGB / channels)
    return torch.cat([copies, kernel[:, RGB:]], dim=1)


def widen_stem(encoder: Encoder, channels: int) -> Encoder:
    """Let an encoder take ``channels`` >= 3 inputs instead of three; changes it, and returns it.

    Raises:
        ValueError: as ``stem_of``.
    """
    stem = stem_of(encoder)
    stem.weight = nn.Parameter(widened_kernel(stem.weight.detach(), channels))
    stem.in_channels += channels - RGB
    return encoder


def load_widened(encoder: Encoder, state: Mapping[str, Tensor], source: str, channels: int) -> None:
    """Load weights of the encoder as it was before ``widen_stem``.

    Raises:
        ValueError: as ``Encoder.load_weights``; nothing is loaded.
    """
    plain = copy.deepcopy(encoder)
    stem = stem_of(plain)
    stem.weight = nn.Parameter(stem.weight.detach()[:, channels - RGB :].clone())
    plain.load_weights(state, source)
    encoder.load_state_dict(widen_stem(plain, channels).state_dict())
