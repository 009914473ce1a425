"""Runs over files that are not what they seem, are unreadable or change; odd output folders."""

import contextlib
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import jsonschema
import numpy as np
import pytest
from PIL import Image

from comics.runs.inputs import NO_MEDIA, SIDE_FILE, expand_inputs
from comics.runs.messages import describe_passed_over
from comics.runs.options import RunOptions
from comics.runs.run import run_inference
from comics.runs.state import ENTRIES, FILES, LOCK, SETTINGS

Image.init()  # which fills Image.SAVE

SCHEMA = Path(__file__).resolve().parents[3] / "comics" / "runs" / "results.schema.json"
MEM = Path("/proc/self/mem")  # a regular file whose first byte is an input/output error


@pytest.fixture
def run(tmp_path, patch_predictor):
    def go(inputs, **options):
        lines = []
        settings = RunOptions(output=tmp_path / "out", **options)
        run_inference(patch_predictor, expand_inputs(inputs, exclude=tmp_path / "out"), settings,
                      report=lines.append)  # fmt: skip
        document = json.loads((tmp_path / "out" / "results.json").read_text())
        jsonschema.validate(document, json.loads(SCHEMA.read_text()))
        return document, lines

    return go


def statuses(document):
    return {Path(f["file_name"]).name: (f["kind"], f["status"]) for f in document["files"]}


def save(path, colour="red", form="PNG", **options):
    image = np.full((48, 64, 3), 128, np.uint8)
    image[8:24, 8:24] = {"red": (255, 0, 0), "blue": (0, 0, 255)}[colour]
    Image.fromarray(image).save(path, form, **options)
    return path


def test_a_folder_is_read_by_content_and_the_rest_counted(tmp_path, run, encode_video, make_scene):
    folder = tmp_path / "in"
    (folder / "@eaDir").mkdir(parents=True)
    save(folder / "picture")
    save(folder / "picture.mp4")
    save(folder / "@eaDir" / "thumb.png")
    clip = encode_video(tmp_path / "clip.mp4", [make_scene()] * 3).read_bytes()
    for name in ("clip", "clip.gif", "clip.jpg", "clip.dat"):
        (folder / name).write_bytes(clip)
    (folder / "notes.txt").write_text("notes")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "broken.mkv").write_bytes(b"\0\1\2no video")
    for name in (".DS_Store", "Thumbs.db", "._clip.mp4", "._picture.png"):
        (folder / name).write_bytes(b"\0\5\x16\7" + bytes(99))
    document, lines = run([folder])
    assert statuses(document) == {
        "picture": ("image", "ok"), "picture.mp4": ("image", "ok"),
        "clip": ("video", "ok"), "clip.gif": ("video", "ok"), "clip.jpg": ("video", "ok"),
        "clip.dat": ("video", "ok"),
        "broken.jpg": ("image", "failed"), "broken.mkv": ("video", "failed"),
    }  # fmt: skip
    assert document["summary"]["passed_over"] == 6
    outputs = [entry["output"] for entry in document["files"] if "output" in entry]
    assert len(set(outputs)) == len(outputs) == 6
    assert all((tmp_path / "out" / name).is_file() for name in outputs)


def test_side_files_are_passed_over_however_they_are_named(tmp_path):
    names = ("._x.mp4", ".DS_Store", "Thumbs.db", "desktop.ini")
    for name in names:
        (tmp_path / name).write_bytes(b"\0\5\x16\7" + bytes(99))
    for inputs in ([tmp_path], [tmp_path / name for name in names], [f"{tmp_path}/*"]):
        found = expand_inputs(inputs)
        assert not found.files and not found.faults
        assert all(reason == SIDE_FILE for _, reason in found.passed_over)
    assert len(expand_inputs([tmp_path]).passed_over) == 4
    assert not expand_inputs([], listed=[tmp_path / "._x.mp4"]).files


def test_what_was_passed_over_is_told():
    found = [(Path(f"{n}.txt"), NO_MEDIA) for n in range(7)] + [(Path("Thumbs.db"), SIDE_FILE)]
    assert describe_passed_over(found) == (
        "Passed over 7 (neither a picture nor a video): 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...; "
        "1 (a side file of an operating system): Thumbs.db"
    )


