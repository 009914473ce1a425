"""Tools that measure, choose for and finish a model, source by source, on drawn pictures."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from comics.config import load_config_text
from comics.data.video import write_clip
from comics.inference.default_weights import default_weights
from comics.inference.doubt import Familiarity
from comics.inference.knowledge import Knowledge
from comics.modeling.weights import read_weights
from comics.ops.picture_statistics import DESCRIPTOR_NAMES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lab"))
import benchmark_sources  # noqa: E402
import choose_threshold  # noqa: E402
import finish_weights  # noqa: E402
import verdict_stability  # noqa: E402


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """24 real and 24 forged crops, of noise that differs, with boxes."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    with open(folder / "faces.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "x0", "y0", "x1", "y1", "label", "method", "group"])
        for number in range(48):
            image = np.full((72, 72, 3), 90 + 2 * number, np.uint8)
            noise = rng.normal(0, 4 + 8 * (number % 2), image.shape)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), image)
            label = ("real", "fake")[number % 2]
            method = ("real", "noise")[number % 2]
            table.writerow([f"{number}.png", 10, 10, 60, 62, label, method, number // 2])
    return folder / "faces.csv"


def test_a_table_of_sources_and_conditions(source, tmp_path, capsys):
    arguments = ["--weights", str(default_weights()), "--sources", f"drawn={source}"]
    arguments += ["--output", str(tmp_path), "--limit", "5", "--clips"]
    arguments += ["--conditions", "jpeg:50", "side:32"]
    assert benchmark_sources.main(arguments) == 0
    text = (tmp_path / "sources.md").read_text("utf-8")
    (figures,) = json.loads((tmp_path / "sources.json").read_text("utf-8")).values()
    assert {"drawn, clean", "drawn, jpeg:50", "drawn, side:32", "drawn, per clip"} <= set(figures)
    assert figures["drawn, clean"]["AUC"]["count"] == 10
    assert "| drawn, clean | 10 |" in text
    # A second run takes the stored scores and says the same
    scores = next(tmp_path.glob("scores_*.json"))
    before = scores.read_bytes()
    assert benchmark_sources.main(arguments) == 0
    assert scores.read_bytes() == before and (tmp_path / "sources.md").read_text("utf-8") == text
    wrong = [*arguments[:3], "nothing", *arguments[4:]]
    assert benchmark_sources.main(wrong) == 2
    assert "'nothing' is no NAME=ENTRY" in capsys.readouterr().err


def test_choose_and_finish(source, tmp_path, capsys):
    predictions = tmp_path / "predictions.csv"
    rng = np.random.default_rng(1)
    with open(predictions, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "fake_probability"])
        for number in range(200):
            label = number % 2
            score = 1 / (1 + np.exp(-rng.normal(2 * label - 1, 1)))
            table.writerow([f"{number}.png", label, f"{score:.6f}"])
    chosen = tmp_path / "chosen.safetensors"
    assert choose_threshold.main(
        ["--weights", str(default_weights()), "--store", str(chosen),
         "--predictions", f"drawn={predictions}"]
    ) == 0  # fmt: skip
    assert "drawn" in capsys.readouterr().out
    kinds = [
        "--trained-on",
        "blends",
        "swaps",
        "--not-trained-on",
        "audio",
        "--rights",
        "Research.",
    ]
    finished = tmp_path / "finished.safetensors"
    assert finish_weights.main(
        ["--weights", str(chosen), "--store", str(finished), "--config-file",
         str(ROOT / "configs/Default/face_sources_wide.yaml"), "--sources", f"drawn={source}",
         "--validation", f"drawn={source}", "--share", "0.1", "--max-blockiness", "1.5", *kinds]
    ) == 0  # fmt: skip
    file = read_weights(finished)
    unclear = load_config_text(file.metadata["config"]).TEST.UNCLEAR
    assert unclear.MAX_BLOCKINESS == 1.5 and unclear.BELOW > 0
    assert file.metadata["temperature"] == read_weights(chosen).metadata["temperature"]
    assert Knowledge.from_metadata(file.metadata, finished).trained_on == ("blends", "swaps")
    familiarity = Familiarity.from_metadata(file.metadata, finished)
    assert familiarity.is_unfamiliar(np.full((60, 60, 3), (255, 0, 255), np.uint8))
    familiar = [
        not familiarity.is_unfamiliar(cv2.imread(str(source.parent / f"{n}.png"))[..., ::-1])
        for n in range(48)
    ]
    assert np.mean(familiar) > 0.8


def test_error_rates_reach_a_model_file(source, tmp_path, capsys):
    weights = ["--weights", str(default_weights())]
    measured = tmp_path / "measured"
    arguments = [*weights, "--sources", f"drawn={source}", "--output", str(measured)]
    more = ["--conditions", "jpeg:50", "side:32", "--called", "drawn noise"]
    assert benchmark_sources.main([*arguments, *more]) == 0
    table = measured / "error_rates.json"
    (figures,) = json.loads((measured / "sources.json").read_text("utf-8")).values()
    finished = tmp_path / "finished.safetensors"
    given = [*weights, "--store", str(finished)]
    assert finish_weights.main([*given, "--error-rates", str(table)]) == 0
    assert "Of faces of 48 to 96 pixels (drawn noise, 48 faces)" in capsys.readouterr().out
    file, former = read_weights(finished), read_weights(default_weights())
    known = Knowledge.from_metadata(file.metadata, finished)
    # The boxes' shorter side has 50 pixels; a smaller picture is no quality of its own
    assert [(rate.min_side, rate.max_side, rate.quality) for rate in known.error_rates] == [
        (48, 96, ""), (48, 96, "JPEG 50"),
    ]  # fmt: skip
    for rate, name in zip(known.error_rates, ("clean", "jpeg:50"), strict=True):
        told = figures[f"drawn, {name}"]
        assert rate.real_called_forged == pytest.approx(told["real called forged"]["value"], 1e-3)
        assert rate.forged_called_forged == pytest.approx(
            told["forged called forged"]["value"], abs=1e-4
        )
    # Nothing else has changed
    assert replace(known, error_rates=()) == replace(
        Knowledge.from_metadata(former.metadata, "former"), error_rates=()
    )
    assert {k: v for k, v in file.metadata.items() if k != "knowledge"} == {
        k: v for k, v in former.metadata.items() if k != "knowledge"
    }
    assert file.state.keys() == former.state.keys()
    assert all(torch.equal(tensor, former.state[name]) for name, tensor in file.state.items())
    # A table is of one model file, and what is to be written must be whole
    again = ["--weights", str(finished), "--store", str(tmp_path / "again")]
    assert finish_weights.main([*again, "--error-rates", str(table)]) == 2
    assert "error_rates.json: measured with the model file" in capsys.readouterr().err
    assert finish_weights.main([*given, "--rights", "y"]) == 2
    assert "--config-file, --sources, --validation, --trained-on" in capsys.readouterr().err
    assert finish_weights.main(given) == 2
    assert not (tmp_path / "again").exists()


def test_the_limit_holds_for_the_source_that_needs_the_highest():
    rng = np.random.default_rng(2)

    def windows(name, spread):
        return [
            finish_weights.Window(name, row)
            for row in rng.normal(0, spread, (500, len(DESCRIPTOR_NAMES)))
        ]

    near, far = windows("near", 1.0), windows("far", 2.0)
    familiarity = finish_weights.fit_familiarity(near, near + far, 0.05)
    share = {
        name: np.mean([familiarity.distance(w.descriptor) > familiarity.limit for w in part])
        for name, part in (("near", near), ("far", far))
    }
    assert share["far"] == pytest.approx(0.05, abs=0.005) and share["near"] == 0


def test_faults_are_named(tmp_path, capsys):
    kinds = ["--trained-on", "x", "--rights", "y"]
    given = ["--weights", str(default_weights()), "--store", str(tmp_path / "o"), *kinds]
    given += ["--config-file", str(ROOT / "configs/Default/face.yaml"), "--validation", "a=b.csv"]
    assert finish_weights.main([*given, "--sources", f"a={tmp_path}/no.csv"]) == 2
    assert "no.csv" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_stability_of_verdicts(source, tmp_path, capsys):
    clip = tmp_path / "a.mp4"
    write_clip(clip, [np.full((64, 96, 3), 128, np.uint8)] * 4, fps=2, crf=23)
    weights = ["--weights", str(default_weights())]
    faces = ["--sources", f"drawn={source}", "--faces", "3", "--labelled", "4"]
    ways = ["--ways", "box", "once", "grid:0.1", "grids:0.1", "pair:1.1", "crops:3"]
    assert verdict_stability.main([*weights, *faces, *ways, "--videos", str(clip)]) == 0
    said = capsys.readouterr().out
    assert "of 3" in said and "a.mp4 | – | – | – | – | no_face_found" in said
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith(tuple(ways[1:]))]
    assert [(row[0], row[1]) for row in rows[:6]] == [
        ("box", "2"), ("once", "1"), ("grid:0.1", "2"), ("grids:0.1", "2"), ("pair:1.1", "2"),
        ("crops:3", "6"),
    ]  # fmt: skip
    assert [row[0] for row in rows[6:]] == ways[1:] and rows[6][1] == "0.0000"
    assert all("of 4 | " in " | ".join(row) for row in rows[6:])
    assert verdict_stability.main([*weights, *faces, "--ways", "grid"]) == 2
    assert "'grid' is no way of cropping" in capsys.readouterr().err
    assert verdict_stability.main([*weights, "--sources", "nothing"]) == 2
    assert "no NAME=ENTRY" in capsys.readouterr().err


