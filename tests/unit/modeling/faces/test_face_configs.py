"""Every shipped configuration of a face method parses, builds, and is what its table row says."""

import copy
from pathlib import Path

import pytest
import torch

from comics.config import get_cfg, load_config
from comics.data.faces.loader import build_face_train_loader, training_faces
from comics.data.faces.needs import FaceNeeds
from comics.modeling.faces import base
from comics.modeling.faces.build import build_face_method
from comics.modeling.faces.encoder import build_encoder
from comics.registry import FACE_METHODS

ROOT = Path(__file__).resolve().parents[4]
FOLDER = ROOT / "configs" / "Face"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if not path.name.startswith("Base"))
ENCODERS_BUILT = {}
ORIGINS = {"ShallowXception": "legacy_xception"}  # whose weights an encoder starts from
PAPER_SIZES = (224, 256, 299, 380)  # pixels, of the papers
OWN_ENCODERS = {"Meso4", "MesoInception4"}  # there are no ImageNet weights of these


def built_once(name):
    if name not in ENCODERS_BUILT:
        ENCODERS_BUILT[name] = build_encoder(name)
    return copy.deepcopy(ENCODERS_BUILT[name])  # a method may change its own


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_it_builds_and_prepares_its_training(path, monkeypatch):
    monkeypatch.setattr(base, "build_encoder", built_once)
    cfg = load_config(path)
    with torch.device("meta"):
        method = build_face_method(cfg)
        method.prepare_training()
    assert type(method) is FACE_METHODS.get(cfg.MODEL.FACE.METHOD)
    own = path.relative_to(FOLDER).with_suffix("")
    assert method.crop_size in ((96,) if own.parts[0] == "Quickstart" else PAPER_SIZES)
    assert Path(cfg.OUTPUT_DIR) == Path("output", "Face", own)


def loaded_by(cfg, manifest):
    """What a run is, beside its name: the method, the rows and views it takes, its schedule."""
    with torch.device("meta"):
        method = build_face_method(cfg)
    settings = {k: v for k, v in vars(method).items() if isinstance(v, (int, float, str, tuple))}
    settings |= {k: v for k, v in vars(method).items() if isinstance(v, dict) and k[0] != "_"}
    given = cfg.clone()
    given.defrost()
    given.DATALOADER.NUM_WORKERS = 0
    loader = build_face_train_loader(given, entries=[manifest], needs=FaceNeeds.of(method))
    dataset = loader._loader.dataset
    maker = dataset._maker
    used = {
        "rows": tuple(maker.manifest[int(row)].path for row in dataset._rows),
        "augmenter": repr(maker.augmenter),
        "pairing": (maker.pairing, maker.pairing_frames) if "positive" in maker.views else (),
        "levels": (maker.weak, maker.strong) if "strong" in maker.views else (),
        "twins": maker.self_blend is not None,
        "order": type(loader.order).__name__,
    }
    face = cfg.MODEL.FACE
    schedule = (face.EPOCHS, tuple(face.LR_DECAY_EPOCHS), face.ENCODER, cfg.SOLVER.dump())
    return repr((type(method).__name__, sorted(settings.items()), sorted(used.items()), schedule))


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """A manifest with raw, c23 and c40 of two clips and two forgery methods; no picture is read."""
    path = tmp_path_factory.mktemp("levels") / "faces.csv"
    lines = ["path,label,method,video,frame,compression,paired_real,source,target,cluster"]
    for level in ("raw", "c23", "c40"):
        for frame in range(2):
            for name, method in (("real", ""), ("df", "DF"), ("nt", "NT")):
                paired = f"real_{frame}_{level}.png" if method else ""
                label = "fake" if method else "real"
                lines.append(
                    f"{name}_{frame}_{level}.png,{label},{method},{name},{frame},{level},"
                    f"{paired},a,b,{frame}"
                )
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_no_two_ablations_are_the_same_run(levels, monkeypatch):
    """Rows that repeat the published run, or each other, are named here: by what is loaded."""
    monkeypatch.setattr(base, "build_encoder", built_once)
    seen = {}
    for path in CONFIGS:
        seen.setdefault(loaded_by(load_config(path), levels), []).append(
            str(path.relative_to(FOLDER))
        )
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


@pytest.mark.parametrize("kind", ["CE", "triplet"])
def test_baselines_of_one_level_train_on_that_level_alone(kind, levels):
    for level in ("c23", "c40"):
        cfg = load_config(FOLDER / f"CompressionRelation/baselines/Xception_{kind}_{level}.yaml")
        faces, _ = training_faces(cfg, [levels])
        assert {faces[i].compression for i in range(len(faces))} == {level}
    both = load_config(FOLDER / "CompressionRelation/baselines/Xception_CE_mixed.yaml")
    assert len(training_faces(both, [levels])[0]) == 18


def test_published_runs_state_their_epochs_weights_and_validation():
    for path in CONFIGS:
        cfg, name = load_config(path), str(path.relative_to(FOLDER))
        face = cfg.MODEL.FACE
        assert cfg.TEST.EVAL_PERIOD or face.EVAL_EPOCHS == 1, name
        if name == "CompressionRelation/Xception_CelebDF.yaml":  # the paper counts steps
            assert (face.EPOCHS, cfg.SOLVER.MAX_ITER) == (0, 6000)
        else:
            assert face.EPOCHS > 0, name
        if name.startswith(("CompressionRelation", "Quickstart")) or face.ENCODER in OWN_ENCODERS:
            assert face.ENCODER_WEIGHTS == "", name
        else:
            origin = ORIGINS.get(face.ENCODER, face.ENCODER)
            assert f"weights/{origin}.safetensors" == face.ENCODER_WEIGHTS, name


def test_dcl_s_two_settings():
    """docs/methods.md#dcl-total: the paper's, and the authors' code's."""
    paper, code = (load_config(FOLDER / f"DCL/EN_B4{name}.yaml") for name in ("", "_released"))
    for cfg, weights, phi, rate in (
        (paper, (1.0, 1.0, 1.0), [0.1] * 5 + [0.5], 1e-3),
        (code, (1.0, 0.1, 0.001), [0.0] * 3 + [0.5] * 3, 2e-4),
    ):
        with torch.device("meta"):
            method = build_face_method(cfg)
            method.prepare_training()
        assert method.weights == weights and rate == cfg.SOLVER.BASE_LR
        found = []
        for epoch in range(6):
            method.training_only["clock"].epoch = torch.tensor(epoch, device="cpu")
            found.append(method.phi)
        assert found == phi
    assert (paper.MODEL.FACE.DCL.SELECT, code.MODEL.FACE.DCL.SELECT) == ("threshold", "topk")
    assert code.MODEL.FACE.DCL.KEY_MOMENTUM == 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EN_B4", "R_50", "Xception"])
def test_guide_space_embeds_where_features_have_one_sign(name):
    cfg = load_config(FOLDER / f"GuideSpace/{name}.yaml")
    encoder = build_encoder(cfg.MODEL.FACE.ENCODER).eval()
    with torch.no_grad():
        lowest = encoder.forward_map(torch.randn(1, 3, 64, 64)).min()
    assert (lowest >= 0) == (cfg.MODEL.FACE.GUIDE_SPACE.EMBEDDING_DIM == 512)


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
