"""A detector's verdict on each face, against a plain loop; missed faces and false alarms."""

import math

import numpy as np
import pytest
import torch

from comics.evaluation import evaluate
from comics.evaluation.faces import confusion, face_metrics, face_verdicts
from comics.inference.verdict import fake_probability


def scene(seed=0):
    rng = np.random.default_rng(seed)
    faces = [
        {
            "id": i, "image_id": i // 4, "category_id": int(rng.integers(2)), "area": 900.0,
            "bbox": [40.0 * (i % 4), 5.0, 30.0, 30.0], "iscrowd": int(i % 11 == 10),
        }
        for i in range(40)
    ]  # fmt: skip
    ground_truth = {
        "images": [{"id": i, "height": 60, "width": 200} for i in range(10)],
        "categories": [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}],
        "annotations": faces,
    }
    results = [
        {
            "image_id": face["image_id"],
            "category_id": int(rng.integers(2)),
            "score": float(rng.uniform(0.05, 1)),
            "bbox": [face["bbox"][0] + float(rng.uniform(-14, 14)), 5.0, 30.0, 30.0],
        }
        for face in faces
        for _ in range(int(rng.integers(0, 4)))
    ]
    return ground_truth, results


def overlap(a, b):
    shared = max(0.0, 30 - abs(a["bbox"][0] - b["bbox"][0])) * 30
    return shared / (900 if b["iscrowd"] else 1800 - shared)


def naive(ground_truth, results):
    """face id -> {category: best score}, and the scores of detections without a face."""
    scores = {face["id"]: {} for face in ground_truth["annotations"]}
    alone = []
    for result in results:
        rivals = [f for f in ground_truth["annotations"] if f["image_id"] == result["image_id"]]
        best = max(rivals, key=lambda face: overlap(result, face))
        if overlap(result, best) < 0.5:
            alone.append(result["score"])
            continue
        own = scores[best["id"]]
        own[result["category_id"]] = max(own.get(result["category_id"], 0), result["score"])
    return scores, alone


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_a_plain_loop(seed):
    ground_truth, results = scene(seed)
    metrics = evaluate(ground_truth, results, ["bbox"])
    verdicts = face_verdicts(metrics, "bbox")
    scores, alone = naive(ground_truth, results)
    faces = [face for face in ground_truth["annotations"] if not face["iscrowd"]]
    assert metrics.ground_truth.ids[verdicts.face].tolist() == [face["id"] for face in faces]
    assert verdicts.labels.tolist() == [face["category_id"] for face in faces]
    assert sorted(verdicts.false_alarms) == pytest.approx(sorted(alone))
    for place, face in enumerate(faces):
        own = scores[face["id"]]
        if not own:
            assert math.isnan(verdicts.fake_probability[place]) and verdicts.detection[place] == -1
            continue
        pair = torch.tensor([[own.get(0, 0.0), own.get(1, 0.0)]], dtype=torch.float64)
        expected = float(fake_probability(pair, 0.05))  # the rule of inference
        assert verdicts.fake_probability[place] == pytest.approx(expected, abs=1e-9)
        best = results[verdicts.detection[place]]
        assert best["score"] == max(own.values()) == verdicts.score[place]
        assert verdicts.iou[place] == pytest.approx(overlap(best, face))


def test_missed_faces_are_left_out_or_count_as_wrong():
    ground_truth, results = scene(1)
    verdicts = face_verdicts(evaluate(ground_truth, results, ["bbox"]), "bbox")
    metrics = face_metrics(verdicts)
    found = ~np.isnan(verdicts.fake_probability)
    assert 0 < found.sum() < len(found)
    assert metrics.values["faces_found"] == pytest.approx(found.mean())
    assert metrics.values["n"] == found.sum()
    assert metrics.values["AUC_all"] < metrics.values["AUC"]
    assert any("have no detection" in note for note in metrics.notes)


def test_confusion_counts_every_face_once():
    ground_truth, results = scene(2)
    verdicts = face_verdicts(evaluate(ground_truth, results, ["bbox"]), "bbox")
    table, false_alarms = confusion(verdicts, score_threshold=0.3)
    assert table.sum(axis=1).tolist() == np.bincount(verdicts.labels).tolist()
    missed = np.isnan(verdicts.fake_probability) | (verdicts.score < 0.3)
    assert table[:, 2].sum() == missed.sum()
    assert false_alarms == (verdicts.false_alarms >= 0.3).sum()
    strict, none = confusion(verdicts, score_threshold=1.1)
    assert strict[:, :2].sum() == 0 and none == 0


def test_a_stated_probability_goes_before():
    ground_truth, _ = scene()
    face = ground_truth["annotations"][0]
    entry = {"image_id": 0, "category_id": 0, "score": 0.9, "bbox": face["bbox"]}
    entry["fake_probability"] = 0.73
    metrics = evaluate(ground_truth, [entry], ["bbox"])
    assert face_verdicts(metrics, "bbox").fake_probability[0] == pytest.approx(0.73)


def test_temperature_is_applied():
    metrics = evaluate(*scene(), ["bbox"])
    raw, cool = (face_verdicts(metrics, "bbox", temperature=t).fake_probability for t in (1, 2))
    found = ~np.isnan(raw)
    odds = np.sqrt(raw[found] / (1 - raw[found]))
    assert cool[found] == pytest.approx(odds / (1 + odds))


def test_no_detection_and_no_fake_category():
    ground_truth, _ = scene()
    with pytest.raises(ValueError, match="none of"):
        face_metrics(face_verdicts(evaluate(ground_truth, [], ["bbox"]), "bbox"))
    ground_truth["categories"][1]["name"] = "Dog"
    with pytest.raises(ValueError, match="need two categories"):
        face_verdicts(evaluate(ground_truth, [], ["bbox"]), "bbox")
