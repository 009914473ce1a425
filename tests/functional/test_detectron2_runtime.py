"""tools/train_net.py --runtime detectron2 on a set of coloured rectangles, as a user runs it."""

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

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402

from comics.modeling.build import load_model  # noqa: E402
from comics.modeling.weights import read_weights  # noqa: E402

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"
NATIVE_TESTS = Path(__file__).with_name("test_train_net.py")
WAIT_SECONDS = 900
SHORT = ("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0)


def load_module(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def native():
    """The configuration and the set of the native runtime's tests."""
    return load_module("native_tests", NATIVE_TESTS)


@pytest.fixture
def words(tmp_path, native):
    """The command line for a run on a small set, whose results go to a folder of that name."""
    config = tmp_path / "config.yaml"
    config.write_text(native.CONFIG)
    faces = native.write_set(tmp_path / "data")

    def command_line(output, *overrides, flags=(), runtime="detectron2"):
        sets = (("DATASETS." + part, f"['{faces}']") for part in ("TRAIN", "VAL", "TEST"))
        place = ("OUTPUT_DIR", tmp_path / output)
        words = ("--config-file", config, "--runtime", runtime, *flags, *place,
                 *itertools.chain(*sets), *overrides)  # fmt: skip
        return [str(word) for word in words]

    yield command_line
    if str(faces) in DatasetCatalog.list():
        DatasetCatalog.remove(str(faces))
        MetadataCatalog.remove(str(faces))


@pytest.fixture
def call(capsys):
    """Runs the tool in this process, with one thread: exit code and what it wrote to stderr."""

    def run_here(*arguments):
        code = load_module("train_net", TOOL).main([str(argument) for argument in arguments])
        return code, capsys.readouterr().err

    loggers = [logging.getLogger(name) for name in ("comics", "detectron2", "fvcore")]
    before = [(one.level, one.propagate) for one in loggers]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run_here
    torch.set_num_threads(threads)
    for one, (level, propagate) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.propagate = propagate
        for handler in list(one.handlers):
            one.removeHandler(handler)
            handler.close()


@pytest.fixture
def start():
    """Starts the tool as a process of its own group; whatever still runs at the end is killed."""
    processes = []

    def run(*arguments, launcher=()):
        process = subprocess.Popen(
            [sys.executable, *launcher, str(TOOL), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def finish(process, code=0):
    output = process.communicate(timeout=WAIT_SECONDS)[0]
    assert process.returncode == code, output
    return output


def wait_for(process, path):
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def largest_gap(one, other):
    one, other = read_weights(one).state, read_weights(other).state
    assert one.keys() == other.keys()
    return max((one[key].float() - other[key].float()).abs().max().item() for key in one)


def logged(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
def test_both_runtimes_train_the_same_model(call, words, tmp_path):
    code, output = call(*words("theirs", *SHORT))
    assert code == 0 and "runtime: detectron2" in output.splitlines()[0]
    assert call(*words("ours", *SHORT, runtime="native"))[0] == 0
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    found = logged(theirs, "metrics.json")
    expected = [line for line in logged(ours, "metrics.jsonl") if "loss/total" in line]
    for left, right in zip(found, expected, strict=False):
        assert left["total_loss"] == pytest.approx(right["loss/total"], abs=1e-4)
        for name, value in right.items():
            if name.startswith("loss/loss_"):
                assert left[name.removeprefix("loss/")] == pytest.approx(value, abs=1e-4), name
    assert largest_gap(theirs / "model_final.safetensors", ours / "model_final.safetensors") < 1e-4
    # What one has written the other reads
    load_model(theirs / "model_final.safetensors")
    config = ("--config-file", theirs / "config.yaml", "--eval-only", "--weights")
    results = []
    for runtime in ("native", "detectron2"):
        place = ("OUTPUT_DIR", tmp_path / runtime)
        weights = theirs / "model_final.safetensors"
        assert call(*config, weights, "--runtime", runtime, *place)[0] == 0
        results.append(json.loads((tmp_path / runtime / "inference" / "faces.json").read_text()))
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-4)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_end(start, call, words, tmp_path):
    assert call(*words("straight"))[0] == 0
    names = {path.name for path in (tmp_path / "straight").iterdir()}
    assert {"config.yaml", "log.txt", "metrics.json", "last_checkpoint", "model_final.pth",
            "model_best.safetensors", "model_final.safetensors"} <= names  # fmt: skip
    process = start(*words("cut"))
    wait_for(process, tmp_path / "cut" / "last_checkpoint")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "model_final.safetensors").exists()
    code, error = call(*words("cut"))
    assert code == 2 and "already holds checkpoints" in error
    code, error = call(*words("cut", flags=["--resume"]))
    assert code == 0 and "resumed after iteration" in error
    for name in ("model_best.safetensors", "model_final.safetensors"):
        assert largest_gap(tmp_path / "straight" / name, tmp_path / "cut" / name) == 0


SEVERAL = ("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 0)
TWO = ("--num-gpus", "2")


@pytest.mark.slow
def test_several_processes_by_launch_and_by_torchrun(start, words, tmp_path):
    output = finish(start(*words("launched", *SEVERAL, flags=TWO)))
    assert re.search(r"wrote .*launched/model_final\.safetensors", output)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    finish(start(*words("torchrun", *SEVERAL), launcher=torchrun))
    launched, torchrun = tmp_path / "launched", tmp_path / "torchrun"
    gap = largest_gap(launched / "model_final.safetensors", torchrun / "model_final.safetensors")
    assert gap < 1e-4
    one, other = logged(launched, "metrics.json"), logged(torchrun, "metrics.json")
    assert one[0]["total_loss"] == pytest.approx(other[0]["total_loss"], abs=1e-4)
    results = [
        json.loads((f / "inference" / "faces.json").read_text()) for f in (launched, torchrun)
    ]
    assert [r["image_id"] for r in results[0]] == [r["image_id"] for r in results[1]]


@pytest.mark.slow
def test_fault_of_a_launched_process_is_told_by_the_first(start, words):
    output = finish(start(*words("out", "SOLVER.IMS_PER_BATCH", 3, flags=TWO)), code=2)
    assert "IMS_PER_BATCH 3 is not divisible by 2 processes" in output.splitlines()[-1]


@pytest.mark.slow
def test_signal_to_the_launching_process_alone(start, words, tmp_path):
    endless = ("SOLVER.MAX_ITER", 500, "TEST.EVAL_PERIOD", 0, "DATALOADER.NUM_WORKERS", 0)
    process = start(*words("out", *endless, flags=TWO))
    wait_for(process, tmp_path / "out" / "last_checkpoint")
    process.send_signal(signal.SIGTERM)
    output = finish(process, code=128 + signal.SIGTERM)
    file = read_weights(tmp_path / "out" / "model_last.safetensors")
    assert 2 <= int(file.metadata["iteration"]) < 500, output


@pytest.mark.slow
def test_signal_to_the_process_group(start, words, tmp_path):
    process = start(*words("out", "SOLVER.MAX_ITER", 500, "TEST.EVAL_PERIOD", 0))
    wait_for(process, tmp_path / "out" / "last_checkpoint")
    os.killpg(process.pid, signal.SIGTERM)  # the loader's worker gets it too
    output = finish(process, code=128 + signal.SIGTERM)
    file = read_weights(tmp_path / "out" / "model_last.safetensors")
    assert 2 <= int(file.metadata["iteration"]) < 500, output


@pytest.mark.slow
def test_unreadable_image_is_replaced_and_told(call, words, tmp_path):
    (tmp_path / "data" / "3.png").write_bytes(b"not a picture")
    code, output = call(*words("out", *SHORT))
    assert code == 3 and "3.png" in output.splitlines()[-1]
    assert (tmp_path / "out" / "model_final.safetensors").exists()


@pytest.mark.slow
def test_detectron2s_own_rcnn_trains_with_comics(call, words, tmp_path):
    from detectron2 import model_zoo

    path = model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    tiny = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.DEVICE", "cpu",
            "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.WEIGHTS", "",
            "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16,
            "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", 96, "SOLVER.STEPS", "()",
            "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.001, "DATALOADER.NUM_WORKERS", 0,
            "MODEL.COMICS.PROPOSAL.MATCH_IOU", 0.5, "LOG.PERIOD", 1)  # fmt: skip
    base = words("out", *SHORT, *tiny, "MODEL.META_ARCHITECTURE", "COMICSGeneralizedRCNN")
    base[1] = path
    code, output = call(*base)
    assert code == 0, output
    (first, *_) = logged(tmp_path / "out", "metrics.json")
    assert {"loss_rpn_cls", "loss_mask", "loss_proposal_contrast", "loss_pixel_intra"} <= set(first)
    weights = tmp_path / "out" / "model_final.safetensors"
    again = ["--config-file", tmp_path / "out" / "config.yaml", "--runtime", "detectron2",
             "--eval-only", "--weights", weights, "OUTPUT_DIR", tmp_path / "again"]  # fmt: skip
    assert call(*again)[0] == 0
    assert (tmp_path / "again" / "inference" / "faces.json").exists()
    code, error = call(*again[:2], "--runtime", "native")
    assert code == 2 and "COMICSGeneralizedRCNN needs --runtime detectron2" in error


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SOLVER.BASE_LRR", "1"], "unknown configuration key 'SOLVER.BASE_LRR'"),
        (["MODEL.META_ARCHITECTURE", "Blendmask"], "Did you mean 'BlendMask'"),
        (["MODEL.META_ARCHITECTURE", "FaceMethod"], "--runtime native"),
        (["MODEL.META_ARCHITECTURE", "FaceForensics"], "not trained as a whole"),
        (["DATASETS.TRAIN", "['absent.json']"], "absent.json"),
        (["DATASETS.VAL", "['no_such_set']"], "no dataset named 'no_such_set'"),
        (["MODEL.WEIGHTS", "absent.safetensors"], "MODEL.WEIGHTS: there is no file absent"),
        (["SOLVER.IMS_PER_BATCH", "3", "SOLVER.ACCUMULATE", "2"], "IMS_PER_BATCH 3 is not div"),
        (["SOLVER.OPTIMIZER", "RMSprop"], "SOLVER.OPTIMIZER must be"),
        (["SOLVER.AMP.PRECISION", "float8"], "SOLVER.AMP.PRECISION must be"),
        (["TEST.BEST_METRIC", "mask/AP"], "TEST.BEST_METRIC 'mask/AP' is not measured"),
    ],
)
def test_setting_that_cannot_be_used(tmp_path, monkeypatch, call, words, overrides, message):
    monkeypatch.chdir(tmp_path)
    code, error = call(*words("out", *overrides))
    assert code == 2
    assert message in error and "Traceback" not in error
    assert not list((tmp_path / "out").glob("*.pth"))


def test_a_run_of_the_native_runtime_is_not_overwritten(tmp_path, call, words):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint_00000002.pt").write_bytes(b"")
    code, error = call(*words("out"))
    assert code == 2 and "holds a run of the native runtime" in error


def test_auto_takes_detectron2_where_it_works(tmp_path, call, words):
    code, error = call(*words("out", "DATASETS.VAL", "['absent.json']", runtime="auto"))
    assert code == 2 and "runtime: detectron2" in error.splitlines()[0]
