"""What a test has said of each video, as it is in its csv."""

import csv
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vidgn.errors import ManifestError
from vidgn.video_names import stem_of


@dataclass(frozen=True)
class VideoScores:
    """Per-video outcome of one test, in the order of the file; rows that were missing at test are left out."""

    ids: tuple[str, ...]
    labels: np.ndarray  # (V,)
    rank: np.ndarray  # (V,) place of the label's score from 0; -1 unreadable
    prediction: np.ndarray  # (V,) class with the best score; -1 where it is not told
    score: np.ndarray  # (V,) of that class; NaN where it is not told

    @property
    def correct(self) -> np.ndarray:
        """(V,) booleans: top-1."""
        return self.rank == 0

    def of(self, only: frozenset[str]) -> "VideoScores":
        """Of these videos alone, named by their id or by it without folders and ending.

        Raises:
            ManifestError: a name is that of several of the videos.
        """
        names = [id if id in only else stem_of(id) for id in self.ids]
        rows = [row for row, name in enumerate(names) if name in only]
        twice = [name for name, count in Counter(names[row] for row in rows).items() if count > 1]
        if twice:
            raise ManifestError(f"--only: several tested videos are called {twice[0]}; name them by their ids")
        columns = (column[rows] for column in (self.labels, self.rank, self.prediction, self.score))
        return VideoScores(tuple(self.ids[row] for row in rows), *columns)

    def top(self, k: int) -> float:
        """Top-k accuracy in percent; an unreadable video is wrong."""
        return 100 * float(np.mean((self.rank >= 0) & (self.rank < k)))


@cache
def read_videos(path: Path, mtime_ns: int) -> VideoScores:
    """Per-video scores of one test file (`id, label, status, rank, ...`). `mtime_ns` only tells versions apart.

    Raises:
        OSError: if the file is not there.
        ManifestError: if it is not such a file.
    """
    ids, labels, ranks, predictions, scores = [], [], [], [], []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        try:
            for row in csv.DictReader(file):
                if row["status"] != "missing":
                    ids.append(row["id"])
                    labels.append(int(row["label"]))
                    is_ok = row["status"] == "ok"
                    ranks.append(int(row["rank"]) if is_ok else -1)
                    predictions.append(int(row.get("prediction") or -1) if is_ok else -1)
                    scores.append(float(row.get("prediction_score") or "nan") if is_ok else math.nan)
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(
                f"{path} is no file of per-video scores: needs id,label,status,rank ({error})"
            ) from None
    return VideoScores(
        tuple(ids),
        np.asarray(labels, dtype=np.int64),
        np.asarray(ranks, dtype=np.int64),
        np.asarray(predictions, dtype=np.int64),
        np.asarray(scores, dtype=np.float64),
    )
