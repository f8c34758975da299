"""A stand-in for a GPU: tensors without values, CUDA's autocast policy, and the bytes alive at every moment.

Fake CUDA tensors need CUDA, so fake CPU tensors stand in for them. What a kernel allocates and frees inside itself does
not show here, but for what `kernel_temporary_bytes` knows; cuDNN's workspaces and the allocator's fragmentation are
outside (see fit.py).
"""

import warnings
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidgn.models.norms.program_cut import temporary_bytes
from vidgn.models.norms.slices import clips_apart

NormKernels = Literal["triton", "torch"]
Kind = Literal["parameter", "gradient", "optimizer", "ddp", "saved", "temporary"]

_ROUNDING = 512  # bytes: the CUDA caching allocator's smallest step (kMinBlockSize)
# Operators that CPU's autocast runs in float32 and CUDA's runs as they come, among those a video network may hold.
_NOT_UPCAST = ("max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "cross_entropy_loss")


@dataclass
class _Storage:
    num_bytes: int
    born: int
    died: int | None = None
    kind: Kind = "temporary"


class LiveBytes(TorchDispatchMode):
    """Every storage made while it is entered, once, rounded as the CUDA allocator does, from its making to its end.

    Works on fake and on real tensors: storages are watched, not counted by the operators that should free them.
    """

    def __init__(self, kernels: NormKernels = "triton") -> None:
        super().__init__()
        self._kernels: NormKernels = kernels
        self._storages: list[_Storage] = []
        self._alive: dict[int, tuple[Any, _Storage]] = {}
        self._clock = 0
        self._peak_clock = 0
        self._peak_extra = 0
        self.num_bytes = 0
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf)
        self._note_peak(kernel_temporary_bytes(func, args, self._kernels))
        return result

    def now(self) -> int:
        """The moment, to tell later what was made after it."""
        return self._clock

    def name(self, tensors: Iterable[Tensor], kind: Kind) -> int:
        """Call the storages of `tensors` by what they are for.

        Returns:
            Their bytes.
        """
        found = {_key(t.untyped_storage()) for t in tensors}
        storages = [self._alive[key][1] for key in found]
        for storage in storages:
            storage.kind = kind
        return sum(s.num_bytes for s in storages)

    def name_made_after(self, moment: int, kind: Kind, *, but: Iterable[Tensor] = ()) -> int:
        """The same for every unnamed storage that is alive and was made after `moment`, `but` some."""
        left_out = {_key(t.untyped_storage()) for t in but}
        storages = [
            s
            for key, (_, s) in self._alive.items()
            if s.born > moment and s.kind == "temporary" and key not in left_out
        ]
        for storage in storages:
            storage.kind = kind
        return sum(s.num_bytes for s in storages)

    def forget_peak(self) -> None:
        """Look for the peak from here on."""
        self.peak_bytes, self._peak_clock, self._peak_extra = self.num_bytes, self._clock, 0

    def peak_parts(self) -> dict[Kind, int]:
        """Bytes alive at the peak, by kind; they add up to `peak_bytes`."""
        parts: dict[Kind, int] = dict.fromkeys(("parameter", "gradient", "optimizer", "ddp", "saved", "temporary"), 0)
        for s in self._storages:
            if s.born <= self._peak_clock and (s.died is None or s.died >= self._peak_clock):
                parts[s.kind] += s.num_bytes
        parts["temporary"] += self._peak_extra
        return parts

    def _watch(self, tensor: Tensor) -> None:
        untyped = tensor.untyped_storage()
        key = _key(untyped)
        if key in self._alive:
            return
        self._clock += 1
        storage = _Storage(-(-untyped.nbytes() // _ROUNDING) * _ROUNDING, self._clock)
        self._storages.append(storage)
        self._alive[key] = (weakref.ref(untyped, self._ending(key, storage)), storage)
        self.num_bytes += storage.num_bytes

    def _ending(self, key: int, storage: _Storage) -> Callable[[Any], None]:
        def end(_: Any) -> None:
            storage.died = self._clock
            self.num_bytes -= storage.num_bytes
            del self._alive[key]

        return end

    def _note_peak(self, extra: int) -> None:
        if self.num_bytes + extra > self.peak_bytes:
            self.peak_bytes = self.num_bytes + extra
            self._peak_clock, self._peak_extra = self._clock, extra


@contextmanager
def fake_gpu(kernels: NormKernels = "triton") -> Generator[LiveBytes]:
    """Inside, tensors made on the CPU have no values, and autocast on the CPU casts as CUDA's does.

    Args:
        kernels: by which norms would run.

    Yields:
        What watches their storages.
    """
    with cuda_autocast_policy(), FakeTensorMode(), LiveBytes(kernels) as live:
        yield live


@contextmanager
def cuda_autocast_policy() -> Generator[None]:
    """torch.autocast("cpu") runs each operator of a video network in the type that torch.autocast("cuda") runs it in.

    CPU's own kernels for autocast are replaced in torch's dispatcher for the while, so that the cast weights are
    cached, and recomputation finds the same types, by torch's own code.
    """
    library = torch.library.Library("aten", "IMPL")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators")  # that a kernel is replaced
            for name in _NOT_UPCAST:
                library.impl(name, torch.library.fallthrough_kernel, "AutocastCPU")
            library.impl("group_norm", _group_norm_in_float32, "AutocastCPU")
            library.impl("layer_norm", _layer_norm_in_float32, "AutocastCPU")
        yield
    finally:
        library._destroy()  # pyright: ignore[reportPrivateUsage]  # torch's own way to take it back


def kernel_temporary_bytes(func: Any, args: tuple[Any, ...], kernels: NormKernels) -> int:
    """What an operator of vidgn's own allocates on CUDA besides its results, in bytes.

    Triton's kernels leave partial results for each other. By torch's the gradient of a norm with several slices is
    computed slice by slice and copied, one alive beside the result, and one behind a ReLU is masked first.
    """
    if kernels == "triton" and func.name() == "vidgn::moments":
        return temporary_bytes("moments", args[0], rows=args[1], groups=args[2])
    if func.name() != "vidgn::gradient":
        return 0
    x_NCTHW, y_NCTHW, (rows, groups), adds = args[1], args[2], args[3].shape, args[9]
    count, is_affine = args[7], args[10]
    if kernels == "triton":
        if count is None and not is_affine:
            return 0
        return temporary_bytes("gradient", x_NCTHW, rows=rows, groups=groups)
    size = x_NCTHW.numel() * x_NCTHW.element_size()
    masked = size if y_NCTHW is not None and not adds else 0
    return masked + (0 if rows == 1 or clips_apart(x_NCTHW, rows) else size // rows)


def _group_norm_in_float32(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return torch.group_norm(x.float(), num_groups, weight, bias, eps, cudnn_enabled)


def _layer_norm_in_float32(
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return torch.layer_norm(x.float(), normalized_shape, weight, bias, eps, cudnn_enable)


def _key(storage: torch.UntypedStorage) -> int:
    """What is the same for two views of one storage."""
    return storage._cdata  # pyright: ignore[reportPrivateUsage]  # data_ptr() is 0 for fake storages
