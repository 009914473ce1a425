"""From model files to a model and all that is known of it, whichever runtime it is for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from comics.config import CfgNode
from comics.inference.doubt import FAMILIARITY_KEY, Familiarity
from comics.inference.knowledge import ERROR_RATES_KEY, KNOWLEDGE_KEY, UNKNOWN, Knowledge
from comics.modeling.build import load_model
from comics.modeling.face_forensics import FACE_FORENSICS, FACE_METHOD
from comics.pipeline import build_combination, combine_files, describe_parts, temperature_of

SHOWN_ELSEWHERE = ("config", FAMILIARITY_KEY, KNOWLEDGE_KEY)  # metadata, in results


@dataclass(frozen=True)
class LoadedModel:
    """A detector or ``FaceForensics``, and where it comes from.

    Attributes:
        model: in evaluation mode.
        cfg: its configuration.
        origin: what results say of it; JSON.
        temperature: divides the logit of the last P(fake).
        familiarity: what its training pictures look like; None where the file does not say.
    """

    model: nn.Module
    cfg: CfgNode
    origin: dict[str, object]
    temperature: float
    familiarity: Familiarity | None = None


def load_detector(
    path: str | os.PathLike, face_weights: str | os.PathLike | None, device: torch.device
) -> LoadedModel:
    """The model of a model file, or of two, for PyTorch.

    Args:
        path: of a detector or ``FaceForensics``.
        face_weights: of a face method that looks at the faces that the detector finds.
        device: where the model goes.

    Raises:
        FileNotFoundError, ValueError: if a file is absent, broken or of another architecture.
    """
    if face_weights is not None:
        pair = combine_files(path, face_weights)
        sha256 = pair.metadata["detector_weights_sha256"]
        origin = describe_origin(path, pair.cfg, pair.metadata, sha256)
        return LoadedModel(build_combination(pair, device), pair.cfg, origin, 1.0)
    model, cfg, file = load_model(path, device)
    require_detector(path, cfg)
    origin = describe_origin(path, cfg, file.metadata, file.sha256)
    return LoadedModel(
        model,
        cfg,
        origin,
        temperature_of(file.metadata, path),
        Familiarity.from_metadata(file.metadata, path),
    )


def require_detector(path: str | os.PathLike, cfg: CfgNode) -> None:
    """Raise ``ValueError`` for a face method alone."""
    if cfg.MODEL.META_ARCHITECTURE == FACE_METHOD:
        raise ValueError(
            f"{path} holds a face method, which finds no faces: name a detector's model file, and "
            "this one as face weights (--face-weights)"
        )


def describe_origin(
    path: str | os.PathLike, cfg: CfgNode, metadata: Mapping[str, str], sha256: str
) -> dict[str, object]:
    """What results say of a model's origin; JSON."""
    origin = {
        "model": cfg.MODEL.META_ARCHITECTURE,
        "weights": Path(path).name,
        "weights_sha256": sha256,
        "weights_metadata": {k: v for k, v in sorted(metadata.items()) if k not in SHOWN_ELSEWHERE},
    }
    knowledge = Knowledge.from_metadata(metadata, path)
    origin[KNOWLEDGE_KEY] = UNKNOWN if knowledge is None else knowledge.sentence()
    if knowledge is not None and knowledge.error_rates:
        origin[ERROR_RATES_KEY] = [asdict(rate) for rate in knowledge.error_rates]
    if cfg.MODEL.META_ARCHITECTURE == FACE_FORENSICS:
        origin["parts"] = describe_parts(cfg, metadata)
    return origin
