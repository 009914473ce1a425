import json
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[2] / "tools" / "lab"
sys.path.insert(0, str(LAB))
import leave_out_sources as tool  # noqa: E402

SOURCES = [
    "--source", "a", "a.csv@split=train", "a.csv@split=val", "0.75",
    "--source", "b", "b.csv", "val_b.csv", "0.25",
]  # fmt: skip


@pytest.fixture
def trainings(monkeypatch):
    """The commands run, instead of trainings; each writes figures that tell who wrote them."""
    done = []

    def run(words, check):
        cut = dict(zip(words[3::2], words[4::2], strict=False))
        cut |= {words[i]: words[i + 1] for i in range(5, len(words) - 1, 2)}
        done.append(cut)
        folder = Path(cut["OUTPUT_DIR"])
        folder.mkdir(parents=True)
        value = 0.9 if "without_none" in folder.name else 0.6
        value += 0.02 * int(cut["SEED"])
        figures = {f"{entry}/face/AUC": value for entry in ("a.csv@split=val", "val_b.csv")}
        (folder / "metrics.jsonl").write_text('{"iteration": 1}\n' + json.dumps(figures) + "\n")
        (folder / "model_final.safetensors").touch()
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(tool.subprocess, "run", run)
    return done


def test_every_source_is_left_out_once_per_seed_and_nothing_twice(trainings, tmp_path, capsys):
    words = ["--config-file", "c.yaml", "--output", str(tmp_path), *SOURCES]
    assert tool.main([*words, "--", "SOLVER.MAX_ITER", "5"]) == 0
    trained = [(run["DATASETS.TRAIN"], run["DATASETS.TRAIN_SHARES"], run["SEED"])
               for run in trainings]  # fmt: skip
    per_seed = [
        ("['a.csv@split=train', 'b.csv']", "[0.75, 0.25]"),
        ("['b.csv']", "[0.25]"),
        ("['a.csv@split=train']", "[0.75]"),
    ]
    assert trained == [(*one, seed) for seed in "01" for one in per_seed]
    assert all(run["SOLVER.MAX_ITER"] == "5" for run in trainings)
    table = (tmp_path / "left_out.md").read_text()
    row = "| a | 91.0 (90.0 to 92.0; 2 seeds) | 61.0 (60.0 to 62.0; 2 seeds) |"
    assert row in table and row in capsys.readouterr().out
    assert tool.main(words) == 0
    assert len(trainings) == 6  # all were there


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (SOURCES[:5], "two sources"),
        (SOURCES[:5] * 2, "each once"),
        ([*SOURCES[:9], "much"], "positive number"),
    ],
)
def test_unusable_sources(words, fault, tmp_path, capsys):
    code = tool.main(["--config-file", "c", "--output", str(tmp_path), *words])
    assert code == 2 and fault in capsys.readouterr().err
