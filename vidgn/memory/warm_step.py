"""A training step on made-up clips, as it is between two others of a run: for prediction, measurement and benches."""

import torch
from torch import Tensor

from vidgn.config.schema import Config
from vidgn.distributed.ranks import Ranks
from vidgn.geometry import Geometry
from vidgn.models.i3d import VideoResNet
from vidgn.models.norms.layers import statistics_layers
from vidgn.summation import most_set_aside
from vidgn.training.setup import autocast
from vidgn.training.step import Layout, TrainStep, set_training_groups
from vidgn.training.tasks import ClipForward, MadeUpClips
from vidgn.training.tester import class_scores


class WarmStep(TrainStep):
    """A step with the state of a run: momentum is there, and gradients where a step has several forwards.

    With several ranks DDP's buckets are there too, and gradients live in them once they are reduced; nothing is sent.
    """

    def __init__(self, config: Config, model: VideoResNet, *, geometry: Geometry, device: torch.device) -> None:
        """Make what a run has at this point.

        Args:
            model: where and how `place_model` puts it.
        """
        self.made_up = MadeUpClips(config, model.train(), device)
        super().__init__(config, model, self.made_up, Layout(geometry, Ranks(0, geometry.world_size, device)))
        for group in self.optimizer.param_groups:
            group["fused"] = True  # as on CUDA
        self.batch = self.made_up.clips(geometry.clips_per_forward, config.data.crop)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.momentum: list[Tensor] = []
        if config.optim.momentum:
            for parameter in self.trained:
                self.momentum.append(torch.zeros_like(parameter))
                self.optimizer.state[parameter]["momentum_buffer"] = self.momentum[-1]
        self.buckets: Tensor | None = None
        self.aside: list[Tensor] = []
        if geometry.world_size > 1:
            num_values = sum(p.numel() for p in self.trained)
            self.buckets = torch.zeros(num_values, device=device, dtype=self.made_up.to_model.dtype)
        if geometry.forwards_per_step > 1:
            for parameter in self.trained:
                parameter.grad = torch.zeros_like(parameter)
            self._keep_other_forwards(geometry.forwards_per_step)
        elif self.buckets is not None:
            self._reduce_into_buckets(self.buckets)
        set_training_groups(model, self.layout)

    def clip_forward(self) -> ClipForward:
        """A training forward of `clips_per_forward` clips."""
        forward = self.forward(None)
        assert isinstance(forward, ClipForward)
        return forward

    def whole(self) -> None:
        """A whole step, and its update."""
        totals = self.accumulate(lambda: None, step=0, learning_rate=0.01)  # type: ignore[arg-type,return-value]
        self.update(self.over_ranks(totals)[0])

    def test(self, *, clips: int, crop: int) -> None:
        """One forward of a test, while the last step's gradients are still there."""
        self.model.eval()
        with torch.no_grad(), autocast(self.config, self.ranks.device):
            class_scores(self.model(self.made_up.to_model(self.made_up.clips(clips, crop))))
        self.model.train()

    def _keep_other_forwards(self, forwards_per_step: int) -> None:
        """What a step's last forward finds: gradients that are set aside, and BN's moments of the forwards before."""
        num_aside = most_set_aside(forwards_per_step) if self.config.trainer.summation == "canonical" else 0
        self.aside = [torch.zeros_like(p) for p in self.trained for _ in range(num_aside)]
        num_moments = sum(2 * layer.num_features for _, layer in statistics_layers(self.model))
        self.moments = [torch.zeros(num_moments, device=self.ranks.device) for _ in range(forwards_per_step - 1)]

    def _reduce_into_buckets(self, buckets: Tensor) -> None:
        """Do to each finished gradient what DDP does: copy it into its bucket, then make it a view of it."""
        offset = 0
        for parameter in self.trained:
            view = buckets[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()

            def reduce(p: Tensor, view: Tensor = view) -> None:
                assert p.grad is not None
                view.copy_(p.grad)
                p.grad = view

            parameter.register_post_accumulate_grad_hook(reduce)