def test_a_box_moves_by_no_more_than_told():
    rng = np.random.default_rng(0)
    boxes = np.array([verdict_stability.moved((10, 20, 60, 120), 0.01, rng) for _ in range(500)])
    change = np.abs(boxes - [10, 20, 60, 120])
    assert 1.2 < change.max() <= 1.5  # 1 % of 100 pixels, and half as much by its size


def test_ways_of_cropping_look_where_they_say():
    box = (10.0, 20.0, 60.0, 120.0)
    ((window, flipped),) = verdict_stability.way_of("once")(box, 0.0, True)
    assert (window, flipped) == ((-15, 20, 85, 120), False)
    assert verdict_stability.way_of("box")(box, 0.0, True) == [(window, False), (window, True)]
    assert verdict_stability.way_of("box")(box, 0.0, False) == [(window, False)]
    (first, _), (larger, mirrored) = verdict_stability.way_of("pair:1.1")(box, 0.0, True)
    assert first == window and larger == (-20, 15, 90, 125) and mirrored
    (on, _), (aside, _) = verdict_stability.way_of("grids:0.2")(box, 0.0, True)
    # Half a step between their sides, as powers; and between their centres, as shares of the side
    ratio = (aside[2] - aside[0]) / (on[2] - on[0])
    assert max(ratio, 1 / ratio) == pytest.approx(1.2**0.5, rel=0.02)
    several = verdict_stability.way_of("crops:3")(box, 0.0, True)
    assert len(several) == 6 and several[0] == (window, False)


def test_the_same_faces_are_drawn_each_time():
    faces = [
        verdict_stability.Face(source, f"{n}.png", (0, 0, 1, 1), n % 2)
        for source in "ab" for n in range(10)
    ]  # fmt: skip
    assert verdict_stability.drawn(faces, 3) == verdict_stability.drawn(faces, 3)
    assert len(verdict_stability.drawn(faces, 3)) == 6
    of_class = verdict_stability.drawn(faces, 3, by_class=True)
    assert len(of_class) == 12 and sum(face.label for face in of_class) == 6
