"""Starting the ranks of one cell, through torch's elastic launch. What they run is handed in."""

import inspect
import logging
import multiprocessing
import os
import pickle
import re
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vidgn.config.schema import Config
from vidgn.distributed.environment import first_slurm_host, ranks_are_set, slurm_port
from vidgn.distributed.rank_status import RankStatusTable, use_table
from vidgn.distributed.ranks import RankError, check_devices, error_of_kind
from vidgn.distributed.signals import RankStopFlag, StopFlag, ended_by_second_interrupt, signals_blocked_in_children
from vidgn.errors import ConfigError, VidgnError
from vidgn.processes import die_with_parent, without_collection

RunRank = Callable[[RankStopFlag], str | None]
_SECONDS_TO_ANSWER = 5
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Meeting:
    """Where the nodes of a cell meet. `hosts`: whether this one keeps the store, None to find out by its name."""

    host: str
    port: int
    hosts: bool | None


def check_launch(config: Config) -> None:
    """Check the launch on this machine before a process starts.

    Raises:
        ConfigError: if there are fewer GPUs than ranks, no place for several nodes to meet, or its port is taken.
    """
    check_devices(config)
    if not ranks_are_set() and config.launch.nnodes > 1:
        _check_port(meeting(config))


def meeting(config: Config) -> Meeting:
    """Where the nodes of a cell meet: launch.rendezvous, else the first node of the Slurm job.

    Raises:
        ConfigError: if neither is there, or the job has another number of nodes.
    """
    given = config.launch.rendezvous
    if given is not None:
        found = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d+)", given)
        if found is None or not 0 < int(found[2]) < 65536:
            raise ConfigError(f"launch.rendezvous={given}: write HOST:PORT, as in launch.rendezvous=node1:29500")
        return Meeting(found[1], int(found[2]), None)
    if "SLURM_JOB_NODELIST" not in os.environ:
        raise ConfigError(
            f"launch.nnodes={config.launch.nnodes} needs launch.rendezvous=HOST:PORT, the same on every node "
            f"(the first node's name and a free port there)"
        )
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_JOB_NUM_NODES", "1")))
    if nodes != config.launch.nnodes:
        raise ConfigError(
            f"launch.nnodes={config.launch.nnodes}, but this Slurm job step runs on {nodes}: ask for --nodes="
            f"{config.launch.nnodes} and start vidgn by srun --ntasks-per-node=1"
        )
    return Meeting(
        first_slurm_host(os.environ["SLURM_JOB_NODELIST"]), slurm_port(), os.environ.get("SLURM_NODEID", "0") == "0"
    )


