"""One run, one writer: the kernel holds the lock, on any host and in any PID namespace; a lease where it can't."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from vidgn.runs import lock
from vidgn.runs.lock import LockedError, check_held, locked, read_owner, remove_left_lock

ELSEWHERE = {"host": "another-host", "pid": 4, "since": "2020-01-01 00:00:00", "token": "0"}
HOLD = (
    "import sys, time; from pathlib import Path; from vidgn.runs.lock import locked\n"
    "with locked(Path(sys.argv[1]), lambda t: print(t, flush=True)): print('held', flush=True); time.sleep(60)"
)


def nothing_said(text: str) -> None:
    pytest.fail(text)


def test_the_second_is_refused_while_the_first_lives(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        expected = rf"{tmp_path} is being written by another run: process {other.pid} on .*tag=NAME"
        with pytest.raises(LockedError, match=expected), locked(tmp_path, nothing_said):
            pass
        remove_left_lock(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]
        other.kill()
    said = []
    with locked(tmp_path, said.append) as owner:
        assert json.loads((tmp_path / "lock.json").read_text()) == owner
        assert owner["pid"] == os.getpid()
    assert len(said) == 1
    assert said[0].startswith(f"taking over the lock of process {other.pid} on ")
    assert not list(tmp_path.iterdir())


@pytest.mark.root
@pytest.mark.parametrize("host", ["same", "other"])
def test_another_process_namespace_takes_nothing_over(tmp_path, host):
    """Two containers: of one host name or of two, the process numbers of each mean nothing in the other."""
    rename = "" if host == "same" else "hostname other-$$; "
    space = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child", "sh", "-c"]
    command = [*space, f'{rename}exec "$0" -c "$1" "$2"', sys.executable, HOLD, str(tmp_path)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start()
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        before = read_owner(tmp_path / "lock.json")
        refused = start()
        _, errors = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert "is being written by another run" in errors
        assert read_owner(tmp_path / "lock.json") == before
    finally:
        first.kill()
        first.communicate(timeout=60)
    second = start()
    try:
        assert second.stdout is not None
        began = time.monotonic()
        assert second.stdout.readline().startswith("taking over the lock of process ")
        assert second.stdout.readline() == "held\n"
        assert time.monotonic() - began < 10
    finally:
        second.kill()
        second.communicate(timeout=60)


def test_a_run_whose_lock_is_gone_or_another_s_is_told(tmp_path):
    path = tmp_path / "lock.json"
    with locked(tmp_path, nothing_said) as owner:
        check_held(tmp_path, owner)
        path.write_text(json.dumps(ELSEWHERE))
        with pytest.raises(LockedError, match="is now process 4 on another-host's: this run has stopped"):
            check_held(tmp_path, owner)
        path.unlink()
        with pytest.raises(LockedError, match=r"lock\.json is gone: .* start the same command again"):
            check_held(tmp_path, owner)
        path.write_text(json.dumps(ELSEWHERE))
    assert json.loads(path.read_text()) == ELSEWHERE  # it is the other's, and stays


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / "lock.json").write_text(json.dumps(ELSEWHERE))
    remove_left_lock(tmp_path)
    remove_left_lock(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_many_that_find_a_left_lock_one_gets_it(tmp_path, monkeypatch):
    """Threads race for it: never two holders at a time."""
    monkeypatch.setattr(lock, "_SECONDS_OF_A_LOOK", 0.0)
    for _ in range(20):
        (tmp_path / "lock.json").write_text(json.dumps(ELSEWHERE))
        held, most, refused = [], [], []
        start = threading.Barrier(6)

        def contend(start=start, held=held, most=most, refused=refused) -> None:
            start.wait()
            try:
                with locked(tmp_path, lambda text: None):
                    held.append(1)
                    most.append(len(held))
                    time.sleep(0.005)
                    held.pop()
            except LockedError:
                refused.append(1)

        threads = [threading.Thread(target=contend) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(most) == {1}
        assert len(most) + len(refused) == 6


@pytest.fixture
def no_locks(monkeypatch):
    """A file system on which files can't be locked."""
    monkeypatch.setattr(lock, "try_lock", lambda handle: None)
    monkeypatch.setattr(lock, "_SECONDS_TO_SETTLE", 0.05)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_lease_is_held_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    said, path = [], tmp_path / "lock.json"
    with locked(tmp_path, said.append) as owner:
        assert said == [f"{tmp_path} is on a file system without locks: its lock is a lease, given up after 120 s"]
        check_held(tmp_path, owner)
        os.utime(path, (1, 1))
        for _ in range(500):
            if path.stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 1  # a sign of life
        with pytest.raises(LockedError, match=r"being written by another run: .* its lease ends 1\d\d s from now"):
            locked(tmp_path, nothing_said).__enter__()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_locks")
def test_a_lease_that_has_ended_is_taken_over(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(ELSEWHERE))
    silent = time.time() - lock.LEASE_SECONDS - 5
    os.utime(path, (silent, silent))
    said = []
    with locked(tmp_path, said.append):
        pass
    assert said[0] == "taking over the lease of process 4 on another-host: no sign of life for 125 s"


@pytest.mark.usefixtures("no_locks")
def test_of_two_that_take_a_lease_over_the_last_has_it(tmp_path, monkeypatch):
    path = tmp_path / "lock.json"
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: path.write_text(json.dumps(ELSEWHERE)))
    with pytest.raises(LockedError, match="process 4 on another-host"), locked(tmp_path, nothing_said):
        pass
    assert json.loads(path.read_text()) == ELSEWHERE
