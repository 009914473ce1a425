"""Detectors compared photo by photo."""

import numpy as np
import pytest

from comics.evaluation.faces import face_metrics, face_verdicts
from comics.evaluation.metrics import evaluate
from comics.evaluation.paired_detection import (
    AUC,
    paired_difference,
    photo_weights,
    weighted_figure,
)

CATEGORIES = [{"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]


def truth_and_results(photos, quality, seed=0):
    """Two faces a photo, real and forged; results whose class is right with that probability."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "width": 100, "height": 50, "file_name": f"{i}.jpg"} for i in range(photos)]
    annotations, results = [], []
    for photo in range(photos):
        for label, x in ((0, 5), (1, 55)):
            box = [x, 10, 30, 30]
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": photo, "category_id": label, "bbox": box,
                                "area": 900, "iscrowd": 0})  # fmt: skip
            said = label if rng.random() < quality else 1 - label
            moved = [x + float(rng.uniform(0, 4)), 10, 30, 30]
            results.append({"image_id": photo, "category_id": said, "bbox": moved,
                            "score": float(rng.uniform(0.3, 1))})  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, results


def measured(photos=12, quality=0.8, seed=0):
    return evaluate(*truth_and_results(photos, quality, seed), ["bbox"])


def test_weights_of_one_give_the_usual_figures():
    metrics = measured()
    ones = np.ones((1, 12))
    wanted = metrics.flat()["bbox/AP"]
    assert weighted_figure(metrics, "bbox/AP", ones)[0] == pytest.approx(wanted, abs=1e-12)
    wanted = face_metrics(face_verdicts(metrics, "bbox")).values["AUC_all"]
    assert weighted_figure(metrics, AUC, ones)[0] == pytest.approx(wanted, abs=1e-12)


def test_weights_are_repetitions_of_photos():
    truth, results = truth_and_results(6, 0.7)
    weights = np.array([0, 3, 1, 0, 2, 1.0])
    repeated = {"images": [], "annotations": [], "categories": CATEGORIES}
    copies = []
    for photo, times in enumerate(weights.astype(int)):
        for _ in range(times):
            number = len(repeated["images"])
            repeated["images"].append({**truth["images"][photo], "id": number})
            for face in truth["annotations"]:
                if face["image_id"] == photo:
                    one = {**face, "image_id": number, "id": len(repeated["annotations"]) + 1}
                    repeated["annotations"].append(one)
            copies += [{**r, "image_id": number} for r in results if r["image_id"] == photo]
    wanted = evaluate(repeated, copies, ["bbox"])
    found = evaluate(truth, results, ["bbox"])
    # Copies tie in score and are taken together here, one by one there: no recall between them
    value = weighted_figure(found, "bbox/AP", weights[None])[0]
    assert value == pytest.approx(wanted.flat()["bbox/AP"], abs=0.02)
    aucs = face_metrics(face_verdicts(wanted, "bbox")).values["AUC_all"]
    assert weighted_figure(found, AUC, weights[None])[0] == pytest.approx(aucs, abs=1e-12)


def test_photos_that_were_not_drawn_leave_figures_undefined():
    metrics = measured(4)
    assert np.isnan(weighted_figure(metrics, AUC, np.zeros((1, 4)))).all()
    assert np.isnan(weighted_figure(metrics, "bbox/AP", np.zeros((1, 4)))).all()


def test_a_better_model_is_seen_and_the_same_one_is_not():
    better, worse = measured(40, 0.95, seed=1), measured(40, 0.55, seed=2)
    weights = photo_weights(40, 200)
    assert weights.shape == (201, 40) and (weights.sum(axis=1) == 40).all()
    for name in ("bbox/AP", AUC):
        first, second = (weighted_figure(m, name, weights) for m in (better, worse))
        found = paired_difference([first], [second])
        assert 0 < found.low < found.mean < found.high
        assert found.by_seed == (pytest.approx(first[0] - second[0]),)
        same = paired_difference([first, second], [first, second])
        assert (same.mean, same.low, same.high) == (0, 0, 0)
        assert found.text.startswith("+")


def test_what_cannot_be_paired():
    one, other = np.zeros(5), np.zeros(6)
    with pytest.raises(ValueError, match="same photos"):
        paired_difference([one], [other])
    with pytest.raises(ValueError, match="pairs of one seed"):
        paired_difference([one, one], [one])
    with pytest.raises(ValueError, match="pairs of one seed"):
        paired_difference([], [])
