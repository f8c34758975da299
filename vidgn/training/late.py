"""Numbers between host and device without waiting."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Readback:
    """Numbers on their way to the host. `read` waits for what was asked for before, and for nothing after it."""

    def __init__(self, numbers: Tensor) -> None:
        """Send a vector; on a CPU it is there."""
        self._numbers, self._event = numbers, None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()


def to_device(numbers: Sequence[float], like: Tensor) -> Tensor:
    """A vector of numbers with the type and device of `like`."""
    vector = torch.tensor(numbers, dtype=like.dtype, pin_memory=like.is_cuda)
    return vector.to(like.device, non_blocking=True)
