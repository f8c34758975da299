"""How many clips fit on a GPU of a given size, what to change where none fit, the rows of memory.csv."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vidgn.config.schema import Config
from vidgn.distributed.ranks import Ranks, world_size_of
from vidgn.errors import ConfigError
from vidgn.geometry import Geometry, choose_geometry, group_clips, legal_clips_per_forward
from vidgn.memory.measure import NOT_MEASURED, measure
from vidgn.memory.prediction import KINETICS_CLASSES, Prediction, evaluation_forwards, predict
from vidgn.models.i3d import final_size
from vidgn.report.read.history import read_starts
from vidgn.runs.directory import remedy

_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
_MODES = ("keep", "lean", "leaner", "block")

# Kept free of a prediction: the CUDA context, cuDNN's and NCCL's workspaces, and what the allocator loses to
# fragmentation. A rule of thumb, not measured here.
KEPT_FREE_BYTES = 1 << 30
KEPT_FREE_FRACTION = 0.05


def parse_bytes(text: str) -> int:
    """Bytes of `24GB` (10**9), `24GiB` (2**30), `24576MiB` and the like.

    Raises:
        ConfigError: if it is no such size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].upper() not in _UNITS or float(found[1]) == 0:
        raise ConfigError(f"{text!r} is no size of memory: write a number and MB, GB, MiB or GiB, for example 24GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def local_gpu_bytes(config: Config) -> int | None:
    """Memory of the smallest GPU here, None where the run goes on the CPU."""
    if config.trainer.device == "cpu" or not torch.cuda.is_available():
        return None
    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def usable_bytes(gpu_bytes: int) -> int:
    """What a prediction may fill of a GPU of `gpu_bytes`."""
    return max(0, int(gpu_bytes * (1 - KEPT_FREE_FRACTION)) - KEPT_FREE_BYTES)


def budget_bytes(config: Config, gpu_bytes: int) -> int:
    """What `config` may fill: all of the GPU where clips_per_forward is a number, the usable part where it is auto."""
    return usable_bytes(gpu_bytes) if config.trainer.clips_per_forward == "auto" else gpu_bytes


def most_clips(
    config: Config, *, world_size: int, gpu_bytes: int, num_classes: int = KINETICS_CLASSES
) -> Prediction | None:
    """The largest legal clips_per_forward that fits, as its prediction; None where the smallest does not.

    Raises:
        ConfigError: if no value is legal for `world_size` processes.
    """
    low, fitting = _legal(config, world_size), None
    while low:  # halving: the peak grows with the clips
        middle = low[len(low) // 2]
        predicted = predict(config, clips_per_forward=middle, world_size=world_size, num_classes=num_classes)
        if predicted.peak_bytes <= usable_bytes(gpu_bytes):
            fitting, low = predicted, [m for m in low if m > middle]
        else:
            low = [m for m in low if m < middle]
    return fitting


def check_fits(config: Config, *, world_size: int, gpu_bytes: int, num_classes: int = KINETICS_CLASSES) -> None:
    """Refuse what can't run on a GPU of `gpu_bytes`.

    Raises:
        ConfigError: if it does not fit; the message names the smallest change that fits.
    """
    asked = config.trainer.clips_per_forward
    if asked == "auto":
        if most_clips(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes) is not None:
            return
    else:
        needed = predict(config, clips_per_forward=asked, world_size=world_size, num_classes=num_classes)
        if needed.peak_bytes <= budget_bytes(config, gpu_bytes):
            return
    raise ConfigError(refusal(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes))


def refusal(config: Config, *, world_size: int, gpu_bytes: int, num_classes: int = KINETICS_CLASSES) -> str:
    """Why `config` does not fit, and the smallest change that makes it fit, in one line."""
    asked = config.trainer.clips_per_forward
    clips = _legal(config, world_size)[0] if asked == "auto" else asked
    needed = predict(config, clips_per_forward=clips, world_size=world_size, num_classes=num_classes)
    budget = budget_bytes(config, gpu_bytes)
    what = f"{'the fewest, ' if asked == 'auto' else ''}trainer.clips_per_forward={clips},"
    if needed.test_bytes > needed.training_bytes:
        tested, crop = max(evaluation_forwards(config), key=lambda t: t[0] * t[1] ** 2)
        what = f"a test of {tested} views of {crop} x {crop} at once,"
    why = (
        f"{what} of {config.frames} frames with norm={config.norm.kind} takes {_gib(needed.peak_bytes)}, "
        f"and a GPU of {_gib(gpu_bytes)} has {_gib(budget)} for it"
    )
    for words, changed in _changes(config):
        fits = most_clips(changed, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes)
        if fits is not None:
            which = f"{fits.clips_per_forward} clips a forward, {_gib(fits.peak_bytes)}"
            return f"{why}: write {remedy(config, words)} ({which})"
    return f"{why}: no memory mode, precision or clip length fits; it takes a larger GPU"


def fitting_geometry(config: Config, ranks: Ranks, *, num_classes: int, is_test: bool) -> Geometry:
    """The layout of a start: on CUDA, `clips_per_forward=auto` is the most that fits on the smallest of its GPUs.

    Of a run that goes on it is what the first start had, where that can be.

    Raises:
        ConfigError: if nothing legal fits, unless the start only tests.
    """
    world_size = ranks.world_size
    before = ranks.from_first(next((s.get("clips_per_forward") for s in read_starts(config.run_dir)), None))
    if ranks.device.type != "cuda" or config.trainer.clips_per_forward != "auto" or config.model.detector:
        return choose_geometry(config, world_size=world_size, before=before)
    own = torch.cuda.get_device_properties(ranks.device).total_memory
    gpu_bytes = min(ranks.gather(own))
    fits = most_clips(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes)
    if fits is None and not is_test:
        raise ConfigError(refusal(config, world_size=world_size, gpu_bytes=gpu_bytes, num_classes=num_classes))
    most = fits.clips_per_forward if fits else 1
    return choose_geometry(config, world_size=world_size, most_clips=most, before=before)


def _legal(config: Config, world_size: int) -> list[int]:
    choose_geometry(_with_trainer(config, clips_per_forward="auto"), world_size=world_size)  # its own error if none is
    return legal_clips_per_forward(config.slots_per_step, group_clips(config), world_size)


def _changes(config: Config) -> Iterator[tuple[str, Config]]:
    """What to write instead, from what changes least: the layout, then time for memory, precision, the experiment."""
    config = _with_trainer(config, clips_per_forward="auto")
    yield "trainer.clips_per_forward=auto", config
    for words, changed in _cheaper(config):
        yield words, changed
    frames = config.frames // 2
    while (
        frames >= 1 and final_size(config.model, frames=frames, crop=config.data.crop) and config.frames % frames == 0
    ):
        shorter = dataclasses.replace(config, frames=frames)
        yield f"frames={frames}", shorter
        for words, changed in _cheaper(shorter):
            yield f"frames={frames} {words}", changed
        frames //= 2


def _cheaper(config: Config) -> Iterator[tuple[str, Config]]:
    precisions = [config.trainer.precision]
    if config.trainer.precision == "fp64":
        precisions.append("fp32")
    if config.trainer.precision != "bf16":
        precisions.append("bf16")
    for precision in precisions:
        first = "" if precision == config.trainer.precision else f"trainer.precision={precision}"
        for mode in _MODES[_MODES.index(config.trainer.activation_memory) :]:
            second = "" if mode == config.trainer.activation_memory else f"trainer.activation_memory={mode}"
            if first or second:
                changed = _with_trainer(config, precision=precision, activation_memory=mode)
                yield " ".join(filter(None, (first, second))), changed


def _with_trainer(config: Config, **values: Any) -> Config:
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **values))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


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

    Raises:
        ConfigError: if the processes of `config` can't carry the experiment at all.
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
        clips = config.clips_per_gpu
    if predicted is None:
        geometry = choose_geometry(config, world_size=world_size, most_clips=clips)
        predicted = predict(
            config, clips_per_forward=geometry.clips_per_forward, world_size=world_size, num_classes=num_classes
        )
    if gpu_bytes is not None and predicted.peak_bytes > budget_bytes(config, gpu_bytes):
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
