import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from comics.inference.verdict import VideoRule
from comics.structures import FAKE, REAL, Faces
from comics.video.track_verdicts import track_probability
from comics.video.tracks_file import TrackRecorder

HEADER = {"file_name": "a.mp4", "fake_probability": 0.5}


def faces(boxes, scores, probabilities, size=(100, 200)):
    return Faces(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        image_size=size,
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        scores=torch.tensor(scores),
        fake_probability=torch.tensor(probabilities),
    )


def test_tracks_come_out_as_they_went_in(tmp_path):
    rng = np.random.default_rng(0)
    with TrackRecorder(VideoRule()) as recorder:
        told = {}
        for frame in range(0, 60, 3):
            tracks = [track for track in (2, 1, 7) if rng.random() < 0.7]
            boxes = rng.uniform(0, 90, (len(tracks), 4)).round(2)
            boxes[:, 2:] += boxes[:, :2]
            scores, p = rng.random((2, len(tracks))).round(4)
            found = faces(boxes.tolist(), scores.tolist(), p.tolist())
            recorder.add(frame, frame / 25, found, tracks)
            for row in zip(tracks, boxes, scores, p, strict=True):
                told.setdefault(row[0], []).append((frame, *row[1:]))
        tracks = recorder.tracks()
        recorder.write(tmp_path / "videos" / "a.json", HEADER, tracks)
    document = json.loads((tmp_path / "videos" / "a.json").read_text())
    assert document["file_name"] == "a.mp4"
    assert document["aggregation"]["trim"] == 0.2
    assert [track["track_id"] for track in document["tracks"]] == [1, 2, 7]
    for track, entry in zip(tracks, document["tracks"], strict=True):
        rows = told[track.track_id]
        assert entry["frames"] == [row[0] for row in rows]
        assert entry["times_s"] == pytest.approx([row[0] / 25 for row in rows])
        for box, row in zip(entry["boxes"], rows, strict=True):
            x0, y0, x1, y1 = row[1]
            assert box == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.011)
        assert entry["scores"] == pytest.approx([row[2] for row in rows], abs=1e-6)
        assert entry["fake_probabilities"] == pytest.approx([row[3] for row in rows], abs=1e-6)
        expected = track_probability(*np.array([row[3:1:-1] for row in rows]).T, 0.2)
        assert track.fake_probability == pytest.approx(expected, abs=1e-6)
        assert entry["fake_probability"] == pytest.approx(expected, abs=1e-6)
        assert track.label == (FAKE if expected >= 0.5 else REAL)
        assert entry["label"] == ("Fake" if track.label else "Real")
        assert (entry["first_time_s"], entry["last_time_s"]) == (rows[0][0] / 25, rows[-1][0] / 25)
        assert track.frames == len(rows)


def test_no_face_at_all(tmp_path):
    with TrackRecorder(VideoRule()) as recorder:
        recorder.add(0, 0.0, faces([], [], []), [])
        assert recorder.tracks() == []
        assert recorder.video_probability([]) is None
        recorder.write(tmp_path / "a.json", HEADER, [])
    assert json.loads((tmp_path / "a.json").read_text())["tracks"] == []


def test_short_tracks_do_not_speak_for_the_video():
    with TrackRecorder(VideoRule(min_frames=3)) as recorder:
        for frame in range(10):
            recorder.add(frame, frame / 25, faces([[0, 0, 9, 9]], [0.9], [0.1]), [1])
        recorder.add(10, 0.4, faces([[50, 50, 90, 90]], [0.9], [0.99]), [2])
        tracks = recorder.tracks()
        assert [track.label for track in tracks] == [REAL, FAKE]
        assert recorder.video_probability(tracks) == pytest.approx(0.1)


def test_memory_does_not_grow_with_a_track(tmp_path):
    def peak(frames):
        with TrackRecorder(VideoRule()) as recorder:
            found = faces([[100.25, 200.25, 300.5, 400.5]], [0.987654], [0.123456])
            for frame in range(frames):
                recorder.add(frame, frame / 25, found, [1])
            tracks = recorder.tracks()
            tracemalloc.start()
            recorder.write(tmp_path / "a.json", HEADER, tracks)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    peak(10)
    assert peak(6000) < 200_000
    assert (tmp_path / "a.json").stat().st_size > 400_000


def test_a_full_disk_is_an_error_of_the_disk():
    with TrackRecorder(VideoRule()) as recorder:
        recorder._database.execute("PRAGMA max_page_count = 3")
        found = faces([[0, 0, 9, 9]] * 50, [0.9] * 50, [0.1] * 50)
        with pytest.raises(OSError, match="full"):
            for frame in range(100):
                recorder.add(frame, frame / 25, found, list(range(1, 51)))


def test_an_older_file_stays_where_writing_fails(tmp_path):
    (tmp_path / "a.json").write_text("older")
    with TrackRecorder(VideoRule()) as recorder, pytest.raises(ValueError, match="JSON"):
        recorder.write(tmp_path / "a.json", {"fake_probability": float("nan")}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "older"


def test_the_frame_that_is_shown_is_the_first_of_the_most_forged():
    masks = torch.zeros(2, 100, 200, dtype=torch.bool)
    masks[0, 10:20, 30:50], masks[1, 60:90, 100:180] = True, True
    boxes = [[30.25, 10.5, 50.75, 20.25], [100.0, 60.0, 180.0, 90.0]]
    script = {3: (0.2, 0.7), 6: (0.9, 0.1), 9: (0.9, 0.8), 12: (0.5, 0.8)}
    with TrackRecorder(VideoRule()) as recorder:
        for frame, probabilities in script.items():
            found = replace(faces(boxes, [0.9, 0.8], list(probabilities)), masks=masks)
            recorder.add(frame, frame / 25, found, [4, 2])
        second, first = recorder.tracks()
        found, numbers = recorder.faces(6, (100, 200), {4: first, 2: second})
    assert (first.evidence.frame, second.evidence.frame) == (6, 9)
    assert first.evidence.time_s == pytest.approx(0.24)
    assert first.evidence.box == pytest.approx((30.25, 10.5, 20.5, 9.75))
    assert first.evidence.fake_probability == pytest.approx(0.9)
    assert second.evidence.size == (100, 200)
    assert (coco_mask.decode(second.evidence.mask).astype(bool) == masks[1].numpy()).all()
    # Boxes come back to the last bit
    assert numbers == [4, 2] and found.boxes.tolist() == torch.tensor(boxes).tolist()
