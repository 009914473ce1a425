"""Every shipped configuration of a face method parses, builds, and is what its table row says."""

from pathlib import Path

import pytest
import torch

from comics.config import get_cfg, load_config
from comics.modeling.faces import base
from comics.modeling.faces.build import build_face_method
from comics.modeling.faces.encoder import build_encoder
from comics.registry import FACE_METHODS

ROOT = Path(__file__).resolve().parents[4]
FOLDER = ROOT / "configs" / "Face"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if not path.name.startswith("Base"))
ENCODERS_BUILT = {}


def built_once(name):
    if name not in ENCODERS_BUILT:
        ENCODERS_BUILT[name] = build_encoder(name)
    return ENCODERS_BUILT[name]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_it_builds_and_prepares_its_training(path, monkeypatch):
    monkeypatch.setattr(base, "build_encoder", built_once)
    cfg = load_config(path)
    with torch.device("meta"):
        method = build_face_method(cfg)
        method.prepare_training()
    assert type(method) is FACE_METHODS.get(cfg.MODEL.FACE.METHOD)
    own = path.relative_to(FOLDER).with_suffix("")
    assert method.crop_size in ((96,) if own.parts[0] == "Quickstart" else (224, 299))
    assert Path(cfg.OUTPUT_DIR) == Path("output", "Face", own)


def test_no_two_ablations_are_the_same_run():
    """Rows that repeat the published run, or each other, are named here."""
    seen = {}
    for path in CONFIGS:
        cfg = load_config(path).clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = ""
        seen.setdefault(cfg.dump(), []).append(str(path.relative_to(FOLDER)))
    repeated = [names for names in seen.values() if len(names) > 1]
    assert repeated == [
        ["GuideSpace/EN_B4.yaml", "GuideSpace/ablation/EN_B4_theta_120.yaml"],
        ["RealCentric/Xception_SupCon.yaml", "RealCentric/ablation/Xception_pairing_instance.yaml"],
        [
            "RealCentric/ablation/Xception_32pos_16neg.yaml",
            "RealCentric/ablation/Xception_fusion_smooth.yaml",
            "RealCentric/ablation/Xception_mixed_as_negatives.yaml",
        ],
    ]


def test_the_tables_are_complete():
    count = {
        folder: len(list((FOLDER / folder).rglob("*.yaml")))
        for folder in (
            "DCL/ablation",
            "RealCentric/ablation",
            "GuideSpace/ablation",
            "CompressionRelation/ablation",
            "CompressionRelation/baselines",
        )
    }
    # The full method is each folder's parent configuration
    assert count == {
        "DCL/ablation": 5 + 1,  # Table 5, and the public code's selection
        "RealCentric/ablation": 4 + 3 + 3 + 2,  # Tables 3-6; their first rows are Sup. Con
        "GuideSpace/ablation": 8 + 7,  # Tables 3 and 5
        "CompressionRelation/ablation": 5 + 4,  # Tables 3 and 4
        "CompressionRelation/baselines": 3 + 6,  # Tables 1 and 2
    }


def test_every_key_of_the_face_methods_has_a_comment():
    folder = ROOT / "comics" / "config"
    files = [*sorted((folder / "faces").glob("*.py")), folder / "face_data.py"]
    assert len(files) > 6
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    bare = []
    for number, line in enumerate(map(str.strip, lines)):
        is_key = line.startswith(("_C.", "_F.")) and " = " in line and "CfgNode()" not in line
        if is_key and "#" not in line and not lines[number - 1].strip().startswith("#"):
            bare.append(line)
    assert bare == []


def test_defaults_are_the_papers_constants():
    """docs/methods.md#dcl, #realcentric, #guidespace, #compressionrelation."""
    face = get_cfg().MODEL.FACE
    dcl, guide, relation = face.DCL, face.GUIDE_SPACE, face.COMPRESSION_RELATION
    assert (dcl.KEY_MOMENTUM, dcl.TEMPERATURE, dcl.BANK_SIZE) == (0.99, 0.07, 30000)
    assert (dcl.WARMUP_WEIGHT, dcl.WARMUP_EPOCHS, dcl.CONTRAST_WEIGHT) == (0.1, 5, 0.5)
    assert (face.REAL_CENTRIC.TEMPERATURE, face.REAL_CENTRIC.DIM) == (0.1, 128)
    assert (guide.BANK_SIZE, guide.NEIGHBOURS, guide.NUM_CLUSTERS) == (5120, 55, 500)
    assert (relation.WEAK_TEMPERATURE, relation.STRONG_TEMPERATURE) == (0.04, 0.1)
    assert (relation.BANK_SIZE, face.EMBEDDING.DIM) == (16384, 512)
