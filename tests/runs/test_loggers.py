"""Where numbers go besides metrics.jsonl: the real W&B (offline) and MLflow where they are installed."""

import json
from pathlib import Path

import pytest

from tests.cells import cell
from vidgn.run import run
from vidgn.runs import loggers
from vidgn.runs.loggers import Logged, Loggers

LINE = {"kind": "train", "step": 3, "epoch": 0.5, "loss": 1.25, "top1": 50.0, "lr": 0.1, "clock": {"time": 0.0}}
SMALL = (
    "gpus=2",
    "clips_per_gpu=2",
    "trainer.max_steps=4",
    "bn_stats_steps=1",
    "trainer.checkpoint_steps=2",
    "study=st",
)


def test_one_that_is_not_installed_is_named_and_left_out(tmp_path, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setitem(loggers._OPENERS, "wandb", missing)
    said = []
    opened = Loggers(Logged(("wandb", "tensorboard")), tmp_path, step=0, log=said.append)
    opened.write(LINE)
    opened.close()
    assert said == [
        "wandb is left out (pip install wandb brings it): the run goes on, and metrics.jsonl has all numbers"
    ]
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("when", ["write", "close"])
def test_one_that_fails_on_the_way_is_named_once(tmp_path, monkeypatch, when):
    class Fails:
        def write(self, numbers, step):
            assert numbers == {"train/loss": 1.25, "train/top1": 50.0, "train/lr": 0.1}
            if when == "write":
                raise RuntimeError("the server\nis gone")

        def close(self):
            if when == "close":
                raise OSError("disk full")

    monkeypatch.setitem(loggers._OPENERS, "mlflow", lambda *_: Fails())
    said = []
    opened = Loggers(Logged(("mlflow",)), tmp_path, step=0, log=said.append)
    opened.write(LINE)
    opened.write(LINE)
    opened.close()
    reason = "the server is gone" if when == "write" else "disk full"
    assert said == [f"mlflow is left out ({reason}): the run goes on, and metrics.jsonl has all numbers"]


@pytest.mark.loggers
def test_wandb_offline(tmp_path, tiny_data, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = cell(tmp_path, tiny_data, *SMALL, "loggers=[wandb]")
    run(config)
    (folder,) = (config.run_dir / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert "left out" not in (config.run_dir / "log.txt").read_text()


@pytest.mark.loggers
def test_mlflow_in_a_file_and_again_after_a_stop(tmp_path, tiny_data, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = cell(tmp_path, tiny_data, *SMALL, "loggers=[mlflow]")
    run(config)
    assert "left out" not in (config.run_dir / "log.txt").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{Path(config.runs_dir).absolute() / 'mlflow.db'}")
    (config.run_dir / "result.json").unlink()
    (config.run_dir / "checkpoints" / "step_000000004.pt").unlink()
    run(config)  # goes on in the same run
    experiment = client.get_experiment_by_name("st")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags["norm"] == config.norm.kind
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    last = [line["loss"] for line in lines if line["kind"] == "train"][-1]
    assert found.data.metrics["train/loss"] == pytest.approx(last)
