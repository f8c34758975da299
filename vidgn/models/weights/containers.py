"""Weights files opened by what is in them: safetensors, torch (zip or legacy), a plain pickle, or ONNX of ours."""

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch

from vidgn.atomic_files import write_atomic
from vidgn.errors import CheckpointError, VidgnError
from vidgn.models.weights.onnx_file import OnnxNetwork, open_session
from vidgn.models.weights.unpickle import ArrayUnpickler, PickledArray, RefusedError

FORMAT_VERSION = "1"  # of our own exports
_LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # protocol 2, torch's magic number
_ONNX = b"\x08"  # protobuf's tag of ir_version, which comes first; no pickle begins so
_NESTS = ("state_dict", "model_state", "model_state_dict", "blobs", "model")  # where makers keep the weights
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class WeightsFile:
    """Tensors by name as their maker wrote them, and what else the file holds."""

    path: Path
    container: str  # safetensors, torch, pickle or onnx
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]  # of safetensors, or the `vidgn` entry of an exported pytorchvideo checkpoint
    beside: dict[str, Any] = field(default_factory=dict)  # entries that are not weights: epoch, cfg, optimizer_state...
    network: OnnxNetwork | None = None  # of onnx, whose tensors are inside


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """`path` itself, or `model.safetensors` where it is a run's directory.

    Raises:
        CheckpointError: if there is no such file.
    """
    found = Path(path)
    if found.is_dir():
        found = found / "model.safetensors"
    if not found.is_file():
        raise CheckpointError(f"{found}: no such weights file; give a file, or the directory of a finished run")
    return found


def read_file(path: str | os.PathLike[str]) -> WeightsFile:
    """All tensors of a weights file, on the CPU. The name of the file tells nothing, its content does.

    Raises:
        CheckpointError: in one line for a file that is absent, torn, hostile or no weights file.
    """
    found = resolve_path(path)
    with found.open("rb") as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f"{found}: an empty file; fetch it again")
    if _looks_like_safetensors(head, found.stat().st_size):
        return _read_safetensors(found)
    if head.startswith((b"PK\x03\x04", _LEGACY_TORCH)):
        return _unnest(found, "torch", _load_torch(found))
    if head.startswith(_ONNX):
        return _read_onnx(found)
    return _unnest(found, "pickle", _load_pickle(found))


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, put in place whole. The same tensors and metadata give the same bytes.

    safetensors' own writer orders metadata by a hash that changes from process to process.
    """
    body = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    (size,) = struct.unpack("<Q", body[:8])
    header = json.dumps({"__metadata__": dict(sorted(metadata.items())), **json.loads(body[8 : 8 + size])}).encode()
    header += b" " * (-len(header) % 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(memoryview(body)[8 + size :])

    write_atomic(path, write)


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    if len(head) < 9:
        return False
    (header,) = struct.unpack("<Q", head[:8])
    return head[8:9] == b"{" and header <= _MAX_HEADER_BYTES and size > 8


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
            return WeightsFile(path, "safetensors", tensors, dict(opened.metadata() or {}))
    except (safetensors.SafetensorError, OSError) as error:
        raise _torn(path, "safetensors", error) from None


def _read_onnx(path: Path) -> WeightsFile:
    try:
        session = open_session(os.fspath(path))
        network = OnnxNetwork(session)
    except VidgnError:
        raise
    except Exception as error:  # onnxruntime has a class of its own for each of its failures
        raise _torn(path, "ONNX", error) from None
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    if metadata.get("format") != "vidgn":
        raise CheckpointError(
            f"{path}: an ONNX file of others, which says neither classes nor frames: vidgn convert IN OUT --to onnx "
            "writes one that does"
        )
    check_version(path, metadata)
    return WeightsFile(path, "onnx", {}, metadata, network=network)


def check_version(path: Path, metadata: Mapping[str, str]) -> None:
    """Check that this vidgn reads what another may have written.

    Raises:
        CheckpointError: for an export of ours of another format.
    """
    version = metadata.get("format_version", FORMAT_VERSION)
    if metadata.get("format") == "vidgn" and version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: vidgn weights of format {version}; this vidgn reads {FORMAT_VERSION}: update it"
        )


def _load_torch(path: Path) -> Any:
    if _is_program(path):
        raise CheckpointError(
            f"{path}: a program of torch.export, which may run anything and is not opened here; "
            "give the weights file that it was made of"
        )
    try:
        with path.open("rb") as file:  # given a name, torch goes by its ending
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = _refused_name(str(error))
        if name is None or _breaks_off_in(path, name):
            raise _torn(path, "torch", EOFError("its pickle breaks off")) from None
        raise CheckpointError(
            f"{path}: refused, and nothing of it was run: the file asks for {name}, and only tensors and plain "
            "containers are read; save its state_dict alone"
        ) from None
    except Exception as error:  # torn archives fail as RuntimeError, EOFError, KeyError, ...
        raise _torn(path, "torch", error) from None


def _load_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except RefusedError as error:
        raise CheckpointError(
            f"{path}: refused, and nothing of it was run: the pickle asks for {error}, and only numpy arrays, numbers, "
            "text and plain containers are read; save the weights alone as safetensors"
        ) from None
    except Exception as error:  # a torn pickle fails in whatever opcode it was torn at, memory and recursion included
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(
            f"{path}: neither safetensors, nor a torch file, nor a whole pickle ({reason}); fetch it again"
        ) from None


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("archive_format") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):  # torn, or legacy
        return False


def _refused_name(message: str) -> str | None:
    """The name that torch's weights-only reader refused, from its message."""
    found = re.search(r"(?:GLOBAL|class) (\w+(?:\.\w+)+)", message)
    return found[1] if found else None


def _breaks_off_in(path: Path, name: str) -> bool:
    """Whether the file ends within `name`: torch reports what it has of it, less one character."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(name) - 1))
        end = file.read()
    return not end.endswith(b"\n") and name.rpartition(".")[2].encode() in end


def _torn(path: Path, kind: str, error: Exception) -> CheckpointError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return CheckpointError(f"{path}: a torn {kind} file ({first}); fetch it again")


def _unnest(path: Path, container: str, content: Any) -> WeightsFile:
    """The dict of tensors, wherever its maker nested it."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not weights by name; save a state_dict")
    beside: dict[str, Any] = {}
    for nest in _NESTS:
        inner = content.get(nest)
        if isinstance(inner, Mapping) and any(_is_tensor(v) for v in inner.values()):
            beside = {str(k): v for k, v in content.items() if k != nest}
            content = inner
            break
    tensors = {str(k): _to_tensor(v) for k, v in content.items() if _is_tensor(v)}
    if not tensors:
        raise CheckpointError(f"{path}: a {container} file without tensors by name; save a state_dict")
    beside.update({str(k): v for k, v in content.items() if not _is_tensor(v)})
    metadata = beside.pop("vidgn", {})
    plain = {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, Mapping) else {}
    return WeightsFile(path, container, _without_prefix(tensors), plain, beside)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, np.ndarray)) or (
        isinstance(value, PickledArray) and hasattr(value, "value")
    )


def _to_tensor(value: Any) -> torch.Tensor:
    array = value.value if isinstance(value, PickledArray) else value
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array.detach()


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """DataParallel's and torch.compile's wrappers put a word before every name."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
