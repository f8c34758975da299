"""Ranks: which one this process is, and the few collectives that a run needs. A world of one needs no process group."""

import datetime
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from vidgn.config.schema import Config
from vidgn.distributed.environment import ranks_are_set
from vidgn.distributed.rank_status import RankStatusReporter
from vidgn.errors import ConfigError, StopRequested, VidgnError
from vidgn.geometry import Geometry
from vidgn.summation import sum_each_over_ranks, sum_over_ranks

_SECONDS_BETWEEN_CHECKS = 0.2
_FAILURE = "vidgn/failure"  # key in the store of the error of the first rank that failed


class RankError(VidgnError):
    """A rank failed otherwise than by a VidgnError."""

    is_echo = False  # as on the VidgnErrors of a group: whether another rank failed first, and prints its own


@dataclass(frozen=True)
class Ranks:
    """This process among all. `device`: where its tensors go."""

    rank: int
    world_size: int
    device: torch.device
    status: RankStatusReporter | None = None

    def report_status(self, what: str) -> None:
        """What this rank is doing, for the others to name when they wait for it. Every rank reports the same lines."""
        if self.status is not None:
            self.status.report(what)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, on CPU or GPU, in the order of vidgn/summation.py. For small tensors: each goes to all."""
        return sum_over_ranks(tensor, self.world_size)

    def sum_each(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """`sum` of each, in one collective."""
        return sum_each_over_ranks(tensors, self.world_size)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable value, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first rank's picklable value, on every rank; what the others give is not looked at."""
        if self.world_size == 1:
            return value
        values = [value if self.is_first else None]
        dist.broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def world_size_of(config: Config) -> int:
    """Processes that will run the cell."""
    if ranks_are_set():
        return int(os.environ["WORLD_SIZE"])
    return config.launch.nproc_per_node * config.launch.nnodes


def num_gpus(config: Config) -> int:
    """GPUs of this machine that the cell may use; 0 with trainer.device=cpu."""
    return torch.cuda.device_count() if config.trainer.device != "cpu" and torch.cuda.is_available() else 0


def check_devices(config: Config) -> None:
    """Raise ConfigError where this machine has fewer GPUs than ranks, or none where they are asked for."""
    count = num_gpus(config)
    if not ranks_are_set():
        here = config.launch.nproc_per_node
    elif "LOCAL_WORLD_SIZE" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
    else:  # srun may show each task its own GPU and no other
        here = 1 if count == 1 else int(os.environ.get("LOCAL_RANK", "0")) + 1
    if count < here and (count > 0 or config.trainer.device == "cuda"):
        remedy = f"launch.nproc_per_node={count}" if count else "trainer.device=cpu"
        raise ConfigError(
            f"trainer.device={config.trainer.device} with {here} processes on this machine, but {count} GPUs to be "
            f"seen: write {remedy}"
        )


def choose_device(config: Config, local_rank: int) -> torch.device:
    """The device of a rank. `check_devices` has already refused a machine that lacks one."""
    count = num_gpus(config)
    return torch.device("cuda", local_rank if count > 1 else 0) if count else torch.device("cpu")


