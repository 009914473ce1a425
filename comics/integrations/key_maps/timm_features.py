"""timm's models as feature extractors: how the names of the whole model change.

``timm.create_model(..., features_only=True)`` either keeps the model's modules, or lists the
children of sequential ones ("stages.0.blocks" becomes "stages_0.blocks"), or wraps the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor


def rename_features(
    state: Mapping[str, Tensor], own: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Names of a timm model to those of its feature extractor.

    Args:
        state: name -> tensor of the whole model.
        own: names of the feature extractor.

    Returns:
        The renamed tensors, and the keys that the feature extractor lacks, sorted.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, value in state.items():
        match = next((form for form in _forms(name) if form in own), None)
        if match is None:
            unknown.append(name)
        else:
            renamed[match] = value
    return renamed, sorted(unknown)


def _forms(name: str) -> tuple[str, ...]:
    return name, name.replace(".", "_", 1), f"model.{name}"
