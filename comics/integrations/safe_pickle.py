"""Pickled weights, read without unpickling: arrays and plain containers, never code.

Detectron2's model zoo ships ``.pkl`` files. A pickle is a program for a small machine that may
call anything it can name, so a downloaded one is not loaded as such:

1. its instructions are listed (``pickletools`` runs none) and must be those that data needs;
2. what it names is looked up in the table ``STAND_INS``, never imported; the table holds functions
   of this module, which check what they are given before NumPy sees it.

Files of Python 2 (``encoding="latin1"``) and of every protocol up to 5 are read.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np

# Instructions that plain containers, numbers, text and calls of named functions are made of. Not
# among them: those that make instances by other ways, or refer to objects outside the file.
# fmt: off
PLAIN_INSTRUCTIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE", "PUT", "BINPUT",
    "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT",
    "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "APPEND", "APPENDS",
    "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT",
    "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}
# fmt: on
MEMO_INSTRUCTIONS = ("PUT", "BINPUT", "LONG_BINPUT")
NUMBER_TYPE = re.compile(r"b1|[iu][1248]|f[248]")  # booleans, integers and floats, no objects
BYTE_ORDERS = "<>=|"
NESTED = 2  # arrays are looked for in dictionaries at most so deep: {"model": {name: array}}


def read_pickle(path: str | os.PathLike) -> dict[Any, Any]:
    """The dictionary in a pickle of NumPy arrays.

    Returns:
        As it was pickled; NumPy arrays in it, or in dictionaries that it holds, are arrays of their
        own memory, native byte order. Ordered dictionaries are plain ones.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file and what is wrong: it is truncated, is no pickle, holds no
            dictionary, or names anything but arrays and containers; nothing of it has been run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        return parse_pickle(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint of plain arrays: {error}") from error


def parse_pickle(data: bytes) -> dict[Any, Any]:
    """As ``read_pickle``, of a file's content.

    Raises:
        ValueError: as ``read_pickle``.
    """
    _check_instructions(data)
    try:
        content = PlainUnpickler(BytesIO(data), encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a dictionary")
        return _with_arrays(content, NESTED)
    except ValueError:
        raise
    except Exception as error:  # a malformed pickle surfaces as many types
        raise ValueError(f"it is damaged: {error}") from error


class RefusedPickle(ValueError):
    """A pickle that asks for more than arrays and plain containers; nothing of it has been run."""


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows the names of ``STAND_INS`` and no other.

    On its own it is safe against code, not against instructions that claim all memory:
    ``parse_pickle`` looks at those first.
    """

    def find_class(self, module: str, name: str) -> Callable:
        """The stand-in of a name; nothing is imported.

        Raises:
            RefusedPickle: for a name that weights do not need.
        """
        return _stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Refuse objects outside the file.

        Raises:
            RefusedPickle: always.
        """
        raise RefusedPickle("it refers to objects outside the file")


def _check_instructions(data: bytes) -> None:
    """Read the instructions without running them; raise ``ValueError`` for any that is not plain.

    The length bounds the memo's numbers, which else reserve memory in proportion.
    """
    argument: Any
    try:
        for operation, argument, _ in pickletools.genops(BytesIO(data)):
            if operation.name not in PLAIN_INSTRUCTIONS:
                raise RefusedPickle(
                    f"its instruction {operation.name} is not needed for data; it may carry code, "
                    "and nothing of it has been run"
                )
            if operation.name == "GLOBAL":
                _stand_in(*argument.split(" ", 1))
            if operation.name in MEMO_INSTRUCTIONS and argument > len(data):
                raise RefusedPickle(f"it memorises object {argument} of {len(data)} bytes")
    except RefusedPickle:
        raise
    except Exception as error:  # instructions that do not decode surface as many types
        raise ValueError(f"it is no pickle, or is cut short: {error}") from error


class _Number:
    """Stands for ``numpy.dtype``: what an element is, of the types in ``NUMBER_TYPE``."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not NUMBER_TYPE.fullmatch(code.lstrip(BYTE_ORDERS)):
            raise ValueError("it holds an array of something other than numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in tuple(BYTE_ORDERS):
            raise ValueError("an array's type has no byte order")
        self.dtype = self.dtype.newbyteorder(cast(Any, order))


class _Array:
    """Stands for an array, whose content a later instruction brings."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array's description has an unknown layout")
        _, shape, number, columns_first, content = state
        self.value = _array(content, number, shape, columns_first=bool(columns_first))


class _Dictionary(dict):
    """Stands for ``collections.OrderedDict``; attributes, as of PyTorch's, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Take no attributes."""


class _StandIn:
    """A function that a pickle may call and cannot change, as it could a plain function."""

    __slots__ = ("_function",)
    _function: Callable

    def __init__(self, function: Callable) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("it changes a function")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a function")


def _array(content: Any, number: Any, shape: Any, *, columns_first: bool) -> np.ndarray:
    """An array of checked parts; ``content`` may be the text that Python 2's bytes become."""
    if isinstance(content, str):
        content = content.encode("latin1")
    sizes_fit = (
        isinstance(number, _Number)
        and isinstance(content, bytes | bytearray)
        and isinstance(shape, tuple)
        and all(type(side) is int and side >= 0 for side in shape)
        and math.prod(shape) * number.dtype.itemsize == len(content)
    )
    if not sizes_fit:
        raise ValueError("an array's shape, type and content do not go together")
    flat = np.array(np.frombuffer(content, number.dtype), number.dtype.newbyteorder("="))
    return flat.reshape(shape, order="F" if columns_first else "C")


def _new_array(kind: Any, *_unused: Any) -> _Array:
    """``numpy._reconstruct``: an array still without content."""
    if kind is not STAND_INS["numpy", "ndarray"]:
        raise ValueError("it holds an unknown kind of array")
    return _Array()


def _new_scalar(number: Any, content: Any) -> _Array:
    """``numpy.scalar``: an array without sides."""
    scalar = _Array()
    scalar.value = _array(content, number, (), columns_first=False)
    return scalar


def _from_buffer(content: Any, number: Any, shape: Any, order: Any) -> _Array:
    """``numpy._frombuffer``: how protocol 5 writes arrays."""
    filled = _Array()
    filled.value = _array(content, number, shape, columns_first=order == "F")
    return filled


def _no_function(*_unused: Any) -> None:
    raise ValueError("it calls something that is no function")


def _latin1_bytes(text: Any, encoding: Any) -> bytes:
    """``codecs.encode``, as Python 3 writes bytes in protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("it encodes text in another way than bytes are written")
    return text.encode("latin1")


def _no_bytes(*given: Any) -> bytes:
    """``bytes()``, as Python 3 writes the empty ones in protocols 0 to 2."""
    if given:
        raise ValueError("it makes bytes in another way than they are written")
    return b""


def _new_number(code: Any, *_unused: Any) -> _Number:
    """``numpy.dtype``; what follows the code says how to copy it."""
    return _Number(code)


def _new_dictionary(*items: Any) -> _Dictionary:
    """``collections.OrderedDict``."""
    return _Dictionary(*items)


STAND_INS = {
    ("collections", "OrderedDict"): _StandIn(_new_dictionary),
    ("_codecs", "encode"): _StandIn(_latin1_bytes),
    ("__builtin__", "bytes"): _StandIn(_no_bytes),
    ("numpy", "dtype"): _StandIn(_new_number),
    ("numpy", "ndarray"): _StandIn(_no_function),
    **{
        (f"numpy.{core}.{module}", name): _StandIn(function)
        for core in ("core", "_core")  # NumPy 1 and 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _new_array),
            ("multiarray", "scalar", _new_scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


def _stand_in(module: str, name: str) -> _StandIn:
    if (module, name) not in STAND_INS:
        raise RefusedPickle(
            f"it wants {module}.{name}, and only arrays and plain containers are read; it may "
            "carry code, and nothing of it has been run"
        )
    return STAND_INS[module, name]


def _with_arrays(value: Any, depth: int) -> Any:
    """The value with arrays in place of what stood for them, ``depth`` dictionaries deep."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array has no content")
        return value.value
    if isinstance(value, dict) and depth > 0:
        return {key: _with_arrays(item, depth - 1) for key, item in value.items()}
    return value
