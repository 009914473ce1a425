"""COMICS around Detectron2's own Generalized R-CNN: its backbone, RPN, ROI heads and model zoo.

Shape letters: B images; C channels; P proposals; F faces; N detections or faces of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, ROIHeads
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional

from comics.integrations.detectron2.backbone import require_free_size
from comics.integrations.detectron2.instances import ground_truth_instances, predicted_faces
from comics.integrations.detectron2.meta_arch import ListOfDicts
from comics.modeling.comics import Comics
from comics.modeling.detectors.base import (
    Detector,
    ImageBatch,
    LevelBoxes,
    LevelProposals,
    TrainingOutput,
    refuse_nan,
)
from comics.modeling.detectors.cells import image_of_each
from comics.structures import Faces

NAME = "COMICSGeneralizedRCNN"
DETECTOR_PREFIX = "detector."  # of the R-CNN's parameters, inside; not in its state dict
# Fields of ground truth that begin with "gt_" follow the proposals that are assigned to it
FACE_FIELD = "gt_face"
LEVEL_PREFIX = "p"


class RCNNDetector(Detector):
    """The parts of Detectron2's ``GeneralizedRCNN`` under the contract of our detectors.

    Args:
        rcnn: built by Detectron2; its parts are taken over.
        pixel_format: ``INPUT.FORMAT``.

    Raises:
        ValueError: if the backbone is no pyramid of levels "p2", "p3", ... or wants images of a
            certain form, if there is no first stage, or if the ROI heads have no pooler of boxes.
    """

    def __init__(self, rcnn: GeneralizedRCNN, pixel_format: str) -> None:
        levels = list(rcnn.backbone.output_shape())
        if not all(name.startswith(LEVEL_PREFIX) for name in levels):
            raise ValueError(f"{NAME} needs a backbone with a pyramid, got the levels {levels}")
        require_free_size(rcnn.backbone, f"{NAME}: the backbone")
        if rcnn.proposal_generator is None:
            raise ValueError(f"{NAME} needs MODEL.PROPOSAL_GENERATOR.NAME 'RPN', got none")
        if _box_pooler(rcnn.roi_heads) is None:
            raise ValueError(f"{NAME} needs ROI heads that pool boxes from the pyramid's levels")
        super().__init__(
            rcnn.backbone,
            rcnn.pixel_mean.flatten().tolist(),
            rcnn.pixel_std.flatten().tolist(),
            pixel_format,
            rcnn.backbone.size_divisibility,
        )
        self.proposal_generator = rcnn.proposal_generator
        self.roi_heads = rcnn.roi_heads

    def training_output(
        self, features: dict[str, Tensor], batch: ImageBatch, targets: Sequence[Faces]
    ) -> TrainingOutput:
        """Detectron2's losses; its sampled foreground as proposals.

        It needs an ``EventStorage``, as any training of Detectron2.
        """
        images = ImageList(batch.tensor, batch.sizes)
        truth = [ground_truth_instances(faces) for faces in targets]
        for instances in truth:
            instances.set(FACE_FIELD, torch.arange(len(instances), device=batch.tensor.device))
        proposals, losses = self.proposal_generator(images, features, truth)
        sampled, head_losses = self.roi_heads(images, features, proposals, truth)
        return TrainingOutput(
            losses={**losses, **head_losses},
            features=features,
            proposals=self._proposals(sampled),
            mask_features=self._mask_level(features),
        )

    def infer(
        self,
        features: dict[str, Tensor],
        batch: ImageBatch,
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Faces]:
        """Detectron2's detections, masks pasted at its threshold.

        Raises:
            NotFiniteError: for a NaN in the features, or in what the box head predicts, which
                Detectron2 passes over as if it were no face.
        """
        refuse_nan("the backbone", features.values())
        images = ImageList(batch.tensor, batch.sizes)
        proposals, _ = self.proposal_generator(images, features, None)
        predictors = self.roi_heads.box_predictor  # a list of a cascade's
        hooks = [
            one.register_forward_hook(_refuse_nan_of_head)
            for one in (predictors if isinstance(predictors, nn.ModuleList) else [predictors])
        ]
        try:
            found, _ = self.roi_heads(images, features, proposals, None)
        finally:
            for hook in hooks:
                hook.remove()
        return [
            predicted_faces(detector_postprocess(one, *size))
            for one, size in zip(found, output_sizes, strict=True)
        ]

    def found(self, features: dict[str, Tensor], batch: ImageBatch) -> Sequence[Faces]:
        """Detectron2's detections, with masks."""
        return self.infer(features, batch, batch.sizes)

    def every_proposal(
        self, features: dict[str, Tensor], batch: ImageBatch
    ) -> dict[str, LevelBoxes]:
        """The first stage's, by the level that the box head pools them from."""
        proposals, _ = self.proposal_generator(ImageList(batch.tensor, batch.sizes), features, None)
        boxes = [one.proposal_boxes.tensor for one in proposals]
        image, joined = image_of_each(boxes), torch.cat(boxes)
        return {
            name: LevelBoxes(image[here], joined[here], cells=None)
            for name, here in self._by_level(joined).items()
        }

    def roi_mask_features(
        self, output: TrainingOutput, boxes: Sequence[Tensor], size: int
    ) -> Tensor:
        """The mask head's last convolution for boxes (one [F_i, 4] each): [F, C, size, size].

        Before the doubling, resized bilinearly, as of our Mask R-CNN
        (docs/methods.md#comics-pixel-maps).

        Raises:
            ValueError: for a mask head other than Detectron2's convolutional one.
        """
        heads = self.roi_heads
        convolutions = getattr(heads.mask_head, "conv_norm_relus", None)
        if convolutions is None or heads.mask_pooler is None:
            raise ValueError(
                f"the pixel contrast knows no features of {type(heads.mask_head).__name__}: set "
                "MODEL.ROI_MASK_HEAD.NAME MaskRCNNConvUpsampleHead, or "
                "MODEL.COMICS.PIXEL.ENABLED False"
            )
        pyramid = [output.features[level] for level in heads.mask_in_features]
        pooled = heads.mask_pooler(pyramid, [Boxes(one) for one in boxes])
        for convolution in convolutions:
            pooled = convolution(pooled)
        if pooled.shape[-1] == size:
            return pooled.float()
        return functional.interpolate(pooled.float(), (size, size), mode="bilinear")

    def _mask_level(self, features: Mapping[str, Tensor]) -> Tensor | None:
        """The finest level that masks are pooled from; tells ``Comics`` that there are masks."""
        if not getattr(self.roi_heads, "mask_on", False):
            return None
        levels = getattr(self.roi_heads, "mask_in_features", None) or list(features)
        return features[levels[0]]

    def _proposals(self, sampled: Sequence[Instances]) -> dict[str, LevelProposals]:
        """Foreground proposals, by the level that the box head pools them from."""
        images, faces, boxes = [], [], []
        for position, one in enumerate(sampled):
            if not one.has(FACE_FIELD):  # an image without faces
                continue
            chosen = one[one.gt_classes < self.roi_heads.num_classes]
            chosen = chosen[chosen.gt_classes >= 0]
            faces.append(chosen.get(FACE_FIELD))
            images.append(torch.full_like(faces[-1], position))
            boxes.append(chosen.proposal_boxes.tensor.detach())
        if not boxes:
            return {}
        image, face, box = torch.cat(images), torch.cat(faces), torch.cat(boxes)
        return {
            name: LevelProposals(image[here], face[here], box[here], cells=None)
            for name, here in self._by_level(box).items()
        }

    def _by_level(self, boxes: Tensor) -> dict[str, Tensor]:
        """Level name -> which of the boxes [P, 4] the box head pools from it, [P] bool."""
        pooler = _box_pooler(self.roi_heads)
        assert pooler is not None  # as the constructor made sure
        level = assign_boxes_to_levels(
            [Boxes(boxes)],
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
        return {
            f"{LEVEL_PREFIX}{pooler.min_level + offset}": level == offset
            for offset in range(pooler.max_level - pooler.min_level + 1)
        }


# Detectron2's inputs replace ours
class ComicsRCNN(ListOfDicts, Comics):  # type: ignore[misc]
    """Detectron2's Generalized R-CNN with frequency attention and both contrasts.

    The names of its weights are Detectron2's (``backbone.``, ``proposal_generator.``,
    ``roi_heads.``), beside ``frequency.`` and, in a training checkpoint, ``training_only.``: the
    model zoo loads as it is, and ``GeneralizedRCNN`` takes what was trained without the attention.
    """

    detector: RCNNDetector

    def __init__(self, detector: RCNNDetector, **additions: Any) -> None:
        super().__init__(detector, **additions)
        self.register_state_dict_post_hook(_without_detector)
        self.register_load_state_dict_pre_hook(_with_detector)

    @property
    def backbone(self) -> nn.Module:
        """Detectron2's, at the place where its tools look for it."""
        return self.detector.backbone

    @property
    def proposal_generator(self) -> nn.Module:
        """The same, of the first stage."""
        return self.detector.proposal_generator

    @property
    def roi_heads(self) -> nn.Module:
        """The same, of the second."""
        return self.detector.roi_heads


def build_comics_rcnn(cfg: CfgNode) -> ComicsRCNN:
    """``MODEL.META_ARCHITECTURE: COMICSGeneralizedRCNN``."""
    detector = RCNNDetector(GeneralizedRCNN(cfg), cfg.INPUT.FORMAT)
    model = ComicsRCNN.from_config(cfg, detector)
    model.input_format = cfg.INPUT.FORMAT
    model.watch_training(cfg.SOLVER.OPTIMIZER)
    return model


def _refuse_nan_of_head(head: nn.Module, inputs: tuple, found: tuple[Tensor, ...]) -> None:
    del head, inputs
    refuse_nan("the box head", found)


def _without_detector(module: nn.Module, state: dict, prefix: str, _metadata: dict) -> None:
    del module
    _rename(state, prefix + DETECTOR_PREFIX, prefix)


def _with_detector(module: ComicsRCNN, state: dict, prefix: str, *_unused: object) -> None:
    for name, _ in module.detector.named_children():
        _rename(state, f"{prefix}{name}.", f"{prefix}{DETECTOR_PREFIX}{name}.")


def _rename(state: dict, old: str, new: str) -> None:
    """Give names that begin with ``old`` the beginning ``new``, in place."""
    for name in [name for name in state if name.startswith(old)]:
        state[new + name.removeprefix(old)] = state.pop(name)


def _box_pooler(heads: ROIHeads) -> ROIPooler | None:
    pooler = getattr(heads, "box_pooler", None)
    return pooler if isinstance(pooler, ROIPooler) else None
