"""Detectron2's Mask R-CNN: proposal network, box head and mask head."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from comics.integrations.key_maps.rules import Rule

PREDICTORS = (
    Rule(
        r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"proposal_network.head.conv.0.0.\1"
    ),
    Rule(
        r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.(weight|bias)",
        r"proposal_network.head.conv.\1.0.\2",
    ),
    Rule(
        r"proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)",
        r"proposal_network.head.cls_logits.\1",
    ),
    Rule(
        r"proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)",
        r"proposal_network.head.bbox_pred.\1",
    ),
    Rule(r"roi_heads\.box_predictor\.cls_score\.(weight|bias)", r"box_head.class_logits.\1"),
    Rule(r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)", r"box_head.box_deltas.\1"),
    Rule(r"roi_heads\.mask_head\.deconv\.(weight|bias)", r"mask_head.predictor.conv5_mask.\1"),
    Rule(
        r"roi_heads\.mask_head\.predictor\.(weight|bias)",
        r"mask_head.predictor.mask_fcn_logits.\1",
    ),
)
BOX_CONV = r"roi_heads\.box_head\.conv{}"
BOX_LINEAR = r"roi_heads\.box_head\.fc{}"
MASK_CONV = r"roi_heads\.mask_head\.mask_fcn{}"


def rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules for a checkpoint; how the heads are numbered depends on their depth."""
    convs = _count(state, BOX_CONV)
    found = [*PREDICTORS, *_conv_rules(BOX_CONV, "box_head.layers", convs)]
    found += _conv_rules(MASK_CONV, "mask_head.convs", _count(state, MASK_CONV))
    for number in range(_count(state, BOX_LINEAR)):
        # after the convolutions comes the flattening, after each linear layer a ReLU
        position = convs + 1 + 2 * number
        found.append(
            Rule(
                BOX_LINEAR.format(number + 1) + r"\.(weight|bias)",
                rf"box_head.layers.{position}.\1",
            )
        )
    return found


def _conv_rules(theirs: str, ours: str, count: int) -> list[Rule]:
    """Rules for convolutions that Detectron2 counts from 1."""
    found = []
    for number in range(count):
        name = theirs.format(number + 1)
        found.append(Rule(name + r"\.norm\.(.+)", rf"{ours}.{number}.1.\1"))
        found.append(Rule(name + r"\.(weight|bias)", rf"{ours}.{number}.0.\1"))
    return found


def _count(state: Mapping[str, Tensor], layer: str) -> int:
    """How many layers of that kind the checkpoint has."""
    pattern = re.compile(layer.format(r"\d+") + r"\.weight")
    return sum(pattern.fullmatch(name) is not None for name in state)
