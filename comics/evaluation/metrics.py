"""``evaluate``: a ground truth and results in, every figure of the papers' detection tables out.

Figures are kept 0 to 1, as the official tools compute them; tables print them x100.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from comics.data.json_files import collection_paused
from comics.evaluation import coco, lrp
from comics.evaluation.ground_truth import GroundTruth, load_ground_truth
from comics.evaluation.matching import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    Matches,
    Pairs,
    Ranked,
    match,
    overlapping_pairs,
    rank_detections,
)
from comics.evaluation.results import Detections, load_results
from comics.evaluation.tables import percent

# What each mode means; printed with every table, for the sizes of masks depend on it
MODES = {
    "bbox": "box IoU; a detection's size is its box's area",
    "segm": "mask IoU; a detection's size is its mask's area (Detectron2's way)",
    "segm_bboxarea": "mask IoU; a detection's size is its box's area (OpenForensics' own way)",
}
# The papers' column order: name of the figure -> heading
COLUMNS = {
    "AP": "AP",
    "AP_S": "AP_S",
    "AP_M": "AP_M",
    "AP_L": "AP_L",
    "oLRP": "oLRP",
    "oLRP_Loc": "Loc",
    "oLRP_FP": "FP",
    "oLRP_FN": "FN",
}
_AGNOSTIC = ("AP", "AP50")


@dataclass(frozen=True)
class ModeMetrics:
    """The figures of one mode, with the official markers: -1 no ground truth, NaN undefined.

    Attributes:
        overall: name -> value: COCO's twelve (AP, AP50, AP75, AP_S, ..., AR_1, AR_10, AR_100,
            AR_S, ...), LRP's by size (oLRP, oLRP_Loc, oLRP_FP, oLRP_FN, oLRP_S, ...), and
            AP_agnostic and AP50_agnostic, where a face's class does not matter.
        per_class: category id -> the same without the agnostic ones, plus LRP-optimal score
            thresholds (thr, thr_S, thr_M, thr_L).
        matches: the matching that all of them come from.
        pairs: overlapping detections and faces, of any two classes.
        curves: precision and recall behind AP.
    """

    overall: dict[str, float]
    per_class: dict[int, dict[str, float]]
    matches: Matches
    pairs: Pairs
    curves: coco.PrecisionRecall


@dataclass(frozen=True)
class Metrics:
    """The outcome of ``evaluate``.

    Attributes:
        modes: "bbox", "segm" and/or "segm_bboxarea" -> figures.
        ground_truth, detections: what was compared.
        notes: what a reader must know: what was filled in, which figures are undefined and why.
    """

    modes: dict[str, ModeMetrics]
    ground_truth: GroundTruth
    detections: Detections
    notes: list[str] = field(default_factory=list)

    def flat(self) -> dict[str, float]:
        """``{"bbox/AP": ..., "bbox/AP/Fake": ...}``, 0 to 1; NaN where undefined (see notes)."""
        names = dict(
            zip(
                self.ground_truth.category_ids.tolist(),
                self.ground_truth.category_names,
                strict=True,
            )
        )
        figures = {}
        for mode, metrics in self.modes.items():
            for name, value in metrics.overall.items():
                figures[f"{mode}/{name}"] = _nan_for_marker(value)
            for category, values in metrics.per_class.items():
                for name, value in values.items():
                    figures[f"{mode}/{name}/{names[category]}"] = _nan_for_marker(value)
        return figures

    def table(self) -> str:
        """A Markdown table in the papers' column order, x100, then the notes."""
        flat = self.flat()
        heading = ["", *COLUMNS.values(), "AP50", "AP50 any class"]
        names = [*COLUMNS, "AP50", "AP50_agnostic"]
        rows = [heading, ["---"] + ["---:"] * len(names)]
        for mode in self.modes:
            rows.append([f"**{mode}**", *(percent(flat[f"{mode}/{name}"]) for name in names)])
            for category in self.ground_truth.category_names:
                values = (flat.get(f"{mode}/{name}/{category}") for name in names)
                rows.append([f"{mode} {category}", *map(percent, values)])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", *(f"{mode}: {MODES[mode]}" for mode in self.modes)]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def evaluate(
    ground_truth: str | os.PathLike | Mapping | GroundTruth | Any,
    results: str | os.PathLike | list | Detections,
    iou_types: Sequence[str] = ("bbox", "segm"),
    id_zero_unmatched: bool = False,
) -> Metrics:
    """COCO AP and AR, and LRP, of results in COCO's format.

    Args:
        ground_truth: COCO file, its content, or a pycocotools ``COCO``.
        results: COCO results file or list; of any tool. May be empty.
        iou_types: of ``MODES``: "bbox", "segm", "segm_bboxarea".
        id_zero_unmatched: repeat pycocotools' fault that a detection matched to the annotation
            with id 0 counts as unmatched. Off, id 0 is an id like any other.

    Raises:
        ValueError: naming the entry that is wrong (``load_ground_truth``, ``load_results``), or
            the mode that does not exist.
    """
    unknown = [mode for mode in iou_types if mode not in MODES]
    if unknown or not iou_types:
        raise ValueError(f"iou_types must be among {', '.join(MODES)}; got {list(iou_types)}")
    modes: dict[str, ModeMetrics] = {}
    with collection_paused():
        truth = load_ground_truth(ground_truth)
        detections = load_results(results, truth)
        for mode in iou_types:
            modes[mode] = _evaluate_mode(truth, detections, mode, id_zero_unmatched)
    notes = [*truth.notes, *detections.notes, *_undefined(truth, modes)]
    if (truth.ids == 0).any():
        way = "unmatched, as pycocotools does" if id_zero_unmatched else "matched normally"
        notes.append(f"{truth.source} has an annotation with id 0: {way}")
    return Metrics(modes, truth, detections, notes)


