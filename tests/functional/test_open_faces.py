"""The open benchmark and the arms of COMICS as a user runs them, on drawn faces."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_faces import write_donors, write_photos

from comics.config import load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lab"))
import comics_arms as arms  # noqa: E402

FILES = ["train", "val", *arms.SETS]
WORDS = [
    "MODEL.WEIGHTS", "", "MODEL.BACKBONE.NAME", "resnet", "MODEL.RESNETS.DEPTH", "18",
    "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "16",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.PRIOR_PROB", "0.3",
    "MODEL.FCOS.POST_NMS_TOPK_TEST", "10", "INPUT.MOSAIC.SIZE", "64",
    "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128",
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2",
]  # fmt: skip


def prepare(arguments):
    path = ROOT / "datasets/prepare_open_faces.py"
    spec = importlib.util.spec_from_file_location("prepare_open_faces", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module.main([str(part) for part in (*arguments, "--workers", 0, "--quiet")])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 24)


@pytest.fixture(scope="module")
def donors(tmp_path_factory):
    return write_donors(tmp_path_factory.mktemp("donors"), 24)


@pytest.fixture(scope="module")
def data(photos, donors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open") / "set"
    assert prepare(["--photos", photos, "--donors", donors, "--output", folder]) == 0
    return folder


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_a_command_makes_the_set_with_its_card(data):
    contents = {name: read(data, name) for name in FILES}
    sources = [
        {i["source_photo"] for i in contents[n]["images"]} for n in ("train", "val", "test_dev")
    ]
    assert sum(map(len, sources)) == len(set().union(*sources)) == 24
    faces = [face for name in FILES[:3] for face in contents[name]["annotations"]]
    forged = [face for face in faces if face["category_id"] == 1]
    assert any(face["method"] == "generated_swap" for face in forged)
    used = {name: {f["forgery"]["donor"] for f in contents[name]["annotations"]
                   if "donor" in f["forgery"]} for name in ("train", "test_dev")}  # fmt: skip
    assert used["train"] and not used["train"] & used["test_dev"]
    for name in arms.SETS[1:]:
        assert contents[name]["annotations"] == contents["test_dev"]["annotations"]
        assert all(image["corruption"]["steps"] for image in contents[name]["images"])
    card = json.loads((data / "card.json").read_text())
    assert list(card["splits"]) == FILES
    assert card["splits"]["train"]["photos"] == len(contents["train"]["images"])
    assert "one sex or age only" in (data / "card.md").read_text()


def test_the_same_seed_makes_the_same_set(data, photos, donors, tmp_path):
    again = tmp_path / "again"
    assert prepare(["--photos", photos, "--donors", donors, "--output", again]) == 0
    kinds = ("*.jpg", "t*.json", "val.json", "card.json")
    files = sorted(path.relative_to(data) for kind in kinds for path in data.rglob(kind)
                   if ".records" not in path.parts and ".jobs" not in path.parts)  # fmt: skip
    assert len(files) > 30
    assert all((again / path).read_bytes() == (data / path).read_bytes() for path in files)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--donors": "absent"}, "no such folder of donors"),
        ({"--photos": "absent.json"}, "absent.json"),
        ({"--photos": "bare"}, "no photo has 2 bare faces of 24 pixels"),
    ],
)
def test_what_makes_no_set(changes, words, photos, donors, tmp_path, capsys):
    content = json.loads(photos.read_text())
    for face in content["annotations"]:
        face.pop("keypoints5")
    bare = photos.with_name("bare.json")
    bare.write_text(json.dumps(content))
    named = {"--photos": photos, "--donors": donors, "--output": tmp_path / "out"} | changes
    named = {key: bare if value == "bare" else value for key, value in named.items()}
    assert prepare([part for pair in named.items() for part in pair]) == 2
    assert words in capsys.readouterr().err


def test_two_arms_train_once_and_are_compared(data, tmp_path, capsys):
    encoder = tmp_path / "encoder.pth"
    encoder.write_bytes(b"not read")
    common = ["--data", str(data), "--imagenet", str(encoder), "--output", str(tmp_path / "out"),
              "--arms", "none", "DA", "--seeds", "0", "--sets", *FILES[2:5],
              "--samples", "20", "--", *WORDS]  # fmt: skip
    assert arms.main(common) == 0
    table = (tmp_path / "out/arms.md").read_text()
    assert "## test_challenge_named" in table and "| DA | mask AP |" in table
    assert "| − | − | − | paper | 87.0 |" in table  # Table IV's first row below ours
    content = json.loads((tmp_path / "out/arms.json").read_text())
    assert set(content["figures"]) == {"none", "DA"}
    one = content["figures"]["DA"]["test_challenge"][0]
    assert 0 <= one["segm/AP"] <= 1 and {"bbox/oLRP_FN", "bbox/AP/Fake"} <= set(one)
    weights = tmp_path / "out/DA/seed0/model_final.safetensors"
    trained = weights.stat().st_mtime_ns
    capsys.readouterr()
    (tmp_path / "out/DA/seed0/seconds.json").unlink()
    (tmp_path / "out/DA/seed0/test_challenge.results.json").unlink()  # as if it stopped there
    assert arms.main(common) == 0
    assert weights.stat().st_mtime_ns == trained
    again = json.loads((tmp_path / "out/arms.json").read_text())
    assert again["figures"]["DA"] == content["figures"]["DA"]


def test_what_is_missing_is_named(data, tmp_path, capsys):
    words = ["--data", str(data), "--output", str(tmp_path)]
    assert arms.main(words) == 2
    assert "--imagenet" in capsys.readouterr().err
    assert arms.main(["--data", str(tmp_path), "--output", str(tmp_path), "--table"]) == 2
    assert "train.json" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", arms.RECIPES)
@pytest.mark.parametrize("arm", arms.ARMS)
def test_arms_differ_in_their_switches_alone(arm, recipe):
    cfg = load_config(arms.CONFIGS / f"{arm}.yaml", list(arms.RECIPES[recipe]))
    switches = arms.ARMS[arm]
    comics = cfg.MODEL.META_ARCHITECTURE == "COMICSBlendMask"
    parts = (cfg.MODEL.COMICS.FEA, cfg.MODEL.COMICS.PROPOSAL, cfg.MODEL.COMICS.PIXEL)
    additions = tuple(comics and part.ENABLED for part in parts)
    if switches is None:
        assert cfg.INPUT.VIEWS.CHALLENGE_PROB > 0 and not any(additions)
        return
    views, frequency, contrasts = switches
    assert cfg.INPUT.VIEWS.ENABLED is views and cfg.INPUT.VIEWS.CHALLENGE_PROB == 0
    assert additions == (frequency, contrasts, contrasts)
    paper = load_config()
    assert cfg.INPUT.VIEWS.JITTER_PROB == paper.INPUT.VIEWS.JITTER_PROB
    assert cfg.MODEL.COMICS.FEA.RESIDUAL is False


@pytest.mark.parametrize(
    ("gain", "low", "oracle", "auc", "said"),
    [
        (12, 4, 20, 90, "shown"),
        (12, -1, 20, 90, "between"),
        (12, 4, 30, 90, "between"),
        (7, 2, 20, 90, "between"),
        (4, 1, 20, 90, "not reproduced"),
        (12, 4, 8, 90, "uninformative"),
        (12, 4, 20, 60, "no experiment"),
    ],
)
def test_the_criteria(gain, low, oracle, auc, said):
    assert arms.judge(gain, low, oracle, auc).startswith(said)


def test_the_papers_rows_are_complete():
    for rows in arms.PAPER.values():
        assert set(rows) == {switches for switches in arms.ARMS.values() if switches}
        assert all(len(np.array(row.split(), float)) == 16 for row in rows.values())
