"""study.json: no cell that was ever asked for is lost, whoever asks at the same time."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vidgn.cli.sweep import _LauncherWait, _list_cells, _WaitIsOver
from vidgn.config.compose import load_config


def names(study) -> list[str]:
    return sorted(c["run_name"] for c in json.loads((study / "study.json").read_text())["cells"])


def cells(*seeds):
    return [load_config(["model=i3d_tiny", "data.root=.", f"seed={seed}"]) for seed in seeds]


def test_sweeps_started_at_once_in_one_study_lose_no_cell(tmp_path):
    configs = cells(*range(8))
    for _ in range(10):
        (tmp_path / "study.json").unlink(missing_ok=True)
        start = threading.Barrier(8)

        def add(config, start=start) -> None:
            start.wait()
            _list_cells(tmp_path, [config])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, configs))
        assert len(names(tmp_path)) == 8
    assert sorted(os.listdir(tmp_path)) == [".study.lock", "study.json"]


@pytest.mark.parametrize("text", ["", "[1]", '{"cells": 3}'])
def test_a_list_that_no_sweep_wrote_is_written_anew(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    _list_cells(tmp_path, cells(0))
    assert len(names(tmp_path)) == 1


def test_a_launcher_is_left_only_while_it_is_waited_for():
    wait = _LauncherWait()
    before = signal.signal(signal.SIGUSR2, wait.leave)
    try:
        signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(_WaitIsOver):
            wait.run(lambda: signal.raise_signal(signal.SIGUSR2) or 0)
        signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
