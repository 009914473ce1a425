"""tools/train_net.py, combine_weights.py and infer.py with a face method, as a user runs them."""

import csv
import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comics.config import load_config, load_config_text
from comics.data.faces.manifest_files import write_manifest
from comics.evaluation.predictions import load_predictions, metrics_at
from comics.files import file_sha256
from comics.modeling.build import build_model, load_model
from comics.modeling.weights import read_weights, save_weights

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SIDE = 32
CLOCKS = ("seconds", "data_seconds")
METHODS = ("blend", "swap")
COUNTS = ["n", "n_real", "n_fake"]

CONFIG = """
MODEL:
  META_ARCHITECTURE: FaceMethod
  DEVICE: cpu
  FACE:
    METHOD: CrossEntropy
    ENCODER: SmallResNet
    CROP_SIZE: 32
    DCL: {BANK_SIZE: 16, SELECT_THRESHOLD: -1.0, WARMUP_EPOCHS: 1, VIEWS: {PATCH_GRID: 2}}
    REAL_CENTRIC: {DIM: 8, HIDDEN_DIM: 8, HARD_SIZE: 3, STAGE1_EPOCHS: 1}
    GUIDE_SPACE: {NUM_DOMAINS: 2, BANK_SIZE: 24, NEIGHBOURS: 5, ADJUST_EPOCH: 0}
    MULTICLASS: {NUM_DOMAINS: 2}
    COMPRESSION_RELATION: {BANK_SIZE: 8}
    EMBEDDING: {DIM: 8, HIDDEN_DIM: 8, PREDICTOR_DIM: 8}
INPUT: {FACE: {FLIP_PROB: 0.5}}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {OPTIMIZER: SGD, BASE_LR: 0.01, IMS_PER_BATCH: 8, WARMUP_ITERS: 0, STEPS: [],
         MAX_ITER: 6, CHECKPOINT_PERIOD: 2}
LOG: {PERIOD: 1}
TEST: {IMS_PER_BATCH: 8, BEST_METRIC: face/AUC}
"""


def write_faces(folder, labels=(0, 1, 0, 1, 0, 1)):
    """Two frames of each clip at two compressions; fakes have a bright square. A manifest."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for clip, label in enumerate(labels):
        for frame in range(2):
            for level in ("c23", "c40"):
                name = f"{clip}_{frame}_{level}.png"
                picture = rng.integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8)
                if label:
                    picture[8:20, 8:20] = 220
                Image.fromarray(picture).save(folder / name)
                paired = f"{clip - 1}_{frame}_{level}.png" if label and not labels[0] else None
                rows.append(
                    {"path": name, "label": label, "video": f"v{clip}", "frame": frame,
                     "method": METHODS[clip // 2 % 2] if label else None,
                     "source": f"p{clip % 3}", "target": f"p{clip % 2}", "compression": level,
                     "paired_real": paired, "cluster": clip % 2,
                     "split": "train" if clip < 4 else "test"}
                )  # fmt: skip
    write_manifest(folder / "faces.csv", rows)
    return folder / "faces.csv"


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture
def train(tmp_path, capsys):
    """Runs tools/train_net.py here: (output folder, overrides) -> exit code and stderr."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    logger, threads = logging.getLogger("comics"), torch.get_num_threads()
    level = logger.level
    torch.set_num_threads(1)

    def run(output, *overrides, flags=()):
        words = ["--config-file", config, *flags, "OUTPUT_DIR", tmp_path / output, *overrides]
        code = load_tool("train_net").main([str(word) for word in words])
        return code, capsys.readouterr().err

    yield run
    torch.set_num_threads(threads)
    logger.setLevel(level)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def sets(tmp_path):
    """Overrides that name the splits of a manifest."""
    faces = write_faces(tmp_path / "data")
    entries = {"TRAIN": "train", "VAL": "test", "TEST": "test"}
    pairs = [(f"DATASETS.{key}", f"['{faces}@split={split}']") for key, split in entries.items()]
    return [word for pair in pairs for word in pair]


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def predictions_of(folder):
    return next((folder / "inference").glob("*.csv"))


