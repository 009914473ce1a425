import json
import os

import numpy as np
import pytest
from PIL import Image

from comics.inference import files as files_module
from comics.runs import pictures as pictures_module
from comics.runs.inputs import expand_inputs
from comics.runs.messages import describe, describe_summary
from comics.runs.options import RunOptions
from comics.runs.outputs import FileStatus
from comics.runs.run import exit_code, run_inference
from comics.runs.video import VideoOptions

RED, BLUE = (255, 0, 0), (0, 0, 255)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def run(predictor, inputs, output, **options):
    lines = []
    found = expand_inputs(inputs, exclude=output)
    outcome = run_inference(predictor, found, RunOptions(output, **options), lines.append)
    return outcome.files, lines, json.loads((output / "results.json").read_text())


def test_pictures_and_videos_of_a_folder(tmp_path, encode_video, make_scene, patch_predictor):
    folder, output = tmp_path / "in", tmp_path / "out"
    fake = make_scene(patches=[(RED, 8, 8, 24, 32)])
    both = make_scene(patches=[(RED, 8, 8, 24, 32), (BLUE, 32, 8, 48, 32)])
    save(folder / "fake.png", fake)
    save(folder / "sub" / "both.png", both)
    save(folder / "real.png", make_scene(patches=[(BLUE, 8, 8, 24, 32)]))
    save(folder / "none.png", make_scene())
    encode_video(folder / "video.mp4", [fake] * 3 + [make_scene()] * 2)
    files, lines, document = run(patch_predictor, [folder], output, batch_size=3)
    assert exit_code(files) == 0
    assert {f.file_name: f.verdict for f in files} == {
        str(folder / "fake.png"): "forged_face_found",
        str(folder / "none.png"): "no_face_found",
        str(folder / "real.png"): "no_forgery_found",
        str(folder / "sub" / "both.png"): "forged_face_found",
        str(folder / "video.mp4"): "forged_face_found",
    }
    video = next(f for f in files if f.kind == "video")
    assert (video.frames, video.analysed_frames) == (5, 5)
    assert (video.frames_with_faces, video.frames_with_forged_faces) == (3, 3)
    media = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    assert {name for name in media if name.startswith("media/")} == {
        "media/fake.jpg", "media/none.jpg", "media/real.jpg", "media/sub/both.jpg",
        "media/video.mp4",
    }  # fmt: skip
    assert {"results.json", "results.csv", "files.csv"} < media
    assert {f["output"] for f in document["files"]} == {m for m in media if m.startswith("media")}
    assert document["provenance"] == {"model": "patches"}
    frames = [image for image in document["images"] if "frame" in image]
    assert [(f["frame"], f["time_s"]) for f in frames] == [(i, i / 25) for i in range(5)]
    by_id = {image["id"]: image["file_name"] for image in document["images"]}
    assert all(by_id[e["image_id"]] == e["file_name"] for e in document["results"])
    assert len(lines) == 5


def test_annotated_picture_has_the_size_of_the_source_upright(
    tmp_path, make_scene, patch_predictor
):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    image = make_scene(48, 64, [(RED, 0, 0, 16, 16)])
    save(tmp_path / "in" / "a.jpg", image, exif=exif, quality=95, subsampling=0)
    _, _, document = run(patch_predictor, [tmp_path / "in"], tmp_path / "out")
    with Image.open(tmp_path / "out" / "media" / "a.jpg") as written:
        assert written.size == (48, 64)
    x, y, _, _ = document["results"][0]["bbox"]
    assert (x, y) == pytest.approx((32, 0), abs=1)  # top left corner is now at the top right


def test_broken_inputs_are_reported_and_the_others_processed(
    tmp_path, encode_video, make_scene, patch_predictor
):
    folder = tmp_path / "in"
    good = make_scene(patches=[(RED, 8, 8, 24, 32)])
    for name in ("a.png", "m.png", "z.png"):
        save(folder / name, good)
    whole = save(folder / "cut.jpg", np.random.default_rng(0).integers(
        0, 255, (64, 64, 3), dtype=np.uint8)).read_bytes()  # fmt: skip
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mkv").write_text("not a video" * 100)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "self").symlink_to(".")
    save(folder / os.fsdecode(b"caf\xe9.png"), good)
    save(folder / "bomb.png", np.zeros((1200, 1000, 3), np.uint8))  # above the stub's limit
    files, lines, document = run(patch_predictor, [folder, tmp_path / "missing"], tmp_path / "out")
    failed = {os.path.basename(f.file_name): f.reason for f in files if f.status == "failed"}
    expected = {
        "cut.jpg": "truncated",
        "empty.jpg": "the file is empty",
        "text.png": "not an image",
        "empty.mp4": "the file is empty",
        "text.mkv": "not a readable video",
        "loop.jpg": "Too many levels",
        "gone.jpg": "a symbolic link to nothing",
        "self": "a folder that contains it",
        "bomb.png": "more than the 1000000 allowed",
        "missing": "no such file or folder",
    }
    assert failed.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in failed[name], (name, failed[name])
    done = {os.path.basename(f.file_name) for f in files if f.status == "ok"}
    assert done == {"a.png", "m.png", "z.png", "caf\\xe9.png"}
    assert exit_code(files) == 3
    assert document["summary"]["failed"] == len(expected)
    assert sum(line.startswith("FAILED") for line in lines) == len(expected)
    assert (tmp_path / "out/media/caf_.jpg").exists()


