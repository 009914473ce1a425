import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from comics.config import load_config
from comics.inference.verdict import VideoRule
from comics.video.track_verdicts import (
    RECENT_FRAMES,
    RunningVerdicts,
    forged_moments,
    track_probability,
    video_probability,
)

PROBABILITIES = st.floats(0, 1)
SCORES = st.floats(0.01, 1)
FRAMES = st.lists(st.tuples(PROBABILITIES, SCORES), min_size=1, max_size=40)
TRIM = st.floats(0, 0.49)


def logit(p):
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


def by_integration(frames, trim, steps=200_000):
    """The same mean, from many equally spaced points of the frames laid end to end."""
    frames = sorted((logit(p), w) for p, w in frames)
    ends = np.cumsum([w for _, w in frames])
    points = (trim + (1 - 2 * trim) * (np.arange(steps) + 0.5) / steps) * ends[-1]
    logits = np.array([value for value, _ in frames])
    return logits[np.searchsorted(ends, points).clip(max=len(frames) - 1)].mean()


@pytest.mark.parametrize("trim", [0.0, 0.2, 0.37])
def test_it_is_the_mean_of_the_middle_of_the_distribution(trim):
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 10, 25):
        frames = list(zip(rng.random(count), rng.uniform(0.1, 1, count), strict=True))
        ours = track_probability(*zip(*frames, strict=True), trim)
        assert logit(ours) == pytest.approx(by_integration(frames, trim), abs=2e-4)


def test_equal_weights_agree_with_scipy():
    from scipy.stats import trim_mean

    p = np.random.default_rng(1).random(20)
    ours = track_probability(p, np.ones(20), 0.2)
    assert logit(ours) == pytest.approx(trim_mean([logit(v) for v in p], 0.2))


def test_without_trimming_it_is_the_weighted_mean_of_logits():
    ours = track_probability([0.9, 0.2], [0.75, 0.25], 0.0)
    assert logit(ours) == pytest.approx(0.75 * logit(0.9) + 0.25 * logit(0.2))


@given(frames=FRAMES, trim=TRIM, data=st.data())
def test_the_order_of_frames_does_not_matter(frames, trim, data):
    shuffled = data.draw(st.permutations(frames))
    first, second = (
        track_probability(*zip(*order, strict=True), trim) for order in (frames, shuffled)
    )
    assert first == second


@given(frames=FRAMES, trim=TRIM, data=st.data())
def test_it_never_falls_when_a_frame_rises(frames, trim, data):
    position = data.draw(st.integers(0, len(frames) - 1))
    higher = list(frames)
    higher[position] = (data.draw(st.floats(frames[position][0], 1)), frames[position][1])
    before, after = (track_probability(*zip(*f, strict=True), trim) for f in (frames, higher))
    assert after >= before - 1e-12


@given(frames=FRAMES, trim=TRIM)
def test_it_lies_among_its_frames(frames, trim):
    p = track_probability(*zip(*frames, strict=True), trim)
    values = [min(max(value, 1e-6), 1 - 1e-6) for value, _ in frames]
    assert min(values) - 1e-9 <= p <= max(values) + 1e-9


@given(
    others=st.lists(st.tuples(PROBABILITIES, SCORES), min_size=4, max_size=40),
    outlier=st.tuples(PROBABILITIES, SCORES),
    trim=st.floats(0.05, 0.49),
)
def test_one_frame_cannot_lead_a_long_track_out_of_the_others(others, outlier, trim):
    total = outlier[1] + sum(score for _, score in others)
    assume(outlier[1] <= trim * total)
    p = track_probability(*zip(*others, outlier, strict=True), trim)
    values = [min(max(value, 1e-6), 1 - 1e-6) for value, _ in others]
    assert min(values) - 1e-9 <= p <= max(values) + 1e-9


def test_one_certain_frame_does_not_flip_a_long_track():
    rng = np.random.default_rng(2)
    real = rng.uniform(0.05, 0.45, 30)
    assert track_probability([*real, 1.0], [0.6] * 30 + [1.0], 0.2) < 0.5
    assert track_probability([*(1 - real), 0.0], [0.6] * 30 + [1.0], 0.2) > 0.5


def test_scores_of_zero_are_weights_like_others():
    assert track_probability([0.2, 0.2], [0.0, 0.0], 0.2) == pytest.approx(0.2)


