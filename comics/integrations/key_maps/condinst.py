"""What AdelaiDet's CondInst adds to FCOS."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from comics.integrations.key_maps.rules import Rule

RULES = (
    Rule(r"controller\.(weight|bias)", r"controller.\1"),
    Rule(r"mask_head\.sizes_of_interest", r"mask_head.sizes_of_interest"),
    Rule(r"mask_head\._iter", r"mask_head.iterations"),
    Rule(r"mask_branch\.tower\.(\d+)\.(weight|bias)", r"mask_branch.mask_features.\2"),
    Rule(r"mask_branch\.(refine|tower)\.(\d+)\.0\.(weight|bias)", r"mask_branch.\1.\2.conv.\3"),
    Rule(r"mask_branch\.(refine|tower)\.(\d+)\.1\.(.+)", r"mask_branch.\1.\2.norm.\3"),
    Rule(r"mask_branch\.seg_head\.(\d)\.0\.(weight|bias)", r"mask_branch.semantic.\1.conv.\2"),
    Rule(r"mask_branch\.seg_head\.(\d)\.1\.(.+)", r"mask_branch.semantic.\1.norm.\2"),
    Rule(r"mask_branch\.logits\.(weight|bias)", r"mask_branch.semantic.2.\1"),
)


def rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules for a checkpoint; they are the same for all."""
    return list(RULES)
