"""Random small sets with crowds, ties and empty images: the same figures as pycocotools.

LRP's oracle follows its definition, from pycocotools' own matches and IoUs.
"""

import contextlib
import copy
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from comics.evaluation import evaluate

SIDE = 128
SIZES = ["", "_S", "_M", "_L"]
STATS = [
    "AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L",
    "AR_1", "AR_10", "AR_100", "AR_S", "AR_M", "AR_L",
]  # fmt: skip


def rle_of(box):
    x, y, width, height = map(int, box)
    bitmap = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    bitmap[y : y + height, x : x + width] = 1
    bitmap[y, x] = 0  # so that a mask is not its box
    rle = coco_mask.encode(bitmap)
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


# A coarse grid, so that equal IoUs, exact thresholds and areas of exactly 32^2 and 96^2 occur
CORNER = st.integers(0, 4).map(lambda n: 4 * n)
EXTENT = st.sampled_from([8, 16, 32, 64, 96])
BOX = st.tuples(CORNER, CORNER, EXTENT, EXTENT).map(list)
SCORE = st.integers(1, 10).map(lambda n: n / 10)


@st.composite
def scenes(draw):
    image_ids = draw(st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True))
    categories = draw(st.sampled_from([[0, 1], [1, 2], [3, 7, 9]]))
    place = st.tuples(st.sampled_from(image_ids), st.sampled_from(categories))
    faces = draw(st.lists(st.tuples(place, BOX, st.integers(0, 9)), max_size=12))
    found = draw(st.lists(st.tuples(place, BOX, SCORE), min_size=1, max_size=16))
    ground_truth = {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in image_ids],
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd == 0),
                "segmentation": rle_of(box),
            }
            for number, ((image, category), box, crowd) in enumerate(faces, start=1)
        ],
    }
    results = [
        {
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "score": score,
            "segmentation": rle_of(box),
        }
        for (image, category), box, score in found
    ]
    return ground_truth, results


def official(ground_truth, results, mode, use_categories=True):
    results = copy.deepcopy(results)
    if mode == "segm":
        for result in results:
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), mode.removesuffix("_bboxarea"))
        evaluation.params.useCats = int(use_categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def naive_lrp(evaluation, category_position, area_position):
    """oLRP, Loc, FP, FN, threshold: a plain loop over every cut, in double precision."""
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    start = (category_position * areas + area_position) * images
    rows, faces = [], 0
    for result in evaluation.evalImgs[start : start + images]:
        if result is None:
            continue
        faces += sum(ignore == 0 for ignore in result["gtIgnore"])
        key = (result["image_id"], evaluation.params.catIds[category_position])
        file_order = [g["id"] for g in evaluation._gts[key]]
        for position, score in enumerate(result["dtScores"]):
            matched = int(result["dtMatches"][0, position])
            iou = evaluation.ious[key][position, file_order.index(matched)] if matched else 0.0
            rows.append((score, matched > 0, bool(result["dtIgnore"][0, position]), iou))
    if not faces:
        return [-1.0] * 5
    rows.sort(key=lambda row: -row[0])
    if not any(matched and not ignored for _, matched, ignored, _ in rows):
        return [1.0, math.nan, math.nan, 1.0, math.nan]
    best = None
    for kept in range(1, len(rows) + 1):
        good = [r for r in rows[:kept] if r[1] and not r[2]]
        bad = sum(not r[1] and not r[2] for r in rows[:kept])
        distance = sum(1 - r[3] for r in good)
        missed = faces - len(good)
        error = (distance / 0.5 + bad + missed) / (len(good) + bad + missed)
        if best is None or error < best[0] - 1e-12:
            shown = len(good) + bad
            best = [
                error,
                distance / len(good) if good else math.nan,
                bad / shown if shown else math.nan,
                missed / faces,
                rows[kept - 1][0],
            ]
    return best


@settings(max_examples=60, deadline=None)
@given(scenes(), st.sampled_from(["bbox", "segm", "segm_bboxarea"]))
def test_ap_and_ar(scene, mode):
    evaluation = official(*scene, mode)
    ours = evaluate(*scene, [mode]).modes[mode]
    assert [ours.overall[name] for name in STATS] == pytest.approx(evaluation.stats, abs=1e-12)
    np.testing.assert_allclose(
        ours.curves.precision.transpose(1, 3, 2, 0),
        evaluation.eval["precision"][..., 2],
        atol=1e-12,
    )
    np.testing.assert_allclose(
        ours.curves.recall.transpose(1, 2, 0, 3), evaluation.eval["recall"], atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(scenes(), st.sampled_from(["bbox", "segm", "segm_bboxarea"]))
def test_lrp(scene, mode):
    evaluation = official(*scene, mode)
    ours = evaluate(*scene, [mode]).modes[mode]
    for position, category in enumerate(evaluation.params.catIds):
        for area, suffix in enumerate(SIZES):
            names = ["oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN", "thr"]
            values = [ours.per_class[category][name + suffix] for name in names]
            expected = naive_lrp(evaluation, position, area)
            assert values == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from(["bbox", "segm"]))
def test_class_agnostic_ap(scene, mode):
    evaluation = official(*scene, mode, use_categories=False)
    ours = evaluate(*scene, [mode]).modes[mode].overall
    expected = evaluation.stats[:2]
    assert [ours["AP_agnostic"], ours["AP50_agnostic"]] == pytest.approx(expected, abs=1e-12)


def crowded_scene(seed, detections):
    """One image, more detections than count, so that COCO's limit cuts within the classes."""
    rng = np.random.default_rng(seed)

    def box():
        return [int(n) for n in (*rng.integers(0, 60, 2), *rng.integers(8, 60, 2))]

    faces = [box() for _ in range(20)]
    ground_truth = {
        "images": [{"id": 5, "height": SIDE, "width": SIDE}],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": [
            {
                "id": i + 1, "image_id": 5, "category_id": i % 2, "bbox": b, "iscrowd": 0,
                "area": b[2] * b[3], "segmentation": rle_of(b),
            }
            for i, b in enumerate(faces)
        ],
    }  # fmt: skip
    results = []
    for i in range(detections):
        b = faces[i % 20] if rng.random() < 0.4 else box()
        score = int(rng.integers(1, 20)) / 20
        results.append(
            {"image_id": 5, "category_id": i % 2, "bbox": b, "score": score}
            | {"segmentation": rle_of(b)}
        )
    return ground_truth, results


