import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.pages.timeline import (
    MAX_POINTS,
    MAX_TRACKS,
    clock,
    select_tracks,
    thin_out,
    timeline_svg,
)
from comics.structures import FAKE, REAL
from comics.video.tracks_file import Track

SVG = "{http://www.w3.org/2000/svg}"


def make_track(number, frames=20, p=0.2):
    label = FAKE if p >= 0.5 else REAL
    return Track(number, label, p, frames, 0.0, frames / 25)


def draw(tracks, title="clip.mp4", points=None):
    def default(number):
        frames = next(track.frames for track in tracks if track.track_id == number)
        times = np.arange(frames) / 25
        return np.column_stack((times, np.full(frames, 0.1 * number % 1), np.ones(frames)))

    return timeline_svg(title, tracks, points or default, 0.5, 1.0)


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(SVG + "text")]


def lines(svg):
    """The drawn line of the first track: of its colour, outside the legend."""
    root = ElementTree.fromstring(svg)
    legends = [group for group in root.iter(SVG + "g") if "legend" in group.get("id", "")]
    legend = {id(node) for group in legends for node in group.iter()}
    paths = [node for node in root.iter(SVG + "path") if id(node) not in legend]
    return [node for node in paths if "stroke: #0072b2" in node.get("style", "")]


def test_title_and_legend_say_what_is_shown():
    said = texts(draw([make_track(1, p=0.2), make_track(3, p=0.875)]))
    assert "clip.mp4" in said
    assert "Track 1: real, P(fake) 0.20" in said
    assert "Track 3: fake, P(fake) 0.88" in said
    assert "P(fake)" in said


def test_real_and_forged_differ_by_more_than_their_colour():
    svg = draw([make_track(1, p=0.2)]), draw([make_track(1, p=0.9)])
    dashed = ["stroke-dasharray: " in lines(text)[0].get("style") for text in svg]
    assert dashed == [False, True]


@pytest.mark.parametrize(
    "title",
    [
        "<script>alert(1)</script>",
        "a\"b&c<d>'e",
        "$\\frac{1}{2}$ and $5",
        "_hidden",
        "größe 日本",
        "--",
    ],
)
def test_a_title_is_text_whatever_it_holds(title):
    svg = draw([make_track(1)], title)
    assert "<script" not in svg
    assert title in texts(svg)


@given(title=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
@settings(max_examples=5, deadline=None)
def test_any_printable_title_makes_sound_svg(title):
    ElementTree.fromstring(draw([make_track(1, 3)], title))


def test_a_long_title_is_shortened():
    assert max(map(len, texts(draw([make_track(1)], "x" * 500)))) <= 80


def test_no_track():
    assert "no face found" in texts(draw([]))


def test_the_same_video_gives_the_same_file():
    tracks = [make_track(1), make_track(2, p=0.9)]
    assert draw(tracks) == draw(tracks)


def test_a_line_is_interrupted_where_the_face_was_away():
    times = np.concatenate((np.arange(20) / 25, 5 + np.arange(20) / 25))
    points = np.column_stack((times, np.full(40, 0.3), np.ones(40)))
    path = lines(draw([make_track(1, 40)], points=lambda _: points))[0].get("d")
    assert path.count("M") == 2


def test_frames_that_are_far_apart_are_no_gaps():
    points = np.column_stack((np.arange(10) * 4.0, np.full(10, 0.3), np.ones(10)))
    path = lines(draw([make_track(1, 10)], points=lambda _: points))[0].get("d")
    assert path.count("M") == 1


def test_of_many_tracks_the_longest_and_the_most_forged_are_shown():
    tracks = [make_track(number, frames=100 - number) for number in range(1, 40)]
    tracks[-1] = make_track(39, frames=3, p=0.95)
    shown = [track.track_id for track in select_tracks(tracks)]
    assert shown == [*range(1, MAX_TRACKS), 39]
    svg = draw(tracks)
    assert "and 29 more" in texts(svg)


@given(
    gaps=st.lists(st.floats(0.001, 3), min_size=MAX_POINTS + 1, max_size=MAX_POINTS + 200),
    seed=st.integers(0, 1000),
)
@settings(max_examples=10, deadline=None)
def test_thinning_out_keeps_span_and_mean(gaps, seed):
    times = np.cumsum(gaps)
    values = np.random.default_rng(seed).random(len(times))
    fewer, means = thin_out(times, values)
    assert len(fewer) == len(means) <= MAX_POINTS
    assert (np.diff(fewer) > 0).all()
    assert values.min() - 1e-9 <= means.min() and means.max() <= values.max() + 1e-9
    span = times[-1] - times[0]
    assert abs(fewer[0] - times[0]) <= span / MAX_POINTS + 1e-9
    assert abs(fewer[-1] - times[-1]) <= span / MAX_POINTS + 1e-9


def test_few_points_are_left_as_they_are():
    times, values = np.arange(MAX_POINTS, dtype=float), np.zeros(MAX_POINTS)
    assert thin_out(times, values)[0] is times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.94, "0:59.9"), (59.96, "1:00"), (61.5, "1:01.5"), (3600, "1:00:00"),
     (-1, "-0:01")],
)  # fmt: skip
def test_clock(seconds, text):
    assert clock(seconds) == text
