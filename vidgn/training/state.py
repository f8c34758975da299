"""How far a run is: what a checkpoint holds, and where a stop is asked for."""

from dataclasses import dataclass
from typing import Any

import torch

from vidgn.distributed.ranks import Ranks
from vidgn.errors import CheckpointError, StopRequested
from vidgn.runs.checkpoint import load_latest
from vidgn.runs.directory import RunDirectory
from vidgn.training.optim import load_optimizer
from vidgn.training.step import Task, TrainStep

DIGEST_MODULUS = 2**128


@dataclass
class RunState:
    """The counters of a run. Tensors are in the model and the optimizer.

    Attributes:
        total_steps: the step at which training is over.
        step: optimizer updates so far.
        digest: sum of the plan digests of what this rank has trained on since the start of the process; on the first
            rank also of everything before the last checkpoint.
        num_substituted: training clips so far that another video stood in for.
        num_skipped: steps so far that were left out because they were not finite.
    """

    total_steps: int
    step: int = 0
    digest: int = 0
    num_substituted: int = 0
    num_skipped: int = 0

    def checkpoint(self, train_step: TrainStep, task: Task, *, digest: int) -> dict[str, Any]:
        """Everything a run needs to go on; `digest` is that of all ranks."""
        return {
            "step": self.step,
            "model": train_step.model.state_dict(),
            "optimizer": train_step.optimizer.state_dict(),
            "plan_digest": f"{digest:032x}",
            "num_substituted": self.num_substituted,
            "num_skipped": self.num_skipped,
            **task.state(),
        }

    def load(self, checkpoint: dict[str, Any], train_step: TrainStep, task: Task, *, ranks: Ranks) -> None:
        """Take over what `checkpoint` gave."""
        train_step.model.load_state_dict(checkpoint["model"])
        load_optimizer(train_step.optimizer, checkpoint["optimizer"])
        self.step = checkpoint["step"]
        self.digest = int(checkpoint["plan_digest"], 16) if ranks.is_first else 0
        self.num_substituted, self.num_skipped = checkpoint["num_substituted"], checkpoint["num_skipped"]
        task.load_state(checkpoint)

    def load_last(self, train_step: TrainStep, task: Task, *, ranks: Ranks, run: RunDirectory) -> None:
        """The last checkpoint of a trained run, for a test; nothing of the run is changed.

        Raises:
            CheckpointError: if there is none.
            ConfigError: if the data has another number of classes.
        """
        checkpoint = load_latest(run.checkpoints, run.log)
        if checkpoint is None:
            if (run.path / "result.json").exists():
                raise CheckpointError(
                    f"{run.path} is done, and its checkpoints are gone: put them back to test it, or train anew with "
                    "tag=NAME"
                )
            raise CheckpointError(f"{run.path} has no checkpoint to test: train it first with vidgn train")
        if checkpoint["step"] < self.total_steps:
            run.log(f"testing an unfinished run: step {checkpoint['step']} of {self.total_steps}")
        task.check_classes(checkpoint, run.path)
        self.load(checkpoint, train_step, task, ranks=ranks)

    def stop_if_asked(self, ranks: Ranks, run: RunDirectory) -> None:
        """Stop at once if any rank was asked to. Ranks agree; outside steps it is done again from the checkpoint.

        Raises:
            StopRequested: if a signal has come.
        """
        ranks.report_status(f"testing or starting at step {self.step}")
        if ranks.sum(torch.tensor([float(run.stop.is_set())])) > 0:
            raise self.stopped()

    def stopped(self) -> StopRequested:
        """What to raise once everything is saved."""
        return StopRequested(f"stopped after step {self.step} of {self.total_steps}, everything saved")
