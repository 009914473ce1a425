"""The runtime of a model: this project's own, or Detectron2's where it is installed and works.

Nothing here imports Detectron2 unless it is asked whether it works.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from comics.config import get_cfg
from comics.config.files import read_config_file
from comics.modeling.face_forensics import FACE_METHOD

NATIVE, DETECTRON2 = "native", "detectron2"
AUTO = "auto"
BRIDGE = "comics.integrations.detectron2"
# Detectron2's own model, alone and with COMICS
COMICS_RCNN = "COMICSGeneralizedRCNN"
DETECTRON2_MODELS = ("GeneralizedRCNN", COMICS_RCNN)
ARCHITECTURE_KEY = "MODEL.META_ARCHITECTURE"


@dataclass(frozen=True)
class Choice:
    """A runtime, and what there is to say about it.

    Attributes:
        runtime: ``NATIVE`` or ``DETECTRON2``.
        warning: why it is not the one that might be expected; "" where it is.
    """

    runtime: str
    warning: str = ""


def choose_runtime(wanted: str, architecture: str) -> Choice:
    """ "auto" is Detectron2's where it is installed and works, else the native one.

    Args:
        wanted: "auto", "native" or "detectron2".
        architecture: ``MODEL.META_ARCHITECTURE``; single-face methods are native.

    Raises:
        ValueError: if Detectron2 is wanted, or the architecture is its own, and it is absent or
            broken (saying which), or "native" is wanted.
    """
    needed = wanted == DETECTRON2 or architecture in DETECTRON2_MODELS
    asked = f"--runtime {DETECTRON2}" if wanted == DETECTRON2 else f"the model {architecture}"
    if wanted == NATIVE and needed:
        raise ValueError(f"{asked} needs --runtime {DETECTRON2}")
    if wanted == NATIVE or (wanted == AUTO and architecture == FACE_METHOD):
        return Choice(NATIVE)
    if importlib.util.find_spec("detectron2") is None:
        if needed:
            raise ValueError(f"{asked} needs Detectron2, which is not installed")
        return Choice(NATIVE)
    fault = detectron2_fault()
    if not fault:
        return Choice(DETECTRON2)
    text = f"Detectron2 is installed but cannot be used: {fault}"
    if needed:
        raise ValueError(f"{asked}: {text}")
    return Choice(NATIVE, f"{text}; --runtime native says no more of it")


@cache
def detectron2_fault() -> str:
    """What keeps an installed Detectron2 from being used; "" if nothing does."""
    try:
        importlib.import_module(BRIDGE)
    except Exception as error:  # a broken build fails in as many ways as there are builds
        return f"{type(error).__name__}: {error}"
    return ""


def read_yaml(path: str | os.PathLike | None) -> dict[str, Any]:
    """The content of a YAML file with its ``_BASE_`` chain; empty for None."""
    if path is None:
        return {}
    return read_config_file(path)


def architecture_of(content: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What a file's content and ``KEY VALUE`` overrides make of ``MODEL.META_ARCHITECTURE``."""
    given = dict(zip(overrides[::2], overrides[1::2], strict=False))
    if ARCHITECTURE_KEY in given:
        return given[ARCHITECTURE_KEY]
    model = content.get("MODEL")
    default = get_cfg().MODEL.META_ARCHITECTURE
    return model.get("META_ARCHITECTURE", default) if isinstance(model, Mapping) else default
