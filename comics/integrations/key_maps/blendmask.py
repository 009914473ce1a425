"""What AdelaiDet's BlendMask adds to FCOS."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from comics.integrations.key_maps.rules import Rule

PREDICTORS = (
    Rule(r"top_layer\.(weight|bias)", r"attention.\1"),
    Rule(r"basis_module\.refine\.(\d+)\.0\.(weight)", r"basis_module.refine.\1.conv.\2"),
    Rule(r"basis_module\.refine\.(\d+)\.1\.(.+)", r"basis_module.refine.\1.norm.\2"),
    Rule(r"basis_module\.seg_head\.0\.(weight)", r"basis_module.semantic.0.conv.\1"),
    Rule(r"basis_module\.seg_head\.1\.(.+)", r"basis_module.semantic.0.norm.\1"),
    Rule(r"basis_module\.seg_head\.3\.(weight)", r"basis_module.semantic.1.conv.\1"),
    Rule(r"basis_module\.seg_head\.4\.(.+)", r"basis_module.semantic.1.norm.\1"),
    Rule(r"basis_module\.seg_head\.6\.(weight|bias)", r"basis_module.semantic.2.\1"),
)


def rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules for a checkpoint; how the bases' tower is numbered depends on its depth."""
    return [*PREDICTORS, *_basis_tower_rules(state)]


def _basis_tower_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """Rules for the bases' tower: N blocks, an enlargement, one more block, the predictor."""
    final = [
        int(match[1])
        for match in (re.fullmatch(r"basis_module\.tower\.(\d+)\.weight", name) for name in state)
        if match
    ]
    if not final:
        return []
    predictor = final[0]
    last = predictor - 1
    return [
        Rule(rf"basis_module\.tower\.{predictor}\.(weight|bias)", r"basis_module.bases.\1"),
        Rule(rf"basis_module\.tower\.{last}\.0\.(weight)", r"basis_module.last.conv.\1"),
        Rule(rf"basis_module\.tower\.{last}\.1\.(.+)", r"basis_module.last.norm.\1"),
        Rule(r"basis_module\.tower\.(\d+)\.0\.(weight)", r"basis_module.tower.\1.conv.\2"),
        Rule(r"basis_module\.tower\.(\d+)\.1\.(.+)", r"basis_module.tower.\1.norm.\2"),
    ]
