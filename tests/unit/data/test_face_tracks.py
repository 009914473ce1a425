import pytest

from comics.data.face_tracks import track_faces


def walk(x, frames, step=2):
    return {i: (x + step * i, 10, x + step * i + 20, 30) for i in range(frames)}


def test_three_faces_give_three_tracks_whatever_their_order():
    people = [walk(0, 6), walk(60, 6, -1), walk(120, 6)]
    frames = {i: [p[i] for p in (people if i % 2 else people[::-1])] for i in range(6)}
    tracks = track_faces(frames)
    assert [track.boxes for track in tracks] == people


def test_a_face_may_be_missed_and_come_back():
    person = walk(0, 6)
    tracks = track_faces({i: [] if i == 3 else [person[i]] for i in range(6)})
    assert len(tracks) == 1
    assert sorted(tracks[0].boxes) == [0, 1, 2, 4, 5]


def test_short_tracks_are_dropped():
    person = walk(0, 6)
    frames = {i: [person[i]] for i in range(6)}
    frames[2].append((200, 200, 220, 220))
    assert len(track_faces(frames)) == 1
    assert len(track_faces(frames, min_share=0.0)) == 2


@pytest.mark.parametrize("frames", [{}, {0: [], 5: []}])
def test_no_face(frames):
    assert track_faces(frames) == []
