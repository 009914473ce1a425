"""AUC, EER and the rest: reference values, scikit-learn, closed forms."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score, roc_curve

from comics.evaluation.classification import (
    auc,
    bootstrap_interval,
    calibration_error,
    classification_metrics,
    group_mean,
    reliability_bins,
)

NAMES = {
    "auc": "AUC",
    "ap": "AP",
    "acc_gt": "accuracy_gt",
    "acc_ge": "accuracy",
    "eer_bench": "EER_bench",
    "eer_allpoints": "EER_allpoints",
    "eer_mid": "EER_mid",
    "eer_interp": "EER",
}
CASES = [
    "balanced", "imbalanced", "ties", "perfect", "inverted", "constant", "one_class", "tiny",
    "groups",
]  # fmt: skip


def assert_matches(values, expected):
    assert (values["n"], values["n_fake"]) == (expected["n"], expected["positives"])
    for theirs, ours in NAMES.items():
        if expected[theirs] is None:
            assert math.isnan(values[ours]), ours
        else:
            assert values[ours] == pytest.approx(expected[theirs], abs=1e-9), ours


@pytest.fixture(scope="module")
def cases(evaluation_cases):
    return json.loads((evaluation_cases / "cls.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_reference_values(cases, name):
    case = cases[name]
    metrics = classification_metrics(case["y_true"], case["y_score"])
    assert_matches(metrics.values, case["expected"])


def test_reference_values_by_video(cases):
    case = cases["groups"]
    labels, scores, _ = group_mean(case["y_true"], case["y_score"], case["group"])
    values = classification_metrics(labels, scores).values
    assert_matches(values, case["expected_group_mean"])


def test_every_reference_case_is_tested(cases):
    assert set(cases) == set(CASES)


SAMPLES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20).map(lambda n: n / 20)), min_size=2, max_size=60
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@settings(max_examples=100, deadline=None)
@given(SAMPLES)
def test_against_scikit_learn(rows):
    labels, scores = map(np.array, zip(*rows, strict=True))
    values = classification_metrics(labels, scores).values
    called = (scores >= 0.5).astype(int)
    assert values["AUC"] == pytest.approx(roc_auc_score(labels, scores))
    expected = balanced_accuracy_score(labels, called)
    assert values["balanced_accuracy"] == pytest.approx(expected)
    assert values["accuracy_fake"] == pytest.approx(recall_score(labels, called))
    assert values["accuracy_real"] == pytest.approx(recall_score(labels, called, pos_label=0))


@settings(max_examples=100, deadline=None)
@given(SAMPLES)
def test_eer_is_where_the_rates_are_equal(rows):
    labels, scores = map(np.array, zip(*rows, strict=True))
    values = classification_metrics(labels, scores).values
    # on the interpolated ROC, the point with FPR = EER has TPR = 1 - EER
    false_rate, true_rate, _ = roc_curve(labels, scores, drop_intermediate=False)
    eer = values["EER"]
    left, right = (
        np.searchsorted(false_rate, eer, "left"),
        np.searchsorted(false_rate, eer, "right"),
    )
    if left < right:  # a vertical piece of the ROC: it crosses the diagonal there
        low = np.interp(eer, false_rate[: left + 1], true_rate[: left + 1])
        assert low - 1e-9 <= 1 - eer <= true_rate[right - 1] + 1e-9
    else:
        assert np.interp(eer, false_rate, true_rate) == pytest.approx(1 - eer, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SAMPLES)
def test_swapping_the_classes_keeps_auc_and_eer(rows):
    labels, scores = map(np.array, zip(*rows, strict=True))
    values = classification_metrics(labels, scores).values
    swapped = classification_metrics(1 - labels, 1 - scores).values
    assert swapped["AUC"] == pytest.approx(values["AUC"])
    assert swapped["EER"] == pytest.approx(values["EER"], abs=1e-9)


def test_true_positive_rate_at_a_false_positive_rate():
    labels = [0] * 10 + [1] * 4
    scores = [0.05 * i for i in range(10)] + [0.9, 0.8, 0.42, 0.1]
    values = classification_metrics(labels, scores).values
    assert values["TPR@FPR=0.1"] == pytest.approx(3 / 4)  # 0.42 lets 0.45 through: 1 of 10
    assert values["TPR@FPR=0.01"] == pytest.approx(2 / 4)


def test_calibration_error_by_hand():
    labels, scores = [0, 0, 1, 1, 1], [0.05, 0.05, 0.05, 0.95, 1.0]
    bins = reliability_bins(np.array(labels), np.array(scores), bins=10)
    assert [b.count for b in bins] == [3, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert math.isnan(bins[4].fraction)
    expected = (3 * abs(0.05 - 1 / 3) + 2 * abs(0.975 - 1)) / 5
    assert calibration_error(bins) == pytest.approx(expected)


def test_one_class_says_why():
    metrics = classification_metrics([0, 0, 0], [0.1, 0.2, 0.9])
    assert math.isnan(metrics.values["AUC"]) and math.isnan(metrics.values["AP"])
    assert math.isnan(metrics.values["balanced_accuracy"])
    assert metrics.values["accuracy"] == pytest.approx(2 / 3)
    assert any("all 3 labels are real" in note for note in metrics.notes)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], "entry 1: label 2"),
        ([0, 1], [0.1, math.nan], "entry 1: score nan"),
        ([0, 1], [0.1, 1.5], "entry 1: score 1.5"),
        ([0, 1], [0.1], "one length"),
        ([], [], "at least 1"),
    ],
)
def test_bad_input(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(labels, scores)


def test_groups_with_both_labels():
    with pytest.raises(ValueError, match="group 'a' has real and fake"):
        group_mean([0, 1, 1], [0.1, 0.2, 0.3], ["a", "a", "b"])
    labels, scores, names = group_mean([0, 1, 0], [0.1, 0.3, 0.4], ["a", "a", "b"], any_fake=True)
    assert labels.tolist() == [1, 0] and names == ["a", "b"]
    assert scores == pytest.approx([0.2, 0.4])


def test_bootstrap_covers_the_true_auc_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(40):
        labels = np.repeat([0, 1], 60)
        scores = 1 / (1 + np.exp(-rng.normal(labels * 1.0)))
        low, high = bootstrap_interval(auc, labels, scores, samples=120, seed=trial)
        covered += low <= 0.7602 <= high  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    assert 33 <= covered <= 40


def test_bootstrap_over_videos_is_wider_than_over_their_frames():
    rng = np.random.default_rng(2)
    video = np.repeat(np.arange(20), 30)
    labels = video % 2
    scores = 1 / (1 + np.exp(-(labels + rng.normal(size=20)[video])))
    narrow = bootstrap_interval(auc, labels, scores, samples=100)
    wide = bootstrap_interval(auc, labels, scores, clusters=video, samples=100)
    assert np.ptp(wide) > 2 * np.ptp(narrow)


def test_bootstrap_of_one_class_is_undefined():
    assert all(math.isnan(x) for x in bootstrap_interval(auc, [1, 1], [0.1, 0.2], samples=20))
