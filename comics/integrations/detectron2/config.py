"""One YAML file for both runtimes: our keys in Detectron2's configuration, and back again.

Keys that both have keep their name and meaning. ``add_comics_config`` adds keys, and leaves those
of Detectron2 at Detectron2's defaults; where the defaults of both differ, ours count from the
moment that a file or a list names one of our models as ``MODEL.META_ARCHITECTURE``, so that a file
means what it means in the native runtime. The rest of the differences:

* ``MODEL.DEVICE``: Detectron2 knows no "auto"; the default is what there is, and ``settle``
  resolves an "auto" in a file.
* ``SEED``: Detectron2's -1 means a new one; ``settle`` draws it.
* ``MODEL.BACKBONE.NAME``: a name in Detectron2's ``BACKBONE_REGISTRY`` is Detectron2's backbone
  (``comics.integrations.detectron2.backbone``), every other one ours.
* ``SOLVER.CLIP_GRADIENTS``: ours clips the norm of all gradients together; Detectron2 has no name
  for that. It is ``CLIP_TYPE: full_model`` here, the default of our models.
* Values in the ``REQUIRED`` table: what Detectron2 can do and our data pipeline or models cannot.
"""

from __future__ import annotations

import difflib
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from fvcore.common.config import CfgNode as PlainNode

from comics.config import get_cfg as get_comics_cfg
from comics.config import merge_node, merge_overrides
from comics.config.renamed import with_new_names, words_with_new_names
from comics.integrations.detectron2.backbone import is_detectron2_backbone
from comics.integrations.runtime import (
    ARCHITECTURE_KEY,
    COMICS_RCNN,
    architecture_of,
    read_yaml,
)
from comics.modeling.build import COMICS_PREFIX, choose_device
from comics.modeling.face_forensics import FACE_FORENSICS, FACE_METHOD
from comics.registry import DETECTORS

CLIP_TOGETHER = "full_model"  # of SOLVER.CLIP_GRADIENTS.CLIP_TYPE
# Levels that Detectron2's R-CNN with a pyramid pools from, with the weights of as many levels of
# the paper, coarsest last (decision: the paper's are those of p3 to p7)
RCNN_LEVELS, RCNN_LEVEL_WEIGHTS = ["p2", "p3", "p4", "p5"], [0.1, 0.2, 0.4, 0.7]
# Keys that only Detectron2 has, and the one value of each that means nothing here
REQUIRED = {
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.KEYPOINT_ON": False,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.CROP.TYPE": "relative_range",
    "TEST.AUG.ENABLED": False,
    "TEST.PRECISE_BN.ENABLED": False,
}


class ComicsCfgNode(CfgNode):
    """Detectron2's configuration with our keys.

    What is merged into it takes our defaults first, where it names one of our models. Keys of
    ``comics.config.renamed`` may have their old name, where another project has not added it.
    """

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """As in Detectron2; ``merge_from_file`` comes here too."""
        cfg_other = with_new_names(cfg_other, self)
        model = cfg_other.get("MODEL")
        if isinstance(model, Mapping):
            self._meet(model.get("META_ARCHITECTURE"))
        super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list) -> None:
        """As in Detectron2."""
        cfg_list = words_with_new_names(cfg_list, self)
        self._meet(dict(zip(cfg_list[::2], cfg_list[1::2], strict=False)).get(ARCHITECTURE_KEY))
        super().merge_from_list(cfg_list)

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # The parts of a configuration are plain nodes, and yacs merges equal types only
        return CfgNode._decode_cfg_value(value)

    def _meet(self, architecture: object) -> None:
        # From one model of ours to another the defaults stay, and what was set since
        if isinstance(architecture, str) and not _is_ours(self.MODEL.META_ARCHITECTURE):
            take_defaults(self, architecture)


def add_comics_config(cfg: CfgNode) -> None:
    """Add every key of ours to Detectron2's ``get_cfg()``, in place; its own stay as they are.

    Args:
        cfg: not frozen; becomes a ``ComicsCfgNode``.
    """
    _add_keys(cfg)
    # Not by an assignment, which would be a key of the configuration
    object.__setattr__(cfg, "__class__", ComicsCfgNode)


def take_defaults(cfg: CfgNode, architecture: str) -> None:
    """Give keys that are at Detectron2's defaults those that a model is written against, in place.

    Args:
        cfg: with our keys; not frozen.
        architecture: for a model of ours every key gets our default; for Detectron2's own with the
            COMICS additions, only the levels of the contrast are other ones; for another model
            nothing changes.
    """
    if architecture == COMICS_RCNN:
        proposal, ours = cfg.MODEL.COMICS.PROPOSAL, get_comics_cfg().MODEL.COMICS.PROPOSAL
        if list(proposal.LEVELS) == list(ours.LEVELS):
            proposal.LEVELS = list(RCNN_LEVELS)
            proposal.LEVEL_WEIGHTS = list(RCNN_LEVEL_WEIGHTS)
    if not _is_ours(architecture):
        return
    theirs = get_detectron2_cfg()
    _add_keys(theirs)
    _replace_defaults(cfg, theirs, get_comics_cfg())
    if cfg.MODEL.DEVICE == get_comics_cfg().MODEL.DEVICE:  # "auto"
        cfg.MODEL.DEVICE = _present_device()
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if clipping.CLIP_TYPE == theirs.SOLVER.CLIP_GRADIENTS.CLIP_TYPE:
        clipping.CLIP_TYPE = CLIP_TOGETHER


