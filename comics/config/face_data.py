"""Configuration keys of crops of single faces, ``INPUT.FACE``: part of ``comics.config``.

Epochs count from 0; a share has no unit. Decisions are explained in docs/methods.md#faces.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_face_data_config(_C: CfgNode) -> None:
    """Add ``INPUT.FACE``, crops of single faces, to ``_C`` in place; ``_C.INPUT`` must exist."""
    _C.INPUT.FACE = CfgNode()
    # Detected boxes as crops of a multi-face set: "set.json=results.json" each, COCO results
    _C.INPUT.FACE.BOXES = []
    _C.INPUT.FACE.BOX_IOU = 0.5  # a detection is a labelled face from this overlap on
    _C.INPUT.FACE.BOX_SCORE = 0.5  # detections of a lower score are not looked at
    # Added on each side of a box, as a share of its longer side; a whole picture gets none
    _C.INPUT.FACE.MARGIN = 0.15
    _C.INPUT.FACE.MIN_SIDE = 0  # faces with a shorter side, pixels, are not trained on
    _C.INPUT.FACE.BORDER = "replicate"  # what is outside of the picture: "replicate" or "reflect"
    # Forgery methods in the order of their numbers 1, 2, ...; [] = those of the set, sorted
    _C.INPUT.FACE.METHODS = []
    _C.INPUT.FACE.BALANCED = True  # as many reals as fakes in a batch
    # With BALANCED: an epoch ends when the rarer class has been seen once, instead of repeating it
    _C.INPUT.FACE.UNDERSAMPLE = False
    # Train on rows of this compression alone, by the manifest's column ("c23"); "" = on all
    _C.INPUT.FACE.COMPRESSION = ""
    # A compression that the set does not hold is made from the picture, by H.264
    _C.INPUT.FACE.COMPRESS_MISSING = True
    # Of a clip's frame, this many that directly precede it in the manifest are encoded before it,
    # so that it is predicted from them as in a video; 0, or where there are none: as a key frame
    _C.INPUT.FACE.CLIP_FRAMES = 4
    # With DATASETS.TRAIN_SHARES: share of pairs whose real face is of the forged one's own group
    _C.INPUT.FACE.PAIRED = 0.5
    # In training, factor on the side of a crop's window, drawn from this range, evenly in octaves
    _C.INPUT.FACE.SCALE = [1.0, 1.0]
    _C.INPUT.FACE.SHIFT = 0.0  # and how far the window is moved at most, as a share of its side
    _C.INPUT.FACE.FLIP_PROB = 0.5  # mirror left and right
    _C.INPUT.FACE.JITTER_PROB = 0.2  # each of brightness, contrast, saturation, sharpness
    _C.INPUT.FACE.JITTER = 0.2  # factor drawn from 1 +- this
    _C.INPUT.FACE.GRAY_PROB = 0.0  # conversion to grey
    _C.INPUT.FACE.NOISE_PROB = 0.0  # Gaussian noise
    _C.INPUT.FACE.NOISE_SIGMA = [1.0, 5.0]  # on the 0-255 scale
    _C.INPUT.FACE.DOWNSCALE_PROB = 0.0  # shrink to 1/2 and back
    _add_degradation(_C.INPUT.FACE)
    # Test on JPEG copies of the pictures that faces are cut from, of this quality, 1-100
    # (CompressionRelation, Table 1); 0 = off
    _C.INPUT.FACE.TEST_JPEG = 0
    _C.INPUT.FACE.TEST_CRF = -1  # the same of H.264 at this constant rate factor; -1 = off
    # Crops that go a way to the viewer: scaled, taken as screenshots, compressed one to three times
    # more as JPEG, WebP, H.264 or GIF; the same for real and forged ones
    _C.INPUT.FACE.VIEWER_PROB = 0.0
    _add_self_blend(_C.INPUT.FACE)


def _add_self_blend(_F: CfgNode) -> None:
    """Self-blended images (Shiohara and Yamasaki 2022): real rows make forged samples."""
    _F.SELF_BLEND = CfgNode()
    # Beside every real crop of a batch stands its blend, of the same geometry and augmentation; so
    # B real rows give 2 B crops, and a set of real faces alone can be trained on
    _F.SELF_BLEND.ENABLED = False
    _F.SELF_BLEND.REALS_ONLY = False  # leave forged rows out: the blends are the only forgeries
    _F.SELF_BLEND.PROB = 1.0  # share of the real rows with a blend; under 1 a batch's size varies
    # Width and height of the face in a picture without a box, as a share of it
    _F.SELF_BLEND.FACE_SHARE = 0.8
    _F.SELF_BLEND.RGB_SHIFT = 20.0  # grey levels +- of each colour
    _F.SELF_BLEND.RGB_PROB = 0.3  # how often colours shift
    _F.SELF_BLEND.HUE = 3.0  # degrees +- (decision)
    _F.SELF_BLEND.SATURATION = 0.3  # relative +-
    _F.SELF_BLEND.VALUE = 0.1  # relative +- (decision)
    _F.SELF_BLEND.BRIGHTNESS = 0.1  # +-, share of white
    _F.SELF_BLEND.CONTRAST = 0.1  # relative +-
    _F.SELF_BLEND.DOWNSCALE = [2, 4]  # factors, one is drawn; the alternative is sharpening
    _F.SELF_BLEND.SHIFT = [0.03, 0.015]  # across and along +-, shares of the crop
    _F.SELF_BLEND.SCALE = 0.95  # smallest; the largest is its inverse
    _F.SELF_BLEND.RATIOS = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]  # weights of the source, one is drawn
    _F.SELF_BLEND.POISSON_PROB = 0.2  # gradient-domain instead of alpha blending (decision)


def _add_degradation(_F: CfgNode) -> None:
    """What a face's window goes through before it is resized to a crop; all values are decisions"""
    _F.DEGRADE = CfgNode()
    _F.DEGRADE.PROB = 0.0  # that anything is done at all
    _F.DEGRADE.RESIZE_PROB = 0.6  # of those, how many are scaled
    _F.DEGRADE.SIDES = [28.0, 320.0]  # longer side after it, pixels, drawn evenly in octaves
    _F.DEGRADE.GROWTH = 1.5  # nothing is enlarged more
    _F.DEGRADE.BLUR_PROB = 0.1  # Gaussian blur
    _F.DEGRADE.BLUR_SIGMA = [0.3, 1.5]  # pixels
    _F.DEGRADE.NOISE_PROB = 0.15  # Gaussian noise
    _F.DEGRADE.NOISE_SIGMA = [1.0, 6.0]  # on the 0-255 scale
    _F.DEGRADE.CODEC_PROB = 0.7  # a first lossy codec
    _F.DEGRADE.AGAIN_PROB = 0.3  # and a second one after it
    _F.DEGRADE.QUALITY = [30, 95]  # of both, 1-100
    _F.DEGRADE.WEBP_SHARE = 0.2  # the others are JPEG
