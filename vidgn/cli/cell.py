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
from vidgn.processes import without_collection

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
    from vidgn.distributed.environment import CELL, SLOTS, adopt_slurm_ranks, take_slot
    from vidgn.distributed.signals import is_left_behind, sweep_goes_on

    if os.environ.get("SUBMITIT_EXECUTOR"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGUSR1))  # a sweep blocks them here
        _link_log(config.run_dir)
    if not take_slot(sweep_goes_on):  # torch is not imported yet: a cell that waits takes no memory
        if is_left_behind():
            os._exit(EXIT_AGAIN)
        raise StopRequested("not started: the sweep was stopped")
    with without_collection():
        from vidgn.run import run
        from vidgn.runs.directory import OtherExperimentError, write_error
        from vidgn.runs.lock import LockedError

    if SLOTS in os.environ and "SUBMITIT_EXECUTOR" not in os.environ:
        os.environ[CELL] = config.run_dir.name

    try:
        adopt_slurm_ranks(config)
        return run(config)
    except StopRequested:
        if os.environ.get("SUBMITIT_EXECUTOR") and sweep_goes_on():
            _leave_job()
        if is_left_behind():  # a launcher's worker would wait for more work
            os._exit(EXIT_AGAIN)
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
    Otherwise what comes next is up to what stopped the job: Slurm preempting it, `scontrol requeue`, `scancel`.
    """
    from submitit import JobEnvironment

    from vidgn.distributed.signals import last_signal

    number = JobEnvironment()._usr_sig()  # pyright: ignore[reportPrivateUsage]  # it has no public name
    if last_signal() == number:
        signal.raise_signal(number)
    raise SystemExit(EXIT_AGAIN)


def print_errors_once(work: Callable[[], int]) -> int:
    """Do the work of a verb that torchrun or srun may have started once for each rank. Signals count from the start.

    An error that another rank prints is only the exit code here.

    Returns:
        The exit code of vidgn.cli.main.

    Raises:
        VidgnError: if this rank is to print it.
        StopRequested: if this rank is to print it.
    """
    from vidgn.distributed.signals import StopFlag, listening

    try:
        with listening(StopFlag()):  # from here on a signal means the same as in training
            return work()
    except VidgnError as error:
        if _is_printed_by_another_rank(error):
            return 1
        raise
    except StopRequested:
        if _is_printed_by_another_rank(None):
            return EXIT_AGAIN
        raise


def _is_printed_by_another_rank(error: VidgnError | None) -> bool:
    """Whether another rank prints this. Before ranks meet all have the same error; later one has it, others echo."""
    from vidgn.distributed.environment import is_first_rank

    is_echo = getattr(error, "is_echo", None)
    return not is_first_rank() if is_echo is None else is_echo
