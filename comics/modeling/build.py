"""From a configuration, or a model file, to a model."""

from __future__ import annotations

import os

import torch
from torch import nn

from comics.config import CfgNode, load_config_text
from comics.modeling.comics import Comics
from comics.modeling.detectors.base import Detector
from comics.modeling.face_forensics import FACE_FORENSICS, FACE_METHOD, FaceForensics
from comics.modeling.faces.build import build_face_method
from comics.modeling.weights import WeightsFile, load_state, read_weights
from comics.registry import DETECTORS

FAST_LAYOUT = torch.channels_last  # of convolution weights; results are the same, and sooner there
COMICS_PREFIX = "COMICS"  # "COMICSBlendMask" is Comics around BlendMask


def build_model(cfg: CfgNode) -> nn.Module:
    """The model that ``MODEL.META_ARCHITECTURE`` names, with random initial weights.

    A detector, ``COMICS`` and a detector, "FaceMethod" (the one of ``MODEL.FACE.METHOD``), or
    "FaceForensics": the detector of ``MODEL.FACE.DETECTOR`` with that face method.

    Raises:
        KeyError: for an unknown name, listing the choices.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name == FACE_METHOD:
        return build_face_method(cfg)
    if name == FACE_FORENSICS:
        detector = build_detector(cfg, cfg.MODEL.FACE.DETECTOR)
        return FaceForensics.from_config(cfg, detector, build_face_method(cfg))
    return build_detector(cfg, name)


def build_detector(cfg: CfgNode, name: str) -> Detector | Comics:
    """The detector of that name, alone or with the COMICS additions, whatever ``cfg`` names.

    Raises:
        KeyError: for an unknown name, listing the choices.
    """
    detector = DETECTORS.get(name.removeprefix(COMICS_PREFIX)).from_config(cfg)
    return Comics.from_config(cfg, detector) if name.startswith(COMICS_PREFIX) else detector


def load_model(
    path: str | os.PathLike, device: torch.device | str = "cpu"
) -> tuple[nn.Module, CfgNode, WeightsFile]:
    """The model of a model file, in evaluation mode, with its configuration and the file's content.

    Raises:
        FileNotFoundError, ValueError: if the file is absent, broken, or of another architecture.
    """
    file = read_weights(path)
    cfg = load_config_text(file.metadata["config"])
    model = build_model(cfg)
    load_state(model, file.state, os.fspath(path))
    return model.to(device).to(memory_format=FAST_LAYOUT).eval(), cfg, file


def allow_tf32(allowed: bool) -> None:
    """Let float32 convolutions and matrix products of a GPU round to TF32, or not.

    PyTorch's own default allows it to convolutions alone.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU; any other name is taken as it is.

    Raises:
        ValueError: if CUDA is asked for and absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is asked for, but this machine shows no CUDA device")
    return device
