"""Progress of long work: a bar on a terminal, plain lines elsewhere; and the clock whose readings go into metrics."""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from vidgn.distributed.environment import CELL
from vidgn.terminal import bar_stream, visible

_SECONDS_BETWEEN_LINES = 15


class Clock:
    """Seconds of steps and of waiting for data."""

    def __init__(self) -> None:
        self._step_began = time.monotonic()
        self._waited_seconds = 0.0
        self._smoothed_seconds: float | None = None

    def start_step(self) -> None:
        """Leave out what was done since the last step: tests, checkpoints."""
        self._step_began, self._waited_seconds = time.monotonic(), 0.0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Time spent here is time a step waits for data."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._waited_seconds += time.monotonic() - began

    def of_step(self, clips: int, *, steps_left: int) -> dict[str, float]:
        """Readings at the end of a step of `clips` clips."""
        seconds = max(1e-9, time.monotonic() - self._step_began)
        before = seconds if self._smoothed_seconds is None else self._smoothed_seconds
        self._smoothed_seconds = 0.95 * before + 0.05 * seconds
        return {
            "time": time.time(),
            "step_seconds": seconds,
            "clips_per_second": clips / seconds,
            "seconds_left": self._smoothed_seconds * steps_left,
            "data_wait_fraction": min(1.0, self._waited_seconds / seconds),
        }


class Progress:
    """Counts to `total`. `log` takes the plain lines."""

    def __init__(self, done: int, total: int, unit: str, *, log: Callable[[str], None], shown: bool) -> None:
        self._done, self._total, self._unit, self._log, self._shown = done, total, unit, log, shown
        self._bar: Any = None
        self._logged = time.monotonic()
        if shown and sys.stderr.isatty() and CELL not in os.environ:
            self._bar = tqdm(
                total=total, initial=done, unit=unit, leave=unit == "step", dynamic_ncols=True, file=bar_stream()
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @staticmethod
    def print(text: str) -> None:
        """A line that does not tear a bar."""
        tqdm.write(visible(text), file=sys.stdout)
        sys.stdout.flush()

    def update(self, line: dict[str, Any]) -> None:
        """One step further, with what its line says."""
        loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
        top1 = f"top1 {line['top1']:.1f} %  " if "top1" in line else ""
        shown = f"loss {loss}  {top1}lr {line['lr']:.2g}"
        self._move(self._done + 1, shown, f"{line['clock']['clips_per_second']:.1f} clips/s")

    def advance(self) -> None:
        self._move(self._done + 1)

    def set(self, done: int, *notes: str) -> None:
        """So far, with words beside it."""
        self._move(min(done, self._total), *notes)

    def _move(self, done: int, *notes: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str("  ".join(notes), refresh=False)
            self._bar.update(done - self._done)
        self._done = done
        due = time.monotonic() - self._logged > _SECONDS_BETWEEN_LINES or (done == self._total and self._unit == "step")
        if self._shown and self._bar is None and due:
            self._logged = time.monotonic()
            self._log("  ".join([f"{self._unit} {done}/{self._total}", *notes]))
