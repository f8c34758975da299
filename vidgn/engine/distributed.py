"""Processes: who this rank is, and the few collectives the engine needs. A world of one needs no process group."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from vidgn.config.schema import Config
from vidgn.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among all. `device`: where its tensors go."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place, on CPU or GPU."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable value, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def ranks_are_set() -> bool:
    """Whether torchrun, srun with torch's variables or another launcher has already made this process a rank."""
    return all(k in os.environ for k in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def world_size_of(config: Config) -> int:
    """Processes that will run the cell."""
    if ranks_are_set():
        return int(os.environ["WORLD_SIZE"])
    return config.launch.nproc_per_node * config.launch.nnodes


def choose_device(config: Config, local_rank: int) -> torch.device:
    """The device of a rank.

    Raises: ConfigError where trainer.device=cuda finds no GPU, or fewer than ranks on this machine.
    """
    wanted = config.trainer.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank >= count:
        raise ConfigError(
            f"trainer.device={config.trainer.device} with {local_rank + 1} or more processes here, but {count} GPUs: "
            f"write {f'launch.nproc_per_node={count}' if count else 'trainer.device=cpu'}"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def joined(config: Config) -> Iterator[Ranks]:
    """Join the group this process was started for (torch's variables), leave it at the end; alone without them."""
    if not ranks_are_set():
        yield Ranks(0, 1, choose_device(config, 0))
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = choose_device(config, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        timeout=datetime.timedelta(seconds=config.launch.timeout_seconds),
        rank=rank,
        world_size=world_size,
    )
    try:
        yield Ranks(rank, world_size, device)
    finally:
        dist.destroy_process_group()
