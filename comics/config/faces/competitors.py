"""The configuration keys of the competitors of the papers' tables, each a method of its own.

docs/methods.md#competitors and its sections explain the values.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(_F: CfgNode) -> None:
    """Add them to ``cfg.MODEL.FACE``."""
    _F.FOCAL = CfgNode()
    _F.FOCAL.GAMMA = 2.0  # exponent; 0 = weighted cross-entropy
    _F.FOCAL.ALPHA = 0.5  # weight of fakes; reals have 1 - ALPHA (decision: batches are balanced)

    _F.CORE = CfgNode()
    _F.CORE.WEIGHT = 1.0  # of the consistency of two views (public code)

    _F.MESO = CfgNode()
    _F.MESO.HIDDEN_DIM = 16  # between the classifier's two layers
    _F.MESO.DROPOUT = 0.5  # before each of them

    _F.SRM_TWO_STREAM = CfgNode()
    # Residuals are cut to +- this many grey levels (docs/methods.md#comics-fea)
    _F.SRM_TWO_STREAM.TRUNCATE = 3.0

    _F.F3_NET = CfgNode()
    _F.F3_NET.WINDOW = 10  # side of the windows of local statistics, pixels
    _F.F3_NET.STRIDE = 2  # pixels between windows
    _F.F3_NET.BANDS = 6  # of local statistics

    _F.MULTI_ATTENTION = CfgNode()
    _F.MULTI_ATTENTION.ATTENTIONS = 4  # M
    # Stages of the encoder whose strides are nearest: of texture and of attention (blocks 2 and 5
    # of EfficientNet-B4)
    _F.MULTI_ATTENTION.TEXTURE_STRIDE = 4
    _F.MULTI_ATTENTION.ATTENTION_STRIDE = 16  # the same of the attentions
    _F.MULTI_ATTENTION.TEXTURE_DIM = 128  # channels of the enhanced texture (decision)
    _F.MULTI_ATTENTION.WEIGHT = 1.0  # of the independence loss
    _F.MULTI_ATTENTION.MARGINS = [0.05, 0.1]  # around a centre, squared distance: reals, fakes
    _F.MULTI_ATTENTION.APART = 0.2  # between centres, squared distance
    _F.MULTI_ATTENTION.RATE = 0.05  # of the centres' moves
    _F.MULTI_ATTENTION.RATE_DECAY = 0.9  # factor on it per epoch
    _F.MULTI_ATTENTION.HIDE = True  # also train on pictures that are blurred where attention is

    _F.FACE_X_RAY = CfgNode()
    _F.FACE_X_RAY.WEIGHT = 100.0  # lambda, of the X-ray loss
    _F.FACE_X_RAY.WIDTH = 0.03  # of the blur that softens masks, share of the crop (decision)
    _F.FACE_X_RAY.SCALE = 4  # side of a crop over that of its X-ray

    _F.RECCE = CfgNode()
    _F.RECCE.DECODER_DIM = 128  # width of the decoder's first stage (decision)
    # Standard deviation of the noise on what is reconstructed, normalised pixels (decision)
    _F.RECCE.NOISE = 0.05
    _F.RECCE.RECONSTRUCTION_WEIGHT = 0.1  # lambda 1
    _F.RECCE.METRIC_WEIGHT = 0.1  # lambda 2
