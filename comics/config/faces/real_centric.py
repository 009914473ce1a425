"""The configuration keys of RealCentric."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(_F: CfgNode) -> None:
    """Add them to ``cfg.MODEL.FACE``."""
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
    # Contrastive learning's augmentation (the paper's reference 25), which the data pipeline takes
    # instead of INPUT.FACE's colours (values: decision); also of SupervisedContrastive and CORE
    _F.REAL_CENTRIC.VIEWS = CfgNode()
    _F.REAL_CENTRIC.VIEWS.ENABLED = True  # False: INPUT.FACE augments, as in other methods
    _F.REAL_CENTRIC.VIEWS.AREA = [0.2, 1.0]  # share of a crop that a random crop keeps
    _F.REAL_CENTRIC.VIEWS.ASPECT = [0.75, 1.3333]  # of its width and height, evenly in octaves
    _F.REAL_CENTRIC.VIEWS.JITTER_PROB = 0.8  # of colour jitter as a whole
    _F.REAL_CENTRIC.VIEWS.JITTER = 0.4  # brightness, contrast, saturation: factor from 1 +- this
    _F.REAL_CENTRIC.VIEWS.HUE = 0.1  # and the hue's shift from +- this, as a share of the circle
    _F.REAL_CENTRIC.VIEWS.GRAY_PROB = 0.2  # conversion to grey
    _F.REAL_CENTRIC.VIEWS.BLUR_PROB = 0.5  # Gaussian blur
    _F.REAL_CENTRIC.VIEWS.BLUR_SIGMA = [0.1, 2.0]  # its standard deviation, pixels of a 224 px crop
