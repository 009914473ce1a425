"""tools/lab/compare_face_methods.py: runs, what is not done twice, and what the table says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comics.data.faces.manifest_files import write_manifest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "lab" / "compare_face_methods.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("compare_face_methods", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for split in ("train", "val", "test"):
        for number, method in enumerate((None, "blend", None, "swap")):
            for level in ("c23", "c40"):
                name = f"{split}_{number}_{level}.png"
                picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / name)
                rows.append(
                    {"path": name, "label": int(method is not None), "method": method,
                     "compression": level, "split": split, "video": f"{split}{number}",
                     "frame": 0}
                )  # fmt: skip
    write_manifest(tmp_path / "faces.csv", rows)
    return tmp_path / "faces.csv"


@pytest.mark.slow
def test_runs_once_and_measures_three_conditions(manifest, tmp_path):
    output = tmp_path / "out"
    command = [
        sys.executable, TOOL, "--manifest", manifest, "--train-methods", "blend",
        "--unseen-methods", "swap", "--output", output, "--methods", "CE", "GuideSpace",
        "--seeds", "0", "--", "MODEL.FACE.EPOCHS", "1", "SOLVER.IMS_PER_BATCH", "2",
        "DATALOADER.NUM_WORKERS", "0", "MODEL.FACE.CROP_SIZE", "32", "MODEL.DEVICE", "cpu",
    ]  # fmt: skip
    first = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert first.stdout == (output / "table.md").read_text() + "\n"
    runs = [output / method / "seed0" for method in ("CE", "GuideSpace")]
    for run in runs:
        figures = json.loads((run / "figures.json").read_text())
        assert list(figures) == ["in-domain", "unseen method", "unseen compression"]
        assert [figures[c]["n"] for c in figures] == [3, 3, 3]  # two reals and the fake
    written = [path.stat().st_mtime_ns for run in runs for path in sorted(run.rglob("*"))]
    again = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout == first.stdout
    assert [p.stat().st_mtime_ns for run in runs for p in sorted(run.rglob("*"))] == written
    lines = (output / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3


def test_table_is_mean_and_deviation_over_seeds(tool):
    def run(*values):
        return {c: {"AUC": v} for c, v in zip(tool.CONDITIONS, values, strict=True)}

    results = {
        "CE": {0: run(0.8, 0.5, 0.6), 1: run(0.9, 0.6, 0.7)},
        "DCL": {0: run(0.9, 0.4, 0.6), 1: run(0.99, 0.6, 0.72)},
        "CompressionRelation": {1: run(0.9, 0.6, 0.8)},
    }
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in tool.table(results, "AUC").splitlines()
    ]
    assert rows[2][:2] == ["CE", "85.0 ± 7.1 (n = 2)"] and rows[2][4:] == ["", "", ""]
    assert rows[3][4] == "+9.5 ± 0.7, helps"
    assert rows[3][5] == "-5.0 ± 7.1, does not help"
    assert rows[3][6] == "+1.0 ± 1.4, no clear difference"
    assert rows[4][4].startswith("+0.0 ± nan, does not help")
    assert rows[4][6].endswith("(saw it in training)")


@pytest.mark.parametrize(
    "gains, words",
    [
        ([1.0, 1.2, 0.9], "helps"),
        ([5.0, 0.1, 0.1], "no clear difference"),
        ([3.0, 3.0, -0.1], "no clear difference"),
        ([-1.0, 0.5, 0.2], "does not help"),
        ([0.0, 0.0, 0.0], "does not help"),
        ([1.0], "no clear difference"),
        ([np.nan, 1.0], "undefined"),
    ],
)
def test_verdict_says_it_plainly(tool, gains, words):
    assert tool.verdict(np.array(gains)) == words


def test_files_that_are_not_there(tool, tmp_path, capsys):
    words = ["--train-methods", "a", "--unseen-methods", "b", "--output", str(tmp_path)]
    assert tool.main(["--manifest", "absent.csv", *words]) == 2
    assert "there is no file absent.csv" in capsys.readouterr().err
    assert tool.main(["--manifest", __file__, "--methods", "XYZ", *words]) == 2
    assert "XYZ.yaml" in capsys.readouterr().err
