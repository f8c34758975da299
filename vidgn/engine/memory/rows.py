"""Cells of a command line as rows of memory.csv, and what of each fits where."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from vidgn.config.schema import Config
from vidgn.engine.distributed import world_size_of
from vidgn.engine.geometry import choose_geometry, group_clips, legal_clips_per_forward
from vidgn.engine.memory.fit import most_clips, refusal
from vidgn.engine.memory.measure import NOT_MEASURED, measure
from vidgn.engine.memory.predict import KINETICS_CLASSES, Prediction, predict
from vidgn.engine.memory.room import room_bytes


def num_classes_of(config: Config) -> int:
    """Classes of the set as far as the configuration tells; Kinetics' 400 otherwise."""
    return config.data.synthetic.num_classes if config.data.synthetic is not None else KINETICS_CLASSES


@dataclass(frozen=True)
class Fit:
    """What clips_per_forward=auto takes on a GPU of some size, with the prediction that does not fit any more."""

    taken: Prediction | None  # None: not even the fewest clips fit
    next: Prediction | None  # the next legal number of clips; None if `taken` is the whole step
    refusal: str | None  # where nothing fits


def fit(config: Config, *, gpu_bytes: int) -> Fit:
    """The entry of the cell for a GPU of `gpu_bytes`, both neighbours predicted.

    Raises: ConfigError if the processes of `config` can't carry the experiment at all.
    """
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, clips_per_forward="auto"))
    world_size, num_classes = world_size_of(config), num_classes_of(config)
    taken = most_clips(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes)
    legal = legal_clips_per_forward(config.slots_per_step, group_clips(config), world_size)
    above = next((m for m in legal if taken is None or m > taken.clips_per_forward), None)
    refused = None
    if taken is None:
        refused = refusal(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes)
    following = None
    if above is not None:
        following = predict(config, clips_per_forward=above, world_size=world_size, num_classes=num_classes)
    return Fit(taken, following, refused)


def memory_row(config: Config, *, gpu_bytes: int | None, is_measured: bool) -> dict[str, Any]:
    """A row of memory.csv. `clips_per_forward=auto` is the most that fits in `gpu_bytes`; without, clips_per_gpu.

    Where nothing fits the row has the fewest legal clips, and says so in `status`.
    """
    world_size, num_classes = world_size_of(config), num_classes_of(config)
    status = "ok"
    predicted = None
    if config.trainer.clips_per_forward == "auto" and gpu_bytes is not None:
        predicted = most_clips(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes)
        clips = 1 if predicted is None else predicted.clips_per_forward
    else:
        clips = None
    if predicted is None:
        geometry = choose_geometry(config, world_size=world_size, most_clips=clips)
        predicted = predict(
            config, clips_per_forward=geometry.clips_per_forward, world_size=world_size, num_classes=num_classes
        )
    if gpu_bytes is not None and predicted.peak_bytes > room_bytes(config, gpu_bytes):
        status = "does not fit: " + refusal(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes)
    measured = NOT_MEASURED
    if is_measured:
        measured = measure(
            config, clips_per_forward=predicted.clips_per_forward, world_size=world_size, num_classes=num_classes
        )
        status = measured.status if measured.status != "ok" else status
    return {
        "model": config.model.name,
        "norm": config.norm.kind,
        "frames": config.frames,
        "clips_per_forward": predicted.clips_per_forward,
        "precision": config.trainer.precision,
        "activation_memory": config.trainer.activation_memory,
        "parameter_bytes": predicted.parameter_bytes,
        "gradient_bytes": predicted.gradient_bytes,
        "optimizer_bytes": predicted.optimizer_bytes,
        "saved_bytes": predicted.saved_bytes,
        "saved_bytes_per_clip": predicted.saved_bytes // predicted.clips_per_forward,
        "temporary_bytes": predicted.temporary_bytes,
        "ddp_bytes": predicted.ddp_bytes,
        "training_bytes": predicted.training_bytes,
        "test_bytes": predicted.test_bytes,
        "peak_bytes": predicted.peak_bytes,
        "measured_peak_bytes": measured.peak_bytes,
        "measured_reserved_bytes": measured.reserved_bytes,
        "status": status,
    }
