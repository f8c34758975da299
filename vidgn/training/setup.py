"""From a Config to the parts of a run on its device: threads, precision, model, pixels."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from vidgn.config.schema import Config
from vidgn.distributed.environment import threads_per_rank
from vidgn.distributed.ranks import world_size_of
from vidgn.errors import ConfigError
from vidgn.models.activation_memory import set_activation_memory
from vidgn.models.i3d import TemporalConv, VideoResNet, build_model
from vidgn.processes import num_cores
from vidgn.report.read.history import read_starts
from vidgn.report.read.run_state import json_or_none
from vidgn.runs.directory import remedy
from vidgn.training.late import Uploads
from vidgn.training.normal_pixels import normal_pixels

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}  # of parameters

_BF16_ERROR = 0.05  # of the gradient's norm; rounding alone is about 0.005


def set_precision(config: Config) -> None:
    """Process-wide switches: TF32 only where it is asked for, deterministic kernels where they are."""
    precision = "tf32" if config.trainer.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # torch.export refuses where the two ways disagree
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not config.trainer.deterministic
    torch.use_deterministic_algorithms(config.trainer.deterministic)
    if config.trainer.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def check_bf16(config: Config, device: torch.device) -> None:
    """Compare a bf16 convolution's gradients with those in fp32, as the nets run it, where libraries have got it wrong.

    oneDNN 3.12 (torch 2.14 on CPUs) returns garbage for the weight of a 3-D convolution longer in time than its input,
    not of the 2-D one that `TemporalConv` makes of it on contiguous maps; cuDNN 9.10 had wrong bf16 3-D convolutions.
    Takes milliseconds.

    Raises:
        ConfigError: if they differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    first, stride = config.model.conv1_kernel, config.model.conv1_stride
    padding = (first[0] // 2, first[1] // 2, first[2] // 2)
    convolutions: list[tuple[torch.nn.Conv3d, tuple[int, ...]]] = [
        (TemporalConv(16, 16, (3, 1, 1), padding=(1, 0, 0), bias=False), (2, 16, 2, 6, 6)),
        (
            torch.nn.Conv3d(3, 16, first, stride, padding, bias=False),
            (2, 3, config.frames, 2 * first[1], 2 * first[2]),
        ),
    ]
    pairs = []
    for conv, shape in convolutions:
        clip = torch.randn(shape, generator=generator).to(device, memory_format=memory_format(config, device))
        with torch.no_grad():
            conv.to(device).weight.copy_(torch.randn(conv.weight.shape, generator=generator))
        gradients = []
        for dtype in (torch.float32, torch.bfloat16):
            x = clip.to(dtype).detach().requires_grad_()
            outputs = torch.autograd.grad(conv.to(dtype)(x).float().square().sum(), (x, conv.weight))
            gradients.append([g.float() for g in outputs])
        pairs += zip(*gradients, strict=True)
    for exact, rounded in pairs:
        error = float((exact - rounded).norm() / exact.norm())
        if not error < _BF16_ERROR:
            is_gpu = device.type == "cuda"
            library = f"cuDNN {torch.backends.cudnn.version()}" if is_gpu else "oneDNN"
            other = "use another torch" if is_gpu else "set ONEDNN_MAX_CPU_ISA=AVX2 in the environment"
            if not is_gpu and config.trainer.memory_format == "channels_last":
                other = "trainer.memory_format=contiguous"
            raise ConfigError(
                f"trainer.precision=bf16: gradients of a bf16 conv3d are wrong here ({error:.2g} of their norm; torch "
                f"{torch.__version__}, {library} on {device.type}): write "
                f"{remedy(config, 'trainer.precision=fp32')}, or {other}"
            )


def set_threads(config: Config) -> int:
    """Threads of this rank: `launch.threads`; for auto those that the run or its sweep began with, or a share of cores.

    The order of summation depends on their number: cells side by side and one after another are to have the same.

    Returns:
        The number of threads.
    """
    threads = config.launch.threads
    if threads == "auto":
        threads = _threads_before(config) or threads_per_rank(config)
    torch.set_num_threads(threads)
    return threads


def _threads_before(config: Config) -> int | None:
    """Of the run's first start, else of its sweep; None before either, or with fewer cores here."""
    found = [start.get("threads") for start in read_starts(config.run_dir)]
    listed = json_or_none(config.run_dir.parent / "study.json")
    by_ranks = listed.get("threads") if isinstance(listed, Mapping) else None
    found.append(by_ranks.get(str(world_size_of(config))) if isinstance(by_ranks, Mapping) else None)
    return next((n for n in found if isinstance(n, int) and n <= num_cores()), None)


def autocast(config: Config, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 activations under trainer.precision=bf16, nothing otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.trainer.precision == "bf16")


def in_float32(config: Config) -> Config:
    """The configuration with the arithmetic of an export."""
    return dataclasses.replace(
        config, trainer=dataclasses.replace(config.trainer, precision="fp32", memory_format="contiguous")
    )


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """16-bit tensors in float32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class ToModel:
    """uint8 frames to the model's input, on the device: (x - mean) / std, per channel of RGB in 0-255.

    Shape: (N, T, H, W, C) uint8 -> (N, C, T, H, W), memory in the wanted format. Under trainer.precision=bf16 in bf16,
    which is what autocast would make of it for conv1; the wider copy would live as long as the forward.
    """

    def __init__(self, config: Config, device: torch.device, *, input_mean: tuple[float, ...] | None = None) -> None:
        self.dtype = DTYPES[config.trainer.precision]
        self._input_dtype = torch.bfloat16 if config.trainer.precision == "bf16" else self.dtype
        self._device = device
        self.set_mean(input_mean or config.data.mean)
        self._std_C = torch.tensor(config.data.std, dtype=self.dtype, device=device)
        self._format = memory_format(config, device)
        self._uploads = Uploads(device)

    def set_mean(self, mean: Sequence[float]) -> None:
        """Subtract another mean from now on."""
        self.mean = tuple(mean)
        self._mean_C = torch.tensor(self.mean, dtype=self.dtype, device=self._device)

    def __call__(self, clip_NTHWC: torch.Tensor) -> torch.Tensor:
        with self._uploads.there(clip_NTHWC) as placed_NTHWC:
            if self._format == torch.channels_last_3d and self.dtype == torch.float32:
                return normal_pixels(placed_NTHWC, self._mean_C, self._std_C, self._input_dtype)
            clip_NCTHW = placed_NTHWC.permute(0, 4, 1, 2, 3).to(self.dtype)
            normal_NCTHW = (clip_NCTHW - self._mean_C.view(3, 1, 1, 1)) / self._std_C.view(3, 1, 1, 1)
            return normal_NCTHW.to(self._input_dtype).contiguous(memory_format=self._format)


def memory_format(config: Config, device: torch.device) -> torch.memory_format:
    """channels_last where it pays: on GPUs; torch's CPU convolutions choose their own layout."""
    wanted = config.trainer.memory_format
    if wanted == "auto":
        wanted = "channels_last" if device.type == "cuda" else "contiguous"
    return torch.channels_last_3d if wanted == "channels_last" else torch.contiguous_format


def make_model(config: Config, *, num_classes: int) -> VideoResNet:
    """The experiment's network with its first weights (seeded, the same for every norm), on the CPU."""
    model = build_model(
        config.model,
        config.norm,
        num_classes=num_classes,
        frames=config.frames,
        crop=config.data.crop,
        seed=config.seed,
    )
    return model.to(dtype=DTYPES[config.trainer.precision])


def place_model(model: Any, config: Config, device: torch.device) -> Any:
    """On the device, in the memory format and the memory mode of the machine's choice."""
    model = model.to(device=device)
    net = model.body if config.model.detector else model  # the rest of a detector has no five axes
    net.memory_format = memory_format(config, device)
    if net.memory_format == torch.channels_last_3d:
        net.to(memory_format=torch.channels_last_3d)
    set_activation_memory(net, config.trainer.activation_memory)
    return model
