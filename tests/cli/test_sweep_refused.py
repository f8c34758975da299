"""A sweep over a directory that holds another experiment: its number is nobody else's, and the sweep says so."""

from pathlib import Path

import pytest

from tests.warm import Started, Warm
from vidgn.report.read.study import read_study

RUN = "i3d_tiny_8f_2x1_gn_s0"


def sweep(warm: Warm, folder: Path, *more: str) -> Started:
    small = ["num_train=6", "num_val=6", "num_classes=2", "num_frames=8", "size=32"]
    arguments = [
        *("train", "-m", "norm=gn", "model=i3d_tiny", "data=synthetic", f"data.root={folder}/videos", "study=s"),
        *(f"data.synthetic.{setting}" for setting in small),
        *("data.short_side=[28,32]", "data.crop=28", "data.workers=0", "frames=8", "span=8", "gpus=1"),
        *("clips_per_gpu=2", "trainer.max_steps=2", "trainer.eval_every=0", "views=curve", "trainer.device=cpu"),
    ]
    return warm.start([*arguments, *more], folder=folder)


@pytest.fixture(scope="module")
def finished(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    started = sweep(warm, folder, "seed=0,1")
    assert started.wait() == 0, started.log.read_text()
    return folder


@pytest.mark.parametrize(
    ("seed", "more", "key"),
    [
        pytest.param(
            2, "optim.lr_per_clip=0.1", "optim.lr_per_clip (here 0.1, there 0.00015625)", marks=pytest.mark.long
        ),
        (3, "data.synthetic.num_train=8", "data rows"),
        pytest.param(4, "norm.groups=4", "norm.groups (here 4, there None)", marks=pytest.mark.long),
    ],
)
def test_another_runs_number_is_not_the_cells_own(warm: Warm, finished: Path, seed: int, more: str, key: str) -> None:
    study = finished / "runs/s"
    before = {path: path.read_bytes() for path in study.glob("*/*") if path.is_file()}
    started = sweep(warm, finished, f"seed=0,{seed}", more)
    assert started.wait() == 1
    said = started.log.read_text()
    (line,) = [line for line in said.splitlines() if line.startswith(f"runs/s/{RUN} holds another experiment: ")]
    assert key in line
    assert "Write tag=NAME" in line
    assert "Traceback" not in said
    assert all(path.read_bytes() == content for path, content in before.items() if RUN in str(path))
    assert f"- {RUN}: refused, " in (study / "report.md").read_text()
    found = {cell.run_name: cell for cell in read_study(study).cells}
    assert (found[RUN].state, found[RUN].result) == ("refused", None)
    assert found[RUN.replace("s0", f"s{seed}")].result, "the other cell has run"
    there, aside = study / RUN, study.parent / f"aside{seed}"
    there.rename(aside)
    assert {c.run_name: c.state for c in read_study(study).cells}[RUN] == "pending", "nothing is in its way any more"
    aside.rename(there)
    again = sweep(warm, finished, "seed=0,1")
    assert again.wait() == 0, again.log.read_text()
    assert "refused" not in (study / "report.md").read_text()


def test_a_cell_that_is_done_and_fails_now_ends_the_sweep_with_its_reason(warm: Warm, finished: Path) -> None:
    started = sweep(warm, finished, "seed=0,1", "weights=typo.safetensors")
    assert started.wait() == 1
    assert "weights=typo.safetensors: there is no such file" in started.log.read_text()
    again = sweep(warm, finished, "seed=0,1")
    assert again.wait() == 0, again.log.read_text()
