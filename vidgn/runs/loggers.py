"""Where a run's numbers go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow. None is ever in a run's way.

metrics.jsonl has all of them, and is what resuming and reports go by; what fails here is named once and left out.
"""

import logging
import os
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vidgn.config.schema import Config, run_name


@dataclass(frozen=True)
class Logged:
    """What loggers are told of a run: `study` is their group, `arm` (the norm) their tag."""

    loggers: tuple[str, ...] = ("tensorboard",)
    study: str = ""
    name: str = ""
    arm: str = ""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, config: Config, identity: Mapping[str, Any]) -> "Logged":
        """What `config` asks for; `identity`: the experiment, flat."""
        return cls(config.loggers, config.study, run_name(config), config.norm.kind, identity)


class Logger(Protocol):
    """One place for numbers."""

    def write(self, numbers: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Loggers:
    """Those that a run asks for, but for those that fail."""

    def __init__(self, run: Logged, path: Path, *, step: int, log: Callable[[str], None]) -> None:
        """Open them.

        Args:
            path: the run's directory.
            step: the run goes on behind it; what was written of later steps is out of date.
        """
        self._log = log
        self._open: dict[str, Logger] = {}
        for name in run.loggers:
            self._try(name, lambda name=name: self._open.update({name: _OPENERS[name](run, path, step)}))

    def write(self, line: Mapping[str, Any]) -> None:
        """The numbers of a line of metrics.jsonl."""
        numbers = {f"{line['kind']}/{k}": v for k, v in line.items() if isinstance(v, float) and k != "epoch"}
        for name, logger in list(self._open.items()):
            self._try(name, lambda logger=logger: logger.write(numbers, line["step"]))

    def close(self) -> None:
        """Let them finish what they hold."""
        for name, logger in list(self._open.items()):
            self._try(name, logger.close)
        self._open.clear()

    def _try(self, name: str, do: Callable[[], None]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                do()
        except Exception as error:  # whatever it is, the run goes on
            self._open.pop(name, None)
            missing = isinstance(error, ModuleNotFoundError)
            reason = f"pip install {_PACKAGES[name]} brings it" if missing else " ".join(str(error).split())[:200]
            self._log(f"{name} is left out ({reason}): the run goes on, and metrics.jsonl has all numbers")


class _TensorBoard:
    def __init__(self, run: Logged, path: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        del run
        self._writer: Any = SummaryWriter(str(path / "tensorboard"), purge_step=step + 1, max_queue=100)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run of W&B for each run, whose id is in wandb_run.txt. Offline where nobody is logged in."""

    def __init__(self, run: Logged, path: Path, step: int) -> None:
        import wandb  # type: ignore[import-not-found]  # an extra

        wandb_: Any = wandb
        del step  # W&B has no way back: it leaves out steps that it has
        settings = wandb_.Settings(console="off", silent=True)
        known = path / "wandb_run.txt"  # not made from where the run lies: another may come to lie there
        if not known.exists():
            known.write_text(uuid.uuid4().hex[:16] + "\n")
        logging.getLogger("wandb").setLevel(logging.ERROR)
        self._run = wandb_.init(
            project=os.environ.get("WANDB_PROJECT", "vidgn"),
            group=run.study,
            name=run.name,
            tags=[run.arm],
            config=dict(run.config),
            dir=str(path),
            id=known.read_text().strip(),
            resume="allow",
            mode=os.environ.get("WANDB_MODE") or ("online" if wandb_.api.api_key else "offline"),
            settings=settings,
        )

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow for each run, whose id is in mlflow_run.txt: in runs_dir/mlflow.db, unless a server is named."""

    def __init__(self, run: Logged, path: Path, step: int) -> None:
        del step
        from mlflow.entities import Metric  # type: ignore[import-not-found]  # an extra
        from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path.absolute().parent.parent / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=where)
        self._metric: Any = Metric
        known = path / "mlflow_run.txt"
        if known.exists():
            self._id = known.read_text().strip()
            self._client.set_tag(self._id, "norm", run.arm)
        else:
            experiment = self._client.get_experiment_by_name(run.study)
            id = self._client.create_experiment(run.study) if experiment is None else experiment.experiment_id
            started = self._client.create_run(id, run_name=run.name, tags={"norm": run.arm})
            self._id = str(started.info.run_id)
            known.write_text(self._id + "\n")
            for key, value in run.config.items():
                self._client.log_param(self._id, key, value)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)  # one write a step

    def close(self) -> None:
        self._client.set_terminated(self._id)


_OPENERS: dict[str, Callable[[Logged, Path, int], Logger]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic"}
