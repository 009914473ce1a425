"""Noise residuals of the Spatial Rich Model (SRM): an image minus its prediction.

Three of the high-pass filters of Fridrich and Kodovsky (2012), as COMICS uses them
(docs/methods.md#comics-fea). Shape letters: H, W height and width of an image in pixels; C channels
and h, w cells of a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from comics.ops.recording import is_recorded
from comics.ops.transfers import on_device

# Numerators and divisor of each 5x5 filter
SRM_FILTERS = (
    (  # KB: second order, 3x3
        (
            (0, 0, 0, 0, 0),
            (0, -1, 2, -1, 0),
            (0, 2, -4, 2, 0),
            (0, -1, 2, -1, 0),
            (0, 0, 0, 0, 0),
        ),
        4,
    ),
    (  # KV: 5x5
        (
            (-1, 2, -2, 2, -1),
            (2, -6, 8, -6, 2),
            (-2, 8, -12, 8, -2),
            (2, -6, 8, -6, 2),
            (-1, 2, -2, 2, -1),
        ),
        12,
    ),
    (  # second order, horizontal
        (
            (0, 0, 0, 0, 0),
            (0, 0, 0, 0, 0),
            (0, 1, -2, 1, 0),
            (0, 0, 0, 0, 0),
            (0, 0, 0, 0, 0),
        ),
        2,
    ),
)
SRM_RADIUS = 2  # pixels that a filter reaches from its centre
RGB_CHANNELS = 3
SMALLEST_MAGNITUDE = 1e-6  # of features: a map of zeros has no residual


def srm_residual(image: Tensor, *, truncate: float) -> Tensor:
    """Residual maps [..., 3, H, W] float32 of RGB [..., 3, H, W], one image or a batch, 0-255.

    Map i is filter i applied to each of the three colours and summed over them: the layout of
    the usual SRM layer (docs/papers.md#srm-layer; reconstructed). Edges are
    reflected, since zero padding would draw a false edge around the image (decision). Values are
    cut to +-``truncate``.

    Computed in float32 whatever the autocast, with whole-number filters divided afterwards:
    every sum of whole-number pixels is exact, so a flat image gives exactly 0.

    Raises:
        ValueError: if ``image`` is neither [3, H, W] nor [B, 3, H, W], or has no pixel.
    """
    if image.ndim not in (3, 4) or image.shape[-3] != RGB_CHANNELS or 0 in image.shape:
        raise ValueError(f"an RGB image must be [3, H, W], got {tuple(image.shape)}")
    with torch.autocast(device_type=image.device.type, enabled=False):
        brightness = _reflect_pad(image.float().sum(dim=-3, keepdim=True), SRM_RADIUS)
        rows, divisors = _filters(brightness.device)
        residual = functional.conv2d(brightness, rows[:, None]) / divisors
    return residual.clamp(-truncate, truncate)


def relative_residual(feature: Tensor) -> Tensor:
    """How much of a feature map is high frequency: [B, 3, h, w] float32, >= 0, of [B, C, h, w].

    Filter i runs depthwise, on each channel alone; map i is the mean magnitude of the residuals
    over channels, divided by the mean magnitude of the features in the filter's 5 x 5 window
    (decision, docs/methods.md#comics-fea: signed residuals of many channels would cancel, and
    features, unlike pixels, have no scale of their own that a threshold could be set on). A factor
    on the features changes nothing. Edges are reflected; computed in float32 whatever the autocast.
    """
    channels = int(feature.shape[1])  # fixed, also where an exported graph leaves sizes open
    side = 2 * SRM_RADIUS + 1
    with torch.autocast(device_type=feature.device.type, enabled=False):
        padded = _reflect_pad(feature.float(), SRM_RADIUS)
        rows, divisors = _filters(padded.device)
        depthwise = (rows / divisors)[:, None].repeat(channels, 1, 1, 1)
        residual = functional.conv2d(padded, depthwise, groups=channels).abs()
        magnitude = functional.avg_pool2d(padded.abs().mean(dim=1, keepdim=True), side, stride=1)
        mean = residual.unflatten(1, (channels, len(SRM_FILTERS))).mean(dim=1)
    return mean / magnitude.clamp(min=SMALLEST_MAGNITUDE)


def _filters(device: torch.device) -> tuple[Tensor, Tensor]:
    """Numerators [3, 5, 5] and divisors [3, 1, 1] float32."""
    rows = on_device([rows for rows, _ in SRM_FILTERS], device, torch.float32)
    divisors = on_device([divisor for _, divisor in SRM_FILTERS], device, torch.float32)
    return rows, divisors[:, None, None]


def _reflect_pad(image: Tensor, padding: int) -> Tensor:
    """Reflect the edges of [..., C, H, W]; unlike ``functional.pad``'s, sides may be 1 or 2 px.

    An exported graph, which takes images of any size, gathers; otherwise padding is faster.
    """
    height, width = image.shape[-2:]
    if not is_recorded() and min(height, width) > padding:
        return functional.pad(image, (padding,) * 4, mode="reflect")
    rows = _reflected_positions(height, padding, image.device)
    columns = _reflected_positions(width, padding, image.device)
    return image[..., rows, :][..., columns]


def _reflected_positions(length: int, padding: int, device: torch.device) -> Tensor:
    """Source positions [length + 2 * padding], bouncing between the first and the last one."""
    positions = torch.arange(-padding, length + padding, device=device)
    last = positions[-1] - padding  # as a tensor, which an exported graph can divide by
    steps = positions % (2 * last).clamp(min=1)  # 1: where there is one position only
    return torch.minimum(steps, 2 * last - steps)
