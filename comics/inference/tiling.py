"""Large pictures in overlapping tiles, so that small faces are found. Source: decision.

The whole picture goes through the detector as usual, which finds the large faces; so does each
tile, at a larger scale. A face smaller than the overlap is whole in at least one tile. Detections
of all passes are merged by place, as the detections of one pass are (``comics.inference.verdict``):
of every class the highest score counts. A box that ends at a tile's inner border may be a part of
a face only:

* it is dropped where a detection that no border cuts covers most of it;
* where both are of one face, the one that is not cut gives box and mask;
* otherwise it is kept: a face seen in part is better than one not seen.

Shape letters: N detections, M places of one pass, K places of all, F faces; H, W height and width
of the picture; h, w of a pass as the detector sees it. A window is (left, top, right, bottom) in
pixels of the picture, right and bottom exclusive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from comics.config import CfgNode
from comics.inference.verdict import VerdictRule
from comics.modeling.detectors.candidates import Candidates
from comics.ops.boxes import box_area, clip_boxes, scale_boxes
from comics.ops.mask_parts import put_part
from comics.ops.verdicts import fake_probability, group_class_scores, merge_detections
from comics.structures import FAKE, REAL, Faces

Window = tuple[int, int, int, int]

MODES = ("never", "auto", "always")
CUT_MARGIN = 0.01  # of a tile's side: a box that ends as near to an inner border may be cut by it
COVERED = 0.7  # share of a cut box that another must cover to replace it


@dataclass(frozen=True)
class Tiling:
    """When and how pictures are tiled: ``TEST.TILING``.

    Attributes:
        mode: "never"; "auto": where the whole-picture pass shrinks the short side ``min_shrink``
            times or more; "always": whatever is larger than a tile.
        size: side of a tile, pixels of the picture.
        overlap: of neighbouring tiles, pixels.
        min_shrink: see ``mode``.

    Raises:
        ValueError: for an unknown mode, or unless 0 <= overlap < size and min_shrink >= 1.
    """

    mode: str = "never"
    size: int = 1024
    overlap: int = 256
    min_shrink: float = 2.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(
                f"TEST.TILING.MODE must be one of {', '.join(MODES)}, got {self.mode!r}"
            )
        if not 0 <= self.overlap < self.size or not self.min_shrink >= 1:
            raise ValueError(
                f"TEST.TILING: OVERLAP {self.overlap} must be in [0, SIZE {self.size}), MIN_SHRINK "
                f"{self.min_shrink} 1 or more"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, mode: str | None = None) -> Tiling:
        """From ``cfg.TEST.TILING``; ``mode`` overrides its own."""
        own = cfg.TEST.TILING
        return cls(own.MODE if mode is None else mode, own.SIZE, own.OVERLAP, own.MIN_SHRINK)

    def tiles(self, size: tuple[int, int], model_size: tuple[int, int]) -> list[Window]:
        """The tiles of a picture of (H, W) that is resized to (h, w) as a whole; [] without."""
        if self.mode == "never" or max(size) <= self.size:
            return []
        if self.mode == "auto" and min(size) < self.min_shrink * min(model_size):
            return []
        return plan_tiles(size, self.size, self.overlap)


def plan_tiles(size: tuple[int, int], tile: int, overlap: int) -> list[Window]:
    """Windows of ``tile`` x ``tile`` pixels, row by row, that cover (H, W) evenly.

    As few as possible while neighbours overlap by ``overlap`` or more, so every window inside the
    picture that is no larger than ``overlap`` lies inside one of them. Where the picture is
    narrower than a tile, so are they.
    """
    rows, columns = (_starts(length, tile, overlap) for length in size)
    height, width = size
    return [
        (left, top, min(left + tile, width), min(top + tile, height))
        for top in rows
        for left in columns
    ]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [position * (length - tile) // (count - 1) for position in range(count)]


def cut_by_border(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """[N] bool: boxes (pixels of the picture) that reach a border of the window inside it."""
    left, top, right, bottom = window
    height, width = size
    margin = CUT_MARGIN * max(right - left, bottom - top)
    x0, y0, x1, y1 = boxes.unbind(-1)
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    if left > 0:
        cut |= x0 <= left + margin
    if top > 0:
        cut |= y0 <= top + margin
    if right < width:
        cut |= x1 >= right - margin
    if bottom < height:
        cut |= y1 >= bottom - margin
    return cut


def to_picture(boxes: Tensor, seen: tuple[int, int], window: Window) -> Tensor:
    """[N, 4] boxes of a pass of (h, w) in pixels of the picture; clipped to the window."""
    left, top, right, bottom = window
    size = (bottom - top, right - left)
    scaled = scale_boxes(boxes, size[1] / seen[1], size[0] / seen[0])
    return clip_boxes(scaled, size) + boxes.new_tensor([left, top, left, top])


@dataclass(frozen=True)
class Places:
    """The places where a pass found faces: its detections, merged; in pixels of the picture.

    Attributes:
        boxes: [M, 4].
        class_scores: [M, 2] highest score of each class, 0 where it was not detected.
        cut: [M] bool, by ``cut_by_border``.
        window: of the picture that the pass saw.
        leaders: M candidates in the coordinates of the pass, whose masks are the places'.
    """

    boxes: Tensor
    class_scores: Tensor
    cut: Tensor
    window: Window
    leaders: Candidates


def find_places(
    detections: Candidates, window: Window, size: tuple[int, int], rule: VerdictRule
) -> Places:
    """The places of one pass.

    Args:
        detections: N per-class detections in the coordinates of the pass, on any device.
        window: of the picture that the pass saw.
        size: (H, W) of the picture.
        rule: thresholds.
    """
    groups = merge_detections(detections.boxes, detections.scores, rule.merge_iou)
    scores = group_class_scores(detections.labels, detections.scores, groups).cpu()
    leaders = detections[[group[0] for group in groups]].to("cpu")
    boxes = to_picture(leaders.boxes, detections.image_size, window)
    return Places(boxes, scores, cut_by_border(boxes, window, size), window, leaders)


def merge_places(
    passes: Sequence[Places], size: tuple[int, int], rule: VerdictRule, with_masks: bool
) -> Faces:
    """One verdict per face of a picture, as ``form_verdicts`` gives them.

    Args:
        passes: of the whole picture and its tiles, one or more.
        size: (H, W) of the picture.
        rule: thresholds and calibration.
        with_masks: draw the masks, [F, H, W].
    """
    boxes = torch.cat([places.boxes for places in passes])
    class_scores = torch.cat([places.class_scores for places in passes])
    cut = torch.cat([places.cut for places in passes])
    origin = [(places, row) for places in passes for row in range(len(places.boxes))]
    kept = ~_replaced(boxes, class_scores.amax(dim=1), cut, rule.score_threshold)
    boxes, class_scores, cut = boxes[kept], class_scores[kept], cut[kept]
    origin = [one for one, keep in zip(origin, kept.tolist(), strict=True) if keep]
    best = class_scores.amax(dim=1)
    # Leaders of groups: what no border cuts first, if it is a face at all; scores are at most 1
    priority = best + (~cut & (best >= rule.score_threshold)).to(best)
    groups = merge_detections(boxes, priority, rule.merge_iou)
    merged = class_scores.new_zeros(len(groups), 2)
    for row, group in zip(merged, groups, strict=True):
        row.copy_(class_scores[group].amax(dim=0))
    scores = merged.amax(dim=1)
    order = torch.argsort(scores, descending=True, stable=True)
    shown = order[scores[order] >= rule.score_threshold].tolist()
    leaders = [groups[i][0] for i in shown]
    probability = fake_probability(merged, rule.missing_score, rule.temperature)[shown]
    return Faces(
        boxes=boxes[leaders],
        image_size=size,
        labels=torch.where(probability >= rule.fake_threshold, FAKE, REAL),
        scores=scores[shown],
        masks=_draw([origin[i] for i in leaders], size) if with_masks else None,
        fake_probability=probability,
    )


def _replaced(boxes: Tensor, scores: Tensor, cut: Tensor, score_threshold: float) -> Tensor:
    """[K] bool: cut boxes that a whole one covers, which is a face, or as sure to be one."""
    top_left = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (bottom_right - top_left).clamp(min=0).prod(dim=2)
    covered = common >= COVERED * box_area(boxes)[:, None]
    sure = (scores[None] >= score_threshold) | (scores[None] >= scores[:, None])
    return cut & (covered & sure & ~cut[None]).any(dim=1)


def _draw(origin: Sequence[tuple[Places, int]], size: tuple[int, int]) -> Tensor:
    """[F, H, W] bool masks of places, each given by its pass and its row there."""
    masks = torch.zeros((len(origin), *size), dtype=torch.bool)
    for mask, (places, row) in zip(masks, origin, strict=True):
        left, top, right, bottom = places.window
        soft = places.leaders[[row]].soft_masks
        if soft is not None:
            (part,) = soft.parts(places.leaders.image_size, (bottom - top, right - left))
            put_part(mask, part, top, left)
    return masks
