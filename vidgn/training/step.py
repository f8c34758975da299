"""One optimizer update. The loop, the memory prediction, `vidgn data bench` and the benches all run this one.

What goes through the network is the task's affair; slots, groups, accumulation, statistics and the update are here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.datasets.manifest import Manifest
from vidgn.data.loading.batches import Substitution
from vidgn.distributed.gradients import GradientSums, wrapped
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import Geometry
from vidgn.models.norms.layers import set_statistics_groups
from vidgn.summation import sum_in_order
from vidgn.training.bn_stats import StepStatistics
from vidgn.training.cuda_graph import RecordedStep, why_no_graph
from vidgn.training.late import to_device
from vidgn.training.optim import make_optimizer, set_learning_rate
from vidgn.training.setup import autocast


@dataclass(frozen=True)
class Layout:
    """This rank's place in the batch geometry. `process_group`: ranks that share its statistics groups, None: alone."""

    geometry: Geometry
    ranks: Ranks
    process_group: dist.ProcessGroup | None = None


Inputs = tuple[Any, ...]  # of tensors alone where the step is recorded


class TaskBatch(Protocol):
    """What a task reads for one forward. `digest`: sum of the plan digests of its positions modulo 2**128."""

    ids: tuple[str, ...]
    positions: tuple[int, ...]
    digest: int
    substitutions: tuple[Substitution, ...]

    def without_tensors(self) -> "TaskBatch":
        """The same, to be kept for what it says."""
        ...


class Forward(Protocol):
    """One forward of the network, held until its backward is done."""

    def loss_sum(self) -> Tensor:
        """The loss, summed over the slots of the forward."""
        ...

    def counts(self) -> Tensor:
        """What is summed over a step beside the loss, (n,) on the device. Asked for after the backward."""
        ...


class Objective(Protocol):
    """The half of a task that a step needs: from a batch to its forward."""

    def inputs(self, batch: Any, *, step: int, slots: range) -> Inputs:
        """What a forward of `batch` takes, which holds `slots` of step `step` (0-based); on the host."""
        ...

    def made_up(self, clips: int) -> Inputs:
        """Inputs of the right form."""
        ...

    def forward(self, module: nn.Module, inputs: Inputs) -> Forward:
        """Run `module`. Nothing here but tensors changes from one forward to the next, so that it can be recorded."""
        ...


class Scores(Protocol):
    """A tested split."""

    @property
    def unreadable(self) -> tuple[str, ...]:
        """`id: reason` of those that could not be read."""
        ...

    @property
    def num_videos(self) -> int:
        """Rows that were tested, those that could not be read among them."""
        ...

    @property
    def numbers(self) -> dict[str, float]:
        """Of result.json, in percent."""
        ...

    def line(self) -> str:
        """The first of them in words."""
        ...

    def files(self) -> Mapping[str, str | bytes]:
        """Ending and content of the files that say what became of each row."""
        ...


class Task(Objective, Protocol):
    """What a run trains and tests. The loop knows steps; a task knows what they are made of."""

    config: Config
    model: Any
    train_rows: Manifest
    val_rows: Manifest

    @property
    def input_mean(self) -> tuple[float, ...]:
        """What is subtracted from 0-255 RGB."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows of the training set, which are one epoch."""
        ...

    def tested(self, views: ViewsConfig) -> AbstractContextManager[Scores]:
        """Scores of the validation split; inside, the model still has the statistics it was tested with."""
        ...

    def batches(self, steps: range) -> AbstractContextManager[Iterator[TaskBatch]]:
        """This rank's batches for the forwards of `steps`, in order."""
        ...

    def describe(self, batch: Any) -> list[dict[str, Any]]:
        """Position, id and plan of each slot of a batch, for a look at a bad step."""
        ...

    def numbers(self, counts: list[float], slots: int) -> dict[str, float]:
        """What a step's line in metrics.jsonl says of `counts` (see Forward), summed over its `slots`."""
        ...

    def curve_point(self) -> dict[str, Any]:
        """Test as the validation curve does: the numbers of its line in metrics.jsonl."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of the task."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave, out of a checkpoint."""
        ...

    def check_classes(self, state: dict[str, Any], run_dir: Path) -> None:
        """Raise ConfigError where the model in a checkpoint of `run_dir` has other classes than the data."""
        ...


