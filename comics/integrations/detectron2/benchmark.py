"""Detectron2's own Mask R-CNN, for ``tools/lab/benchmark.py model``: what ours is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import get_cfg
from detectron2.model_zoo import get_config_file
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from comics.integrations.detectron2.instances import ground_truth_instances
from comics.structures import Faces

ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


def zoo_mask_rcnn(num_classes: int, detections: int) -> nn.Module:
    """The model zoo's Mask R-CNN R-50 FPN with random weights, on the CPU."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(ZOO))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.TEST.DETECTIONS_PER_IMAGE = detections
    return build_model(cfg)


def training_losses(
    model: nn.Module, images: Sequence[Tensor], targets: Sequence[Faces]
) -> dict[str, Tensor]:
    """Losses of a training step of Detectron2's model on our RGB images and faces."""
    inputs = [
        {"image": image.flip(0), "instances": ground_truth_instances(faces)}
        for image, faces in zip(images, targets, strict=True)
    ]
    with EventStorage():
        return model(inputs)
