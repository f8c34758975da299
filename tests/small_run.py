"""A run of four steps on eight tiny videos, through the command line in this process: a second a start."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from vidgn.cli.main import main
from vidgn.data.decode.write import write_video
from vidgn.training.loop import Trainer
from vidgn.training.step import TrainStep

BASE = {
    "model": "i3d_tiny",
    "model.width": "8",
    "model.norm_groups": "2",
    "norm": "gn",
    "data": "csv",
    "data.root": "videos",
    "data.train": "train.csv",
    "data.val": "val.csv",
    "data.workers": "0",
    "data.short_side": "[28,32]",
    "data.crop": "28",
    "frames": "8",
    "span": "8",
    "gpus": "1",
    "clips_per_gpu": "2",
    "trainer.max_steps": "4",
    "trainer.eval_every": "0",
    "trainer.checkpoint_steps": "1",
    "trainer.device": "cpu",
    "launch.threads": "1",
    "views": "curve",
    "study": "s",
}
RUN = Path("runs/s/i3d_tiny_8f_2x1_gn_s0")


def train(overrides: Mapping[str, str], *, multirun: bool = False) -> int:
    return main(["train", *(["-m"] if multirun else []), *(f"{k}={v}" for k, v in overrides.items())])


@contextmanager
def patched(place: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, value)
        yield


def not_finite(*steps: int) -> AbstractContextManager[None]:
    """The loss of these steps is no number."""
    ordinary = TrainStep.forward_backward

    def spoiled(self, batch, *, step, index):
        totals = ordinary(self, batch, step=step, index=index)
        if step + 1 in steps:
            totals[0] = float("nan")
        return totals

    return patched("vidgn.training.step.TrainStep.forward_backward", spoiled)


def reading_late() -> AbstractContextManager[None]:
    """The numbers of a step are read in the next one, as on a GPU."""
    ordinary = Trainer.__init__

    def init(self, *args, **kwargs):
        ordinary(self, *args, **kwargs)
        self.reads_late = True

    return patched("vidgn.training.loop.Trainer.__init__", init)


def begin(**overrides: str) -> None:
    """Train the first two steps of a run, which then ends."""
    with not_finite(3):
        assert train(BASE | {k.replace("__", "."): v for k, v in overrides.items()}) == 1


def write_data(folder: Path) -> None:
    """8 videos of 10 frames of 36 x 36, of two classes, with their csv files and the names of the classes."""
    random = np.random.default_rng(0)
    (folder / "videos").mkdir()
    for i in range(8):
        write_video(str(folder / f"videos/{i}.mp4"), random.integers(0, 256, (10, 36, 36, 3), np.uint8))
    for split, which in (("train", range(6)), ("val", range(6, 8))):
        rows = "".join(f"{i}.mp4,{'walk' if i % 2 else 'run'}\n" for i in which)
        (folder / f"{split}.csv").write_text(f"path,label\n{rows}")
    (folder / "names.txt").write_text("run\nwalk\n")
