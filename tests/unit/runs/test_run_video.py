"""One video of a run: its tracks, its verdict, and what is written of them."""

import json
from dataclasses import replace
from fractions import Fraction
from importlib.resources import files
from pathlib import PurePath

import av
import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from comics.inference.files import FileOutputs
from comics.inference.heat_grids import heat_grids
from comics.inference.stability import measure_stability
from comics.inference.verdict import VideoRule
from comics.runs import video as module
from comics.runs.inputs import InputFile
from comics.runs.messages import describe
from comics.runs.video import VideoOptions, VideoOutputs, run_video
from comics.runs.video_evidence import EvidenceOptions
from comics.video.stream import Stopped
from comics.video.track_verdicts import track_probability

RED, BLUE = (255, 0, 0), (0, 0, 255)
NOTHING_MORE = EvidenceOptions()
SCHEMA = json.loads(files("comics.video").joinpath("tracks.schema.json").read_text())


@pytest.fixture
def run(tmp_path, patch_predictor):
    """Function: path, options -> (status, tracks document or None, what came of each frame)."""

    def go(
        path, media=True, predictor=patch_predictor, stop=lambda: False,
        evidence=NOTHING_MORE, progress=lambda *_: None, **options,
    ):  # fmt: skip
        came = []
        outputs = VideoOutputs(
            tmp_path / "out",
            media="media/a.mp4" if media else None,
            tracks="videos/a.json",
            timeline="videos/a.timeline.svg",
        )
        status = run_video(
            InputFile(path, PurePath(path.name)),
            predictor,
            VideoOptions(**options),
            lambda frame, faces, track_ids: came.append((frame, faces, track_ids)),
            outputs,
            stop,
            evidence,
            progress,
        )
        written = outputs.folder / outputs.tracks
        document = json.loads(written.read_text()) if written.exists() else None
        if document is not None:
            jsonschema.validate(document, SCHEMA)
        return status, document, came

    return go


def two_faces(make_scene, i):
    """A forged face that moves right and a real one that moves left."""
    return make_scene(48, 96, [(RED, 4 + i, 8, 24 + i, 32), (BLUE, 70 - i, 20, 90 - i, 44)])


def test_tracks_of_a_video(tmp_path, encode_video, make_scene, run):
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, i) for i in range(12)])
    status, document, came = run(path, stride=3)
    assert (status.status, status.verdict, status.tracks) == ("ok", "forged_face_found", 2)
    assert (document["width"], document["height"]) == (96, 48)
    assert (document["frames"], document["analysed_frames"]) == (12, 4)
    assert document["duration_s"] == pytest.approx(12 / 25)
    assert document["selection"] == {"stride": 3, "max_fps": None, "start_s": 0.0, "end_s": None}
    assert document["verdict"] == "forged_face_found"
    assert document["fake_probability"] == status.fake_probability == pytest.approx(0.8, abs=1e-6)
    labels = {track["label"]: track for track in document["tracks"]}
    assert labels.keys() == {"Real", "Fake"}
    for label, start, step in (("Fake", 4, 1), ("Real", 70, -1)):
        track = labels[label]
        assert track["frames"] == [0, 3, 6, 9]
        assert track["times_s"] == pytest.approx([0, 0.12, 0.24, 0.36])
        assert [b[0] for b in track["boxes"]] == pytest.approx(
            [start + step * i for i in (0, 3, 6, 9)], abs=2
        )
        expected = track_probability(track["fake_probabilities"], track["scores"], 0.2)
        assert track["fake_probability"] == pytest.approx(expected, abs=1e-5)
    # The faces of the frames have the same numbers
    for frame, faces, track_ids in came:
        for track_id, box in zip(track_ids, faces.boxes.tolist(), strict=True):
            track = next(t for t in document["tracks"] if t["track_id"] == track_id)
            seen = track["boxes"][track["frames"].index(frame.index)]
            assert seen[:2] == pytest.approx(box[:2], abs=0.01)
    svg = (tmp_path / "out" / status.timeline).read_text()
    assert "Track 2" in svg and svg.startswith("<svg")
    with av.open(str(tmp_path / "out" / status.output)) as container:
        assert len(list(container.decode(video=0))) == 12


def test_a_part_is_told_in_the_times_of_the_source(tmp_path, encode_video, make_scene, run):
    path = encode_video(
        tmp_path / "a.mp4", [two_faces(make_scene, i % 20) for i in range(50)], options={"g": "10"}
    )
    status, document, came = run(path, start_s=1.0, end_s=1.4, max_fps=10.0)
    assert document["selection"] == {"stride": 1, "max_fps": 10.0, "start_s": 1.0, "end_s": 1.4}
    assert document["duration_s"] == pytest.approx(0.4)
    assert came[0][0].time_s == pytest.approx(1.0)
    assert document["tracks"][0]["first_time_s"] == pytest.approx(1.0)
    assert (status.frames, status.analysed_frames) == (10, 4)


