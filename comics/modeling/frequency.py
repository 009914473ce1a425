"""Frequency enhanced attention (FEA): where high frequencies look suspicious, features count more.

Shape letters: B images; C channels; H, W padded height and width; h, w of a pyramid level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.detectors.base import pad_to
from comics.ops.srm import SRM_FILTERS, srm_residual

SPATIAL_ATTENTION_KERNEL = 7  # CBAM (Woo et al. 2018)


class SpatialAttention(nn.Module):
    """CBAM's spatial attention: [B, C, H, W] to [B, 1, H, W] in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        padding = SPATIAL_ATTENTION_KERNEL // 2
        self.conv = nn.Conv2d(2, 1, SPATIAL_ATTENTION_KERNEL, padding=padding, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Mean and maximum over channels, a convolution, a sigmoid."""
        pooled = torch.cat(
            (features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)), dim=1
        )
        return self.conv(pooled).sigmoid()


class FrequencyAttention(nn.Module):
    """Weights every level of a feature pyramid by an attention map of the image's SRM residual.

    docs/methods.md#comics-fea (section VI and Fig. 7 of the paper).

    Args:
        channels: widths of the first convolution (stride 2) and of the second (stride 1).
        truncate: SRM residuals are cut to +- this, on the 0-255 scale.
        residual: ``A * F + F`` instead of the paper's ``A * F``.
    """

    def __init__(
        self, *, channels: Sequence[int] = (32, 64), truncate: float = 3.0, residual: bool = True
    ) -> None:
        super().__init__()
        first, second = channels
        self.truncate = truncate
        self.residual = residual
        self.convs = nn.Sequential(
            nn.Conv2d(len(SRM_FILTERS), first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
        )
        self.spatial_attention = SpatialAttention()
        for module in self.convs:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FrequencyAttention:
        """From ``MODEL.COMICS.FEA``."""
        fea = cfg.MODEL.COMICS.FEA
        return cls(channels=fea.CHANNELS, truncate=fea.TRUNCATE, residual=fea.RESIDUAL)

    def residuals(self, images: Sequence[Tensor] | Tensor, padded_size: tuple[int, int]) -> Tensor:
        """SRM residuals [B, 3, H, W] of images, padded with 0.

        They are taken of each image before padding, with its own reflected edges, and only they
        are padded: the end of an image in a padded batch is no edge to the filters.

        Args:
            images: RGB, 0-255, [3, H_i, W_i] each, uint8 or float; or [B, 3, H', W'] of one size.
            padded_size: (H, W) of the batch.
        """
        if isinstance(images, Tensor):
            residuals = srm_residual(images, truncate=self.truncate)
            rows, columns = (
                padded - own for padded, own in zip(padded_size, images.shape[-2:], strict=True)
            )
            return functional.pad(residuals, (0, columns, 0, rows))
        return pad_to([srm_residual(i, truncate=self.truncate) for i in images], padded_size)

    def attention(self, images: Sequence[Tensor] | Tensor, padded_size: tuple[int, int]) -> Tensor:
        """Attention maps [B, 1, H / 2, W / 2] in (0, 1); arguments as of ``residuals``."""
        return self.attention_of(self.residuals(images, padded_size))

    def attention_of(self, residuals: Tensor) -> Tensor:
        """Attention maps [B, 1, H / 2, W / 2] in (0, 1) of ``residuals`` [B, 3, H, W]."""
        return self.spatial_attention(self.convs(residuals))

    def forward(
        self,
        features: dict[str, Tensor],
        images: Sequence[Tensor] | Tensor,
        padded_size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """The pyramid (level name -> [B, C, h, w]) weighted by ``attention``, same shapes."""
        return self.weigh(features, self.attention(images, padded_size))

    def weigh(self, features: dict[str, Tensor], attention: Tensor) -> dict[str, Tensor]:
        """The pyramid (level name -> [B, C, h, w]) weighted by maps [B, 1, H / 2, W / 2].

        The map is resized bilinearly with antialiasing (decision): without, a cell of p7 would
        read 4 of the 4096 positions that it covers.
        """
        attention = attention.float()
        return {level: self._enhance(attention, feature) for level, feature in features.items()}

    def _enhance(self, attention: Tensor, feature: Tensor) -> Tensor:
        weight = functional.interpolate(
            attention, size=feature.shape[-2:], mode="bilinear", antialias=True
        ).to(feature.dtype)
        return feature * (weight + 1) if self.residual else feature * weight
