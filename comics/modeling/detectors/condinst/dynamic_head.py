"""CondInst (Tian et al. 2020, arXiv:2003.05664): the mask head whose filters are predicted.

Section 3.1 (head, relative coordinates) and 3.2 (loss); details as in AdelaiDet.

Shape letters: B images; M mask features; P faces that a mask is made for; G parameters generated
for each; h, w mask features' map; s its stride; o stride of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.ops.upsampling import aligned_upsample

COORDINATES = 2  # x and y, relative to the face's location


@dataclass(frozen=True)
class MaskQueries:
    """The faces that masks are made for.

    Attributes:
        parameters: [P, G] weights and biases of each face's own head.
        image: [P] int64, position of the image in the batch.
        points: [P, 2] (x, y) pixels of the location that found the face.
        level: [P] int64, position of its pyramid level.
    """

    parameters: Tensor
    image: Tensor
    points: Tensor
    level: Tensor


class DynamicMaskHead(nn.Module):
    """A few 1x1 convolutions per face, with weights of its own.

    Input channels of the first: relative x, relative y, mask features. The generated vector holds
    all weights, layer by layer and output-major, then all biases.

    Args:
        in_channels: M.
        sizes_of_interest: pixels, per level: relative coordinates are divided by the one of the
            face's level.
        channels: of the inner layers.
        num_layers: 1 or more; the last has one output, the logit.
        stride: s, pixels.
        out_stride: o, pixels; divides ``stride``.
        relative_coordinates: False leaves the two coordinate channels out.

    Raises:
        ValueError: if ``num_layers`` is below 1 or ``out_stride`` does not divide ``stride``.
    """

    sizes_of_interest: Tensor
    iterations: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        sizes_of_interest: Sequence[int],
        channels: int = 8,
        num_layers: int = 3,
        stride: int = 8,
        out_stride: int = 4,
        relative_coordinates: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"MODEL.CONDINST.MASK_HEAD.NUM_LAYERS must be >= 1, got {num_layers}")
        if out_stride < 1 or stride % out_stride:
            raise ValueError(
                f"MODEL.CONDINST.MASK_OUT_STRIDE must divide {stride}, the stride of the mask "
                f"features, got {out_stride}"
            )
        self.stride = stride
        self.out_stride = out_stride
        self.relative_coordinates = relative_coordinates
        inputs = in_channels + (COORDINATES if relative_coordinates else 0)
        widths = [inputs, *[channels] * (num_layers - 1), 1]
        self.shapes = [(out, into) for into, out in zip(widths, widths[1:], strict=False)]
        self.num_parameters = sum(out * into + out for out, into in self.shapes)
        # Both are part of AdelaiDet's checkpoints
        self.register_buffer("sizes_of_interest", torch.tensor(sizes_of_interest))
        self.register_buffer("iterations", torch.zeros(1))  # training steps so far

    @classmethod
    def from_config(cls, cfg: CfgNode, stride: int) -> DynamicMaskHead:
        """From ``MODEL.CONDINST``; the coarsest level's size of interest is twice its bound."""
        node, bounds = cfg.MODEL.CONDINST, list(cfg.MODEL.FCOS.SIZES_OF_INTEREST)
        return cls(
            node.MASK_BRANCH.OUT_CHANNELS,
            sizes_of_interest=[*bounds, 2 * bounds[-1]],
            channels=node.MASK_HEAD.CHANNELS,
            num_layers=node.MASK_HEAD.NUM_LAYERS,
            stride=stride,
            out_stride=node.MASK_OUT_STRIDE,
            relative_coordinates=not node.MASK_HEAD.DISABLE_REL_COORDS,
        )

    def forward(self, features: Tensor, queries: MaskQueries) -> Tensor:
        """Logits [P, h * s / o, w * s / o] float32 from mask features [B, M, h, w].

        Runs in float32 also under autocast: a mask of few channels has no precision to spare.
        """
        with torch.autocast(features.device.type, enabled=False):
            layers = self.split(queries.parameters.float())
            hidden = self._first_layer(features.float(), queries, *layers[0])
            for weight, bias in layers[1:]:
                hidden = torch.baddbmm(bias[:, :, None], weight, hidden.relu())
            logits = hidden.view(len(hidden), 1, *features.shape[-2:])
            return aligned_upsample(logits, self.stride // self.out_stride).squeeze(1)

    def split(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per layer weights [P, out, in] and biases [P, out] of generated vectors [P, G]."""
        weight_sizes = [out * into for out, into in self.shapes]
        bias_sizes = [out for out, _ in self.shapes]
        parts = parameters.split(weight_sizes + bias_sizes, dim=1)
        count = len(self.shapes)
        return [
            (weight.view(-1, *shape), bias)
            for weight, bias, shape in zip(parts[:count], parts[count:], self.shapes, strict=True)
        ]

    def _first_layer(
        self, features: Tensor, queries: MaskQueries, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """[P, out, h * w] before the ReLU.

        The coordinates' share is a sum of one term a row and one a column, so no map of
        coordinates is made for each face.
        """
        maps = features.flatten(2)[queries.image]
        if not self.relative_coordinates:
            return torch.baddbmm(bias[:, :, None], weight, maps)
        height, width = features.shape[-2:]
        dx, dy = self._offsets(queries, height, width)
        across = weight[:, :, :1] * dx[:, None] + bias[:, :, None]  # [P, out, w]
        down = weight[:, :, 1:COORDINATES] * dy[:, None]  # [P, out, h]
        shift = (down[..., None] + across[:, :, None]).flatten(2)
        return torch.baddbmm(shift, weight[:, :, COORDINATES:], maps)

    def _offsets(self, queries: MaskQueries, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Location minus cell, in sizes of interest: along x [P, w], along y [P, h]."""
        size = self.sizes_of_interest[queries.level].float()[:, None]
        device = size.device
        x = torch.arange(width, device=device) * self.stride + self.stride // 2
        y = torch.arange(height, device=device) * self.stride + self.stride // 2
        return (queries.points[:, :1] - x) / size, (queries.points[:, 1:] - y) / size


def random_subset(count: int, limit: int, device: torch.device) -> Tensor:
    """Positions of at most ``limit`` of ``count``, drawn at random; all of them if negative."""
    if limit < 0 or count <= limit:
        return torch.arange(count, device=device)
    return torch.randperm(count, device=device)[:limit]


def best_per_face(score: Tensor, face: Tensor, image: Tensor, limit: int) -> Tensor:
    """Positions of the best locations of every face, sharing ``limit`` per image among its faces.

    Each face that has locations gets max(limit // such faces of the image, 1) of them at most.

    Args:
        score: [P] of each location.
        face: [P] int64, position among the faces of the whole batch.
        image: [P] int64.
        limit: locations per image.

    Returns:
        [at most P] int64, ascending.
    """
    order = score.argsort(descending=True, stable=True)
    order = order[face[order].argsort(stable=True)]  # face by face, best first
    _, index, counts = face[order].unique_consecutive(return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - first[index]
    faces_of_image = torch.bincount(image[order][first], minlength=1)
    allowed = (limit // faces_of_image.clamp(min=1)).clamp(min=1)
    return order[rank < allowed[image[order]]].sort().values
