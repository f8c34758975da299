"""Numbers and batches between host and device without waiting."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

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


class Uploads:
    """Batches to a GPU beside what it computes: by a stream of their own, from pinned memory into one place there.

    The place is filled again as soon as what it held has been read, so one is enough.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is allocated yet. On a CPU batches are there."""
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._was_read = torch.cuda.Event() if device.type == "cuda" else None
        self._place = torch.empty(0, dtype=torch.uint8, device=device)

    @contextmanager
    def there(self, batch: Tensor) -> Generator[Tensor]:
        """The batch on the device, for what is begun inside."""
        if self._stream is None or self._was_read is None or batch.is_cuda:
            yield batch.to(self._device)
            return
        now = torch.cuda.current_stream(self._device)
        if self._place.numel() < batch.nbytes:
            with torch.inference_mode(False):  # it is written to in that mode and out of it
                self._place = torch.empty(batch.nbytes, dtype=torch.uint8, device=self._device)
            self._was_read.record(now)  # before this moment the memory was another's
        self._stream.wait_event(self._was_read)
        placed = self._place[: batch.nbytes].view(batch.dtype).view(batch.shape)
        with torch.cuda.stream(self._stream):
            placed.copy_(batch, non_blocking=True)
        now.wait_stream(self._stream)
        yield placed
        self._was_read.record(torch.cuda.current_stream(self._device))
