"""The configuration keys of Mask R-CNN."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
    """Add them to ``cfg.MODEL``."""
    """Defaults of Detectron2's Base-RCNN-FPN.yaml and mask_rcnn_R_50_FPN."""
    model.PROPOSAL_GENERATOR.MIN_SIZE = 0.0  # proposals must be wider and higher, pixels

    model.ANCHOR_GENERATOR = CfgNode()
    # Per level, or once for all: square roots of the anchors' areas, pixels
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]  # the same: height over width
    model.ANCHOR_GENERATOR.OFFSET = 0.0  # of the first centre from the corner, in strides

    model.RPN = CfgNode()  # the first stage: proposals
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]  # pyramid levels that propose
    model.RPN.CONV_DIMS = [-1]  # one 3x3 convolution per entry, as wide as the pyramid
    # Anchors are background below the first overlap with a face, faces from the second on
    model.RPN.IOU_THRESHOLDS = [0.3, 0.7]
    model.RPN.BATCH_SIZE_PER_IMAGE = 256  # anchors drawn for the losses
    model.RPN.POSITIVE_FRACTION = 0.5  # share of them that may be faces
    model.RPN.PRE_NMS_TOPK_TRAIN = 2000  # proposals per level and image before the suppression
    model.RPN.PRE_NMS_TOPK_TEST = 1000  # the same, at inference
    model.RPN.POST_NMS_TOPK_TRAIN = 1000  # proposals per image after it
    model.RPN.POST_NMS_TOPK_TEST = 1000  # the same, at inference
    model.RPN.NMS_THRESH = 0.7  # IoU of the suppression, per level
    model.RPN.BBOX_REG_WEIGHTS = [1.0, 1.0, 1.0, 1.0]  # factors on dx, dy, dw, dh
    model.RPN.SMOOTH_L1_BETA = 0.0  # where the box loss turns from square to linear; 0 = L1
    model.RPN.LOSS_WEIGHT = 1.0  # factor on both losses
    model.RPN.BBOX_REG_LOSS_WEIGHT = 1.0  # further factor on the box loss
    _add_roi_heads(model)


def _add_roi_heads(model: CfgNode) -> None:
    """The second and third stage of Mask R-CNN; defaults as of the first."""
    model.ROI_HEADS = CfgNode()  # what the second and third stage share
    model.ROI_HEADS.NAME = "StandardROIHeads"  # the only choice
    model.ROI_HEADS.NUM_CLASSES = 2  # 0 real, 1 fake; background comes last
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]  # levels that boxes are pooled from
    model.ROI_HEADS.IOU_THRESHOLDS = [0.5]  # overlap from which a proposal is a face
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 512  # proposals drawn for the losses
    model.ROI_HEADS.POSITIVE_FRACTION = 0.25  # share of them that may be faces
    model.ROI_HEADS.PROPOSAL_APPEND_GT = True  # the faces' own boxes are proposals in training
    model.ROI_HEADS.SCORE_THRESH_TEST = 0.05  # detections need a probability above this
    model.ROI_HEADS.NMS_THRESH_TEST = 0.5  # IoU of the suppression, per class

    model.ROI_BOX_HEAD = CfgNode()  # the second stage: class and box
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"  # the only choice
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7  # cells per side of the pooled features
    model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 0  # samples per bin and side; 0 = as many as fit
    model.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2"  # or "ROIAlign": no half-pixel shift
    model.ROI_BOX_HEAD.NUM_CONV = 0  # 3x3 convolutions
    model.ROI_BOX_HEAD.CONV_DIM = 256  # their channels
    model.ROI_BOX_HEAD.NORM = ""  # their normalisation: "", "GN", "BN", "SyncBN"
    model.ROI_BOX_HEAD.NUM_FC = 2  # fully connected layers after them
    model.ROI_BOX_HEAD.FC_DIM = 1024  # their width
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = False  # one box for all classes
    model.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = [10.0, 10.0, 5.0, 5.0]  # factors on dx, dy, dw, dh
    model.ROI_BOX_HEAD.SMOOTH_L1_BETA = 0.0  # as MODEL.RPN.SMOOTH_L1_BETA
    model.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 1.0  # factor on the box loss

    model.ROI_MASK_HEAD = CfgNode()  # the third stage: mask
    model.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"  # the only choice
    model.ROI_MASK_HEAD.POOLER_RESOLUTION = 14  # cells per side; masks have twice as many
    model.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 0  # as of the box head
    model.ROI_MASK_HEAD.POOLER_TYPE = "ROIAlignV2"  # as of the box head
    model.ROI_MASK_HEAD.NUM_CONV = 4  # 3x3 convolutions before the resolution is doubled
    model.ROI_MASK_HEAD.CONV_DIM = 256  # their channels
    model.ROI_MASK_HEAD.NORM = ""  # their normalisation: "", "GN", "BN", "SyncBN"
    model.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False  # one mask for all classes
