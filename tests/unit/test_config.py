import logging
from pathlib import Path

import pytest

from comics.config import get_cfg, load_config, load_config_text
from comics.config.renamed import RENAMED

FOLDER = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = sorted(p for p in FOLDER.rglob("*.yaml") if p.parent.name != "protocols")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: "/".join(p.parts[-2:]))
def test_every_shipped_config_parses(path):
    cfg = load_config(path)
    assert cfg.is_frozen()
    assert cfg != get_cfg()


def test_unknown_key_in_a_file_names_the_nearest(tmp_path):
    (tmp_path / "a.yaml").write_text("SOLVER:\n  BASE_LRR: 0.1\n")
    with pytest.raises(KeyError, match=r"SOLVER\.BASE_LRR.*nearest is 'SOLVER\.BASE_LR'"):
        load_config(tmp_path / "a.yaml")


def test_unknown_override_names_the_nearest():
    with pytest.raises(KeyError, match=r"MODEL\.FCOS\.NORM"):
        load_config(overrides=["MODEL.FCOS.NROM", "BN"])


def test_odd_overrides_and_wrong_types_are_errors():
    with pytest.raises(ValueError, match="KEY VALUE"):
        load_config(overrides=["SEED"])
    with pytest.raises(ValueError, match="Type mismatch"):
        load_config(overrides=["SOLVER.MAX_ITER", "many"])


def test_base_chain_and_overrides(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  BASE_LR: 0.5\n  MAX_ITER: 7\n")
    (tmp_path / "child.yaml").write_text("_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 9\n")
    cfg = load_config(tmp_path / "child.yaml", ["SEED", "3"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED) == (0.5, 9, 3)


def test_yaml_runs_no_code(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.yaml").write_text(
        f'OUTPUT_DIR: !!python/object/apply:os.system ["touch {marker}"]\n'
    )
    with pytest.raises(Exception, match="python/object"):
        load_config(tmp_path / "evil.yaml")
    assert not marker.exists()


def test_dump_round_trip():
    cfg = load_config(overrides=["SOLVER.BASE_LR", "0.02", "DATASETS.TRAIN", "['a.json']"])
    assert load_config_text(cfg.dump()) == cfg


def test_every_key_has_a_comment():
    source = (
        (Path(__file__).resolve().parents[2] / "comics/config/defaults.py").read_text().splitlines()
    )
    bare = []
    for number, line in enumerate(source):
        is_key = line.startswith("_C.") and " = " in line and "CfgNode()" not in line
        if is_key and "#" not in line and not source[number - 1].startswith("#"):
            bare.append(line)
    assert bare == []


@pytest.mark.parametrize("old", RENAMED)
def test_a_key_is_read_under_its_old_name_and_noted(old, tmp_path, caplog):
    new = RENAMED[old]
    section, name = old.split(".")[1:]
    (tmp_path / "old.yaml").write_text(f"MODEL:\n  {section}:\n    {name}: 0.125\n")
    expected = load_config(overrides=[new, "0.125"])
    with caplog.at_level(logging.INFO, logger="comics"):
        assert load_config(tmp_path / "old.yaml") == expected
    assert f"{old} is now called {new}" in caplog.text
    assert load_config(overrides=[old, "0.125"]) == expected
    text = expected.dump().replace("SCORE_THRESH_TEST: 0.125", f"{name}: 0.125")
    assert name in text and load_config_text(text) == expected


def test_a_key_under_both_names_is_refused(tmp_path):
    (tmp_path / "both.yaml").write_text(
        "MODEL:\n  SOLOV2:\n    SCORE_THR: 0.1\n    SCORE_THRESH_TEST: 0.2\n"
    )
    with pytest.raises(KeyError, match=r"MODEL\.SOLOV2\.SCORE_THR .* keep one"):
        load_config(tmp_path / "both.yaml")
