"""One YAML file, two configurations: the same keys, the same values."""

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2 import model_zoo  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402

from comics.config import get_cfg as get_comics_cfg  # noqa: E402
from comics.config import load_config as load_native  # noqa: E402
from comics.config import load_config_text  # noqa: E402
from comics.integrations.detectron2.config import (  # noqa: E402
    add_comics_config,
    dump_config,
    is_native,
    leaves,
    load_config,
    to_comics_config,
)
from comics.integrations.runtime import (  # noqa: E402
    DETECTRON2_MODELS,
    architecture_of,
    read_yaml,
)
from comics.modeling.face_forensics import FACE_METHOD  # noqa: E402

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
# By what they hold, not by where they lie: face methods run in the native runtime only
DETECTOR_CONFIGS = [
    path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if architecture_of(read_yaml(path), []) not in (FACE_METHOD, *DETECTRON2_MODELS)
]
OWN = CONFIGS / "Detectron2" / "COMICS-Mask-RCNN_R_50_FPN_1x.yaml"
ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


@pytest.mark.parametrize("path", DETECTOR_CONFIGS, ids=lambda p: "/".join(p.parts[-2:]))
def test_a_shipped_file_means_the_same_in_both_runtimes(path):
    native = leaves(load_native(path)) | {"MODEL.DEVICE": "cpu"}
    assert leaves(to_comics_config(load_config(path, ["MODEL.DEVICE", "cpu"]))) == native
    plain = get_cfg()
    add_comics_config(plain)
    plain.merge_from_file(str(path))
    plain.MODEL.DEVICE = "cpu"
    assert leaves(to_comics_config(plain)) == native


def test_adding_our_keys_touches_none_of_detectron2s():
    before = leaves(get_cfg())
    cfg = get_cfg()
    add_comics_config(cfg)
    after = leaves(cfg)
    assert {key: after[key] for key in before} == before
    assert {key: type(after[key]) for key in before} == {k: type(v) for k, v in before.items()}
    assert leaves(get_comics_cfg()).keys() <= after.keys()
    assert leaves(get_cfg()) == before  # Detectron2's own are not ours to change


@pytest.mark.parametrize(
    "name",
    [
        ZOO,
        "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    ],
)
def test_a_file_of_the_model_zoo_is_what_it_is_without_our_keys(name):
    path = model_zoo.get_config_file(name)
    theirs, with_ours = get_cfg(), get_cfg()
    add_comics_config(with_ours)
    for cfg in (theirs, with_ours):
        cfg.merge_from_file(path)
        cfg.merge_from_list(["SOLVER.BASE_LR", "0.5"])
    found = leaves(with_ours)
    assert {key: found[key] for key in leaves(theirs)} == leaves(theirs)
    assert leaves(with_ours.clone()) == found and type(with_ours.clone()) is type(with_ours)


def test_our_defaults_come_with_the_name_of_our_model():
    cfg = get_cfg()
    add_comics_config(cfg)
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "COMICSBlendMask"])
    expected = leaves(load_native()) | {"MODEL.DEVICE": cfg.MODEL.DEVICE}
    assert leaves(to_comics_config(cfg)) == expected
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model"
    cfg.merge_from_list(["INPUT.FORMAT", "BGR"])  # a default of Detectron2's, but set
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "COMICSFCOS"])
    assert cfg.INPUT.FORMAT == "BGR"


def test_detectron2s_rcnn_with_comics_keeps_its_defaults():
    before = leaves(get_cfg())
    cfg = get_cfg()
    add_comics_config(cfg)
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "COMICSGeneralizedRCNN"])
    found = leaves(cfg)
    changed = {key for key in before if found[key] != before[key]}
    assert changed == {"MODEL.META_ARCHITECTURE"}
    assert cfg.MODEL.COMICS.PROPOSAL.LEVELS == ["p2", "p3", "p4", "p5"]


OLD = "MODEL:\n  META_ARCHITECTURE: COMICSFCOS\n  FCOS:\n    INFERENCE_TH_TEST: 0.25\n"


def test_a_key_may_have_its_old_name_and_it_is_noted(tmp_path, caplog):
    (tmp_path / "base.yaml").write_text(OLD)
    path = tmp_path / "file.yaml"
    path.write_text("_BASE_: base.yaml\nMODEL:\n  SOLOV2:\n    SCORE_THR: 0.5\n")
    cfg = get_cfg()
    add_comics_config(cfg)
    with caplog.at_level("INFO", logger="comics"):
        cfg.merge_from_file(str(path))
    assert "MODEL.FCOS.INFERENCE_TH_TEST is now called MODEL.FCOS.SCORE_THRESH_TEST" in caplog.text
    assert (cfg.MODEL.FCOS.SCORE_THRESH_TEST, cfg.MODEL.SOLOV2.SCORE_THRESH_TEST) == (0.25, 0.5)
    assert "INFERENCE_TH_TEST" not in cfg.MODEL.FCOS
    cfg.merge_from_list(["MODEL.FCOS.INFERENCE_TH_TEST", "0.125"])
    assert cfg.MODEL.FCOS.SCORE_THRESH_TEST == 0.125
    assert load_config(path).MODEL.SOLOV2.SCORE_THRESH_TEST == 0.5
    path.write_text(OLD + "    SCORE_THRESH_TEST: 0.5\n")
    with pytest.raises(KeyError, match="one key under its old and its new name"):
        cfg.merge_from_file(str(path))


