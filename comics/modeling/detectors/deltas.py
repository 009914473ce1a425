"""Boxes as differences from anchors or proposals (Girshick et al. 2014, arXiv:1311.2524, C)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, encode_boxes


class DeltaCoder(BoxCoder):
    """torchvision's coder, which sends no constants to the device.

    torchvision makes them there at each call, and the host waits for every one.
    """

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Deltas [N, 4] that lead from proposals [N, 4] to reference boxes [N, 4]."""
        return encode_boxes(reference_boxes, proposals, self.weights)

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes [N, 4 K] that deltas [N, 4 K] lead to from boxes [N, 4]."""
        boxes = boxes.to(rel_codes.dtype)
        dx, dy, dw, dh = rel_codes.unflatten(1, (-1, 4)).unbind(dim=2)
        wx, wy, ww, wh = self.weights
        size = boxes[:, 2:] - boxes[:, :2]
        centre = boxes[:, :2] + 0.5 * size
        half_width = 0.5 * (torch.exp((dw / ww).clamp(max=self.bbox_xform_clip)) * size[:, :1])
        half_height = 0.5 * (torch.exp((dh / wh).clamp(max=self.bbox_xform_clip)) * size[:, 1:])
        x = dx / wx * size[:, :1] + centre[:, :1]
        y = dy / wy * size[:, 1:] + centre[:, 1:]
        sides = (x - half_width, y - half_height, x + half_width, y + half_height)
        return torch.stack(sides, dim=2).flatten(1)