class Doubtful:
    """One face, whose P(fake) follows a script."""

    max_pixels = 1_000_000

    def __init__(self, patch_predictor, script):
        self._inner, self._script = patch_predictor, iter(script)

    def predict(self, images):
        found = []
        for faces in self._inner.predict(images):
            p = torch.full((len(faces),), next(self._script))
            found.append(replace(faces, fake_probability=p, labels=(p >= 0.5).long()))
        return found


def test_one_frame_does_not_make_a_video_forged(
    tmp_path, encode_video, make_scene, run, patch_predictor
):
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, 0)[:, 40:]] * 20)
    script = [0.2] * 10 + [0.99] + [0.2] * 9
    status, document, _ = run(path, predictor=Doubtful(patch_predictor, script))
    assert (status.verdict, status.frames_with_forged_faces) == ("no_forgery_found", 1)
    assert document["tracks"][0]["label"] == "Real"
    assert status.fake_probability == pytest.approx(0.2, abs=1e-3)
    lower = VideoRule(fake_threshold=0.15)
    status, *_ = run(path, predictor=Doubtful(patch_predictor, script), rule=lower)
    assert status.verdict == "forged_face_found"


def test_the_annotated_video_shows_the_verdict_of_the_track_in_every_frame(
    tmp_path, encode_video, make_scene, run, patch_predictor, monkeypatch
):
    drawn = []
    draw = module.draw_faces

    def spy(image, faces, names):
        drawn.append((faces.labels.tolist(), faces.fake_probability.tolist(), names))
        return draw(image, faces, names=names)

    monkeypatch.setattr(module, "draw_faces", spy)
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, 0)[:, 40:]] * 6)
    script = [0.2, 0.9, 0.2, 0.2, 0.2, 0.2]
    _, document, came = run(path, predictor=Doubtful(patch_predictor, script))
    assert [names for *_, names in drawn] == [["#1"]] * 6
    shown = [p for _, (p,), _ in drawn]
    assert shown == pytest.approx([track_probability(script, [0.9] * 6, 0.2)] * 6, abs=1e-5)
    assert shown[0] == pytest.approx(document["tracks"][0]["fake_probability"], abs=1e-5)
    assert [labels for labels, *_ in drawn] == [[0]] * 6  # though the second frame is forged
    # while the results keep what was said of each frame
    told = [faces.fake_probability.item() for _, faces, _ in came]
    assert told == pytest.approx(script)


class Masked:
    """Faces whose masks are ovals in their boxes."""

    max_pixels = 1_000_000

    def __init__(self, patch_predictor):
        self._inner = patch_predictor

    def predict(self, images):
        found = []
        for faces in self._inner.predict(images):
            rows, columns = torch.meshgrid(*map(torch.arange, faces.image_size), indexing="ij")
            x0, y0, x1, y1 = (edge[:, None, None] for edge in faces.boxes.T)
            across = (2 * columns - x0 - x1) / (x1 - x0)
            down = (2 * rows - y0 - y1) / (y1 - y0)
            found.append(replace(faces, masks=across**2 + down**2 < 1))
        return found


def test_the_faces_drawn_are_those_that_were_found(
    tmp_path, encode_video, make_scene, run, patch_predictor, monkeypatch
):
    """The second reading draws what the first one found, masks included, frame by frame."""
    drawn = []
    monkeypatch.setattr(
        module, "draw_faces", lambda image, faces, names: (drawn.append(faces), image)[1]
    )
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, i) for i in range(9)])
    status, _, came = run(path, stride=2, predictor=Masked(patch_predictor))
    assert (len(came), len(drawn)) == (5, 9)  # frames between show the faces of the one before
    for position, shown in enumerate(drawn):
        _, found, _ = came[position // 2]
        assert torch.allclose(shown.boxes, found.boxes, atol=1e-4)
        assert found.masks.any() and torch.equal(shown.masks, found.masks)
    assert status.output == "media/a.mp4"


def test_forged_moments_and_how_often(tmp_path, encode_video, make_scene, run, patch_predictor):
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, 0)[:, 40:]] * 8, rate=2)
    script = [0.9, 0.9, 0.8, 0.2, 0.1, 0.9, 0.9, 0.9]
    status, document, _ = run(path, predictor=Doubtful(patch_predictor, script))
    (told,) = status.track_verdicts
    assert (told["verdict"], told["forged_frames"], told["seen_frames"]) == ("fake", 6, 8)
    # 0, 0.5, 1 s; and 2.5 to 3.5 s, more than a second later
    assert told["forged_moments"] == [[0.0, 1.0], [2.5, 3.5]]
    assert document["tracks"][0]["forged_moments"] == told["forged_moments"]
    assert (status.tracks, status.forged_tracks, status.unclear_tracks) == (1, 1, 0)
    line = describe(status)
    assert "1 face, 1 forged in 8 analysed frames of 8" in line
    assert "#1 forged in 6 of 8 frames, 0:00–0:01, 0:02.5–0:03.5" in line


