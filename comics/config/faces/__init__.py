"""Configuration keys of face methods, ``MODEL.FACE``: part of ``comics.config``.

One module a method, found by being here: each has ``add_keys(face)``, which adds its node to
``cfg.MODEL.FACE``.

Values are those of the papers ("The five methods" of docs/papers.md; tables and equations are those
of the method in question); where a paper gives none, the comment says "reconstructed" or
"decision", which docs/methods.md#faces and its sections explain. Epochs count from 0. A weight
or a share has no unit.
"""

from __future__ import annotations

import importlib
import pkgutil

from fvcore.common.config import CfgNode


def add_face_config(_C: CfgNode) -> None:
    """Add ``MODEL.FACE`` to ``_C`` in place; ``_C.MODEL`` must exist."""
    _C.MODEL.FACE = CfgNode()
    _C.MODEL.FACE.METHOD = "CrossEntropy"  # a registered face method
    _C.MODEL.FACE.ENCODER = "efficientnet_b4"  # a registered encoder, or any timm model's name
    # Local .safetensors or .pth to start the encoder from, also another face method's model file;
    # "" = random. Read when training starts, which it must exist for. Relative paths start from the
    # working folder
    _C.MODEL.FACE.ENCODER_WEIGHTS = ""
    _C.MODEL.FACE.CROP_SIZE = 0  # side of a crop, pixels; 0 = the method's own
    # On the 0-255 scale, RGB; [] = what timm states for the encoder
    _C.MODEL.FACE.PIXEL_MEAN = []
    _C.MODEL.FACE.PIXEL_STD = []  # the same, of the standard deviation
    _C.MODEL.FACE.EPOCHS = 0  # passes over the training set; 0 = SOLVER.MAX_ITER decides
    _C.MODEL.FACE.LR_DECAY_EPOCHS = []  # epochs at whose start SOLVER.GAMMA is applied
    # Epochs between validations, where TEST.EVAL_PERIOD is 0; 0 = only at the end
    _C.MODEL.FACE.EVAL_EPOCHS = 0
    # FaceForensics, a detector with a face method on the faces that it finds: the detector
    _C.MODEL.FACE.DETECTOR = "COMICSBlendMask"
    # How P(fake) of the two become one: "mean_logit", "face", "detector" or "max" (decision)
    _C.MODEL.FACE.FUSION = "mean_logit"
    # At each face and at its mirror image: the mean of their logits, for twice the work (decision)
    _C.MODEL.FACE.MIRROR = False
    # Crops snap to a grid of such steps, shares of a crop's side, so that a box that moves a little
    # mostly gives the same crop; 0 = whole pixels, as in training. Figures: docs/benchmarks.md
    _C.MODEL.FACE.CROP_GRID = 0.0
    _C.MODEL.FACE.CROPS_PER_FORWARD = 64  # faces of all images together, at most, per forward pass
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        importlib.import_module(f"{__name__}.{module.name}").add_keys(_C.MODEL.FACE)
