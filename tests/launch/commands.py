"""The real command on a tiny experiment, and what it leaves behind."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors.numpy import load_file

STEPS = 24


def tiny(data: Path, *more: str) -> list[str]:
    """Overrides of a cell of 24 steps on 12 generated videos, 2 clips a step."""
    return [
        "model=i3d_tiny",
        "model.width=8",
        "model.norm_groups=4",
        "data=synthetic",
        f"data.root={data}",
        "data.workers=0",
        "data.synthetic.num_train=12",
        "data.synthetic.num_val=4",
        "data.synthetic.num_classes=2",
        "data.synthetic.num_frames=10",
        "data.synthetic.size=36",
        "data.short_side=[32,36]",
        "data.crop=32",
        "frames=8",
        "span=8",
        "gpus=2",
        "clips_per_gpu=1",
        "norm=gn",
        "views=curve",
        f"trainer.max_steps={STEPS}",
        "trainer.eval_every=0",
        "trainer.device=cpu",
        "launch.threads=1",
        "launch.nproc_per_node=2",
        "runs_dir=runs",
        "study=s",
        *more,
    ]


class Command:
    """`vidgn ...` in a session of its own; everything it starts, wherever, carries a mark in its environment."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "vidgn"),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.mark = f"VIDGN_TEST={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        self.log = folder / f"output-{value[:8]}.txt"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*program, *arguments],
                cwd=folder,
                env={**(environment or os.environ), "OMP_NUM_THREADS": "1", name: value},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int:
        """The exit code. The test fails, and all processes end, if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s: {self.processes()}\n{self.output()}") from None

    def output(self) -> str:
        return self.log.read_text()

    def processes(self) -> dict[int, str]:
        """Pid and command line of everything alive that carries the mark."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self.mark.encode() not in (entry / "environ").read_bytes().split(b"\0"):
                        continue
                    if (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                        found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")[:300]
                except OSError:
                    continue
        return found

    def assert_nothing_left(self, seconds: float = 10) -> None:
        """No process, so no port either."""
        wait_until(lambda: not self.processes(), seconds, lambda: f"left behind: {self.processes()}")

    def kill_all(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue


@contextmanager
def started(arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> Iterator[Command]:
    """A started command; nothing of it lives on after the block."""
    command = Command(arguments, folder, environment)
    try:
        yield command
    finally:
        command.kill_all()
        command.process.wait()


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.05)


def steps_done(run: Path) -> int:
    """Train lines in metrics.jsonl."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b'"kind": "train"')
    except OSError:
        return 0


def metrics(run: Path) -> list[dict]:
    """Lines without what a clock gives."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("clock", None)
    return lines


def assert_same_run(run: Path, other: Path) -> None:
    """Two runs of one experiment, with different tags, ended in the same bytes."""
    assert metrics(run) == metrics(other)
    for name in ("result.json", "tests/curve-none.csv"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert _parameters(run) == _parameters(other)


def _parameters(run: Path) -> dict[str, bytes]:
    tensors = load_file(run / "model.safetensors")  # its header has the config, and so the tag
    assert len(tensors) > 50
    return {name: tensor.tobytes() for name, tensor in tensors.items()}