def test_a_file_that_changes_before_it_is_annotated(
    tmp_path, encode_video, make_scene, run, monkeypatch
):
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, i) for i in range(6)])
    process = module.process_video

    def then_gone(*arguments, **options):
        report = process(*arguments, **options)
        path.unlink()
        return report

    monkeypatch.setattr(module, "process_video", then_gone)
    status, document, _ = run(path)
    assert (status.status, status.output, status.tracks) == ("partial", None, 2)
    assert "cannot be read again" in status.reason and document is not None


def test_no_face(tmp_path, encode_video, make_scene, run):
    path = encode_video(tmp_path / "a.mp4", [make_scene()] * 4)
    status, document, _ = run(path)
    assert (status.verdict, status.tracks, status.fake_probability) == ("no_face_found", 0, None)
    assert (document["tracks"], document["fake_probability"]) == ([], None)
    assert "no face found" in (tmp_path / "out" / status.timeline).read_text()


def test_a_video_that_fails_leaves_nothing(tmp_path, run):
    (tmp_path / "a.mp4").write_text("not a video" * 50)
    status, document, _ = run(tmp_path / "a.mp4")
    assert (status.status, document) == ("failed", None)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_video_that_cannot_be_encoded_is_analysed_all_the_same(
    tmp_path, encode_video, make_scene, run, monkeypatch
):
    monkeypatch.setattr("comics.video.writer.ENCODER_OPTIONS", {"preset": "nonsense"})
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, i) for i in range(30)])
    status, document, came = run(path)
    assert (status.status, status.output, status.tracks) == ("partial", None, 2)
    assert "the annotated video cannot be written" in status.reason
    assert len(came) == document["analysed_frames"] == 30
    assert not list((tmp_path / "out").rglob("*.mp4"))
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_full_disk_is_no_fault_of_the_video(tmp_path, encode_video, make_scene, run, monkeypatch):
    def full(*_):
        raise av.error.FFmpegError(28, "No space left on device")

    monkeypatch.setattr("comics.video.writer.VideoWriter.write", full)
    path = encode_video(tmp_path / "a.mp4", [make_scene()] * 4)
    with pytest.raises(OSError, match="No space left") as caught:
        run(path)
    assert not isinstance(caught.value, av.FFmpegError)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_sound_with_a_broken_header_is_left_out(tmp_path, encode_video, make_scene, run):
    """MP4 repeats the header of Opus at the end of the file, and could not be finished."""
    path = encode_video(
        tmp_path / "a.webm", [two_faces(make_scene, 0)] * 6, codec="libvpx-vp9", sound="libopus",
        options={"deadline": "realtime", "cpu-used": "8"},
    )  # fmt: skip
    content = bytearray(path.read_bytes())
    private = content.index(b"OpusHead") - 1  # the element's length, a byte before it
    assert content[private - 2 : private] == b"\x63\xa2" and content[private] == 0x80 | 19
    content[private - 2 : private] = b"\x63\xa3"  # an element that nobody knows
    path.write_bytes(content)
    status, *_ = run(path)
    assert status.reason == "sound left out: its opus header is broken"
    with av.open(str(tmp_path / "out" / status.output)) as container:
        assert len(list(container.decode(video=0))) == 6
        assert not container.streams.audio


def test_frames_that_change_their_size_stay_one_track(tmp_path, encode_video, make_scene, run):
    """As in a recorded call whose resolution is adapted."""
    small = [make_scene(48, 64, [(RED, 16, 12, 32, 36)])] * 8
    large = [np.repeat(np.repeat(small[0], 2, axis=0), 2, axis=1)] * 8
    parts = [
        encode_video(tmp_path / f"{name}.h264", frames, options={"bf": "0"}).read_bytes()
        for name, frames in (("a", small), ("b", large))
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(parts))
    status, document, came = run(path)
    assert {frame.image.shape[:2] for frame, *_ in came} == {(48, 64), (96, 128)}
    assert (status.tracks, len(document["tracks"][0]["frames"])) == (1, 16)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"stride": 0}, {"max_fps": -1.0}, {"start_s": 2.0, "end_s": 1.0}],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="must be"):
        VideoOptions(**options)


