"""The laboratory's tools that measure runtimes and curves: what they make pictures of, and say."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

LAB = Path(__file__).resolve().parents[2] / "tools" / "lab"


@pytest.fixture
def lab(monkeypatch):
    """Import a module of the laboratory, which others there import by its name."""
    monkeypatch.syspath_prepend(LAB)
    yield importlib.import_module
    for name in ("face_grid", "benchmark_runtimes", "benchmark_curves"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("faces", "height", "width"), [(1, 30, 40), (4, 96, 128), (64, 96, 128)])
def test_a_grid_has_as_many_faces_as_asked_for(lab, faces, height, width):
    portrait = np.zeros((60, 40, 3), np.uint8)  # grey, 127, is what no face covers
    picture = lab("face_grid").face_grid([portrait], faces, height, width)
    assert picture.shape == (height, width, 3)
    covered = (picture == 0).all(axis=2)
    cell = np.sqrt(covered.sum() / faces)
    assert cell == round(cell)  # squares that do not overlap
    assert covered.sum() > height * width / 3


def test_no_portraits_are_named(lab, tmp_path):
    with pytest.raises(FileNotFoundError, match="no portraits"):
        lab("face_grid").read_portraits(tmp_path)


def test_stages_count_without_those_within_them(lab, monkeypatch):
    tool = lab("benchmark_runtimes")
    clock = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr(tool.time, "process_time", lambda: next(clock))
    stages = tool.Stages()
    with stages.stage("outer"), stages.stage("inner"):
        pass
    assert stages.seconds == {"outer": 7.0, "inner": 3.0}


def test_the_largest_change_is_none_for_peers_and_infinite_for_other_faces(lab):
    change = lab("benchmark_runtimes")._largest_change
    own = [(2, [0.1, 0.9]), (0, [])]
    assert change(own, [(2, [0.1, 0.8]), (0, [])]) == pytest.approx(0.1)
    assert change(own, [(2, [0.1, 0.9]), (1, [0.5])]) == float("inf")
    assert change(own, [(2, []), (0, [])]) is None


def test_curves_are_a_table(lab):
    figures = {"size": "40 x 30", "found": 3, "cpu": 1.0, "wall": 2.0, "peak": 100, "before": 90}
    text = lab("benchmark_curves").describe(
        [
            {"kind": "faces", "faces": 4} | figures,
            {"kind": "pixels", "megapixels": 0.3, "tiling": "auto"} | figures,
            {"kind": "video", "minutes": 10.0} | figures,
        ]
    )
    assert "| 4 faces | 40 x 30 | 3 | 1.00 | 2.00 | 100 | 90 |" in text
    assert "0.3 megapixels, tiling auto" in text and "video of 10 minutes" in text
