"""Pickles of arrays are read as pickle itself reads them; everything else is refused unrun."""

import collections
import contextlib
import io
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from comics.integrations.safe_pickle import PlainUnpickler, parse_pickle, read_pickle

ran = []  # what a pickle that got its way would leave


def run_code(*arguments):
    ran.append(arguments)


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() \
    | hnp.floating_dtypes(sizes=(16, 32, 64))  # fmt: skip
ARRAYS = NUMBERS.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
)


@given(ARRAYS, st.integers(0, 5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_arrays_survive_every_protocol(array, protocol, columns_first):
    array = np.asfortranarray(array) if columns_first else array
    content = {"model": {"name": array}, "__author__": "someone", "matching_heuristics": True}
    read = parse_pickle(pickle.dumps(content, protocol=protocol))
    assert read["__author__"] == "someone"
    assert read["matching_heuristics"] is True
    np.testing.assert_array_equal(read["model"]["name"], array)
    assert read["model"]["name"].dtype == array.dtype.newbyteorder("=")
    assert read["model"]["name"].flags.writeable


@pytest.mark.parametrize("protocol", range(6))
def test_containers_scalars_and_attributes(protocol):
    ordered = collections.OrderedDict(b=np.float32(2.5), a=[1, (2.0, None)])
    ordered._metadata = collections.OrderedDict(version=1)
    read = parse_pickle(pickle.dumps(ordered, protocol=protocol))
    assert list(read) == ["b", "a"]
    assert read["b"] == np.float32(2.5)
    assert read["a"] == [1, (2.0, None)]


def python2_pickle() -> bytes:
    """{"blobs": {"w": float32 [2]}} as Python 2 and NumPy 1 wrote it, protocol 2: raw strings."""

    def text(value: bytes) -> bytes:
        return b"U" + struct.pack("<B", len(value)) + value

    dtype = (
        b"cnumpy\ndtype\n(" + text(b"f4") + b"K\x00K\x01tR(K\x03" + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )  # fmt: skip
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        + b"(K\x01(K\x02t" + dtype + b"\x89" + text(struct.pack("<2f", 1.5, -200.0)) + b"tb"
    )  # fmt: skip
    return b"\x80\x02}" + text(b"blobs") + b"}" + text(b"w") + array + b"ss."


def test_files_of_python_2():
    np.testing.assert_array_equal(parse_pickle(python2_pickle())["blobs"]["w"], [1.5, -200.0])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function, arguments",
    [(run_code, ("x",)), (eval, ("ran.append(1)",)), (__import__, ("os",)), (np.load, ("x.npy",))],
    ids=["own", "eval", "import", "numpy"],
)
def test_code_is_refused_and_does_not_run(tmp_path, protocol, function, arguments):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": Calls(function, *arguments)}}, protocol=protocol))
    with pytest.raises(ValueError, match=r"model\.pkl .* wants .*nothing of it has been run"):
        read_pickle(path)
    assert ran == []


@pytest.mark.parametrize(
    "program, message",
    [
        (b"(i__main__\nrun_code\n.", "INST"),
        (b"(cbuiltins\ndict\no.", "OBJ|builtins.dict"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"P1\n.", "PERSID"),
        (b"}r\xff\xff\xff\xff.", "memorises object 4294967295"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "wants posix.system"),
        # attributes of a stand-in, by BUILD with a slot state
        (b"c_codecs\nencode\n(N}U\x09_functionNstb.", "changes a function"),
        # a call of what is no function, and functions with odd arguments
        (b"cnumpy\nndarray\n(tR.", "no function"),
        (b"cnumpy\ndtype\n(U\x01OtR.", "other than numbers"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.", "encodes"),
        (b"c__builtin__\nbytes\n(K\x05tR.", "bytes"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(NtR.", "unknown kind"),
        (b"}U\x01acnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntRs.", "no content"),
    ],
)
def test_programs_beyond_data_are_refused(program, message):
    with pytest.raises(ValueError, match=message):
        parse_pickle(program)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (-2,), (2.0,), [2], None, (True, 2)])
def test_shapes_that_do_not_fit_are_refused(shape):
    array = np.arange(2, dtype=np.float32)
    call, arguments, (version, _, dtype, order, content) = array.__reduce__()

    class Lying:
        def __reduce__(self):
            return call, arguments, (version, shape, dtype, order, content)

    with pytest.raises(ValueError, match="do not go together"):
        parse_pickle(pickle.dumps({"w": Lying()}, protocol=2))


@pytest.mark.parametrize(
    "array", [np.array([{}]), np.array(["a"]), np.zeros(2, "c8"), np.zeros(2, "f4,i4")]
)
def test_arrays_of_other_things_are_refused(array):
    with pytest.raises(ValueError):
        parse_pickle(pickle.dumps({"w": array}))


def test_truncation_and_absence_name_the_file(tmp_path):
    path = tmp_path / "R-50.pkl"
    whole = pickle.dumps({"w": np.arange(100.0)}, protocol=2)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"R-50\.pkl is not a checkpoint of plain arrays"):
            read_pickle(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        read_pickle(tmp_path / "absent.pkl")


def test_other_content_is_refused():
    with pytest.raises(ValueError, match="holds a list, not a dictionary"):
        parse_pickle(pickle.dumps([1]))


def test_the_unpickler_itself_names_nothing():
    unpickler = PlainUnpickler(io.BytesIO(pickle.dumps(Calls(run_code))))
    with pytest.raises(ValueError, match="run_code"):
        unpickler.load()
    assert ran == []


def read_or_refuse(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_pickle(data), dict)
    assert ran == []


OPCODES = b"".join(op.code.encode("latin1") for op in pickletools.opcodes)
PIECES = st.sampled_from([bytes([code]) for code in OPCODES]) | st.binary(max_size=6)


@given(st.binary(max_size=200) | st.lists(PIECES, max_size=40).map(b"".join))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_read_or_refused(data):
    read_or_refuse(data)


SEEDS = [
    pickle.dumps(content, protocol=protocol)
    for protocol in range(6)
    for content in (
        {"model": {"w": np.arange(4, dtype=np.float32)}, "__author__": "x"},
        collections.OrderedDict(a=np.float64(1), b=[1, 2.0, None]),
        {"w": Calls(run_code, "x")},
    )
] + [python2_pickle()]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), PIECES), min_size=1, max_size=6),
)
@settings(max_examples=400, deadline=None)
def test_mutated_pickles_are_read_or_refused(seed, changes):
    data = bytearray(seed)
    for position, length, piece in changes:
        start = position % (len(data) + 1)
        data[start : start + length] = piece
    read_or_refuse(bytes(data))
