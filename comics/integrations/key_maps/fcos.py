"""AdelaiDet's FCOS head."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from comics.integrations.key_maps.rules import Rule, tower_rules

PREDICTORS = (
    Rule(r"proposal_generator\.fcos_head\.cls_logits\.(weight|bias)", r"head.class_logits.\1"),
    Rule(r"proposal_generator\.fcos_head\.bbox_pred\.(weight|bias)", r"head.box_distances.\1"),
    Rule(r"proposal_generator\.fcos_head\.ctrness\.(weight|bias)", r"head.quality.\1"),
    Rule(r"proposal_generator\.fcos_head\.scales\.(\d+)\.scale", r"head.scales.\1"),
)

# AdelaiDet's name of each tower, and ours
TOWERS = {"share_tower": "share_tower", "cls_tower": "class_tower", "bbox_tower": "box_tower"}


def rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules for a checkpoint; how its towers are numbered depends on their norm."""
    towers = [
        rule
        for theirs, ours in TOWERS.items()
        for rule in tower_rules(state, f"proposal_generator.fcos_head.{theirs}", f"head.{ours}")
    ]
    return [*PREDICTORS, *towers]
