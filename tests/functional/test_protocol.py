"""comics evaluate --protocol: trains, tests, resumes, and writes the table."""

import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from comics.cli import main

OPTIONS = {
    "MODEL.DEVICE": "cpu", "MODEL.FACE.ENCODER": "SmallResNet", "MODEL.FACE.CROP_SIZE": 32,
    "MODEL.FACE.ENCODER_WEIGHTS": "", "MODEL.FACE.EPOCHS": 2, "MODEL.FACE.LR_DECAY_EPOCHS": "[]",
    "SOLVER.IMS_PER_BATCH": 4, "DATALOADER.NUM_WORKERS": 0, "TEST.IMS_PER_BATCH": 8,
    "SOLVER.BASE_LR": 0.001,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A manifest whose forgeries have a bright square, and a protocol of two rows."""
    rng, rows = np.random.default_rng(0), []
    for split, clips in (("train", 4), ("val", 4), ("test", 6)):
        for clip in range(clips):
            for frame in range(2):
                picture = rng.integers(60, 120, (32, 32, 3), dtype=np.uint8)
                if clip % 2:
                    picture[8:20, 8:20] = 220
                name = f"{split}_{clip}_{frame}.png"
                Image.fromarray(picture).save(tmp_path / name)
                rows.append({"path": name, "label": clip % 2, "method": "swap" if clip % 2 else "",
                             "video": f"{split}{clip}", "frame": frame, "split": split,
                             "group": f"{split}{clip // 2}"})  # fmt: skip
    with open(tmp_path / "faces.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    protocol = {
        "title": "Two rows",
        "sets": {"A": "elsewhere.csv"},
        "train": ["{A}@split=train"],
        "val": ["{A}@split=val"],
        "metrics": ["AUC", "accuracy"],
        "seeds": [3],
        "baseline": "CE",
        "options": OPTIONS,
        "rows": [
            {"name": "CE", "config": "Face/Baselines/EN_B4_CE"},
            {"name": "Focal", "config": "Face/Competitors/Focal"},
        ],
        "columns": [
            {"name": "A", "test": "{A}@split=test"},
            {"name": "JPEG", "test": "{A}@split=test", "options": {"INPUT.FACE.TEST_JPEG": 10}},
        ],
    }
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(protocol))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*words):
    return main(["evaluate", "--protocol", "table.yaml", *words, "--report", "out"])


@pytest.mark.slow
def test_a_table_is_made_once_and_kept(folder, capfd):
    assert evaluate() == 2  # the set is elsewhere
    assert "elsewhere.csv" in capfd.readouterr().err and not (folder / "out").exists()
    assert evaluate("--plan", "--sets", "A=faces.csv") == 0
    assert "2 trainings, 2 of them to do" in capfd.readouterr().out
    assert not (folder / "out").exists()
    assert evaluate("--sets", "A=faces.csv") == 0
    text = (folder / "out/table.md").read_text()
    assert text.startswith("# Two rows\n\n| Method | A AUC | A accuracy | JPEG AUC |")
    assert "Difference of the AUC to CE" in text
    lines = list(csv.DictReader((folder / "out/table.csv").open()))
    assert len(lines) == 2 * 2 * 2 and all(0 <= float(line["value"]) <= 1 for line in lines)
    tables = sorted(folder.glob("out/runs/*/seed3/tests/*/predictions.csv"))
    assert len(tables) == 4
    rows = list(csv.DictReader(tables[0].open()))
    assert len(rows) == 12 and {row["group"] for row in rows} == {"test0", "test1", "test2"}
    runs = sorted(folder.glob("out/runs/*/seed3"))
    validated = [
        json.loads(line)["iteration"]
        for line in (runs[0] / "metrics.jsonl").read_text().splitlines()
        if "face/AUC" in line
    ]
    assert validated == [2, 4]  # after every epoch
    times = {path: path.stat().st_mtime_ns for path in [*tables, *runs[0].glob("*.safetensors")]}
    tables[0].unlink()
    capfd.readouterr()
    assert evaluate("--sets", "A=faces.csv") == 0
    out = capfd.readouterr().out
    assert "0 of them to do" in out and out.count("testing ") == 1
    assert (folder / "out/table.md").read_text() == text
    assert all(path.stat().st_mtime_ns == t for path, t in times.items() if path != tables[0])