class TrainStep:
    """The update of one rank: forward, backward, statistics, finite check, update.

    Gradients are those of the mean loss over all slots of the step, whatever their layout.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        objective: Objective,
        layout: Layout,
        *,
        decides_on_device: bool | None = None,
    ) -> None:
        """Make the optimizer and the sums of statistics.

        Args:
            decides_on_device: whether the device, and not the host, leaves out a step that is not finite; None: a GPU.
        """
        self.config, self.model, self.objective, self.layout = config, model, objective, layout
        self.geometry, self.ranks = layout.geometry, layout.ranks
        self.module = model  # what is called in training: DDP's wrapper after `join_ranks`
        is_gpu = self.ranks.device.type == "cuda"
        self.decides_on_device = is_gpu if decides_on_device is None else decides_on_device
        self.optimizer = make_optimizer(model, config, fused=self.decides_on_device)
        self.statistics = StepStatistics(model)
        self._moments: Tensor | None = None  # BN's of this step, over all ranks, until its update
        self.gradients: GradientSums | None = None  # None: added as they come
        if config.trainer.summation == "canonical":
            stays = config.trainer.cuda_graph and why_no_graph(config, self.ranks) is None
            self.gradients = GradientSums(model, self.geometry.forwards_per_step, stays=stays)
        # Where CUDA records them: forward and backward, and the update
        self.graph: Callable[[Inputs], Tensor] | None = None
        self._update_graph: Callable[[Inputs], Tensor] | None = None

    def join_ranks(self) -> None:
        """Let gradients meet, and compile. Called once the weights are those that training starts from."""
        compiled = self.config.trainer.compile
        self.module = wrapped(self.model, self.ranks, gradients=self.gradients, compiled=compiled)
        if isinstance(self.module, DistributedDataParallel) and self.gradients is None:
            self._settle_buckets()
        if self.config.trainer.cuda_graph and why_no_graph(self.config, self.layout.ranks) is None:
            self.graph = RecordedStep(self._forward_backward, self.ranks.device)
            self._update_graph = RecordedStep(self._update_of_tensors, self.ranks.device)

    def _settle_buckets(self) -> None:
        """Let DDP order its buckets by what backward comes to first, as it does once in a process.

        Else gradients would meet in one order in the first step of a start and in another in the steps after it.
        """
        clips = self.geometry.clips_per_forward if self.config.trainer.compile else 1  # compiled for one shape
        self.model.train()
        set_statistics_groups(self.model, group_clips=None, process_group=self.layout.process_group)
        for _ in range(2):  # it does so when the second forward begins
            with autocast(self.config, self.ranks.device):
                forward = self.objective.forward(self.module, self.objective.made_up(clips))
            forward.loss_sum().backward()
        self.optimizer.zero_grad(set_to_none=True)

    def accumulate(self, next_batch: Callable[[], TaskBatch], *, step: int, learning_rate: float) -> Tensor:
        """All forwards and backwards of this rank in step `step` (0-based). Nothing waits for a GPU.

        Returns:
            Summed loss of this rank, and its counts (see Forward): (1 + n,) in float64, on the device.
        """
        self.model.train()
        set_training_groups(self.model, self.layout)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.zero_grad(set_to_none=self.graph is None)
        if self.gradients is not None:
            self.gradients.forget()
        forwards = range(self.geometry.forwards_per_step)
        return sum_in_order([self.forward_backward(next_batch(), step=step, index=index) for index in forwards])

    def forward_backward(self, batch: TaskBatch, *, step: int, index: int) -> Tensor:
        """The `index`-th forward of this rank in the step, and its backward. Ranks' gradients meet in the last one.

        Returns:
            Summed loss and number of correct slots of the forward: (2,) in float64, on the device.
        """
        is_last = index == self.geometry.forwards_per_step - 1
        ranks_wait = not is_last and isinstance(self.module, DistributedDataParallel)
        inputs = self.objective.inputs(batch, step=step, slots=self.geometry.slots(self.ranks.rank, index))
        with self.module.no_sync() if ranks_wait else nullcontext():  # pyright: ignore[reportCallIssue, reportGeneralTypeIssues]
            totals = self._forward_backward(inputs) if self.graph is None else self.graph(inputs).clone()
        self.statistics.keep_forward()
        if self.gradients is not None:
            self.gradients.forward_is_done(index)
        return totals

    def _forward_backward(self, inputs: Inputs) -> Tensor:
        with autocast(self.config, self.ranks.device):
            forward = self.objective.forward(self.module, inputs)
        loss_sum = self.backward(forward)
        return torch.cat([loss_sum.double()[None], forward.counts().double()])

    def forward(self, batch: Any, *, step: int = 0, index: int = 0) -> Forward:
        """The forward alone, in the configured precision."""
        inputs = self.objective.inputs(batch, step=step, slots=self.geometry.slots(self.ranks.rank, index))
        with autocast(self.config, self.ranks.device):
            return self.objective.forward(self.module, inputs)

    def backward(self, forward: Forward) -> Tensor:
        """The backward of a forward: its gradients are added to those that are there.

        Returns:
            The summed loss of the forward.
        """
        loss_sum = forward.loss_sum()
        self.statistics.add_forward()
        # The gradient of the mean over the slots of a step; by itself DDP takes the mean over ranks.
        ranks_in_mean = 1 if self.gradients is not None else self.geometry.world_size
        (loss_sum * (ranks_in_mean / self.geometry.slots_per_step)).backward()
        return loss_sum.detach()

    def over_ranks(self, numbers: Tensor) -> Tensor:
        """Sum what ranks have to tell of a step, and BN's moments for its update beside it: one collective a step."""
        moments = self.statistics.sum_of_step()
        if moments is None:
            return self.ranks.sum(numbers)
        numbers, self._moments = self.ranks.sum_each(numbers, moments)
        return numbers

    def update(self, loss_sum: Tensor) -> Tensor:
        """Update parameters and running statistics, unless the loss or a gradient is not finite.

        On a GPU the update is left out there: the host does not wait to know.

        Args:
            loss_sum: of all ranks, on the device, as `over_ranks` gave it.

        Returns:
            Whether the update was made, a tensor of no axes on the device. If not, nothing has changed.
        """
        moments, self._moments = self._moments, None
        if self._update_graph is not None:
            rates = to_device([group["lr"] for group in self.optimizer.param_groups], loss_sum.float())
            inputs = (loss_sum, rates) if moments is None else (loss_sum, rates, moments)
            return self._update_graph(inputs).clone()
        return self._update(loss_sum, moments)

    def _update(self, loss_sum: Tensor, moments: Tensor | None = None) -> Tensor:
        is_finite = loss_sum.isfinite() & gradient_norm(self.model).isfinite()
        if self.decides_on_device:
            self.optimizer.found_inf = is_finite.logical_not().float()  # type: ignore[attr-defined]  # as GradScaler
        elif not is_finite:
            return is_finite
        self.optimizer.step()
        if moments is not None:
            counts = is_finite if self.decides_on_device else None
            self.statistics.update_running(moments, self.ranks.world_size, counts)
        return is_finite

    def _update_of_tensors(self, inputs: Inputs) -> Tensor:
        """`_update` of what a graph reads: the loss, the rate of each group and, where there are any, BN's moments."""
        loss_sum, rates, *moments = inputs
        groups = self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        is_finite = self._update(loss_sum, *moments)
        for group, number in zip(groups, numbers, strict=True):
            group["lr"] = number  # what a checkpoint holds
        return is_finite


def set_training_groups(model: nn.Module, layout: Layout) -> None:
    """Let BN normalise over the statistics groups of the training geometry."""
    geometry = layout.geometry
    group_clips = geometry.group_clips if geometry.groups_per_forward > 1 else None  # None: whatever is in a forward
    set_statistics_groups(model, group_clips=group_clips, process_group=layout.process_group)


def gradient_norm(model: nn.Module) -> Tensor:
    """Of this rank's gradients; with several ranks they have met, so each rank says the same."""
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def forward_positions(layout: Layout, steps: range) -> Iterator[Sequence[int]]:
    """Positions of the slots of each forward of this rank, in order."""
    geometry, rank = layout.geometry, layout.ranks.rank
    for step in steps:
        for forward in range(geometry.forwards_per_step):
            yield [step * geometry.slots_per_step + slot for slot in geometry.slots(rank, forward)]
