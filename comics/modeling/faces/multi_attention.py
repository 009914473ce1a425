"""Multi-attentional detection (MAT): docs/methods.md#competitors-multi-attention.

Several attention maps, kept apart from each other, pool a texture map; small traces in different
places of a face each have their own. Shape letters: N crops, B of a batch; M attentions; C any
channels; D, E channels of the texture and of the last map; S side of a crop; h, w of the maps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.bank import gather_rows
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.layers import binary_cross_entropy, full_precision
from comics.ops.contrastive import zero_of
from comics.ops.similarity import unit
from comics.registry import FACE_METHODS
from comics.structures import FAKE, FaceBatch

BLUR_KERNEL, BLUR_SIGMA = 11, 5.0  # of what attention hides, pixels (paper, 3.4)
MEAN_WINDOW = 2  # cells that the mean is taken of, which texture is what differs from


def attention_pool(maps: Tensor, features: Tensor) -> Tensor:
    """Bilinear attention pooling: ``norm(sum over cells of A_k F)`` each (3.2).

    Args:
        maps: [N, M, h, w], >= 0.
        features: [N, C, h, w].

    Returns:
        [N, M, C] vectors of length 1, or 0 where nothing is attended to.
    """
    return unit(torch.einsum("nmhw,nchw->nmc", maps, features))


def independence_loss(
    vectors: Tensor,
    centres: Tensor,
    moved: Tensor,
    margins: Tensor,
    apart: float,
) -> Tensor:
    """Regional independence: vectors near their centre, centres away from each other (eq. 2).

    ``mean over i, k of max(|v_ik - c_k|^2 - margin_i, 0)`` and ``mean over k != l of
    max(apart - |c_k - c_l|^2, 0)``; means in the place of the paper's sums (decision).

    Args:
        vectors: [B, M, C].
        centres: [M, C], without gradient.
        moved: [M, C], the centres after this batch; the second term's gradient passes through it.
        margins: [B], by class.
        apart: margin between centres, in squared distance.
    """
    if len(vectors) == 0:
        return zero_of(vectors)
    within = (vectors - centres).square().sum(dim=2) - margins[:, None]
    between = (moved[:, None] - moved[None]).square().sum(dim=2)
    others = ~torch.eye(len(moved), dtype=torch.bool, device=moved.device)
    pushed = (apart - between[others]).clamp(min=0)
    return within.clamp(min=0).mean() + (pushed.mean() if len(pushed) else zero_of(pushed))


def hide_attended(images: Tensor, maps: Tensor, chosen: Tensor) -> Tensor:
    """Blur each picture where one of its attentions is: ``x (1 - a) + blurred a`` (3.4).

    Args:
        images: [B, 3, S, S] float.
        maps: [B, M, h, w]; each is divided by its maximum.
        chosen: [B] int64, which attention.
    """
    attended = maps[torch.arange(len(maps), device=maps.device), chosen][:, None].float()
    attended = attended / attended.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    weight = functional.interpolate(
        attended, size=images.shape[-2:], mode="bilinear", align_corners=False
    )
    return images * (1 - weight) + _blurred(images) * weight


def _blurred(images: Tensor) -> Tensor:
    """Gaussian blur of [B, 3, S, S] with repeated edges."""
    radius = BLUR_KERNEL // 2
    place = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    line = (-place.square() / (2 * BLUR_SIGMA**2)).exp()
    line = line / line.sum()
    padded = functional.pad(images, (radius,) * 4, mode="replicate").flatten(0, 1)[:, None]
    rows = functional.conv2d(padded, line.view(1, 1, 1, -1))
    return functional.conv2d(rows, line.view(1, 1, -1, 1)).view_as(images)


class RegionCentres(nn.Module):
    """A moving centre per attention."""

    vectors: Tensor

    def __init__(self, attentions: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(attentions, dim))

    def moved(self, vectors: Tensor, rate: float) -> Tensor:
        """[M, C]: ``c - rate (c - mean of the batch)``, with the batch's gradient."""
        if len(vectors) == 0:
            return self.vectors.clone()
        return self.vectors + rate * (vectors.mean(dim=0) - self.vectors)


