"""Files are whole or not there, whatever the disk does."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.killing import assert_same_bytes, metrics, overrides, run_dir
from vidgn.atomic_files import silent_seconds, write_atomic, write_json
from vidgn.distributed.signals import StopFlag
from vidgn.errors import CheckpointError
from vidgn.report.read.run_state import lines_of
from vidgn.runs.directory import RunDirectory, is_disk_full, retry_on_full_disk
from vidgn.runs.metrics import MetricsLog

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setenv("VIDGN_DISK_FULL_WAIT", "0")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    for error in (FULL, KeyboardInterrupt()):

        def write(file, error=error):
            file.write(b"half")
            raise error

        with pytest.raises(type(error)):
            write_atomic(path, write)
        assert json.loads(path.read_text()) == {"x": 1}
        assert os.listdir(tmp_path) == ["a.json"]


def test_of_many_writers_at_once_each_writes_it_whole(tmp_path):
    path, mask = tmp_path / "a.json", os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: write_json(path, [i] * 5000, alone=False), range(64)))
    finally:
        os.umask(mask)
    assert len(set(json.loads(path.read_text()))) == 1
    assert os.listdir(tmp_path) == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_silence_is_told_by_the_clock_of_the_files(tmp_path, monkeypatch):
    path = tmp_path / "lock.json"
    path.touch()
    monkeypatch.setattr("time.time", lambda: 0.0)  # a host whose clock is wrong
    assert 0 <= silent_seconds(path) < 60
    os.utime(path, (1, 1))
    assert silent_seconds(path) > 10**9


def test_a_number_that_is_no_json_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not os.listdir(tmp_path)


@pytest.mark.root
def test_a_full_disk_leaves_the_file_as_it_was(small_disk):
    path = small_disk / "a.bin"
    write_atomic(path, lambda f: f.write(b"1" * 100_000))
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, lambda f: f.write(b"2" * 250_000))
    assert is_disk_full(caught.value)
    assert path.read_bytes() == b"1" * 100_000
    assert os.listdir(small_disk) == ["a.bin"]


def test_patience_says_so_once_and_goes_on_when_there_is_space(no_waiting):
    said, left = [], [FULL, FULL, None]

    def write():
        if error := left.pop(0):
            raise error
        return "written"

    assert retry_on_full_disk(write, "x of run", log=said.append) == "written"
    assert said == ["no space for x of run: what was saved before stays; trying again every 0 s"]


def test_patience_ends_with_a_clear_error(no_waiting):
    def write():
        raise FULL

    with pytest.raises(CheckpointError, match=r"no space for x after 5 attempts: free some .* goes on from the last"):
        retry_on_full_disk(write, "x", log=lambda text: None)


def test_other_errors_are_not_waited_for():
    def write():
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        retry_on_full_disk(write, "x", log=lambda text: pytest.fail(text))


def test_metrics_are_appended_by_whole_lines(tmp_path):
    """The kernel refuses bytes beyond a limit, in the middle of a line."""
    path = tmp_path / "metrics.jsonl"
    code = f"""
import resource, signal
from vidgn.runs.metrics import MetricsLog
from pathlib import Path
log = MetricsLog(Path({str(path)!r}), offset=0)
log.write({{"kind": "train", "step": 1, "text": "x" * 100}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (170, resource.RLIM_INFINITY))
try:
    log.write({{"kind": "train", "step": 2, "text": "x" * 100}})
except OSError as error:
    print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write({{"kind": "train", "step": 3, "text": "x"}})
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert told.stdout.split() == [str(errno.EFBIG)]
    assert [line["step"] for line in lines_of(path, "train")] == [1, 3]
    assert path.read_bytes().count(b"\n") == 2


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, offset=0)
    log.write({"kind": "train", "step": 1})
    offset = log.offset()
    assert offset == len('{"kind": "train", "step": 1}\n')
    log.write({"kind": "train", "step": 2})
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 3, "torn')
    assert [line["step"] for line in lines_of(path, "train")] == [1, 2]
    log = MetricsLog(path, offset=offset)
    assert log.missing_bytes == 0
    log.write({"kind": "train", "step": 2, "again": True})
    log.close()
    assert path.read_text() == '{"kind": "train", "step": 1}\n{"kind": "train", "step": 2, "again": true}\n'


def test_metrics_that_lost_lines_go_on_behind_a_whole_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    log = MetricsLog(path, offset=24)
    assert log.missing_bytes == 24 - 16
    log.write({"kind": "train", "step": 3})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"kind": "train", "step": 3}\n'


@pytest.mark.root
def test_a_run_on_a_full_disk_keeps_what_it_has(small_disk, no_waiting):
    """The next checkpoint does not fit: the one before stays, whole; lines that do not fit are not torn."""
    import torch

    from vidgn.runs.checkpoint import load_latest

    (small_disk / "checkpoints").mkdir()
    run = RunDirectory(small_disk, writes=True, stop=StopFlag())
    run.load_checkpoint()
    run.save_checkpoint(1, {"step": 1, "model": torch.ones(20_000)}, keep=1)
    filler = small_disk / "others"
    try:
        with open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        pass
    with pytest.raises(CheckpointError, match=r"no space for checkpoint step_000000002.pt"):
        run.save_checkpoint(2, {"step": 2, "model": torch.ones(20_000)}, keep=1)
    said = []
    state = load_latest(run.checkpoints, said.append)
    assert state is not None
    assert (state["step"], said) == (1, [])
    assert os.listdir(run.checkpoints) == ["step_000000001.pt"]
    filler.unlink()
    run.save_checkpoint(2, {"step": 2, "model": torch.ones(20_000)}, keep=1)
    assert os.listdir(run.checkpoints) == ["step_000000002.pt"]
    run.close()


@pytest.mark.long
@pytest.mark.root
def test_a_whole_run_on_a_disk_that_fills(warm, undisturbed, videos, tmp_path):
    """2 ranks; the disk holds two checkpoints and not a third. With more space the run goes on to the same bytes."""
    disk = tmp_path / "runs"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", disk], check=True)
    try:
        impatient = {"VIDGN_DISK_FULL_WAIT": "0.1"}
        started = warm.start(overrides(videos), folder=tmp_path, environment=impatient)
        assert started.wait() == 1
        started.assert_no_orphans()
        text = started.log.read_text()
        assert text.count("trying again every 0.1 s") == 1
        assert "no space for checkpoint step_000000008.pt of " in text.splitlines()[-1]
        assert "Traceback" not in text
        run = run_dir(tmp_path)
        assert sorted(os.listdir(run / "checkpoints")) == ["step_000000003.pt", "step_000000006.pt"]
        assert [line["step"] for line in metrics(run)] == [*range(1, 9)]
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        started = warm.start(overrides(videos), folder=tmp_path, environment=impatient)
        assert started.wait() == 0, started.log.read_text()
        assert "going on from step 6" in started.log.read_text()
        assert_same_bytes(run, undisturbed)
    finally:
        subprocess.run(["umount", disk], check=True)
