"""AdelaiDet's MEInst: its head is FCOS's with a mask tower, under another name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from comics.integrations.key_maps.fcos import TOWERS
from comics.integrations.key_maps.rules import Rule, tower_rules

HEAD = r"proposal_generator\.MEInst_head"
PREDICTORS = (
    Rule(HEAD + r"\.cls_logits\.(weight|bias)", r"head.class_logits.\1"),
    Rule(HEAD + r"\.bbox_pred\.(weight|bias)", r"head.box_distances.\1"),
    Rule(HEAD + r"\.ctrness\.(weight|bias)", r"head.quality.\1"),
    Rule(HEAD + r"\.scales\.(\d+)\.scale", r"head.scales.\1"),
    Rule(HEAD + r"\.mask_pred\.(weight|bias)", r"head.code.\1"),
    Rule(HEAD + r"\.mask_pred\.conv_l1\.conv\.(weight|bias)", r"head.code.tall_first.0.\1"),
    Rule(HEAD + r"\.mask_pred\.conv_l2\.conv\.(weight|bias)", r"head.code.tall_first.1.\1"),
    Rule(HEAD + r"\.mask_pred\.conv_r1\.conv\.(weight|bias)", r"head.code.wide_first.0.\1"),
    Rule(HEAD + r"\.mask_pred\.conv_r2\.conv\.(weight|bias)", r"head.code.wide_first.1.\1"),
    Rule(
        r"proposal_generator\.mask_encoding\.(components|explained_variances|means)",
        r"coding.\1",
    ),
)


def rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules for a checkpoint; how its towers are numbered depends on their norm."""
    towers = [
        rule
        for theirs, ours in (TOWERS | {"mask_tower": "mask_tower"}).items()
        for rule in tower_rules(state, f"proposal_generator.MEInst_head.{theirs}", f"head.{ours}")
    ]
    return [*PREDICTORS, *towers]
