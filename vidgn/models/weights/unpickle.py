"""Pickles of numpy arrays (caffe2's) read as data: torch's weights-only unpickler lacks python 2's strings.

A pickle is a program. Here it runs with a few names, which stand for classes of ours that make arrays and nothing else.
"""

import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

_KINDS = {f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248"), ("b", "1")) for size in sizes}


class RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that is not data."""


def _check(holds: bool, refused: str) -> None:
    if not holds:
        raise RefusedError(refused)


class ArrayUnpickler(pickle.Unpickler):
    """Gives dicts, lists, numbers, text and `PickledArray`s. Python 2's bytes are read as latin-1."""

    def find_class(self, module: str, name: str, /) -> Any:
        key = module.replace("numpy._core", "numpy.core"), name  # since numpy 2, and before
        _check(key in _NAMES, f"{module}.{name}")
        return _NAMES[key]

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError(f"the outside object {str(pid)[:40]!r}")


class _Dtype:
    def __init__(self, kind: Any, align: Any = False, copy: Any = False) -> None:
        _check(str(kind).lstrip("<>=|") in _KINDS, f"an array of {str(kind)[:40]!r}")
        self.value = np.dtype(str(kind))

    def __setstate__(self, state: Any) -> None:
        order, *fields = state[1:5]
        _check(order in ("<", ">", "|", "=") and not any(f is not None for f in fields), "an array of records")
        self.value = self.value.newbyteorder(order)


class PickledArray:
    """A numpy array in the making; `value` is there once its data have come."""

    value: np.ndarray

    def __init__(self, subtype: Any, shape: Any, kind: Any) -> None:
        _check(subtype is PickledArray, f"an array of the type {str(subtype)[:40]!r}")

    def __setstate__(self, state: Any) -> None:
        self.value = _array(state[4], state[2], state[1], "F" if state[3] else "C").value


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    _check(isinstance(dtype, _Dtype), f"an array of {str(dtype)[:40]!r}")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if int(np.prod(shape)) * dtype.value.itemsize != len(raw):
        raise ValueError(f"an array of shape {tuple(shape)} with {len(raw)} bytes")
    made, flat = PickledArray(PickledArray, (), ""), np.frombuffer(raw, dtype.value)
    made.value = flat.astype(dtype.value.newbyteorder("=")).reshape(shape, order="F" if order == "F" else "C")
    return made


def _bytes(text: Any = "", encoding: Any = "latin1") -> bytes:  # how python 3 writes bytes for older readers
    _check(isinstance(text, str) and encoding == "latin1", f"the codec {str(encoding)[:40]!r}")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {("numpy", "ndarray"): PickledArray, ("numpy", "dtype"): _Dtype}
_NAMES["numpy.core.multiarray", "_reconstruct"] = PickledArray
_NAMES["numpy.core.multiarray", "scalar"] = lambda dtype, data: _array(data, dtype, (), "C").value.item()
_NAMES["numpy.core.numeric", "_frombuffer"] = _array
_NAMES["collections", "OrderedDict"] = OrderedDict
_NAMES.update(dict.fromkeys((("_codecs", "encode"), ("__builtin__", "bytes"), ("builtins", "bytes")), _bytes))