def load_config(path: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """As ``comics.config.load_config``: settled, frozen, and with Detectron2's keys as well.

    The defaults are ours for our models and Detectron2's for its own, so the files of either load.

    Raises:
        KeyError: for an unknown key or architecture, naming the nearest.
        ValueError: for a value of the wrong type, or one that this runtime cannot honour.
        FileNotFoundError: if ``path`` or one of its bases does not exist.
    """
    content = read_yaml(path)
    cfg = get_detectron2_cfg()
    _add_keys(cfg)  # no ``ComicsCfgNode``: which model it is, is known before anything is merged
    take_defaults(cfg, architecture_of(content, overrides))
    cfg.MODEL.DEVICE = _present_device()
    merge_node(cfg, content)
    merge_overrides(cfg, overrides)
    settle(cfg)
    cfg.freeze()
    return cfg


def _present_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def settle(cfg: CfgNode) -> None:
    """Resolve ``MODEL.DEVICE`` "auto" and ``SEED`` -1 in place, and check what can be checked.

    Raises:
        KeyError: for an unknown architecture, naming the nearest.
        ValueError: for a value that this runtime cannot honour, or an absent device.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        choices = [choice for choice, _ in META_ARCH_REGISTRY]
        nearest = difflib.get_close_matches(name, choices, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        if name == FACE_METHOD:
            hint = " Face methods run in the native runtime: --runtime native."
        raise KeyError(
            f"no meta-architecture named {name!r}.{hint} Choices: {', '.join(sorted(choices))}"
        )
    found = leaves(cfg)
    for key, value in REQUIRED.items():
        if found[key] != value:
            raise ValueError(f"{key} must be {value!r} with this project, got {found[key]!r}")
    cfg.MODEL.DEVICE = str(choose_device(cfg.MODEL.DEVICE))
    if cfg.SEED < 0:
        cfg.SEED = secrets.randbelow(2**31)


def is_native(cfg: CfgNode) -> bool:
    """Whether the native runtime can build the same model: the same checkpoint serves both."""
    return _is_ours(cfg.MODEL.META_ARCHITECTURE) and not is_detectron2_backbone(cfg)


def to_comics_config(cfg: CfgNode) -> PlainNode:
    """Our configuration, frozen: the keys of ours with ``cfg``'s values, in our types."""
    ours = get_comics_cfg()
    _take(ours, cfg)
    ours.freeze()
    return ours


def dump_config(cfg: CfgNode) -> str:
    """YAML that ``load_config`` reads back.

    For a model of both runtimes: our keys, and those of Detectron2's that are not at their default;
    with none of these the native runtime reads it too. Else everything.
    """
    if not is_native(cfg):
        return cfg.dump()
    content = to_comics_config(cfg).clone()
    content.defrost()
    ours, defaults = leaves(content), get_detectron2_cfg()
    _add_keys(defaults)
    take_defaults(defaults, cfg.MODEL.META_ARCHITECTURE)
    known = leaves(defaults)
    for key, value in leaves(cfg).items():
        if key not in ours and value != known[key]:
            node = content
            *parents, last = key.split(".")
            for parent in parents:
                node = node.setdefault(parent, PlainNode())
            node[last] = value
    return content.dump()


def leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a configuration, by key with dots."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _is_ours(architecture: str) -> bool:
    name = architecture.removeprefix(COMICS_PREFIX)
    return name in DETECTORS or architecture in (FACE_FORENSICS, FACE_METHOD)


def _add_keys(cfg: CfgNode) -> None:
    _add(cfg, get_comics_cfg())
    cfg.DATASETS.VAL = []  # as Detectron2's TRAIN and TEST


def _add(cfg: CfgNode, ours: Mapping[str, Any]) -> None:
    for name, value in ours.items():
        if isinstance(value, Mapping):
            if name not in cfg:
                cfg[name] = CfgNode()
            _add(cfg[name], value)
        elif name not in cfg:
            cfg[name] = value


def _replace_defaults(cfg: CfgNode, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Values of ``cfg`` that are those of ``theirs`` become those of ``ours``."""
    for name, value in ours.items():
        if isinstance(value, Mapping):
            _replace_defaults(cfg[name], theirs[name], value)
        elif cfg[name] == theirs[name]:
            cfg[name] = value


def _take(ours: PlainNode, theirs: Mapping[str, Any]) -> None:
    for name, value in ours.items():
        if isinstance(value, Mapping):
            _take(value, theirs[name])
        else:
            ours[name] = _as(type(value), theirs[name])


def _as(kind: type, value: Any) -> Any:
    """Detectron2 writes tuples for our lists, and whole numbers for some of our floats."""
    if isinstance(value, tuple | list):
        return [_as(list, item) if isinstance(item, tuple) else item for item in value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
