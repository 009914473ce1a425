"""The configuration keys of the baselines of the papers' tables."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_keys(_F: CfgNode) -> None:
    """Add them to ``cfg.MODEL.FACE``."""
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
