"""Keys that had another name: YAML files, model files and the command line may still use it.

One idea has one name: what a candidate's score must exceed is ``SCORE_THRESH_TEST``, as Detectron2
calls it, in the section of every detector. AdelaiDet's files say it otherwise, and so did ours.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fvcore.common.config import CfgNode

logger = logging.getLogger(__name__)

RENAMED = {
    "MODEL.FCOS.INFERENCE_TH_TEST": "MODEL.FCOS.SCORE_THRESH_TEST",
    "MODEL.MEInst.INFERENCE_TH_TEST": "MODEL.MEInst.SCORE_THRESH_TEST",
    "MODEL.SOLOV2.SCORE_THR": "MODEL.SOLOV2.SCORE_THRESH_TEST",
}


def with_new_names(node: CfgNode, keys: CfgNode | None = None) -> CfgNode:
    """A copy of a (part of a) configuration with old names replaced; each is noted in the log.

    Args:
        node: what is to be merged.
        keys: what it is to be merged into. An old name that is a key of it, as AdelaiDet's are
            where its keys were added, is left as it is.

    Raises:
        KeyError: if a value is given under both names.
    """
    node = node.clone()
    node.defrost()
    for old, new in RENAMED.items():
        *sections, name = old.split(".")
        section = node
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section or _has(keys, old):
            continue
        latest = new.split(".")[-1]
        if latest in section:
            raise KeyError(f"{old} and {new} are one key under its old and its new name: keep one")
        section[latest] = section.pop(name)
        _note(old, new)
    return node


def words_with_new_names(words: Sequence[str], keys: CfgNode | None = None) -> list[str]:
    """As ``with_new_names``, of ``KEY VALUE`` pairs."""
    replaced = list(words)
    for position in range(0, len(replaced), 2):
        new = RENAMED.get(replaced[position])
        if new is not None and not _has(keys, replaced[position]):
            _note(replaced[position], new)
            replaced[position] = new
    return replaced


def _has(keys: CfgNode | None, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(keys, dict) or part not in keys:
            return False
        keys = keys[part]
    return True


def _note(old: str, new: str) -> None:
    logger.info("the key %s is now called %s; the old name is still read", old, new)
