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
from comics.ops.srm import SRM_FILTERS, relative_residual, srm_residual

SPATIAL_ATTENTION_KERNEL = 7  # CBAM (Woo et al. 2018)
# What residuals are taken of (MODEL.COMICS.FEA.SOURCES)
IMAGE, FEATURES = "image", "features"
SOURCE_CHOICES = ((IMAGE,), (IMAGE, FEATURES))


class SpatialAttention(nn.Module):
    """CBAM's spatial attention: [B, C, H, W] to [B, 1, H, W] in (0, 1).

    Args:
        more_maps: maps that join the mean and the maximum over channels.
    """

    def __init__(self, more_maps: int = 0) -> None:
        super().__init__()
        padding = SPATIAL_ATTENTION_KERNEL // 2
        self.conv = nn.Conv2d(
            2 + more_maps, 1, SPATIAL_ATTENTION_KERNEL, padding=padding, bias=False
        )

    def pool(self, features: Tensor) -> Tensor:
        """Mean and maximum over channels: [B, 2, H, W]."""
        return torch.cat(
            (features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)), dim=1
        )

    def of_pooled(self, pooled: Tensor) -> Tensor:
        """A convolution and a sigmoid: [B, 2 + more maps, H, W] to [B, 1, H, W]."""
        return self.conv(pooled).sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        """``of_pooled`` of ``pool``, without more maps."""
        return self.of_pooled(self.pool(features))


class FrequencyAttention(nn.Module):
    """Weights every level of a feature pyramid by an attention map of SRM residuals.

    docs/methods.md#comics-fea (section VI and Fig. 7 of the paper).

    Args:
        channels: widths of the first convolution (stride 2) and of the second (stride 1).
        truncate: SRM residuals of the image are cut to +- this, on the 0-255 scale.
        residual: ``A * F + F`` instead of the paper's ``A * F``.
        sources: of the residuals: ("image",) gives one map for all levels; ("image", "features")
            a map per level, which also sees the high frequencies of the level's own features.

    Raises:
        ValueError: for other sources.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64),
        truncate: float = 3.0,
        residual: bool = False,
        sources: Sequence[str] = (IMAGE,),
    ) -> None:
        super().__init__()
        if tuple(sources) not in SOURCE_CHOICES:
            choices = " or ".join(str(list(choice)) for choice in SOURCE_CHOICES)
            raise ValueError(f"MODEL.COMICS.FEA.SOURCES must be {choices}, got {list(sources)}")
        first, second = channels
        self.truncate = truncate
        self.residual = residual
        self.reads_features = FEATURES in sources
        self.convs = nn.Sequential(
            nn.Conv2d(len(SRM_FILTERS), first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
        )
        self.spatial_attention = SpatialAttention(len(SRM_FILTERS) if self.reads_features else 0)
        for module in self.convs:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FrequencyAttention:
        """From ``MODEL.COMICS.FEA``."""
        fea = cfg.MODEL.COMICS.FEA
        return cls(
            channels=fea.CHANNELS,
            truncate=fea.TRUNCATE,
            residual=fea.RESIDUAL,
            sources=fea.SOURCES,
        )

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

    def forward(
        self,
        features: dict[str, Tensor],
        images: Sequence[Tensor] | Tensor,
        padded_size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """The pyramid (level name -> [B, C, h, w]) weighted by attention, same shapes.

        ``images`` and ``padded_size`` as of ``residuals``.
        """
        return self.weigh(features, self.residuals(images, padded_size))

    def weigh(self, features: dict[str, Tensor], residuals: Tensor) -> dict[str, Tensor]:
        """The pyramid (level name -> [B, C, h, w]) weighted by ``attention``."""
        maps = self.attention(features, residuals)
        return {level: self._weighted(feature, maps[level]) for level, feature in features.items()}

    def attention(self, features: dict[str, Tensor], residuals: Tensor) -> dict[str, Tensor]:
        """Attention maps in (0, 1) of each level: name -> [B, 1, h, w] float32.

        Of the image alone: one map of half its size, resized to every level. With the features:
        what the spatial attention pools of the image is resized to the level, joins the level's
        own residuals, and a map is made there (decision: the image's residuals themselves, resized
        before the convolutions, would average to nothing).

        Args:
            features: level name -> [B, C, h, w].
            residuals: [B, 3, H, W] of the images.
        """
        seen = self.spatial_attention.pool(self.convs(residuals))
        if not self.reads_features:
            shared = self.spatial_attention.of_pooled(seen).float()
            return {level: _resized(shared, feature) for level, feature in features.items()}
        maps = {}
        for level, feature in features.items():
            joined = torch.cat((_resized(seen.float(), feature), relative_residual(feature)), dim=1)
            maps[level] = self.spatial_attention.of_pooled(joined).float()
        return maps

    def _weighted(self, feature: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(feature.dtype)
        return feature * (weight + 1) if self.residual else feature * weight


def _resized(maps: Tensor, feature: Tensor) -> Tensor:
    """Maps [B, N, H, W] at the size of a feature, bilinear with antialiasing (decision).

    Without, a cell of p7 would read 4 of the 4096 positions of a map of half the image's size.
    """
    return functional.interpolate(maps, size=feature.shape[-2:], mode="bilinear", antialias=True)
