"""Keys whose default is another than in earlier versions: what began with the former one goes on.

A YAML file need not name a key that has its default. What it meant then is in the complete
configuration that a run or a model file holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from fvcore.common.config import CfgNode

from comics.config.defaults import get_cfg

logger = logging.getLogger(__name__)

RESIDUAL_ATTENTION = "MODEL.COMICS.FEA.RESIDUAL"
FORMER_DEFAULTS: dict[str, Any] = {
    RESIDUAL_ATTENTION: True,
    "MODEL.COMICS.PROPOSAL.PROTOTYPE_UPDATE": "batch",
}


def with_values_of(
    cfg: CfgNode,
    stored: Mapping[str, Any],
    where: str,
    keys: Iterable[str] = tuple(FORMER_DEFAULTS),
) -> CfgNode:
    """``cfg`` with the values that ``stored`` has of keys of ``FORMER_DEFAULTS``; frozen.

    Only where ``cfg`` has today's default, which may just not have been named; each is noted in
    the log. A key that ``stored`` lacks had its former default.

    Args:
        cfg: of today.
        stored: the complete configuration of a run or a model file.
        where: what ``stored`` belongs to, for the log.
        keys: those of ``FORMER_DEFAULTS`` that matter.
    """
    kept, defaults = cfg.clone(), get_cfg()
    kept.defrost()
    for key in keys:
        *sections, name = key.split(".")
        here, default, then = (_section(node, sections) for node in (kept, defaults, stored))
        value = then.get(name, FORMER_DEFAULTS[key])
        if here.get(name) == default[name] != value:
            here[name] = value
            logger.info(
                "%s has %s %r, which was the default then and is %r now: %r is kept",
                where,
                key,
                value,
                default[name],
                value,
            )
    kept.freeze()
    return kept


def _section(node: Mapping[str, Any], names: list[str]) -> Any:
    """The section below ``node``; an empty one where there is none."""
    for name in names:
        node = node.get(name, {})
    return node