def launch(config: Config, stop: StopFlag, run_rank: RunRank) -> str | None:
    """Run `run_rank` in as many processes as the launch group asks for.

    Args:
        run_rank: picklable; given the rank's own stop flag, it returns None when done, else why it stopped with
            everything saved.

    Returns:
        None when done, else why it stopped with everything saved.

    Raises:
        VidgnError: as a rank raised it.
        RankError: if a rank died in another way.
        ConfigError: if the nodes don't meet.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.multiprocessing").setLevel(logging.ERROR)
    if multiprocessing.get_start_method(allow_none=True) == "loky":  # joblib's worker; its children know no such method
        multiprocessing.set_start_method("spawn", force=True)
    place = meeting(config) if config.launch.nnodes > 1 else None
    if place is not None:  # a store for each start: see _start in ranks.py
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    table = RankStatusTable(config.launch.nproc_per_node)
    logs = tempfile.TemporaryDirectory(prefix="vidgn-ranks-")  # torch would leave one of its own behind
    try:
        with (
            logs as folder,
            ended_by_second_interrupt(table.kill),
            signals_blocked_in_children(),
            table.hung_up_where_torch_hangs(),
        ):
            settings = _launch_config(config, place, folder)
            outcomes = elastic_launch(settings, _start_rank)(pickle.dumps(run_rank), stop, os.getpid(), table)
    except SignalException:
        if not table.has_hung_up:
            raise
        raise RankError("a rank was killed as it ended, with its work done: start the same command again") from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        found = _as_error(rank, failure, table.last_status(failure.local_rank), config.launch.max_restarts)
        if stop.is_set() and type(found) is RankError:  # what stopped the run may have ended ranks as well
            return f"stopped, and {found}: it goes on from the last checkpoint"
        raise found from None
    except RendezvousError as error:
        if place is None:
            raise
        raise ConfigError(
            f"the {config.launch.nnodes} nodes did not meet at {place.host}:{place.port} in "
            f"{config.launch.timeout_seconds:g} s: start the same command on each, and see that they reach that port "
            f"({' '.join(str(error).split())})"
        ) from None
    return next((o for o in outcomes.values() if o is not None), None)


def _launch_config(config: Config, place: Meeting | None, logs: str) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    settings: dict[str, Any] = {
        "min_nodes": config.launch.nnodes,
        "max_nodes": config.launch.nnodes,
        "nproc_per_node": config.launch.nproc_per_node,
        "run_id": uuid.uuid4().hex if place is None else f"vidgn-{config.study}-{config.run_dir.name}",
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0" if place is None else f"{place.host}:{place.port}",
        "rdzv_configs": {"join_timeout": max(1, int(config.launch.timeout_seconds))},
        "max_restarts": config.launch.max_restarts,
        "monitor_interval": 0.1,
        "start_method": "spawn",
        "logs_specs": DefaultLogsSpecs(log_dir=logs),
    }
    if place is None or place.host in _LOOPBACK:
        settings["local_addr"] = "127.0.0.1"
    if place is not None and place.hosts is not None:
        settings["rdzv_configs"]["is_host"] = place.hosts
    supported = inspect.signature(LaunchConfig).parameters
    if "signals_to_handle" in supported:  # SIGTERM and SIGINT are ours: they ask for a checkpoint
        settings["signals_to_handle"] = "SIGHUP,SIGQUIT"
    if "shutdown_timeout" in supported:  # seconds that surviving ranks get once one has died
        settings["shutdown_timeout"] = 3
    return LaunchConfig(**settings)


def _check_port(place: Meeting) -> None:
    """Refuse a port of this machine that something else than a store of torch listens on."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    try:
        with socket.create_connection((place.host, place.port), timeout=2):
            pass
    except OSError:  # no process listens yet: the first to come opens the port
        return
    answered = threading.Event()

    def ask() -> None:
        with suppress(RuntimeError, ValueError):
            TCPStore(place.host, place.port, is_master=False, wait_for_workers=False)
            answered.set()

    threading.Thread(target=ask, daemon=True).start()  # it would wait for a silent program for ever
    if not answered.wait(_SECONDS_TO_ANSWER):
        raise ConfigError(
            f"launch.rendezvous={place.host}:{place.port}: another program listens there, choose another port"
        )


def _start_rank(pickled: bytes, stop: StopFlag, launcher: int, table: RankStatusTable) -> str | None:
    """Main function of a started rank. An error that a restart would not mend ends the next starts at once.

    Args:
        pickled: what to run. It is unpickled here, where signals are listened to: it imports for seconds.
    """
    die_with_parent(launcher)
    own = RankStopFlag(stop)
    own.listen()
    use_table(table, int(os.environ["LOCAL_RANK"]), start=os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if (why := table.recorded_failure()) is not None:
        raise error_of_kind(why) or RankError(why)
    with without_collection():
        run_rank: RunRank = pickle.loads(pickled)
    try:
        outcome = run_rank(own)
    except VidgnError as error:
        if not isinstance(error, RankError):
            table.record_failure(f"{type(error).__name__}: {error}")
        raise
    table.done()
    return outcome


def _as_error(rank: int, failure: Any, last_status: str | None, max_restarts: int) -> VidgnError:
    message = failure.message
    if isinstance(message, dict):
        message = message.get("message", message)
    if (error := error_of_kind(str(message))) is not None:
        return error
    tries = f" after {max_restarts} restarts" if max_restarts else "; launch.max_restarts=N would start it again"
    return RankError(f"rank {rank} (process {failure.pid}, last at: {last_status}) failed{tries}: {message}")
