"""Cross-entropy over real and every forgery method.

"CE-5" of docs/papers.md#guidespace, Table 3, on four methods.

Shape letters: N crops; C channels; h, w of the feature map; n forgery methods.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from comics.config import CfgNode
from comics.modeling.faces.base import FaceMethod, FaceTrainingOutput
from comics.modeling.faces.domains import forgery_domains
from comics.modeling.faces.encoder import Encoder
from comics.registry import FACE_METHODS
from comics.structures import REAL, FaceBatch


@FACE_METHODS.register()
class MulticlassCrossEntropy(FaceMethod):
    """A class per forgery method; P(fake) is one minus the probability of "real".

    Args:
        encoder: see ``FaceMethod``, as further keyword arguments.
        num_domains: n, forgery methods of the training set.
    """

    needs_methods = True
    crop_size = 299

    def __init__(self, encoder: Encoder, *, num_domains: int, **shared: Any) -> None:
        super().__init__(encoder, **shared)
        self.num_domains = num_domains
        self.classifier = nn.Linear(encoder.num_features, 1 + num_domains)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MulticlassCrossEntropy:
        """From ``MODEL.FACE.MULTICLASS``."""
        return cls(**cls.settings(cfg), num_domains=cfg.MODEL.FACE.MULTICLASS.NUM_DOMAINS)

    def class_logits(self, feature_map: Tensor) -> Tensor:
        """[N, 1 + n] of [N, C, h, w]; class 0 is real."""
        return self.classifier(self.encoder.pool(feature_map))

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Log-odds [N] of "any forgery" against "real"."""
        logits = self.class_logits(feature_map).float()
        return logits[:, REAL + 1 :].logsumexp(dim=1) - logits[:, REAL]

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Cross-entropy of the forgery domains."""
        domains = forgery_domains(batch, self.num_domains)
        logits = self.class_logits(self.feature_map(batch.images)).float()
        return FaceTrainingOutput({"loss_ce": functional.cross_entropy(logits, domains)})
