"""What fits where, with a predictor whose sums can be done in the head, and once with the real one."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from vidgn import preflight
from vidgn.config.compose import load_config
from vidgn.distributed.ranks import Ranks
from vidgn.errors import ConfigError
from vidgn.memory import fit, measure
from vidgn.memory.fit import check_fits, fitting_geometry, memory_row, most_clips, parse_bytes, refusal, usable_bytes
from vidgn.memory.prediction import Prediction, predict

SMALL = ["model=i3d_tiny", "frames=8", "span=64", "data.crop=112", "data.short_side=[112,128]", "views=curve"]
CUDA = Ranks(0, 1, torch.device("cuda"))


def small(*overrides):
    return load_config([*SMALL, *overrides])


@pytest.fixture(autouse=True)
def exact_limits(monkeypatch):
    """A GPU of n bytes has n bytes for a prediction."""
    monkeypatch.setattr(fit, "KEPT_FREE_BYTES", 0)
    monkeypatch.setattr(fit, "KEPT_FREE_FRACTION", 0.0)


@pytest.fixture
def in_the_head(monkeypatch):
    """Training: 1000 bytes, and 100 a frame of each clip in fp32; half in bf16; 70, 45, 27 % by mode. Test: 1500."""

    def pretend(config, *, clips_per_forward, world_size=1, num_classes=400):
        per_frame = 100 * {"keep": 100, "lean": 70, "leaner": 45, "block": 27}[config.trainer.activation_memory] // 100
        per_frame = per_frame // 2 if config.trainer.precision == "bf16" else per_frame
        training = 1000 + per_frame * config.frames * clips_per_forward
        return Prediction(clips_per_forward, config.frames, 0, 0, 0, 0, 0, 0, training, 1500)

    monkeypatch.setattr(fit, "predict", pretend)


@pytest.mark.parametrize(
    ("text", "expected"), [("24GB", 24 * 10**9), ("24 gib", 24 * 2**30), ("1.5GB", 15 * 10**8), ("512MiB", 2**29)]
)
def test_sizes_as_they_are_written(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["24", "GB", "24TB", "-1GB", "0GB"])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match="for example 24GB"):
        parse_bytes(text)


def test_some_is_kept_free(monkeypatch):
    monkeypatch.setattr(fit, "KEPT_FREE_BYTES", 2**30)
    monkeypatch.setattr(fit, "KEPT_FREE_FRACTION", 0.05)
    assert usable_bytes(20 * 10**9) == 19 * 10**9 - 2**30
    assert usable_bytes(10**6) == 0


@pytest.mark.parametrize(
    ("norm", "world_size", "legal"), [("gn", 1, [1, 2, 4, 8, 16, 32]), ("bn", 1, [8, 16, 32]), ("bn", 2, [4, 8, 16])]
)
def test_the_most_clips_that_fit(in_the_head, norm, world_size, legal):
    """To the byte: a GPU of exactly the peak holds it, one byte less does not."""
    config = small(f"norm={norm}", "clips_per_gpu=8", "gpus=4")

    def most(gpu_bytes):
        fits = most_clips(config, world_size=world_size, gpu_bytes=gpu_bytes)
        return None if fits is None else fits.clips_per_forward

    for clips, fewer in zip(legal, [None, *legal], strict=False):
        assert most(1000 + 800 * clips) == clips
        assert most(1000 + 800 * clips - 1) == fewer
    assert most(10**9) == legal[-1]


def test_a_test_must_fit_too(in_the_head):
    config = small("norm=gn", "frames=1", "clips_per_gpu=2", "gpus=2", "model=resnet50", "views=image")
    assert most_clips(config, world_size=1, gpu_bytes=1500).clips_per_forward == 4  # 1400 in training
    assert most_clips(config, world_size=1, gpu_bytes=1499) is None
    assert "a test of 8 views of 112 x 112 at once" in refusal(config, world_size=1, gpu_bytes=1499)


@pytest.mark.parametrize(
    ("gpu_bytes", "change", "clips"),
    [
        (7399, "trainer.activation_memory=lean", 8),  # keep takes 7400, lean 5480, leaner 3880, block 2728
        (5479, "trainer.activation_memory=leaner", 8),
        (3879, "trainer.activation_memory=block", 8),
        (2727, "trainer.precision=bf16 trainer.activation_memory=leaner", 8),  # 2408 in bf16, block 1832
        (2407, "trainer.precision=bf16 trainer.activation_memory=block", 8),
        (1831, None, None),
    ],
)
def test_a_refusal_names_the_smallest_change(in_the_head, gpu_bytes, change, clips):
    config = small("norm=bn", "clips_per_gpu=8", "gpus=2")
    check_fits(config, world_size=1, gpu_bytes=7400)
    with pytest.raises(ConfigError) as caught:
        check_fits(config, world_size=1, gpu_bytes=gpu_bytes)
    text = str(caught.value)
    assert "\n" not in text
    assert "trainer.clips_per_forward=8, of 8 frames with norm=bn" in text
    assert (f"write {change} ({clips} clips a forward" if change else "it takes a larger GPU") in text


def test_a_refusal_goes_on_to_shorter_clips(in_the_head):
    config = small("norm=bn", "clips_per_gpu=8", "gpus=2", "frames=32")
    shortest_of_32 = 1000 + 13 * 32 * 8  # block in bf16
    assert "write frames=16 trainer.activation_memory=block (8 clips" not in refusal(
        config, world_size=1, gpu_bytes=shortest_of_32
    )
    assert "write frames=16 trainer.precision=bf16" in refusal(config, world_size=1, gpu_bytes=shortest_of_32 - 1)


def test_clips_that_are_written_down_may_fill_the_gpu(in_the_head, monkeypatch):
    monkeypatch.setattr(fit, "KEPT_FREE_BYTES", 500)
    config = small("norm=gn", "clips_per_gpu=2", "gpus=2", "trainer.clips_per_forward=4")
    check_fits(config, world_size=1, gpu_bytes=4200)
    with pytest.raises(ConfigError, match=r"^trainer.clips_per_forward=4,.*write trainer.clips_per_forward=auto \(2 "):
        check_fits(config, world_size=1, gpu_bytes=4199)
    row = memory_row(config, gpu_bytes=4200, is_measured=False)  # vidgn memory says what vidgn train does
    assert (row["status"], row["training_bytes"], row["test_bytes"], row["peak_bytes"]) == ("ok", 4200, 1500, 4200)
    told = memory_row(config, gpu_bytes=4199, is_measured=False)["status"]
    assert told.startswith("does not fit: trainer.clips_per_forward=4,")


def gpu_of(monkeypatch, num_bytes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=num_bytes))


def test_auto_takes_the_most_that_fits_on_a_gpu(in_the_head, monkeypatch):
    config = small("norm=gn", "clips_per_gpu=2", "gpus=4")
    gpu_of(monkeypatch, 1000 + 800 * 4)
    geometry = fitting_geometry(config, CUDA, num_classes=400, is_test=False)
    assert (geometry.clips_per_forward, geometry.forwards_per_step) == (4, 2)
    on_cpu = Ranks(0, 1, torch.device("cpu"))
    assert fitting_geometry(config, on_cpu, num_classes=400, is_test=False).clips_per_forward == 8  # they are small
    asked = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, clips_per_forward=8))
    assert fitting_geometry(asked, CUDA, num_classes=400, is_test=False).clips_per_forward == 8


def test_what_no_gpu_here_holds_is_refused_before_it_starts(in_the_head, monkeypatch):
    config = small("norm=bn", "clips_per_gpu=4", "gpus=2", "data.root=.")
    gpu_of(monkeypatch, 1000 + 800 * 4 - 1)
    with pytest.raises(ConfigError, match=r"write trainer\.activation_memory=lean"):
        preflight.check_before_start(config)
    with pytest.raises(ConfigError, match=r"write trainer\.activation_memory=lean"):
        fitting_geometry(config, CUDA, num_classes=400, is_test=False)
    tested = fitting_geometry(config, CUDA, num_classes=400, is_test=True)
    assert tested.clips_per_forward == 4  # a test needs less than training: it goes on with the fewest


def test_the_real_predictor_between_two_legal_steps():
    config = small("norm=gn", "clips_per_gpu=1", "gpus=16", "trainer.eval_every=0")
    peaks = {m: predict(config, clips_per_forward=m).peak_bytes for m in (8, 16)}
    assert peaks[8] < peaks[16]
    assert most_clips(config, world_size=1, gpu_bytes=peaks[16] - 1).clips_per_forward == 8


def test_out_of_memory_is_a_row(monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(measure, "_steps", full)
    monkeypatch.setattr(measure, "set_precision", lambda _: None)
    for name in ("empty_cache", "memory_allocated", "memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    row = memory_row(small("norm=gn", "clips_per_gpu=2", "gpus=2"), gpu_bytes=None, is_measured=True)
    assert row["status"] == "out of memory: CUDA out of memory"
    assert row["measured_peak_bytes"] is None
    assert row["peak_bytes"] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("frames", [8, 16, 32, 64])
def test_prediction_holds_on_a_gpu(frames):
    misses = {}
    for cell in itertools.product(("bn", "gn"), ("fp32", "bf16"), ("keep", "lean", "leaner", "block")):
        norm, precision, mode = cell
        overrides = [f"norm={norm}", f"trainer.precision={precision}", f"trainer.activation_memory={mode}"]
        config = load_config([*overrides, f"frames={frames}"])
        measured = measure.measure(config, clips_per_forward=8)
        assert measured.peak_bytes is not None, measured.status
        ratio = predict(config, clips_per_forward=8).peak_bytes / measured.peak_bytes
        if abs(ratio - 1) > 0.05:
            misses[cell] = ratio
    assert not misses