@pytest.mark.parametrize("mode", ["bbox", "segm"])
def test_the_limit_of_a_hundred_detections(mode):
    scene = crowded_scene(3, 300)
    ours = evaluate(*scene, [mode]).modes[mode].overall
    assert [ours[name] for name in STATS] == pytest.approx(official(*scene, mode).stats, abs=1e-12)
    agnostic = official(*scene, mode, use_categories=False).stats
    assert ours["AP_agnostic"] == pytest.approx(agnostic[0], abs=1e-12)


def id_zero_scene():
    ground_truth, results = crowded_scene(4, 60)
    for annotation in ground_truth["annotations"]:
        annotation["id"] -= 1
    return ground_truth, results


def test_annotation_id_zero_is_an_id_like_any_other():
    ground_truth, results = id_zero_scene()
    metrics = evaluate(ground_truth, results)
    for annotation in ground_truth["annotations"]:
        annotation["id"] += 1
    renumbered = evaluate(ground_truth, results)
    assert metrics.flat() == pytest.approx(renumbered.flat(), nan_ok=True)
    assert any("id 0" in note for note in metrics.notes)


def test_annotation_id_zero_as_pycocotools_has_it():
    scene = id_zero_scene()
    for mode in ("bbox", "segm"):
        ours = evaluate(*scene, [mode], id_zero_unmatched=True).modes[mode]
        evaluation = official(*scene, mode)
        values = [ours.overall[name] for name in STATS]
        assert values == pytest.approx(evaluation.stats, abs=1e-12)
        correct = evaluate(*scene, [mode]).modes[mode]
        assert correct.overall["AP"] > ours.overall["AP"]


def test_one_face_with_id_zero():
    face = {"image_id": 1, "category_id": 0, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0}
    ground_truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 0, "name": "Real"}],
        "annotations": [{"id": 0, **face}],
    }
    results = [{"image_id": 1, "category_id": 0, "bbox": [2, 2, 20, 20], "score": 0.5}]
    correct = evaluate(ground_truth, results, ["bbox"]).modes["bbox"].overall
    fault = evaluate(ground_truth, results, ["bbox"], id_zero_unmatched=True).modes["bbox"].overall
    assert (correct["AP"], correct["oLRP"]) == (pytest.approx(1), 0)
    assert (fault["AP"], fault["oLRP"]) == (0, 1)
