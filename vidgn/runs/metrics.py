"""A run's log of one JSON object a line."""

import json
import os
from pathlib import Path
from typing import Any


class MetricsLog:
    """`metrics.jsonl`: appended by whole lines, cut back to a checkpoint's offset on resume."""

    def __init__(self, path: Path, *, offset: int) -> None:
        """Open at `offset` bytes; what lies beyond belongs to steps after the checkpoint and will be written again.

        `missing_bytes`: what the file lacks of `offset`; it then goes on behind its last whole line.
        """
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        there = os.fstat(self._handle).st_size
        self.missing_bytes = max(0, offset - there)
        if self.missing_bytes:
            offset = os.pread(self._handle, there, 0).rfind(b"\n") + 1
        self._offset = offset
        os.ftruncate(self._handle, offset)

    def write(self, line: dict[str, Any]) -> None:
        """Append one object, whole or not at all.

        Raises:
            ValueError: on NaN, which is no JSON.
            OSError: the disk is full, or may not be written.
        """
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._handle, data[written:], self._offset + written)
        except OSError:
            os.ftruncate(self._handle, self._offset)
            raise
        self._offset += len(data)

    def offset(self) -> int:
        """Bytes so far, safely on disk."""
        os.fsync(self._handle)
        return self._offset

    def close(self) -> None:
        os.close(self._handle)
