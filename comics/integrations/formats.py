"""Whose weights these are, told by the names in them."""

from __future__ import annotations

import re
from collections.abc import Iterable

COMICS = "comics"  # this project
ADELAIDET = "adelaidet"  # a one-stage detector of AdelaiDet
DETECTRON2 = "detectron2"  # a two-stage detector of Detectron2
DETECTRON2_BACKBONE = "detectron2-backbone"  # a ResNet alone, in Detectron2's names
CAFFE2_BACKBONE = "caffe2-backbone"  # a ResNet alone, in Caffe2's names (MSRA's)
TORCHVISION_RESNET = "torchvision-resnet"  # a classifier; timm's ResNets have the same names
EFFICIENTNET_PYTORCH = "efficientnet-pytorch"  # an EfficientNet in that package's names
OTHER = "other"  # none of these: perhaps another model of timm, whose names follow no one scheme

# In this order; a format is the first whose pattern any name begins with
_BEGINNINGS = (
    (COMICS, r"(detector\.)*backbone\.(lateral|output|top)\.|(face\.)?encoder\.(model|layers)\."),
    (COMICS, r"(detector\.)*backbone\.bottom_up\.(stem\.conv\.|model\.)"),
    (DETECTRON2, r"proposal_generator\.rpn_head\.|roi_heads\."),
    (ADELAIDET, r"backbone\.bottom_up\.|backbone\.fpn_|proposal_generator\.|ins_head\."),
    (CAFFE2_BACKBONE, r"conv1_w$|res\d_\d+_branch"),
    (DETECTRON2_BACKBONE, r"stem\.conv1\.(weight|norm)|res\d\.\d+\.(conv\d|shortcut)\."),
    (TORCHVISION_RESNET, r"layer1\.0\.conv1\."),
    (EFFICIENTNET_PYTORCH, r"_conv_stem\.|_blocks\.\d+\._"),
)


def recognise(state: Iterable[str]) -> str:
    """The format of a checkpoint, by the names of its tensors (a state dict, or its keys).

    Returns:
        One of the constants above; ``OTHER`` where no name is typical of a format.
    """
    names = list(state)
    for found, beginning in _BEGINNINGS:
        pattern = re.compile(beginning)
        if any(pattern.match(name) for name in names):
            return found
    return OTHER
