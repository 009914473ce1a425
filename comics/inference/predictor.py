"""From a model file to verdicts on images.

Shape letters: H, W height and width of an image as given; h, w as the model sees it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

import comics
from comics.data.images import image_to_tensor, tensor_to_image
from comics.data.transforms import resize_image, shortest_side_size
from comics.inference.acceleration import autocast, compile_backbones
from comics.inference.doubt import DoubtRule, with_doubts
from comics.inference.model_files import LoadedModel, load_detector
from comics.inference.placement import candidates_of
from comics.inference.tiling import Tiling, Window, find_places, merge_places
from comics.inference.verdict import TEMPERATURE_KEY, VerdictRule, VideoRule, form_verdicts
from comics.modeling.build import allow_tf32, choose_device
from comics.modeling.detectors.candidates import Candidates
from comics.modeling.face_forensics import FaceForensics
from comics.modeling.faces.heat_map import gradient_heat_maps
from comics.ops.verdicts import LOGIT_MARGIN, fuse_probabilities
from comics.structures import FAKE, REAL, Faces

TILES_PER_FORWARD = 4  # of one image


class Predictor:
    """Finds the faces of images and says which are forged.

    With a ``FaceForensics`` model, every face that passes the detector's score threshold is cut
    from the image as given (not as resized for the detector), and a face method looks at it too.

    Args:
        model: a detector or ``FaceForensics``, in evaluation mode, on ``device``.
        rule: how detections become verdicts; with ``FaceForensics`` its temperature is that of the
            fused P(fake).
        min_size, max_size: pixels; images are resized to this short side, or less where the long
            side would exceed ``max_size``.
        max_pixels: what readers of files should refuse; arrays are taken of any size.
        device: where the model is.
        provenance: what is known of the model's origin; ``self.provenance`` adds how it is used.
        tiling: of large images.
        amp: mixed precision, on CUDA; verdicts differ a little.
        video_rule: how the verdicts on a video's frames become one, for those who read videos.
        doubt_rule: when a verdict is unclear; None: never.
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
        tiling: Tiling | None = None,
        amp: bool = False,
        video_rule: VideoRule | None = None,
        doubt_rule: DoubtRule | None = None,
    ) -> None:
        self.model = model.eval()
        self.rule = rule
        self.min_size, self.max_size = min_size, max_size
        self.max_pixels = max_pixels
        self.device = torch.device(device)
        self.tiling = tiling or Tiling()
        self.amp = amp and self.device.type == "cuda"
        self.video_rule = video_rule or VideoRule(fake_threshold=rule.fake_threshold)
        self.doubt_rule = doubt_rule or DoubtRule()
        self._origin: dict[str, Any] = dict(provenance or {})

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike,
        device: str = "auto",
        score_threshold: float | None = None,
        fake_threshold: float | None = None,
        face_weights: str | os.PathLike | None = None,
        tiling: str | None = None,
        amp: bool = False,
        compiled: bool = False,
    ) -> Self:
        """Load a model file; thresholds that are not given come from its configuration.

        Args:
            path: a detector, or ``FaceForensics``.
            device: "auto", "cpu", "cuda", ...
            score_threshold, fake_threshold: as in ``VerdictRule``.
            face_weights: a face method's model file, to look at the faces that the detector of
                ``path`` finds.
            tiling: "never", "auto", "always"; None: as TEST.TILING.MODE of its configuration.
            amp: mixed precision, on CUDA; elsewhere it changes nothing.
            compiled: compile the backbone: a minute or more, again for sizes that are new to it.

        Raises:
            FileNotFoundError, ValueError: if a file is absent, broken or of another
                architecture, a threshold is outside [0, 1], the device is not there, or the
                machine cannot compile.
        """
        place = choose_device(device)
        if place.type == "cuda":
            allow_tf32(False)  # what a picture gets must not depend on the device
        loaded = load_detector(path, face_weights, place)
        if compiled:
            compile_backbones(loaded.model, place)
        return cls.of_model(loaded, place, score_threshold, fake_threshold, tiling, amp)

    @classmethod
    def of_model(
        cls,
        loaded: LoadedModel,
        device: torch.device,
        score_threshold: float | None = None,
        fake_threshold: float | None = None,
        tiling: str | None = None,
        amp: bool = False,
    ) -> Self:
        """Of a model that is on the device already; arguments and errors as ``from_file``."""
        cfg = loaded.cfg
        rule = VerdictRule.from_config(cfg, loaded.temperature)
        given = {"score_threshold": score_threshold, "fake_threshold": fake_threshold}
        rule = replace(rule, **{k: v for k, v in given.items() if v is not None})
        return cls(
            loaded.model,
            rule,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            max_pixels=cfg.INPUT.MAX_PIXELS,
            device=device,
            provenance=loaded.origin,
            tiling=Tiling.from_config(cfg, tiling),
            amp=amp,
            video_rule=replace(VideoRule.from_config(cfg), fake_threshold=rule.fake_threshold),
            doubt_rule=DoubtRule.from_config(cfg, loaded.familiarity),
        )

    @property
    def _forensics(self) -> FaceForensics:
        """The model, where ``looks_at_faces``."""
        return cast(FaceForensics, self.model)

    @property
    def looks_at_faces(self) -> bool:
        """Whether the model has a face method beside its detector."""
        return isinstance(self.model, FaceForensics)

    @property
    def has_heat_maps(self) -> bool:
        """Whether the model offers ``heat_maps``."""
        return self.looks_at_faces

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
            "tiling": asdict(self.tiling),
            "mixed_precision": self.amp,
            "score_threshold": self.rule.score_threshold,
            "fake_threshold": self.rule.fake_threshold,
            "unclear": self.doubt_rule.settings(),
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

        What an image gets depends on its own pixels, not on those beside it. So only images that
        the model sees at one size share a forward pass, and on a CPU, where larger batches are not
        quicker but round otherwise, none do. Tiles of large images follow, see
        ``comics.inference.tiling``.

        Args:
            images: RGB, uint8; arrays [H, W, 3] or tensors [3, H, W], of any sizes.

        Raises:
            ValueError: naming the position of an image of another shape or type.
        """
        if not images:
            return []
        arrays = [_as_array(image, position) for position, image in enumerate(images)]
        rule = self._detector_rule()
        found: list[Faces] = []
        for array, raw in zip(arrays, self._detect(arrays), strict=True):
            size = array.shape[:2]
            tiles = self.tiling.tiles(size, self.model_size(size))
            if tiles:
                found.append(self._with_tiles(array, raw, tiles))
                continue
            # Merging and thresholds first: a hundred candidate masks at the size of a photo would
            # take gigabytes
            found.append(form_verdicts(raw, rule).to("cpu").drawn(size))
        if self.looks_at_faces:
            found = self._look_at_faces(arrays, found)
        return [
            with_doubts(faces, array, self.doubt_rule, self.rule.fake_threshold)
            for faces, array in zip(found, arrays, strict=True)
        ]

    def model_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) that the detector sees an image of (H, W) at."""
        return shortest_side_size(size, self.min_size, self.max_size)

    def _detect(self, arrays: Sequence[np.ndarray]) -> list[Candidates]:
        """The detector's candidates in each image, (h, w), on the device."""
        sizes = [self.model_size(array.shape[:2]) for array in arrays]
        detector = self._forensics.detector if self.looks_at_faces else self.model
        found: dict[int, Candidates] = {}
        for positions in self._groups(sizes):
            inputs = [self._on_device(resize_image(arrays[p], sizes[p])) for p in positions]
            with autocast(self.device, self.amp):
                found.update(zip(positions, candidates_of(detector, inputs), strict=True))
        ordered = [found[position] for position in range(len(arrays))]
        return [_full_precision(faces) for faces in ordered] if self.amp else ordered

    def _groups(self, sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Positions of the images that share a forward pass; padding would change verdicts."""
        if self.device.type == "cpu":
            return [[position] for position in range(len(sizes))]
        groups: dict[tuple[int, int], list[int]] = {}
        for position, size in enumerate(sizes):
            groups.setdefault(size, []).append(position)
        return list(groups.values())

    def _with_tiles(self, array: np.ndarray, whole: Candidates, tiles: Sequence[Window]) -> Faces:
        """Verdicts of a large image: of its whole, seen already, and of its tiles."""
        size, rule = array.shape[:2], self._detector_rule()
        height, width = size
        passes = [find_places(whole, (0, 0, width, height), size, rule)]
        for start in range(0, len(tiles), TILES_PER_FORWARD):
            windows = tiles[start : start + TILES_PER_FORWARD]
            parts = [array[top:bottom, left:right] for left, top, right, bottom in windows]
            passes += [
                find_places(found, window, size, rule)
                for window, found in zip(windows, self._detect(parts), strict=True)
            ]
        return merge_places(passes, size, rule, with_masks=whole.soft_masks is not None)

    def _on_device(self, array: np.ndarray) -> Tensor:
        """[H, W, 3] to [3, H, W] on the device; from pinned memory, so that nothing waits."""
        tensor = image_to_tensor(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def heat_maps(self, image: np.ndarray | Tensor, faces: Faces) -> tuple[Tensor, Tensor]:
        """Where in each face the face method sees forgery: see ``gradient_heat_maps``.

        Args:
            image: as for ``predict``.
            faces: of that image, in its coordinates.

        Returns:
            [N, h, w] float in [0, 1], and the windows of the image that they cover: [N, 4] int64
            (left, top, right, bottom), which may reach outside it. On the CPU.

        Raises:
            ValueError: without a face method, or for another image.
        """
        if not self.looks_at_faces:
            raise ValueError("heat maps need a face method: give its model file too")
        original = image_to_tensor(_as_array(image, 0)).to(self.device)
        model = self._forensics
        parts = [
            gradient_heat_maps(model.face, model.crops([original], [boxes]))
            for boxes in faces.boxes.split(model.crops_per_forward)
        ]
        return torch.cat(parts).cpu(), model.windows(faces.boxes.cpu(), faces.image_size)

    def _detector_rule(self) -> VerdictRule:
        """The rule for the detector's own P(fake)."""
        if not self.looks_at_faces:
            return self.rule
        return replace(self.rule, temperature=self._forensics.detector_temperature.item())

    def _look_at_faces(self, arrays: list[np.ndarray], found: list[Faces]) -> list[Faces]:
        """The verdicts with the face method's opinion.

        On a CPU a pass holds the faces of one image, see ``predict``; else those of all.
        """
        if self.device.type == "cpu" and len(arrays) > 1:
            return [
                self._look_at_faces([array], [faces])[0]
                for array, faces in zip(arrays, found, strict=True)
            ]
        seen = [
            self._on_device(array) if len(faces) else None
            for array, faces in zip(arrays, found, strict=True)
        ]
        with autocast(self.device, self.amp):
            said = iter(
                self._forensics.face_probability(
                    [image for image in seen if image is not None],
                    [faces.boxes for faces in found if len(faces)],
                )
            )
        return [self._fused(faces, next(said).cpu()) if len(faces) else faces for faces in found]

    def _fused(self, faces: Faces, said: Tensor) -> Faces:
        own = faces.fake_probability
        assert own is not None  # as form_verdicts left it
        fused = fuse_probabilities(own, said.to(own), self._forensics.fusion)
        if self.rule.temperature != 1:
            logit = torch.logit(fused.double(), LOGIT_MARGIN)
            fused = torch.sigmoid(logit / self.rule.temperature).to(own)
        labels = torch.where(fused >= self.rule.fake_threshold, FAKE, REAL)
        return replace(faces, fake_probability=fused, labels=labels)


def _full_precision(faces: Candidates) -> Candidates:
    """Boxes and scores as float32, whatever precision they were computed in."""
    return replace(faces, boxes=faces.boxes.float(), scores=faces.scores.float())


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
