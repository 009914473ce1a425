"""From a configuration to a face method."""

from __future__ import annotations

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod
from comics.modeling.faces.encoder import read_encoder_weights
from comics.registry import FACE_METHODS


def build_face_method(cfg: CfgNode, *, load_weights: bool = False) -> FaceMethod:
    """The method that ``MODEL.FACE.METHOD`` names, for inference, with random initial weights.

    Args:
        cfg: the configuration; the method keeps no reference to it.
        load_weights: read ``MODEL.FACE.ENCODER_WEIGHTS`` into the encoder, if it names a file:
            what a training run wants, and a model that gets its whole state from a file does not.

    Raises:
        KeyError: for an unknown method, listing the choices.
        ValueError: for an unknown encoder or choice, or weights that do not fit the encoder.
        FileNotFoundError: if the weights are not there.
    """
    method = FACE_METHODS.get(cfg.MODEL.FACE.METHOD).from_config(cfg)
    path = cfg.MODEL.FACE.ENCODER_WEIGHTS
    if load_weights and path:
        method.load_encoder_weights(read_encoder_weights(path), path)
    return method
