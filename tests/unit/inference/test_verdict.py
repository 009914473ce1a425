import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.config import load_config
from comics.inference.verdict import VerdictRule, fake_probability, form_verdicts
from comics.structures import FAKE, REAL, Faces

SIZE = (100, 120)


def detections(rows, with_masks=False):
    """Rows of (x0, y0, x1, y1, label, score)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    masks = None
    if with_masks:
        masks = torch.zeros((len(rows), *SIZE), dtype=torch.bool)
        for mask, (x0, y0, x1, y1, *_) in zip(masks, rows, strict=True):
            mask[y0:y1, x0:x1] = True
    return Faces(table[:, :4], SIZE, table[:, 4].long(), table[:, 5], masks)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inner / (area - inner)


def naive_verdicts(rows, rule):
    """One face after the other, in plain Python: (box, score, P(fake), label)."""
    left = sorted(rows, key=lambda row: -row[5])
    result = []
    while left:
        leader = left[0]
        group = [row for row in left if row is leader or iou(leader, row) >= rule.merge_iou]
        left = [row for row in left if row not in group]
        best = [max((r[5] for r in group if r[4] == c), default=None) for c in (REAL, FAKE)]
        known = max(s for s in best if s is not None)
        real, fake = (min(rule.missing_score, known) if s is None else s for s in best)
        odds = (fake / real) ** (1 / rule.temperature)
        p = odds / (1 + odds)
        if known >= rule.score_threshold:
            result.append((leader[:4], known, p, int(p >= rule.fake_threshold)))
    return result


box = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(box, st.integers(0, 1)), max_size=8),
    st.randoms(use_true_random=False),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.sampled_from([0.5, 1.0, 2.5]),
)
def test_agrees_with_a_plain_loop(items, random, merge_iou, temperature):
    # Scores are distinct: the order of equal ones is not part of the rule
    scores = random.sample(range(1, 1000), len(items))
    rows = [(*b, label, s / 1000) for (b, label), s in zip(items, scores, strict=True)]
    rule = VerdictRule(0.3, 0.6, merge_iou, 0.05, temperature)
    faces = form_verdicts(detections(rows), rule)
    expected = naive_verdicts(rows, rule)
    assert len(faces) == len(expected)
    for index, (where, score, p, label) in enumerate(expected):
        assert faces.boxes[index].tolist() == list(where)
        assert faces.scores[index].item() == pytest.approx(score)
        assert faces.fake_probability[index].item() == pytest.approx(p, abs=1e-12)
        assert faces.labels[index].item() == label


def test_same_face_as_both_classes_becomes_one_verdict():
    rows = [(10, 10, 40, 50, REAL, 0.6), (11, 10, 41, 50, FAKE, 0.2)]
    faces = form_verdicts(detections(rows, with_masks=True), VerdictRule())
    assert len(faces) == 1
    assert faces.fake_probability.tolist() == pytest.approx([0.2 / 0.8])
    assert faces.labels.tolist() == [REAL]
    assert faces.scores.tolist() == pytest.approx([0.6])
    assert faces.boxes.tolist() == [[10, 10, 40, 50]]
    assert faces.masks[0].sum() == 30 * 40  # of the detection that leads


def test_neighbours_stay_apart():
    rows = [(10, 10, 40, 50, REAL, 0.9), (42, 10, 72, 50, FAKE, 0.8)]
    assert form_verdicts(detections(rows), VerdictRule()).labels.tolist() == [REAL, FAKE]


def test_missing_class_counts_as_the_candidate_threshold_but_never_turns_the_label():
    p = fake_probability(torch.tensor([[0.0, 0.95], [0.95, 0.0], [0.0, 0.01]]), 0.05)
    assert p.tolist() == pytest.approx([0.95, 0.05, 0.5], abs=1e-6)


def test_temperature_divides_the_logit():
    scores = torch.tensor([[0.1, 0.7], [0.4, 0.3]], dtype=torch.float64)
    expected = [1 / (1 + math.exp(-math.log(f / r) / 3)) for r, f in scores.tolist()]
    assert fake_probability(scores, 0.05, temperature=3).tolist() == pytest.approx(expected)


def test_thresholds_decide_label_and_dropping():
    rows = [(0, 0, 20, 20, FAKE, 0.4), (0, 0, 20, 20, REAL, 0.6), (50, 50, 90, 90, REAL, 0.45)]
    low = form_verdicts(detections(rows), VerdictRule(score_threshold=0.4, fake_threshold=0.39))
    high = form_verdicts(detections(rows), VerdictRule(score_threshold=0.5, fake_threshold=0.41))
    assert low.labels.tolist() == [FAKE, REAL]
    assert high.labels.tolist() == [REAL]


def test_weak_second_class_still_counts_though_below_the_score_threshold():
    rows = [(0, 0, 20, 20, REAL, 0.8), (0, 0, 20, 20, FAKE, 0.3)]
    faces = form_verdicts(detections(rows), VerdictRule(score_threshold=0.5))
    assert faces.fake_probability.tolist() == pytest.approx([0.3 / 1.1])


def test_no_detection_gives_no_face():
    for with_masks in (True, False):
        faces = form_verdicts(Faces.empty(SIZE, with_masks), VerdictRule())
        assert len(faces) == 0
        assert faces.fake_probability.shape == (0,)
        assert (faces.masks is not None) == with_masks


def test_scores_of_zero_give_one_half():
    assert fake_probability(torch.zeros(1, 2), 0.05).tolist() == [0.5]


def test_ground_truth_is_refused():
    truth = Faces(torch.zeros(0, 4), SIZE, torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="need detections with scores"):
        form_verdicts(truth, VerdictRule())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score_threshold", 1.1),
        ("fake_threshold", -0.1),
        ("merge_iou", 0.0),
        ("missing_score", 0.0),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("score_threshold", float("nan")),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        VerdictRule(**{name: value})


def test_rule_comes_from_the_configuration():
    overrides = ["TEST.MERGE_IOU", "0.4", "TEST.SCORE_THRESH", "0.2", "TEST.FAKE_THRESH", "0.7"]
    rule = VerdictRule.from_config(load_config(overrides=overrides), temperature=2.0)
    assert rule == VerdictRule(0.2, 0.7, 0.4, 0.05, 2.0)
