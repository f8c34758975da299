"""One run, one writer."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from vidgn.runs import lock
from vidgn.runs.lock import LockedError, locked

ELSEWHERE = {"host": "another-host", "pid": 4, "process_started": "1", "job": None, "started": "2020-01-01 00:00:00"}


def nothing_said(text: str) -> None:
    pytest.fail(text)


def test_the_second_is_refused_while_the_first_lives(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from vidgn.runs.lock import locked\n"
        "with locked(Path(sys.argv[1]), print): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        expected = rf"{tmp_path} is being written by another run: process {other.pid} on .*tag=NAME"
        with pytest.raises(LockedError, match=expected), locked(tmp_path, nothing_said):
            pass
        assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]
        other.kill()
    said = []
    with locked(tmp_path, said.append):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert len(said) == 1
    assert said[0].startswith(f"taking over the lock of process {other.pid} on ")
    assert said[0].endswith("that process is gone")
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left_is_swept_away(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    killed = {**lock._me(), "pid": gone.pid}
    left = tmp_path / f"{lock._beside_prefix()}{gone.pid}-1"  # killed between a file of its own and the lock
    living = tmp_path / f"{lock._beside_prefix()}{os.getpid()}-1"
    (tmp_path / "lock.json").write_text(json.dumps(killed))
    others = tmp_path / f"{lock._beside_prefix()}{gone.pid}-4711-1"  # of a host whose name begins as this one's
    for file in (left, living, others):
        file.touch()
    lock.remove_stale_locks(tmp_path)
    assert {*tmp_path.iterdir()} == {living, others}
    (tmp_path / "lock.json").write_text(json.dumps(lock._me()))
    lock.remove_stale_locks(tmp_path)
    assert (tmp_path / "lock.json").exists()  # its owner lives


def test_a_number_that_is_another_process_now_is_no_owner(tmp_path):
    mine = {**lock._me(), "process_started": "12345"}  # this process's number, in an earlier life
    (tmp_path / "lock.json").write_text(json.dumps(mine))
    said = []
    with locked(tmp_path, said.append):
        pass
    assert len(said) == 1


def test_another_host_is_believed_while_it_gives_signs_of_life(tmp_path, monkeypatch):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(ELSEWHERE))
    with pytest.raises(LockedError, match="process 4 on another-host"), locked(tmp_path, nothing_said):
        pass
    silent = time.time() - lock.STALE_SECONDS - 5
    os.utime(path, (silent, silent))
    said = []
    with locked(tmp_path, said.append):
        pass
    assert said == ["taking over the lock of process 4 on another-host: no sign of life for 125 s"]


def test_signs_of_life_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    with locked(tmp_path, nothing_said):
        path = tmp_path / "lock.json"
        os.utime(path, (1, 1))
        for _ in range(500):
            if path.stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_a_batch_job_that_was_queued_again_takes_over_from_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    (tmp_path / "lock.json").write_text(json.dumps({**ELSEWHERE, "job": "77", "job_restarts": "0"}))
    with pytest.raises(LockedError), locked(tmp_path, nothing_said):  # the same start of the job: two runs in one job
        pass
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    said = []
    with locked(tmp_path, said.append):
        pass
    assert said == ["taking over the lock of process 4 on another-host: an earlier start of this batch job"]


def test_an_unreadable_lock_is_not_taken_for_stale(tmp_path):
    (tmp_path / "lock.json").write_text("")
    with pytest.raises(LockedError), locked(tmp_path, nothing_said):
        pass


def test_a_lock_that_changed_hands_is_left_to_its_new_owner(tmp_path):
    path = tmp_path / "lock.json"
    with locked(tmp_path, nothing_said):
        path.write_text(json.dumps(ELSEWHERE))
        assert not lock._remove(path, lock._me())
    assert json.loads(path.read_text()) == ELSEWHERE
    assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    """Threads race for it: never two holders at a time."""
    dead = {**lock._me(), "pid": 2**22 + 1}
    for _ in range(20):
        (tmp_path / "lock.json").write_text(json.dumps(dead))
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


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", no_links)
    with locked(tmp_path, nothing_said):
        assert lock._read(tmp_path / "lock.json")["pid"] == os.getpid()
        with pytest.raises(LockedError), locked(tmp_path, nothing_said):
            pass
        assert [p.name for p in tmp_path.iterdir()] == ["lock.json"]
    assert not list(tmp_path.iterdir())
