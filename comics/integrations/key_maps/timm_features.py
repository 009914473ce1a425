"""timm's models as feature extractors: how the names of the whole model change.

``timm.create_model(..., features_only=True)`` either keeps the model's modules, or lists the
children of sequential ones ("stages.0.blocks" becomes "stages_0.blocks"), or wraps the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

WRAPPED = "model."  # before the names of a model that the extractor wraps


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


def surplus_layers(unknown: Iterable[str], own: Collection[str]) -> list[str]:
    """Of the keys that the feature extractor lacks, those of layers inside parts that it has.

    They tell a network of another depth, or another kind of block. A part that is absent as a whole
    (a classifier) does not, nor a lone tensor of a layer that both have: timm's older files hold
    buffers that are computed by now.

    Args:
        unknown: of ``rename_features``.
        own: names of the feature extractor.
    """
    bare = [name.removeprefix(WRAPPED) for name in own]
    parts = {name.split(".")[0] for name in bare}
    layers = {layer for name in bare for layer in _layers_around(name)}
    return [
        name
        for name in unknown
        if any(
            form.split(".")[0] in parts and form.rsplit(".", 1)[0] not in layers
            for form in _forms(name)
        )
    ]


def _layers_around(name: str) -> list[str]:
    """Of "a.b.weight": "a" and "a.b"."""
    pieces = name.split(".")
    return [".".join(pieces[:depth]) for depth in range(1, len(pieces))]


def _forms(name: str) -> tuple[str, ...]:
    return name, name.replace(".", "_", 1), f"{WRAPPED}{name}"
