"""Weights by name, as training programs wrap them, and the names that are meant.

``torch.compile`` puts ``_orig_mod.`` before names (or within them, where a part was compiled),
data parallelism and averaging ``module.``, Lightning and others ``model.``; in any order, and as
often as a model was wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

# Where training checkpoints keep the weights (PyTorch's habit, Lightning, Detectron2, Detectron)
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "blobs")
COMPILED = "_orig_mod"
PREFIXES = ("module.", "model.")


def unwrap_container(content: Any) -> Any:
    """What lies in the containers of a checkpoint, however deep; without any, ``content``."""
    while isinstance(content, Mapping):
        inner = next(
            (content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    return content


def without_wrappers(state: Mapping[str, Value]) -> dict[str, Value]:
    """The same values by the names that the model itself gives them.

    A prefix is a wrapper's where most names have it: what stands beside the model in a checkpoint
    (a counter, a loss of its own) keeps its name. Nothing is dropped whose name would be taken.
    """
    uncompiled = {_without_compiled(name): value for name, value in state.items()}
    state = uncompiled if len(uncompiled) == len(state) else dict(state)
    while True:
        prefix = next((p for p in PREFIXES if _most_have(state, p)), None)
        if prefix is None:
            return state
        shorter = {name.removeprefix(prefix): value for name, value in state.items()}
        if len(shorter) < len(state):  # two would have one name
            return state
        state = shorter


def _most_have(state: Mapping[str, Any], prefix: str) -> bool:
    return 2 * sum(name.startswith(prefix) for name in state) > len(state)


def _without_compiled(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED)
