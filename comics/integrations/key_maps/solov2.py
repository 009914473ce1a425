"""AdelaiDet's SOLOv2."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from comics.integrations.key_maps.rules import Rule, tower_rules

PREDICTORS = (
    Rule(r"ins_head\.cate_pred\.(weight|bias)", r"instance_head.class_logits.\1"),
    Rule(r"ins_head\.kernel_pred\.(weight|bias)", r"instance_head.kernels.\1"),
    Rule(
        r"mask_head\.convs_all_levels\.(\d+)\.conv(\d+)\.0\.(weight|bias)",
        r"mask_head.levels.\1.\2.conv.\3",
    ),
    Rule(
        r"mask_head\.convs_all_levels\.(\d+)\.conv(\d+)\.1\.(weight|bias)",
        r"mask_head.levels.\1.\2.norm.\3",
    ),
    Rule(r"mask_head\.conv_pred\.0\.(weight)", r"mask_head.predictor.conv.\1"),
    Rule(r"mask_head\.conv_pred\.1\.(weight|bias)", r"mask_head.predictor.norm.\1"),
)

# AdelaiDet's name of each tower, and ours
TOWERS = {"cate_tower": "class_tower", "kernel_tower": "kernel_tower"}


def rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules for a checkpoint; how its towers are numbered depends on their norm."""
    towers = [
        rule
        for theirs, ours in TOWERS.items()
        for rule in tower_rules(state, f"ins_head.{theirs}", f"instance_head.{ours}")
    ]
    return [*PREDICTORS, *towers]