@pytest.mark.parametrize("method", ["RealCentric", "GuideSpace"])
def test_stopped_run_resumes_to_the_same_end(train, sets, tmp_path, monkeypatch, method):
    # Epochs of two batches; the run is cut within the second, where RealCentric's encoder is
    # frozen, and the learning rate falls at the start of the third
    options = [*sets, "MODEL.FACE.METHOD", method, "MODEL.FACE.EPOCHS", 3,
               "MODEL.FACE.LR_DECAY_EPOCHS", "[2]", "SOLVER.CHECKPOINT_PERIOD", 3]  # fmt: skip
    code, error = train("straight", *options)
    assert code == 0, error
    lines = metrics(tmp_path / "straight")
    assert [line["iteration"] for line in lines if "loss/total" in line] == [1, 2, 3, 4, 5, 6]
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 2)
    if method == "RealCentric":
        assert "loss/loss_contrastive" in lines[1] and "loss/loss_ce" not in lines[1]
        assert "loss/loss_ce" in lines[2] and "loss/loss_contrastive" not in lines[2]

    from comics.engine.trainer import Trainer

    whole = Trainer._iterate

    def cut(self, *arguments):
        if self.iteration == 3:
            raise OSError("the power went")
        return whole(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_iterate", cut)
        assert train("cut", *options)[0] == 1
    assert train("cut", *options, flags=["--resume"])[0] == 0
    assert metrics(tmp_path / "cut") == lines
    one, other = (
        read_weights(tmp_path / name / "model_final.safetensors").state
        for name in ("straight", "cut")
    )
    assert one.keys() == other.keys() and not any("training_only" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["CrossEntropy", "DCL", "CompressionRelation", "Triplet"])
def test_every_kind_of_view_trains(train, sets, tmp_path, method):
    code, error = train("out", *sets, "MODEL.FACE.METHOD", method, "SOLVER.MAX_ITER", 3)
    assert code == 0, error
    last = metrics(tmp_path / "out")[-1]
    assert {"face/AUC", "face/EER", "face/AP", "face/video_AUC"} <= last.keys()
    assert [last[f"face/{name}"] for name in COUNTS] == [8, 4, 4]
    assert [last[f"face/video_{name}"] for name in COUNTS] == [4, 2, 2]  # clip and compression


def test_evaluation_equals_the_predictions_file(train, sets, tmp_path):
    assert train("out", *sets, "SOLVER.MAX_ITER", 2)[0] == 0
    weights = tmp_path / "out" / "model_final.safetensors"
    code, error = train("again", *sets, flags=["--eval-only", "--weights", weights])
    assert code == 0 and "AUC" in error
    files = [predictions_of(tmp_path / name) for name in ("out", "again")]
    assert files[0].read_text() == files[1].read_text()
    rows = list(csv.DictReader(files[0].open()))
    assert {row["compression"] for row in rows} == {"c23", "c40"}
    assert {row["method"] for row in rows} == {"real", "blend"}
    assert {(row["video"], row["label"]) for row in rows} == {("v4", "0"), ("v5", "1")}
    logged = metrics(tmp_path / "out")[-1]
    predictions = load_predictions(files[0])
    for level, prefix in (("face", ""), ("video", "video_")):
        found = metrics_at(predictions, level).values
        assert logged[f"face/{prefix}AUC"] == pytest.approx(found["AUC"])
        assert logged[f"face/{prefix}accuracy"] == pytest.approx(found["accuracy"])

    model, cfg, _ = load_model(weights)
    crops = np.stack([np.asarray(Image.open(row["path"])) for row in rows]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        said = torch.sigmoid(model(torch.from_numpy(crops.copy()))).tolist()
    assert [float(row["fake_probability"]) for row in rows] == pytest.approx(said, abs=1e-5)


def test_faces_of_a_multi_face_set(train, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    content = {"images": [], "annotations": [], "categories": [
        {"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]}  # fmt: skip
    for number in range(4):
        picture = rng.integers(60, 120, (60, 90, 3), dtype=np.uint8)
        for label, x in enumerate((2, 50)):
            picture[10:44, x : x + 30] = 80 + 140 * label
            content["annotations"].append(
                {"id": 2 * number + label + 1, "image_id": number, "category_id": label,
                 "bbox": [x, 10, 30, 34], "area": 1020, "iscrowd": 0,
                 "segmentation": [[x, 10, x + 30, 10, x + 30, 44, x, 44]]}
            )  # fmt: skip
        Image.fromarray(picture).save(folder / f"{number}.png")
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": 60, "width": 90}
        )
    (folder / "faces.json").write_text(json.dumps(content))
    sets = [word for key in ("TRAIN", "VAL") for word in
            (f"DATASETS.{key}", f"['{folder / 'faces.json'}']")]  # fmt: skip
    code, error = train("out", *sets, "SOLVER.MAX_ITER", 2, "MODEL.FACE.METHOD", "DCL")
    assert code == 0, error
    last = metrics(tmp_path / "out")[-1]
    assert last["face/n"] == 8 and "face/video_AUC" not in last
    rows = list(csv.DictReader(predictions_of(tmp_path / "out").open()))
    assert [int(row["label"]) for row in rows] == [0, 1] * 4


def test_validation_of_one_class_is_undefined_not_fatal(train, sets, tmp_path):
    reals = write_faces(tmp_path / "reals", labels=(0, 0))
    val = ["DATASETS.VAL", f"['{reals}']"]
    code, error = train("out", *sets, *val, "SOLVER.MAX_ITER", 1)
    assert code == 0, error
    assert metrics(tmp_path / "out")[-1]["face/AUC"] is None  # JSON has no NaN
    assert "all 8 labels are real: AUC, EER and TPR are undefined" in error
    assert "face/AUC is not defined" in error


def test_broken_picture_is_left_out_and_told(train, sets, tmp_path):
    (tmp_path / "data" / "4_0_c40.png").write_bytes(b"not a picture")
    code, error = train("out", *sets, "SOLVER.MAX_ITER", 1)
    assert code == 3 and "4_0_c40.png" in error
    rows = list(csv.DictReader(predictions_of(tmp_path / "out").open()))
    assert [(row["video"], row["frame"], row["compression"]) for row in rows[:4]] == [
        ("v4", "0", "c23"), ("v4", "1", "c23"), ("v4", "1", "c40"), ("v5", "0", "c23")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["MODEL.META_ARCHITECTURE", "FaceForensics"], "not trained as a whole"),
        (["TEST.BEST_METRIC", "segm/AP"], "TEST.BEST_METRIC 'segm/AP' is not measured"),
        (["MODEL.FACE.METHOD", "GuideSpac"], "Did you mean 'GuideSpace'"),
        (["MODEL.FACE.METHOD", "GuideSpace", "MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS", 1],
         "configured for 1 forgery methods (NUM_DOMAINS); the training set has 2: blend, swap"),
        (["MODEL.WEIGHTS", "faces.pth"], "MODEL.WEIGHTS: there is no file"),
        (["DATASETS.VAL", "['absent.csv']"], "no manifest absent.csv"),
    ],
)  # fmt: skip
def test_run_that_cannot_start(train, sets, overrides, message):
    code, error = train("out", *sets, *overrides)
    assert code == 2 and message in error
    assert "Traceback" not in error


# -- detector and face method together --------------------------------------------------------

EVERYTHING_FOUND = [
    "MODEL.FCOS.POST_NMS_TOPK_TEST", "6", "MODEL.FCOS.SCORE_THRESH_TEST", "0.0",
    "TEST.SCORE_THRESH", "0.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory, finding_config):
    """Model files of a detector and of a face method, both of random weights."""
    folder = tmp_path_factory.mktemp("models")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    torch.manual_seed(0)
    detector = finding_config("BlendMask", *EVERYTHING_FOUND)
    for name, cfg in (("detector", detector), ("face", load_config(config))):
        model = build_model(cfg)
        save_weights(folder / f"{name}.safetensors", model.state_dict(), cfg, {"iteration": "7"})
    return folder


@pytest.fixture
def infer(tmp_path):
    """Runs tools/infer.py on pictures: (output, words) -> exit code and results document."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 255, (90, 110 + seed, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{seed}.png")

    def run(output, *words):
        arguments = ["--output", tmp_path / output, "--device", "cpu", *words, pictures]
        code = load_tool("infer").main([str(word) for word in arguments])
        path = tmp_path / output / "results.json"
        return code, json.loads(path.read_text()) if path.exists() else None

    return run


def test_face_weights_beside_a_detector_equal_the_joined_file(files, infer, tmp_path):
    detector, face = files / "detector.safetensors", files / "face.safetensors"
    code, apart = infer("apart", "--weights", detector, "--face-weights", face, "--heat-maps")
    assert code == 0 and apart["results"]
    joined = tmp_path / "joined.safetensors"
    words = ["--detector", detector, "--face", face, "--output", joined]
    assert load_tool("combine_weights").main([str(word) for word in words]) == 0
    code, together = infer("together", "--weights", joined, "--batch-size", 1)
    assert code == 0
    assert len(apart["results"]) == len(together["results"])
    for one, other in zip(apart["results"], together["results"], strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.02)
        assert one["fake_probability"] == pytest.approx(other["fake_probability"], abs=1e-4)
        assert one["category_id"] == (one["fake_probability"] >= 0.5)

    for document in (apart, together):
        parts = document["provenance"]["parts"]
        assert document["provenance"]["model"] == "FaceForensics"
        assert parts["detector"]["weights_sha256"] == file_sha256(detector)
        assert parts["face"]["weights_sha256"] == file_sha256(face)
        assert (parts["detector"]["model"], parts["face"]["model"]) == ("BlendMask", "CrossEntropy")
        assert parts["face"]["iteration"] == "7" and parts["fusion"] == "mean_logit"
    assert together["provenance"]["weights_sha256"] == file_sha256(joined)
    assert [("heat_map" in entry) for entry in apart["files"]] == [
        entry["faces"] > 0 for entry in apart["files"]
    ]
    for entry in (entry for entry in apart["files"] if entry["faces"]):
        sizes = []
        for kind in ("heat_map", "output"):
            with Image.open(tmp_path / "apart" / entry[kind]) as picture:
                sizes.append(picture.size)
        assert sizes[0] == sizes[1]
    assert "heat_map" not in together["files"][0]


def test_face_weights_take_the_place_of_a_joined_models_face_part(files, infer, tmp_path):
    """Joined with one face method, used with another: as the detector alone with that other."""
    detector, face = files / "detector.safetensors", files / "face.safetensors"
    other = tmp_path / "other.safetensors"
    file = read_weights(face)
    moved = {name: t + 0.01 if t.is_floating_point() else t for name, t in file.state.items()}
    save_weights(other, moved, load_config_text(file.metadata["config"]), {"iteration": "9"})
    joined = tmp_path / "joined.safetensors"
    words = ["--detector", detector, "--face", other, "--output", joined]
    assert load_tool("combine_weights").main([str(word) for word in words]) == 0
    _, apart = infer("apart", "--weights", detector, "--face-weights", face, "--no-media")
    for number, given in enumerate((face, tmp_path / "whole.safetensors")):
        if number:  # the face part of a joined file does as well
            words = ["--detector", detector, "--face", face, "--output", given]
            assert load_tool("combine_weights").main([str(word) for word in words]) == 0
        words = ("--weights", joined, "--face-weights", given, "--no-media")
        code, replaced = infer(f"replaced{number}", *words)
        assert code == 0 and len(replaced["results"]) == len(apart["results"]) > 0
        for one, another in zip(apart["results"], replaced["results"], strict=True):
            assert one["fake_probability"] == pytest.approx(another["fake_probability"], abs=1e-5)
        parts = replaced["provenance"]["parts"]
        assert parts["face"]["iteration"] == "7"
        assert parts["detector"]["weights_sha256"] in (file_sha256(joined), file_sha256(detector))


def test_fusion_between_detector_and_face(files, infer, tmp_path):
    detector, face = files / "detector.safetensors", files / "face.safetensors"
    found = {}
    for rule in ("detector", "face", "mean_logit", "max"):
        joined = tmp_path / f"{rule}.safetensors"
        words = ["--detector", detector, "--face", face, "--output", joined, "--fusion", rule]
        assert load_tool("combine_weights").main([str(word) for word in words]) == 0
        document = infer(rule, "--weights", joined, "--no-media")[1]
        found[rule] = np.array([entry["fake_probability"] for entry in document["results"]])
    alone = infer("alone", "--weights", detector, "--no-media")[1]["results"]
    assert found["detector"].tolist() == [entry["fake_probability"] for entry in alone]
    own, said = found["detector"], found["face"]
    assert not np.allclose(own, said)
    assert found["max"] == pytest.approx(np.maximum(own, said))
    both, neither = np.sqrt(own * said), np.sqrt((1 - own) * (1 - said))
    assert found["mean_logit"] == pytest.approx(both / (both + neither), abs=1e-4)


def test_no_face_found_is_no_error(files, infer):
    detector, face = files / "detector.safetensors", files / "face.safetensors"
    words = ["--weights", detector, "--face-weights", face, "--heat-maps"]
    code, document = infer("out", *words, "--score-threshold", "1")
    assert code == 0 and document["results"] == []
    assert {file["verdict"] for file in document["files"]} == {"no_face_found"}


@pytest.mark.parametrize(
    "words, message",
    [
        (["--weights", "face"], "holds a face method, which finds no faces"),
        (["--weights", "face", "--face-weights", "face"], "holds a FaceMethod; a detector is"),
        (["--weights", "detector", "--face-weights", "detector"], "a face method is needed"),
        (["--weights", "detector", "--heat-maps"], "--heat-maps needs a face method"),
        (["--weights", "detector", "--heat-maps", "--no-media"], "heat maps are media"),
    ],
)
def test_pairs_that_cannot_be_used(files, infer, capsys, words, message):
    named = [files / f"{word}.safetensors" if not word.startswith("-") else word for word in words]
    code, document = infer("out", *named)
    assert code == 2 and document is None
    assert message in capsys.readouterr().err


def test_evaluation_tool_names_the_way_for_a_face_method(files, tmp_path, capsys):
    words = ["--weights", files / "face.safetensors", "--dataset", "a.json", "--device", "cpu"]
    assert load_tool("evaluate").main([str(word) for word in words]) == 2
    assert "holds a face method: tools/train_net.py --eval-only" in capsys.readouterr().err
