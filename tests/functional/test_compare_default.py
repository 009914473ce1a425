"""The comparison behind the shipped model: its runs are valid, its tables say what was measured."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from comics.config import load_config

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/lab/compare_default.py"
spec = importlib.util.spec_from_file_location("compare_default", TOOL)
compare_default = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare_default)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        *(("detector.yaml", words) for words in compare_default.DETECTORS.values()),
        *(("face_base.yaml", ["MODEL.FACE.METHOD", name, *words])
          for name, words in compare_default.FACES.items()),
    ],
)  # fmt: skip
def test_every_variant_is_a_configuration(config, words):
    cfg = load_config(compare_default.CONFIGS / config, words)
    assert cfg.SOLVER.MAX_ITER > 0


def finished_runs(folder):
    """What two finished runs of cross-entropy and one of the others leave."""
    for seed, auc in ((0, 0.80), (1, 0.84)):
        for variant in compare_default.FACES:
            run = folder / "faces" / variant / f"seed{seed}"
            run.mkdir(parents=True)
            (run / "model_final.safetensors").touch()
            own = auc if variant == "CrossEntropy" else auc - 0.1
            lines = [{"iteration": 300, "loss": 1}, {"face/AUC": own, "face/accuracy": 0.5}]
            (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_tables_of_finished_runs(tmp_path):
    recipe, output = tmp_path / "recipe", tmp_path / "out"
    recipe.mkdir()
    (recipe / "imagenet_face.safetensors").touch()
    finished_runs(output)
    words = ["--recipe-output", str(recipe), "--output", str(output), "--parts", "faces"]
    assert compare_default.main([*words, "--seeds", "0", "1"]) == 0
    table = (output / "faces.md").read_text(encoding="utf-8")
    assert "| CrossEntropy | 2 | 82.0 (80.0 to 84.0) | 50.0 (50.0 to 50.0) |" in table
    assert "| DCL | 2 | 72.0 (70.0 to 74.0) |" in table
    lines = (output / "faces.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "variant,seed,AUC,accuracy"
    assert len(lines) == 1 + 2 * len(compare_default.FACES)


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(folder):
        raise subprocess.CalledProcessError(2, "train_net.py")

    (tmp_path / "detector_base").mkdir()
    (tmp_path / "detector_base/model_final.safetensors").touch()
    monkeypatch.setattr(compare_default, "_run", lambda *words: broken(words))
    words = ["--recipe-output", str(tmp_path), "--output", str(tmp_path), "--parts", "detectors"]
    assert compare_default.main(words) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in compare_default.DETECTORS)


def test_without_the_recipes_first_stages():
    done = subprocess.run(
        [sys.executable, TOOL, "--recipe-output", "nowhere", "--output", "none"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no file nowhere/detector_base/model_final.safetensors" in done.stderr