@FACE_METHODS.register()
class MultiAttention(FaceMethod):
    """Cross-entropy on texture vectors of several attentions, which must attend to other places.

    ``feature_map`` holds, side by side, the texture map, the encoder's last map and the attentions,
    at the attentions' size.

    Args:
        attentions: M.
        texture_stride, attention_stride: the stages whose strides are nearest to these are taken.
        texture_dim: D, channels of the enhanced texture.
        weight: of the independence loss.
        margins: within a class, of reals and of fakes, in squared distance.
        apart: between centres.
        rate, rate_decay: of the centres' moves; factor on it per epoch.
        hide: also train on pictures that are blurred where one attention is.
        encoder: see ``FaceMethod``, as further keyword arguments.
    """

    crop_size = 380

    def __init__(
        self,
        encoder: Encoder,
        *,
        attentions: int,
        texture_stride: int,
        attention_stride: int,
        texture_dim: int,
        weight: float,
        margins: tuple[float, float],
        apart: float,
        rate: float,
        rate_decay: float,
        hide: bool,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        self.attentions = attentions
        self.texture_dim = texture_dim
        self.weight = weight
        self.margins = tuple(margins)
        self.apart = apart
        self.rate = rate
        self.rate_decay = rate_decay
        self.hide = hide
        stages = encoder.stage_shapes(self.crop_size)
        self._texture, self._attention = (
            _nearest_stage(stages, self.crop_size, s) for s in (texture_stride, attention_stride)
        )
        self.attend = nn.Sequential(
            nn.Conv2d(stages[self._attention][0], attentions, 1, bias=False),
            nn.BatchNorm2d(attentions),
            nn.ReLU(),
        )
        self.enhance = nn.Sequential(
            nn.Conv2d(stages[self._texture][0], texture_dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(texture_dim),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(attentions * texture_dim + encoder.num_features, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MultiAttention:
        """From ``MODEL.FACE.MULTI_ATTENTION``."""
        keys = cfg.MODEL.FACE.MULTI_ATTENTION
        return cls(
            **cls.settings(cfg),
            attentions=keys.ATTENTIONS,
            texture_stride=keys.TEXTURE_STRIDE,
            attention_stride=keys.ATTENTION_STRIDE,
            texture_dim=keys.TEXTURE_DIM,
            weight=keys.WEIGHT,
            margins=tuple(keys.MARGINS),
            apart=keys.APART,
            rate=keys.RATE,
            rate_decay=keys.RATE_DECAY,
            hide=keys.HIDE,
        )

    def feature_map(self, crops: Tensor) -> Tensor:
        """[N, D + E + M, h, w] of crops on the 0-255 scale."""
        stages = self.encoder.forward_stages(self.preprocess(crops))
        maps = self.attend(stages[self._attention])
        shallow = stages[self._texture]
        mean = functional.avg_pool2d(shallow, MEAN_WINDOW, ceil_mode=True)
        texture = self.enhance(shallow - _resized(mean, shallow.shape[-2:]))
        size = maps.shape[-2:]
        texture = functional.adaptive_avg_pool2d(texture, size)
        return torch.cat([texture, _resized(stages[-1], size), maps], dim=1)

    def parts(self, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Texture [N, D, h, w], last map [N, E, h, w] and attentions [N, M, h, w] of it."""
        sizes = [self.texture_dim, self.encoder.num_features, self.attentions]
        texture, last, maps = feature_map.split(sizes, dim=1)
        return texture, last, maps

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of [N, D + E + M, h, w]."""
        return self._classify(feature_map)[0]

    def _classify(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N], and the texture vectors [N, M, D]."""
        texture, last, maps = self.parts(feature_map)
        vectors = attention_pool(maps.float(), texture.float())
        whole = attention_pool(maps.float().sum(dim=1, keepdim=True), last.float())
        joined = torch.cat([vectors.flatten(1), whole.flatten(1)], dim=1)
        return self.classifier(joined).flatten(), vectors

    def training_modules(self) -> dict[str, nn.Module]:
        """The centres."""
        return {"centres": RegionCentres(self.attentions, self.texture_dim)}

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """``L_ce + weight L_independence``, and cross-entropy of the pictures with hidden parts."""
        feature_map = self.feature_map(batch.images)
        logits, vectors = self._classify(feature_map)
        with full_precision(feature_map):
            independence = self._independence(vectors, batch.labels)
        losses = {
            "loss_ce": binary_cross_entropy(logits, batch.labels),
            "loss_independence": self.weight * independence,
        }
        if self.hide:
            maps = self.parts(feature_map)[2].detach()
            chosen = torch.randint(self.attentions, (len(batch),), device=maps.device)
            hidden = hide_attended(batch.images.float(), maps, chosen)
            again = self.map_logits(self.feature_map(hidden))
            losses["loss_hidden"] = binary_cross_entropy(again, batch.labels)
        return FaceTrainingOutput(losses)

    def _independence(self, vectors: Tensor, labels: Tensor) -> Tensor:
        centres = self.training_part("centres")
        rate = self.rate * self.rate_decay**self.epoch
        old = centres.vectors.clone()  # a loss computed from it must survive the move
        margins = torch.where(labels == FAKE, self.margins[1], self.margins[0])
        moved = centres.moved(vectors, rate)
        loss = independence_loss(vectors, old, moved, margins.to(vectors), self.apart)
        with torch.no_grad():
            centres.vectors.copy_(centres.moved(*gather_rows(vectors.detach()), rate))
        return loss


def _nearest_stage(stages: list[tuple[int, int, int]], size: int, stride: int) -> int:
    """Position of the stage whose stride is nearest, the deepest of equal ones."""
    found = [abs(size / height - stride) for _, height, _ in stages]
    return max(i for i, distance in enumerate(found) if distance == min(found))


def _resized(features: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)
