"""The page of each face: what it shows, and what it says."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import asdict, replace
from html import unescape

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from comics.inference.knowledge import ErrorRate
from comics.ops.masks import bitmap_to_rle
from comics.pages.evidence import NO_ERROR_RATES, Judge, mask_path, meaning, rates_sentence
from comics.pages.report_rows import EvidenceFrame, FaceRow, FileRow
from comics.pages.run_report import write_run_report
from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.results_reader import ResultsError
from comics.runs.run import run_inference
from comics.structures import Faces

JUDGE = Judge(0.9, 0.1, 0.0)
HOSTILE = '"><img src=x onerror=hacked()>写真-пример-\u202e.png'
ROW = FileRow({"file_name": "a.jpg"}, 0, (100, 80))


def face(p, stability=None, doubts=()):
    return FaceRow(ROW, p, 0.9, int(p >= 0.9), (10, 10, 40, 30), (40, 30), doubts=doubts,
                   stability=stability)  # fmt: skip


class BrightPredictor:
    """One face in the middle; the brighter its picture's corner, the more it looks forged."""

    max_pixels = 1_000_000
    provenance = {"model": "bright", "fake_threshold": 0.9, "unclear": {"below": 0.1, "above": 0}}

    def predict(self, images):
        return [self._look(image) for image in images]

    def _look(self, image):
        height, width = image.shape[:2]
        p = torch.tensor([0.95 if width > 100 else 0.2])
        box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[:, height // 3 : height // 2, width // 3 : width // 2] = True
        return Faces(box, (height, width), (p >= 0.9).long(), torch.tensor([0.8]), mask, p)

    def heat_maps(self, image, faces):
        windows = torch.tensor([[-5, 10, 100, 90]]).repeat(len(faces), 1)
        return torch.linspace(0, 1, 9).reshape(1, 3, 3).repeat(len(faces), 1, 1), windows


@pytest.fixture
def go(tmp_path):
    """Function: runs over a picture; the folder of results, and the results."""

    def run(predictor=None, name="a.png", **options):
        source = tmp_path / "source"
        source.mkdir()
        picture = np.random.default_rng(0).integers(0, 200, (90, 160, 3), dtype=np.uint8)
        Image.fromarray(picture).save(source / name)
        folder = tmp_path / "out"
        run_inference(
            predictor or BrightPredictor(), expand_inputs([source]),
            RunOptions(folder, **options), lambda line: None,
        )  # fmt: skip
        return folder, json.loads((folder / "results.json").read_text())

    return run


def section(html, number=0):
    return re.search(rf'<section class="face[^>]*id="face-{number}".*?</section>', html, re.S)[0]


def test_a_run_measures_stability_and_keeps_heat_where_asked(go, results_schema):
    folder, results = go(stability=True, heat_maps=True)
    jsonschema.validate(results, results_schema)
    (found,) = results["results"]
    assert found["stability"] == {"jpeg_75": 0.95, "jpeg_50": 0.95, "half_size": 0.2}
    assert found["heat_map"]["bbox"] == [-5, 10, 105, 80]
    html = section(write_run_report(folder).read_text())
    assert "The verdict does not hold when the picture is shrunk to half" in html
    assert "0.200 to 0.950, over the picture as it is and 3 treated copies" in html
    assert "Saved as JPEG of quality 50</dt><dd>P(fake) 0.950: fake" in html
    assert html.count("<svg") == 3 and html.count("data:image/jpeg") == 1  # one picture, thrice


def test_a_run_that_was_not_asked_says_so(go):
    folder, results = go()
    assert not {"stability", "heat_map"} & results["results"][0].keys()
    html = write_run_report(folder).read_text()
    assert "not measured: comics detect --stability does" in section(html)
    assert section(html).count("<svg") == 2
    assert NO_ERROR_RATES in html


def test_too_little_memory_for_stability_does_not_lose_the_verdict(go):
    class Short(BrightPredictor):
        def predict(self, images):
            if images[0].shape[1] < 100:
                raise MemoryError
            return super().predict(images)

    folder, results = go(Short(), stability=True)
    assert "stability" not in results["results"][0]
    assert results["files"][0]["verdict"] == "forged_face_found"
    assert "stability was not measured: too little memory" in results["files"][0]["reason"]


def test_the_page_of_a_face_is_whole_and_its_names_are_text(go):
    folder, results = go(name=HOSTILE)
    html = write_run_report(folder).read_text(encoding="utf-8")
    told = section(html)
    assert "Face 1 of " in told
    assert "&#34;&gt;&lt;img src=x onerror=hacked()&gt;写真-пример-\\u202e.png</h3>" in told
    assert "<img" not in html
    assert "80 × 45 pixels" in told and "P(fake)</dt><dd>0.950; forged from 0.9 on" in told
    assert 'viewBox="28 10 104 70"' in told  # the box and 15 % of its longer side around it
    assert 'href="#face-0">fake 0.950</a>' in html  # the list of files leads to it
    data = json.loads(re.search(r'id="run">(.*?)</script>', html, re.S)[1])
    assert data["faces"][0]["page"] == "#face-0"


def test_error_rates_of_faces_of_this_size(go):
    class Known(BrightPredictor):
        provenance = BrightPredictor.provenance | {
            "error_rates": [
                asdict(ErrorRate("<b>photos", 50, 20, 60, 0.05, 0.5)),
                asdict(ErrorRate("photos", 50, 60, None, 0.02, 0.8)),
            ]
        }

    folder, _ = go(Known())
    html = write_run_report(folder).read_text()
    told = section(html)  # the face's shorter side has 45 pixels
    assert "Of faces of 20 to 60 pixels (&lt;b&gt;photos, 50 faces), 5.0 % of the real" in told
    assert "60 and more" not in told and "60 and more" in html
    assert "holds no error rates" not in html


@pytest.mark.parametrize("told", [3, {"jpeg_75": 2}, {"jpeg_50": "x"}, {"half_size": [1]}])
def test_a_stability_that_is_none_is_named(go, told):
    folder, results = go()
    results["results"][0]["stability"] = told
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(ResultsError, match="an entry of results"):
        write_run_report(folder)


def test_masks_and_heat_of_a_stranger_are_left_out(go):
    folder, results = go()
    for mask in (
        3,
        {"size": [90, 160]},
        {"size": [9, 16], "counts": "abc"},
        {"size": [10**6, 10**6], "counts": "0"},
        {"size": [90, 160], "counts": "\u0000"},
    ):
        results["results"][0] |= {"segmentation": mask, "heat_map": {"bbox": "x", "png": "<b>"}}
        (folder / "results.json").write_text(json.dumps(results))
        assert section(write_run_report(folder).read_text()).count("<svg") == 1, mask


def test_the_outline_is_that_of_the_mask():
    mask = torch.zeros(60, 100, dtype=torch.bool)
    mask[20:40, 30:70] = True
    path = mask_path(bitmap_to_rle(mask), (100, 60), (25, 15, 60, 40))
    points = np.array([list(map(float, p.split(","))) for p in path[1:-1].split(" ")])
    # Through the middle of the outermost pixels
    assert points.min(0).tolist() == [30.5, 20.5] and points.max(0).tolist() == [69.5, 39.5]
    assert mask_path(bitmap_to_rle(mask), (100, 61), (25, 15, 60, 40)) is None
    assert mask_path(bitmap_to_rle(torch.zeros(60, 100).bool()), (100, 60), (0, 0, 9, 9)) is None
    assert mask_path(bitmap_to_rle(mask), (10**6, 10**6), (0, 0, 9, 9)) is None


def test_verdicts_by_the_threshold_and_what_is_near_it():
    assert [JUDGE.verdict(p) for p in (0.79, 0.8, 0.89, 0.9)] == [
        "real",
        "unclear",
        "unclear",
        "fake",
    ]


def test_one_sentence_says_what_the_figures_mean():
    steady = {"jpeg_75": 0.95, "jpeg_50": 0.93, "half_size": 0.99}
    assert "stays so when the picture is saved again" in meaning("fake", face(0.95, steady), JUDGE)
    assert "no proof: look for the original" in meaning("fake", face(0.95), JUDGE)
    assert "stays so" not in meaning("fake", face(0.95), JUDGE)
    fragile = steady | {"jpeg_75": 0.1, "half_size": 0.85}
    told = meaning("fake", face(0.95, fragile), JUDGE)
    assert "saved as JPEG of quality 75 or shrunk to half" in told and "better copy" in told
    lost = steady | {"jpeg_50": None}
    told = meaning("fake", face(0.95, lost), JUDGE)
    assert "saved as JPEG of quality 50, the face is not found again" in told
    told = meaning("real", face(0.1, dict.fromkeys(steady, 0.95)), JUDGE)
    assert "does not hold" in told and "look at it yourself" in told
    assert "None of the traces" in meaning("real", face(0.1), JUDGE)
    assert "no answer: the face is too small" in meaning(
        "unclear", face(0.5, doubts=("small",)), JUDGE
    )


def test_the_command_that_compares_with_an_original(go):
    folder, _ = go(name="-it's $HOME.png")
    told = unescape(section(write_run_report(folder).read_text()))
    source = folder.parent / "source" / "-it's $HOME.png"
    assert f"<dd>comics compare {shlex.quote(str(source))} ORIGINAL --output" in told


PERSON = FaceRow(
    FileRow({"file_name": "v.mp4"}, 0), 0.95, 0.9, 1, None, (40, 30), track=3, frames=8,
    times=(0.0, 2.0), shown=EvidenceFrame(12, 0.5, (160, 90), (50, 20, 40, 30), 0.97),
)  # fmt: skip


def test_the_sentence_on_a_person_is_of_its_track_and_of_the_frame_that_is_shown():
    steady = {"jpeg_75": 0.95, "jpeg_50": 0.93, "half_size": 0.99}
    told = meaning("fake", replace(PERSON, stability=steady), JUDGE)
    assert "The frame that is shown says the same when it is saved again" in told
    told = meaning("fake", replace(PERSON, stability=steady | {"jpeg_50": 0.1}), JUDGE)
    assert "says otherwise when it is saved as JPEG of quality 50." in told
    assert "The verdict does not hold" not in told  # which rests on eight frames
    told = meaning("fake", replace(PERSON, stability=steady | {"half_size": None}), JUDGE)
    assert "is shrunk to half its width and height, the face is not found again" in told
    assert "frame" not in meaning("fake", PERSON, JUDGE)
    # Of a real person the most forged frame may look forged alone: that is no change
    odd = replace(PERSON, label=0, probability=0.3, stability=steady)
    assert "The frame that is shown says the same" in meaning("real", odd, JUDGE)


class OfFrames(BrightPredictor):
    """In a video the face moves, and looks more forged from frame to frame."""

    def __init__(self):
        self.frames = 0

    def _look(self, image):
        faces = super()._look(image)
        if image.shape[1] < 100:
            return faces
        p = torch.tensor([0.9 + 0.01 * float(image[0, 0, 0] > 100)])
        return replace(faces, fake_probability=p)


@pytest.fixture
def clip(tmp_path, encode_video):
    """Three frames, of which the second is the brightest in a corner."""
    frames = np.random.default_rng(0).integers(0, 90, (3, 90, 160, 3), dtype=np.uint8)
    frames[1, 0, 0] = 200
    (tmp_path / "source").mkdir()
    return encode_video(tmp_path / "source" / "v.mkv", list(frames), codec="ffv1", pixels="bgr0")


def video_run(clip, tmp_path, **options):
    folder = tmp_path / "out"
    run_inference(OfFrames(), expand_inputs([clip]), RunOptions(folder, **options), lambda _: None)
    return folder, json.loads((folder / "results.json").read_text())


def test_a_person_of_a_video_has_what_a_face_of_a_picture_has(clip, tmp_path, results_schema):
    folder, results = video_run(clip, tmp_path, stability=True, heat_maps=True)
    jsonschema.validate(results, results_schema)
    (track,) = results["files"][0]["track_verdicts"]
    assert track["evidence"]["frame"] == 1
    assert track["evidence"]["stability"]["half_size"] == 0.2
    picture = track["evidence"]["picture"]
    assert picture == "media/v.1.heat.jpg" and (folder / picture).is_file()
    told = section(write_run_report(folder).read_text())
    assert "Person 1 of " in told and told.count("<svg") == 3
    assert 'viewBox="28 10 104 70"' in told  # of that frame: the box and 15 % around it
    assert 'aria-label="The face with its mask"' in told
    assert "the frame at 0:00, where it looks most forged: P(fake) 0.910 alone" in told
    assert (
        "formed over 3 frames; 0.200 to 0.910, over the frame that is shown and 3 treated" in told
    )
    assert "Shrunk to half its width and height</dt><dd>P(fake) 0.200: real" in told
    assert "says otherwise when it is shrunk to half" in told
    assert "comics compare" not in told  # of pictures alone
    # The tables say it of the frame that is shown
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stability_half_size"] for row in rows] == ["", "0.2", ""]
    # A run that is continued knows the picture as its own
    (folder / picture).unlink()
    lines = []
    run_inference(
        OfFrames(), expand_inputs([clip]), RunOptions(folder, stability=True, heat_maps=True),
        lines.append,
    )  # fmt: skip
    assert (folder / picture).is_file() and not any("continued" in line for line in lines)


def test_a_person_without_more_has_its_mask(clip, tmp_path):
    folder, results = video_run(clip, tmp_path)
    told = section(write_run_report(folder).read_text())
    assert told.count("<svg") == 2 and "formed over 3 frames" in told
    # Without the record of the run the crop is cut from the annotated video; of another frame
    # than the one that is shown it gets no mask
    shutil.rmtree(folder / ".comics")
    assert section(write_run_report(folder).read_text()).count("<svg") == 2
    tracks = folder / results["files"][0]["tracks_file"]
    document = json.loads(tracks.read_text())
    document["tracks"][0]["evidence"]["frame"] = 0
    tracks.write_text(json.dumps(document))
    assert section(write_run_report(folder).read_text()).count("<svg") == 1


@pytest.mark.parametrize(
    "evidence",
    [3, "x", [1], {"frame": 1}, {"bbox": 1}, {"width": 0}, {"bbox": [0, 0, 1e999, 3]},
     {"fake_probability": 2}, {"stability": {"jpeg_75": 7}}, {"frame": 1e999}],
)  # fmt: skip
def test_evidence_that_is_none_is_said_and_the_rest_shown(clip, tmp_path, evidence):
    folder, results = video_run(clip, tmp_path)
    tracks = folder / results["files"][0]["tracks_file"]
    document = json.loads(tracks.read_text())
    whole = document["tracks"][0]["evidence"]
    wrong = evidence
    if isinstance(evidence, dict) and evidence != {"frame": 1}:
        wrong = whole | evidence
    document["tracks"][0]["evidence"] = wrong
    tracks.write_text(json.dumps(document))
    assert "its tracks are not shown: " in write_run_report(folder).read_text()


def test_tracks_of_before_the_evidence_are_shown_as_they_were(clip, tmp_path):
    folder, results = video_run(clip, tmp_path)
    tracks = folder / results["files"][0]["tracks_file"]
    document = json.loads(tracks.read_text())
    del document["tracks"][0]["evidence"]
    tracks.write_text(json.dumps(document))
    told = section(write_run_report(folder).read_text())
    assert told.count("<svg") == 1 and "Seen</dt><dd>0:00 – 0:00.1, in 3 analysed" in told


def test_error_rates_on_the_first_page_are_grouped_by_what_was_measured():
    rates = [
        ErrorRate("test photos", 50, 24, 48, 0.05, 0.5),
        ErrorRate("test photos", 60, 48, None, 0.02, 0.8),
        ErrorRate("test photos", 70, 48, None, 0.1, 0.25, "JPEG 50"),
    ]
    told = rates_sentence({"error_rates": [asdict(rate) for rate in rates]})
    assert told == (
        "Measured, of real / of forged faces, as called forged: test photos: 24 to 48 pixels "
        "5.0 / 50.0 % (50 faces), 48 and more pixels 2.0 / 80.0 % (60 faces). test photos, "
        "JPEG 50: 48 and more pixels 10.0 / 25.0 % (70 faces)."
    )
