"""Checkpoints: everything a run needs to go on, each file whole and self-checking.

A file is torch's zip of plain tensors and containers, then a marker and the sha256 of all before it. Order and augmentation are
functions of the step, so no generator state is in it.
"""

import errno
import hashlib
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from vidgn.engine.files import write_atomic
from vidgn.errors import CheckpointError

FORMAT = 1
_MARKER = b"\nvidgn-sha256:"


def checkpoint_path(directory: Path, step: int) -> Path:
    return directory / f"step_{step:09d}.pt"


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints by rising step."""
    return sorted(p for p in directory.glob("step_*.pt") if re.fullmatch(r"step_\d{9}\.pt", p.name))


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, text, lists, dicts) whole or not at all.

    Raises: OSError, with `path` as it was.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).digest()

    def write(file: Any) -> None:
        file.write(payload)
        file.write(_MARKER + digest)

    write_atomic(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises: CheckpointError if the file is torn, altered, or of a newer format. Nothing in it is executed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    head = len(data) - 32 - len(_MARKER)
    if head < 0 or data[head : head + len(_MARKER)] != _MARKER:
        raise CheckpointError(f"{path} is torn: {len(data)} bytes without the checksum at their end")
    payload = memoryview(data)[:head]
    if hashlib.sha256(payload).digest() != data[-32:]:
        raise CheckpointError(f"{path} is altered: its checksum does not match")
    state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {state['format']}, this vidgn reads up to {FORMAT}: "
            f"use vidgn {state.get('versions', {}).get('vidgn', 'that wrote it')} or newer"
        )
    return state


def load_latest(directory: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest good checkpoint, passing over torn or altered ones by name; None where there is none.

    Raises: CheckpointError for a newer format.
    """
    for path in reversed(list_checkpoints(directory)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            if "checkpoint format" in str(error):
                raise
            say(f"{error}; passed over")
    return None


def prune(directory: Path, *, keep: int, also: Iterable[int]) -> None:
    """Remove all but the newest `keep` checkpoints and the steps in `also`, and what a kill left half-written."""
    kept = {*(p for p in list_checkpoints(directory)[-keep:]), *(checkpoint_path(directory, s) for s in also)}
    for path in list_checkpoints(directory):
        if path not in kept:
            path.unlink()
    for path in directory.glob(".step_*.partial"):
        path.unlink()


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
