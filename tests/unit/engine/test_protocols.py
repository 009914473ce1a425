"""Protocols of tables: what is wrong is named before the first step."""

import copy
from pathlib import Path

import pytest
import yaml

from comics.config.files import published_folder, published_names
from comics.engine.protocols import (
    check_protocol,
    read_protocol,
    run_configuration,
    trainings,
)

FOLDER = published_folder() / "protocols"
PUBLISHED = sorted(FOLDER.glob("*.yaml"))
BASIC = {
    "title": "A table",
    "sets": {"A": "a.csv", "B": "b.csv"},
    "train": ["{A}@split=train"],
    "val": ["{A}@split=val"],
    "seeds": [0, 1],
    "baseline": "CE",
    "options": {"MODEL.FACE.ENCODER": "SmallResNet", "MODEL.FACE.CROP_SIZE": 32,
                "MODEL.FACE.ENCODER_WEIGHTS": ""},
    "rows": [
        {"name": "CE", "config": "Face/Baselines/EN_B4_CE"},
        {"name": "DCL", "config": "Face/DCL/EN_B4"},
    ],
    "columns": [
        {"name": "A", "test": "{A}@split=test"},
        {"name": "A, JPEG", "test": "{A}@split=test", "options": {"INPUT.FACE.TEST_JPEG": 20}},
        {"name": "B", "test": "{B}"},
    ],
}  # fmt: skip


def write(folder, content=BASIC, **changes):
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(content), **changes}, sort_keys=False))
    return path


def manifest(path, method="swap", pairs=True, clusters=True, compression="", group=""):
    """Two real and two fake clips of two frames per split; pictures are not read."""
    lines = [
        "path,label,method,video,frame,source,target,split,paired_real,cluster,compression,group"
    ]
    for split in ("train", "val", "test"):
        for clip in range(4):
            for frame in range(2):
                fake = clip % 2
                paired = f"{split}{clip - 1}_{frame}.png" if fake and pairs else ""
                name = f"{split}{clip}_{frame}.png"
                (path.parent / name).touch()
                video = f"{group}{split}{clip}"
                lines.append(
                    f"{name},{'fake' if fake else 'real'},{method if fake else ''},{video},"
                    f"{frame},{split}p{clip // 2},{split}p{clip // 2},{split},{paired},"
                    f"{clip if clusters else ''},{compression},{group or split}{clip // 2}"
                )
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest(tmp_path / "a.csv")
    (tmp_path / "b").mkdir()
    manifest(tmp_path / "b" / "b.csv", method="morph", group="b")
    return {"B": "b/b.csv"}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_every_published_protocol_is_read_and_its_runs_are_configured(path):
    protocol = read_protocol(path)
    runs = trainings(protocol, Path("out"))
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        if run.seed == protocol.seeds[0]:
            cfg = run_configuration(protocol, run)
            assert list(cfg.DATASETS.TRAIN) == list(run.train) and "{" not in str(run.train)
            assert cfg.TEST.BEST_METRIC == "face/AUC" and run.val


def test_every_table_of_the_papers_is_published():
    names = {path.stem for path in PUBLISHED}
    wanted = {f"DCL_table_{n}" for n in range(1, 6)}
    wanted |= {f"RealCentric_table_{n}" for n in range(2, 7)}
    wanted |= {f"GuideSpace_table_{n}" for n in range(1, 9)}
    wanted |= {
        f"CompressionRelation_table_{n}_{name}"
        for n in (1, 2)
        for name in ("deepfakes", "deepfakemnist", "celeb_df")
    }
    wanted |= {"CompressionRelation_table_3", "CompressionRelation_table_4"}
    assert names - {"real_deepfakes"} == wanted  # which is no table of a paper
    assert not any(name.startswith("protocols/") for name in published_names())
    assert read_protocol("protocols/DCL_table_1").title.startswith("DCL, Table 1")


