"""The configuration keys of the detectors: ``MODEL.FCOS``, ``MODEL.BLENDMASK``, ...

Names and defaults are Detectron2's and AdelaiDet's where they have the key; ``comics.config``
adds them to its own. One function a detector.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_detector_config(cfg: CfgNode) -> None:
    """Add the keys of every detector to ``cfg.MODEL``."""
    model = cfg.MODEL
    model.PROPOSAL_GENERATOR = CfgNode()
    model.PROPOSAL_GENERATOR.NAME = "FCOS"  # of one-stage detectors; "RPN" for Mask R-CNN
    _add_fcos(model)
    _add_blendmask(model)
    _add_solov2(model)
    _add_mask_rcnn(model)
    _add_condinst(model)
    _add_meinst(model)


def _add_fcos(model: CfgNode) -> None:
    model.FCOS = CfgNode()
    model.FCOS.NUM_CLASSES = 2  # 0 real, 1 fake
    model.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]  # pyramid levels that predict
    model.FCOS.FPN_STRIDES = [8, 16, 32, 64, 128]  # pixels per cell of those levels
    model.FCOS.PRIOR_PROB = 0.01  # initial foreground probability
    model.FCOS.SCORE_THRESH_TEST = 0.05  # candidates need a class probability above this
    model.FCOS.NMS_TH = 0.6  # IoU of the per-class suppression; <= 0 disables it
    model.FCOS.PRE_NMS_TOPK_TEST = 1000  # candidates per level and image
    model.FCOS.POST_NMS_TOPK_TEST = 100  # detections per image
    model.FCOS.TOP_LEVELS = 2  # levels above p5: 2 = p6, p7
    model.FCOS.NORM = "GN"  # of the towers: "GN", "BN", "SyncBN", "none"
    model.FCOS.USE_DEFORMABLE = False  # the last convolution of both towers is a DCNv2
    model.FCOS.USE_SCALE = True  # a learnt factor per level on the box branch
    model.FCOS.BOX_QUALITY = "ctrness"  # or "iou"
    model.FCOS.THRESH_WITH_CTR = False  # multiply by the quality before the threshold
    model.FCOS.LOSS_ALPHA = 0.25  # focal loss
    model.FCOS.LOSS_GAMMA = 2.0  # focal loss: how much easy examples are played down
    model.FCOS.LOSS_NORMALIZER_CLS = "fg"  # "fg", "moving_fg", "all"
    model.FCOS.LOSS_WEIGHT_CLS = 1.0  # factor on the class loss
    model.FCOS.SIZES_OF_INTEREST = [64, 128, 256, 512]  # pixels, bounds between levels
    model.FCOS.NUM_CLS_CONVS = 4  # depth of the towers
    model.FCOS.NUM_BOX_CONVS = 4  # of the box tower
    model.FCOS.NUM_SHARE_CONVS = 0  # of a tower before both
    model.FCOS.CENTER_SAMPLE = True  # only locations near a face's centre are positive
    model.FCOS.POS_RADIUS = 1.5  # in strides
    model.FCOS.LOC_LOSS_TYPE = "giou"  # "iou", "linear_iou", "giou"


def _add_blendmask(model: CfgNode) -> None:
    model.BASIS_MODULE = CfgNode()
    model.BASIS_MODULE.NAME = "ProtoNet"  # the only choice
    model.BASIS_MODULE.NUM_BASES = 4  # bases that a mask is blended from
    model.BASIS_MODULE.LOSS_ON = True  # auxiliary semantic segmentation loss
    model.BASIS_MODULE.CONVS_DIM = 128  # channels of its convolutions
    model.BASIS_MODULE.IN_FEATURES = ["p3", "p4", "p5"]  # the first one sets the resolution
    model.BASIS_MODULE.NORM = "BN"  # "BN", "SyncBN", "GN"
    model.BASIS_MODULE.NUM_CONVS = 3  # convolutions before the bases are enlarged
    model.BASIS_MODULE.COMMON_STRIDE = 8  # pixels between the semantic labels that are read
    model.BASIS_MODULE.NUM_CLASSES = 2  # the head has one more, background
    model.BASIS_MODULE.LOSS_WEIGHT = 0.3  # factor on the semantic loss

    model.BLENDMASK = CfgNode()
    model.BLENDMASK.ATTN_SIZE = 14  # side of the attention map that a location predicts
    model.BLENDMASK.TOP_INTERP = "bilinear"  # how the attention is enlarged
    model.BLENDMASK.BOTTOM_RESOLUTION = 56  # side of the blended square mask
    model.BLENDMASK.POOLER_SAMPLING_RATIO = 1  # samples per bin and side of the ROIAlign
    model.BLENDMASK.POOLER_SCALES = [0.25]  # bases per image pixel
    model.BLENDMASK.INSTANCE_LOSS_WEIGHT = 1.0  # factor on the mask loss
    # True: paste a mask into its box clipped to the image, as AdelaiDet (squeezes masks of faces
    # that reach over the border); False: into the whole box, which keeps them in place
    model.BLENDMASK.PASTE_CLIPPED = False


def _add_condinst(model: CfgNode) -> None:
    model.CONDINST = CfgNode()
    model.CONDINST.MASK_OUT_STRIDE = 4  # pixels per cell of predicted and target masks; divides 8
    # Train masks on at most this many positive locations per process, drawn at random; -1: all
    model.CONDINST.MAX_PROPOSALS = -1
    # Or on this many per image, shared equally by its faces, the best of each; -1: all
    model.CONDINST.TOPK_PROPOSALS_PER_IM = -1

    model.CONDINST.MASK_HEAD = CfgNode()  # the convolutions whose weights each face predicts
    model.CONDINST.MASK_HEAD.CHANNELS = 8  # of its inner layers
    model.CONDINST.MASK_HEAD.NUM_LAYERS = 3  # 1x1 convolutions
    model.CONDINST.MASK_HEAD.DISABLE_REL_COORDS = False  # True: no coordinates among its inputs

    model.CONDINST.MASK_BRANCH = CfgNode()  # the image-wide maps that it decodes
    model.CONDINST.MASK_BRANCH.OUT_CHANNELS = 8  # number of those maps
    model.CONDINST.MASK_BRANCH.IN_FEATURES = ["p3", "p4", "p5"]  # the first sets the resolution
    model.CONDINST.MASK_BRANCH.CHANNELS = 128  # of its inner convolutions
    model.CONDINST.MASK_BRANCH.NORM = "BN"  # "BN", "SyncBN", "GN"
    model.CONDINST.MASK_BRANCH.NUM_CONVS = 4  # depth after the levels are summed
    model.CONDINST.MASK_BRANCH.SEMANTIC_LOSS_ON = False  # auxiliary semantic segmentation loss

    model.BOXINST = CfgNode()  # train CondInst's masks from boxes alone
    model.BOXINST.ENABLED = False  # its two losses replace the mask loss; masks are not read
    # Rows at the image's bottom whose colours are not trusted, pixels of the network's input
    model.BOXINST.BOTTOM_PIXELS_REMOVED = 10
    model.BOXINST.PAIRWISE = CfgNode()
    model.BOXINST.PAIRWISE.SIZE = 3  # side of the neighbourhood, cells of the mask, odd
    model.BOXINST.PAIRWISE.DILATION = 2  # cells between neighbours
    model.BOXINST.PAIRWISE.WARMUP_ITERS = 10000  # steps until the pairwise loss has its full weight
    model.BOXINST.PAIRWISE.COLOR_THRESH = 0.3  # neighbours at least this similar must agree


def _add_mask_rcnn(model: CfgNode) -> None:
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


def _add_solov2(model: CfgNode) -> None:
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


def _add_meinst(model: CfgNode) -> None:
    """FCOS's keys, which AdelaiDet repeats under this name, and those of the mask code."""
    model.MEInst = CfgNode()
    model.MEInst.NUM_CLASSES = 2  # 0 real, 1 fake
    model.MEInst.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]  # pyramid levels that predict
    model.MEInst.FPN_STRIDES = [8, 16, 32, 64, 128]  # pixels per cell of those levels
    model.MEInst.PRIOR_PROB = 0.01  # initial foreground probability
    model.MEInst.SCORE_THRESH_TEST = 0.05  # candidates need a class probability above this
    model.MEInst.NMS_TH = 0.6  # IoU of the per-class suppression; <= 0 disables it
    model.MEInst.PRE_NMS_TOPK_TEST = 1000  # candidates per level and image
    model.MEInst.POST_NMS_TOPK_TEST = 100  # detections per image
    model.MEInst.NORM = "GN"  # of the towers: "GN", "BN", "SyncBN", "none"
    model.MEInst.USE_SCALE = True  # a learnt factor per level on the box branch
    model.MEInst.THRESH_WITH_CTR = False  # multiply by the centre-ness before the threshold
    model.MEInst.LOSS_ALPHA = 0.25  # focal loss
    model.MEInst.LOSS_GAMMA = 2.0  # focal loss: how much easy examples are played down
    model.MEInst.SIZES_OF_INTEREST = [64, 128, 256, 512]  # pixels, bounds between levels
    model.MEInst.NUM_CLS_CONVS = 4  # depth of the towers
    model.MEInst.NUM_BOX_CONVS = 4  # of the box tower
    model.MEInst.NUM_SHARE_CONVS = 0  # of a tower before the others
    model.MEInst.NUM_MASK_CONVS = 4  # of the mask tower
    model.MEInst.CENTER_SAMPLE = True  # only locations near a face's centre are positive
    model.MEInst.POS_RADIUS = 1.5  # in strides
    model.MEInst.LOC_LOSS_TYPE = "giou"  # "iou", "linear_iou", "giou"

    model.MEInst.USE_DEFORMABLE = False  # deformable convolutions in all towers
    model.MEInst.LAST_DEFORMABLE = False  # only the last of each tower
    model.MEInst.TYPE_DEFORMABLE = "DCNv1"  # or "DCNv2": with a learnt weight for each sample

    model.MEInst.DIM_MASK = 60  # coefficients of a mask code
    model.MEInst.MASK_SIZE = 28  # side of the square masks that it describes
    # The basis of the codes, an .npz file: tools/make_mask_codes.py computes it from a training
    # set. "": the discrete cosine basis. A model file carries its basis, so that only training
    # reads this file
    model.MEInst.PATH_COMPONENTS = ""
    model.MEInst.FLAG_PARAMETERS = False  # True: keep the basis that MODEL.WEIGHTS brings
    model.MEInst.WHITEN = True  # coefficients are divided by their standard deviation
    model.MEInst.SIGMOID = True  # the basis is of the masks' logits; a decoded mask is a sigmoid
    model.MEInst.USE_GCN_IN_MASK = False  # predict the code with large separable kernels
    model.MEInst.GCN_KERNEL_SIZE = 9  # of those kernels, odd
    model.MEInst.MASK_LOSS_TYPE = "mse"  # of the codes; the only choice
    model.MEInst.LOSS_ON_MASK = False  # compare decoded masks, not codes
    # True: paste a mask into its box clipped to the image, as AdelaiDet (squeezes masks of faces
    # that reach over the border); False: into the whole box, which keeps them in place
    model.MEInst.PASTE_CLIPPED = False
