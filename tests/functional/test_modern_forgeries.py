"""Generated donors and networks through the commands, in-process."""

import importlib.util
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from comics.cli import run_command
from comics.data.faces.manifest_files import read_manifest, write_manifest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
make_dataset = partial(run_command, "make_dataset", "make_dataset")
SMALL = ("--train", "4", "--val", "1", "--test-dev", "1", "--test-challenge", "0")
SMALL += ("--size", "128", "--quiet", "--workers", "0", "--fake-share", "1")


def prepare_neural_pairs(arguments):
    path = ROOT / "datasets/prepare_neural_pairs.py"
    spec = importlib.util.spec_from_file_location("prepare_neural_pairs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(part) for part in arguments])


def network(path, factor):
    """image -> factor * image."""
    value = numpy_helper.from_array(np.array(factor, np.float32), "a")
    shape = ("n", 3, "h", "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["image", "a"], ["out"])],
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [value],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def smooth(seed, size):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture
def donors(tmp_path):
    folder = tmp_path / "donors"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(smooth(number, 64)).save(folder / f"{number}.png")
    return folder


def annotations(folder, split="train"):
    return json.loads((folder / f"{split}.json").read_text())


def run(output, *arguments):
    return make_dataset([str(part) for part in ("--output", output, *SMALL, *arguments)])


def test_donors_and_networks_make_sets(tmp_path, donors, capsys):
    (donors / "broken.png").write_bytes(b"no picture")
    pair = network(tmp_path / "encoder.onnx", 0.5), network(tmp_path / "decoder.onnx", 2.0)
    out = tmp_path / "out"
    methods = ("generated_swap", "neural_trace", "neural_mix")
    arguments = ("--methods", *methods, "--donors", donors, "--network", *pair, "--viewer", "0.9")
    assert run(out, *arguments) == 0
    assert "broken.png" in capsys.readouterr().err
    content = annotations(out)
    info = content["info"]
    assert sum(info["donors"]["counts"].values()) == 12
    assert info["network"]["files"] == ["encoder.onnx", "decoder.onnx"]
    used = {a["method"] for a in content["annotations"] if not a["iscrowd"]}
    assert used <= {*methods, "self_blend"} and used & set(methods)
    assert sum(info["methods"].values()) == sum(not a["iscrowd"] for a in content["annotations"])
    assert any("viewer" in image for image in content["images"])
    for annotation in content["annotations"]:
        if annotation["iscrowd"]:
            continue
        altered = coco_mask.decode(annotation["forgery"]["altered"])
        face = coco_mask.decode(annotation["segmentation"])
        assert altered.any() and not (altered & ~face & 1).any()
    before = {path: path.read_bytes() for path in out.rglob("*.jp*g")}
    assert run(tmp_path / "again", *arguments) == 0
    for path, data in before.items():
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == data


def test_a_way_to_the_viewer_does_not_know_the_label(tmp_path):
    """The same seed, all faces real or all forged: the same ways, the same sizes."""
    ways = []
    for share in ("0", "1"):
        out = tmp_path / share
        assert run(out, "--methods", "down_up", "--viewer", "1", "--fake-share", share) == 0
        images = annotations(out)["images"]
        ways.append([(i["viewer"], i["width"], i["height"], i["jpeg_quality"]) for i in images])
        faces = [a for a in annotations(out)["annotations"] if not a["iscrowd"]]
        assert {a["category_id"] for a in faces} == {int(share)}
    assert ways[0] == ways[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--methods", "generated_swap"), "--donors"),
        (("--methods", "neural_trace"), "--network"),
        (("--methods", "generated_swap", "--donors", "{empty}"), "no picture in it"),
        (("--methods", "generated_swap", "--donors", "{broken}"), "none of 1 donors can be read"),
        (("--methods", "generated_swap", "--donors", "{absent}"), "no such folder"),
        (("--methods", "neural_mix", "--network", "{one}"), "needs an encoder and a decoder"),
        (("--methods", "neural_trace", "--network", "{nan}"), "nan.onnx: returns NaN"),
        (("--viewer", "2"), "viewer must be in"),
    ],
)
def test_bad_input_stops_before_anything_is_written(tmp_path, capsys, arguments, words):
    places = {name: tmp_path / name for name in ("empty", "broken", "absent")}
    places["empty"].mkdir()
    places["broken"].mkdir()
    (places["broken"] / "a.png").write_bytes(b"no picture")
    places["one"] = network(tmp_path / "one.onnx", 1.0)
    places["nan"] = network(tmp_path / "nan.onnx", float("nan"))
    out = tmp_path / "out"
    assert run(out, *(part.format(**places) for part in arguments)) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def faces(tmp_path):
    """Eight real crops and two frames with boxes; one picture is broken, one face is small."""
    rows = []
    for number in range(8):
        name = f"{number}.png"
        Image.fromarray(smooth(number, 150)).save(tmp_path / name)
        split = "val" if number == 7 else "train"
        row = {"path": name, "label": "real", "video": f"v{number}", "split": split}
        if number in (1, 2):
            side = 20 if number == 1 else 90
            row |= {"x0": 30, "y0": 30, "x1": 30 + side, "y1": 30 + side}
        rows.append(row)
    (tmp_path / "0.png").write_bytes(b"no picture")
    rows.append({"path": "3.png", "label": "fake", "method": "swap", "split": "train"})
    write_manifest(tmp_path / "faces.csv", rows)
    return tmp_path / "faces.csv"


def test_pairs_of_crops(tmp_path, faces, capsys):
    file = network(tmp_path / "half.onnx", 0.5)
    out = tmp_path / "pairs"
    arguments = [faces, "--network", file, "--output", out, "--train", 10, "--val", 1]
    arguments += ["--sides", 64, 96, "--whole-share", 0.5]
    assert prepare_neural_pairs(arguments) == 3
    errors = capsys.readouterr().err
    assert "0.png" in errors and "its window is 26 pixels" in errors
    manifest = read_manifest(out / "faces.csv")
    assert len(manifest) == 2 * (8 - 2)
    masked = []
    for index in range(len(manifest)):
        row = manifest[index]
        picture = Image.open(row.path)
        assert picture.width == picture.height and picture.width % 8 == 0
        assert 64 <= picture.width <= 96
        if row.label == 0:
            continue
        real = Image.open(row.paired_real)
        # The same JPEG tables on both sides: nothing but the network tells them apart
        assert real.quantization == picture.quantization and real.size == picture.size
        mask = coco_mask.decode(json.loads(row.mask)).astype(bool)
        one, two = (np.asarray(p, dtype=float).mean(-1) for p in (real, picture))
        assert abs(two[mask].mean() / one[mask].mean() - 0.5) < 0.12
        if not mask.all():
            corner = np.s_[:8, :8]
            assert np.abs(one[corner] - two[corner]).mean() < 3
        masked.append(not mask.all())
        assert manifest.name(index, "method") == "neural_trace"
    assert {manifest.name(i, "split") for i in range(len(manifest))} == {"train", "val"}
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert prepare_neural_pairs(arguments) == 3  # takes up what is there, tries the faulty again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")} == stamps
    assert prepare_neural_pairs([*arguments, "--seed", 5]) == 2
    assert "other arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--sides", 60, 96], "multiples of 8"),
        (["--test", 3], "no real face of the split 'test'"),
        (["--train", 0], "must ask for pairs"),
    ],
)
def test_wrong_arguments_of_the_preparer(tmp_path, faces, capsys, change, words):
    file = network(tmp_path / "half.onnx", 0.5)
    out = tmp_path / "pairs"
    arguments = [faces, "--network", file, "--output", out, "--train", 1, *change]
    assert prepare_neural_pairs(arguments) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()
