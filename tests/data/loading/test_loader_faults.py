"""Readers that are killed, stopped or signalled; parents that are. Nothing hangs, nothing is left, nobody shouts."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest
import torch

from vidgn.config.schema import DataConfig
from vidgn.data.clips.read import ClipGeometry, ReadTask, read_into
from vidgn.data.datasets.manifest import read_manifest
from vidgn.data.loading import batches as loading
from vidgn.data.loading import pool as pools
from vidgn.data.loading.batches import train_batches, view_videos
from vidgn.data.loading.pool import Limits, WorkerPool
from vidgn.data.loading.prefetch import Prefetch
from vidgn.errors import ConfigError, VidgnError

CLIP = {"seed": 5, "frames": 4, "stride": 2}
POSITIONS = [range(i * 4, i * 4 + 4) for i in range(30)]


def readers(of: int | None = None) -> list[psutil.Process]:
    """The workers of a process: children of its fork server."""
    children = psutil.Process(of).children()
    servers = [child for child in children if "vidgn.data.loading.fork_server" in " ".join(child.cmdline())]
    return [reader for server in servers for reader in server.children()]


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def the_reader() -> psutil.Process:
    """The one reader there is, once those of tests before are gone."""
    wait_for(lambda: len(readers()) == 1)
    return readers()[0]


@pytest.fixture
def train(tiny_data: DataConfig):
    def start(data: DataConfig, positions=POSITIONS) -> Prefetch:
        return train_batches(read_manifest(data, "train"), data, positions=positions, **CLIP)

    return start


def test_a_killed_reader_costs_nothing(train, tiny_data):
    with train(tiny_data) as stream:
        expected = list(stream)
    with train(replace(tiny_data, workers=2)) as stream:
        batches = [next(stream)]
        wait_for(lambda: len(readers()) == 2)
        readers()[0].kill()  # one: the file that the first was at may by now be the second's, and two deaths fail it
        batches += list(stream)
    assert len(batches) == len(expected)
    for got, want in zip(batches, expected, strict=True):
        assert torch.equal(got.clip_NTHWC, want.clip_NTHWC)
        assert got.substitutions == ()


def test_a_file_that_kills_two_readers_fails_and_the_next_is_read(tiny_data, all_views):
    manifest = read_manifest(tiny_data, "val")
    geometry = ClipGeometry.of(replace(tiny_data, crop=448), frames=4, stride=2, views=all_views["paper"])
    slow, plain = (ReadTask(key, manifest[key], (), geometry) for key in range(2))  # 30 views of 512 pixels: slow
    readers_pool = WorkerPool[ReadTask](
        read_into,
        workers=1,
        limits=Limits(60, memory_mib=None),
        preload=loading._PRELOAD,
        slots=2,
        slot_bytes=30 * 4 * 512 * 512 * 3,
        max_deaths=2,
    )
    done, kills = [], 0
    for task in (slow, plain):
        readers_pool.submit(task)
    while len(done) < 2:
        done += readers_pool.wait()
        if kills < 2 and readers_pool._workers and readers_pool._workers[0].queue:
            readers()[-1].kill()
            kills += 1
            wait_for(lambda: not readers())
    readers_pool.close()
    assert done[0].item is slow
    assert (done[0].failure, done[0].reason) == ("crash", "crashed the decoder (SIGKILL)")
    assert loading._why_unreadable(done[0], tiny_data).startswith(f"{manifest[0].path}: 2 reader processes died on it")
    assert done[1].item is plain
    assert done[1].failure is None


def test_a_video_that_hangs_is_given_up_after_the_time_limit(train, tiny_data, monkeypatch):
    monkeypatch.setattr(loading, "_GRACE_SECONDS", 0.2)
    data = replace(tiny_data, workers=1, timeout_seconds=2.5)
    start = time.monotonic()
    with train(data, [range(2)] * 200) as stream:
        next(stream)
        victim = the_reader()
        victim.suspend()
        batches = list(stream)
    substitutions = [s for batch in batches for s in batch.substitutions]
    assert len(batches) == 199
    assert len(substitutions) == 1
    assert "not read within data.timeout_seconds=2.5" in substitutions[0].reason
    assert substitutions[0].id in substitutions[0].reason
    assert not victim.is_running()
    assert time.monotonic() - start < 60


def test_a_test_video_that_hangs_is_unreadable(tiny_data, all_views, monkeypatch):
    monkeypatch.setattr(loading, "_GRACE_SECONDS", 0.2)
    data = replace(tiny_data, workers=1, timeout_seconds=2.5)
    manifest = read_manifest(data, "val")
    rows = [*range(9)] * 20
    with view_videos(manifest, data, all_views["center"], rows=rows, **CLIP) as stream:
        videos = [next(stream)]
        the_reader().suspend()
        videos += list(stream)
    assert [video.index for video in videos] == rows
    (error,) = [video.error for video in videos if video.error]
    assert "not read within" in error


def test_close_is_prompt_and_leaves_no_reader(train, tiny_data):
    stream = train(replace(tiny_data, workers=2))
    next(stream)
    wait_for(lambda: len(readers()) == 2)
    held = readers()
    start = time.monotonic()
    stream.close()
    stream.close()
    assert time.monotonic() - start < 1
    wait_for(lambda: not any(reader.is_running() for reader in held))
    assert list(stream) == []


def test_a_bug_is_not_taken_for_a_bad_video(train, tiny_data):
    # A negative crop is no property of a file: nothing may be substituted for it.
    data = replace(tiny_data, workers=1, short_side=(0, 0))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"), train(data) as stream:
        next(stream)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_decoder_that_is_none_is_a_config_error(train, tiny_data, workers):
    data = replace(tiny_data, workers=workers, decoder="vlc")
    with pytest.raises(ConfigError, match=r"data\.decoder=vlc"), train(data) as stream:
        next(stream)


def test_positions_that_raise_reach_the_consumer(train, tiny_data):
    def positions():
        yield (0, 1)
        raise KeyError("no such step")

    with train(replace(tiny_data, workers=1), positions()) as stream, pytest.raises(KeyError, match="no such step"):
        list(stream)


def test_a_worker_that_does_not_start_is_one_line(train, tiny_data, monkeypatch, tmp_path):
    """A fork server whose import hangs: the run does not wait for ever, and the server is gone."""
    (tmp_path / "hangs.py").write_text("import time; time.sleep(3600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(loading, "_PRELOAD", ("hangs",))
    monkeypatch.setattr(pools, "_START_SECONDS", 2.0)
    message = r"a worker process has not started within 2 s: see what holds up imports .* and start again$"
    with pytest.raises(VidgnError, match=message), train(replace(tiny_data, workers=1)) as stream:
        next(stream)
    servers = [child for child in psutil.Process().children() if "hangs" in " ".join(child.cmdline())]
    assert servers == []


_SCRIPT = """
    import sys, time
    from tests_config import data
    from vidgn.data.loading.batches import train_batches
    from vidgn.data.datasets.manifest import read_manifest

    with train_batches(
        read_manifest(data, "train"), data, positions=([i] for i in range(10**9)), seed=0, frames=4, stride=2
    ) as stream:
        for number, batch in enumerate(stream):
            if number == 3:
                print("going", flush=True)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_readers_die_with_their_parent_and_say_nothing(tiny_data, tmp_path, number):
    data = replace(tiny_data, workers=2)
    (tmp_path / "tests_config.py").write_text(f"from vidgn.config.schema import *\ndata = {data!r}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SCRIPT)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    parent = psutil.Process(process.pid)
    wait_for(lambda: len(parent.children(recursive=True)) == 3)  # the last reader may start after the first batch
    children = parent.children(recursive=True)
    for child in children:
        if number != signal.SIGKILL:
            child.send_signal(number)  # as a terminal or a batch system would, to every process
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))
    assert errors.count("Traceback") == (1 if number == signal.SIGINT else 0)  # Python's own, in the parent
    assert "worker" not in errors
