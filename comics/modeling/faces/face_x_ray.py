"""Face X-ray: where a blended face meets the picture that it was put into.

docs/methods.md#competitors-face-x-ray. Shape letters: N crops, B of a batch; V of them whose mask
is known; C channels; S side of a crop; s side of an X-ray; h, w of the map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision
from comics.ops.contrastive import mean_or_zero
from comics.registry import FACE_METHODS
from comics.structures import FaceBatch

# The classifier starts from what an X-ray means: none is real, a twentieth of the crop is undecided
# (decision; from random values it must first find out which way to look)
START_WEIGHT, START_BIAS = 20.0, -1.0


def boundary(masks: Tensor, width: float) -> Tensor:
    """The X-ray of a mask: ``4 m (1 - m)`` of the softened mask m (eq. 2).

    Masks here are hard; they are softened by a Gaussian blur (decision: the paper's are soft from
    the start). Outside of the crop the mask goes on as at its edge, so that a region which is cut
    off has no boundary there.

    Args:
        masks: [B, S, S] bool.
        width: standard deviation of the blur, as a share of S.

    Returns:
        [B, S, S] float32 in [0, 1].
    """
    sigma = max(width * masks.shape[-1], 0.5)
    radius = max(1, round(3 * sigma))
    place = torch.arange(-radius, radius + 1, device=masks.device, dtype=torch.float32)
    line = (-place.square() / (2 * sigma**2)).exp()
    line = line / line.sum()
    padded = functional.pad(masks[:, None].float(), (radius,) * 4, mode="replicate")
    rows = functional.conv2d(padded, line.view(1, 1, 1, -1))
    soft = functional.conv2d(rows, line.view(1, 1, -1, 1))[:, 0].clamp(0, 1)
    return 4 * soft * (1 - soft)


@FACE_METHODS.register()
class FaceXRay(FaceMethod):
    """The X-ray is predicted, and the class from it alone.

    Every fake needs its forged region, given or self-blended (``INPUT.FACE.SELF_BLEND``); one
    without has no X-ray loss.

    Args:
        weight: lambda, of the X-ray loss.
        width: see ``boundary``.
        scale: s = S / scale.
        encoder: see ``FaceMethod``, as further keyword arguments.
    """

    needs_masks = True
    crop_size = 256

    def __init__(
        self, encoder: Encoder, *, weight: float, width: float, scale: int, **shared: Any
    ) -> None:
        super().__init__(encoder, **shared)
        self.weight = weight
        self.width = width
        self.side = max(1, self.crop_size // scale)
        self.predict = nn.Conv2d(encoder.num_features, 1, 1)
        self.classifier = nn.Linear(1, 1)
        nn.init.constant_(self.classifier.weight, START_WEIGHT)
        nn.init.constant_(self.classifier.bias, START_BIAS)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FaceXRay:
        """From ``MODEL.FACE.FACE_X_RAY``."""
        keys = cfg.MODEL.FACE.FACE_X_RAY
        return cls(**cls.settings(cfg), weight=keys.WEIGHT, width=keys.WIDTH, scale=keys.SCALE)

    def x_ray_logits(self, feature_map: Tensor) -> Tensor:
        """[N, s, s] of [N, C, h, w]; the X-ray is their sigmoid."""
        size = (self.side, self.side)
        logits = functional.interpolate(
            self.predict(feature_map), size=size, mode="bilinear", align_corners=False
        )
        return logits[:, 0]

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, C, h, w]: a linear function of the X-ray's mean."""
        return self._classify(self.x_ray_logits(feature_map))

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """``weight L_x_ray + L_ce`` (eq. 5)."""
        logits = self.x_ray_logits(self.feature_map(batch.images))
        assert batch.masks is not None  # needs_masks
        known = batch.valid["mask"]
        with full_precision(logits):
            x_rays = boundary(batch.masks[known], self.width)
            target = functional.adaptive_avg_pool2d(x_rays[:, None], (self.side, self.side))[:, 0]
            entropy = functional.binary_cross_entropy_with_logits(
                logits[known].float(), target, reduction="none"
            )
            loss = mean_or_zero(entropy)
        return FaceTrainingOutput(
            {
                "loss_x_ray": self.weight * loss,
                "loss_ce": binary_cross_entropy(self._classify(logits), batch.labels),
            }
        )

    def _classify(self, x_ray_logits: Tensor) -> Tensor:
        mean = x_ray_logits.sigmoid().mean(dim=(1, 2))
        return self.classifier(mean[:, None]).flatten()
