"""EfficientNets in the names of EfficientNet-PyTorch (PyPI: efficientnet_pytorch and its "lite"
relatives) to timm's: blocks counted through to blocks counted within their stage."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from comics.integrations.key_maps.rules import Rule, rename

OUTSIDE = (
    Rule(r"_conv_stem\.(.+)", r"conv_stem.\1"),
    Rule(r"_bn0\.(.+)", r"bn1.\1"),
    Rule(r"_conv_head\.(.+)", r"conv_head.\1"),
    Rule(r"_bn1\.(.+)", r"bn2.\1"),
    Rule(r"_fc\.(.+)", r"classifier.\1"),
)
SQUEEZE = (
    Rule(r"(.+)\._se_reduce\.(.+)", r"\1.se.conv_reduce.\2"),
    Rule(r"(.+)\._se_expand\.(.+)", r"\1.se.conv_expand.\2"),
)
# timm numbers norms by their order, so a block without expansion has other numbers
EXPANDED = (
    Rule(r"(.+)\._expand_conv\.(.+)", r"\1.conv_pw.\2"),
    Rule(r"(.+)\._bn0\.(.+)", r"\1.bn1.\2"),
    Rule(r"(.+)\._depthwise_conv\.(.+)", r"\1.conv_dw.\2"),
    Rule(r"(.+)\._bn1\.(.+)", r"\1.bn2.\2"),
    Rule(r"(.+)\._project_conv\.(.+)", r"\1.conv_pwl.\2"),
    Rule(r"(.+)\._bn2\.(.+)", r"\1.bn3.\2"),
)
PLAIN = (
    Rule(r"(.+)\._depthwise_conv\.(.+)", r"\1.conv_dw.\2"),
    Rule(r"(.+)\._bn1\.(.+)", r"\1.bn1.\2"),
    Rule(r"(.+)\._project_conv\.(.+)", r"\1.conv_pw.\2"),
    Rule(r"(.+)\._bn2\.(.+)", r"\1.bn2.\2"),
)
_BLOCK = re.compile(r"_blocks\.(\d+)\.(.+)")
_TIMM_BLOCK = re.compile(r"(?:.*\.)?blocks\.(\d+)\.(\d+)\.")


def to_timm(
    state: Mapping[str, Tensor], own: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Names of EfficientNet-PyTorch to those of timm's whole model.

    Args:
        state: name -> tensor.
        own: names of the timm model that is to take them: they tell how many blocks a stage has.

    Returns:
        The renamed tensors, and the keys that no rule knows, sorted; so are blocks that the timm
        model does not have.
    """
    places = sorted({tuple(map(int, m.groups())) for m in map(_TIMM_BLOCK.match, own) if m})
    expanded = {m[1] for m in map(_BLOCK.match, state) if m and m[2].startswith("_expand_conv.")}
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in state.items():
        block = _BLOCK.match(name)
        if block is None:
            found, lost = rename({name: value}, OUTSIDE)
        elif int(block[1]) >= len(places):
            found, lost = {}, [name]
        else:
            stage, position = places[int(block[1])]
            rules = [*SQUEEZE, *(EXPANDED if block[1] in expanded else PLAIN)]
            placed = {f"blocks.{stage}.{position}.{block[2]}": value}
            found, lost = rename(placed, rules)
            lost = [name] if lost else []
        renamed |= found
        unknown += lost
    return renamed, sorted(unknown)
