"""Face methods: each a file of its own, all with the contract of ``base``."""

from comics.modeling.faces import (  # noqa: F401  (each import fills a table: methods, encoders)
    adversarial_alignment,
    compression_relation,
    cross_entropy,
    dcl,
    guide_space,
    l1_alignment,
    metric_learning,
    multiclass_cross_entropy,
    real_centric,
    small_encoder,
    supervised_contrastive,
    triplet,
)
