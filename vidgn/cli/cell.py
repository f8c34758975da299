"""What Hydra runs for each cell, in this process or in a launcher's."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vidgn.config.compose import register_resolvers
from vidgn.config.schema import Config
from vidgn.errors import EXIT_AGAIN, StopRequested, VidgnError

register_resolvers()  # launchers' processes compose the cell after they have imported this


def run_cell(node: DictConfig) -> dict[str, Any]:
    """`run_config` for the cell that Hydra composed."""
    from vidgn.config.compose import to_config

    return run_config(to_config(node))


def run_config(config: Config) -> dict[str, Any]:
    """Train and test a cell.

    Returns:
        Its result.

    Raises:
        VidgnError: whatever made it fail, after leaving it in the cell's error.txt; never exits the process, but
            for a batch job that was stopped and is to be started again.
    """
    from vidgn.distributed.environment import adopt_slurm_ranks, take_slot
    from vidgn.distributed.signals import is_wanted

    if os.environ.get("SUBMITIT_EXECUTOR"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR1))  # a sweep blocks them here
        _link_log(config.run_dir)
    if not take_slot(is_wanted):  # torch is not imported yet: a cell that waits takes no memory
        raise StopRequested("not started: the sweep was stopped")
    from vidgn.runs.directory import OtherExperimentError, write_error
    from vidgn.runs.lock import LockedError

    try:
        adopt_slurm_ranks(config)
        from vidgn.run import run

        return run(config)
    except StopRequested:
        if os.environ.get("SUBMITIT_EXECUTOR") and is_wanted():
            _leave_job()
        raise
    except (LockedError, OtherExperimentError):  # the directory is another run's: nothing is written there
        raise
    except VidgnError as error:
        write_error(config.run_dir, " ".join(str(error).split()))
        raise
    except Exception as error:
        write_error(config.run_dir, f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise


def _link_log(run_dir: Path) -> None:
    """Put the job's log beside the run's other files."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    run_dir.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.symlink(os.path.relpath(job.paths.stdout, run_dir), run_dir / f"job-{job.job_id}.log")


def _leave_job() -> None:
    """End a submitit job that a signal stopped, its state saved, without a result: it has none yet.

    Near its time limit the signal is submitit's own, and is handed on to it: submitit puts the job back in the queue.
    Otherwise whoever stopped the job (Slurm preempting it, `scontrol requeue`, `scancel`) knows what comes next.
    """
    from submitit import JobEnvironment

    from vidgn.distributed.signals import heard_last

    number = JobEnvironment()._usr_sig()
    if heard_last() == number:
        signal.raise_signal(number)
    raise SystemExit(EXIT_AGAIN)


def said_once(work: Callable[[], int]) -> int:
    """Do `work`, signals heard from the start; an error that another rank prints is but this one's exit code.

    Returns:
        The exit code of vidgn.cli.main.

    Raises:
        VidgnError: what the user can mend.
        StopRequested: where this rank is to print it.
    """
    from vidgn.distributed.signals import Stop, heard

    try:
        with heard(Stop()):  # from here on a signal means the same as in training
            return work()
    except VidgnError as error:
        if _is_said_by_another_rank(error):
            return 1
        raise
    except StopRequested:
        if _is_said_by_another_rank(None):
            return EXIT_AGAIN
        raise


def _is_said_by_another_rank(error: VidgnError | None) -> bool:
    """Whether one of several ranks is enough to print this: all have it before they meet, then one and its echoes."""
    from vidgn.distributed.environment import is_first_rank

    heard_of = getattr(error, "heard_of", None)
    return not is_first_rank() if heard_of is None else heard_of
