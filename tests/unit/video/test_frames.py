import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comics.video.frames import Selection


def picked(selection, times):
    picker = selection.picker()
    return [i for i, time_s in enumerate(times) if picker.picks(i, time_s)]


def test_every_frame_by_default():
    assert picked(Selection(), [0, 0.04, 0.08]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("rate", "max_fps", "expected"),
    [
        (25, 5, [0, 5, 10, 15, 20]),
        (25, 25, list(range(25))),
        (25, 30, list(range(25))),
        (30, 15, list(range(0, 30, 2))),
        (25, 10, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23]),
        (25, 1, [0]),
    ],
)
def test_at_most_so_many_frames_a_second(rate, max_fps, expected):
    assert picked(Selection(max_fps=max_fps), [i / rate for i in range(rate)]) == expected


def test_both_limits_hold():
    assert picked(Selection(stride=4, max_fps=5), [i / 25 for i in range(25)]) == [0, 8, 12, 16, 20]


@given(
    gaps=st.lists(st.floats(0.001, 2), min_size=1, max_size=60),
    max_fps=st.floats(0.1, 60),
    start=st.floats(0, 1000),
)
def test_no_second_of_any_video_has_more(gaps, max_fps, start):
    times = [start + sum(gaps[:i]) for i in range(len(gaps))]
    chosen = [times[i] for i in picked(Selection(max_fps=max_fps), times)]
    assert chosen[0] == start
    for time_s in chosen:  # on a grid: a second may begin and end inside of its slots
        in_window = [t for t in chosen if time_s <= t < time_s + 1]
        assert len(in_window) <= math.ceil(max_fps + 1e-6) + 1
    # and none is passed over for longer than needed
    for earlier, later in zip(chosen, chosen[1:], strict=False):
        between = [t for t in times if earlier < t < later]
        assert all(t - earlier < 1 / max_fps + 1e-3 for t in between)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stride": 0}, "stride must be 1 or more"),
        ({"max_fps": 0}, "max_fps must be above 0"),
        ({"max_fps": float("inf")}, "max_fps"),
        ({"start_s": -1}, "start must be 0 seconds or later"),
        ({"start_s": 3, "end_s": 3}, "must be after start"),
        ({"end_s": float("nan")}, "must be after start"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        Selection(**values)
