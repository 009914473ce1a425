"""Every figure of the reference cases, made by the official tools, within 1e-9."""

import gzip
import json
import math

import pytest

from comics.evaluation import evaluate

CASES = [
    "small_rle",
    "small_poly",
    "small_ties",
    "small_crowd",
    "deg_nodet",
    "deg_perfect",
    "deg_notp",
    "deg_nogt",
    "deg_edges",
]
MODES = ["bbox", "segm", "segm_bboxarea"]
SIZES = {"all": "", "small": "_S", "medium": "_M", "large": "_L"}
TOLERANCE = 1e-9


def read(path):
    return json.loads(gzip.open(path).read())


@pytest.fixture(scope="module", params=CASES)
def case(request, evaluation_cases):
    folder = evaluation_cases / request.param
    metrics = evaluate(folder / "gt.json.gz", folder / "dt.json.gz", MODES)
    return metrics, json.loads((folder / "expected.json").read_text()), folder


def assert_equal(ours, expected, where):
    if expected is None:
        assert math.isnan(ours), where
    else:
        assert ours == pytest.approx(expected, abs=TOLERANCE), where


@pytest.mark.parametrize("mode", MODES)
def test_average_precision_is_the_official_one(case, mode):
    metrics, expected, _ = case
    for name, value in expected["coco"][mode]["overall"].items():
        assert_equal(metrics.modes[mode].overall[name], value, name)
    for category, values in expected["coco"][mode]["per_class"].items():
        for name, value in values.items():
            if not isinstance(value, (list, dict)):
                ours = metrics.modes[mode].per_class[int(category)][name]
                assert_equal(ours, value, f"{category} {name}")


@pytest.mark.parametrize("mode", MODES)
def test_precision_and_recall_by_threshold_are_the_official_ones(case, mode):
    metrics, expected, _ = case
    curves = metrics.modes[mode].curves
    for position, category in enumerate(metrics.ground_truth.category_ids):
        values = expected["coco"][mode]["per_class"].get(str(category), {})
        for level, value in enumerate(values.get("AP_per_iou", [])):
            assert_equal(curves.precision[0, level, position].mean(), value, level)
        for level, value in enumerate(values.get("max_recall_per_iou", [])):
            assert_equal(curves.recall[0, level, position, -1], value, level)


@pytest.mark.parametrize("mode", MODES)
def test_lrp_is_the_official_one(case, mode):
    metrics, expected, _ = case
    for name, value in expected["lrp"][mode]["overall"].items():
        assert_equal(metrics.modes[mode].overall[name], value, name)
    for category, sizes in expected["lrp"][mode]["per_class"].items():
        for size, values in sizes.items():
            for name, value in values.items():
                ours = metrics.modes[mode].per_class[int(category)][name + SIZES[size]]
                assert_equal(ours, value, f"{category} {size} {name}")


@pytest.mark.parametrize("mode", MODES)
def test_counts_are_the_official_ones(case, mode):
    metrics, expected, _ = case
    matches = metrics.modes[mode].matches
    for position, category in enumerate(metrics.ground_truth.category_ids):
        values = expected["coco"][mode]["per_class"].get(str(category))
        if values is None:
            continue
        own = matches.ranked.category == position
        for area, size in enumerate(SIZES):
            assert matches.counted[area, position] == values["n_gt_counted"][size]
            correct = matches.true_positive[area, 0] & own
            wrong = ~correct & ~matches.ignored[area, 0] & own
            if size in values["n_tp_fp_at_iou50"]:
                assert [correct.sum(), wrong.sum()] == values["n_tp_fp_at_iou50"][size]


@pytest.mark.parametrize("mode", ["bbox", "segm"])
def test_each_match_is_the_official_one(case, mode):
    metrics, _, folder = case
    truth, matches = metrics.ground_truth, metrics.modes[mode].matches
    ours = {}
    for place, entry in enumerate(matches.ranked.entry):
        face = matches.face[0, place]
        identity = 0 if face < 0 else int(truth.ids[face])
        ours[int(entry) + 1] = (
            identity,
            float(matches.iou[0, place]),
            bool(matches.ignored[0, 0, place]),
        )
    rows = read(folder / "matches.json.gz")[mode]
    assert len(rows) == len(ours)
    for number, identity, iou, ignored in rows:
        assert ours[number][0] == identity
        assert ours[number][1] == pytest.approx(iou, abs=TOLERANCE)
        assert ours[number][2] == bool(ignored)
