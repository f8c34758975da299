"""The training loop: train() -> train_step() -> forward_backward(), each a screen.

Everything a step does is a function of (config, step) and the state in the last checkpoint; nothing depends on when the
process started.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.loading.batches import Batch, Substitution, train_batches
from vidgn.distributed.ranks import Ranks, statistics_process_group, wrapped
from vidgn.errors import CheckpointError, ConfigError, DecodeError
from vidgn.geometry import Geometry
from vidgn.models.i3d import VideoResNet
from vidgn.models.norms.layers import set_statistics_groups
from vidgn.models.weights.containers import resolve_path
from vidgn.rng_streams import Tag
from vidgn.runs.checkpoint import load_latest
from vidgn.runs.directory import RunDirectory, StopRequested
from vidgn.training import bn_stats
from vidgn.training.optim import learning_rate, make_optimizer, set_learning_rate
from vidgn.training.setup import ToModel, autocast, epoch_of, total_steps
from vidgn.training.step import backward, dropout_scale, end_at_nonfinite, gradients_are_finite, positions, summed_loss
from vidgn.training.tester import CURVE, SplitScores, evaluate

_DIGEST_MODULUS = 2**128


class Trainer:
    """One rank's share of a run."""

    def __init__(
        self,
        config: Config,
        *,
        model: VideoResNet,
        geometry: Geometry,
        ranks: Ranks,
        train: Manifest,
        val: Manifest,
        run: RunDirectory,
        to_model: ToModel,
    ) -> None:
        self.config, self.geometry, self.ranks, self.run = config, geometry, ranks, run
        self.train_rows, self.val_rows = train, val
        self.model, self.to_model = model, to_model
        self.total_steps = total_steps(config, len(train))
        self.optimizer = make_optimizer(model, config)
        self.step_statistics = bn_stats.StepStatistics(model)
        self.group = statistics_process_group(geometry)
        self.step = 0
        self.digest = 0  # of this rank's clips since the start (rank 0: and of all before the last checkpoint)
        self.num_substituted = 0
        self.num_skipped = 0

    def train(self) -> None:
        """From the last checkpoint to the last step, with the validation curve on the way.

        Raises:
            StopRequested: once the state is saved.
            NonFiniteError: see above.
            DecodeError: (too many unreadable clips).
        """
        self.resume()
        self.stop_if_asked()
        forward = wrapped(self.model, self.ranks, compiled=self.config.trainer.compile)
        with ExitStack() as stack:
            progress = stack.enter_context(self.run.progress(self.step, self.total_steps, "step"))
            batches = stack.enter_context(self._batches())
            while True:
                if self._curve_is_due(self.step) and self.step > 0:
                    self._add_curve_point()
                if self.step == self.total_steps:
                    return
                line = self.train_step(forward, batches)
                progress.update(line)
                self.step += 1
                if self._checkpoint_is_due(self.step) or line["stop"]:
                    self.save()
                if line["stop"]:
                    raise StopRequested(f"stopped after step {self.step} of {self.total_steps}, everything saved")

    def train_step(self, forward: nn.Module, batches: Iterator[Batch]) -> dict[str, Any]:
        """One optimizer update from all slots of a step.

        Returns:
            The step's line, with `stop` where any rank was asked to.
        """
        self.run.clock.start_step()
        self.model.train()
        set_statistics_groups(self.model, group_clips=self._group_clips_here(), process_group=self.group)
        lr = learning_rate(
            self.config.optim,
            step=self.step,
            total_steps=self.total_steps,
            slots_per_step=self.geometry.slots_per_step,
        )
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, num_correct = 0.0, 0
        used: list[Batch] = []
        for index in range(self.geometry.forwards_per_step):
            self.ranks.note(f"reading clips of step {self.step + 1}")
            with self.run.clock.waiting():
                used.append(next(batches))
            self.ranks.note(f"computing step {self.step + 1}")
            loss, correct = self.forward_backward(forward, used[-1], index)
            loss_sum, num_correct = loss_sum + loss, num_correct + correct
        counts = self.ranks.sum(self._counts(loss_sum, num_correct, used))
        stop, loss_sum, num_correct, num_substituted = counts.tolist()
        finite = math.isfinite(loss_sum) and gradients_are_finite(self.model)
        if finite:
            self.optimizer.step()
            self.step_statistics.update_running(self.ranks)
            self.digest = (self.digest + sum(b.digest for b in used)) % _DIGEST_MODULUS
        else:
            self.step_statistics.forget()
            self.num_skipped += 1
            if self.config.trainer.on_nonfinite == "stop":
                state = self.state(0)
                end_at_nonfinite(self.config, self.run, self.ranks, step=self.step + 1, state=state, used=used)
        return self._write_line(
            lr, loss_sum, num_correct, finite=finite, stop=bool(stop), used=used, new=int(num_substituted)
        )

    def forward_backward(self, forward: nn.Module, batch: Batch, index: int) -> tuple[float, int]:
        """One forward of this rank and its backward; gradients meet on the last forward of the step.

        Returns:
            Summed loss and number of correct clips of the forward.
        """
        is_last = index == self.geometry.forwards_per_step - 1
        no_sync = not is_last and isinstance(forward, DistributedDataParallel)
        with forward.no_sync() if no_sync else nullcontext():  # type: ignore[operator]
            with autocast(self.config, self.ranks.device):
                logits_NK = forward(self.to_model(batch.clip_NTHWC), self._dropout_scale(index)).flatten(1)
            label_N = batch.label_N.to(self.ranks.device, non_blocking=True)
            loss = summed_loss(logits_NK, label_N)
            self.step_statistics.add_forward()
            backward(loss, self.geometry)
        return float(loss.detach()), int((logits_NK.detach().argmax(1) == label_N).sum())

    def precise_statistics(self) -> bn_stats.Statistics:
        """BN statistics over `bn_stats_steps` steps of plans of their own, at most an epoch; the same on every rank."""
        set_statistics_groups(self.model, group_clips=self._group_clips_here(), process_group=self.group)
        one_epoch = -(-len(self.train_rows) // self.geometry.slots_per_step)
        steps = range(min(self.config.bn_stats_steps, one_epoch))
        replaced: list[Substitution] = []
        with (
            self._batches(steps, tag=Tag.BN_STATS, order_tag=Tag.BN_STATS_ORDER) as batches,
            self.run.progress(0, len(steps) * self.geometry.forwards_per_step, "BN statistics") as progress,
        ):

            def forwards() -> Iterator[torch.Tensor]:
                for batch in batches:
                    self.stop_if_asked()
                    replaced.extend(batch.substitutions)
                    yield self.to_model(batch.clip_NTHWC)
                    progress.advance()

            with autocast(self.config, self.ranks.device):
                statistics = bn_stats.precise_statistics(self.model, forwards(), self.ranks)
        ids = [s.id for part in self.ranks.gather(replaced) for s in part]
        if ids:
            self.run.say(
                f"BN statistics: {len(ids)} clips that could not be read were replaced, "
                f"of {', '.join(sorted(set(ids))[:3])} (vidgn data check lists all such videos)"
            )
        return statistics

    @contextmanager
    def tested(self, views: ViewsConfig, *, unit: str | None = None) -> Iterator[SplitScores]:
        """Scores of the validation split; inside, the model still has the statistics it was tested with."""
        use = bn_stats.statistics_used(self.config)
        statistics = self.precise_statistics() if use == "precise" else None
        with (
            bn_stats.statistics_at_test(self.model, statistics),
            autocast(self.config, self.ranks.device),
            self.run.progress(0, len(self.val_rows), unit or views.name) as progress,
        ):

            def each_block(done: int) -> None:
                progress.set(done * self.ranks.world_size)
                self.stop_if_asked()

            yield evaluate(
                self.model,
                self.val_rows,
                self.config,
                views,
                ranks=self.ranks,
                to_model=self.to_model,
                use_batch_statistics=use == "batch",
                each_block=each_block,
            )

    # -- what belongs to the end of a step --------------------------------------------------------------------------

    def _add_curve_point(self) -> None:
        views = self.config.views if self.config.data.augment == "image" else CURVE
        with self.tested(views, unit="curve") as scores:
            pass
        line = {
            "kind": "curve",
            "step": self.step,
            "epoch": epoch_of(self.config, self.step, len(self.train_rows)),
            "top1_error_percent": 100 - scores.top_percent(1),
            "top5_error_percent": 100 - scores.top_percent(5),
            "loss": scores.loss,
            "num_videos": scores.num_videos,
            "num_unreadable": len(scores.unreadable),
        }
        self.run.write_line(line)
        self.run.prune_checkpoints(keep=self.config.trainer.keep)

    def _curve_is_due(self, step: int) -> bool:
        every = self.config.trainer.eval_every
        return every > 0 and (step == self.total_steps or self._crosses(step, every))

    def _checkpoint_is_due(self, step: int) -> bool:
        at_end = step == self.total_steps or self._crosses(step, 1)
        return at_end or step % self.config.trainer.checkpoint_steps == 0 or self._curve_is_due(step)

    def _crosses(self, step: int, epochs: float) -> bool:
        """Whether `step` completes a multiple of `epochs` passes over the training rows."""
        clips = epochs * len(self.train_rows)
        slots = self.geometry.slots_per_step
        return math.floor(step * slots / clips) > math.floor((step - 1) * slots / clips)

    def stop_if_asked(self) -> None:
        """Outside steps nothing is lost by stopping at once: it is done again from the checkpoint. Ranks agree."""
        self.ranks.note(f"testing or starting at step {self.step}")
        if self.ranks.sum(torch.tensor([float(self.run.stop.is_set())])) > 0:
            raise StopRequested(f"stopped after step {self.step} of {self.total_steps}, everything saved")

    # -- state ------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """A checkpoint of this step, by rank 0."""
        self.ranks.note(f"saving step {self.step}")
        total = sum(self.ranks.gather(self.digest)) % _DIGEST_MODULUS
        self.digest = total if self.ranks.is_first else 0
        if self.ranks.is_first:
            self.run.save_checkpoint(self.step, self.state(total), keep=self.config.trainer.keep)

    def state(self, digest: int) -> dict[str, Any]:
        """All there is; see vidgn.runs.checkpoint."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plan_digest": f"{digest:032x}",
            "num_substituted": self.num_substituted,
            "num_skipped": self.num_skipped,
            "input_mean": list(self.to_model.mean),
        }

    def resume(self) -> None:
        """Load the newest good checkpoint, if any: the first rank chooses it."""
        state = self.run.load_checkpoint() if self.ranks.is_first else None
        step = self.ranks.gather(None if state is None else state["step"])[0]
        if step is not None:
            self._take(self.run.load_step(step) if state is None else state)
        elif self.config.weights is not None:
            resolve_path(self.config.weights)  # its error: the file is gone, and no checkpoint is left that had it

    def _take(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.digest = int(state["plan_digest"], 16) if self.ranks.is_first else 0
        self.num_substituted, self.num_skipped = state["num_substituted"], state["num_skipped"]
        self.to_model = ToModel(self.config, self.ranks.device, input_mean=state["input_mean"])

    def load_finished(self) -> None:
        """The last checkpoint of a trained run, for a test; nothing of the run is changed.

        Raises:
            CheckpointError: where there is none.
            ConfigError: where the data has another number of classes.
        """
        state = load_latest(self.run.checkpoints, self.run.say)
        if state is None:
            raise CheckpointError(f"{self.run.path} has no checkpoint to test: train it first with vidgn train")
        if state["step"] < self.total_steps:
            self.run.say(f"testing an unfinished run: step {state['step']} of {self.total_steps}")
        classifier = f"blocks.{len(self.model.blocks) - 1}.proj.bias"
        trained, given = len(state["model"][classifier]), len(self.val_rows.classes)
        if trained != given:
            raise ConfigError(
                f"{self.run.path} was trained on {trained} classes, and this data has {given}: write data.classes=FILE "
                f"with the {trained} names in label order, or the data.train the run was started with"
            )
        self._take(state)

    # -- pieces of a step -------------------------------------------------------------------------------------------

    def _group_clips_here(self) -> int:
        """Clips of a statistics group inside one forward of this rank."""
        return min(self.geometry.group_clips, self.geometry.clips_per_forward)

    def _batches(self, steps: range | None = None, *, tag: Tag = Tag.CLIP, order_tag: Tag = Tag.ORDER) -> Any:
        steps = range(self.step, self.total_steps) if steps is None else steps
        return train_batches(
            self.train_rows,
            self.config.data,
            seed=self.config.seed,
            frames=self.config.frames,
            stride=self.config.stride,
            positions=positions(self.geometry, rank=self.ranks.rank, steps=steps),
            slots_per_step=self.geometry.slots_per_step,
            tag=tag,
            order_tag=order_tag,
            pin_memory=self.ranks.device.type == "cuda",
        )

    def _dropout_scale(self, index: int) -> torch.Tensor | None:
        scale_NC = dropout_scale(
            self.config,
            channels=self.model.head.num_features,
            step=self.step,
            slots=self.geometry.slots(self.ranks.rank, index),
            dtype=self.to_model.dtype,
        )
        return None if scale_NC is None else scale_NC.to(self.ranks.device, non_blocking=True)

    def _counts(self, loss_sum: float, num_correct: int, used: list[Batch]) -> torch.Tensor:
        substituted = sum(len(b.substitutions) for b in used)
        return torch.tensor([self.run.stop.is_set(), loss_sum, num_correct, substituted], dtype=torch.float64)

    def _write_line(
        self, lr: float, loss_sum: float, num_correct: int, *, finite: bool, stop: bool, used: list[Batch], new: int
    ) -> dict[str, Any]:
        slots, step = self.geometry.slots_per_step, self.step + 1
        line = {
            "kind": "train",
            "step": step,
            "epoch": epoch_of(self.config, step, len(self.train_rows)),
            "loss": loss_sum / slots if math.isfinite(loss_sum) else None,
            "top1": 100 * num_correct / slots,
            "lr": lr,
        }
        if not finite:
            line["skipped"] = True
        if new:
            found = [s for part in self.ranks.gather([s for b in used for s in b.substitutions]) for s in part]
            line["substitutions"] = [vars(s) for s in sorted(found, key=lambda s: s.position)]
            self.num_substituted += new
        line["clock"] = self.run.clock.of_step(slots, steps_left=self.total_steps - step)
        self.run.write_line(line)
        if self.num_substituted > self.config.data.max_unreadable:
            last = line.get("substitutions", [{}])[-1]
            raise DecodeError(
                f"{self.num_substituted} training clips could not be read, more than data.max_unreadable="
                f"{self.config.data.max_unreadable}; the last was {last.get('id')}: {last.get('reason')} "
                f"(vidgn data check lists them all)"
            )
        return {**line, "stop": stop}