def _evaluate_mode(
    truth: GroundTruth, detections: Detections, mode: str, id_zero_unmatched: bool
) -> ModeMetrics:
    masks = mode != "bbox"
    areas = (
        detections.mask_areas if mode == "segm" else detections.boxes[:, 2] * detections.boxes[:, 3]
    )
    ranked = rank_detections(detections, areas)
    pairs = overlapping_pairs(truth, detections, ranked, masks)
    same = truth.category[pairs.face] == ranked.category[pairs.detection]
    matches = match(truth, ranked, pairs.select(same), id_zero_unmatched=id_zero_unmatched)
    curves, optimum = coco.precision_recall(matches), lrp.optimal_lrp(matches)
    overall = coco.summarise(curves) | lrp.summarise(optimum)
    agnostic = coco.average_precision(_agnostic_curves(truth, ranked, pairs).precision[0])
    overall |= {f"{name}_agnostic": agnostic[name] for name in _AGNOSTIC}
    per_class = {
        int(category): coco.summarise(curves, position) | lrp.summarise(optimum, position)
        for position, category in enumerate(truth.category_ids)
    }
    return ModeMetrics(overall, per_class, matches, pairs, curves)


def _agnostic_curves(truth: GroundTruth, ranked: Ranked, pairs: Pairs) -> coco.PrecisionRecall:
    """As if all classes were one (pycocotools' ``useCats = 0``), sizes left out."""
    # pycocotools concatenates the classes, so ties go by class first: what this sort keeps
    order = np.lexsort((-ranked.scores, ranked.image))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    image = ranked.image[order]
    merged = Ranked(
        entry=ranked.entry[order],
        rank=np.arange(len(order)) - np.searchsorted(image, image),
        image=image,
        category=np.zeros_like(image),
        scores=ranked.scores[order],
        areas=ranked.areas[order],
    )
    kept = merged.rank < coco.DETECTION_LIMITS[-1]
    new = np.cumsum(kept) - 1
    merged = Ranked(**{name: values[kept] for name, values in vars(merged).items()})
    pairs = replace(pairs, detection=place[pairs.detection])
    pairs = pairs.select(kept[pairs.detection])
    pairs = replace(pairs, detection=new[pairs.detection])
    one_class = replace(
        truth,
        category=np.zeros_like(truth.category),
        category_ids=truth.category_ids[:1],
    )
    everything = {"all": AREA_RANGES["all"]}
    return coco.precision_recall(match(one_class, merged, pairs, IOU_THRESHOLDS, everything))


def _undefined(truth: GroundTruth, modes: Mapping[str, ModeMetrics]) -> list[str]:
    """Why figures are undefined, in words."""
    notes = []
    sizes = list(AREA_RANGES)
    counted = next(iter(modes.values())).matches.counted  # [A, K], the same in every mode
    for position, name in enumerate(truth.category_names):
        if counted[0, position] == 0:
            notes.append(f"class {name} has no face in the ground truth: left out of all means")
            continue
        empty = [sizes[a] for a in range(1, len(sizes)) if counted[a, position] == 0]
        if empty:
            notes.append(f"class {name} has no {' or '.join(empty)} face: undefined there")
        for mode, metrics in modes.items():
            if math.isnan(metrics.per_class[int(truth.category_ids[position])]["thr"]):
                notes.append(
                    f"{mode}: no detection of class {name} is right: "
                    "oLRP is 1, Loc, FP and the threshold are undefined"
                )
    return notes


def _nan_for_marker(value: float) -> float:
    return math.nan if value == -1 else value