@pytest.mark.parametrize("name", ["bad.jpg", "bad.mp4", "bad.gif", "bad"])
def test_a_read_error_fails_one_file(tmp_path, run, name):
    if not MEM.exists():
        pytest.skip("there is no file here that cannot be read")
    folder = tmp_path / "in"
    folder.mkdir()
    save(folder / "a.png")
    (folder / name).symlink_to(MEM)
    save(folder / "z.png", "blue")
    document, _ = run([folder])
    found = statuses(document)
    assert found["a.png"] == found["z.png"] == ("image", "ok")
    assert found[name] == ("video" if name == "bad.mp4" else "image", "failed")
    (reason,) = [entry["reason"] for entry in document["files"] if entry["status"] == "failed"]
    assert reason == "cannot be read: Input/output error"


def test_a_changed_input_replaces_its_old_outputs(tmp_path, run, encode_video, make_scene):
    path = save(tmp_path / "a.png")
    first, _ = run([path], crops=True)
    media, crops = tmp_path / "out" / "media", tmp_path / "out" / "crops"
    before = (media / "a.jpg").read_bytes()
    assert [p.name for p in crops.iterdir()] == ["a.1.jpg"]
    save(path, "blue")
    second, lines = run([path], crops=True)
    assert first["files"][0]["verdict"] != second["files"][0]["verdict"]
    assert [p.name for p in media.iterdir()] == ["a.jpg"]
    assert (media / "a.jpg").read_bytes() != before
    assert not any("continued" in line for line in lines)
    # A video in its place leaves no picture behind, and a broken file nothing
    path.write_bytes(encode_video(tmp_path / "v.mp4", [make_scene()] * 2).read_bytes())
    third, _ = run([path], crops=True)
    assert third["files"][0]["output"] == "media/a.mp4"
    assert [p.name for p in media.iterdir()] == ["a.mp4"] and not list(crops.iterdir())
    path.write_bytes(b"broken")
    run([path], crops=True)
    assert not list(media.iterdir())


def test_the_changed_input_is_remembered_and_its_old_state_is_not(tmp_path, run):
    path = save(tmp_path / "a.png")
    old = path.read_bytes(), path.stat()
    run([path])
    save(path, "blue")
    run([path])
    assert any("continued" in line for line in run([path])[1])
    path.write_bytes(old[0])
    os.utime(path, ns=(old[1].st_atime_ns, old[1].st_mtime_ns))
    document, lines = run([path])
    assert document["files"][0]["verdict"] == "forged_face_found"
    assert not any("continued" in line for line in lines)  # its picture shows something else


def test_crops_of_a_video_have_square_pixels(tmp_path, run, make_scene):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        scene = make_scene(64, 64, patches=[((255, 0, 0), 16, 8, 32, 40)])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(scene, format="rgb24")))
        container.mux(stream.encode())
    document, _ = run([path], crops=True)
    (face,) = document["results"]
    x, y, width, height = face["bbox"]
    assert (x, y, width, height) == pytest.approx((16, 8, 16, 32), abs=1.5)  # pixels of the file
    with Image.open(tmp_path / "out" / face["crop"]) as crop:
        assert crop.width / crop.height == pytest.approx(2 * width / height, rel=0.1)


@pytest.mark.parametrize("name", [".comics", "media", "videos", "crops"])
def test_links_in_the_output_folder_are_not_followed(tmp_path, run, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        run([save(tmp_path / "a.png")])
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("name", [LOCK, ENTRIES, FILES, SETTINGS])
def test_links_in_the_state_are_not_followed(tmp_path, run, name):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "out" / ".comics").mkdir(parents=True)
    (tmp_path / "out" / ".comics" / name).symlink_to(target)
    with contextlib.suppress(OSError):  # a link may also be replaced by a file
        run([save(tmp_path / "a.png")])
    assert target.read_text() == "mine"


def test_pages_that_were_not_looked_at_are_told(tmp_path, run):
    blank = Image.new("RGB", (64, 48), "white")
    blank.save(tmp_path / "a.tif", save_all=True, append_images=[blank, blank])
    document, lines = run([tmp_path / "a.tif"])
    told = "looked at page 1 (64x48) only; not at 2 other pages (64x48)"
    assert document["files"][0]["reason"] == told
    assert told in lines[0]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF", "GIF"])
def test_every_frame_of_an_animation_is_looked_at(tmp_path, run, form):
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {form}")
    blank, red = Image.new("RGB", (64, 48), "white"), Image.new("RGB", (64, 48), "red")
    blank.save(tmp_path / "a.jpg", form, save_all=True, append_images=[red], duration=200)
    document, _ = run([tmp_path / "a.jpg"])
    assert [(i["frame"], i["time_s"]) for i in document["images"]] == [(0, 0), (1, 0.2)]
    assert [face["category_id"] for face in document["results"]] == [1]