def test_frames_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="a track needs"):
        track_probability([], [], 0.2)
    with pytest.raises(ValueError, match="a track needs"):
        track_probability([0.5], [], 0.2)


def test_a_video_is_its_most_forged_track_that_was_seen_long_enough():
    assert video_probability([0.2, 0.9, 0.6], [30, 2, 10], 3) == 0.6
    assert video_probability([0.2, 0.9, 0.6], [30, 3, 10], 3) == 0.9
    assert video_probability([], [], 3) is None


def test_where_no_track_is_long_the_longest_speak():
    assert video_probability([0.2, 0.9, 0.6], [2, 1, 2], 3) == 0.6
    assert video_probability([0.7], [1], 3) == 0.7


@given(
    tracks=st.lists(st.tuples(PROBABILITIES, st.integers(1, 50)), min_size=1, max_size=10),
    min_frames=st.integers(1, 20),
    data=st.data(),
)
def test_a_video_depends_on_no_order_and_never_falls(tracks, min_frames, data):
    value = video_probability(*zip(*tracks, strict=True), min_frames)
    shuffled = data.draw(st.permutations(tracks))
    assert video_probability(*zip(*shuffled, strict=True), min_frames) == value
    position = data.draw(st.integers(0, len(tracks) - 1))
    higher = list(tracks)
    higher[position] = (data.draw(st.floats(tracks[position][0], 1)), tracks[position][1])
    assert video_probability(*zip(*higher, strict=True), min_frames) >= value


def test_the_rule_comes_from_the_configuration():
    cfg = load_config(
        overrides=["TEST.VIDEO.TRIM", "0.1", "TEST.VIDEO.MIN_FRAMES", "7", "TEST.FAKE_THRESH",
                   "0.7", "TEST.VIDEO.TRACK_IOU", "0.3", "TEST.VIDEO.LOST_SECONDS", "2.5"]
    )  # fmt: skip
    assert VideoRule.from_config(cfg) == VideoRule(0.7, 0.1, 7, 0.3, 2.5)
    assert VideoRule.from_config(load_config()) == VideoRule()


@pytest.mark.parametrize(
    ("name", "value"),
    [("fake_threshold", 1.5), ("trim", 0.5), ("trim", -0.1), ("min_frames", 0), ("track_iou", 0),
     ("lost_seconds", -1), ("lost_seconds", float("nan"))],
)  # fmt: skip
def test_rules_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        VideoRule(**{name: value})


def test_the_verdict_so_far_is_that_of_the_frames_so_far():
    rng = np.random.default_rng(3)
    running, seen = RunningVerdicts(0.2), {1: [], 2: []}
    for i in range(12):
        tracks = [1, 2] if i % 3 else [2]
        values = [(float(rng.random()), float(rng.uniform(0.2, 1))) for _ in tracks]
        told = running.update(tracks, *zip(*values, strict=True), alive={1, 2})
        for track, value, p in zip(tracks, values, told, strict=True):
            seen[track].append(value)
            assert p == track_probability(*zip(*seen[track], strict=True), 0.2)


def test_the_verdict_so_far_forgets_what_has_ended_and_what_is_long_ago():
    running = RunningVerdicts(0.0)
    running.update([1], [0.9], [1.0], alive={1})
    running.update([], [], [], alive=set())
    assert running.update([1], [0.2], [1.0], alive={1}) == [pytest.approx(0.2)]
    for _ in range(RECENT_FRAMES):
        last = running.update([1], [0.7], [1.0], alive={1})
    assert last == [pytest.approx(0.7)]


def test_moments_join_what_lies_close():
    times = [0.0, 0.5, 1.0, 1.5, 4.0, 6.0]
    p = [0.9, 0.1, 0.8, 0.1, 0.7, 0.2]
    assert forged_moments(times, p, 0.5, 1.0) == [(0.0, 1.0), (4.0, 4.0)]
    assert forged_moments(times, p, 0.5, 0.4) == [(0.0, 0.0), (1.0, 1.0), (4.0, 4.0)]
    assert forged_moments(times, p, 0.95, 1.0) == forged_moments([], [], 0.5, 1.0) == []
    assert forged_moments([3.0], [0.5], 0.5, 1.0) == [(3.0, 3.0)]  # the threshold itself is forged
