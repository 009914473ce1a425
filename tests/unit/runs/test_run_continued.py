"""Runs that end early, and go on."""

import csv
import json
import os
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

import comics.runs
from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.run import run_inference
from comics.runs.shards import Shard
from comics.runs.state import SettingsError
from comics.runs.video import VideoOptions

RED, BLUE = (255, 0, 0), (0, 0, 255)
SCHEMA = json.loads((Path(comics.runs.__file__).parent / "results.schema.json").read_text())


@pytest.fixture
def folder(tmp_path, make_scene, encode_video):
    """Twelve pictures of three shapes, and two videos of eight frames."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number in range(12):
        shape = [(48, 64), (64, 48), (40, 100)][number % 3]
        patches = [(RED, 2, 2, 12 + number, 12)] + [(BLUE, 2, 20, 20, 36)] * (number % 2)
        place = folder / ("sub" if number > 8 else "") / f"{number:02}.png"
        Image.fromarray(make_scene(*shape, patches)).save(place)
    for name in ("v.mp4", "w.mp4"):
        encode_video(folder / name, [make_scene(patches=[(RED, 8, 8, 24, 32)])] * 8)
    return folder


def go(predictor, folder, output, stop=lambda: False, **options):
    lines = []
    options = {"batch_size": 2} | options
    inputs = expand_inputs([folder], exclude=output)
    outcome = run_inference(predictor, inputs, RunOptions(output, **options), lines.append, stop)
    document = json.loads((output / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    return outcome, document, lines


def without_paths(document):
    # When it ran is each run's own
    return json.dumps({k: v for k, v in document.items() if k != "run"}, sort_keys=True)


def snapshot(output):
    return {
        p.relative_to(output).as_posix(): p.stat().st_mtime_ns
        for p in output.rglob("*")
        if p.is_file() and ".comics" not in p.parts
    }


def test_the_same_command_again_does_nothing_twice(tmp_path, folder, patch_predictor):
    _, first, _ = go(patch_predictor, folder, tmp_path / "out")
    seen, made = sum(patch_predictor.batches), snapshot(tmp_path / "out")
    assert seen == 12 + 2 * 8
    outcome, second, lines = go(patch_predictor, folder, tmp_path / "out")
    assert sum(patch_predictor.batches) == seen
    assert without_paths(first) == without_paths(second)
    assert lines == ["continued: 14 of 14 files were finished, 0 are left"]
    remade = {name for name, time in snapshot(tmp_path / "out").items() if made.get(name) != time}
    assert remade == {"results.json", "results.csv", "files.csv"}
    assert len(outcome.files) == 14


@pytest.mark.parametrize("batches_before_the_stop", range(0, 14, 2))
def test_a_stopped_run_goes_on_to_the_results_of_a_whole_one(
    tmp_path, folder, patch_predictor, batches_before_the_stop
):
    _, whole, _ = go(patch_predictor, folder, tmp_path / "whole")
    images = sum(patch_predictor.batches)
    patch_predictor.batches.clear()

    def stop():
        return len(patch_predictor.batches) >= batches_before_the_stop

    outcome, part, _ = go(patch_predictor, folder, tmp_path / "out", stop)
    assert outcome.pending == 14 - len(outcome.files) > 0
    assert part["summary"]["complete"] is False
    assert part["summary"]["pending"] == outcome.pending
    assert len(part["files"]) == len(outcome.files)
    assert not list((tmp_path / "out").rglob("*.part"))
    outcome, continued, _ = go(patch_predictor, folder, tmp_path / "out")
    assert outcome.pending == 0
    assert without_paths(continued) == without_paths(whole)
    # A video that was stopped begins again; nothing else is seen twice
    assert sum(patch_predictor.batches) <= images + 8
    if batches_before_the_stop <= 6:
        assert sum(patch_predictor.batches) == images


class Crash(BaseException):
    """What nothing catches, as the end of a process."""


@pytest.mark.parametrize("call", [1, 3, 5, 8, 11])
def test_a_crash_loses_nothing_finished(tmp_path, folder, patch_predictor, call):
    _, whole, _ = go(patch_predictor, folder, tmp_path / "whole")
    plain, images = patch_predictor.predict, sum(patch_predictor.batches)
    patch_predictor.batches.clear()

    def crash(images):
        if len(patch_predictor.batches) == call:
            raise Crash
        return plain(images)

    patch_predictor.predict = crash
    with pytest.raises(Crash):
        go(patch_predictor, folder, tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    patch_predictor.predict = plain
    _, continued, _ = go(patch_predictor, folder, tmp_path / "out")
    assert without_paths(continued) == without_paths(whole)
    assert sum(patch_predictor.batches) <= images + 8


def test_failed_files_are_tried_again_and_new_ones_taken(tmp_path, folder, patch_predictor):
    good = (folder / "00.png").read_bytes()
    (folder / "00.png").write_bytes(good[:40])
    outcome, _, _ = go(patch_predictor, folder, tmp_path / "out")
    assert [f.status for f in outcome.files].count("failed") == 1
    seen = sum(patch_predictor.batches)
    (folder / "00.png").write_bytes(good)
    (folder / "0 new.png").write_bytes(good)
    outcome, document, _ = go(patch_predictor, folder, tmp_path / "out")
    assert sum(patch_predictor.batches) == seen + 2
    assert [f.status for f in outcome.files] == ["ok"] * 15
    names = [f["output"] for f in document["files"]]
    assert len(set(names)) == len(names)


def test_a_file_that_changed_and_one_whose_output_is_gone_are_done_again(
    tmp_path, folder, patch_predictor
):
    go(patch_predictor, folder, tmp_path / "out")
    seen = sum(patch_predictor.batches)
    (folder / "03.png").write_bytes((folder / "04.png").read_bytes())
    (tmp_path / "out" / "media" / "05.jpg").unlink()
    go(patch_predictor, folder, tmp_path / "out")
    assert sum(patch_predictor.batches) == seen + 2
    assert (tmp_path / "out" / "media" / "05.jpg").exists()


def test_a_file_that_changes_while_it_is_read_is_not_finished(tmp_path, folder, patch_predictor):
    plain = patch_predictor.predict

    def touch(images):
        os.utime(folder / "00.png", ns=(1, 1))
        return plain(images)

    patch_predictor.predict = touch
    go(patch_predictor, folder, tmp_path / "out")
    patch_predictor.predict, seen = plain, sum(patch_predictor.batches)
    go(patch_predictor, folder, tmp_path / "out")
    assert sum(patch_predictor.batches) == seen + 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"crops": True}, "options.crops: false -> true"),
        ({"write_media": False}, "options.media: true -> false"),
        ({"shard": Shard(1, 2)}, 'options.shard: "1/1" -> "1/2"'),
        ({"video": VideoOptions(stride=2)}, "options.video.stride: 1 -> 2"),
    ],
)
def test_other_settings_in_the_same_folder_are_an_error(
    tmp_path, folder, patch_predictor, change, named
):
    go(patch_predictor, folder, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(SettingsError, match=named):
        go(patch_predictor, folder, tmp_path / "out", **change)
    assert snapshot(tmp_path / "out") == before
    outcome, _, _ = go(patch_predictor, folder, tmp_path / "out", overwrite=True, **change)
    assert outcome.pending == 0


def test_another_model_is_an_error_and_another_batch_size_is_none(
    tmp_path, folder, patch_predictor
):
    go(patch_predictor, folder, tmp_path / "out")
    go(patch_predictor, folder, tmp_path / "out", batch_size=3, decoding_threads=1)
    patch_predictor.provenance = {"model": "others"}
    with pytest.raises(SettingsError, match='provenance.model: "patches" -> "others"'):
        go(patch_predictor, folder, tmp_path / "out")


def test_shards_together_are_the_whole_and_their_outputs_do_not_collide(
    tmp_path, folder, patch_predictor
):
    (folder / "07.gone.png").symlink_to("nowhere.png")
    (folder / "sub" / "00.png").write_bytes((folder / "00.png").read_bytes())
    for name in ("A.png", "A.bmp", "a.webp"):  # one name for all outputs
        Image.open(folder / "00.png").save(folder / name)
    _, whole, _ = go(patch_predictor, folder, tmp_path / "whole")
    parts = [
        go(patch_predictor, folder, tmp_path / f"part-{index}", shard=Shard(index, 3))[1]
        for index in (1, 2, 3)
    ]
    together = [file for part in parts for file in part["files"]]
    assert all(part["files"] for part in parts)

    def key(file):
        return file["file_name"]

    assert sorted(together, key=key) == sorted(whole["files"], key=key)
    outputs = [name for part in (1, 2, 3) for name in snapshot(tmp_path / f"part-{part}")
               if name.startswith("media/")]  # fmt: skip
    assert len(outputs) == len(set(outputs)) == len(whole["files"]) - 1


def test_tables_and_crops_say_what_the_results_say(tmp_path, folder, patch_predictor):
    _, document, _ = go(patch_predictor, folder, tmp_path / "out", crops=True)
    with open(tmp_path / "out" / "results.csv", encoding="utf-8", newline="") as file:
        faces = list(csv.DictReader(file))
    with open(tmp_path / "out" / "files.csv", encoding="utf-8", newline="") as file:
        files = list(csv.DictReader(file))
    assert len(faces) == len(document["results"]) > 12
    frames = {image["id"]: image for image in document["images"]}
    for row, entry in zip(faces, document["results"], strict=True):
        assert row["file_name"] == entry["file_name"]
        assert [float(row[n]) for n in ("x", "y", "width", "height")] == entry["bbox"]
        assert row["frame"] == str(frames[entry["image_id"]].get("frame", ""))
        assert row["track_id"] == str(entry.get("track_id", ""))
        assert row["label"] == ["real", "fake"][entry["category_id"]]
        with Image.open(tmp_path / "out" / entry["crop"]) as crop:
            assert crop.width >= entry["bbox"][2] and crop.height >= entry["bbox"][3]
    assert [row["file_name"] for row in files] == [f["file_name"] for f in document["files"]]
    assert [row["verdict"] for row in files] == [f["verdict"] for f in document["files"]]
    assert len({entry["crop"] for entry in document["results"]}) == len(document["results"])


def test_a_picture_too_large_for_the_memory_fails_alone(tmp_path, folder, patch_predictor):
    plain = patch_predictor.predict

    def short_of_memory(images):
        if sum(image.size for image in images) > 2 * 48 * 64 * 3 or images[0].shape[0] == 40:
            raise MemoryError
        return plain(images)

    patch_predictor.predict = short_of_memory
    outcome, _, _ = go(patch_predictor, folder, tmp_path / "out", batch_size=4)
    failed = [file for file in outcome.files if file.status == "failed"]
    assert len(failed) == 4
    assert all(file.reason == "too little memory for its 100x40 pixels" for file in failed)


def test_a_thousand_files_of_which_a_hundred_are_broken(tmp_path, make_scene, patch_predictor):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(make_scene(16, 24, [(RED, 2, 2, 12, 12)])).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    noise = (tmp_path / "noise.png").read_bytes()
    Image.fromarray(np.zeros((1100, 1000, 3), np.uint8)).save(tmp_path / "bomb.png")
    bomb = (tmp_path / "bomb.png").read_bytes()
    for number in range(900):
        (folder / f"{number:03}.png").write_bytes(good)
    for number in range(10):
        (folder / f"cut{number}.png").write_bytes(noise[: len(noise) // 2 + number])
        (folder / f"empty{number}.jpg").write_bytes(b"")
        (folder / f"text{number}.jpg").write_text("not a picture")
        (folder / f"video{number}.mp4").write_bytes(b"\0no video" * 20)
        (folder / f"bomb{number}.png").write_bytes(bomb)
        (folder / f"loop{number}.png").symlink_to(f"loop{number}.png")
        (folder / f"nothing{number}.png").symlink_to("nowhere")
        os.mkfifo(folder / f"pipe{number}.png")
        (folder / os.fsdecode(b"bad\xff%d.png" % number)).write_bytes(good[:20])
        (folder / f"vanishing{number}.png").write_bytes(good)
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(good)
    inputs = expand_inputs([folder])
    for number in range(10):
        (folder / f"vanishing{number}.png").unlink()
    lines = []
    options = RunOptions(tmp_path / "out", write_media=False, batch_size=16)
    outcome = run_inference(patch_predictor, inputs, options, lines.append)
    failed = [file for file in outcome.files if file.status == "failed"]
    assert len(outcome.files) == len(lines) == 1001 and len(failed) == 100
    assert all(file.reason for file in failed)
    assert sum(patch_predictor.batches) == 901
    kinds = {os.path.basename(f.file_name)[:3]: f.reason for f in failed}
    assert len(kinds) == 10


def test_half_written_files_of_killed_runs_go_and_files_of_others_stay(
    patch_predictor, folder, tmp_path
):
    output = tmp_path / "out"
    _, first, _ = go(patch_predictor, folder, output)
    gone = [
        ".a1.part",
        "media/.b2.part",
        "media/sub/.c3.part",
        "videos/.d4.part",
        ".comics/.e5.part",
    ]
    kept = ["own/.f6.part", "notes.part"]
    for name in (*gone, *kept):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(b"half")
    _, second, _ = go(patch_predictor, folder, output)
    assert without_paths(second) == without_paths(first)
    assert [name for name in gone if (output / name).exists()] == []
    assert all((output / name).exists() for name in kept)
