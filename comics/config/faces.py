"""Configuration keys of face methods, ``MODEL.FACE`` and ``INPUT.FACE``: part of ``comics.config``.

Values are those of the papers ("The five methods" of docs/papers.md; tables and equations below are
those of the method in question); where a paper gives none, the comment says "reconstructed" or
"decision", which docs/methods.md#faces and its sections explain. Epochs count from 0. A weight
or a share has no unit.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_face_config(_C: CfgNode) -> None:
    """Add ``MODEL.FACE`` to ``_C`` in place; ``_C.MODEL`` must exist."""
    _C.MODEL.FACE = CfgNode()
    _C.MODEL.FACE.METHOD = "CrossEntropy"  # a registered face method
    _C.MODEL.FACE.ENCODER = "efficientnet_b4"  # a registered encoder, or any timm model's name
    # Local .safetensors or .pth to start the encoder from, also another face method's model file;
    # "" = random. Read when training starts
    _C.MODEL.FACE.ENCODER_WEIGHTS = ""
    _C.MODEL.FACE.CROP_SIZE = 0  # side of a crop, pixels; 0 = the method's own
    # On the 0-255 scale, RGB; [] = what timm states for the encoder
    _C.MODEL.FACE.PIXEL_MEAN = []
    _C.MODEL.FACE.PIXEL_STD = []  # the same, of the standard deviation
    _C.MODEL.FACE.EPOCHS = 0  # passes over the training set; 0 = SOLVER.MAX_ITER decides
    _C.MODEL.FACE.LR_DECAY_EPOCHS = []  # epochs at whose start SOLVER.GAMMA is applied
    # FaceForensics, a detector with a face method on the faces that it finds: the detector
    _C.MODEL.FACE.DETECTOR = "COMICSBlendMask"
    # How P(fake) of the two become one: "mean_logit", "face", "detector" or "max" (decision)
    _C.MODEL.FACE.FUSION = "mean_logit"
    # At each face and at its mirror image: the mean of their logits, for twice the work (decision)
    _C.MODEL.FACE.MIRROR = False
    _C.MODEL.FACE.CROPS_PER_FORWARD = 64  # faces of all images together, at most, per forward pass
    _add_baselines(_C.MODEL.FACE)
    _add_dcl(_C.MODEL.FACE)
    _add_real_centric(_C.MODEL.FACE)
    _add_guide_space(_C.MODEL.FACE)
    _add_compression_relation(_C.MODEL.FACE)


def _add_baselines(_F: CfgNode) -> None:
    _F.CROSS_ENTROPY = CfgNode()
    # Train on strongly compressed views too: "CE loss" of CompressionRelation, Table 1 (mixed
    # compression)
    _F.CROSS_ENTROPY.MIXED = False

    # Cross-entropy over real and every forgery method (GuideSpace, Table 3)
    _F.MULTICLASS = CfgNode()
    _F.MULTICLASS.NUM_DOMAINS = 4  # forgery methods of the training set, real not counted

    # Encoder, projector g and predictor Y of CompressionRelation and its baselines (its 4.3)
    _F.EMBEDDING = CfgNode()
    _F.EMBEDDING.DIM = 512  # dimensions of z
    _F.EMBEDDING.HIDDEN_DIM = 2048  # between the projector's two layers (reconstructed)
    _F.EMBEDDING.PREDICTOR_DIM = 512  # between the predictor's two layers (reconstructed)

    _F.L1 = CfgNode()
    _F.L1.WEIGHT = 1.0  # of the distance between weak and strong embeddings (eq. 10)

    _F.ADVERSARIAL = CfgNode()  # "CE + GAN" (CompressionRelation, eq. 11 and 12)
    _F.ADVERSARIAL.WEIGHT = 1.0  # of the discriminator's loss
    _F.ADVERSARIAL.REVERSAL = 1.0  # factor on the reversed gradient (decision)
    _F.ADVERSARIAL.HIDDEN_DIM = 512  # width of the four linear layers (reconstructed)

    _F.TRIPLET = CfgNode()  # "CE + triplet loss" (CompressionRelation, 4.2)
    _F.TRIPLET.WEIGHT = 1.0  # of the triplet loss
    _F.TRIPLET.MARGIN = 1.0  # alpha, in squared distance (reconstructed)

    _F.METRIC = CfgNode()  # "metric learning": two branches (CompressionRelation, 4.2)
    _F.METRIC.BRANCH = "strong"  # the branch kept for inference: "strong" or "weak" (Table 2)
    _F.METRIC.WEIGHT = 1.0  # of the pairwise margin loss
    _F.METRIC.MARGIN = 1.0  # Euclidean distance of unit embeddings (reconstructed)
    _F.METRIC.ADVERSARIAL_WEIGHT = 1.0  # of the discriminator's loss


def _add_dcl(_F: CfgNode) -> None:
    _F.DCL = CfgNode()
    _F.DCL.KEY_MOMENTUM = 0.99  # beta of the key encoder
    _F.DCL.TEMPERATURE = 0.07  # tau of both contrasts
    _F.DCL.INTER = True  # inter-instance contrast (Table 5, "Inter")
    _F.DCL.INTRA = True  # intra-instance contrast (Table 5, "Intra")
    _F.DCL.BANK_SIZE = 30000  # keys per class
    _F.DCL.PROTOTYPE_MOMENTUM = 0.9  # alpha
    # Which keys enter a bank: "threshold" (paper), "topk" (public code), or "all": no selection
    # of hard samples (Table 5, without "Hard")
    _F.DCL.SELECT = "threshold"
    _F.DCL.SELECT_THRESHOLD = 0.5  # theta: similarity with the other class's prototype
    _F.DCL.SELECT_TOPK = 5  # keys per class and step of "topk"
    # A map cell is forged above this mean |x_fake - x_real|, 0-255 scale (reconstructed)
    _F.DCL.MASK_THRESHOLD = 10.0
    _F.DCL.CONTRAST_WEIGHT = 0.5  # phi; cross-entropy gets 1 - phi
    _F.DCL.WARMUP_WEIGHT = 0.1  # phi in the first epochs
    _F.DCL.WARMUP_EPOCHS = 5  # how many these are
    # How views are made, read by the data pipeline; the paper gives no probability (decision)
    _F.DCL.VIEWS = CfgNode()
    _F.DCL.VIEWS.ENABLED = True  # False: common augmentation only (Table 5, without "Views")
    _F.DCL.VIEWS.PATCH_PROB = 0.5  # RandomPatch
    _F.DCL.VIEWS.PATCH_GRID = 4  # k: patches per side that are shuffled
    _F.DCL.VIEWS.HIGH_FREQUENCY_PROB = 0.5  # SRM residual added to the image
    _F.DCL.VIEWS.FRAME_SHIFT_PROB = 0.5  # the key view is another frame of the video
    _F.DCL.VIEWS.MIXUP_PROB = 0.5  # fakes mixed with their paired real
    _F.DCL.VIEWS.MIXUP_SHARE = [0.5, 1.0]  # share of the fake, drawn from this range


def _add_real_centric(_F: CfgNode) -> None:
    _F.REAL_CENTRIC = CfgNode()  # the supervised contrastive baseline uses the first six
    _F.REAL_CENTRIC.STAGE1_EPOCHS = 100  # contrastive; what follows trains the classifier only
    _F.REAL_CENTRIC.TEMPERATURE = 0.1  # tau
    _F.REAL_CENTRIC.DIM = 128  # dimensions of z
    _F.REAL_CENTRIC.HIDDEN_DIM = 2048  # between the projector's two layers (reconstructed)
    # How positives are paired (Table 3), one level drawn per sample, read by the data pipeline:
    # "image", "temporal", "semantic", "class"
    _F.REAL_CENTRIC.PAIRING = ["image", "temporal", "semantic"]
    # "Continuous" frames of the temporal level are at most this many sampled frames apart
    _F.REAL_CENTRIC.PAIRING_FRAMES = 1
    _F.REAL_CENTRIC.POSITIVES = True  # add transformed positives (Table 5)
    _F.REAL_CENTRIC.HARD_SIZE = 32  # K: global hard features per class, one positive from each
    _F.REAL_CENTRIC.NEIGHBOURS = 2  # m: batch features that smooth a hard one
    # Table 4: "smooth", "linear" or "linear+smooth"
    _F.REAL_CENTRIC.FUSION = "smooth"
    _F.REAL_CENTRIC.LINEAR_HARD = 8  # hard features that "linear" combines, per class
    _F.REAL_CENTRIC.LINEAR_NEIGHBOURS = 4  # with this many batch features each
    # Mixed real and fake features: "negatives" (margin loss), "fakes" (Table 6) or "none" (Table 5)
    _F.REAL_CENTRIC.MIXED = "negatives"
    _F.REAL_CENTRIC.LOCAL_HARD = 4  # k_l: fakes of the batch nearest the real centre
    _F.REAL_CENTRIC.MIXED_NEIGHBOURS = 4  # s: batch reals that each is mixed with
    _F.REAL_CENTRIC.MIX_BETA = 0.5  # a of the coefficient's Beta(a, a)


def _add_guide_space(_F: CfgNode) -> None:
    _F.GUIDE_SPACE = CfgNode()
    _F.GUIDE_SPACE.NUM_DOMAINS = 4  # n: forgery methods of the training set
    _F.GUIDE_SPACE.ANGLE = 120.0  # theta, degrees between the real and any forgery guide (Table 5)
    _F.GUIDE_SPACE.TEMPERATURE = 0.1  # tau (reconstructed)
    _F.GUIDE_SPACE.DOMAIN_MOMENTUM = 0.9  # of the mean feature of a domain, for batches without it
    _F.GUIDE_SPACE.BANK_SIZE = 5120  # features in F
    _F.GUIDE_SPACE.GUIDE_WEIGHT = 1.0  # lambda 1; 0 = without it (Table 3), as the next three
    _F.GUIDE_SPACE.CE_WEIGHT = 1.0  # lambda 2
    _F.GUIDE_SPACE.PUSH_WEIGHT = 0.1  # lambda 3
    _F.GUIDE_SPACE.PULL_WEIGHT = 0.1  # lambda 4
    _F.GUIDE_SPACE.ADJUST = True  # A-DBM: weigh samples by their neighbourhood (Table 3)
    _F.GUIDE_SPACE.ADJUST_EPOCH = 10  # samples weigh the same before this epoch
    _F.GUIDE_SPACE.NEIGHBOURS = 55  # k nearest of F
    _F.GUIDE_SPACE.OTHER_FAKE_WEIGHT = 0.5  # alpha between two forgery methods (reconstructed)
    _F.GUIDE_SPACE.SET_SIZE = 10  # features drawn from F to push, and to pull, per sample
    _F.GUIDE_SPACE.NUM_CLUSTERS = 500  # of the offline k-means, read by the clustering tool
    # What the classifier sees: the "pooled" feature (decision), or its "unit" vector
    _F.GUIDE_SPACE.CLASSIFIER_INPUT = "pooled"


def _add_compression_relation(_F: CfgNode) -> None:
    _F.COMPRESSION_RELATION = CfgNode()
    # Read by the data pipeline: "raw", or "c" and the H.264 constant rate factor
    _F.COMPRESSION_RELATION.WEAK = "c23"  # "raw" in the last row of Table 3
    _F.COMPRESSION_RELATION.STRONG = "c40"  # the same, of the strong compression
    _F.COMPRESSION_RELATION.RELATION = True  # relation loss (Table 3)
    _F.COMPRESSION_RELATION.CONTRAST = True  # contrastive loss (Table 3)
    _F.COMPRESSION_RELATION.KEY_MOMENTUM = 0.999  # of F' and g'
    # "momentum": F' and g' (paper); "query": F and g ("CE loss" of Table 3)
    _F.COMPRESSION_RELATION.TEST_WITH = "momentum"
    _F.COMPRESSION_RELATION.BANK_SIZE = 16384  # embeddings per class (Table 4)
    _F.COMPRESSION_RELATION.WEAK_TEMPERATURE = 0.04  # tau of the target distribution
    _F.COMPRESSION_RELATION.STRONG_TEMPERATURE = 0.1  # tau of the distribution that learns
    _F.COMPRESSION_RELATION.CONTRAST_TEMPERATURE = 0.07  # tau of the contrastive loss
    _F.COMPRESSION_RELATION.BETA = [0.1, 0.1]  # weights of relation and contrast
    _F.COMPRESSION_RELATION.WARMUP_BETA = [0.01, 0.01]  # the same in the first steps
    _F.COMPRESSION_RELATION.WARMUP_STEPS = 0  # how many these are (2000 for Celeb-DF)


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
    # A compression that the set does not hold is made from the picture, by H.264 of one frame
    _C.INPUT.FACE.COMPRESS_MISSING = True
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
    # Test on JPEG copies of this quality, 1-100 (CompressionRelation, Table 1); 0 = off
    _C.INPUT.FACE.TEST_JPEG = 0
    _C.INPUT.FACE.TEST_CRF = -1  # test on H.264 copies of this constant rate factor; -1 = off
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
    _F.DEGRADE.RESIZE_PROB = 0.6
    _F.DEGRADE.SIDES = [28.0, 320.0]  # longer side after it, pixels, drawn evenly in octaves
    _F.DEGRADE.GROWTH = 1.5  # nothing is enlarged more
    _F.DEGRADE.BLUR_PROB = 0.1
    _F.DEGRADE.BLUR_SIGMA = [0.3, 1.5]  # pixels
    _F.DEGRADE.NOISE_PROB = 0.15
    _F.DEGRADE.NOISE_SIGMA = [1.0, 6.0]  # on the 0-255 scale
    _F.DEGRADE.CODEC_PROB = 0.7  # a first lossy codec
    _F.DEGRADE.AGAIN_PROB = 0.3  # and a second one after it
    _F.DEGRADE.QUALITY = [30, 95]  # of both, 1-100
    _F.DEGRADE.WEBP_SHARE = 0.2  # the others are JPEG