class Warm(Masked):
    """The same, with heat that tells the face by its place, and P(fake) by the patch's shade."""

    def __init__(self, patch_predictor):
        super().__init__(patch_predictor)
        self.seen = []

    def predict(self, images):
        self.seen += [image.shape[:2] for image in images]
        found = []
        for image, faces in zip(images, super().predict(images), strict=True):
            p = faces.fake_probability.clone()
            for place, (x0, y0, x1, y1) in enumerate(faces.boxes.int().tolist()):
                inside = image[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4]
                shade = (float(inside.max(axis=-1).mean()) - 150) / 110
                p[place] = shade if faces.labels[place] else shade / 2
            found.append(replace(faces, fake_probability=p.clamp(0, 1), labels=(p >= 0.5).long()))
        return found

    def heat_maps(self, image, faces):
        heat = (faces.boxes[:, :1, None] / image.shape[1]).expand(-1, 3, 3)
        return heat, faces.boxes.round().long() + torch.tensor([-2, -2, 2, 2])


def shades(make_scene, levels, width=96):
    """A red face that moves, and a blue one; each frame of another shade."""
    return [
        make_scene(48, width, [((level, 0, 0), 4 + i, 8, 24 + i, 32),
                               ((0, 0, 450 - level), 70 - i, 20, 90 - i, 44)])
        for i, level in enumerate(levels)
    ]  # fmt: skip


LEVELS = [205, 215, 245, 210, 235, 200]


def lossless(encode_video, path, frames, **options):
    return encode_video(path, frames, codec="ffv1", pixels="bgr0", **options)


@pytest.fixture
def evidence(tmp_path, run, patch_predictor):
    """Function: path, what is asked -> (status, document, what came, predictor)."""

    def go(path, heat=True, stability=True, pictures=True, **options):
        predictor = Warm(patch_predictor)
        outputs = FileOutputs(tmp_path / "out", PurePath("a")) if pictures else None
        asked = EvidenceOptions(heat, stability, outputs)
        return *run(path, predictor=predictor, evidence=asked, **options), predictor

    return go


