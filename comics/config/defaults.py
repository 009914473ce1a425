"""Every configuration key, its default, and what it means.

Names follow Detectron2 (``MODEL``, ``INPUT``, ``DATASETS``, ``SOLVER``, ``TEST``) and AdelaiDet
(``MODEL.FCOS``, ``MODEL.BASIS_MODULE``, ``MODEL.BLENDMASK``) where they have a name for it; ours
are under ``MODEL.COMICS`` and ``MODEL.FACE``. A YAML file may start from another by ``_BASE_``.
YAML is loaded safely, and a key that is not listed here is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from comics.config.detectors import add_detector_config
from comics.config.face_data import add_face_data_config
from comics.config.faces import add_face_config
from comics.config.files import parse_config, read_config_file
from comics.config.renamed import with_new_names, words_with_new_names

_C = CfgNode()
_C.VERSION = 2  # Detectron2's version of the key names
_C.OUTPUT_DIR = "./output"  # checkpoints, logs and results of a run
_C.SEED = 0  # one seed gives the same data order, augmentations and initial weights

# ---------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------
_C.MODEL = CfgNode()
# A registered detector ("BlendMask"), or its COMICS variant ("COMICSBlendMask")
_C.MODEL.META_ARCHITECTURE = "COMICSBlendMask"
_C.MODEL.DEVICE = "auto"  # "auto" (cuda where there is one), "cpu", "cuda", "cuda:1"
_C.MODEL.WEIGHTS = ""  # .safetensors or .pth to start from; "" = random initial weights
_C.MODEL.MASK_ON = True  # predict masks
# Subtracted from, then divided into, pixels on the 0-255 scale, in the order of INPUT.FORMAT
_C.MODEL.PIXEL_MEAN = [123.675, 116.280, 103.530]
_C.MODEL.PIXEL_STD = [58.395, 57.120, 57.375]  # the same, of the standard deviation

_C.MODEL.BACKBONE = CfgNode()
# "resnet" (MODEL.RESNETS below) or "timm/<model name>", e.g. "timm/efficientnet_b0"; Detectron2's
# and AdelaiDet's builder names for a ResNet with FPN are accepted as "resnet"
_C.MODEL.BACKBONE.NAME = "resnet"
_C.MODEL.BACKBONE.FREEZE_AT = 2  # freeze stem (1), and res2 (2), ...; 0 trains everything

_C.MODEL.RESNETS = CfgNode()
_C.MODEL.RESNETS.DEPTH = 50  # 18, 34, 50, 101
_C.MODEL.RESNETS.NORM = "FrozenBN"  # "FrozenBN" (with pretrained weights), "BN", "SyncBN", "GN"
_C.MODEL.RESNETS.NUM_GROUPS = 1  # of the 3x3 convolutions; 32 for ResNeXt
_C.MODEL.RESNETS.WIDTH_PER_GROUP = 64  # bottleneck channels of res2, per group
_C.MODEL.RESNETS.STEM_OUT_CHANNELS = 64  # channels of the first convolution
# Channels of the first convolution whose initial weights are high-pass filters: a network that
# starts from random weights finds noise residuals sooner. 0 with pretrained weights
_C.MODEL.RESNETS.STEM_HIGH_PASS = 0
_C.MODEL.RESNETS.RES2_OUT_CHANNELS = 256  # 64 for depth 18 and 34
_C.MODEL.RESNETS.STRIDE_IN_1X1 = False  # True for Detectron2's MSRA weights
# Deformable 3x3 convolutions (docs/papers.md#dcn): in which of res2..res5, in every how manyth
# block of those, and whether samples have a learnt weight (DCNv2) or not (DCNv1)
_C.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False, False, False, False]
_C.MODEL.RESNETS.DEFORM_INTERVAL = 1  # blocks
_C.MODEL.RESNETS.DEFORM_MODULATED = False  # True: DCNv2
_C.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]  # what the FPN takes

_C.MODEL.FPN = CfgNode()
_C.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]  # backbone stages that get a lateral connection
_C.MODEL.FPN.OUT_CHANNELS = 256  # channels of every pyramid level
_C.MODEL.FPN.NORM = ""  # "" or "GN"
# Levels above the last stage: "conv" (FCOS: MODEL.FCOS.TOP_LEVELS strided convolutions, p6 and p7)
# or "pool" (Detectron2's own pyramid: p6 is every second cell of p5)
_C.MODEL.FPN.TOP_BLOCK = "conv"

add_detector_config(_C)  # MODEL.FCOS, MODEL.BLENDMASK, ...: in comics/config/detectors/

# COMICS: the additions of its paper, each switched on its own (docs/methods.md#comics)
_C.MODEL.COMICS = CfgNode()
_C.MODEL.COMICS.KEY_MOMENTUM = 0.999  # beta of the EMA key encoder (paper, IV-B)

_C.MODEL.COMICS.FEA = CfgNode()  # frequency enhanced attention (paper, VI)
_C.MODEL.COMICS.FEA.ENABLED = True  # multiply the pyramid by the attention map
# True: A*F + F (the authors' code) instead of the paper's A*F. Train either from step 0: a residual
# attention that was added to a trained detector shrank to nothing
_C.MODEL.COMICS.FEA.RESIDUAL = False
# What SRM residuals are taken of: ["image"], one map for all levels; or ["image", "features"], a
# map per level that also sees the high frequencies of the level's own features (paper, VI)
_C.MODEL.COMICS.FEA.SOURCES = ["image"]
_C.MODEL.COMICS.FEA.TRUNCATE = 3.0  # SRM residuals of the image are cut to +- this
_C.MODEL.COMICS.FEA.CHANNELS = [32, 64]  # widths of the two convolutions

_C.MODEL.COMICS.PROPOSAL = CfgNode()  # coarse-grained contrast (paper, IV)
_C.MODEL.COMICS.PROPOSAL.ENABLED = True  # train with it; costs nothing at inference
_C.MODEL.COMICS.PROPOSAL.WEIGHT = 0.5  # lambda 1
_C.MODEL.COMICS.PROPOSAL.TEMPERATURE = 0.7  # 0.2 is best on the challenge set (Table VIII)
_C.MODEL.COMICS.PROPOSAL.LEVELS = ["p3", "p4", "p5", "p6", "p7"]  # each with banks of its own
_C.MODEL.COMICS.PROPOSAL.LEVEL_WEIGHTS = [0.1, 0.2, 0.4, 0.7, 1.0]  # omega
# False: one projection and bank for all levels, of weight 1 ("CL w.o. MS", Table V)
_C.MODEL.COMICS.PROPOSAL.MULTI_SCALE = True
# True: a level without proposals in a step gives its weight to the others. The paper's rule, fixed
# weights, is for pictures of full size: in squares of some hundred pixels no face belongs to p6 and
# p7, which hold 71 % of the weight
_C.MODEL.COMICS.PROPOSAL.SHARE_EMPTY_LEVELS = False
_C.MODEL.COMICS.PROPOSAL.DIM = 128  # channels of the 1x1 projection
# Which proposals count as faces. "iou": those that the detector assigns to a face and that overlap
# it; "assigned": no IoU test; "any": all of either view that overlap any face (the paper's rule
# read literally), at the cost of the heads once more for each view
_C.MODEL.COMICS.PROPOSAL.MATCH = "iou"
_C.MODEL.COMICS.PROPOSAL.MATCH_IOU = 0.6  # a proposal belongs to a face above this overlap
# Iterations in which MATCH_IOU rises to its value from 0, linearly: from random weights no box
# passes 0.6 and the term is silent. 0: no warm-up (the paper)
_C.MODEL.COMICS.PROPOSAL.MATCH_WARMUP_ITERS = 0
# The bank that a proposal is pushed from: "opposite", of the other class; or "same", of its own, as
# the paper's sentence has it, against its purpose (paper, IV-B)
_C.MODEL.COMICS.PROPOSAL.NEGATIVES = "opposite"
_C.MODEL.COMICS.PROPOSAL.BANK_SIZE = 4096  # keys per level and class
_C.MODEL.COMICS.PROPOSAL.PROTOTYPE_MOMENTUM = 0.9  # alpha
# "proposal": a step of the prototype for each key (paper, eq. 2); "batch": one with their mean
_C.MODEL.COMICS.PROPOSAL.PROTOTYPE_UPDATE = "proposal"
_C.MODEL.COMICS.PROPOSAL.ENQUEUE = 5  # keys per level, class and step
_C.MODEL.COMICS.PROPOSAL.MINING = "own"  # least like own prototype, or "cross": most like the other

_C.MODEL.COMICS.PIXEL = CfgNode()  # fine-grained contrast (paper, V)
_C.MODEL.COMICS.PIXEL.ENABLED = True  # train with it; costs nothing at inference
_C.MODEL.COMICS.PIXEL.INTRA_WEIGHT = 0.1  # lambda 2
_C.MODEL.COMICS.PIXEL.INTER_WEIGHT = 0.1  # lambda 3
_C.MODEL.COMICS.PIXEL.TEMPERATURE = 0.7  # of both terms
_C.MODEL.COMICS.PIXEL.SIZE = 28  # faces and masks are resized to SIZE x SIZE
_C.MODEL.COMICS.PIXEL.CONTEXT = 1.0  # the ROI is the face's box times this; > 1 adds background
_C.MODEL.COMICS.PIXEL.BOUNDARY_MARGIN = 2  # cells dropped on both sides of the mask's boundary
_C.MODEL.COMICS.PIXEL.SAMPLING = "far"  # "far" drops them, "close" keeps only them, "all"
# What parts a face from its background: "ground_truth", or "predicted" (paper): the mask of the
# detection that overlaps the face most; faces that are not detected take no part
_C.MODEL.COMICS.PIXEL.MASKS = "ground_truth"
_C.MODEL.COMICS.PIXEL.PREDICTED_IOU = 0.5  # such a detection's box overlaps the face's this much
_C.MODEL.COMICS.PIXEL.PAIRS = "batch"  # inter-face pairs within the "batch" or the "image"

add_face_config(_C)  # MODEL.FACE: in comics/config/faces/

# ---------------------------------------------------------------------------------------------
# Data
# ---------------------------------------------------------------------------------------------
_C.DATASETS = CfgNode()
# Each entry is a registered name ("openforensics_train") or an annotation file: "faces.json", its
# images relative to its own folder, or "faces.json@image/folder"; for face methods also a manifest,
# "faces.csv", or rows of it, "faces.csv@split=train,compression=c23" (comics.data.faces.manifest)
_C.DATASETS.TRAIN = ["openforensics_train"]
# Of face methods: share of each set of TRAIN in every batch, any positive scale; [] = as they are
_C.DATASETS.TRAIN_SHARES = []
_C.DATASETS.VAL = ["openforensics_val"]  # checkpoints are chosen on these only
# Evaluated by tools/train_net.py --eval-only
_C.DATASETS.TEST = ["openforensics_test_dev", "openforensics_test_challenge"]
_C.DATASETS.ROOT = "datasets"  # registered names live below this; COMICS_DATASETS overrides it

_C.INPUT = CfgNode()
_C.INPUT.FORMAT = "RGB"  # channel order that the weights expect; images are RGB everywhere
# Sizes are reconstructed, as the warm-up below is: the paper states none
# (docs/methods.md#comics-schedule)
_C.INPUT.MIN_SIZE_TRAIN = [640, 672, 704, 736, 768, 800]  # short side, pixels, one drawn per image
_C.INPUT.MAX_SIZE_TRAIN = 1024  # long side, pixels
_C.INPUT.MIN_SIZE_TEST = 800  # short side, pixels
_C.INPUT.MAX_SIZE_TEST = 1024  # long side, pixels
_C.INPUT.RANDOM_FLIP = "horizontal"  # or "none"
_C.INPUT.ROTATION = 0.0  # degrees; the angle is drawn from +- this
_C.INPUT.MAX_PIXELS = 178_956_970  # larger images are refused before decoding

_C.INPUT.CROP = CfgNode()  # a random crop that keeps at least one whole face
_C.INPUT.CROP.ENABLED = False  # crop training images
_C.INPUT.CROP.SIZE = [0.6, 1.0]  # share of each side, drawn from this range
_C.INPUT.CROP.AFTER_RESIZE = False  # True: faces keep their scale; images are smaller

_C.INPUT.MOSAIC = CfgNode()  # square training samples of one size, of one photo or of four
_C.INPUT.MOSAIC.SIZE = 0  # side, pixels; 0 = photos keep their own size
_C.INPUT.MOSAIC.PROB = 0.5  # probability of four photos; else the square is a window of one

# DA: photometric views (paper, IV-A; docs/methods.md#comics-views). Of the paper are the kinds,
# JITTER_PROB, the blocks and DOWNSCALE; the other probabilities and all ranges are reconstructed
_C.INPUT.VIEWS = CfgNode()
_C.INPUT.VIEWS.ENABLED = True  # augment training images; off = the ablation row without DA
_C.INPUT.VIEWS.JITTER_PROB = 0.5  # each of brightness, contrast, saturation, sharpness
_C.INPUT.VIEWS.JITTER = 0.4  # factor drawn from 1 +- this
_C.INPUT.VIEWS.GRAY_PROB = 0.2  # conversion to grey
_C.INPUT.VIEWS.BLOCK_PROB = 0.2  # random blocking
_C.INPUT.VIEWS.BLOCK_GRID = 10  # chunks per side
_C.INPUT.VIEWS.BLOCK_SHARE = [0.02, 0.06]  # of the chunks blanked
_C.INPUT.VIEWS.GAUSSIAN_PROB = 0.2  # Gaussian noise
_C.INPUT.VIEWS.GAUSSIAN_SIGMA = [2.0, 15.0]  # on the 0-255 scale
_C.INPUT.VIEWS.SALT_PEPPER_PROB = 0.2  # salt-and-pepper noise
_C.INPUT.VIEWS.SALT_PEPPER_SHARE = [0.001, 0.02]  # of the pixels
_C.INPUT.VIEWS.DOWNSCALE_PROB = 0.2  # linear interpolation
_C.INPUT.VIEWS.DOWNSCALE = 4  # shrink to 1/4 and back
# Instead of all that, with this probability, a mixture of corruptions of the challenge set, else
# the image as it is: an oracle that knows the test, to be compared with (docs/protocols.md#arms)
_C.INPUT.VIEWS.CHALLENGE_PROB = 0.0

add_face_data_config(_C)  # INPUT.FACE: in comics/config/face_data.py

_C.DATALOADER = CfgNode()
_C.DATALOADER.NUM_WORKERS = 2  # processes that read and augment; 0 = the training process itself
_C.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True  # leave images without faces out of training
_C.DATALOADER.ASPECT_RATIO_GROUPING = True  # batches of portraits or of landscapes: less padding

# ---------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------
_C.SOLVER = CfgNode()
# "SGD", "Adam" or "AdamW". The paper states the learning rate, its steps, epochs and batches; the
# optimiser, momentum and decay are reconstructed (docs/methods.md#comics-schedule)
_C.SOLVER.OPTIMIZER = "SGD"
_C.SOLVER.IMS_PER_BATCH = 8  # images per step, all processes and accumulation steps together
_C.SOLVER.ACCUMULATE = 1  # backward passes per optimiser step
_C.SOLVER.BASE_LR = 0.01  # learning rate after the warm-up
_C.SOLVER.MOMENTUM = 0.9  # of SGD
_C.SOLVER.WEIGHT_DECAY = 1e-4  # of convolutions and linear layers
_C.SOLVER.WEIGHT_DECAY_NORM = 0.0  # of normalisation layers
_C.SOLVER.MAX_ITER = 66180  # 12 epochs of OpenForensics' 44,122 images in batches of 8
_C.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"  # or "WarmupCosineLR"
_C.SOLVER.STEPS = [44120, 55150]  # epochs 8 and 10
_C.SOLVER.GAMMA = 0.1  # factor on the learning rate at each of STEPS
_C.SOLVER.WARMUP_ITERS = 1000  # iterations of linear warm-up (reconstructed)
_C.SOLVER.WARMUP_FACTOR = 0.001  # learning rate at iteration 0, as a share of BASE_LR
# Decay per step of an average of the weights, which is validated and exported instead of them; it
# looks back on about 1 / (1 - decay) steps. 0 = no average
_C.SOLVER.EMA_DECAY = 0.0
_C.SOLVER.CHECKPOINT_PERIOD = 5000  # iterations between checkpoints
_C.SOLVER.KEEP_CHECKPOINTS = 2  # older ones are deleted; the best and the last stay

_C.SOLVER.CLIP_GRADIENTS = CfgNode()
_C.SOLVER.CLIP_GRADIENTS.ENABLED = False  # limit the norm of the gradient
_C.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 10.0  # norm of all gradients together

_C.SOLVER.AMP = CfgNode()
_C.SOLVER.AMP.ENABLED = False  # mixed precision
_C.SOLVER.AMP.PRECISION = "bfloat16"  # or "float16", with loss scaling

# torch.compile what turns pictures into features: quicker steps after a minute of compiling, where
# training pictures are of one size (crops, mosaics)
_C.SOLVER.COMPILE = False
# Weights and maps with their channels side by side, which convolutions on the CPU and mixed
# precision on a GPU are quicker with (docs/benchmarks.md)
_C.SOLVER.CHANNELS_LAST = True
# Matrix products and convolutions of float32 in TF32 on a GPU that has it: quicker, with ten bits
# of mantissa. Inference never does: what a picture gets must not depend on the device
_C.SOLVER.TF32 = False
# Several processes: look for parameters that a step gives no gradient, which costs a walk through
# the graph. Of the models here each loss reaches all its parameters, faces or not, and those that
# train in stages say so themselves; True: look in any case, for a model of another package
_C.SOLVER.FIND_UNUSED_PARAMETERS = False

_C.LOG = CfgNode()
_C.LOG.PERIOD = 20  # iterations between lines of metrics.jsonl
_C.LOG.TENSORBOARD = False  # also write TensorBoard events (needs the extra "tensorboard")

_C.TEST = CfgNode()
_C.TEST.EVAL_PERIOD = 0  # iterations between validations; 0 = only at the end
_C.TEST.IMS_PER_BATCH = 1  # images per forward pass of an evaluation
_C.TEST.BEST_METRIC = "segm/AP"  # on DATASETS.VAL; higher is better
_C.TEST.DETECTIONS_PER_IMAGE = 100  # of Mask R-CNN; the others have keys of their own
_C.TEST.SCORE_THRESH = 0.5  # faces shown by tools/infer.py have at least this score
_C.TEST.FAKE_THRESH = 0.5  # a face is called forged from this P(fake) on
# When a verdict is "unclear" instead of real or fake (decision). A model file's own values are
# chosen on validation data; 0 switches a reason off
_C.TEST.UNCLEAR = CfgNode()
_C.TEST.UNCLEAR.BELOW = 0.0  # too near: P(fake) from FAKE_THRESH - BELOW
_C.TEST.UNCLEAR.ABOVE = 0.0  # up to FAKE_THRESH + ABOVE
_C.TEST.UNCLEAR.MIN_SIDE = 24.0  # too small: the shorter side of the box is under this, pixels
# Too compressed: steps across the codec's 8 x 8 blocks are steeper by this factor than elsewhere
_C.TEST.UNCLEAR.MAX_BLOCKINESS = 0.0
_C.TEST.MERGE_IOU = 0.5  # detections of any class that overlap by this IoU are one face
# Score of a class that was not detected at a face's place: the detectors' candidate threshold
_C.TEST.MISSING_SCORE = 0.05

# Small faces in large pictures: besides the whole picture, the detector sees overlapping tiles of
# it, at a larger scale. Costs a forward pass per tile, so it is asked for (comics detect --tiling)
_C.TEST.TILING = CfgNode()
# "never"; "auto": pictures whose short side the whole-picture pass would shrink MIN_SHRINK times or
# more; "always": all pictures larger than a tile
_C.TEST.TILING.MODE = "never"
_C.TEST.TILING.SIZE = 1024  # side of a tile, pixels of the picture as given
_C.TEST.TILING.OVERLAP = 256  # of neighbours, pixels: smaller faces are whole in some tile
_C.TEST.TILING.MIN_SHRINK = 2.0  # for "auto"

_C.TEST.VIDEO = CfgNode()  # from frames to tracks and verdicts; decisions: no paper judges videos
_C.TEST.VIDEO.TRACK_IOU = 0.1  # boxes of one face in two analysed frames overlap at least this much
_C.TEST.VIDEO.LOST_SECONDS = 1.0  # a face that was not seen for longer starts a new track
_C.TEST.VIDEO.TRIM = 0.2  # share of a track's frames left out at either end of their logits' order
_C.TEST.VIDEO.MIN_FRAMES = 3  # analysed frames that a track needs to speak for its video


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults."""
    return _C.clone()


