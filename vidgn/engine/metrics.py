"""Counts that add up exactly, and the run's one-JSON-object-a-line log."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

TOP_K = 5


def label_ranks(scores_NK: torch.Tensor, label_N: torch.Tensor) -> torch.Tensor:
    """0-based rank of each label's score: 0 is top-1. Ties go to the lower class index; a NaN never ranks.

    Shape: (N, K), (N,) -> (N,) int64. A row with a NaN gets rank K.
    """
    own_N1 = scores_NK.gather(1, label_N[:, None])
    classes_K = torch.arange(scores_NK.shape[1], device=scores_NK.device)
    ahead = (scores_NK > own_N1) | ((scores_NK == own_N1) & (classes_K < label_N[:, None]))
    ranks = ahead.sum(1)
    return torch.where(scores_NK.isnan().any(1), scores_NK.shape[1], ranks)


class MetricsLog:
    """`metrics.jsonl`: appended by whole lines, cut back to a checkpoint's offset on resume."""

    def __init__(self, path: Path, *, offset: int) -> None:
        """Open at `offset` bytes; what lies beyond belongs to steps after the checkpoint and will be written again."""
        self._file = open(path, "ab")  # noqa: SIM115  # lives as long as the run
        self._file.truncate(offset)
        self._file.seek(offset)

    def write(self, line: dict[str, Any]) -> None:
        """Append one object. Raises: ValueError on NaN, which is no JSON."""
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def offset(self) -> int:
        """Bytes so far, safely on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a metrics log, without a torn last one."""
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)