def test_a_file_without_permission_is_reported(tmp_path, make_scene, patch_predictor, monkeypatch):
    for name in ("closed.png", "open.png"):
        save(tmp_path / "in" / name, make_scene())
    if os.geteuid():
        (tmp_path / "in" / "closed.png").chmod(0)
    else:  # root may read everything

        def refuse(path, *args, _open=open, **options):
            if str(path).endswith("closed.png"):
                raise PermissionError(13, "Permission denied", str(path))
            return _open(path, *args, **options)

        monkeypatch.setattr("builtins.open", refuse)
    files, _, _ = run(patch_predictor, [tmp_path / "in"], tmp_path / "out")
    assert [f.status for f in files] == ["failed", "ok"]
    assert "Permission denied" in files[0].reason


def test_a_video_cut_short_is_partial(tmp_path, encode_video, patch_predictor):
    frames = np.random.default_rng(0).integers(110, 255, (30, 48, 64, 3), dtype=np.uint8)
    path = encode_video(
        tmp_path / "a.mp4", list(frames), container_options={"movflags": "faststart"}
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    files, _, _ = run(patch_predictor, [path], tmp_path / "out")
    assert files[0].status == "partial" and files[0].verdict == "no_face_found"
    assert "ends early" in files[0].reason
    assert files[0].frames == files[0].analysed_frames > 5
    assert (tmp_path / "out" / "media" / "a.mp4").exists()
    assert exit_code(files) == 3


def test_a_second_run_does_not_process_its_own_outputs(tmp_path, make_scene, patch_predictor):
    save(tmp_path / "a.png", make_scene())
    for _ in range(2):
        files, _, _ = run(patch_predictor, [tmp_path], tmp_path / "out")
        assert [f.file_name for f in files] == [str(tmp_path / "a.png")]


def test_same_names_from_different_folders_are_kept_apart(tmp_path, make_scene, patch_predictor):
    save(tmp_path / "a" / "x.png", make_scene(patches=[(RED, 8, 8, 24, 32)]))
    save(tmp_path / "b" / "x.png", make_scene())
    _, _, document = run(patch_predictor, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert [f["output"] for f in document["files"]] == ["media/x.jpg", "media/x-2.jpg"]


def test_no_media(tmp_path, encode_video, make_scene, patch_predictor):
    save(tmp_path / "in" / "a.png", make_scene())
    encode_video(tmp_path / "in" / "v.mp4", [make_scene()] * 4)
    _, _, document = run(
        patch_predictor,
        [tmp_path / "in"],
        tmp_path / "out",
        write_media=False,
        video=VideoOptions(stride=2),
    )
    assert not (tmp_path / "out" / "media").exists()
    assert [f["analysed_frames"] for f in document["files"][1:]] == [2]


def test_long_pictures_are_written_as_png(tmp_path, make_scene, patch_predictor, monkeypatch):
    monkeypatch.setattr(pictures_module, "JPEG_MAX_SIDE", 50)
    save(tmp_path / "a.png", make_scene(40, 64))
    _, _, document = run(patch_predictor, [tmp_path / "a.png"], tmp_path / "out")
    assert document["files"][0]["output"] == "media/a.png"


def test_an_output_that_cannot_be_written_stops_the_run(
    tmp_path, make_scene, patch_predictor, monkeypatch
):
    save(tmp_path / "a.png", make_scene())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files_module, "write_bytes", full)
    inputs = expand_inputs([tmp_path / "a.png"])
    with pytest.raises(OSError, match="No space left"):
        run_inference(patch_predictor, inputs, RunOptions(tmp_path / "out"), lambda _: None)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".comics"]


@pytest.mark.parametrize("name", ["batch_size", "decoding_threads"])
def test_options_below_one_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        RunOptions(tmp_path, **{name: 0})


def test_lines_for_people():
    assert describe(FileStatus("a.jpg", "image", "ok", "no_face_found")).endswith("no face found")
    real = FileStatus("a.jpg", "image", "ok", "no_forgery_found", 2)
    assert describe(real).endswith("a.jpg: 2 faces, none forged")
    failed = FileStatus("a.jpg", "image", "failed", reason="the file is empty")
    assert describe(failed) == "FAILED   a.jpg: the file is empty"
    counts = dict.fromkeys(
        (
            "files",
            "forged_face_found",
            "unclear",
            "no_forgery_found",
            "no_face_found",
            "partial",
            "failed",
        ),
        1,
    )
    assert describe_summary(counts).startswith("1 file: 1 with a forged face")
