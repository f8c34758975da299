"""Real processes for equivalence tests: each rank of a world runs a list of cells, one after another."""

import dataclasses
import os
import random
import socket
from contextlib import suppress
from pathlib import Path

import torch
import torch.multiprocessing as mp

from vidgn.config.compose import load_config
from vidgn.config.schema import Config, DataConfig
from vidgn.runs.checkpoint import list_checkpoints, load_checkpoint

OVERRIDES = [
    "model=i3d_tiny",
    "frames=8",
    "span=8",
    "gpus=4",
    "clips_per_gpu=4",
    "trainer.precision=fp64",
    "trainer.max_steps=6",
    "trainer.device=cpu",
    "trainer.eval_every=0",
    "bn_stats_steps=2",
    "views=curve",
    "launch.threads=1",
]


def cell(runs_dir: Path, data: DataConfig, *overrides: str) -> Config:
    """A small experiment in float64, with dropout."""
    config = load_config([*OVERRIDES, f"runs_dir={runs_dir}", *overrides])
    assert config.model.dropout > 0
    return dataclasses.replace(config, data=data)


def last_state(config: Config) -> dict:
    return load_checkpoint(list_checkpoints(config.run_dir / "checkpoints")[-1])


def in_world(size: int, function, *arguments) -> None:
    """Run `function(rank, join, *arguments)` in `size` processes; `join()` sets torch's variables for a new group."""
    mp.spawn(_rank, (size, free_ports(100), function, arguments), nprocs=size)


def free_ports(count: int) -> list[int]:
    """Ports that stay free until their turn comes: below those that the kernel gives to outgoing connections."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 10 * count):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    assert len(ports) >= count
    return ports[:count]


def _rank(rank: int, size: int, ports: list[int], function, arguments) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    torch.set_num_threads(1)
    unused = iter(ports)
    function(rank, lambda: os.environ.update(MASTER_PORT=str(next(unused))), *arguments)


def train_cells(rank: int, join, configs: list[Config]) -> None:
    """Train and test every cell, then test it with running averages and with the test clips' statistics."""
    from vidgn.run import evaluate_run, run

    for config in configs:
        join()
        run(config)
        for use in ("ema", "batch") if config.norm.kind != "gn" else ():
            join()
            evaluate_run(dataclasses.replace(config, bn_stats=use))
