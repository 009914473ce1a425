"""The configuration keys of SOLOv2."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    model.SOLOV2 = CfgNode()
    model.SOLOV2.NUM_CLASSES = 2  # 0 real, 1 fake
    model.SOLOV2.INSTANCE_IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]  # levels with a grid
    model.SOLOV2.NUM_GRIDS = [40, 36, 24, 16, 12]  # cells per side of the grid, per level
    # Faces of each level: sqrt of the box area in pixels, both ends included
    model.SOLOV2.FPN_SCALE_RANGES = [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]]
    model.SOLOV2.FPN_INSTANCE_STRIDES = [8, 8, 16, 32, 32]  # masks need more cells than this
    model.SOLOV2.SIGMA = 0.2  # side of the region of positive cells, as a share of the box
    model.SOLOV2.INSTANCE_CHANNELS = 512  # of the towers of classes and kernels
    model.SOLOV2.NUM_INSTANCE_CONVS = 4  # depth of those towers
    model.SOLOV2.NUM_KERNELS = 256  # numbers of a kernel, equal to NUM_MASKS
    model.SOLOV2.NORM = "GN"  # or "none"
    model.SOLOV2.PRIOR_PROB = 0.01  # initial probability of a class in a cell
    model.SOLOV2.MASK_IN_FEATURES = ["p2", "p3", "p4", "p5"]  # levels that make the mask map
    model.SOLOV2.MASK_CHANNELS = 128  # inner channels of the mask head
    model.SOLOV2.NUM_MASKS = 256  # channels of the mask map
    # Masks to learn, brought to the mask map: "aligned" with its cells, or "opencv" as AdelaiDet,
    # which shifts them a little in images whose sides are no multiples of 4
    model.SOLOV2.MASK_TARGETS = "aligned"
    model.SOLOV2.NMS_PRE = 500  # candidates of an image that meet in the suppression
    model.SOLOV2.MAX_PER_IMG = 100  # detections per image
    model.SOLOV2.SCORE_THRESH_TEST = 0.1  # candidates need a class probability above this
    model.SOLOV2.UPDATE_THR = 0.05  # detections need this score after matrix NMS
    model.SOLOV2.MASK_THR = 0.5  # a pixel belongs to a mask above this
    model.SOLOV2.NMS_TYPE = "matrix"  # or "mask": greedy, masks of IoU above MASK_THR are out
    model.SOLOV2.NMS_KERNEL = "gaussian"  # decay of matrix NMS, or "linear"
    model.SOLOV2.NMS_SIGMA = 2.0  # of the Gaussian decay

    model.SOLOV2.LOSS = CfgNode()
    model.SOLOV2.LOSS.FOCAL_ALPHA = 0.25  # weight of positives
    model.SOLOV2.LOSS.FOCAL_GAMMA = 2.0  # how much easy examples are played down
    model.SOLOV2.LOSS.FOCAL_WEIGHT = 1.0  # factor on the class loss
    model.SOLOV2.LOSS.DICE_WEIGHT = 3.0  # factor on the mask loss
