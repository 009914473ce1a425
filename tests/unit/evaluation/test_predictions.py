"""Tables of P(fake): reading, levels, groups."""

import math

import pytest

from comics.evaluation.predictions import load_predictions, metrics_at, metrics_by
from comics.pages.classification_report import (
    build_classification_report,
    classification_figures,
)

HEAD = "label,fake_probability,dataset,method,video,frame"
ROWS = [
    "0,0.1,A,real,v1,0",
    "0,0.3,A,real,v1,1",
    "1,0.9,A,DF,v1,0",
    "1,0.2,A,DF,v1,1",
    "0,0.5,B,real,v1,0",
    "1,0.8,B,NT,v1,0",
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("\n".join([HEAD, *ROWS]) + "\n")
    return load_predictions(path)


def test_by_face_and_by_video(table):
    # pairs (fake, real): 0.9 beats 3, 0.2 beats 1, 0.8 beats 3 of 3
    assert metrics_at(table, "face").values["AUC"] == pytest.approx(7 / 9)
    video = metrics_at(table, "video")
    # equal video ids in other sets or of other methods are other videos
    assert video.values["n"] == 4
    assert video.values["AUC"] == pytest.approx(1.0)
    assert any("2 of 4 videos have a single frame" in note for note in video.notes)


def test_levels_need_their_columns(table):
    with pytest.raises(ValueError, match="by track needs a column track"):
        metrics_at(table, "track")
    with pytest.raises(ValueError, match="level must be among"):
        metrics_at(table, "face part")


def test_video_ids_alone_are_noted(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("label,fake_probability,video\n0,0.1,a\n1,0.9,b\n")
    notes = metrics_at(load_predictions(path), "video").notes
    assert any("no column dataset, method" in note for note in notes)


def test_methods_are_set_against_all_real_faces(table):
    figures = metrics_by(table, "method")
    assert figures["DF"].values["n_real"] == 3
    assert figures["DF"].values["AUC"] == pytest.approx(4 / 6)
    assert any("set against" in note for note in figures["DF"].notes)
    assert math.isnan(figures["real"].values["AUC"]) and figures["real"].notes
    alone = metrics_by(table, "method", shared_real=False)
    assert math.isnan(alone["DF"].values["AUC"])
    assert metrics_by(table, "dataset")["B"].values["AUC"] == 1
    with pytest.raises(ValueError, match="no column 'compression'"):
        metrics_by(table, "compression")


def test_report_figures(table):
    figures = classification_figures(build_classification_report(table, ["method"]))
    assert figures["AUC"] == pytest.approx(7 / 9)
    assert figures["video/AUC"] == 1 and figures["method/DF/AUC"] == pytest.approx(4 / 6)
    assert 0 <= figures["AUC_low"] <= figures["AUC"] <= figures["AUC_high"] <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,score\n0,0.1\n", "no column fake_probability"),
        ("label,fake_probability\n0,0.1\n0,abc\n", "entry 1: score nan"),
        ("label,fake_probability\nreal,0.1\n", "entry 0: label"),
        ("label,fake_probability\n0,0.1,x\n", "line 2: not 2 values"),
        ("label,fake_probability\n0\n", "line 2: not 2 values"),
        ("label,fake_probability\n", "at least 1"),
        ("", "no column label"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_predictions(path)
    assert "bad.csv" in str(error.value)
