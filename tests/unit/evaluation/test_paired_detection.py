"""Detectors compared photo by photo."""

import numpy as np
import pytest

from comics.evaluation.metrics import evaluate
from comics.evaluation.paired_detection import AUC, Figure, paired_differences, weighted_ap

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


def test_weights_of_one_give_cocos_ap():
    metrics = measured()
    assert weighted_ap(metrics, "bbox", np.ones(12)) == pytest.approx(
        metrics.flat()["bbox/AP"], abs=1e-12
    )


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
    wanted = evaluate(repeated, copies, ["bbox"]).flat()["bbox/AP"]
    # Copies tie in score, and a tie's order is the file's: AP may differ within the tied block
    found = weighted_ap(evaluate(truth, results, ["bbox"]), "bbox", weights)
    assert found == pytest.approx(wanted, abs=0.03)


def test_a_better_model_is_seen_and_the_same_one_is_not():
    better, worse = measured(40, 0.95, seed=1), measured(40, 0.55, seed=2)
    for name in ("bbox/AP", AUC):
        found = paired_differences([Figure(better, name)], [Figure(worse, name)], samples=200)
        assert found.low > 0 and found.low < found.mean < found.high
        assert found.by_seed == (pytest.approx(found.mean),)
        same = paired_differences([Figure(better, name)] * 2, [Figure(better, name)] * 2, 50)
        assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_what_cannot_be_paired():
    one, other = Figure(measured(12), "bbox/AP"), Figure(measured(11), "bbox/AP")
    with pytest.raises(ValueError, match="same photos"):
        paired_differences([one], [other])
    with pytest.raises(ValueError, match="pairs of one seed"):
        paired_differences([one, one], [one])
    with pytest.raises(ValueError, match="pairs of one seed"):
        paired_differences([], [])
