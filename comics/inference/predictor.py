"""From a model file to verdicts on images.

Shape letters: H, W height and width of an image as given; h, w as the model sees it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import comics
from comics.config import CfgNode
from comics.data.images import image_to_tensor, tensor_to_image
from comics.data.transforms import MASK_THRESHOLD, resize_image, shortest_side_size
from comics.inference.verdict import TEMPERATURE_KEY, VerdictRule, form_verdicts
from comics.modeling.build import choose_device, load_model
from comics.ops.boxes import clip_boxes, scale_boxes
from comics.structures import Faces


class Predictor:
    """Finds the faces of images and says which are forged.

    Args:
        model: a detector in evaluation mode, on ``device``.
        rule: how detections become verdicts.
        min_size, max_size: pixels; images are resized to this short side, or less where the long
            side would exceed ``max_size``.
        max_pixels: what readers of files should refuse; arrays are taken of any size.
        device: where the model is.
        provenance: what is known of the model's origin; ``self.provenance`` adds how it is used.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: VerdictRule,
        *,
        min_size: int,
        max_size: int,
        max_pixels: int,
        device: torch.device | str = "cpu",
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        self.model = model.eval()
        self.rule = rule
        self.min_size, self.max_size = min_size, max_size
        self.max_pixels = max_pixels
        self.device = torch.device(device)
        self._origin = dict(provenance or {})

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike,
        device: str = "auto",
        score_threshold: float | None = None,
        fake_threshold: float | None = None,
    ) -> Predictor:
        """Load a model file; thresholds that are not given come from its configuration.

        Raises:
            FileNotFoundError, ValueError: if the file is absent, broken or of another
                architecture, a threshold is outside [0, 1], or the device is not there.
        """
        place = choose_device(device)
        model, cfg, file = load_model(path, place)
        rule = VerdictRule.from_config(cfg, _temperature(file.metadata, path))
        given = {"score_threshold": score_threshold, "fake_threshold": fake_threshold}
        rule = replace(rule, **{k: v for k, v in given.items() if v is not None})
        return cls(
            model,
            rule,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            max_pixels=cfg.INPUT.MAX_PIXELS,
            device=place,
            provenance=_origin(path, cfg, file.metadata, file.sha256),
        )

    @property
    def provenance(self) -> dict[str, object]:
        """What every output carries: software, model, weights, thresholds, calibration; JSON."""
        calibrated = TEMPERATURE_KEY in self._origin.get("weights_metadata", {})
        return {
            "software": f"comics {comics.__version__}",
            "torch": torch.__version__,
            "device": str(self.device),
            **self._origin,
            "input_size": {"min": self.min_size, "max": self.max_size},
            "score_threshold": self.rule.score_threshold,
            "fake_threshold": self.rule.fake_threshold,
            "merge_iou": self.rule.merge_iou,
            "missing_score": self.rule.missing_score,
            "calibration": {
                "state": "calibrated" if calibrated else "uncalibrated",
                "temperature": self.rule.temperature,
            },
        }

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray | Tensor]) -> list[Faces]:
        """One ``Faces`` per image, with ``fake_probability``, on the CPU, in its own coordinates.

        All images go through the model as one batch: the caller decides how many.

        Args:
            images: RGB, uint8; arrays [H, W, 3] or tensors [3, H, W], of any sizes.

        Raises:
            ValueError: naming the position of an image of another shape or type.
        """
        if not images:
            return []
        arrays = [_as_array(image, position) for position, image in enumerate(images)]
        sizes = [array.shape[:2] for array in arrays]
        inputs = []
        for array, size in zip(arrays, sizes, strict=True):
            resized = resize_image(array, shortest_side_size(size, self.min_size, self.max_size))
            inputs.append(image_to_tensor(resized).to(self.device, non_blocking=True))
        # Merging and thresholds first, at the model's size: a hundred candidate masks at the size
        # of a photo would take gigabytes
        found = [form_verdicts(faces, self.rule).to("cpu") for faces in self.model(inputs)]
        return [to_original(faces, size) for faces, size in zip(found, sizes, strict=True)]


def to_original(faces: Faces, size: tuple[int, int]) -> Faces:
    """Faces in an image of (h, w), expressed in the one of (H, W) that it was resized from.

    Boxes are clipped to the image. Every face is kept, also one whose mask is empty: it was found.
    """
    (height, width), (old_height, old_width) = size, faces.image_size
    boxes = scale_boxes(faces.boxes, width / old_width, height / old_height)
    masks = faces.masks
    if masks is not None and (old_height, old_width) != (height, width):
        masks = torch.zeros((len(faces), height, width), dtype=torch.bool)
        for row, mask in zip(masks, faces.masks, strict=True):
            soft = resize_image(mask.numpy().astype(np.uint8) * 255, size)
            row.copy_(torch.from_numpy(soft > MASK_THRESHOLD))
    return replace(faces, boxes=clip_boxes(boxes, size), image_size=(height, width), masks=masks)


def _as_array(image: np.ndarray | Tensor, position: int) -> np.ndarray:
    array = image
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3:
        array = tensor_to_image(image)
    if (
        not isinstance(array, np.ndarray)
        or array.ndim != 3
        or array.shape[2] != 3
        or array.dtype != np.uint8
        or 0 in array.shape
    ):
        shape = tuple(getattr(image, "shape", ()))
        raise ValueError(
            f"image {position} must be a uint8 array [H, W, 3] or tensor [3, H, W], got "
            f"{type(image).__name__} {getattr(image, 'dtype', '')} {shape}"
        )
    return array


def _temperature(metadata: Mapping[str, str], path: str | os.PathLike) -> float:
    text = metadata.get(TEMPERATURE_KEY, "1")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path}: the temperature {text!r} is not a number") from None


def _origin(
    path: str | os.PathLike, cfg: CfgNode, metadata: Mapping[str, str], sha256: str
) -> dict[str, object]:
    return {
        "model": cfg.MODEL.META_ARCHITECTURE,
        "weights": Path(path).name,
        "weights_sha256": sha256,
        "weights_metadata": {k: v for k, v in sorted(metadata.items()) if k != "config"},
    }
