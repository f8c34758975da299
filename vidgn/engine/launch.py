"""Ranks of one cell: in place when there is one, through torch's elastic launch otherwise."""

import inspect
import json
import logging
import os
import re
import uuid
from typing import Any, Literal

from vidgn import errors
from vidgn.config.schema import Config
from vidgn.engine.signals import RankStop, Stop
from vidgn.errors import ConfigError, VidgnError

Work = Literal["train", "test"]
LAUNCHED_BY_US = "VIDGN_LAUNCHED"  # set in ranks whose launching process has prepared the run directory


class RankError(VidgnError):
    """A rank died; the message has its number and the last it said."""


def launch(config: Config, stop: Stop, work: Work) -> str | None:
    """Do `work` in as many processes as the launch group asks for.

    Returns: None when done, else why it stopped with everything saved.
    Raises: VidgnError as a rank raised it; RankError where a rank died otherwise.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings: dict[str, Any] = {
        "min_nodes": config.launch.nnodes,
        "max_nodes": config.launch.nnodes,
        "nproc_per_node": config.launch.nproc_per_node,
        "run_id": os.environ.get("SLURM_JOB_ID") if config.launch.nnodes > 1 else uuid.uuid4().hex,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": _rendezvous(config),
        "max_restarts": config.launch.max_restarts,
        "monitor_interval": 0.1,
        "start_method": "spawn",
        "logs_specs": DefaultLogsSpecs(),
    }
    if settings["run_id"] is None:
        settings["run_id"] = f"vidgn-{config.study}"
    supported = inspect.signature(LaunchConfig).parameters
    if "signals_to_handle" in supported:  # SIGTERM and SIGINT are ours: they ask for a checkpoint
        settings["signals_to_handle"] = "SIGHUP,SIGQUIT"
    if "shutdown_timeout" in supported:  # seconds that surviving ranks get once one has died
        settings["shutdown_timeout"] = 3
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's advice against find_unused_parameters, see train.py
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        outcomes = elastic_launch(LaunchConfig(**settings), _rank)(config, stop, work)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise _as_error(failure, config.launch.max_restarts) from None
    return next((o for o in outcomes.values() if o is not None), None)


def _rendezvous(config: Config) -> str:
    if config.launch.rendezvous is not None:
        return config.launch.rendezvous
    if config.launch.nnodes > 1:
        raise ConfigError(
            f"launch.nnodes={config.launch.nnodes} needs launch.rendezvous=HOST:PORT, the same on every node "
            f"(the first node's name and a free port)"
        )
    return "localhost:0"


def _rank(config: Config, stop: Stop, work: Work) -> str | None:
    """What a started rank runs."""
    from vidgn.engine.run import work_as_rank

    os.environ[LAUNCHED_BY_US] = "1"
    own = RankStop(stop)
    own.listen()
    return work_as_rank(config, own, work)


def _as_error(failure: Any, max_restarts: int) -> VidgnError:
    message = failure.message
    if isinstance(message, dict):
        message = message.get("message", json.dumps(message))
    if found := re.match(r"(\w+Error): (.*)", str(message), re.DOTALL):
        kind = getattr(errors, found[1], None)
        if kind is not None:
            return kind(found[2])
    tries = f" after {max_restarts} restarts" if max_restarts else "; launch.max_restarts=N would start it again"
    return RankError(f"rank {failure.rank} (process {failure.pid}) failed{tries}: {message}")
