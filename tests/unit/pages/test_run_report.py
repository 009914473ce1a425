import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from comics.cli import main
from comics.inference.verdict import VideoRule
from comics.pages import report_rows, run_report
from comics.pages.run_report import write_run_report
from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.results_reader import ResultsError
from comics.runs.run import run_inference

RED, BLUE = (255, 0, 0), (0, 0, 255)
HOSTILE = '"><img src=x onerror=hacked()><script>hacked()<script>.png'


class Elements(HTMLParser):
    """All start tags with their attributes, and the text of each."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data

    def all(self, tag):
        return [
            (attributes, text)
            for (name, attributes), text in zip(self.tags, self.texts, strict=True)
            if name == tag
        ]


def page(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")
    elements = Elements(html)
    data = [json.loads(text) for attributes, text in elements.all("script") if attributes]
    return html, elements, data[0]


@pytest.fixture
def run(tmp_path, patch_predictor, make_scene, encode_video):
    """Function that runs over a few files; returns the run's folder."""

    def go(video=True, hostile=True, **options):
        source = tmp_path / "source"
        source.mkdir()
        forged = make_scene(200, 300, [(RED, 50, 50, 100, 110), (BLUE, 150, 50, 190, 100)])
        Image.fromarray(forged).save(source / "forged.png")
        Image.fromarray(make_scene(200, 300, [(BLUE, 150, 50, 190, 100)])).save(source / "real.png")
        Image.fromarray(make_scene(200, 300)).save(source / "none.png")
        (source / "broken.jpg").write_bytes(b"nothing")
        if hostile:
            Image.fromarray(forged).save(source / HOSTILE)
        if video:
            frames = [make_scene(48, 64, [(BLUE, 40, 10, 60, 40)]) for _ in range(4)]
            both = [(RED, 4, 10, 24, 40), (BLUE, 40, 10, 60, 40)]
            frames += [make_scene(48, 64, both) for _ in range(6)]
            encode_video(source / "clip.mp4", frames)
        inputs = expand_inputs([source])
        folder = tmp_path / "run"
        run_inference(patch_predictor, inputs, RunOptions(folder, **options), lambda line: None)
        return folder

    return go


def named(rows, end):
    (found,) = [row for row in rows if row["name"].endswith(end)]
    return found


def test_rows_are_those_of_the_results(run):
    folder = run()
    assert write_run_report(folder) == folder / "report.html"
    _, _, data = page(folder)
    results = json.loads((folder / "results.json").read_text())
    assert [file["name"] for file in data["files"]] == [f["file_name"] for f in results["files"]]
    forged = named(data["files"], "forged.png")
    assert forged["verdict"] == "forged_face_found" and forged["size"] == [300, 200]
    assert (
        sorted(forged["ps"]) == [[0.1, 0], [0.8, 0]] and forged["p"] == 0.8 and forged["faces"] == 2
    )
    failed = named(data["files"], "broken.jpg")
    assert failed["verdict"] == "failed" and "known format" in failed["reason"]
    assert failed["p"] is None and failed["thumb"] is None and failed["link"] is None
    assert named(data["files"], "none.png")["verdict"] == "no_face_found"
    pictures = [f for f in data["faces"] if f["track"] is None]
    kept = [f for f in results["results"] if "track_id" not in f]
    assert [f["p"] for f in pictures] == [f["fake_probability"] for f in kept]
    assert [f["size"] for f in pictures] == [f["bbox"][2:] for f in kept]
    assert [f["verdict"] for f in pictures] == [f["verdict"] for f in kept]
    names = [data["files"][f["file"]]["name"] for f in pictures]
    assert names == [f["file_name"] for f in kept]


def test_a_video_is_shown_by_its_tracks(run):
    folder = run()
    write_run_report(folder)
    html, elements, data = page(folder)
    tracks = json.loads((folder / "videos/clip.json").read_text())
    clip = named(data["files"], "clip.mp4")
    assert clip["p"] == tracks["fake_probability"] and clip["faces"] == 2
    assert clip["time"] == [round(tracks["duration_s"], 3)]
    shown = [face for face in data["faces"] if face["track"] is not None]
    assert [face["track"] for face in shown] == [t["track_id"] for t in tracks["tracks"]]
    for face, track in zip(shown, tracks["tracks"], strict=True):
        assert face["p"] == track["fake_probability"]
        assert face["time"] == [round(track[f"{end}_time_s"], 3) for end in ("first", "last")]
        assert face["thumb"].startswith("data:image/jpeg;base64,")
    (figure,) = [a for a, _ in elements.all("figure") if "timeline" in a["class"]]
    assert "track 1" in figure["aria-label"] and "clip.mp4" in figure["aria-label"]
    (timeline,) = re.findall(r'<figure class="timeline".*?</figure>', html, re.S)
    assert timeline.count("<svg") == 1


