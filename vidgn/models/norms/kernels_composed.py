"""The passes in plain torch, in float32, for any device: float16 and channels_last bf16 on a CPU among them."""

import torch
from torch import Tensor

from vidgn.models.norms.slices import broadcast_rows, by_rows, merge, statistics_dtype

_DIMS = (1, 3, 4, 5)


def moments(x: Tensor, *, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over (N/R, C/G, T, H, W): two tensors (R, G)."""
    x = by_rows(x, rows).to(statistics_dtype(x))
    mean = x.mean(_DIMS)
    var = x.sub(broadcast_rows(mean)).square_().mean(_DIMS)
    return merge(mean, var, groups=groups)


def normalise(x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta, vectors (R, C); dtype and memory format of x."""
    y = torch.empty_like(x)
    rows = mean.shape[0]
    scale = (var + eps).rsqrt() * gamma
    centred = by_rows(x, rows).to(mean.dtype).sub(broadcast_rows(mean))
    by_rows(y, rows).copy_(torch.addcmul(broadcast_rows(beta), centred, broadcast_rows(scale)))
    return y


def gradient_sums(dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Sums of dy and of dy * x_hat over (N/R, T, H, W), x_hat = (x - mean) / sqrt(var + eps): two tensors (R, C)."""
    rows = mean.shape[0]
    dy = by_rows(dy, rows).to(mean.dtype)
    centred = by_rows(x, rows).to(mean.dtype).sub(broadcast_rows(mean))
    return dy.sum(_DIMS), centred.mul_(dy).sum(_DIMS) * (var + eps).rsqrt()


def gradient_input(
    dy: Tensor, x: Tensor, *, mean: Tensor, var: Tensor, gamma: Tensor, dy_mean: Tensor, dot_mean: Tensor, eps: float
) -> Tensor:
    """(gamma * dy - dy_mean - x_hat * dot_mean) / sqrt(var + eps), vectors (R, C).

    Args:
        dy_mean, dot_mean: means of gamma * dy and gamma * dy * x_hat over all that shares statistics.
    """
    dx = torch.empty_like(x)
    rows = mean.shape[0]
    rstd = (var + eps).rsqrt()
    inner = by_rows(x, rows).to(mean.dtype).sub(broadcast_rows(mean)).mul_(broadcast_rows(-rstd * rstd * dot_mean))
    inner.addcmul_(by_rows(dy, rows).to(mean.dtype), broadcast_rows(rstd * gamma))
    by_rows(dx, rows).copy_(inner.sub_(broadcast_rows(rstd * dy_mean)))
    return dx
