"""The contract of a face method: a classifier of face crops with training losses of its own.

At inference a method is an encoder and a classifier. Everything else (key encoders, banks,
projections, guides) lives in ``training_only``: see ``comics.modeling.life_cycle``.
Shape letters: N, B crops; C channels; S side of a crop; h, w of the feature map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from comics.config import CfgNode
from comics.modeling.faces.encoder import Encoder, build_encoder
from comics.modeling.life_cycle import TrainingLifeCycle
from comics.structures import FAKE, REAL, FaceBatch


@dataclass(frozen=True)
class FaceTrainingOutput:
    """What a face method computes in one training step.

    Attributes:
        losses: name -> scalar, already weighted; their sum is minimised.
        metrics: name -> scalar without gradient, for the log only.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)


class TrainingClock(nn.Module):
    """Where a training run stands; in buffers, so that a checkpoint holds it.

    Attributes:
        epoch: int64 scalar, -1 before the first ``start_epoch``.
        step: int64 scalar, optimiser steps taken.
    """

    epoch: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epoch", torch.tensor(-1))
        self.register_buffer("step", torch.tensor(0))


class FaceMethod(TrainingLifeCycle):
    """Base class: normalisation, the two modes of ``forward``, and the hooks of a training run.

    Class attributes state what a training sample must bring; where a configuration switches a
    part off, the instance's attribute of the same name says less. The data pipeline reads the
    instance.

    Attributes:
        views: names of the further views of each sample, keys of ``FaceBatch.views``.
        needs_masks: whether ``FaceBatch.masks`` is used.
        needs_methods: whether ``FaceBatch.methods`` must be known for every fake.
        needs_clusters: whether ``FaceBatch.clusters`` is used.
        crop_size: S in pixels, the paper's.

    Args:
        encoder: maps normalised crops to a feature map.
        pixel_mean, pixel_std: three values each, RGB, 0-255 scale; None = the encoder's own.
        crop_size: S; 0 = the method's own.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    views: tuple[str, ...] = ()
    needs_masks: bool = False
    needs_methods: bool = False
    needs_clusters: bool = False
    crop_size: int = 224

    def __init__(
        self,
        encoder: Encoder,
        *,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        crop_size: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.crop_size = crop_size or type(self).crop_size
        for name, given in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            values = torch.tensor(given or getattr(encoder, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.reserve_training_only()

    @staticmethod
    def settings(cfg: CfgNode) -> dict:
        """Constructor arguments of this class, from ``MODEL.FACE``."""
        face = cfg.MODEL.FACE
        return {
            "encoder": build_encoder(face.ENCODER),
            "pixel_mean": list(face.PIXEL_MEAN),
            "pixel_std": list(face.PIXEL_STD),
            "crop_size": face.CROP_SIZE,
        }

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FaceMethod:
        """The method that ``MODEL.FACE`` describes, with random weights."""
        raise NotImplementedError

    def encoders(self) -> list[Encoder]:
        """The encoders that are trained by gradient and predict; their statistics are averaged."""
        return [self.encoder]

    def load_encoder_weights(self, state: Mapping[str, Tensor], source: str) -> None:
        """Start from an encoder's weights; a method of several encoders starts each from them.

        Raises:
            ValueError: listing what does not fit; nothing is loaded.
        """
        self.encoder.load_weights(state, source)

    # -- inference ----------------------------------------------------------------------------

    def preprocess(self, crops: Tensor) -> Tensor:
        """Normalise RGB crops on the 0-255 scale ([N, 3, S, S], uint8 or float)."""
        if crops.ndim != 4 or crops.shape[1] != 3 or 0 in crops.shape[2:]:
            raise ValueError(f"crops must be [N, 3, h, w], got {tuple(crops.shape)}")
        return (crops.to(self.pixel_mean) - self.pixel_mean) / self.pixel_std

    def feature_map(self, crops: Tensor) -> Tensor:
        """[N, C, h, w] that the classifier sees, of crops on the 0-255 scale."""
        return self.encoder.forward_map(self.preprocess(crops))

    def map_logits(self, feature_map: Tensor) -> Tensor:
        """Logits [N] of ``feature_map``; P(fake) is their sigmoid."""
        raise NotImplementedError

    def forward(self, data: FaceBatch | Tensor) -> FaceTrainingOutput | Tensor:
        """Training mode: the losses of a ``FaceBatch``. Evaluation mode: logits of crops.

        Evaluation is ``map_logits(feature_map(crops))`` of RGB crops [N, 3, h, w] on the 0-255
        scale, N >= 0: a heat map is computed from what lies between.

        Raises:
            ValueError: for malformed crops, unknown labels or a view that is absent.
            RuntimeError: when training before ``prepare_training``.
        """
        if self.training:
            self.require_prepared()
            batch = cast(FaceBatch, data)
            check_face_batch(batch, self.views)
            return self.training_step(batch)
        crops = cast(Tensor, data)
        if len(crops) == 0:
            return self.pixel_mean.new_zeros(0)
        return self.map_logits(self.feature_map(crops)).float()

    # -- training -----------------------------------------------------------------------------

    def training_step(self, batch: FaceBatch) -> FaceTrainingOutput:
        """Losses of a checked batch; banks and other state take it in."""
        raise NotImplementedError

    def standing_modules(self) -> dict[str, nn.Module]:
        """The clock of the run."""
        return {"clock": TrainingClock()}

    def start_epoch(self, epoch: int) -> None:
        """See ``TrainingLifeCycle.start_epoch``; sets the clock."""
        self.require_prepared()
        self.training_part("clock").epoch.fill_(epoch)

    def after_optimizer_step(self) -> None:
        """Once per optimiser step: average statistics over the processes, count the step."""
        self.require_prepared()
        for encoder in self.encoders():
            average_statistics(encoder)
        self.training_part("clock").step += 1

    @property
    def epoch(self) -> int:
        """The epoch that training is in; 0 before the first one starts."""
        if self.training_only is None:  # torch.jit.trace asks every property of every module
            return 0
        return max(int(self.training_part("clock").epoch), 0)

    @property
    def step(self) -> int:
        """Optimiser steps taken; 0 before training is prepared."""
        if self.training_only is None:
            return 0
        return int(self.training_part("clock").step)


def check_face_batch(batch: FaceBatch, views: Sequence[str]) -> None:
    """Raise ``ValueError`` unless labels are known and every named view is there."""
    unknown = ((batch.labels != REAL) & (batch.labels != FAKE)).nonzero().flatten().tolist()
    if unknown:
        name, label = batch.file_names[unknown[0]], int(batch.labels[unknown[0]])
        raise ValueError(f"{name}: label must be 0 (real) or 1 (fake), got {label}")
    for view in views:
        if view not in batch.views or view not in batch.valid:
            raise ValueError(
                f"this method needs the view {view!r}; the batch has {sorted(batch.views)}, "
                f"validity of {sorted(batch.valid)}"
            )


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Average floating-point buffers (batch statistics) over the processes, in one exchange.

    Without it every process would normalise keys, and evaluate, by statistics of its own.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    buffers = [b for b in module.buffers() if b.is_floating_point()]
    if not buffers:
        return
    flat = torch.cat([b.flatten() for b in buffers])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
