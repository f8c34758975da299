"""Training, tests and studies from Python: what the verbs do, with nothing printed. Part of vidgn/api.py's face."""

import json
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidgn.config.compose import config_of_test
from vidgn.config.schema import Config
from vidgn.distributed.environment import CELL
from vidgn.errors import StopRequested, VidgnError
from vidgn.report.analyse.analysis import Analysis, analyse
from vidgn.report.analyse.origin import origin_of
from vidgn.report.read.history import read_starts
from vidgn.report.read.study import read_study
from vidgn.report.show.as_json import as_json
from vidgn.run import evaluate_run, run

Progress = Callable[[dict[str, Any]], object]
_SECONDS_BETWEEN_LOOKS = 0.2


def train(config: Config, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train and test one cell, or go on with it; one that is done is left alone. The same files as `vidgn train`.

    In the main thread SIGINT and SIGTERM save the state first, as there.

    Args:
        config: of `vidgn.load_config`.
        progress: is given each line of metrics.jsonl as it is written, from another thread: of `kind` train (step,
            loss, top1, clock) and curve.

    Returns:
        What is in result.json.

    Raises:
        VidgnError: if the user's input, data or files are at fault, or a signal stopped it with everything saved.
        Exception: what `progress` has raised, once the run has ended.

    Example:
        >>> import vidgn
        >>> config = vidgn.load_config(*overrides)  # those of `vidgn train`
        >>> vidgn.train(config)["num_videos"]
        4
    """
    with _quiet(config.run_dir.name), _followed(config.run_dir, progress):
        return _unstopped(lambda: run(config))


def evaluate(run_dir: str | os.PathLike[str], *overrides: str) -> dict[str, Any]:
    """Test a trained run with other views, statistics or videos: `evaluate(run, "views=center", "bn_stats=ema")`.

    Returns:
        What the test's file in the run's tests/ holds.

    Raises:
        VidgnError: as `vidgn evaluate` has it.

    Example:
        >>> import vidgn
        >>> vidgn.evaluate(run, "views=center")["views"]  # `run`: the directory of a finished run
        'center'
    """
    config = config_of_test(Path(run_dir), overrides)
    tests = config.run_dir / "tests"

    def told() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tests.glob("*.json")}

    before = told()
    with _quiet(config.run_dir.name):
        _unstopped(lambda: evaluate_run(config))
    (written,) = [path for path, time_ns in told().items() if before.get(path) != time_ns]
    return json.loads(written.read_text())


class Study:
    """The runs of a study and what they say, as lists of flat rows: `pandas.DataFrame(study.gaps())`.

    Example:
        >>> import vidgn
        >>> study = vidgn.Study(folder)  # with one run in it
        >>> len(study.runs()), study.gaps()
        (1, [])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read `runs_dir/study` as it is now.

        Raises:
            VidgnError: if it is no study.
        """
        self._analysis: Analysis = analyse(read_study(Path(path)))
        self._told = as_json(self._analysis)

    def runs(self) -> list[dict[str, Any]]:
        """A row for each run: what it is, its state, and its result's numbers where it is done."""
        return [dict(cell) for cell in self._told["cells"]]

    def gaps(self) -> list[dict[str, Any]]:
        """A row for each arm against the baseline: points, 95 % interval over videos and seeds, p, verdict."""
        rows = []
        for gap in self._told["gaps"]:
            interval, videos, points = (gap[key] or {} for key in ("interval", "videos", "points"))
            where = {key: value for key, value in gap["arm"].items() if key != "norm"}
            rows.append(
                {
                    **where,
                    "arm": gap["arm"]["norm"],
                    "baseline": gap["baseline"]["norm"],
                    "state": gap["state"],
                    "seeds": len(gap["seeds"]),
                    "points": points.get("mean"),
                    "low": interval.get("low"),
                    "high": interval.get("high"),
                    "p": gap["p_adjusted"],
                    "low_these_networks": videos.get("low"),
                    "high_these_networks": videos.get("high"),
                    "refused": "; ".join(gap["refused"]),
                }
            )
        return rows

    def curves(self) -> list[dict[str, Any]]:
        """A row for each point of each run's validation curve: run_name, step, epoch, top1_error_percent."""
        cells = self._analysis.study.cells
        return [{"run_name": cell.run_name, **vars(point)} for cell in cells for point in cell.curve()]

    def classes(self) -> list[dict[str, Any]]:
        """A row for each gap and class: percent right of arm and baseline, points, videos won and lost."""
        rows = []
        for gap in self._analysis.gaps:
            origin = origin_of(gap) if gap.is_gap else None
            for row in origin.rows if origin else ():
                column = gap.arm.column
                where = {key: getattr(column, key) for key in ("model", "frames", "clips_per_gpu", "gpus", "tag")}
                found = {key: getattr(row, key) for key in ("num_videos", "won", "lost", "points", "low", "high")}
                sides = {f"percent_{gap.arm.norm}": row.arm, f"percent_{gap.baseline.norm}": row.baseline}
                rows.append({**where, "class": row.name, **sides, **found})
        return rows


def study(path: str | os.PathLike[str]) -> Study:
    """A study as tables: `study("runs/table8").gaps()`.

    Raises:
        VidgnError: if there is none.

    Example:
        >>> import vidgn
        >>> [row["norm"] for row in vidgn.study(folder).runs()]  # of the one run in it
        ['gn']
    """
    return Study(path)


def _unstopped(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except StopRequested as stopped:
        raise VidgnError(f"{stopped}; the same call goes on from there") from None


@contextmanager
def _quiet(name: str) -> Generator[None]:
    """Runs here, and the ranks they start, write to their files alone, as the cells of a sweep do."""
    before = os.environ.get(CELL)
    os.environ[CELL] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[CELL]
        else:
            os.environ[CELL] = before


@contextmanager
def _followed(run_dir: Path, progress: Progress | None) -> Generator[None]:
    """Give `progress` the lines of metrics.jsonl that this start writes, in whichever process.

    Raises:
        Exception: what `progress` has raised, once the run has ended; it is given no more lines then.
    """
    if progress is None:
        yield
        return
    machine, metrics = run_dir / "machine.json", run_dir / "metrics.jsonl"
    before, over, raised = _written(machine), threading.Event(), list[Exception]()
    place = 0

    def look() -> None:
        nonlocal place
        if raised or _written(machine) == before:  # until then lines behind the checkpoint may still be cut off
            return
        first = read_starts(run_dir)[-1]["from_step"]
        with open(metrics, "rb") as file:
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                place, told = place + len(line), json.loads(line)
                if told["step"] > first or (told["kind"] == "curve" and told["step"] == first):
                    try:
                        progress(told)
                    except Exception as error:
                        raised.append(error)
                        return

    def follow() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            look()

    follower = threading.Thread(target=follow, name="vidgn-progress", daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
    look()
    if raised:
        raise raised[0]


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