@contextmanager
def joined(config: Config, stop: Callable[[], bool] = lambda: False) -> Generator[Ranks]:
    """Join the group this process was started for (torch's variables), leave it at the end; alone without them.

    An error of one rank ends all of them. That rank raises it as it is. The others raise one of its kind if it is a
    VidgnError, else a RankError that quotes it.

    Args:
        stop: whether this rank was asked to stop; it is asked while it waits for the others.

    Raises:
        ConfigError: if the ranks can't meet.
        StopRequested: if it is to stop before they have met.
    """
    if not ranks_are_set():
        yield Ranks(0, 1, choose_device(config, 0))
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = choose_device(config, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = _interruptible(lambda: _meet(config, rank, world_size, backend), stop)
    seconds = config.launch.timeout_seconds
    status = RankStatusReporter(store, rank=rank, world_size=world_size, timeout_seconds=seconds)
    try:
        yield Ranks(rank, world_size, device, status)
    except Exception as error:
        raise _first_failure(store, rank, _as_time_out(error, status, seconds)) from error
    finally:
        status.close()
        dist.destroy_process_group()


def _interruptible(meet: Callable[[], Store], stop: Callable[[], bool]) -> Store:
    """`meet()`, in a thread: torch waits for the other ranks where no signal reaches Python."""
    met: list[Store | Exception] = []

    def work() -> None:
        try:
            met.append(meet())
        except Exception as error:
            met.append(error)

    thread = threading.Thread(target=work, name="vidgn-rendezvous", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_SECONDS_BETWEEN_CHECKS)
        if stop() and thread.is_alive():
            raise StopRequested("stopped before the ranks had met")
    if isinstance(met[0], Exception):
        raise met[0]
    return met[0]


def _meet(config: Config, rank: int, world_size: int, backend: str) -> Store:
    """Make the process group; the store that it was made with."""
    timeout = datetime.timedelta(seconds=config.launch.timeout_seconds)
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        met, _, _ = next(rendezvous(f"env://?rank={rank}&world_size={world_size}", timeout=timeout))
        store = PrefixStore(f"vidgn/{_start()}", met)
        dist.init_process_group(backend, store=store, timeout=timeout, rank=rank, world_size=world_size)
        return store
    except (RuntimeError, OSError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise ConfigError(f"port {address} is in use by another program: choose another MASTER_PORT") from None
        raise ConfigError(
            f"rank {rank} of {world_size} could not meet the others at {address} in {timeout.total_seconds():.0f} s: "
            f"start all {world_size} with the same MASTER_ADDR and MASTER_PORT, which they can reach "
            f"({_one_line(error)})"
        ) from None


def _start() -> str:
    """Which start of the group this is, where the store outlives a start: old addresses in it must not be found again.

    With several nodes only those where a rank died count it, and each start has a store of its own (see launch.py).
    """
    alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"


def _as_time_out(error: Exception, status: RankStatusReporter, seconds: float) -> Exception:
    """A collective's time-out, with the ranks it waited for; any other error as it is."""
    if not isinstance(error, RuntimeError) or ("Timed out" not in str(error) and "timeout" not in str(error).lower()):
        return error
    waits = status.waits_for()
    if waits is None:
        return error
    return RankError(
        f"{waits}, for longer than launch.timeout_seconds={seconds:g}: see what holds them up (a slow disk or a hung "
        f"reader: data.timeout_seconds should be shorter), or allow more"
    )


def _first_failure(store: Store, rank: int, error: Exception) -> Exception:
    """The error as it is on the rank that failed first; on the others one that quotes it."""
    mine = f"rank {rank}: {type(error).__name__}: {_one_line(error)}"
    try:
        first = store.compare_set(_FAILURE, "", mine).decode()
    except RuntimeError:  # the store was the first rank's, and is gone with it
        first = "rank 0: it ended before the others"
    if first == mine:
        error.is_echo = False  # type: ignore[attr-defined]
        if isinstance(error, VidgnError) or not _is_lost_connection(error):
            return error
        return RankError(
            f"rank {rank} lost the connection to the others: one of them died without a word ({_one_line(error)})"
        )
    echo = error_of_kind(first.partition(": ")[2]) or RankError(first)
    echo.is_echo = True  # type: ignore[attr-defined]
    return echo


def error_of_kind(text: str) -> VidgnError | None:
    """`Kind: message` as an error again, where Kind is any VidgnError."""
    name, _, message = text.partition(": ")
    kinds: list[type[VidgnError]] = [VidgnError]
    for kind in kinds:  # it grows
        kinds += kind.__subclasses__()
    return next((kind(message) for kind in kinds if kind.__name__ == name), None)


def _is_lost_connection(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Timed out")
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def statistics_process_group(geometry: Geometry) -> Any:
    """The process group this rank normalises with, None where groups lie within a forward. Made by all ranks."""
    if geometry.ranks_per_group == 1:
        return None
    groups = [dist.new_group(ranks) for ranks in geometry.rank_groups()]
    return groups[dist.get_rank() // geometry.ranks_per_group]
