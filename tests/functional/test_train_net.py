"""tools/train_net.py on a set of coloured rectangles, as a user runs it."""

import contextlib
import importlib.util
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
import warm_start

from comics.engine.checkpoint import load_checkpoint
from comics.files import hold_folder
from comics.modeling.build import load_model
from comics.modeling.weights import read_weights

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "train_net.py"
SIDE = 96
CLOCKS = ("seconds", "data_seconds")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

CONFIG = """
MODEL:
  META_ARCHITECTURE: COMICSBlendMask
  DEVICE: cpu
  BACKBONE: {FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, NORM: GN, RES2_OUT_CHANNELS: 64}
  FPN: {OUT_CHANNELS: 16}
  FCOS: {NUM_CLS_CONVS: 1, NUM_BOX_CONVS: 1, NORM: none}
  BASIS_MODULE: {CONVS_DIM: 32, NUM_CONVS: 1, NORM: GN}
  BLENDMASK: {ATTN_SIZE: 4, BOTTOM_RESOLUTION: 8}
  COMICS:
    PROPOSAL: {BANK_SIZE: 16, DIM: 8, MATCH: assigned}
    PIXEL: {SIZE: 8, BOUNDARY_MARGIN: 1}
INPUT: {MIN_SIZE_TRAIN: [96], MAX_SIZE_TRAIN: 96, MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 96}
DATALOADER: {NUM_WORKERS: 1}
SOLVER:
  IMS_PER_BATCH: 2
  BASE_LR: 0.001
  WARMUP_ITERS: 2
  MAX_ITER: 5
  CHECKPOINT_PERIOD: 2
LOG: {PERIOD: 1}
TEST: {EVAL_PERIOD: 3, IMS_PER_BATCH: 2}
"""


def write_set(folder, images=5):
    """Noise with a red (real) and a blue (fake) rectangle each, as COCO."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [
        {"id": 0, "name": "Real"}, {"id": 1, "name": "Fake"}]}  # fmt: skip
    for number in range(images):
        picture = rng.integers(100, 150, (SIDE, SIDE, 3), dtype=np.uint8)
        for label, colour in enumerate([(0, 0, 255), (255, 0, 0)]):
            x, y = rng.integers(0, 16, 2) + (0, label * 48)
            picture[y : y + 30, x : x + 40] = colour
            corners = [x, y, x + 40, y, x + 40, y + 30, x, y + 30]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": number,
                    "category_id": label,
                    "bbox": [int(x), int(y), 40, 30],
                    "area": 1200,
                    "iscrowd": 0,
                    "segmentation": [[int(value) for value in corners]],
                }
            )
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE}
        )
    path = folder / "faces.json"
    path.write_text(json.dumps(content))
    return path


def load_tool():
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture
def call(capsys):
    """Runs the tool in this process, with one thread: exit code and what it wrote to stderr."""

    def run_here(*arguments):
        code = load_tool().main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    logger, threads = logging.getLogger("comics"), torch.get_num_threads()
    level = logger.level
    torch.set_num_threads(1)
    yield run_here
    torch.set_num_threads(threads)
    logger.setLevel(level)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def words(tmp_path):
    """The command line for a run on a small set, whose results go to a folder of that name."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    faces = write_set(tmp_path / "data")

    def command_line(output, *overrides, flags=()):
        sets = (("DATASETS." + part, f"['{faces}']") for part in ("TRAIN", "VAL", "TEST"))
        flags = ("--runtime", "native", *flags)  # whatever is installed
        place = ("OUTPUT_DIR", tmp_path / output)
        words = ("--config-file", config, *flags, *place, *itertools.chain(*sets), *overrides)
        return [str(word) for word in words]

    return command_line


