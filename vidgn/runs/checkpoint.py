"""Checkpoints: everything a run needs to go on, each file whole and self-checking.

A file is torch's zip of plain tensors and containers, then 160 bytes of text that say the format, the version of vidgn
that wrote it and the sha256 of all before. Order and augmentation are functions of the step, so there is no generator
state in it.
"""

import errno
import hashlib
import io
import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vidgn import __version__
from vidgn.atomic_files import write_atomic
from vidgn.errors import CheckpointError

FORMAT = 1
_SEAL_BYTES = 160


class TornError(CheckpointError):
    """A checkpoint that is not what was written."""


def checkpoint_path(directory: Path, step: int) -> Path:
    return directory / f"step_{step:09d}.pt"


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints by rising step."""
    return sorted(p for p in directory.glob("step_*.pt") if re.fullmatch(r"step_\d{9}\.pt", p.name))


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, text, lists, dicts) whole or not at all.

    Raises:
        OSError: with `path` as it was.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    seal = _seal(payload, FORMAT, __version__)

    def write(file: Any) -> None:
        file.write(payload)
        file.write(seal)

    write_atomic(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU. Nothing in the file is executed.

    Raises:
        TornError: if the file is torn or altered.
        CheckpointError: if it is of a newer format or can't be opened.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        kind = TornError if error.errno == errno.EIO else CheckpointError
        raise kind(
            f"{path} can't be read: {error.strerror}; make it readable, or move it away to go on from the one before"
        ) from None
    payload, seal = memoryview(data)[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    seal_text = re.match(rb"\nvidgn-checkpoint format=(\d+) vidgn=(\S+) ", seal)
    if seal_text is None:
        raise TornError(f"{path} is torn: {len(data)} bytes without the seal at their end")
    form, writer = int(seal_text[1]), seal_text[2].decode(errors="replace")
    if seal != _seal(payload, form, writer):
        raise TornError(f"{path} is altered: its checksum does not match")
    if form > FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {form}, vidgn {__version__} reads up to {FORMAT}: "
            f"use vidgn {writer} or newer"
        )
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def _seal(payload: memoryview, form: int, writer: str) -> bytes:
    text = f"\nvidgn-checkpoint format={form} vidgn={writer} ".encode()
    digest = hashlib.sha256(payload)
    digest.update(text)
    return (text + f"sha256={digest.hexdigest()}".encode()).ljust(_SEAL_BYTES)


def load_latest(directory: Path, log: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest good checkpoint, passing over torn or altered ones by name; None where there is none.

    Raises:
        CheckpointError: for a newer format.
    """
    passed_over = False
    for path in reversed(list_checkpoints(directory)):
        try:
            return load_checkpoint(path)
        except TornError as error:
            log(f"{error}; passed over")
            passed_over = True
    if passed_over:
        log(f"no good checkpoint is left in {directory}: starting from step 0")
    return None


def prune(directory: Path, *, step: int, keep: int, also: Iterable[int]) -> None:
    """Remove all but the newest `keep` checkpoints up to `step` and the steps in `also`.

    What lies beyond `step` was passed over, or it would have been gone on from.
    """
    good = [p for p in list_checkpoints(directory) if step_of(p) <= step]
    kept = {*good[-keep:], *(checkpoint_path(directory, s) for s in also)}
    for path in list_checkpoints(directory):
        if path not in kept:
            path.unlink()


def remove_partial(directory: Path) -> None:
    """Remove what a kill left half-written."""
    for path in directory.glob(".step_*.partial"):
        path.unlink()


def versions() -> dict[str, str | None]:
    """Versions of all that can move a bit."""
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {
        "vidgn": __version__,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": str(cudnn) if cudnn else None,
        "numpy": version("numpy"),
        "av": version("av"),
    }
