"""Our models as Detectron2's meta-architectures, under the names of ``MODEL.META_ARCHITECTURE``.

Each is the native model's class with another calling convention, so parameters have the same
names, and a checkpoint serves both runtimes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from comics.integrations.detectron2.backbone import with_backbone_source
from comics.integrations.detectron2.instances import (
    ground_truth_faces,
    output_size,
    prediction_instances,
    to_rgb,
)
from comics.integrations.detectron2.training_watch import ADVICE, TrainingWatch
from comics.modeling.build import COMICS_PREFIX
from comics.modeling.comics import Comics
from comics.modeling.face_forensics import FACE_FORENSICS, FaceForensics
from comics.modeling.faces.build import build_face_method
from comics.registry import DETECTORS

logger = logging.getLogger(__name__)


class ListOfDicts(nn.Module):
    """Mixin before a model of ours: Detectron2's list of dictionaries in, its outputs out.

    Attributes:
        input_format: channel order of the images that come in, ``INPUT.FORMAT``.
    """

    input_format = "RGB"
    _watch: TrainingWatch | None = None

    def watch_training(self, optimizer: str) -> None:
        """Refuse to be trained by what does not know this model, see ``training_watch``."""
        self._watch = TrainingWatch(self, optimizer)

    def after_optimizer_step(self) -> None:
        """As the model of ours, which moves its key encoder."""
        if self._watch is not None:
            self._watch.moved()
        move = getattr(super(), "after_optimizer_step", None)
        if move is not None:
            move()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def forward(
        self, batched_inputs: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Training mode: the losses; metrics go to the event storage. Else {"instances"} each.

        Args:
            batched_inputs: "image" [3, H, W] uint8 or float, 0-255, in ``input_format``; in
                training also "instances" (ground truth) and, for the proposal contrast,
                "key_image"; in evaluation also "height" and "width", of the image that detections
                are asked for in.

        Raises:
            ValueError: naming the image, where training lacks its "instances"; where it lacks the
                second view or ``prepare_training``; and as the model.
        """
        images = self._images(batched_inputs, "image")
        if not self.training:
            sizes = [output_size(item) for item in batched_inputs]
            found = super().forward(images, output_sizes=sizes)
            return [{"instances": prediction_instances(faces)} for faces in found]
        targets = self._targets(batched_inputs)
        self._check_contrast(batched_inputs)
        views = {}
        if getattr(self, "needs_key_images", False) and "key_image" in batched_inputs[0]:
            views["key_images"] = self._images(batched_inputs, "key_image")
        output = super().forward(images, targets, **views)
        if has_event_storage():
            for name, value in output.metrics.items():
                get_event_storage().put_scalar(f"metric/{name}", float(value))
        return output.losses

    def _check_contrast(self, batched_inputs: Sequence[Mapping[str, Any]]) -> None:
        """Raise where the proposal contrast lacks what a stock trainer does not give."""
        if not getattr(self, "needs_key_images", False):
            return
        prepared = self.training_only is not None
        if not prepared or any("key_image" not in item for item in batched_inputs):
            lack = 'a second view, "key_image"' if prepared else "prepare_training()"
            raise ValueError(f"this COMICS model lacks {lack}: {ADVICE}")

    def _images(self, batched_inputs: Sequence[Mapping[str, Any]], name: str) -> list[Tensor]:
        return [to_rgb(item[name].to(self.device), self.input_format) for item in batched_inputs]

    def _targets(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list:
        for position, item in enumerate(batched_inputs):
            if "instances" not in item:
                name = item.get("file_name", "unnamed")
                raise ValueError(f"training needs 'instances'; image {position} ({name}) has none")
        return [
            ground_truth_faces(item["instances"].to(self.device)).to(self.device)
            for item in batched_inputs
        ]


def with_list_of_dicts(base: type[nn.Module]) -> Any:
    """The class of ours that takes Detectron2's inputs."""
    return type(f"Detectron2{base.__name__}", (ListOfDicts, base), {"__doc__": base.__doc__})


def build_detector(cfg: CfgNode, name: str) -> nn.Module:
    """A detector of ours, plain."""
    cfg = with_backbone_source(cfg)
    return _finished(with_list_of_dicts(DETECTORS.get(name)).from_config(cfg), cfg)


def build_comics(cfg: CfgNode, name: str) -> nn.Module:
    """A detector of ours with the COMICS additions."""
    cfg = with_backbone_source(cfg)
    detector = DETECTORS.get(name).from_config(cfg)
    return _finished(with_list_of_dicts(Comics).from_config(cfg, detector), cfg)


def build_face_forensics(cfg: CfgNode) -> nn.Module:
    """The detector of ``MODEL.FACE.DETECTOR`` with the face method, for inference."""
    cfg = with_backbone_source(cfg)
    name = cfg.MODEL.FACE.DETECTOR
    detector = DETECTORS.get(name.removeprefix(COMICS_PREFIX)).from_config(cfg)
    if name.startswith(COMICS_PREFIX):
        detector = Comics.from_config(cfg, detector)
    kind = with_list_of_dicts(FaceForensics)
    return _finished(kind.from_config(cfg, detector, build_face_method(cfg)), cfg)


def register_meta_architectures() -> None:
    """Enter every detector of ours, plain and with COMICS, and ``FaceForensics``."""
    register(FACE_FORENSICS, build_face_forensics)
    for name, _ in DETECTORS:
        register(name, _builder(build_detector, name))
        register(f"{COMICS_PREFIX}{name}", _builder(build_comics, name))


def register(name: str, builder: Callable[[CfgNode], nn.Module]) -> None:
    """Enter a model into ``META_ARCH_REGISTRY``; a name that another project took stays theirs."""
    if name in META_ARCH_REGISTRY:
        known = getattr(META_ARCH_REGISTRY.get(name), "__module__", "")
        if not known.startswith(__package__):
            logger.warning("%s is a meta-architecture of %s: ours is left out", name, known)
        return
    builder.__name__ = name
    META_ARCH_REGISTRY.register(builder)


def _builder(build: Callable[[CfgNode, str], nn.Module], name: str) -> Callable:
    def builder(cfg: CfgNode) -> nn.Module:
        return build(cfg, name)

    return builder


def _finished(model: Any, cfg: CfgNode) -> nn.Module:
    model.input_format = cfg.INPUT.FORMAT
    model.watch_training(cfg.SOLVER.OPTIMIZER)
    return model