@pytest.fixture
def run(words):
    """Starts the tool as a process; whatever still runs at the end is killed."""
    processes = []

    def start(*arguments, launcher=(), **options):
        process = subprocess.Popen(
            [sys.executable, *launcher, str(TOOL), *words(*arguments, **options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def finish(process, code=0):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    return output


def wait_for(process, folder, pattern):
    deadline = time.monotonic() + 200
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_end(run, call, words, tmp_path):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    code, output = call(*words("straight"))
    assert code == 0 and "runtime: native" in output.splitlines()[0]
    names = {path.name for path in straight.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.jsonl", "checkpoint_00000005.pt",
            "model_best.safetensors", "model_final.safetensors"} <= names  # fmt: skip
    assert not any(name.startswith(".") for name in names)

    lines = metrics(straight)
    assert [line["iteration"] for line in lines if "loss/total" in line] == [1, 2, 3, 4, 5]
    assert [line["iteration"] for line in lines if "segm/AP" in line] == [3, 5]
    terms = [k for k in lines[0] if k.startswith("loss/") and k != "loss/total"]
    assert {"loss/loss_proposal_contrast", "loss/loss_pixel_intra"} <= set(terms)
    assert lines[0]["loss/total"] == pytest.approx(sum(lines[0][k] for k in terms), rel=1e-5)

    process = run("cut")
    wait_for(process, cut, "checkpoint_00000002.pt")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (cut / "model_final.safetensors").exists()
    assert call(*words("cut", flags=["--resume"]))[0] == 0
    assert metrics(cut) == lines
    for name in ("model_best", "model_final"):
        one, other = (read_weights(f / f"{name}.safetensors").state for f in (straight, cut))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_exported_model_is_measured_as_in_training(call, words, tmp_path):
    code, _ = call(*words("out", "SOLVER.MAX_ITER", 2))
    assert code == 0
    weights = tmp_path / "out" / "model_final.safetensors"
    model, _, file = load_model(weights)
    assert not any(name.startswith("training_only") for name in model.state_dict())
    assert file.metadata["iteration"] == "2"
    code, output = call(*words("again", flags=["--eval-only", "--weights", weights]))
    assert code == 0 and "segm" in output
    results = [json.loads((tmp_path / f / "inference" / "faces.json").read_text())
               for f in ("out", "again")]  # fmt: skip
    assert results[0] == results[1]


@pytest.mark.slow
def test_occupied_folder_and_broken_checkpoint(call, words, tmp_path):
    short = ("TEST.EVAL_PERIOD", 0, "DATASETS.VAL", "[]")
    assert call(*words("out", "SOLVER.MAX_ITER", 3, *short))[0] == 0
    code, output = call(*words("out", *short))
    assert code == 2 and "already holds checkpoints" in output
    broken = tmp_path / "out" / "checkpoint_00000003.pt"
    broken.write_bytes(broken.read_bytes()[:1000])
    code, output = call(*words("out", "SOLVER.MAX_ITER", 4, *short, flags=["--resume"]))
    assert code == 0
    assert "trying the one before" in output and "SOLVER.MAX_ITER: 3 -> 4" in output
    assert load_checkpoint(tmp_path / "out" / "checkpoint_00000004.pt")["iteration"] == 4
    assert [line["iteration"] for line in metrics(tmp_path / "out")] == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_process_group(run, tmp_path, signum):
    process = run("out", "SOLVER.MAX_ITER", 500, "TEST.EVAL_PERIOD", 0)
    wait_for(process, tmp_path / "out", "checkpoint_00000002.pt")
    os.killpg(process.pid, signum)  # the loader's worker gets it too
    output = finish(process, code=128 + signum)
    iteration = int(read_weights(tmp_path / "out" / "model_last.safetensors").metadata["iteration"])
    state = load_checkpoint(tmp_path / "out" / f"checkpoint_{iteration:08d}.pt")
    assert 2 <= state["iteration"] < 500, output


@pytest.mark.slow
def test_two_processes_equal_one(run, call, words, tmp_path):
    # Each process normalises the losses by its own faces, and the set gives every image two of
    # one size: the runs are alike, but not the same.
    options = ("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0, "SOLVER.BASE_LR", "1e-4")
    finish(run("two", *options, launcher=TORCHRUN))
    assert call(*words("one", *options))[0] == 0
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["iteration"] for line in two] == [line["iteration"] for line in one]
    detection = [k for k in one[0] if k.startswith("loss/loss_fcos")]
    assert detection
    for left, right in zip(one[:3], two[:3], strict=True):
        for name in detection:
            assert right[name] == pytest.approx(left[name], rel=0.05), name
    assert one[-1].keys() == two[-1].keys()


@pytest.mark.slow
def test_unreadable_image_is_replaced_and_told(call, words, tmp_path):
    (tmp_path / "data" / "3.png").write_bytes(b"not a picture")
    code, output = call(*words("out", "SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0))
    assert code == 3 and "3.png" in output.splitlines()[-1]
    assert (tmp_path / "out" / "model_final.safetensors").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["SOLVER.BASE_LRR", "1"], "unknown configuration key 'SOLVER.BASE_LRR'.*'SOLVER.BASE_LR'"),
        (["SOLVER.BASE_LR"], "KEY VALUE pairs"),
        (["--config-file", "absent.yaml"], "absent.yaml"),
        (["--runtime", "detectron2"], "detectron2"),
        (["DATASETS.VAL", "[]", "DATASETS.TRAIN", "['absent.json']"], "absent.json"),
        (["DATASETS.VAL", "['absent.json']"], "absent.json"),
        (["DATASETS.VAL", "['no_such_set']"], "no dataset named 'no_such_set'"),
        (["--eval-only"], "MODEL.WEIGHTS names no model file"),
        (["MODEL.DEVICE", "cuda:99"], "cuda"),
    ],
)
def test_run_that_cannot_start(tmp_path, monkeypatch, call, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, error = call(*arguments)
    assert code == 2
    assert re.search(message, error), error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["MODEL.WEIGHTS", "absent.safetensors"], "MODEL.WEIGHTS: there is no file absent"),
        (["MODEL.WEIGHTS", "faces.json"], "faces.json is not a checkpoint"),
        (["SOLVER.IMS_PER_BATCH", "3", "SOLVER.ACCUMULATE", "2"], "IMS_PER_BATCH 3 is not div"),
        (["SOLVER.OPTIMIZER", "RMSprop"], "SOLVER.OPTIMIZER must be"),
        (["SOLVER.AMP.PRECISION", "float8"], "SOLVER.AMP.PRECISION must be"),
        (["MODEL.META_ARCHITECTURE", "Blendmask"], "Did you mean 'BlendMask'"),
        (["TEST.BEST_METRIC", "mask/AP"], "TEST.BEST_METRIC 'mask/AP' is not measured"),
    ],
)
def test_setting_that_cannot_be_used(tmp_path, monkeypatch, call, overrides, message):
    faces = write_set(tmp_path / "data", images=2)
    monkeypatch.chdir(faces.parent)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    sets = ["DATASETS.TRAIN", "['faces.json']", "DATASETS.VAL", "['faces.json']"]
    code, error = call("--config-file", config, *sets, *overrides)
    assert code == 2
    assert message in error
    assert not list(Path("output").glob("*.pt"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("SEED: [1", "line 1"),
        ("SEED: !!python/object/apply:os.system [true]", "python/object/apply:os.system"),
        ("_BASE_: bad.yaml", "leads back to the same file"),
        ("[" * 100_000, "too deeply"),
        ("- 1", "not KEY: VALUE pairs"),
    ],
)
@pytest.mark.parametrize("runtime", ["native", "auto"])
def test_a_configuration_that_is_no_good_yaml(tmp_path, monkeypatch, call, text, message, runtime):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    code, error = call("--runtime", runtime, "--config-file", "bad.yaml")
    assert code == 2
    assert "bad.yaml" in error and message in error and "Traceback" not in error
    assert error.count("\n") == 1


