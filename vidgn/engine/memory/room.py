"""How much of a GPU a prediction may fill. Read without torch."""

from vidgn.config.schema import Config

# Kept free of a prediction: the CUDA context, cuDNN's and NCCL's workspaces, and what the allocator loses to
# fragmentation. A rule of thumb, not measured here.
KEPT_FREE_BYTES = 1 << 30
KEPT_FREE_FRACTION = 0.05


def usable_bytes(gpu_bytes: int) -> int:
    """What a prediction may fill of a GPU of `gpu_bytes`."""
    return max(0, int(gpu_bytes * (1 - KEPT_FREE_FRACTION)) - KEPT_FREE_BYTES)


def room_bytes(config: Config, gpu_bytes: int) -> int:
    """What `config` may fill: a clips_per_forward that is written down the whole GPU, auto what is usable of it."""
    return usable_bytes(gpu_bytes) if config.trainer.clips_per_forward == "auto" else gpu_bytes
