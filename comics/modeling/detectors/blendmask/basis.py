"""BlendMask (Chen et al. 2020, arXiv:2001.00309): its bases, a few maps of the whole image.

Shape letters: B images; C channels; K classes; M bases; H, W padded image; h, w of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.layers import ConvNorm

BASES_PER_LEVEL_CELL = 2  # the tower ends with a x2 enlargement


class BasisModule(nn.Module):
    """Image-wide bases from the pyramid (section 3.1; AdelaiDet's "ProtoNet").

    Args:
        in_channels: C of the pyramid.
        levels: names of the levels used; the first sets the resolution.
        num_bases: M.
        channels: of the inner convolutions.
        num_convs: 3x3 convolutions before the x2 enlargement; one more follows it.
        norm: "BN", "SyncBN", "GN" or "".
        num_classes: K, for the auxiliary semantic segmentation; None leaves it out.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        levels: Sequence[str] = ("p3", "p4", "p5"),
        num_bases: int = 4,
        channels: int = 128,
        num_convs: int = 3,
        norm: str = "BN",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        block: dict[str, Any] = {"kernel_size": 3, "norm": norm, "activation": True}
        self.refine = nn.ModuleList(ConvNorm(in_channels, channels, **block) for _ in levels)
        self.tower = nn.Sequential(
            *(ConvNorm(channels, channels, **block) for _ in range(num_convs))
        )
        self.last = ConvNorm(channels, channels, **block)
        self.bases = nn.Conv2d(channels, num_bases, 1)
        self.semantic: nn.Sequential | None = None
        if num_classes is not None:
            plain: dict[str, Any] = {"kernel_size": 3, "norm": "BN", "activation": True}
            self.semantic = nn.Sequential(
                ConvNorm(in_channels, channels, **plain),
                ConvNorm(channels, channels, **plain),
                nn.Conv2d(channels, num_classes + 1, 1),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, in_channels: int) -> BasisModule:
        """From ``MODEL.BASIS_MODULE``.

        Raises:
            ValueError: for a basis module other than "ProtoNet".
        """
        node = cfg.MODEL.BASIS_MODULE
        if node.NAME != "ProtoNet":
            raise ValueError(f"MODEL.BASIS_MODULE.NAME must be 'ProtoNet', got {node.NAME!r}")
        return cls(
            in_channels,
            levels=node.IN_FEATURES,
            num_bases=node.NUM_BASES,
            channels=node.CONVS_DIM,
            num_convs=node.NUM_CONVS,
            norm=node.NORM,
            num_classes=node.NUM_CLASSES if node.LOSS_ON else None,
        )

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Bases [B, M, H / 4, W / 4] and the map they are read from [B, C, H / 4, W / 4]."""
        first, *others = (
            conv(features[level]) for conv, level in zip(self.refine, self.levels, strict=True)
        )
        total = first
        for other in others:
            total = total + functional.interpolate(
                other, size=first.shape[-2:], mode="bilinear", align_corners=False
            )
        enlarged = functional.interpolate(
            self.tower(total),
            scale_factor=BASES_PER_LEVEL_CELL,
            mode="bilinear",
            align_corners=False,
        )
        last = self.last(enlarged)
        return self.bases(last), last

    def semantic_loss(self, features: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Mean cross-entropy of the semantic head.

        Args:
            features: the pyramid.
            labels: [B, h, w] int64 on the first level's grid; 0 background, class + 1 elsewhere.
        """
        assert self.semantic is not None  # where LOSS_ON
        logits = self.semantic(features[self.levels[0]])
        return functional.cross_entropy(logits.float(), labels)
