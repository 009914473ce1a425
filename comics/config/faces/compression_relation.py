"""The configuration keys of CompressionRelation."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(_F: CfgNode) -> None:
    """Add them to ``cfg.MODEL.FACE``."""
    _F.COMPRESSION_RELATION = CfgNode()
    # Read by the data pipeline: "raw", or "c" and the H.264 constant rate factor
    _F.COMPRESSION_RELATION.WEAK = "c23"  # "raw" in the last row of Table 3
    _F.COMPRESSION_RELATION.STRONG = "c40"  # the same, of the strong compression
    _F.COMPRESSION_RELATION.RELATION = True  # relation loss (Table 3)
    _F.COMPRESSION_RELATION.CONTRAST = True  # contrastive loss (Table 3)
    _F.COMPRESSION_RELATION.KEY_MOMENTUM = 0.999  # of F' and g'
    # Start with less: (1 + s) / (10 + s) after s steps, while that is below KEY_MOMENTUM; else F'
    # stays behind F for thousands of steps (decision)
    _F.COMPRESSION_RELATION.MOMENTUM_WARMUP = True
    # "momentum": F' and g' (paper); "query": F and g ("CE loss" of Table 3)
    _F.COMPRESSION_RELATION.TEST_WITH = "momentum"
    _F.COMPRESSION_RELATION.BANK_SIZE = 16384  # embeddings per class (Table 4)
    _F.COMPRESSION_RELATION.WEAK_TEMPERATURE = 0.04  # tau of the target distribution
    _F.COMPRESSION_RELATION.STRONG_TEMPERATURE = 0.1  # tau of the distribution that learns
    _F.COMPRESSION_RELATION.CONTRAST_TEMPERATURE = 0.07  # tau of the contrastive loss
    _F.COMPRESSION_RELATION.BETA = [0.1, 0.1]  # weights of relation and contrast
    _F.COMPRESSION_RELATION.WARMUP_BETA = [0.01, 0.01]  # the same in the first steps
    _F.COMPRESSION_RELATION.WARMUP_STEPS = 0  # how many these are (2000 for Celeb-DF)
