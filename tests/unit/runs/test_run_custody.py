"""The chain of custody through a run: its files' facts, its parts, and what changes meanwhile."""

import csv
import hashlib
import json
import os
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from custody_files import Signer, ascii_entry, exif, exif_segment, jpeg, with_segments
from PIL import Image

import comics
import comics.runs
from comics.data.custody.credentials import TrustList
from comics.pages.run_report import write_run_report
from comics.runs import history as history_module
from comics.runs.history import RunHistory, shown_command
from comics.runs.inputs import expand_inputs
from comics.runs.options import RunOptions
from comics.runs.run import run_inference
from comics.runs.state import SettingsError

SCHEMA = json.loads((Path(comics.runs.__file__).parent / "results.schema.json").read_text())
RED = (255, 0, 0)


def go(predictor, folder, output, command=("comics", "detect"), **options):
    inputs = expand_inputs([folder], exclude=output)
    run_inference(
        predictor, inputs, RunOptions(output, **options), lambda line: None, command=command
    )
    document = json.loads((output / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    return document


def entries(document):
    return {Path(entry["file_name"]).name: entry for entry in document["files"]}


@pytest.fixture
def folder(tmp_path, make_scene, encode_video):
    """A picture with EXIF, one without, one that is broken, a video."""
    folder = tmp_path / "in"
    folder.mkdir()
    scene = make_scene(48, 64, [(RED, 2, 2, 14, 12)])
    block = exif(main=[ascii_entry(0x010F, "Canon"), ascii_entry(0x0131, "GIMP")])
    (folder / "a.jpg").write_bytes(with_segments(jpeg(scene), exif_segment(block)))
    Image.fromarray(scene).save(folder / "фото.png")
    (folder / "broken.png").write_bytes((folder / "фото.png").read_bytes()[:70])
    encode_video(folder / "v.mp4", [scene] * 4)
    return folder


def test_every_file_has_its_fingerprint(folder, tmp_path, patch_predictor):
    document = go(patch_predictor, folder, tmp_path / "out")
    found = entries(document)
    assert len(found) == 4
    for name, entry in found.items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest(), name
        assert entry["bytes"] == len(content) and entry["modified"].endswith("Z")
    assert found["broken.png"]["status"] == "failed"
    assert {name: entry["type"] for name, entry in found.items()} == {
        "a.jpg": "image/jpeg", "broken.png": "image/png", "v.mp4": "video/mp4",
        "фото.png": "image/png",
    }  # fmt: skip
    assert found["a.jpg"]["metadata"]["camera"] == "Canon"
    assert found["a.jpg"]["c2pa"] == {"present": False, "remote": False}
    assert "metadata" not in found["v.mp4"]
    with open(tmp_path / "out" / "files.csv", encoding="utf-8", newline="") as file:
        rows = {Path(row["file_name"]).name: row for row in csv.DictReader(file)}
    for name, entry in found.items():
        assert rows[name]["sha256"] == entry["sha256"] and rows[name]["c2pa_present"] == "false"
    assert rows["a.jpg"]["camera"] == "Canon" and rows["a.jpg"]["software"] == "GIMP"
    assert rows["a.jpg"]["has_gps"] == "false" and "facts" not in rows["a.jpg"]


def test_a_continued_run_keeps_the_facts_and_its_parts(folder, tmp_path, patch_predictor):
    output = tmp_path / "out"
    first = go(patch_predictor, folder, output, ["comics", "detect", "in"])
    assert first["run"]["parts"] == 1 and first["run"]["earlier_parts"] == []
    assert first["run"]["started"] <= first["run"]["ended"]
    assert first["run"]["command_line"] == ["comics", "detect", "in"]
    assert first["run"]["versions"]["comics"] == comics.__version__
    (folder / "new.jpg").write_bytes(jpeg())
    second = go(patch_predictor, folder, output, ["comics", "detect", "in", "again"])
    new = entries(second)
    assert new.pop("new.jpg")["sha256"] == hashlib.sha256(jpeg()).hexdigest()
    assert new == entries(first)
    assert second["run"]["parts"] == 2
    assert second["run"]["earlier_parts"] == [
        {name: first["run"][name] for name in ("started", "ended", "command_line", "versions")}
    ]
    fresh = go(patch_predictor, folder, output, overwrite=True)
    assert fresh["run"]["parts"] == 1


def test_a_part_that_was_killed_is_told_without_its_end(tmp_path):
    path = tmp_path / "history.jsonl"
    RunHistory(path, ["one"])
    with open(path, "a") as file:
        file.write('{"end": "2026-')  # cut off
    told = RunHistory(path, ["two"]).told()
    assert told["parts"] >= 1
    path.unlink()
    RunHistory(path, ["one"])
    told = RunHistory(path, ["two"]).told("0" * 64)
    (earlier,) = told["earlier_parts"]
    assert earlier["command_line"] == ["one"] and "ended" not in earlier
    assert told["weights_sha256"] == "0" * 64


def test_many_parts_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(history_module, "MAX_EARLIER", 3)
    for number in range(6):
        told = RunHistory(tmp_path / "h", [str(number)]).told()
    assert told["parts"] == 6
    assert [part["command_line"] for part in told["earlier_parts"]] == [["2"], ["3"], ["4"]]


def test_a_command_line_has_no_passwords_and_is_printable():
    words = ["comics", "rtsp://me:secret@host/a?b", "a\nb\udcff", "--x"]
    assert shown_command(words) == ["comics", "rtsp://host/a?b", "a\\nb\\xff", "--x"]


def test_a_file_that_changes_during_the_run_is_said(folder, tmp_path, patch_predictor):
    class Meddling:
        """Writes to a picture while it is looked at."""

        def __getattr__(self, name):
            return getattr(patch_predictor, name)

        def predict(self, images):
            with open(folder / "a.jpg", "ab") as file:
                file.write(b"more")
            return patch_predictor.predict(images)

    found = entries(go(Meddling(), folder, tmp_path / "out"))
    assert found["a.jpg"]["changed_during_run"] is True
    assert "changed during the run" in found["a.jpg"]["reason"]
    assert "changed_during_run" not in found["v.mp4"]
    again = entries(
        go(patch_predictor, folder, tmp_path / "out")
    )  # done again: it was not finished
    assert "changed_during_run" not in again["a.jpg"]
    content = (folder / "a.jpg").read_bytes()
    assert again["a.jpg"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_signed_pictures_and_the_trust_list(tmp_path, make_scene, patch_predictor):
    pytest.importorskip("c2pa")
    signer, folder = Signer("Ana"), tmp_path / "in"
    folder.mkdir()
    content = signer.sign(jpeg(make_scene(48, 64, [(RED, 2, 2, 14, 12)])))
    (folder / "good.jpg").write_bytes(content)
    (tmp_path / "anchors.pem").write_bytes(signer.root)
    output, trust = tmp_path / "out", TrustList.read(tmp_path / "anchors.pem")
    document = go(patch_predictor, folder, output, trust=trust)
    told = document["files"][0]["c2pa"]
    assert (told["intact"], told["trusted"], told["signer"]) == (True, True, "Ana")
    assert document["run"]["trust_list_sha256"] == hashlib.sha256(signer.root).hexdigest()
    with pytest.raises(SettingsError, match="trust_list"):
        go(patch_predictor, folder, output)
    page = write_run_report(output).read_text()
    assert "Chain of custody" in page and document["files"][0]["sha256"] in page
    assert "intact" in page and "signed by Ana of Test Newsroom, who is trusted" in page


def test_the_report_shows_what_stands_out_and_escapes_it(folder, tmp_path, patch_predictor):
    pixels = np.asarray(Image.open(folder / "фото.png"))
    wild = ascii_entry(0x010F, "<script>alert(1)</script>")
    block = exif(main=[wild], thumbnail=jpeg(255 - np.kron(pixels, np.ones((2, 2, 1), np.uint8))))
    (folder / "a.jpg").write_bytes(with_segments(jpeg(pixels), exif_segment(block)))
    document = go(patch_predictor, folder, tmp_path / "out", ["comics", "detect", "a b"])
    assert entries(document)["a.jpg"]["metadata"]["thumbnail"]["differs"] is True
    page = write_run_report(tmp_path / "out").read_text()
    start, end = page.index("Chain of custody"), page.index('id="files"')
    first = page[start:end]
    assert "Thumbnail shows something else" in first and "a.jpg" in first
    assert document["run"]["started"] in first and "comics detect &#39;a b&#39;" in first
    assert "<script>alert" not in page


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_old_and_strange_documents_still_have_a_report(folder, tmp_path, patch_predictor, version):
    output = tmp_path / "out"
    document = go(patch_predictor, folder, output)
    document["schema_version"] = version
    if version == "2.0":
        del document["run"]
        for entry in document["files"]:
            for name in ("sha256", "bytes", "type", "modified", "metadata", "c2pa"):
                entry.pop(name, None)
    else:
        document["run"] = {"started": 7, "versions": [], "command_line": [1, {}], "parts": "x"}
        document["files"][0] |= {"sha256": 5, "bytes": "x", "metadata": [], "c2pa": {"present": 3}}
        document["files"][1]["metadata"] = {"times": 3, "thumbnail": 9, "software": {}}
    (output / "results.json").write_text(json.dumps(document))
    page = write_run_report(output).read_text()
    assert ("Chain of custody</h2>" in page) == (version == "2.1")


def test_a_file_that_is_no_file_any_more_has_no_facts(folder, tmp_path, patch_predictor):
    inputs = expand_inputs([folder])
    os.unlink(folder / "a.jpg")
    run_inference(patch_predictor, inputs, RunOptions(tmp_path / "out"), lambda line: None)
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    assert "sha256" not in entries(document)["a.jpg"]