def test_thumbnails_show_the_annotated_media(run):
    folder = run()
    write_run_report(folder)
    _, _, data = page(folder)
    for end in ("forged.png", "clip.mp4"):
        row = named(data["files"], end)
        picture = decode(row["thumb"])
        assert max(picture.shape) <= 320
        red = (picture[..., 0] > 150) & (picture[..., 2] < 110)
        assert red.any(), end  # of the clip the frame is shown that has the forged face
        assert (folder / row["link"]).is_file()
    faces = [f for f in data["faces"] if data["files"][f["file"]]["name"].endswith("forged.png")]
    by_label = {face["verdict"] == "fake": decode(face["thumb"]).mean((0, 1)) for face in faces}
    assert by_label[True][0] > by_label[True][2] and by_label[False][2] > by_label[False][0]


def decode(uri):
    head, content = uri.split(",", 1)
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image).astype(int)


def test_crops_are_used_where_there_are_any(run):
    folder = run(video=False, crops=True, write_media=False)
    write_run_report(folder)
    _, _, data = page(folder)
    assert all(file["thumb"] is None for file in data["files"])
    assert all(face["thumb"] for face in data["faces"])


def test_nothing_from_outside_is_markup_and_only_our_script_may_run(run):
    folder = run()
    write_run_report(folder, title=HOSTILE)
    html, elements, data = page(folder)
    assert named(data["files"], HOSTILE)["p"] == 0.8
    scripts = elements.all("script")
    assert len(scripts) == 2 and scripts[0][0] == {"type": "application/json", "id": "run"}
    assert not elements.all("img")
    assert not [a for _, attributes in elements.tags for a in attributes if a.startswith("on")]
    ours = re.search(r"<script>(.*?)</script>", html, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()
    (policy,) = [a["content"] for a, _ in elements.all("meta") if "http-equiv" in a]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    for tag, attributes in elements.tags:
        addresses = [
            attributes[name]
            for name in ("src", "href", "xlink:href", "action", "data", "srcset")
            if name in attributes
        ]
        if tag == "image":  # a face, or its heat map
            assert all(re.match(r"data:image/(jpeg|png);base64,[\w+/=]+$", a) for a in addresses)
        else:  # places in the page, and files of the run
            assert all(a[0] == "#" or (folder / unquote(a)).is_file() for a in addresses)
    assert {"image", "a"} <= {tag for tag, _ in elements.tags}


def test_paths_in_the_results_lead_nowhere_else(run, tmp_path):
    folder = run(video=False)
    shutil.rmtree(folder / ".comics")  # whose thumbnails need no path
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.jpg")
    results = json.loads((folder / "results.json").read_text())
    for file, target in zip(
        results["files"],
        ("../secret.jpg", str(tmp_path / "secret.jpg"), "javascript:alert(1)", "https://a.b/c"),
        strict=False,
    ):
        file["output"] = target
    (folder / "results.json").write_text(json.dumps(results))
    write_run_report(folder)
    _, _, data = page(folder)
    assert not [f for f in data["files"][:4] if f["link"] or f["thumb"]]


def test_a_run_without_its_media_and_tracks_still_has_a_report(run):
    folder = run()
    for path in [*folder.glob("media/*"), *folder.glob("videos/*")]:
        path.unlink()
    write_run_report(folder)
    _, _, data = page(folder)
    assert not [file for file in data["files"] if file["link"]]
    assert named(data["files"], "clip.mp4")["thumb"]  # of the run's record
    shutil.rmtree(folder / ".comics")
    write_run_report(folder)
    html, _, data = page(folder)
    assert not [file for file in data["files"] if file["thumb"] or file["link"]]
    assert "its tracks are not shown, their file is absent" in html
    assert named(data["files"], "clip.mp4")["p"] == 0.8


@pytest.mark.parametrize(
    "fault",
    [
        lambda tracks: tracks["tracks"][0].pop("boxes"),
        lambda tracks: tracks["tracks"][0].update(label="<b>"),
        lambda tracks: tracks["tracks"][0].update(times_s=[1.0]),
        lambda tracks: tracks["tracks"][0].update(fake_probability=7),
        lambda tracks: tracks.update(tracks=[3]),
        lambda tracks: tracks.update(duration_s="long"),
        lambda tracks: tracks.update(aggregation={}),
    ],
)
def test_a_broken_tracks_file_is_told(run, fault):
    folder = run()
    path = folder / "videos/clip.json"
    tracks = json.loads(path.read_text())
    fault(tracks)
    path.write_text(json.dumps(tracks))
    write_run_report(folder)
    html, _, data = page(folder)
    assert "its tracks are not shown: unusable" in html
    assert not [face for face in data["faces"] if face["track"] is not None]


def test_a_big_run_shows_its_most_suspicious_files_and_faces(run, monkeypatch):
    folder = run()
    monkeypatch.setattr(report_rows, "MAX_FILES", 3)
    monkeypatch.setattr(report_rows, "MAX_FACES", 2)
    monkeypatch.setattr(run_report, "MAX_PICTURES", 1)
    write_run_report(folder)
    html, _, data = page(folder)
    assert {file["verdict"] for file in data["files"]} == {"forged_face_found"}
    assert [face["p"] for face in data["faces"]] == [0.8, 0.8]
    assert sum(file["thumb"] is not None for file in data["files"]) == 1
    assert "3 of 6 files are shown" in html and "2 of 7 faces are shown" in html


def test_a_run_that_is_not_complete_says_so(run):
    folder = run(video=False)
    results = json.loads((folder / "results.json").read_text())
    results["summary"] |= {"complete": False, "pending": 7}
    (folder / "results.json").write_text(json.dumps(results))
    write_run_report(folder)
    assert "not complete: 7 inputs left" in page(folder)[0]


def test_an_empty_run(tmp_path, patch_predictor):
    run_inference(patch_predictor, expand_inputs([]), RunOptions(tmp_path), lambda line: None)
    write_run_report(tmp_path)
    _, _, data = page(tmp_path)
    assert data["files"] == [] and data["faces"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("schema_version"), "schema_version None"),
        (lambda r: r.update(schema_version="3.0"), "schema_version '3.0'"),
        (lambda r: r.update(files=[{"file_name": 3}]), r"files\[0\]"),
        (lambda r: r.update(files=["a"]), r"files\[0\]"),
        (lambda r: r["results"][0].update(fake_probability=2), "an entry of results"),
        (lambda r: r["results"][0].pop("bbox"), "an entry of results"),
        (lambda r: r["results"][0].update(score="high"), "an entry of results"),
        (lambda r: r["images"][0].pop("width"), "an entry of images"),
    ],
)
def test_results_that_cannot_be_read_are_named(run, change, said):
    folder = run(video=False)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))
    with pytest.raises(ResultsError, match=said):
        write_run_report(folder)


