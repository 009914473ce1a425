"""Files to rows: what a run says, by a class that any engine can call."""

import json

import numpy as np
import pytest
from fake_scanner import read_rows
from patch_scanner import PatchPredictor, make
from PIL import Image

from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.run import run_inference
from comics.runs.video import VideoOptions
from comics.scale.clips import join_clips, scan_clip
from comics.scale.plan import JobFolder
from comics.scale.reader import ScaleOutput
from comics.scale.scanner import FaceScanner
from comics.scale.tables import SchemaError, face_entry
from comics.scale.video_length import length_s

RED, BLUE = (255, 0, 0), (0, 0, 255)
HIDDEN = ("output", "timeline", "tracks_file")  # files that only runs write


@pytest.fixture
def pictures(tmp_path, make_scene):
    folder = tmp_path / "in"
    folder.mkdir()
    scenes = {"a.png": [(RED, 3, 5, 20, 21), (BLUE, 30, 4, 50, 30)], "b.png": [], "c.png":
              [(BLUE, 10, 10, 30, 33)]}  # fmt: skip
    for name, patches in scenes.items():
        Image.fromarray(make_scene(patches=patches)).save(folder / name)
    (folder / "d.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def video(tmp_path, encode_video, make_scene):
    """Nine seconds: a forged face that moves all along, a real one that comes and goes."""
    frames = []
    for n in range(90):
        patches = [(RED, 2 + n // 3, 5, 18 + n // 3, 21)]
        if n // 20 % 2:
            patches.append((BLUE, 40, 26, 60, 44))
        frames.append(make_scene(patches=patches))
    (tmp_path / "in").mkdir(exist_ok=True)
    return encode_video(tmp_path / "in" / "v.mp4", frames, rate=10, options={"g": "7"})


def results_of_run(inputs, output, **video):
    """results.json of a run over the same files, without what only a run has."""
    run_inference(
        PatchPredictor(), expand_inputs([inputs]),
        RunOptions(output, write_media=False, video=VideoOptions(**video)), lambda line: None,
    )  # fmt: skip
    document = json.loads((output / "results.json").read_text())
    for entry in document["files"]:
        for name in HIDDEN:
            entry.pop(name, None)
    return document


def results_of_rows(output):
    """The same lists from a job's Parquet."""
    lists = {"files": [], "images": [], "results": []}
    for entry, images in ScaleOutput(str(output)).files():
        lists["files"].append(entry)
        for image, faces in images:
            lists["images"].append({"id": len(lists["images"]) + 1, **image})
            number = len(lists["images"])
            lists["results"] += [{"image_id": number, **face} for face in faces]
    return lists


def test_rows_of_paths_are_those_of_a_run(pictures, tmp_path):
    scanner = make()
    names = sorted(pictures.iterdir())
    found = scanner({"path": np.array([str(name) for name in names])})
    expected = results_of_run(pictures, tmp_path / "run")
    assert [json.loads(text) for text in found["entry"]] == expected["files"]
    faces = [face_entry(row) for rows in found["face_rows"] for row in rows]
    own = [{k: v for k, v in face.items() if k != "image_id"} for face in expected["results"]]
    assert faces == own
    assert found["verdict"] == ["forged_face_found", "no_face_found", "no_forgery_found", None]
    assert scanner.model_seconds > 0


def test_rows_of_bytes_are_those_of_their_files(pictures):
    scanner = make()
    names = sorted(pictures.iterdir())
    of_paths = scanner({"path": [str(name) for name in names]})
    of_bytes = scanner({"bytes": [name.read_bytes() for name in names],
                        "name": [str(name) for name in names]})  # fmt: skip
    told = [name for name in of_paths if name not in ("modified", "entry")]
    assert [of_bytes[name] for name in told] == [of_paths[name] for name in told]


def test_addresses_are_fetched_and_what_is_absent_is_a_row(pictures, tmp_path):
    import fsspec

    fsspec.filesystem("memory").pipe("/scan/a.png", (pictures / "a.png").read_bytes())
    found = make()({"path": ["memory://scan/gone.png", "memory://scan/a.png", str(tmp_path / "x")]})
    assert found["file_name"] == [
        "memory://scan/gone.png",
        "memory://scan/a.png",
        str(tmp_path / "x"),
    ]
    assert found["status"] == ["failed", "ok", "failed"]
    assert "no such file" in found["reason"][0] and found["faces"][1] == 2
    assert [len(rows) for rows in found["face_rows"]] == [0, 2, 0]


def test_a_batch_without_paths_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="a column path, or bytes and name; this one has key"):
        make()({"key": ["a"]})


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        FaceScanner(str(tmp_path / "absent.safetensors"), "cpu")


@pytest.mark.parametrize("max_fps", [None, 5.0])
@pytest.mark.parametrize("clip_s", [2.0, 3.0])
def test_clips_that_are_joined_say_what_the_whole_video_says(video, tmp_path, max_fps, clip_s):
    assert length_s(video) == pytest.approx(9, abs=0.2)
    scanner = make(max_fps)
    payloads = []
    starts = np.arange(0, 9, clip_s)
    for start in starts:
        end = None if start == starts[-1] else start + clip_s
        payloads += scan_clip(scanner, video, str(video), float(start), end)
    joined = join_clips(str(video), scanner.video_options, json.loads(json.dumps(payloads)))
    expected = results_of_run(video, tmp_path / "run", max_fps=max_fps)
    assert json.loads(joined.row["entry"]) == expected["files"][0]
    faces = [{k: v for k, v in f.items() if k != "image_id"} for f in expected["results"]]
    assert [face_entry(row) for row in joined.faces] == faces
    shapes = [(image["frame"], image["time_s"]) for image in expected["images"]]
    assert [(each["frame"], each["time_s"]) for each in joined.row["images"]] == shapes
    tracks = {row["track_id"] for row in joined.faces}
    assert tracks == {1, 2, 3}  # the second face goes and comes back as another


def test_a_clip_that_was_lost_is_told_and_the_others_stand(video):
    scanner = make()
    lost = {"start_s": 3.0, "failed": "given up", "report": None, "facts": None}
    payloads = [*scan_clip(scanner, video, "v", 0.0, 3.0), lost,
                *scan_clip(scanner, video, "v", 6.0, None)]  # fmt: skip
    row = join_clips("v", scanner.video_options, payloads).row
    assert row["status"] == "partial" and row["reason"] == "from 3 s on: given up"
    assert row["frames"] == 60 and row["verdict"] == "forged_face_found"
    nothing = join_clips("v", scanner.video_options, [lost]).row
    assert nothing["status"] == "failed" and nothing["verdict"] is None


def test_a_video_that_is_shorter_than_it_says_is_told_once(video, tmp_path):
    scanner = make()
    beyond = scan_clip(scanner, video, "v", 12.0, None)
    assert [end["failed"] for end in beyond] == [None]
    payloads = [*scan_clip(scanner, video, "v", 0.0, 12.0), *beyond]
    assert join_clips("v", scanner.video_options, payloads).row["status"] == "ok"


def test_a_job_of_pictures_and_a_long_video_is_a_run_over_them(do, pictures, video, tmp_path):
    """From folder to Parquet, with processes of their own: equal to one process over all."""
    more = {"scanner_class": "patch_scanner:make", "clip_s": 2.0, "shard_files": 3}
    outcome = do(tmp_path / "out", pictures, **more)
    expected = results_of_run(pictures, tmp_path / "run")
    found = results_of_rows(tmp_path / "out")
    assert found["files"] == expected["files"]
    assert found["images"] == expected["images"] and found["results"] == expected["results"]
    counts = {name: outcome.summary[name] for name in ("files", "failed", "faces", "forged_faces")}
    assert counts == {name: expected["summary"][name] for name in counts}
    assert JobFolder(str(tmp_path / "out")).plan_clips(2.0) == 2  # five clips, four a shard
    (tmp_path / "out" / "files" / "part-000002.parquet").unlink()  # a crash before the join
    assert do(tmp_path / "out", pictures, **more).undone == 0
    assert results_of_rows(tmp_path / "out") == found
    _reads_are_checked(tmp_path / "out")


def _reads_are_checked(output):
    """A part of another schema, and faces of files that are in no part."""
    import pyarrow
    from pyarrow import parquet

    rows = read_rows(output, "faces")
    part = output / "faces" / "part-000000.parquet"
    table = parquet.read_table(part)
    strange = pyarrow.array(["nowhere.png"] * len(table))
    parquet.write_table(table.set_column(0, "file_name", strange), part)
    with pytest.raises(SchemaError, match=r"part-000000.parquet: faces of nowhere.png"):
        list(ScaleOutput(str(output)).files())
    parquet.write_table(table.drop_columns(["score"]), part)
    with pytest.raises(SchemaError, match="no column 'score'"):
        list(ScaleOutput(str(output)).files())
    assert rows
