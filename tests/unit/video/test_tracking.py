import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comics.structures import Faces
from comics.video.tracking import FaceTracker

SIZE = (480, 640)


def faces(boxes, size=SIZE, scores=None):
    count = len(boxes)
    scores = [0.9] * count if scores is None else scores
    return Faces(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        image_size=size,
        labels=torch.zeros(count, dtype=torch.int64),
        scores=torch.tensor(scores),
        fake_probability=torch.full((count,), 0.5),
    )


def box(x, y, side=60):
    return [x, y, x + side, y + side]


def track(frames, lost_seconds=1.0, min_iou=0.1):
    """[(time, faces)] -> numbers of each frame."""
    tracker = FaceTracker(min_iou, lost_seconds)
    return [tracker.update(found, time_s) for time_s, found in frames]


def test_faces_keep_their_numbers_while_they_move():
    frames = [
        (i / 25, faces([box(10 + 5 * i, 20), box(400 - 4 * i, 200), box(300, 50 + 3 * i)]))
        for i in range(20)
    ]
    assert track(frames) == [[1, 2, 3]] * 20


def test_numbers_start_at_one_in_every_video():
    first = track([(0, faces([box(0, 0)])), (0.04, faces([box(0, 0), box(200, 0)]))])
    second = track([(0, faces([box(50, 50)])), (0.04, faces([box(50, 50)]))])
    assert (first, second) == ([[1], [1, 2]], [[1], [1]])


def test_two_videos_at_once_do_not_disturb_each_other():
    one, other = FaceTracker(0.1, 1.0), FaceTracker(0.1, 1.0)
    for i in range(5):
        assert one.update(faces([box(3 * i, 0), box(300, 0)]), i / 25) == [1, 2]
        assert other.update(faces([box(100, 3 * i)]), i / 25) == [1]


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_order_of_detections_does_not_matter(data):
    """Scenes of up to 5 faces that move and vanish, each frame in an order of its own."""
    seed = data.draw(st.integers(0, 2**31))
    rng = random.Random(seed)
    places = [(110 * k + rng.uniform(0, 20), rng.uniform(0, 300)) for k in range(5)]
    steps = [(rng.uniform(-4, 4), rng.uniform(-4, 4)) for _ in places]
    seen, shuffled = [], []
    for i in range(8):
        people = [k for k in range(5) if rng.random() < 0.8]
        boxes = [
            box(places[k][0] + steps[k][0] * i, places[k][1] + steps[k][1] * i) for k in people
        ]
        order = data.draw(st.permutations(range(len(people))))
        seen.append((people, faces(boxes)))
        shuffled.append(([people[j] for j in order], faces([boxes[j] for j in order])))

    def people_of_tracks(frames):
        numbers = track([(i / 25, found) for i, (_, found) in enumerate(frames)])
        groups = {}
        for i, ((people, _), frame) in enumerate(zip(frames, numbers, strict=True)):
            for person, number in zip(people, frame, strict=True):
                groups.setdefault(number, set()).add((i, person))
        return sorted(map(sorted, groups.values()))

    assert people_of_tracks(seen) == people_of_tracks(shuffled)


def test_the_same_video_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    frames = [
        (i / 25, faces(np.sort(rng.uniform(0, 400, (6, 2, 2)), axis=1).reshape(6, 4).tolist()))
        for i in range(30)
    ]
    assert track(frames) == track(frames)


def test_frames_without_faces():
    frames = [(0, faces([])), (0.04, faces([box(0, 0)])), (0.08, faces([])), (0.12, faces([]))]
    frames += [(0.16, faces([box(4, 0)])), (0.2, faces([]))]
    assert track(frames) == [[], [1], [], [], [1], []]


def test_a_face_that_was_away_too_long_gets_a_new_number():
    frames = [(0, faces([box(0, 0)]))] + [(0.1 * i, faces([])) for i in range(1, 16)]
    assert track([*frames, (1.6, faces([box(0, 0)]))])[-1] == [2]
    assert track([*frames[:9], (0.9, faces([box(0, 0)]))])[-1] == [1]


@pytest.mark.parametrize("gap", [0.2, 1.0, 4.0])
def test_frames_that_are_far_apart_still_follow_each_other(gap):
    """As with a large stride: the face was in the frame before, however long ago."""
    frames = [(gap * i, faces([box(10 * i, 0), box(400, 10 * i)])) for i in range(6)]
    assert track(frames) == [[1, 2]] * 6


def test_a_change_of_size_on_the_way_is_no_change_of_faces():
    large = [box(100, 100), box(400, 200)]
    small = (np.array(large) * [0.5, 0.25, 0.5, 0.25]).tolist()
    frames = [(0, faces(large)), (0.04, faces(small, (120, 320))), (0.08, faces(large))]
    assert track(frames) == [[1, 2]] * 3


def test_a_face_elsewhere_is_another_face():
    assert track([(0, faces([box(0, 0)])), (0.04, faces([box(300, 300)]))]) == [[1], [2]]


def test_uncertain_faces_are_followed_too():
    frames = [(i / 25, faces([box(2 * i, 0)], scores=[0.05])) for i in range(5)]
    assert track(frames) == [[1]] * 5


def test_boxes_without_area_or_outside_the_frame_do_not_harm():
    odd = [[10, 10, 10, 10], [-50, -50, -10, -10], [0, 0, 1e5, 1e5]]
    numbers = track([(i / 25, faces(odd)) for i in range(3)])
    assert all(len(set(frame)) == 3 for frame in numbers)


def test_tracks_that_have_ended_are_forgotten():
    tracker = FaceTracker(0.1, 0.5)
    for i in range(200):  # a new face every second
        tracker.update(faces([box((i * 137) % 500, 0, 30)]), float(i))
        assert len(tracker.alive) <= 2
        tracker.update(faces([]), i + 0.6)
    tracker.update(faces([]), 201.0)
    assert tracker.alive == set()
