"""The examples run as they stand, on small generated data; the notebooks on the studies that they leave."""

from pathlib import Path

import pytest

from tests.data.encoded_videos import encode
from tests.report.show.test_notebooks import execute, outputs_of  # noqa: F401  # a fixture
from tests.warm import Warm

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run_in(folder: Path, warm: Warm, name: str, *words: str) -> str:
    """What an example prints that runs in `folder`, in a process of its own."""
    script = str(EXAMPLES / name)
    run = f"import runpy, sys; sys.argv = {[name, *words]}; runpy.run_path({script!r}, run_name='__main__')"
    started = warm.start(["--help"], folder=folder, patch=run)  # the help comes behind it
    assert started.wait() == 0, started.log.read_text()[-3000:]
    return started.log.read_text().partition("usage: vidgn")[0]


@pytest.fixture(scope="module")
def gap_study(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The study that examples/gap.py leaves, and the lines that it prints."""
    folder = tmp_path_factory.mktemp("gap")
    said = run_in(folder, warm, "gap.py", "--epochs", "1", "--number", "16", "--seeds", "2")
    return folder / "runs/gap", said.splitlines()


@pytest.mark.long
def test_gap(gap_study: tuple[Path, list[str]]) -> None:
    study, printed = gap_study
    assert len(list(study.glob("*/result.json"))) == 8
    assert sum("top-1" in line for line in printed) == 8
    assert [line.partition(":")[0] for line in printed[-2:]] == ["8 clips/GPU", "2 clips/GPU"]
    assert all("95 % interval" in line for line in printed[-2:])


@pytest.mark.long
def test_the_gap_notebook_on_a_real_study(gap_study: tuple[Path, list[str]], execute) -> None:  # noqa: F811
    notebook = execute("gap.ipynb", gap_study[0])
    text = "\n".join(outputs_of(notebook, "text/markdown"))
    assert "8 runs: 8 done" in text
    assert "gn − bn" in text
    assert not [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]


@pytest.mark.long
def test_the_memory_notebook_on_a_real_table(tmp_path: Path, warm: Warm, execute) -> None:  # noqa: F811
    words = ["memory", "-m", "model=i3d_tiny", "frames=8,16", "span=16", "norm=bn,gn", "--no-measure"]
    assert warm.start(words, folder=tmp_path).wait() == 0
    notebook = execute("memory.ipynb", tmp_path / "runs/study")
    assert "i3d_tiny, gn, fp32" in outputs_of(notebook, "text/markdown")[-1]
    assert len(outputs_of(notebook, "image/png")) == 1


@pytest.mark.long
def test_own_videos(tmp_path: Path, warm: Warm) -> None:
    for split in ("train", "val"):
        for kind, codec in (("walk", "mpeg4"), ("run", "libx264")):
            (tmp_path / f"videos/{split}/{kind}").mkdir(parents=True)
            for i in range(2):
                encode(tmp_path / f"videos/{split}/{kind}/{i}.mp4", codec)
    said = run_in(tmp_path, warm, "own_videos.py", "--videos", "videos", "--epochs", "2", "--crop", "32")
    assert "epoch 2: top-1" in said
    assert "of 4 videos" in said
    assert "walk 0." in said
    assert "run 0." in said


@pytest.mark.long
def test_own_videos_without_any(tmp_path: Path, warm: Warm) -> None:
    assert "of 40 videos" in run_in(tmp_path, warm, "own_videos.py", "--number", "8", "--epochs", "1", "--crop", "32")


def test_norms_in_your_net(tmp_path: Path, warm: Warm) -> None:
    lines = run_in(tmp_path, warm, "norms_in_your_net.py", "--size", "16").splitlines()
    assert ["does not depend" in line for line in lines] == [False, True, True]


def test_clips_in_your_loop(tmp_path: Path, warm: Warm) -> None:
    words = "frames=8 data=synthetic data.synthetic.num_train=8 data.synthetic.num_val=8 data.crop=32 data.workers=1"
    said = run_in(
        tmp_path, warm, "clips_in_your_loop.py", "--steps", "2", *words.split(), "data.short_side=[32,36]", "span=16"
    )
    assert "step 1: loss" in said
    assert "of 8 clips are right" in said
