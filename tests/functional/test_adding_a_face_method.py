"""docs/adding_a_face_method.md: its example passes what every method must pass, and is trained."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_face_method.md"


@pytest.fixture
def plugin(tmp_path):
    """The example as a module that can be imported: the environment that finds it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = next(block for block in blocks if "class TurnConsistency" in block)
    (tmp_path / "turn_consistency.py").write_text(example, encoding="utf-8")
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.mark.slow
def test_the_example_passes_the_registry_wide_tests(plugin):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "turn_consistency", "-p", "no:cacheprovider",
         "-k", "TurnConsistency", "tests/unit/modeling/faces/test_every_face_method.py",
         "tests/unit/data/faces/test_face_loader.py"],
        cwd=ROOT, env=plugin, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"\b(\d+) passed", done.stdout).group(1)) >= 8, done.stdout[-500:]


CODE = """
import sys
import numpy as np
from PIL import Image
import turn_consistency
from comics.config import load_config
from comics.data.faces.loader import build_face_train_loader

folder = sys.argv[1]
rng = np.random.default_rng(0)
rows = ["path,label"]
for number in range(4):
    name = f"{number}.png"
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(f"{folder}/{name}")
    rows.append(f"{name},{'fake' if number % 2 else 'real'}")
open(f"{folder}/faces.csv", "w").write("\\n".join(rows))
cfg = load_config(overrides=[
    "MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.METHOD", "TurnConsistency",
    "DATASETS.TRAIN", str([f"{folder}/faces.csv"]), "SOLVER.IMS_PER_BATCH", "4",
    "MODEL.FACE.CROP_SIZE", "32", "DATALOADER.NUM_WORKERS", "0",
])
batch = next(iter(build_face_train_loader(cfg)))
batch = getattr(batch, "batch", batch)
turned = batch.views["quarter_turn"]
assert batch.valid["quarter_turn"].all()
for image, other in zip(batch.images, turned, strict=True):
    assert any((image.rot90(k, (1, 2)) == other).all() for k in (1, 3))
"""


def test_the_loader_makes_the_view(plugin, tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)],
        cwd=ROOT,
        env=plugin,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
