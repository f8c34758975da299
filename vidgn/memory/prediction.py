"""What a training step needs of a GPU's memory, from running it on tensors without values."""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import torch

from vidgn.config.schema import Config, ViewsConfig
from vidgn.data.clips.plan import view_size
from vidgn.errors import ConfigError
from vidgn.geometry import Geometry, group_clips
from vidgn.memory.fake_gpu import LiveBytes, fake_gpu
from vidgn.memory.warm_step import WarmStep
from vidgn.models.activation_memory import set_activation_memory
from vidgn.models.i3d import assemble_model
from vidgn.training.bn_stats import statistics_used
from vidgn.training.setup import DTYPES, memory_format
from vidgn.training.tasks import TASKS
from vidgn.training.tester import clips_at_once

KINETICS_CLASSES = 400


@dataclass(frozen=True)
class Prediction:
    """Bytes of one rank in a step between two others of a run.

    All but `saved_bytes` and `test_bytes` are what is alive at the peak of training; the rest of the peak is the part
    of `saved_bytes` that backward has not freed by then.

    Example:
        >>> import vidgn
        >>> tiny = vidgn.load_config("model=i3d_tiny", "frames=8", "data.crop=32", "data.short_side=[32,36]")
        >>> predicted: vidgn.Prediction = vidgn.predict_memory(tiny)
        >>> predicted.peak_bytes > predicted.saved_bytes > 0
        True
    """

    clips_per_forward: int
    frames: int
    parameter_bytes: int  # and running statistics
    gradient_bytes: int  # outside DDP's buckets
    optimizer_bytes: int
    ddp_bytes: int  # buckets
    saved_bytes: int  # storages kept for backward at the end of forward, each once, without parameters
    temporary_bytes: int
    training_bytes: int  # the peak of training
    test_bytes: int  # the peak of the tests that are part of the run

    @property
    def peak_bytes(self) -> int:
        """The most alive at one moment of the run."""
        return max(self.training_bytes, self.test_bytes)


def predict(
    config: Config, *, clips_per_forward: int, world_size: int = 1, num_classes: int = KINETICS_CLASSES
) -> Prediction:
    """Memory of `config` on a CUDA GPU, eager mode, without cuDNN's workspaces; needs neither a GPU nor the data.

    Raises:
        ConfigError: if `clips_per_forward` is not legal for this experiment and `world_size` processes; of a detector.
    """
    if config.model.detector:
        raise ConfigError(
            f"model={config.model.name}: a detector's memory depends on the objects in its images, and is not "
            "predicted: look at what a few steps take, with trainer.max_steps=20 tag=NAME"
        )
    return _predict(_as_on_cuda(config), clips_per_forward, world_size, num_classes)


@lru_cache(maxsize=256)
def _predict(config: Config, clips_per_forward: int, world_size: int, num_classes: int) -> Prediction:
    geometry = Geometry(config.slots_per_step, group_clips(config), world_size, clips_per_forward)
    with fake_gpu("torch" if config.trainer.norm_kernels == "torch" else "triton") as live:
        step = _step(config, geometry, num_classes)
        parameters = live.name([*step.model.parameters(), *step.model.buffers()], "parameter")
        optimizer = live.name(step.momentum, "optimizer")
        buckets = live.name([step.buckets], "ddp") if step.buckets is not None else 0
        inputs = step.batch.clone() if _is_recorded(config, world_size) else None  # which the graph reads
        live.name([*step.aside, *(p.grad for p in step.trained if p.grad is not None)], "gradient")
        saved = _train(step, live)
        parts = live.peak_parts()
        training = live.peak_bytes
        kept = training if _is_recorded(config, world_size) else live.num_bytes  # beside what a test needs for itself
        tests = [kept + _test(step, live, clips=clips, crop=crop) for clips, crop in evaluation_forwards(config)]
        del inputs
    return Prediction(
        clips_per_forward=clips_per_forward,
        frames=config.frames,
        parameter_bytes=parameters,
        gradient_bytes=parts["gradient"],
        optimizer_bytes=optimizer,
        ddp_bytes=buckets,
        saved_bytes=saved,
        temporary_bytes=parts["temporary"],
        training_bytes=training,
        test_bytes=max(tests),
    )


def evaluation_forwards(config: Config) -> list[tuple[int, int]]:
    """(clips, crop) of the forwards without gradients that the run's own tests push at once, each pair once."""
    tests = [config.views]
    if config.trainer.eval_every > 0:
        tests.append(TASKS[config.data.augment].curve_views(config))
    return sorted({_evaluation_forward(config, views) for views in tests})


def _evaluation_forward(config: Config, views: ViewsConfig) -> tuple[int, int]:
    clips = clips_at_once(config, views, use_batch_statistics=statistics_used(config) == "batch")
    return clips, view_size(views, config.data.crop)


def _step(config: Config, geometry: Geometry, num_classes: int) -> WarmStep:
    model = assemble_model(
        config.model, config.norm, num_classes=num_classes, frames=config.frames, crop=config.data.crop, device="cpu"
    )
    set_activation_memory(model, config.trainer.activation_memory)
    cpu = torch.device("cpu")
    for module in model.modules():  # Module.to can't convert fake parameters in place
        for name, parameter in module.named_parameters(recurse=False):
            value = parameter.detach().to(DTYPES[config.trainer.precision])
            if value.dim() == 5:
                value = value.contiguous(memory_format=memory_format(config, cpu))
            setattr(module, name, torch.nn.Parameter(value, requires_grad=parameter.requires_grad))
    return WarmStep(config, model, geometry=geometry, device=cpu)


def _train(step: WarmStep, live: LiveBytes) -> int:
    """One forward, backward and update.

    Returns:
        The bytes saved for backward.
    """
    live.forget_peak()
    start = live.now()
    forward = step.clip_forward()
    saved = live.name_made_after(start, "saved", but=[forward.logits_NK])
    step.backward(forward)
    del forward
    live.name([p.grad for p in step.trained if p.grad is not None and step.buckets is None], "gradient")
    step.optimizer.step()
    return saved


def _test(step: WarmStep, live: LiveBytes, *, clips: int, crop: int) -> int:
    """The bytes that a forward of a test adds to what is there."""
    live.forget_peak()
    before = live.num_bytes
    step.test(clips=clips, crop=crop)
    return live.peak_bytes - before


def _is_recorded(config: Config, world_size: int) -> bool:
    """Whether forward and backward are a CUDA graph, whose memory stays with it; see training/cuda_graph.py."""
    return config.trainer.cuda_graph and world_size == 1 and not config.trainer.compile


def _as_on_cuda(config: Config) -> Config:
    """`config` as on CUDA, and equal for cells whose memory is equal."""
    formats = {"auto": "channels_last", "channels_last": "channels_last", "contiguous": "contiguous"}
    trainer = dataclasses.replace(
        config.trainer,
        memory_format=formats[config.trainer.memory_format],  # type: ignore[arg-type]
        clips_per_forward="auto",
        device="auto",
    )
    return dataclasses.replace(config, study="", runs_dir="", tag=None, seed=0, weights=None, trainer=trainer)
