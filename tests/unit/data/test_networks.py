"""ONNX networks as forgers: what is accepted, what is refused, and that results are kept."""

import pickle
import sys

import numpy as np
import pytest

from comics.data.forgery.networks import FaceNetwork, NetworkError, open_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)


def write(path, nodes, *, shape=("n", 3, "h", "w"), out=None, constants=(), inputs=("image",)):
    """A small network; every input has ``shape``."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs]
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, out)
    graph = helper.make_graph(nodes, "test", values, [result], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def affine(path, scale, shift=0.0, **options):
    """image -> scale * image + shift."""
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("a", scale), ("b", shift))
    ]
    nodes = [
        helper.make_node("Mul", ["image", "a"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["out"]),
    ]
    return write(path, nodes, constants=constants, **options)


@pytest.fixture
def identity(tmp_path):
    return affine(tmp_path / "identity.onnx", 1.0)


@pytest.fixture
def halves(tmp_path):
    """An encoder that halves values and a decoder that doubles them."""
    return affine(tmp_path / "encoder.onnx", 0.5), affine(tmp_path / "decoder.onnx", 2.0)


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
def test_an_identity_returns_every_grey_level(identity, value_range):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    network = FaceNetwork([identity], value_range=value_range)
    np.testing.assert_array_equal(network.round_trip(levels), levels)


def test_encoder_and_decoder(halves):
    network = FaceNetwork(halves)
    np.testing.assert_array_equal(network.round_trip(IMAGE), IMAGE)
    assert network.has_latent
    mixed = network.mix(IMAGE[:1], IMAGE[1:], [0.25])
    expected = 0.75 * IMAGE[0].astype(float) + 0.25 * IMAGE[1]
    assert np.abs(mixed[0] - expected).max() <= 0.51  # rounding


def test_colours_keep_their_places(tmp_path):
    weights = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * [1.0], "w")
    weights = numpy_helper.from_array(
        np.diag([1.0, 0.0, 1.0]).astype(np.float32).reshape(3, 3, 1, 1), "w"
    )
    nodes = [helper.make_node("Conv", ["image", "w"], ["out"])]
    network = FaceNetwork([write(tmp_path / "no_green.onnx", nodes, constants=[weights])])
    np.testing.assert_array_equal(network.round_trip(IMAGE), IMAGE * [1, 0, 1])


def test_a_network_of_one_size_and_no_batches(tmp_path):
    file = affine(tmp_path / "fixed.onnx", 1.0, shape=(1, 3, 16, 24))
    network = FaceNetwork([file])
    assert network.fixed_size == (16, 24)
    np.testing.assert_array_equal(network.round_trip(IMAGE), IMAGE)
    with pytest.raises(ValueError, match=r"fixed.onnx: takes \(16, 24\)"):
        network.round_trip(IMAGE[:, :8])


def test_results_are_kept(halves, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    network = FaceNetwork(halves, cache=cache)
    first = network.round_trip(IMAGE), network.mix(IMAGE[:1], IMAGE[1:], [0.5])
    assert len(list(cache.rglob("*.png"))) == 3
    again = FaceNetwork(halves, cache=cache)

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(again, "_encode", never)
    np.testing.assert_array_equal(again.round_trip(IMAGE), first[0])
    np.testing.assert_array_equal(again.mix(IMAGE[:1], IMAGE[1:], [0.5]), first[1])
    with pytest.raises(AssertionError, match="computed again"):
        again.mix(IMAGE[:1], IMAGE[1:], [0.6])


def test_another_network_or_range_has_results_of_its_own(identity, tmp_path):
    dark = affine(tmp_path / "dark.onnx", 0.5)
    cache = tmp_path / "cache"
    FaceNetwork([identity], cache=cache).round_trip(IMAGE)
    result = FaceNetwork([dark], cache=cache).round_trip(IMAGE)
    assert np.abs(result - IMAGE / 2).max() <= 0.51
    # In (-1, 1) half of the value is another grey level
    other = FaceNetwork([dark], value_range=(-1, 1), cache=cache).round_trip(IMAGE)
    assert np.abs(other - (IMAGE / 2 + 255 / 4)).max() <= 0.51


def test_a_broken_file_of_the_cache_is_made_again(identity, tmp_path):
    network = FaceNetwork([identity], cache=tmp_path / "cache")
    network.round_trip(IMAGE)
    for path in (tmp_path / "cache").rglob("*.png"):
        path.write_bytes(b"half")
    np.testing.assert_array_equal(network.round_trip(IMAGE), IMAGE)


def test_another_process_can_be_sent_it(identity):
    network = pickle.loads(pickle.dumps(FaceNetwork([identity])))
    np.testing.assert_array_equal(network.round_trip(IMAGE), IMAGE)


def _nan(path):
    return affine(path, float("nan"))


def _half_size(path):
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    return write(path, [helper.make_node("AveragePool", ["image"], ["out"], **pool)])


def _other_range(path):
    return affine(path, 255.0)


def _four_channels(path):
    return affine(path, 1.0, shape=("n", 4, "h", "w"))


def _a_vector(path):
    return affine(path, 1.0, shape=("n", 3))


def _two_inputs(path):
    nodes = [helper.make_node("Add", ["image", "other"], ["out"])]
    return write(path, nodes, inputs=("image", "other"))


def _one_value(path):
    nodes = [helper.make_node("ReduceMean", ["image"], ["out"], keepdims=1)]
    return write(path, nodes)


def _fails_on_run(path):
    shape = numpy_helper.from_array(np.array([7, 7], np.int64), "s")
    return write(path, [helper.make_node("Reshape", ["image", "s"], ["out"])], constants=[shape])


def _text(path):
    path.write_text("not a network")
    return path


def _absent(path):
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_nan, "NaN"),
        (_half_size, r"an image \[3, 64, 64\] became \[3, 32, 32\]"),
        (_other_range, "not 0 to 1"),
        (_four_channels, "4 channels"),
        (_a_vector, r"not float \[n,3,h,w\]"),
        (_two_inputs, "needs one input, has image, other"),
        (_one_value, "became"),
        (_fails_on_run, "fails on"),
        (_text, "not a usable ONNX network"),
        (_absent, "No such file"),
    ],
)
def test_unfit_networks_are_refused_by_name(tmp_path, make, words):
    file = make(tmp_path / "bad.onnx")
    with pytest.raises(NetworkError, match=words) as caught:
        FaceNetwork([file])
    assert str(caught.value).startswith(f"{file}: ")


def test_the_decoder_is_named_where_it_is_at_fault(tmp_path, halves):
    bad = _half_size(tmp_path / "bad_decoder.onnx")
    with pytest.raises(NetworkError, match="bad_decoder.onnx"):
        FaceNetwork([halves[0], bad])


def test_bad_calls(identity, halves):
    with pytest.raises(ValueError, match="got 3 files"):
        FaceNetwork([identity] * 3)
    with pytest.raises(ValueError, match="value_range"):
        FaceNetwork([identity], value_range=(1, 1))
    network = FaceNetwork(halves)
    for images, words in (
        (IMAGE[0], "uint8"),
        (IMAGE.astype(np.float32), "float32"),
        (IMAGE[:, :15], "multiples of 8"),
    ):
        with pytest.raises(ValueError, match=words):
            network.round_trip(images)
    with pytest.raises(ValueError, match="one shape"):
        network.mix(IMAGE[:1], IMAGE, [0.5])
    with pytest.raises(ValueError, match="identity.onnx: mixing needs an encoder"):
        FaceNetwork([identity]).mix(IMAGE[:1], IMAGE[1:], [0.5])


def test_without_onnx_runtime_it_is_said_what_to_install(identity, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'comics-forensics\[onnx\]'"):
        open_network(identity)