def load_config(path: str | os.PathLike | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults, then a YAML file (with its ``_BASE_`` chain), then ``KEY VALUE`` pairs; frozen.

    Raises:
        KeyError: for an unknown key, naming the nearest valid one.
        ValueError: for a value of the wrong type, an odd number of overrides, or a file that is
            not usable (``comics.config.files``).
        FileNotFoundError: if ``path`` or one of its bases does not exist.
    """
    cfg = get_cfg()
    if path is not None:
        merge_node(cfg, read_config_file(path))
    merge_overrides(cfg, overrides)
    cfg.freeze()
    return cfg


def load_config_text(text: str) -> CfgNode:
    """The configuration that ``cfg.dump()`` wrote, as stored in a checkpoint; frozen."""
    cfg = get_cfg()
    merge_node(cfg, parse_config(text, "the configuration of a model file"))
    cfg.freeze()
    return cfg


def merge_node(cfg: CfgNode, other: CfgNode | dict) -> None:
    """Merge ``other`` into ``cfg`` in place; unknown keys raise as in ``load_config``.

    Keys of ``comics.config.renamed`` may have their old name.
    """
    other = with_new_names(other if isinstance(other, CfgNode) else CfgNode(other))
    _require_known(cfg, _leaf_keys(other))
    _require_values(cfg, other)
    cfg.merge_from_other_cfg(other)


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merge ``KEY VALUE`` pairs into ``cfg`` in place; raises as ``load_config``."""
    if len(overrides) % 2:
        raise ValueError(f"overrides are KEY VALUE pairs, got {len(overrides)} words: {overrides}")
    words = words_with_new_names(overrides)
    _require_known(cfg, words[::2])
    cfg.merge_from_list(words)


def _leaf_keys(node: dict, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in node.items():
        if isinstance(value, dict) and value:
            keys += _leaf_keys(value, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _require_values(cfg: CfgNode, other: dict, prefix: str = "") -> None:
    """Raise for a key without a value, which would unset the default, or with one for many."""
    for name, value in other.items():
        default = cfg.get(name)
        if value is None and default is not None:
            raise ValueError(f"{prefix}{name} has no value")
        if isinstance(default, dict):
            if not isinstance(value, dict):
                raise ValueError(f"{prefix}{name} takes keys of its own, not {value!r}")
            _require_values(default, value, f"{prefix}{name}.")


def _require_known(cfg: CfgNode, keys: Sequence[str]) -> None:
    """Raise for the first key that is neither one with a value nor the beginning of such."""
    known = dict.fromkeys(_leaf_keys(cfg))
    for key in keys:
        if key in known or any(name.startswith(key + ".") for name in known):
            continue
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        raise KeyError(f"unknown configuration key {key!r}; the nearest is {nearest!r}")