def test_a_training_is_shared_by_columns_and_not_by_rows_or_seeds(tmp_path):
    protocol = read_protocol(write(tmp_path))
    assert len(trainings(protocol, Path("out"))) == 2 * 2
    columns = copy.deepcopy(BASIC["columns"])
    columns[2]["train"] = ["{B}@split=train"]
    protocol = read_protocol(write(tmp_path, columns=columns))
    assert len(trainings(protocol, Path("out"))) == 2 * 2 * 2
    other = read_protocol(tmp_path / "protocol.yaml", {"A": "elsewhere.csv"})
    assert {run.folder for run in trainings(other, Path("out"))}.isdisjoint(
        {r.folder for r in trainings(protocol, Path("out")) if "a.csv" in r.train[0]}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colums": []}, r"unknown key 'colums'; the nearest is 'columns'"),
        ({"rows": []}, "rows must be a list of at least one"),
        (
            {"rows": [{"name": "CE", "config": "x", "tests": "y"}]},
            r"rows\[0\]: unknown key 'tests'",
        ),
        ({"rows": [{"name": "CE"}]}, r"rows\[0\]: there is no config"),
        ({"columns": [{"name": "A", "test": "{C}@split=test"}]}, "no set 'C', only A, B"),
        ({"columns": [{"name": "A", "test": "{A}"}] * 2}, "column 'A' is there more than once"),
        ({"baseline": "EN"}, "baseline 'EN' is no row: CE, DCL"),
        ({"level": "clip"}, "level must be one of"),
        ({"seeds": ["a"]}, "seeds must be"),
        ({"train": []}, "row 'CE': no entry to train on"),
        ({"published": {"CE": [1.0]}}, "'CE' must be a list of 3 figures"),
        ({"options": ["SEED"]}, "options must be KEY: VALUE"),
    ],
)
def test_a_protocol_that_cannot_be_used_says_why(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_protocol(write(tmp_path, **changes))
    with pytest.raises(ValueError, match="no set 'Z'"):
        read_protocol(write(tmp_path), {"Z": "z.csv"})


def faults_of(tmp_path, sets, **changes):
    return check_protocol(read_protocol(write(tmp_path, **changes), sets), tmp_path / "out")


def test_a_sound_protocol_has_no_faults(tmp_path, sets):
    faults, remarks = faults_of(tmp_path, sets)
    assert faults == [] and remarks == []


def test_all_that_is_missing_is_named_at_once(tmp_path, sets):
    manifest(tmp_path / "a.csv", pairs=False, clusters=False, method="")
    rows = [
        {"name": "CE", "config": "Face/Baselines/EN_B4_CE"},
        {"name": "DCL", "config": "Face/DCL/EN_B4"},
        {"name": "GS", "config": "Face/GuideSpace/EN_B4"},
        {"name": "CE c40", "config": "Face/CompressionRelation/baselines/Xception_CE_c40"},
        {"name": "odd", "config": "Face/Nothing"},
    ]
    columns = [
        {"name": "A", "test": "{A}@split=test"},
        {"name": "c", "test": "{A}@colour=red"},
        {"name": "d", "test": "{A}@split=other"},
        {"name": "e", "test": "{A}", "options": {"INPUT.FACE.TEST_JPG": 20}},
        {"name": "B", "test": "nowhere.csv"},
    ]
    faults, _ = faults_of(tmp_path, sets, rows=rows, columns=columns)
    text = "\n".join(faults)
    for wanted in (
        "row 'DCL': a.csv: no fake has a paired real picture or a mask",
        "row 'GS': a.csv, line",
        "no method",
        "row 'CE c40': a.csv: no row with compression=c40",
        "row 'odd'",
        "column 'c': a.csv: rows are chosen by",
        "not 'colour'",
        "column 'd': a.csv: no row with split=other",
        "column 'e': unknown configuration key 'INPUT.FACE.TEST_JPG'",
        "column 'B': ",
    ):
        assert wanted in text, (wanted, text)
    assert not any(fault.startswith("row 'CE':") for fault in faults)


def test_missing_clusters_identities_and_weights_are_faults(tmp_path, sets):
    manifest(tmp_path / "a.csv", clusters=False)
    options = {**BASIC["options"], "MODEL.FACE.ENCODER_WEIGHTS": "weights/none.safetensors"}
    rows = [{"name": "CE", "config": "Face/GuideSpace/EN_B4"}]
    faults, _ = faults_of(tmp_path, sets, rows=rows, options=options)
    assert any("no row has a content cluster" in fault for fault in faults)
    assert any("no encoder weights at weights/none.safetensors" in fault for fault in faults)


def test_people_of_training_and_test_are_remarked_on(tmp_path, sets):
    columns = [{"name": "A", "test": "{A}@split=train"}]
    faults, remarks = faults_of(tmp_path, sets, columns=columns)
    assert faults == [] and any("values of source" in remark for remark in remarks)


def test_videos_are_needed_for_figures_of_videos(tmp_path, sets):
    text = (
        (tmp_path / "b/b.csv")
        .read_text()
        .replace("video", "clip", 1)
        .replace("path,label,method,clip,", "path,label,method,set,")
    )
    (tmp_path / "b/b.csv").write_text(text)
    faults, _ = faults_of(tmp_path, sets, level="video")
    assert faults == ["column 'B': b/b.csv: no video is known, and the level is video"]
