"""The configuration keys of SOLO; where SOLOv2 has the same, under the same names."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.SOLO = CfgNode()
    model.SOLO.NUM_CLASSES = 2  # 0 real, 1 fake
    model.SOLO.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]  # levels with a grid
    model.SOLO.NUM_GRIDS = [40, 36, 24, 16, 12]  # cells per side of the grid, per level
    # Faces of each level: sqrt of the box area in pixels, both ends included
    model.SOLO.FPN_SCALE_RANGES = [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]]
    model.SOLO.FPN_INSTANCE_STRIDES = [8, 8, 16, 32, 32]  # masks need more cells than this
    model.SOLO.SIGMA = 0.2  # side of the region of positive cells, as a share of the box
    model.SOLO.CHANNELS = 256  # of the towers of classes and masks
    model.SOLO.NUM_CONVS = 7  # depth of those towers
    model.SOLO.NORM = "GN"  # or "none"
    model.SOLO.PRIOR_PROB = 0.01  # initial probability of a class in a cell
    # A mask is the product of a map of its row and one of its column, 2 S maps instead of S^2
    model.SOLO.DECOUPLED = False
    model.SOLO.NMS_PRE = 500  # candidates of an image that meet in the suppression
    model.SOLO.MAX_PER_IMG = 100  # detections per image
    model.SOLO.SCORE_THRESH_TEST = 0.1  # candidates need a class probability above this
    model.SOLO.UPDATE_THR = 0.05  # detections need this score after matrix NMS
    model.SOLO.MASK_THR = 0.5  # a pixel belongs to a mask above this
    model.SOLO.NMS_TYPE = "mask"  # greedy, masks of IoU above MASK_THR are out; or "matrix"
    model.SOLO.NMS_KERNEL = "gaussian"  # decay of matrix NMS, or "linear"
    model.SOLO.NMS_SIGMA = 2.0  # of the Gaussian decay

    model.SOLO.LOSS = CfgNode()
    model.SOLO.LOSS.FOCAL_ALPHA = 0.25  # weight of positives
    model.SOLO.LOSS.FOCAL_GAMMA = 2.0  # how much easy examples are played down
    model.SOLO.LOSS.FOCAL_WEIGHT = 1.0  # factor on the class loss
    model.SOLO.LOSS.DICE_WEIGHT = 3.0  # factor on the mask loss
