import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comics.runs.csv_files import FACE_COLUMNS, csv_table, face_row, frames_shown

FACE = {
    "bbox": [1.5, 2, 3, 4],
    "score": 0.9,
    "fake_probability": 0.25,
    "category_id": 0,
    "verdict": "unclear",
    "unclear_because": ["small", "compressed"],
}


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_per_face(tmp_path):
    with csv_table(tmp_path / "r.csv", FACE_COLUMNS) as table:
        table.add(face_row({"file_name": "a.jpg"}, FACE))
        frame = {"file_name": "v.mp4", "frame": 5, "time_s": 0.2}
        table.add(face_row(frame, FACE | {"track_id": 3, "category_id": 1}))
    first, second = rows_of(tmp_path / "r.csv")
    assert tuple(first) == FACE_COLUMNS
    assert first == {
        "file_name": "a.jpg", "frame": "", "time_s": "", "track_id": "", "x": "1.5", "y": "2",
        "width": "3", "height": "4", "score": "0.9", "fake_probability": "0.25", "label": "real",
        "verdict": "unclear", "unclear_because": "small compressed",
        "stability_jpeg_75": "", "stability_jpeg_50": "", "stability_half_size": "",
        "stability_lost": "",
    }  # fmt: skip
    assert (second["frame"], second["time_s"], second["track_id"]) == ("5", "0.2", "3")
    assert second["label"] == "fake"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_survives_and_none_is_a_formula(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("csv") / "r.csv"
    with csv_table(path, FACE_COLUMNS) as table:
        table.add(face_row({"file_name": name}, FACE))
    (row,) = rows_of(path)
    assert row["file_name"].removeprefix("./") == name.replace("\r", " ").removeprefix("./")
    assert row["file_name"][0] not in "=+-@＝＋－＠\t\r\n"
    assert row["file_name"].lstrip()[:1] not in tuple("=+-@＝＋－＠")


@pytest.mark.parametrize("space", ["", " ", "\t", "\r", "\u3000", "\xa0 "])
@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
def test_a_formula_is_none_however_it_begins(tmp_path, space, sign):
    name = f"{space}{sign}cmd.png"
    with csv_table(tmp_path / "r.csv", FACE_COLUMNS) as table:
        table.add(face_row({"file_name": name}, FACE))
    (row,) = rows_of(tmp_path / "r.csv")
    assert row["file_name"] == "./" + name.replace("\r", " ")


@pytest.mark.parametrize("name", ["a=b.png", "photo 1.png", " leading.png", "x＝1.png", "中.png"])
def test_other_names_stay_as_they_are(tmp_path, name):
    with csv_table(tmp_path / "r.csv", FACE_COLUMNS) as table:
        table.add(face_row({"file_name": name}, FACE))
    assert rows_of(tmp_path / "r.csv")[0]["file_name"] == name


def test_an_exception_writes_nothing(tmp_path):
    with pytest.raises(RuntimeError), csv_table(tmp_path / "r.csv", FACE_COLUMNS):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


STABILITY = {"jpeg_75": 0.5, "jpeg_50": None, "half_size": 0.125}
TOLD = {
    "stability_jpeg_75": "0.5", "stability_jpeg_50": "", "stability_half_size": "0.125",
    "stability_lost": "jpeg_50",
}  # fmt: skip


def test_the_stability_of_a_face_and_of_the_frame_that_is_shown_for_a_person(tmp_path):
    tracks = [
        {"track_id": 3, "evidence": {"frame": 5, "stability": STABILITY}},
        {"track_id": 4, "evidence": {"frame": 5}},  # not measured
        {"track_id": 5},
    ]
    shown = frames_shown({"track_verdicts": tracks})
    assert frames_shown({}) == {}
    with csv_table(tmp_path / "r.csv", FACE_COLUMNS) as table:
        table.add(face_row({"file_name": "a.jpg"}, FACE | {"stability": STABILITY}))
        for frame, track in ((4, 3), (5, 3), (5, 4), (5, 5)):
            image = {"file_name": "v.mp4", "frame": frame, "time_s": 0.1 * frame}
            face = FACE | {"track_id": track}
            table.add(face_row(image, face, shown.get((frame, track))))
    told = [{name: row[name] for name in TOLD} for row in rows_of(tmp_path / "r.csv")]
    none = dict.fromkeys(TOLD, "")
    assert told == [TOLD, none, TOLD, none, none]