def test_the_command(run, tmp_path, capsys):
    folder = run(video=False)
    assert main(["report", str(folder), "--title", "My run"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert "<title>My run</title>" in page(folder)[0]
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such file" in capsys.readouterr().err
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    assert main(["report", str(folder)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_of_the_command_ends_with_a_report(
    tmp_path, patch_predictor, make_scene, monkeypatch
):
    Image.fromarray(make_scene(60, 80, [(RED, 10, 10, 40, 40)])).save(tmp_path / "a.png")
    patch_predictor.video_rule, patch_predictor.looks_at_faces = VideoRule(), False
    monkeypatch.setattr(
        "comics.inference.predictor.Predictor.from_file", lambda *_, **__: patch_predictor
    )
    folder = tmp_path / "out"
    arguments = ["detect", "--weights", "x", "--output", str(folder), str(tmp_path / "a.png")]
    assert main(arguments) == 0
    _, _, data = page(folder)
    assert [file["verdict"] for file in data["files"]] == ["forged_face_found"]
    assert main(arguments) == 0  # nothing to do; the report of an earlier run is no input


def test_thumbnails_of_the_record_have_nothing_drawn_on_them(run):
    """A face's picture is its own pixels: what is drawn on the annotated picture is not there."""
    folder = run(video=False)
    write_run_report(folder)
    _, _, data = page(folder)
    forged = next(
        place for place, f in enumerate(data["files"]) if f["name"].endswith("forged.png")
    )
    (red,) = [f for f in data["faces"] if f["file"] == forged and f["verdict"] == "fake"]
    with_record = decode(red["thumb"])
    shutil.rmtree(folder / ".comics")
    write_run_report(folder)
    _, _, data = page(folder)
    (red,) = [f for f in data["faces"] if f["file"] == forged and f["verdict"] == "fake"]
    from_media = decode(red["thumb"])
    # Boxes have a white rim; the picture itself has nothing that is so bright
    assert (from_media.min(-1) > 225).any() and not (with_record.min(-1) > 180).any()


@pytest.mark.parametrize(
    "line",
    [b"\xff\n", b"[]\n", b"null\n", b'["javascript:1", []]\t{"file_name": "a"}\n', b"[1, 2]\t{}\n"],
)
def test_a_record_that_is_none_is_passed_over(run, line):
    folder = run(video=False)
    path = folder / ".comics" / "entries.tsv"
    name = json.loads((folder / "results.json").read_text())["files"][0]["file_name"]
    path.write_bytes(line.replace(b'"a"', json.dumps(name).encode()))
    write_run_report(folder)
    html, _, data = page(folder)
    assert "javascript:1" not in html and data["files"]
