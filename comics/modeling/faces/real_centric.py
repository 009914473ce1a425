"""RealCentric, real-centric consistency learning: docs/methods.md#realcentric.

Shape letters: Q embeddings of a batch; E synthesised positives; K mixed features; D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.bank import gather_rows
from comics.modeling.faces.encoder import Encoder
from comics.modeling.faces.hard_features import HardFeatureMemory, mix, smooth
from comics.modeling.faces.supervised_contrastive import SupervisedContrastive, margin_loss
from comics.registry import FACE_METHODS
from comics.structures import FAKE, REAL

FUSIONS = ("smooth", "linear", "linear+smooth")
MIXED_ROLES = ("negatives", "fakes", "none")


@FACE_METHODS.register()
class RealCentric(SupervisedContrastive):
    """Supervised contrastive learning with features synthesised at the margin of either class.

    View "positive": another view, frame or video of the same kind (the pairing is the data
    pipeline's). Order within a step (reconstructed): the centre takes the batch; the hard
    features of **earlier** batches are fused with this batch; then the batch competes for the hard
    sets. Gradients flow through the batch features that a synthesised one contains, not through
    the stored ones.

    Args:
        positives: whether fused hard features join the batch as positives (Table 5).
        hard_size: K, global hard features per class.
        neighbours: m, batch features that smooth one.
        fusion: "smooth", "linear" or "linear+smooth" (Table 4).
        linear_hard, linear_neighbours: hard features that "linear" combines, with how many each.
        mixed: what mixed real and fake features are: "negatives" of everything, "fakes"
            (Table 6), or "none" (Table 5).
        local_hard: k_l, fakes of the batch nearest the centre.
        mixed_neighbours: s, batch reals that each is mixed with.
        mix_beta: of the mixing coefficient's distribution.
        encoder: see ``SupervisedContrastive``, as further keyword arguments.

    Raises:
        ValueError: for an unknown fusion or role.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        positives: bool,
        hard_size: int,
        neighbours: int,
        fusion: str,
        linear_hard: int,
        linear_neighbours: int,
        mixed: str,
        local_hard: int,
        mixed_neighbours: int,
        mix_beta: float,
        **shared: Any,
    ) -> None:
        super().__init__(encoder, **shared)
        if fusion not in FUSIONS:
            raise ValueError(f"REAL_CENTRIC.FUSION must be one of {FUSIONS}, got {fusion!r}")
        if mixed not in MIXED_ROLES:
            raise ValueError(f"REAL_CENTRIC.MIXED must be one of {MIXED_ROLES}, got {mixed!r}")
        self.positives = positives
        self.hard_size = hard_size
        self.neighbours = neighbours
        self.fusion = fusion
        self.linear_hard = linear_hard
        self.linear_neighbours = linear_neighbours
        self.mixed = mixed
        self.local_hard = local_hard
        self.mixed_neighbours = mixed_neighbours
        self.mix_beta = mix_beta

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RealCentric:
        """From ``MODEL.FACE.REAL_CENTRIC``."""
        keys = cfg.MODEL.FACE.REAL_CENTRIC
        return cls(
            **cls.settings(cfg),
            positives=keys.POSITIVES,
            hard_size=keys.HARD_SIZE,
            neighbours=keys.NEIGHBOURS,
            fusion=keys.FUSION,
            linear_hard=keys.LINEAR_HARD,
            linear_neighbours=keys.LINEAR_NEIGHBOURS,
            mixed=keys.MIXED,
            local_hard=keys.LOCAL_HARD,
            mixed_neighbours=keys.MIXED_NEIGHBOURS,
            mix_beta=keys.MIX_BETA,
        )

    def training_modules(self) -> dict[str, nn.Module]:
        """The projector, the real centre and the hard features."""
        memory = HardFeatureMemory(self.hard_size, self.dim)
        return {**super().training_modules(), "memory": memory}

    def start_epoch(self, epoch: int) -> None:
        """As ``SupervisedContrastive``; a new epoch forgets centre and hard features.

        The epoch that a resumed checkpoint was written in is not new, and forgets nothing.
        """
        self.require_prepared()
        if epoch != int(self.training_part("clock").epoch):
            self.training_part("memory").reset()
        super().start_epoch(epoch)

    def contrastive_loss(self, z: Tensor, labels: Tensor) -> Tensor:
        """Margin loss of unit embeddings [Q, D] with labels [Q]; centre and hard sets move."""
        memory = self.training_part("memory")
        gathered, gathered_labels = gather_rows(z.detach(), labels)
        memory.update_centre(gathered, gathered_labels)
        extra, extra_labels = self.fused_positives(z, labels)
        mixed = self.mixed_features(z, labels)
        negatives = mixed if self.mixed == "negatives" else None
        if self.mixed == "fakes":
            extra = torch.cat([extra, mixed])
            extra_labels = torch.cat([extra_labels, labels.new_full((len(mixed),), FAKE)])
        loss = margin_loss(
            z,
            labels,
            self.temperature,
            extra=extra,
            extra_labels=extra_labels,
            negatives=negatives,
        )
        memory.update_hard(gathered, gathered_labels)
        return loss

    def fused_positives(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[E, D] features made of the hard sets and the batch, and their labels [E]."""
        if not self.positives:
            return z[:0], labels[:0]
        parts, part_labels = [], []
        for label in (REAL, FAKE):
            hard = self.training_part("memory").rows(label)
            fused = self._fuse(hard, z[labels == label])
            parts.append(fused)
            part_labels.append(labels.new_full((len(fused),), label))
        return torch.cat(parts), torch.cat(part_labels)

    def mixed_features(self, z: Tensor, labels: Tensor) -> Tensor:
        """[K, D]: the batch's hard fakes, each mixed with the batch reals nearest to it."""
        centre = self.training_part("memory").centre()
        fakes = z[labels == FAKE]
        if self.mixed == "none" or centre is None or len(fakes) == 0:
            return z[:0]
        count = min(self.local_hard, len(fakes))
        hardest = fakes[(fakes @ centre).topk(count).indices]
        return mix(hardest, z[labels == REAL], self.mixed_neighbours, self.mix_beta)

    def _fuse(self, hard: Tensor, batch: Tensor) -> Tensor:
        """One class's positives; "linear" mixes by a Beta coefficient too (reconstructed)."""
        if self.fusion == "smooth":
            return smooth(hard, batch, self.neighbours)
        linear = mix(hard[: self.linear_hard], batch, self.linear_neighbours, self.mix_beta)
        return linear if self.fusion == "linear" else smooth(linear, batch, self.neighbours)
