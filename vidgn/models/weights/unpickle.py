"""Pickles read as data: numpy arrays and plain containers, and nothing that can be called.

A pickle is a program. This reader runs it with a vocabulary of a few names, and even those are stand-ins that only
note what they are given; arrays are made from the notes afterwards. The worst a hostile file can do is to be refused.
Files written by python 2 (caffe2) carry their bytes as text: read as latin-1.
"""

import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from vidgn.errors import CheckpointError


class RefusedNameError(pickle.UnpicklingError):
    """The pickle asks for a name that is not data."""


def load_pickle(path: Path) -> Any:
    """What is pickled in `path`: dicts, lists, numbers, text and numpy arrays.

    Raises:
        CheckpointError: naming what was asked for where the file wants anything else, or is torn.
    """
    try:
        with path.open("rb") as file:
            return _to_arrays(_Reader(file, encoding="latin1").load(), {})
    except RefusedNameError as error:
        raise CheckpointError(
            f"{path}: refused, and nothing of it was run: the pickle asks for {error}, and only numpy arrays, numbers, "
            "text and plain containers are read; save the weights alone as safetensors"
        ) from None
    except Exception as error:  # a torn pickle fails in whatever opcode it was torn at, memory and recursion included
        raise CheckpointError(
            f"{path}: neither safetensors, nor a torch file, nor a whole pickle ({_short(error)}); fetch it again"
        ) from None


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        found = _NAMES.get((module, name))
        if found is None:
            raise RefusedNameError(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedNameError(f"the outside object {str(pid)[:40]!r}")


class _Dtype:
    """Notes what `numpy.dtype(...)` is pickled as: the kind and size, then the byte order."""

    def __init__(self, kind: Any, align: Any = False, copy: Any = False) -> None:
        text = str(kind)
        if text.lstrip("<>=|") not in _KINDS:
            raise RefusedNameError(f"an array of {text[:40]!r}")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order, *fields = state[1:5]
        if order not in ("<", ">", "|", "=") or any(f is not None for f in fields):
            raise RefusedNameError("an array of records")
        self.value = self.value.newbyteorder(order)


class _Array:
    """Notes what `numpy.ndarray` is pickled as: shape, dtype, order and bytes."""

    def __init__(self, subtype: Any, shape: Any, kind: Any) -> None:
        if subtype is not _NDARRAY:
            raise RefusedNameError(f"an array of the type {str(subtype)[:40]!r}")
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _make_array(data, dtype, shape, "F" if fortran else "C")


def _make_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise RefusedNameError(f"an array of {str(dtype)[:40]!r}")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise ValueError(f"an array of shape {tuple(shape)} with {len(raw)} bytes")
    native = dtype.value.newbyteorder("=")
    return np.frombuffer(raw, dtype.value).reshape(shape, order="F" if order == "F" else "C").astype(native)


def _scalar(dtype: Any, data: Any) -> Any:
    return _make_array(data, dtype, (), "C").item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _make_array(data, dtype, shape, order)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise RefusedNameError(f"the codec {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _no_bytes(*content: Any) -> bytes:
    """How python 3 writes b"" for older readers: `bytes()`."""
    if content:
        raise RefusedNameError("bytes made of something")
    return b""


_NDARRAY = object()
_KINDS = {f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248"), ("b", "1")) for size in sizes}
_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,  # how python 3 writes bytes for older readers
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Array
    _NAMES[f"{_core}.multiarray", "scalar"] = _scalar
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _from_buffer


def _to_arrays(value: Any, done: dict[int, Any]) -> Any:
    """The same containers with arrays for their notes.

    Args:
        done: by id, for what is shared or holds itself.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        done[id(value)] = made = {}
        made.update((key, _to_arrays(item, done)) for key, item in value.items())
        return made
    if isinstance(value, (list, tuple)):
        done[id(value)] = listed = []
        listed.extend(_to_arrays(item, done) for item in value)
        return listed
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without its data")
        return value.value
    if value is None or isinstance(value, (str, bytes, int, float, bool, np.ndarray)):
        return value
    raise RefusedNameError(f"an object of type {type(value).__name__}")


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
