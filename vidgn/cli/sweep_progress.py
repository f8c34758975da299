"""How far a sweep is whose cells run in other processes: one line for all of them, told from their files."""

import time
from collections.abc import Sequence

from vidgn.config.schema import Config
from vidgn.report.read.run_state import RunStatus, duration, json_or_none, read_run_status
from vidgn.report.show.status import result_text
from vidgn.runs.progress import Progress

_SECONDS_BETWEEN_LOOKS = 2.0


class SweepProgress:
    """`show` prints a line for each cell that has ended, and how far the whole is. For the thread that watches."""

    def __init__(self, configs: Sequence[Config]) -> None:
        self._configs = configs
        weights = [c.frames * c.data.crop**2 * _clips(c) for c in configs]
        self._weights = [weight / sum(weights) for weight in weights]
        self._ended = {c.run_dir for c in configs if (c.run_dir / "result.json").exists()}
        self._began, self._begun_at = time.monotonic(), self._share([read_run_status(c.run_dir) for c in configs])
        self._next_look = 0.0
        done = len(self._ended)
        self._progress = Progress(done, len(configs), "cell", log=Progress.print, shown=True)

    def show(self) -> None:
        """Look at the cells' files, if the last look was a while ago."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        states = [read_run_status(config.run_dir) for config in self._configs]
        for config, status in zip(self._configs, states, strict=True):
            if status.state == "done" and config.run_dir not in self._ended:
                self._ended.add(config.run_dir)
                result = json_or_none(config.run_dir / "result.json") or {}
                Progress.print(f"{config.run_dir}: {result_text(result) or 'done'}")
        share = self._share(states)
        notes = [f"{sum(s.state == 'running' for s in states)} running", f"{100 * share:.0f} % of the work"]
        gained = share - self._begun_at
        if gained > 0.01:
            notes.append(f"{duration((time.monotonic() - self._began) * (1 - share) / gained)} left")
        self._progress.set(len(self._ended), *notes)

    def close(self) -> None:
        """The last look; then nothing is shown any more."""
        self._next_look = 0.0
        self.show()
        self._progress.__exit__()

    def _share(self, states: Sequence[RunStatus]) -> float:
        """The part of all training that is done, counted in input values."""
        parts = (1.0 if s.state == "done" else s.step / s.steps_total if s.steps_total else 0.0 for s in states)
        return sum(weight * part for weight, part in zip(self._weights, parts, strict=True))


def _clips(config: Config) -> float:
    steps = config.trainer.max_steps
    return config.trainer.epochs if steps is None else steps * config.slots_per_step
