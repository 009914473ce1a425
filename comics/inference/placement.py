"""Faces of a picture of one size in the coordinates of another.

Shape letters: H, W height and width of the picture as given; h, w as the model sees it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from comics.data.transforms import MASK_THRESHOLD, resize_image
from comics.ops.boxes import clip_boxes, scale_boxes
from comics.structures import Faces


def to_original(faces: Faces, size: tuple[int, int]) -> Faces:
    """Faces in an image of (h, w), expressed in the one of (H, W) that it was resized from.

    Boxes are clipped to the image. Every face is kept, also one whose mask is empty: it was found.
    """
    (height, width), (old_height, old_width) = size, faces.image_size
    boxes = scale_boxes(faces.boxes, width / old_width, height / old_height)
    masks = faces.masks
    if masks is not None and (old_height, old_width) != (height, width):
        masks = torch.zeros((len(faces), height, width), dtype=torch.bool)
        for row, mask in zip(masks, faces.masks, strict=True):
            soft = resize_image(mask.numpy().astype(np.uint8) * 255, size)
            row.copy_(torch.from_numpy(soft > MASK_THRESHOLD))
    return replace(faces, boxes=clip_boxes(boxes, size), image_size=(height, width), masks=masks)
