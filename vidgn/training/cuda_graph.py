"""Forward and backward as one CUDA graph, and the update as another: recorded once, then launched as a whole.

They are two because the host decides between them: a step whose numbers are not finite may end the run, and then no
parameter has moved.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vidgn.config.schema import Config
from vidgn.distributed.ranks import Ranks
from vidgn.training.late import Uploads

_WARM_RUNS = 3  # cuDNN chooses its algorithms, and gradients get their place


def why_no_graph(config: Config, ranks: Ranks) -> str | None:
    """Why trainer.cuda_graph=true can't be had here, None where it can."""
    if ranks.device.type != "cuda":
        return f"the run is on a {ranks.device.type.upper()}"
    if ranks.world_size > 1:
        return f"{ranks.world_size} processes exchange gradients while backward runs"
    if config.trainer.compile:
        return "trainer.compile=true has a way of its own"
    return None


class RecordedStep:
    """`run` for inputs of one shape. The first few runs are as they are, in the stream that is recorded later.

    The gradients must stay where they are, and what `run` reads besides its inputs too.
    """

    def __init__(self, run: Callable[[tuple[Tensor, ...]], Tensor], device: torch.device) -> None:
        self._run, self._device = run, device
        self._stream = torch.cuda.Stream(device)
        self._uploads = Uploads(device)
        self._num_warm = 0
        self._inputs: tuple[Tensor, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._totals: Tensor | None = None

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """What `run` gives for these inputs, which may be on the host."""
        if self._num_warm < _WARM_RUNS:
            self._num_warm += 1
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                totals = self._run(inputs)
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            return totals
        if self._graph is None:
            self._record(inputs)
        else:
            for kept, new in zip(self._inputs, inputs, strict=True):
                with self._uploads.there(new) as placed:
                    kept.copy_(placed)
        assert self._graph is not None
        assert self._totals is not None
        self._graph.replay()
        return self._totals

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(t.to(self._device, copy=True) for t in inputs)
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # what the warm forwards left, the graph takes anew
        self._graph = torch.cuda.CUDAGraph()
        # Not the default: readers' threads may pin memory meanwhile.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._totals = self._run(self._inputs)
