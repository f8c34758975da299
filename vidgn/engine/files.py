"""Files that are whole or not there: write beside, flush to disk, rename, flush the directory."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file next to `path`, then put it in place. On any error `path` is as it was.

    Raises: OSError (disk full, no permission), after removing the partial file.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_atomic` for text."""
    write_atomic(path, lambda f: f.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` for JSON; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours."""
    return json.loads(path.read_text())


def sync_directory(path: Path) -> None:
    """Make renames in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
