"""Mask R-CNN on a feature pyramid, numerically Detectron2's; and its stages, for detectors that
have some of them: this package's public names.
"""

from comics.modeling.detectors.mask_rcnn.detector import MaskRCNN, require_levels
from comics.modeling.detectors.mask_rcnn.heads import BoxDetections, MaskHead
from comics.modeling.detectors.mask_rcnn.pooled_masks import PooledMaskDetector, resized
from comics.modeling.detectors.mask_rcnn.sampling import ProposalSampler, SampledProposals

__all__ = [
    "BoxDetections",
    "MaskHead",
    "MaskRCNN",
    "PooledMaskDetector",
    "ProposalSampler",
    "SampledProposals",
    "require_levels",
    "resized",
]