def test_a_key_that_another_project_added_keeps_its_name(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.FCOS = CfgNode({"INFERENCE_TH_TEST": 0.05})  # AdelaiDet's
    add_comics_config(cfg)
    path = tmp_path / "file.yaml"
    path.write_text(OLD)
    cfg.merge_from_file(str(path))
    assert cfg.MODEL.FCOS.INFERENCE_TH_TEST == 0.25
    cfg.merge_from_list(["MODEL.FCOS.INFERENCE_TH_TEST", 0.5])
    assert cfg.MODEL.FCOS.INFERENCE_TH_TEST == 0.5


def test_every_key_of_both_is_there_in_its_own_type():
    cfg = load_config()
    assert leaves(get_cfg()).keys() | leaves(get_comics_cfg()).keys() <= leaves(cfg).keys()
    ours = leaves(get_comics_cfg())
    for key, value in leaves(to_comics_config(cfg)).items():
        assert type(value) is type(ours[key]), key


def test_a_file_of_the_model_zoo_keeps_detectron2s_defaults():
    path = model_zoo.get_config_file(ZOO)
    theirs = get_cfg()
    theirs.merge_from_file(path)
    cfg = load_config(path, ["MODEL.DEVICE", "cpu", "SEED", "-1"])
    given = leaves(cfg)
    for key, value in leaves(theirs).items():
        if key not in ("MODEL.DEVICE", "SEED"):
            assert given[key] == value, key
    assert cfg.SEED >= 0
    comics = ["MODEL.META_ARCHITECTURE", "COMICSGeneralizedRCNN", "MODEL.DEVICE", "cpu"]
    assert load_config(path, comics).MODEL.PIXEL_MEAN == theirs.MODEL.PIXEL_MEAN


def test_our_file_for_its_mask_rcnn_is_the_model_zoos_model():
    device = ["MODEL.DEVICE", "cpu"]
    ours, theirs = (leaves(load_config(path, device)) for path in
                    (OWN, model_zoo.get_config_file(ZOO)))  # fmt: skip
    changed = {key for key in leaves(get_cfg()) if ours[key] != theirs[key]}
    assert {key for key in changed if key.startswith("MODEL.")} == {
        "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS", "MODEL.ROI_HEADS.NUM_CLASSES"
    }  # fmt: skip
    training = leaves(load_native(CONFIGS / "Base-OpenForensics.yaml"))
    for key, value in training.items():
        if key.split(".")[0] in ("SOLVER", "DATASETS") and "CLIP" not in key:
            assert list(ours[key]) == value if isinstance(value, list) else ours[key] == value, key


def test_what_a_run_writes_both_runtimes_read():
    cfg = load_config(overrides=["SOLVER.BASE_LR", "0.5", "MODEL.DEVICE", "cpu"])
    assert is_native(cfg)
    text = dump_config(cfg)
    assert leaves(load_config_text(text)) == leaves(to_comics_config(cfg))


def test_what_a_run_writes_keeps_detectron2s_own_keys(tmp_path):
    cfg = load_config(overrides=["SOLVER.NESTEROV", "True", "MODEL.DEVICE", "cpu"])
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(cfg))
    assert leaves(load_config(path)) == leaves(cfg)
    with pytest.raises(KeyError, match=r"SOLVER\.NESTEROV"):
        load_native(path)


def test_what_a_run_of_detectron2s_model_writes_is_read_back(tmp_path):
    path = tmp_path / "config.yaml"
    cfg = load_config(
        model_zoo.get_config_file(ZOO),
        ["MODEL.META_ARCHITECTURE", "COMICSGeneralizedRCNN", "MODEL.DEVICE", "cpu"],
    )
    assert not is_native(cfg)
    path.write_text(dump_config(cfg))
    assert json.dumps(leaves(load_config(path))) == json.dumps(leaves(cfg))  # tuples are lists


@pytest.mark.parametrize(
    "overrides, error, message",
    [
        (["MODEL.FCOS.NROM", "BN"], KeyError, r"unknown .*'MODEL\.FCOS\.NROM'.*'MODEL\.FCOS\.NORM"),
        (["SEED"], ValueError, "KEY VALUE pairs"),
        (["SOLVER.MAX_ITER", "many"], ValueError, "Type mismatch"),
        (["MODEL.META_ARCHITECTURE", "COMICSBlendmask"], KeyError, "mean 'COMICSBlendMask'"),
        (["MODEL.META_ARCHITECTURE", "FaceMethod"], KeyError, "--runtime native"),
        (["MODEL.KEYPOINT_ON", "True"], ValueError, "MODEL.KEYPOINT_ON must be False"),
        (
            ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
            ValueError,
            "must be 'choice' .*, got 'range'",
        ),
        (["TEST.AUG.ENABLED", "True"], ValueError, "TEST.AUG.ENABLED must be False"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(overrides, error, message):
    with pytest.raises(error, match=message):
        load_config(overrides=["MODEL.DEVICE", "cpu", *overrides])


def test_yaml_runs_no_code(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.yaml").write_text(
        f'OUTPUT_DIR: !!python/object/apply:os.system ["touch {marker}"]\n'
    )
    with pytest.raises(Exception, match="python/object"):
        load_config(tmp_path / "evil.yaml")
    assert not marker.exists()


def test_auto_device_and_new_seed_are_settled():
    cfg = load_config(overrides=["MODEL.DEVICE", "auto", "SEED", "-1"])
    assert cfg.MODEL.DEVICE in ("cpu", "cuda") and cfg.SEED >= 0
    assert cfg.is_frozen()
