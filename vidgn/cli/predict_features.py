"""Features of videos and of windows in one .npz."""

import contextlib
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
from torch import Tensor

from vidgn.atomic_files import write_atomic
from vidgn.cli.predict_sources import check_folder
from vidgn.errors import ConfigError


class Features:
    """Rows of `video` (R,), `features` (R, C), or (R, V, C) with those of each clip, and of windows `start`, `end`."""

    def __init__(self, out: str | None, *, each_clip: bool, windows: bool) -> None:
        """Nothing is written before the end.

        Args:
            out: the file; None: no features are kept.

        Raises:
            ConfigError: for a place that can't be written.
        """
        if out is not None and not out.endswith(".npz"):
            raise ConfigError(f"--features {out}: give a name that ends with .npz")
        if out is not None:
            check_folder("--features", out)
        self._out, self._each_clip, self._windows = out, each_clip, windows
        self._videos: list[str] = []
        self._features: list[np.ndarray] = []
        self._times: list[tuple[float, float]] = []

    def add(self, video: str, features_VC: Tensor | None, times: tuple[float, float] = (0.0, 0.0)) -> None:
        """A row."""
        if self._out is None or features_VC is None:
            return
        self._videos.append(video)
        self._times.append(times)
        self._features.append((features_VC if self._each_clip else features_VC.mean(0)).numpy())

    @contextlib.contextmanager
    def written(self) -> Generator[None]:
        """Write the rows at the end, however it comes; Ctrl-C ends a source without an end."""
        try:
            yield
        finally:
            if self._out is not None and self._features:
                times = np.array(self._times)
                parts = {"start": times[:, 0], "end": times[:, 1]} if self._windows else {}
                rows = {"video": np.array(self._videos), "features": np.stack(self._features), **parts}
                write_atomic(Path(self._out), lambda file: np.savez(file, allow_pickle=False, **rows))
            elif self._out is not None:
                print(f"note: {self._out}: nothing could be read, so it is not written", file=sys.stderr)
