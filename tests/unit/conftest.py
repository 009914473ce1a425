"""Configurations that make models of milliseconds, for every registered detector."""

import pytest

from comics.config import load_config

TINY = [
    "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "16",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1",
    "MODEL.FCOS.NUM_BOX_CONVS", "1", "MODEL.BASIS_MODULE.CONVS_DIM", "16",
    "MODEL.BASIS_MODULE.NUM_CONVS", "1", "MODEL.BLENDMASK.ATTN_SIZE", "7",
    "MODEL.BLENDMASK.BOTTOM_RESOLUTION", "28", "MODEL.COMICS.PROPOSAL.BANK_SIZE", "64",
    "MODEL.COMICS.PROPOSAL.DIM", "16", "MODEL.COMICS.PROPOSAL.MATCH", "assigned",
]  # fmt: skip
# What a detector needs besides, plain and as its COMICS variant
TINY_OF = {
    "MEInst": [
        "MODEL.MEInst.NUM_CLS_CONVS", "1", "MODEL.MEInst.NUM_BOX_CONVS", "1",
        "MODEL.MEInst.NUM_MASK_CONVS", "1", "MODEL.MEInst.DIM_MASK", "20",
    ],
    "SOLOv2": [
        "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.TOP_BLOCK", "pool", "MODEL.SOLOV2.NUM_GRIDS", "[16, 12, 8, 6, 4]",
        "MODEL.SOLOV2.INSTANCE_CHANNELS", "32", "MODEL.SOLOV2.NUM_INSTANCE_CONVS", "1",
        "MODEL.SOLOV2.MASK_CHANNELS", "32", "MODEL.SOLOV2.NUM_KERNELS", "32",
        "MODEL.SOLOV2.NUM_MASKS", "32",
        "MODEL.COMICS.PROPOSAL.LEVELS", "['p2', 'p3', 'p4', 'p5', 'p6']",
    ],
    "MaskRCNN": [
        "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
        "MODEL.FPN.TOP_BLOCK", "pool", "MODEL.ROI_BOX_HEAD.FC_DIM", "64",
        "MODEL.ROI_MASK_HEAD.CONV_DIM", "32", "MODEL.ROI_MASK_HEAD.NUM_CONV", "2",
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "200", "MODEL.RPN.PRE_NMS_TOPK_TEST", "100",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "50",
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32",
        "MODEL.COMICS.PROPOSAL.LEVELS", "['p2', 'p3', 'p4', 'p5']",
        "MODEL.COMICS.PROPOSAL.LEVEL_WEIGHTS", "[0.1, 0.2, 0.4, 0.7]",
    ],
    "CondInst": [
        "MODEL.CONDINST.MASK_BRANCH.CHANNELS", "16", "MODEL.CONDINST.MASK_BRANCH.NUM_CONVS", "1",
    ],
}  # fmt: skip


def words_of(name: str) -> list[str]:
    """KEY VALUE pairs of a tiny model of that architecture."""
    own = TINY_OF.get(name.removeprefix("COMICS"), [])
    return [*TINY, *own, "MODEL.META_ARCHITECTURE", name]


def config_of(name: str, *overrides: str):
    return load_config(overrides=[*words_of(name), *overrides])


@pytest.fixture(scope="session")
def tiny_words():
    """Function: name of an architecture to the keys and values that make it tiny."""
    return words_of


@pytest.fixture(scope="session")
def tiny_config():
    """Function: name of an architecture and further keys and values to its configuration."""
    return config_of
