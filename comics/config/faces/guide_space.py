"""The configuration keys of GuideSpace."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(_F: CfgNode) -> None:
    """Add them to ``cfg.MODEL.FACE``."""
    _F.GUIDE_SPACE = CfgNode()
    # n: forgery methods of the training set at most; a training takes as many as its manifest has
    _F.GUIDE_SPACE.NUM_DOMAINS = 4
    # Dimensions of a linear embedding after pooling, which features are then; 0 = none. Encoders
    # that end in a ReLU need one (512, decision): without it no two features are beyond 90 degrees
    _F.GUIDE_SPACE.EMBEDDING_DIM = 0
    _F.GUIDE_SPACE.ANGLE = 120.0  # theta, degrees between the real and any forgery guide (Table 5)
    _F.GUIDE_SPACE.TEMPERATURE = 0.1  # tau (reconstructed)
    _F.GUIDE_SPACE.DOMAIN_MOMENTUM = 0.9  # of the mean feature of a domain, for batches without it
    _F.GUIDE_SPACE.BANK_SIZE = 5120  # features in F
    _F.GUIDE_SPACE.GUIDE_WEIGHT = 1.0  # lambda 1; 0 = without it (Table 3), as the next three
    _F.GUIDE_SPACE.CE_WEIGHT = 1.0  # lambda 2
    _F.GUIDE_SPACE.PUSH_WEIGHT = 0.1  # lambda 3
    _F.GUIDE_SPACE.PULL_WEIGHT = 0.1  # lambda 4
    # Below this log-probability a pair is pushed no further (reconstructed); 0 = -log|F| - 1/tau
    _F.GUIDE_SPACE.PUSH_FLOOR = 0.0
    # Leave features of the sample's own domain out of the guide loss's denominator; as printed,
    # they repel it (decision)
    _F.GUIDE_SPACE.MASK_SAME_DOMAIN = False
    _F.GUIDE_SPACE.ADJUST = True  # A-DBM: weigh samples by their neighbourhood (Table 3)
    _F.GUIDE_SPACE.ADJUST_EPOCH = 10  # samples weigh the same before this epoch
    _F.GUIDE_SPACE.NEIGHBOURS = 55  # k nearest of F
    _F.GUIDE_SPACE.OTHER_FAKE_WEIGHT = 0.5  # alpha between two forgery methods (reconstructed)
    _F.GUIDE_SPACE.SET_SIZE = 10  # features drawn from F to push, and to pull, per sample
    _F.GUIDE_SPACE.NUM_CLUSTERS = 500  # of the offline k-means, read by the clustering tool
    # What the classifier sees: the "pooled" feature (decision), embedded where there is an
    # embedding, or its "unit" vector
    _F.GUIDE_SPACE.CLASSIFIER_INPUT = "pooled"
