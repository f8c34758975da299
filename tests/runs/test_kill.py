"""SIGKILL at any moment, start again: the same bytes as a run that nothing disturbed."""

import os
import random
import signal
import subprocess
import sys

import pytest

from tests.killing import KINDS, Killer, assert_same_bytes, kill_and_restart, metrics, overrides, run_dir
from tests.warm import REPO


def kinds(seed: int, count: int) -> list[str]:
    """`count` moments that cover every kind, in seeded order but for the test, which comes last."""
    others = [k for k in KINDS if k != "test"]
    drawn = random.Random(seed)
    chosen = [*others, *drawn.choices(others, k=count - len(others) - 2)]
    drawn.shuffle(chosen)
    return [*chosen, "test", "test"]


def test_three_kills(warm, undisturbed, videos, tmp_path):
    killer = Killer(0, run_dir(tmp_path))
    kill_and_restart(warm, overrides(videos), tmp_path, killer, ["checkpoint", "evaluation", "test"])
    assert_same_bytes(run_dir(tmp_path), undisturbed)
    assert len(killer.hits) == 3


@pytest.mark.long
@pytest.mark.parametrize("files", ["videos", pytest.param("real_videos", marks=pytest.mark.shared)])
def test_twenty_kills(warm, request, tmp_path, files):
    videos = request.getfixturevalue(files)
    arguments, whole, killed = overrides(videos, "trainer.max_steps=48"), tmp_path / "whole", tmp_path / "killed"
    started = warm.start(arguments, folder=whole)
    assert started.wait(300) == 0, started.log.read_text()
    killer = Killer(20, run_dir(killed), last_step=48)
    kill_and_restart(warm, arguments, killed, killer, kinds(20, 20))
    assert_same_bytes(run_dir(killed), run_dir(whole))
    print(killer.hits)
    assert len(killer.hits) == 20
    assert set(killer.hits) == set(KINDS), killer.hits


@pytest.mark.long
@pytest.mark.parametrize("forwards", [1, 2])
@pytest.mark.parametrize("summation", ["canonical", "fast"])
def test_three_ranks_killed_five_times(warm, videos, tmp_path, forwards, summation):
    """From 3 ranks on the order of summation shows: DDP's buckets must not depend on when a process began."""
    arguments = overrides(
        videos,
        "gpus=3",
        f"clips_per_gpu={2 * forwards}",
        "trainer.clips_per_forward=2",
        "norm=gn" if forwards == 2 else "norm=bn",
        "launch.nproc_per_node=3",
        f"trainer.summation={summation}",
    )
    curve_every = round(8 * 4 / (6 * forwards))
    name = f"i3d_tiny_8f_{2 * forwards}x3_{'gn' if forwards == 2 else 'bn'}_s0"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started = warm.start(arguments, folder=whole)
    assert started.wait(300) == 0, started.log.read_text()
    killer = Killer(3, killed / "runs" / "s" / name, curve_every=curve_every)
    kill_and_restart(warm, arguments, killed, killer, ["step", "checkpoint", "start-up", "step", "test"])
    run, other = killed / "runs" / "s" / name, whole / "runs" / "s" / name
    assert metrics(run) == metrics(other)
    for file in ("result.json", "model.safetensors"):
        assert (run / file).read_bytes() == (other / file).read_bytes(), file
    assert len(killer.hits) == 5


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_the_command_in_a_shell(undisturbed, videos, tmp_path, seed):
    """Nothing warm: `vidgn train` with spawned ranks and reader processes, killed while it imports or trains."""
    arguments = [sys.executable, "-m", "vidgn", *overrides(videos, "data.workers=1")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    drawn = random.Random(seed)
    metrics_file = run_dir(tmp_path) / "metrics.jsonl"
    for steps in (0, drawn.randint(1, 20)):
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, start_new_session=True)
        while process.poll() is None and steps:
            if metrics_file.exists() and metrics_file.read_bytes().count(b"train") >= steps:
                break
        try:
            process.wait(drawn.uniform(0.5, 8) if not steps else 0.01)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # the launching process alone: its ranks and their readers go with it
        assert process.wait() == -signal.SIGKILL
    subprocess.run(arguments, cwd=tmp_path, env=environment, check=True)
    mine, other = run_dir(tmp_path), undisturbed
    assert metrics(mine) == metrics(other)
    assert (mine / "result.json").read_bytes() == (other / "result.json").read_bytes()
    from safetensors.torch import load_file

    one, two = load_file(mine / "model.safetensors"), load_file(other / "model.safetensors")
    assert all((one[k] == two[k]).all() for k in two)
