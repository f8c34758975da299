"""One training step and one test forward without data, files or processes: for prediction, measurement and bench.

The order of allocations is that of vidgn.training.loop.
"""

import torch
from torch import Tensor

from vidgn.config.schema import Config
from vidgn.geometry import Geometry
from vidgn.models.i3d import VideoResNet
from vidgn.models.norms.layers import set_statistics_groups
from vidgn.training.bn_stats import StepStatistics
from vidgn.training.optim import make_optimizer
from vidgn.training.setup import ToModel, autocast
from vidgn.training.step import backward, class_scores, summed_loss


class StepAlone:
    """The state of a run between two of its later forwards: momentum is there, and gradients where a step has several.

    `model` is where and how place_model puts it; clips and labels are made up. With several ranks DDP's buckets are
    there too, and gradients live in them once they are reduced.
    """

    def __init__(self, config: Config, model: VideoResNet, *, geometry: Geometry, device: torch.device) -> None:
        self.config, self.geometry, self.device = config, geometry, device
        self.model = model.train()
        self.to_model = ToModel(config, device)
        self.step_statistics = StepStatistics(self.model)
        self.optimizer = make_optimizer(self.model, config)
        for group in self.optimizer.param_groups:
            group["foreach"] = True  # torch's choice on CUDA
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.momentum: list[Tensor] = []
        if config.optim.momentum:
            for parameter in self.trained:
                self.momentum.append(torch.zeros_like(parameter))
                self.optimizer.state[parameter]["momentum_buffer"] = self.momentum[-1]
        self.buckets: Tensor | None = None
        if geometry.world_size > 1:
            self.buckets = torch.zeros(sum(p.numel() for p in self.trained), device=device, dtype=self.to_model.dtype)
        if geometry.forwards_per_step > 1:
            for parameter in self.trained:
                parameter.grad = torch.zeros_like(parameter)
        elif self.buckets is not None:
            self._reduce_into_buckets()
        group_clips = min(geometry.group_clips, geometry.clips_per_forward)
        set_statistics_groups(self.model, group_clips=group_clips)

    def forward(self) -> Tensor:
        """Logits (N, K) of a training forward of `clips_per_forward` clips."""
        with autocast(self.config, self.device):
            return self.model(self.to_model(self._clips()), self._dropout_scale()).flatten(1)

    def backward(self, logits_NK: Tensor) -> None:
        """Loss and its gradients, added to those that are there."""
        label_N = torch.zeros(logits_NK.shape[0], dtype=torch.int64, device=self.device)
        loss = summed_loss(logits_NK, label_N)
        self.step_statistics.add_forward()
        backward(loss, self.geometry)

    def update(self) -> None:
        """The optimizer's update."""
        self.optimizer.step()

    def test(self, *, clips: int, crop: int) -> None:
        """One forward of an evaluation, while the last step's gradients are still there."""
        self.model.eval()
        with torch.no_grad(), autocast(self.config, self.device):
            class_scores(self.model(self.to_model(self._clips(clips, crop))))
        self.model.train()

    def _clips(self, clips: int | None = None, crop: int | None = None) -> Tensor:
        clips, crop = clips or self.geometry.clips_per_forward, crop or self.config.data.crop
        return torch.zeros(clips, self.config.frames, crop, crop, 3, dtype=torch.uint8, device=self.device)

    def _dropout_scale(self) -> Tensor | None:
        if self.config.model.dropout == 0:
            return None
        shape = (self.geometry.clips_per_forward, self.model.head.num_features)
        return torch.ones(shape, device=self.device, dtype=self.to_model.dtype)

    def _reduce_into_buckets(self) -> None:
        """What DDP does to each finished gradient: copied into its bucket, then a view of it (bucket views)."""
        assert self.buckets is not None
        offset = 0
        for parameter in self.trained:
            view = self.buckets[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()

            def reduce(p: Tensor, view: Tensor = view) -> None:
                view.copy_(p.grad)  # type: ignore[arg-type]
                p.grad = view

            parameter.register_post_accumulate_grad_hook(reduce)