def test_a_person_is_shown_in_the_frame_where_it_looks_most_forged(
    tmp_path, encode_video, make_scene, evidence
):
    path = lossless(encode_video, tmp_path / "a.mkv", shades(make_scene, LEVELS))
    status, document, came, predictor = evidence(path)
    told = {track["label"]: track["evidence"] for track in status.track_verdicts}
    assert [track["evidence"] for track in document["tracks"]] == [
        track["evidence"] for track in status.track_verdicts
    ]
    # The red one is brightest in frame 2, the blue one in frame 5
    for label, frame, face in (("Fake", 2, 1), ("Real", 5, 0)):
        shown = told[label]
        seen, faces, _ = came[frame]
        assert (shown["frame"], shown["time_s"]) == (frame, seen.time_s)
        assert (shown["width"], shown["height"]) == (96, 48)
        x0, y0, x1, y1 = faces.boxes[face].tolist()
        assert shown["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        p = faces.fake_probability[face].item()
        assert shown["fake_probability"] == pytest.approx(p, abs=1e-6)  # six digits are told
        mask = coco_mask.decode(shown["segmentation"]).astype(bool)
        assert (mask == faces.masks[face].numpy()).all()
        # What a picture with that frame's pixels would be told
        heat, windows = predictor.heat_maps(seen.image, faces)
        assert shown["heat_map"] == heat_grids(heat, windows)[face].entry()
        expected = measure_stability(predictor.predict, seen.image, faces)[face]
        assert shown["stability"] == pytest.approx(expected, abs=1e-6)
        assert shown["picture"] == f"media/a.{frame}.heat.jpg"
        with Image.open(tmp_path / "out" / shown["picture"]) as picture:
            assert picture.size == (96, 48)
    assert status.reason is None


def test_a_second_look_costs_the_frames_that_are_shown_alone(
    tmp_path, encode_video, make_scene, evidence
):
    path = lossless(encode_video, tmp_path / "a.mkv", shades(make_scene, LEVELS))
    _, _, came, predictor = evidence(path, heat=False)
    assert len(came) == 6
    sizes = [(48, 96)] * 6 + [(48, 96), (48, 96), (24, 48)] * 2
    assert predictor.seen == sizes
    *_, predictor = evidence(path, heat=False, stability=False)
    assert predictor.seen == sizes[:6]


def test_masks_are_told_whether_or_not_more_is_asked_for(
    tmp_path, encode_video, make_scene, evidence
):
    path = lossless(encode_video, tmp_path / "a.mkv", shades(make_scene, LEVELS))
    status, *_ = evidence(path, heat=False, stability=False, media=False)
    for track in status.track_verdicts:
        assert "segmentation" in track["evidence"]
        assert not {"stability", "heat_map", "picture"} & track["evidence"].keys()
    status, *_ = evidence(path, stability=False, pictures=False)
    for track in status.track_verdicts:
        assert "heat_map" in track["evidence"] and "picture" not in track["evidence"]


def test_a_part_is_looked_at_again_in_its_own_frames(tmp_path, encode_video, make_scene, evidence):
    path = lossless(encode_video, tmp_path / "a.mkv", shades(make_scene, LEVELS * 2), rate=10)
    status, _, came, _ = evidence(path, start_s=0.5, stride=2)
    for track in status.track_verdicts:
        shown = track["evidence"]
        (seen,) = [frame for frame, *_ in came if frame.index == shown["frame"]]
        assert shown["time_s"] == seen.time_s >= 0.5 and "heat_map" in shown


def test_pixels_that_are_not_square(tmp_path, encode_video, make_scene, evidence):
    """The model sees the frame as it is shown; what is told is in the pixels of the file."""
    frames = shades(make_scene, [240] * 3)
    path = tmp_path / "wide.mp4"  # Matroska would not be told
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        stream.height, stream.width = 48, 96
        stream.pix_fmt, stream.codec_context.sample_aspect_ratio = "bgr0", Fraction(2)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    status, _, came, predictor = evidence(path)
    assert predictor.seen[:3] == [(48, 192)] * 3
    assert predictor.seen[3:] == [(48, 192), (48, 192), (24, 96)] * (len(predictor.seen) // 3 - 1)
    for track in status.track_verdicts:
        shown = track["evidence"]
        assert (shown["width"], shown["height"]) == (96, 48)
        x, y, width, height = shown["bbox"]
        left, top, across, down = shown["heat_map"]["bbox"]
        # Two of the model's pixels beside the box; there is one of the file for two of them
        assert (left, top) == pytest.approx((x - 1, y - 2), abs=1.01)
        assert (across, down) == pytest.approx((width + 2, height + 4), abs=1.01)


def test_too_little_memory_for_a_second_look_loses_no_verdict(
    tmp_path, encode_video, make_scene, run, patch_predictor
):
    class Short(Warm):
        def heat_maps(self, image, faces):
            raise MemoryError

    path = lossless(encode_video, tmp_path / "a.mkv", shades(make_scene, LEVELS))
    status, *_ = run(
        path, predictor=Short(patch_predictor), evidence=EvidenceOptions(heat_maps=True)
    )
    assert (status.status, status.verdict) == ("ok", "forged_face_found")
    assert status.reason == "no heat maps of some frames: too little memory"


def test_a_video_that_is_gone_before_the_second_look(
    tmp_path, encode_video, make_scene, evidence, monkeypatch
):
    path = lossless(encode_video, tmp_path / "a.mkv", shades(make_scene, LEVELS))
    process = module.process_video

    def then_gone(*arguments, **options):
        report = process(*arguments, **options)
        path.unlink()
        return report

    monkeypatch.setattr(module, "process_video", then_gone)
    status, document, *_ = evidence(path, media=False)
    assert (status.status, status.tracks) == ("ok", 2)
    assert "cannot be read again, for heat maps and stability" in status.reason
    assert "heat_map" not in document["tracks"][0]["evidence"]


def test_a_second_look_is_stopped_like_the_first(
    tmp_path, encode_video, make_scene, run, patch_predictor
):
    path = lossless(encode_video, tmp_path / "a.mkv", shades(make_scene, LEVELS))
    predictor = Warm(patch_predictor)
    with pytest.raises(Stopped):
        run(
            path, predictor=predictor, media=False, evidence=EvidenceOptions(stability=True),
            stop=lambda: len(predictor.seen) > 6,
        )  # fmt: skip


def test_progress_within_a_video(tmp_path, encode_video, make_scene, run):
    path = encode_video(tmp_path / "a.mp4", [two_faces(make_scene, i) for i in range(12)])
    told = []
    run(path, progress=lambda *one: told.append(one), batch_size=5)
    assert told[:2] == [("looked at", 5, 12), ("looked at", 10, 12)]
    assert told[-1] == ("annotated", 12, 12)
