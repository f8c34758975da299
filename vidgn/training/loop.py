"""The training loop: resume; for each step `train_step`, then what is due at its end; stop.

Everything a step does is a function of (config, step) and the state in the last checkpoint; nothing depends on when the
process started. The loop knows steps and nothing of what they are made of: that is the task's.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from vidgn.config.schema import Config
from vidgn.distributed.ranks import Ranks
from vidgn.errors import DecodeError, NonFiniteError
from vidgn.models.weights.containers import resolve_path
from vidgn.runs.directory import RunDirectory
from vidgn.runs.progress import Progress
from vidgn.training.late import Readback, to_device
from vidgn.training.optim import epoch_of, learning_rate
from vidgn.training.state import DIGEST_MODULUS, RunState
from vidgn.training.step import Task, TaskBatch, TrainStep


@dataclass(frozen=True)
class _StepInFlight:
    """A step whose numbers are not read yet. `numbers`: stop, substituted, summed loss, counts, whether finite."""

    step: int  # 0-based
    learning_rate: float
    used: list[TaskBatch]
    numbers: Readback


class Trainer:
    """One rank's share of a run's training.

    On a GPU the numbers of a step are read while the next one is computed, before that one's update: the host never
    waits for what it has just begun. What comes of them is the same, one step later. Checkpoints, curve points and the
    end come after them.
    """

    def __init__(
        self, config: Config, *, task: Task, update: TrainStep, state: RunState, ranks: Ranks, run: RunDirectory
    ) -> None:
        self.config, self.task, self.update, self.state = config, task, update, state
        self.ranks, self.run = ranks, run
        self.reads_late = ranks.device.type == "cuda"
        self._in_flight: _StepInFlight | None = None
        self._progress: Progress | None = None

    def train(self) -> None:
        """From where `resume` has found the run to the last step, with the validation curve on the way.

        Raises:
            StopRequested: if a signal came; the state is saved.
            NonFiniteError: if a loss or a gradient is not finite and `trainer.on_nonfinite` is `stop`.
            DecodeError: if more than `data.max_unreadable` clips could not be read.
        """
        state = self.state
        state.stop_if_asked(self.ranks, self.run)
        self.update.join_ranks()
        with (
            self.run.progress(state.step, state.total_steps, "step") as self._progress,
            self.task.batches(range(state.step, state.total_steps)) as batches,
        ):
            while True:
                if state.step > 0 and self.curve_is_due(state.step):
                    self.add_curve_point()
                if state.step == state.total_steps:
                    return
                stop = self.train_step(batches)
                state.step += 1
                if stop or not self.reads_late or self.checkpoint_is_due(state.step):
                    stop |= self.read_step()
                if stop or self.checkpoint_is_due(state.step):
                    self.save()
                if stop:
                    raise state.stopped()

    def resume(self) -> None:
        """Load the newest good checkpoint, if there is one. The first rank chooses it."""
        checkpoint = self.run.load_checkpoint() if self.ranks.is_first else None
        step = self.ranks.gather(None if checkpoint is None else checkpoint["step"])[0]
        if step is not None:
            checkpoint = self.run.load_step(step) if checkpoint is None else checkpoint
            self.state.load(checkpoint, self.update, self.task, ranks=self.ranks)
        elif self.config.weights is not None:
            resolve_path(self.config.weights)  # its error: the file is gone, and no checkpoint is left that had it

    def train_step(self, batches: Iterator[TaskBatch]) -> bool:
        """One optimizer update from all slots of a step; its numbers are in flight then.

        Returns:
            Whether any rank was asked to stop by the end of the step before, where its numbers were in flight.
        """
        state, slots = self.state, self.update.geometry.slots_per_step
        if self._in_flight is None:
            self.run.clock.start_step()
        lr = learning_rate(self.config.optim, step=state.step, total_steps=state.total_steps, slots_per_step=slots)
        used: list[TaskBatch] = []

        def next_batch() -> TaskBatch:
            self.ranks.report_status(f"reading clips of step {state.step + 1}")
            with self.run.clock.waiting():
                batch = next(batches)
            used.append(batch.without_tensors())  # which are not kept until the step's numbers are read
            self.ranks.report_status(f"computing step {state.step + 1}")
            return batch

        totals = self.update.accumulate(next_batch, step=state.step, learning_rate=lr)
        stop = self.read_step()
        known = [float(self.run.stop.is_set()), float(sum(len(b.substitutions) for b in used))]
        counts = self.update.over_ranks(torch.cat([to_device(known, totals), totals]))
        is_finite = self.update.update(counts[2])
        numbers = Readback(torch.cat([counts, is_finite.double()[None]]))
        self._in_flight = _StepInFlight(state.step, lr, used, numbers)
        return stop

    def read_step(self) -> bool:
        """Read the numbers of the step in flight, if there is one, and do what is to be done with them.

        Returns:
            Whether any rank was asked to stop.
        """
        done, self._in_flight = self._in_flight, None
        if done is None:
            return False
        state, slots = self.state, self.update.geometry.slots_per_step
        stop, num_substituted, loss_sum, *task_counts, is_finite = done.numbers.read()
        if is_finite:
            state.digest = (state.digest + sum(b.digest for b in done.used)) % DIGEST_MODULUS
        else:
            state.num_skipped += 1
            if self.config.trainer.on_nonfinite == "stop" or state.num_skipped > self._max_skipped():
                state.step = done.step
                self._end_at_nonfinite(done.used)
        line: dict[str, Any] = {
            "kind": "train",
            "step": done.step + 1,
            "epoch": epoch_of(self.config, done.step + 1, self.task.num_rows),
            "loss": loss_sum / slots if math.isfinite(loss_sum) else None,
            **self.task.numbers(task_counts, slots),
            "lr": done.learning_rate,
        }
        if not is_finite:
            line["skipped"] = True
        if num_substituted:
            found = [s for part in self.ranks.gather([s for b in done.used for s in b.substitutions]) for s in part]
            line["substitutions"] = [vars(s) for s in sorted(found, key=lambda s: s.position)]
            state.num_substituted += int(num_substituted)
        line["clock"] = self.run.clock.of_step(slots, steps_left=state.total_steps - done.step - 1)
        self.run.clock.start_step()
        self.run.write_line(line)
        self._check_unreadable(line)
        assert self._progress is not None
        self._progress.update(line)
        return bool(stop)

    # -- what is due at the end of a step ---------------------------------------------------------------------------

    def add_curve_point(self) -> None:
        """A point of the validation curve."""
        epoch = epoch_of(self.config, self.state.step, self.task.num_rows)
        self.run.write_line({"kind": "curve", "step": self.state.step, "epoch": epoch, **self.task.curve_point()})
        self.run.prune_checkpoints(keep=self.config.trainer.keep)

    def curve_is_due(self, step: int) -> bool:
        """Whether the validation curve has a point after `step` steps."""
        every = self.config.trainer.eval_every
        return every > 0 and (step == self.state.total_steps or self._completes(step, every))

    def checkpoint_is_due(self, step: int) -> bool:
        """Whether there is a checkpoint after `step` steps: each epoch, each point of the curve and at the end too."""
        at_end = step == self.state.total_steps or self._completes(step, 1)
        return at_end or step % self.config.trainer.checkpoint_steps == 0 or self.curve_is_due(step)

    def _completes(self, step: int, epochs: float) -> bool:
        """Whether `step` completes a multiple of `epochs` passes over the training rows."""
        rows, slots = epochs * self.task.num_rows, self.update.geometry.slots_per_step
        return math.floor(step * slots / rows) > math.floor((step - 1) * slots / rows)

    def save(self) -> None:
        """A checkpoint of this step, by the first rank."""
        state = self.state
        self.ranks.report_status(f"saving step {state.step}")
        total = sum(self.ranks.gather(state.digest)) % DIGEST_MODULUS
        state.digest = total if self.ranks.is_first else 0
        if self.ranks.is_first:
            checkpoint = state.checkpoint(self.update, self.task, digest=total)
            self.run.save_checkpoint(state.step, checkpoint, keep=self.config.trainer.keep)

    # -- what ends a run --------------------------------------------------------------------------------------------

    def _end_at_nonfinite(self, used: list[TaskBatch]) -> NoReturn:
        """Save the state before the bad step and the plans of all ranks' clips in it, then raise NonFiniteError."""
        step = self.state.step + 1
        described = self.ranks.gather([slot for batch in used for slot in self.task.describe(batch)])
        clips = sorted((c for part in described for c in part), key=lambda c: c["position"])
        if self.ranks.is_first:
            self.run.save_nonfinite(step, self.state.checkpoint(self.update, self.task, digest=0), clips)
        self.ranks.barrier()  # the state is saved before any rank ends the others
        skips, skipped = self.config.trainer.on_nonfinite == "skip", self.state.num_skipped
        remedy = f"trainer.max_skipped={2 * skipped}" if skips else "trainer.on_nonfinite=skip"
        before = f", as were {skipped - 1} before it, and trainer.max_skipped is {self._max_skipped()}" if skips else ""
        raise NonFiniteError(
            f"the loss or a gradient of step {step} is not finite{before}; the state before it and the plan of its "
            f"clips are in {self.run.nonfinite_path(step)}: leave such steps out with {remedy}, or begin a new run "
            f"with a lower rate, as optim.lr_per_clip={self.config.optim.lr_per_clip / 2:g} tag=NAME"
        )

    def _max_skipped(self) -> int:
        most = self.config.trainer.max_skipped
        return max(10, self.state.total_steps // 100) if most == "auto" else most

    def _check_unreadable(self, line: dict[str, Any]) -> None:
        if self.state.num_substituted > self.config.data.max_unreadable:
            last = line.get("substitutions", [{}])[-1]
            raise DecodeError(
                f"{self.state.num_substituted} training clips could not be read, more than data.max_unreadable="
                f"{self.config.data.max_unreadable}; the last was {last.get('id')}: {last.get('reason')}. Mend the "
                f"files (vidgn data check lists them all), or let other videos stand in for more of them with "
                f"data.max_unreadable={2 * self.state.num_substituted}"
            )
