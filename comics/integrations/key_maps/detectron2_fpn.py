"""Detectron2's ResNet with FPN, under ``backbone.``; its top levels are AdelaiDet's."""

from __future__ import annotations

from comics.integrations.key_maps.rules import Rule

RULES = (
    Rule(r"(backbone\.bottom_up\.stem)\.conv1\.norm\.(.+)", r"\1.norm.\2"),
    Rule(r"(backbone\.bottom_up\.stem)\.conv1\.(weight)", r"\1.conv.\2"),
    Rule(
        r"(backbone\.bottom_up\.res\d\.\d+\.(?:conv\d|shortcut))\.(norm\..+)",
        r"\1.\2",
    ),
    Rule(
        r"(backbone\.bottom_up\.res\d\.\d+\.(?:conv\d|shortcut))\.(weight)",
        r"\1.conv.\2",
    ),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.norm\.(.+)", r"backbone.\1.p\2.norm.\3"),
    Rule(r"backbone\.fpn_(lateral|output)(\d)\.(weight|bias)", r"backbone.\1.p\2.conv.\3"),
    Rule(r"backbone\.top_block\.(p\d)\.(weight|bias)", r"backbone.top.\1.\2"),
)
