"""The configuration keys of MEInst."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(model: CfgNode) -> None:
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