def test_a_folder_in_which_another_run_works(call, words, tmp_path):
    (tmp_path / "out").mkdir()
    with hold_folder(tmp_path / "out"):
        code, error = call(*words("out"))
    assert code == 2 and "another run is writing to" in error and "Traceback" not in error


@pytest.mark.slow
def test_a_lost_process_is_told_in_words(run, call, words, tmp_path):
    """Of the run that is left only half; then it is continued by what is left: one process."""
    options = ("TEST.EVAL_PERIOD", 0, "DATASETS.VAL", "[]")
    process = run("out", "SOLVER.MAX_ITER", 500, *options, launcher=TORCHRUN)
    wait_for(process, tmp_path / "out", "checkpoint_00000002.pt")
    ranks = ranks_of(process.pid)
    os.kill(ranks["1"], signal.SIGKILL)
    output = process.communicate(timeout=240)[0]
    assert process.returncode != 0
    assert "process 0 of 2 has lost another process of the run" in output
    # A loader's worker that the killed process leaves behind may complain of its own
    before = output.split("process 0 of 2 has lost")[0].splitlines()
    theirs = [line for line in before if not line.startswith("[rank1]:")]
    assert not any("Traceback" in line for line in theirs), output
    code, _ = call(*words("out", "SOLVER.MAX_ITER", 3, *options, flags=["--resume"]))
    assert code == 0
    assert not list((tmp_path / "out").rglob(".*"))


def ranks_of(launcher):
    """Rank -> process id of what torchrun started."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(warm_start.RANK):
                found[process.name().removeprefix(warm_start.RANK)] = process.pid
            elif process.ppid() == launcher and "RANK" in process.environ():
                found[process.environ()["RANK"]] = process.pid
    return found


def test_torchvision_weights_start_the_backbone(tmp_path, caplog):
    from torchvision.models import resnet18

    from comics.config import load_config
    from comics.engine.train import load_initial_weights
    from comics.integrations.weights import load_foreign_weights
    from comics.modeling.build import build_model

    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    source = resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    model = build_model(load_config(config, ["MODEL.RESNETS.NORM", "FrozenBN"]))
    load_initial_weights(model, str(tmp_path / "resnet18.pth"), load_foreign_weights)
    state = model.detector.backbone.bottom_up.state_dict()
    assert torch.equal(state["stem.conv.weight"], source.conv1.weight)
    assert torch.equal(state["res5.1.conv2.conv.weight"], source.layer4[1].conv2.weight)
    assert "keep their initial values" in caplog.text

    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth: none of its 1 tensors is known"):
        load_initial_weights(model, str(tmp_path / "other.pth"), load_foreign_weights)
