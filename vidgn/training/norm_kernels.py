"""Which kernels norms run by on CUDA, after a look at whether they are right here."""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidgn.config.schema import Config
from vidgn.distributed.ranks import Ranks
from vidgn.errors import ConfigError
from vidgn.models.norms import operators
from vidgn.models.norms.layers import BatchNorm, ClipNorm, Norm, has_running_statistics, norm_layers
from vidgn.training.cuda_graph import why_no_graph
from vidgn.training.setup import DTYPES, memory_format

NormKernels = Literal["triton", "torch"]

# Of the norm of a result. In bf16 a sum near zero may round to the other side of ReLU's edge, with its gradient.
_MOST_ERROR = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1}
_SHAPE = (4, 3, 5, 7)  # clips, T, H, W


def choose_norm_kernels(
    config: Config, model: nn.Module, ranks: Ranks, *, log: Callable[[str], None] = lambda line: None
) -> NormKernels:
    """Let the norms of `model` run by Triton's kernels where `trainer.norm_kernels` allows it and they are right.

    On CUDA each form of norm in `model` is run on a small map in the run's type and format and compared with float64 on
    the CPU: milliseconds, and seconds where kernels are compiled for the first time. All ranks run by the same. `log`
    gets what came of it.

    Raises:
        ConfigError: if trainer.norm_kernels=triton can't be had.
    """
    operators.use_triton(False)
    wanted = config.trainer.norm_kernels
    if ranks.device.type != "cuda":
        if wanted == "triton":
            raise _refused("the run is on a CPU")
        return "torch"
    if wanted == "torch":
        log("norms run by torch's kernels, as trainer.norm_kernels=torch says")
        return "torch"
    began = time.monotonic()
    try:
        operators.use_triton(True)
        wrong = self_test(config, model, ranks.device)
    except Exception as error:  # a compiler, a driver or a cache folder that is not there: anything may come
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    wrong = next((found for found in ranks.gather(wrong) if found is not None), None)
    if wrong is None:
        log(f"norms run by Triton's kernels, which a test of each found right in {time.monotonic() - began:.1f} s")
        return "triton"
    operators.use_triton(False)
    if wanted == "triton":
        raise _refused(wrong)
    log(f"warning: norms run by torch's kernels, which are slower, because Triton's failed here ({wrong})")
    return "torch"


def _refused(why: str) -> ConfigError:
    return ConfigError(f"trainer.norm_kernels=triton can't be had here ({why}): write trainer.norm_kernels=torch")


def ways_on_gpu(
    config: Config, ranks: Ranks, norm_kernels: NormKernels, *, log: Callable[[str], None]
) -> dict[str, Any]:
    """What machine.json says of a start on a GPU; `log` gets why there is no graph where one is asked for."""
    if (why := why_no_graph(config, ranks)) is not None and config.trainer.cuda_graph:
        log(f"warning: trainer.cuda_graph=true is left alone: {why}")
    if ranks.device.type != "cuda":
        return {}
    return {"norm_kernels": norm_kernels, "cuda_graph": config.trainer.cuda_graph and why is None}


def self_test(config: Config, model: nn.Module, device: torch.device) -> str | None:
    """Compare the kernels in use with float64 on the CPU.

    Returns:
        What is wrong, None where nothing is.
    """
    is_bf16 = config.trainer.precision == "bf16"
    dtype = torch.bfloat16 if is_bf16 else DTYPES[config.trainer.precision]
    forms = {(layer.num_features, _rows_and_groups(layer)): layer for _, layer in norm_layers(model)}
    for (channels, _), layer in sorted(forms.items(), key=lambda item: item[0]):
        for fused in (False, True):
            worst = _worst_error(layer, channels, dtype, memory_format(config, device), device, fused=fused)
            if not worst < _MOST_ERROR[dtype]:
                behind = "with an add and a ReLU" if fused else "alone"
                return f"a norm of {channels} channels {behind} is {worst:.1g} of its size off"
    return None


def _rows_and_groups(layer: Norm) -> tuple[int, int]:
    """Of a forward of `_SHAPE`."""
    if isinstance(layer, ClipNorm):
        return _SHAPE[0], layer.groups
    return (2 if has_running_statistics(layer) else 1), layer.num_features


def _worst_error(
    layer: Norm,
    channels: int,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    device: torch.device,
    *,
    fused: bool,
) -> float:
    generator = torch.Generator().manual_seed(channels)
    clips, *size = _SHAPE

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    maps = [drawn(clips, channels, *size) for _ in range(3)]
    vectors = [drawn(channels), drawn(channels)]
    exact = _results(_by_formula, layer, [m.double() for m in maps], [v.double() for v in vectors], fused=fused)
    on_device = [m.to(device).contiguous(memory_format=memory_format) for m in maps]
    in_float = [v.to(device, torch.promote_types(dtype, torch.float32)) for v in vectors]
    found = _results(_by_operators, layer, on_device, in_float, fused=fused)
    errors = [float((f.double().cpu() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]
    return max(errors, key=lambda e: (e != e, e))


def _results(
    normalise: Callable[..., Tensor], layer: Norm, maps: list[Tensor], vectors: list[Tensor], *, fused: bool
) -> list[Tensor]:
    """What a norm like `layer` gives, and all gradients."""
    x, residual, dy = maps
    x, residual, *vectors = (t.detach().requires_grad_() for t in (x, residual, *vectors))
    y = normalise(layer, x, *vectors, residual if fused else None)
    leaves = [x, *vectors, *([residual] if fused else [])]
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def _by_operators(layer: Norm, x: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | None) -> Tensor:
    rows, groups = _rows_and_groups(layer)
    mean, var = operators.batch_moments(x, rows=rows, groups=groups)
    return operators.apply_norm(
        x,
        mean=mean,
        var=var,
        gamma=gamma,
        beta=beta,
        eps=layer.eps,
        count=None if _is_fixed(layer) else x.numel() // mean.numel(),
        residual=residual,
        relu=residual is not None,
    )


def _by_formula(layer: Norm, x: Tensor, gamma: Tensor, beta: Tensor, residual: Tensor | None) -> Tensor:
    rows, groups = _rows_and_groups(layer)
    parts = x.reshape(rows, x.shape[0] // rows, groups, x.shape[1] // groups, -1)
    mean, var = parts.mean((1, 3, 4), keepdim=True), parts.var((1, 3, 4), correction=0, keepdim=True)
    if _is_fixed(layer):
        mean, var = mean.detach(), var.detach()
    x_hat = ((parts - mean) / (var + layer.eps).sqrt()).reshape(x.shape)
    y = x_hat * gamma.view(1, -1, 1, 1, 1) + beta.view(1, -1, 1, 1, 1)
    return y if residual is None else (y + residual).relu()


def _is_fixed(layer: Norm) -> bool:
    return isinstance(layer, BatchNorm) and not has_running_statistics(layer)
