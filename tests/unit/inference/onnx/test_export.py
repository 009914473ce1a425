"""Exported models, beside the same models in PyTorch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import comics
from comics.config import load_config, load_config_text
from comics.files import file_sha256
from comics.inference.load import load_predictor
from comics.modeling.build import build_model, load_model
from comics.modeling.weights import save_weights
from comics.pipeline import combine_files
from comics.registry import DETECTORS

onnx = pytest.importorskip("onnx", reason="exporting needs the extra 'onnx'")
pytest.importorskip("onnxruntime", reason="exported models need ONNX Runtime")

from comics.inference.onnx import export as export_module  # noqa: E402
from comics.inference.onnx.export import DifferenceError, compare, export_model  # noqa: E402
from comics.inference.onnx.graphs import Graph, detector_graphs  # noqa: E402
from comics.inference.onnx.models import OnnxFaceMethod  # noqa: E402
from comics.inference.onnx.predictor import OnnxPredictor  # noqa: E402
from comics.inference.onnx.sessions import opener  # noqa: E402

QUICK = "COMICSBlendMask"  # one of the detectors stands for all
# So that a network of random weights finds faces whose scores differ
EAGER = [
    "MODEL.FCOS.PRIOR_PROB", "0.3", "MODEL.MEInst.PRIOR_PROB", "0.3",
    "MODEL.SOLOV2.PRIOR_PROB", "0.3", "MODEL.SOLO.PRIOR_PROB", "0.3",
    "MODEL.RETINANET.PRIOR_PROB", "0.3", "TEST.SCORE_THRESH", "0.05",
    "MODEL.COMICS.FEA.RESIDUAL", "True",  # what multiplies alone halves small random features
    "INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "192",
]  # fmt: skip
EAGER_LAYERS = ("logits", "attention", "controller", "code", "distances", "deltas", "kernels",
                "head.masks")  # fmt: skip
FACE = ["MODEL.META_ARCHITECTURE", "FaceMethod", "MODEL.FACE.ENCODER", "SmallResNet",
        "MODEL.FACE.CROP_SIZE", "32"]  # fmt: skip
BATCHES = [(1, (140, 200)), (3, (225, 130))]  # number of images, their size
TOLERANCE = 1e-4
CALIBRATION_STEPS = 30  # with a momentum of 0.1, what is left of the initial statistics is 4 %


def save_eager(path, cfg, metadata=None, calibrated=False):
    """A model file of random weights whose predictions vary.

    ``calibrated``: norms know the statistics of noise. Those of a fresh deep network let rounding
    errors grow from layer to layer, which no trained network does.
    """
    torch.manual_seed(0)
    model = build_model(cfg)
    if calibrated:
        model.encoder.train()
        with torch.no_grad():
            for _ in range(CALIBRATION_STEPS):
                model.encoder(torch.randn(8, 3, 64, 64))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and any(layer in name for layer in EAGER_LAYERS):
            parameter.data.mul_(5)
        if name.endswith("iou.bias"):  # predicted quality of masks, which multiplies scores
            parameter.data.fill_(0.6)
        if ".offset." in name:  # deformable convolutions start from the regular grid
            torch.nn.init.normal_(parameter, std=0.1)
    state = getattr(model, "inference_state_dict", model.state_dict)()
    save_weights(path, state, cfg, metadata or {})
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_config):
    """Function: architecture, keys and values -> model file and ONNX file, made once."""
    made = {}

    def export(name, *overrides):
        if (name, overrides) not in made:
            folder = tmp_path_factory.mktemp(name)
            cfg = tiny_config(name, *EAGER, *overrides)
            weights = save_eager(folder / "model.safetensors", cfg, {"iteration": "7"})
            # Where to sample is computed too, so rounding is amplified: 1.1e-4 was seen on a
            # processor without AVX-512
            deformable = "MODEL.MEInst.USE_DEFORMABLE" in overrides
            tolerance = 2 * TOLERANCE if deformable else TOLERANCE
            files = export_model(weights, folder, tolerance)
            assert all(file.difference <= tolerance for file in files)
            made[name, overrides] = weights, files[0].path
        return made[name, overrides]

    return export


@pytest.fixture(scope="module")
def exported_face(tmp_path_factory):
    """Function: face method -> model file and ONNX file, made once."""
    made = {}

    def export(method, *overrides):
        if method not in made:
            cfg = load_config(overrides=[*FACE, "MODEL.FACE.METHOD", method, *overrides])
            folder = tmp_path_factory.mktemp(method)
            weights = save_eager(folder / "face.safetensors", cfg, {"temperature": "1.5"})
            made[method] = weights, export_model(weights, folder / "face.onnx")[0].path
        return made[method]

    return export


def pictures(count, size, seed=0):
    """Noise over smooth patches, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 206, (count, 5, 5, 3))
    rows, columns = (np.arange(side) * 5 // side for side in size)
    return list((coarse[:, rows][:, :, columns] + rng.integers(0, 50, (count, *size, 3))).astype(
        np.uint8
    ))  # fmt: skip


def tensors(arrays):
    return [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]


def assert_same(found, expected, outliers=0.0):
    """Same faces in the same order; boxes relative to the image; a share of scores may differ."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.image_size == theirs.image_size
        assert torch.equal(ours.labels, theirs.labels)
        scale = max(ours.image_size)
        torch.testing.assert_close(ours.boxes / scale, theirs.boxes / scale, rtol=0, atol=TOLERANCE)
        off = (ours.scores - theirs.scores).abs() > TOLERANCE
        assert off.sum() <= outliers * len(off)
        if theirs.fake_probability is not None:
            torch.testing.assert_close(
                ours.fake_probability, theirs.fake_probability, rtol=0, atol=TOLERANCE
            )
        assert (ours.masks is None) == (theirs.masks is None)
        if theirs.masks is not None:  # a pixel whose value is the threshold may go either way
            assert (ours.masks ^ theirs.masks).sum() <= 1e-4 * theirs.masks.sum()


def test_a_detector_finds_the_same(exported, any_detector):
    weights, path = exported(any_detector)
    model, _, _ = load_model(weights)
    ours = load_predictor(path, "cpu")
    assert isinstance(ours, OnnxPredictor)
    for count, size in BATCHES:
        images = tensors(pictures(count, size))
        sizes = [(size[0] * 2, size[1] + 30)] * count
        with torch.no_grad():
            expected = model(images, output_sizes=sizes)
        assert all(len(faces) > 3 for faces in expected)
        assert any(faces.masks is not None and faces.masks.any() for faces in expected) == (
            "FCOS" not in any_detector
        )
        # A cell at the threshold of a mask is part of its mean score, or is not
        outliers = 0.02 if "SOLO" in any_detector else 0.0
        assert_same(ours.model(images, output_sizes=sizes), expected, outliers)
    theirs = load_predictor(weights, "cpu")
    for image in pictures(2, (300, 250)):  # verdicts
        assert_same(ours.predict([image]), theirs.predict([image]))


def test_images_of_several_sizes_keep_their_order(exported):
    _, path = exported(QUICK)
    detector = load_predictor(path, "cpu").model
    images = [
        *tensors(pictures(1, (140, 200))),
        *tensors(pictures(1, (96, 64), 1)),
        *tensors(pictures(1, (140, 200), 2)),
        torch.zeros(3, 1, 5, dtype=torch.uint8),
    ]
    together = detector(images)
    alone = [detector([image])[0] for image in images]
    assert_same(together, alone)
    assert [faces.image_size for faces in together] == [(140, 200), (96, 64), (140, 200), (1, 5)]
    assert detector([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (33, 3)])
def test_tiny_images_are_legal(exported, size):
    weights, path = exported(QUICK)
    model, _, _ = load_model(weights)
    image = tensors(pictures(1, size))
    with torch.no_grad():
        expected = model(image)
    assert [len(f) for f in load_predictor(path, "cpu").model(image)] == [len(f) for f in expected]


@pytest.mark.parametrize("image", [torch.zeros(1, 8, 8), torch.zeros(3, 0, 8), torch.zeros(3, 8)])
def test_malformed_images_are_named(exported, image):
    detector = load_predictor(exported(QUICK)[1], "cpu").model
    with pytest.raises(ValueError, match="image 1 of the batch must be"):
        detector([torch.zeros(3, 8, 8), image])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DCNv1", "DCNv2"])
def test_deformable_and_global_convolutions(exported, kind):
    weights, path = exported(
        "MEInst", "MODEL.MEInst.USE_DEFORMABLE", "True", "MODEL.MEInst.TYPE_DEFORMABLE", kind,
        "MODEL.MEInst.USE_GCN_IN_MASK", str(kind == "DCNv2"),
    )  # fmt: skip
    images = pictures(1, (140, 200))
    expected = load_predictor(weights, "cpu").predict(images)
    assert len(expected[0])
    assert_same(load_predictor(path, "cpu").predict(images), expected)


def test_attention_that_reads_features(exported):
    weights, path = exported(
        "COMICSBlendMask", "MODEL.COMICS.FEA.SOURCES", "['image', 'features']",
        "MODEL.COMICS.FEA.RESIDUAL", "False",
    )  # fmt: skip
    for count, size in BATCHES:
        images = tensors(pictures(count, size))
        with torch.no_grad():
            expected = load_model(weights)[0](images)
        assert all(len(faces) for faces in expected)
        assert_same(load_predictor(path, "cpu").model(images), expected)


@pytest.mark.slow
def test_without_masks_their_maps_are_not_computed(exported):
    weights, path = exported("BlendMask", "MODEL.MASK_ON", "False")
    predictor = load_predictor(path, "cpu")
    assert not any("bases" in name for name in predictor.model.session.outputs)
    images = pictures(1, (140, 200))
    assert_same(predictor.predict(images), load_predictor(weights, "cpu").predict(images))


@pytest.mark.parametrize("method", ["CrossEntropy", "DCL"])
def test_a_face_method_says_the_same(exported_face, method):
    weights, path = exported_face(method)
    model, cfg, _ = load_model(weights)
    face = OnnxFaceMethod(opener("onnx")(path), cfg.MODEL.FACE.CROP_SIZE)
    generator = torch.Generator().manual_seed(3)
    for count, side in ((1, 32), (5, 48)):
        crops = torch.rand(count, 3, side, side, generator=generator) * 255
        with torch.no_grad():
            expected = model(crops)
        torch.testing.assert_close(face(crops), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert expected.std() > 1e-3
    assert face(crops[:0]).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "calibrated"), [("efficientnet_b0", False), ("legacy_xception", True)]
)
def test_encoders_of_the_papers(tmp_path, encoder, calibrated):
    own = ["MODEL.FACE.ENCODER", encoder, "MODEL.FACE.CROP_SIZE", "64"]
    cfg = load_config(overrides=[*FACE, *own])
    weights = save_eager(tmp_path / "face.safetensors", cfg, calibrated=calibrated)
    (file,) = export_model(weights, tmp_path)
    assert file.difference <= TOLERANCE


def test_two_onnx_files_make_a_pipeline(exported, exported_face):
    (weights, path), (face_weights, face_path) = exported(QUICK), exported_face("CrossEntropy")
    theirs = load_predictor(weights, "cpu", face_weights=face_weights)
    ours = load_predictor(path, "cpu", face_weights=face_path)
    images = pictures(2, (225, 130))
    expected = theirs.predict(images)
    assert all(len(faces) for faces in expected)
    assert_same(ours.predict(images), expected)
    parts = ours.provenance["parts"]
    assert parts["face"]["exported_from_sha256"] == file_sha256(face_weights)
    assert parts["face"]["weights_sha256"] == file_sha256(face_path)
    assert ours.looks_at_faces and not ours.has_heat_maps and theirs.has_heat_maps
    with pytest.raises(ValueError, match="heat maps need gradients"):
        ours.heat_maps(images[0], expected[0])


@pytest.mark.slow
def test_a_joined_model_is_one_export(exported, exported_face, tmp_path):
    pair = combine_files(exported("FCOS")[0], exported_face("CrossEntropy")[0])
    weights = tmp_path / "joined.safetensors"
    save_weights(weights, pair.state, pair.cfg, {**pair.metadata, "temperature": "2.0"})
    files = export_model(weights, tmp_path / "out" / "joined.onnx")
    assert [file.path.name for file in files] == ["joined.onnx", "joined.face.onnx"]
    images = pictures(1, (140, 200))
    expected = load_predictor(weights, "cpu").predict(images)
    assert len(expected[0])
    assert_same(load_predictor(files[0].path, "cpu").predict(images), expected)
    files[1].path.unlink()
    with pytest.raises(FileNotFoundError, match=r"joined\.face\.onnx"):
        load_predictor(files[0].path, "cpu")


def test_the_file_says_what_it_is(exported):
    weights, path = exported(QUICK)
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    onnx.checker.check_model(path)
    assert load_config_text(properties["config"]) == load_model(weights)[1]
    assert properties["weights_sha256"] == file_sha256(weights)
    assert properties["version"] == comics.__version__
    assert json.loads(properties["class_names"]) == ["real", "fake"]
    assert (properties["score_threshold"], properties["fake_threshold"]) == ("0.05", "0.5")
    assert properties["temperature"] == "1.0"
    for private in (str(weights.parent), export_module.__file__, "site-packages"):
        assert private.encode() not in path.read_bytes()


def test_provenance_names_both_files_and_the_runtime(exported):
    weights, path = exported(QUICK)
    provenance = load_predictor(path, "cpu", fake_threshold=0.7).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert (provenance["model"], provenance["weights"]) == (QUICK, "model.onnx")
    assert provenance["weights_sha256"] == file_sha256(path)
    assert provenance["weights_metadata"] == {
        "exported_from": "model.safetensors",
        "exported_from_sha256": file_sha256(weights),
        "iteration": "7",
    }
    assert (provenance["device"], provenance["fake_threshold"]) == ("cpu", 0.7)
    assert provenance["onnxruntime"]


def test_the_model_file_is_not_needed_any_more(exported, tmp_path):
    _, path = exported(QUICK)
    alone = tmp_path / "renamed.onnx"
    alone.write_bytes(path.read_bytes())
    images = pictures(1, (140, 200))
    assert_same(load_predictor(alone, "cpu").predict(images), load_predictor(path).predict(images))


def test_the_same_model_file_gives_the_same_bytes(exported_face, tmp_path):
    weights, path = exported_face("CrossEntropy")
    program = (
        "import sys; from comics.inference.onnx.export import export_model\n"
        "export_model(*sys.argv[1:])"
    )
    again = tmp_path / "face.onnx"
    subprocess.run([sys.executable, "-c", program, weights, again], check=True)
    assert again.read_bytes() == path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["face.onnx"]


def test_a_graph_that_differs_is_not_written(exported_face, tmp_path):
    weights, _ = exported_face("CrossEntropy")
    output = tmp_path / "face.onnx"
    output.write_bytes(b"older")
    with pytest.raises(DifferenceError, match=r"face\.onnx differs from the model by .*e-"):
        export_model(weights, output, tolerance=-1.0)
    assert output.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["face.onnx"]


class Runs:
    """A session that gives fixed outputs."""

    def __init__(self, *outputs):
        self.outputs = outputs

    def run(self, *inputs):
        return self.outputs


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        ([1.0, -4.0], 0.0),
        ([1.0, -4.2], 0.05),  # of the largest value, 4
        ([1.0, float("nan")], float("inf")),
        ([1.0, -4.0, 0.0], float("inf")),
    ],
)
def test_differences(found, difference):
    class Module(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, -4.0]), torch.zeros(2) + 0.5

    graph = Graph(Module(), {}, {}, (), ({"x": torch.zeros(1)},))
    value = compare(graph, Runs(torch.tensor(found), torch.zeros(2) + 0.5))
    assert value == pytest.approx(difference)
    assert compare(graph, Runs(torch.tensor([1.0, -4.0]), torch.full((2,), 0.75))) == 0.25


def change_metadata(path, target, **changes):
    model = onnx.load(path)
    properties = {p.key: p.value for p in model.metadata_props} | changes
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in properties.items() if v is not None})
    onnx.save(model, target)
    return target


def test_files_that_cannot_be_used_are_named(exported_face, tmp_path):
    _, path = exported_face("CrossEntropy")
    with pytest.raises(FileNotFoundError, match=r"no model file at .*absent\.onnx"):
        load_predictor(tmp_path / "absent.onnx", "cpu")
    whole = path.read_bytes()
    for number, content in enumerate((b"", b"not a model", whole[:-2000], whole[:100])):
        broken = tmp_path / f"broken{number}.onnx"
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=rf"broken{number}\.onnx"):
            load_predictor(broken, "cpu")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out]
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    other = onnx.helper.make_model(graph, ir_version=10, opset_imports=opsets)
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx is an ONNX file, but not of this program"):
        load_predictor(tmp_path / "other.onnx", "cpu")
    later = change_metadata(path, tmp_path / "later.onnx", comics_format="99")
    with pytest.raises(ValueError, match=r"later\.onnx has format 99"):
        load_predictor(later, "cpu")
    with pytest.raises(ValueError, match="holds a face method, which finds no faces"):
        load_predictor(path, "cpu")


def test_weights_of_the_selection_must_fit(exported, tmp_path):
    _, path = exported(QUICK)
    for name, text in (("none", None), ("odd", "!"), ("cut", "AAAA")):
        changed = change_metadata(path, tmp_path / f"{name}.onnx", selection_weights=text)
        with pytest.raises(ValueError, match=rf"{name}\.onnx: its selection weights"):
            load_predictor(changed, "cpu")


def test_further_graphs_must_be_of_the_same_export(exported, exported_face, tmp_path):
    (weights, path), (face_weights, face_path) = exported(QUICK), exported_face("CrossEntropy")
    config = combine_files(weights, face_weights).cfg.dump()
    joined = tmp_path / "joined.onnx"
    parts = json.dumps({"face": file_sha256(face_path)})
    temperatures = json.dumps({"detector": 1.0, "face": 1.5})
    change_metadata(path, joined, config=config, parts=parts, temperatures=temperatures)
    with pytest.raises(FileNotFoundError, match=r"joined\.face\.onnx"):
        load_predictor(joined, "cpu")
    (tmp_path / "joined.face.onnx").write_bytes(face_path.read_bytes())
    images = pictures(1, (225, 130))
    expected = load_predictor(path, "cpu", face_weights=face_path).predict(images)
    assert_same(load_predictor(joined, "cpu").predict(images), expected)
    change_metadata(path, joined, config=config, parts=json.dumps({"face": "0" * 64}))
    with pytest.raises(ValueError, match=r"joined\.face\.onnx does not belong to"):
        load_predictor(joined, "cpu")


def test_options_that_are_pytorchs_are_refused(exported, exported_face):
    _, path = exported(QUICK)
    for options, reason in (
        ({"amp": True}, "mixed precision is PyTorch's"),
        ({"compiled": True}, "compilation is PyTorch's"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"face_weights": exported_face("CrossEntropy")[0]}, "must be one"),
        ({"face_weights": path}, "a face method is needed here"),
        ({"score_threshold": 1.5}, "score_threshold must be in"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_predictor(path, **({"device": "cpu"} | options))


def test_a_detector_must_separate_what_is_dense(tiny_config):
    model = build_model(tiny_config("FCOS")).eval()

    class Own(type(model)):
        def infer(self, features, batch, output_sizes):
            return []

    model.__class__ = Own
    with pytest.raises(ValueError, match="Own has an infer"):
        detector_graphs(model)
    Own.infer = DETECTORS.get("FCOS").infer
    del Own.infer

    def dense(self, features):
        raise NotImplementedError

    Own.dense = dense
    with pytest.raises(ValueError, match=r"Own has no dense"):
        detector_graphs(model)


def test_without_onnx_runtime_the_message_says_what_to_install(tmp_path):
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from comics.inference.load import load_predictor\n"
        "try:\n    load_predictor(sys.argv[1])\n"
        "except ValueError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model.onnx"], capture_output=True, text=True
    )
    assert "comics-forensics[onnx]" in done.stdout, done.stderr
