"""Which tests run, in which order, what is said of the rest; fixtures of all rooms."""

import functools
import importlib.util
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from xdist.scheduler.loadscope import LoadScopeScheduling

from tests.data.encoded_videos import write_set
from tests.killing import Videos, overrides, run_dir
from tests.launch.slurm_cluster import missing_programs
from tests.warm import Warm
from vidgn.config.schema import DataConfig, SyntheticConfig, ViewsConfig

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one takes its time
hypothesis.settings.load_profile("any machine")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():  # Triton's kernels run in its interpreter, which it asks for when it is imported
    os.environ["TRITON_INTERPRET"] = "1"

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
_left_out: Counter[str] = Counter()  # tests by what they are left out for

# What takes longer than a second, started first and the longest first, left out of `make check`: folder, file or test,
# as `--durations=0` orders them. Tests of one group run in one process, where what they share is made once.
_SLOW = {
    "tests/launch/test_sweeps.py": "",
    "tests/test_documented_commands.py": "",
    "tests/training/test_one_experiment.py": "one experiment",
    "tests/launch/test_slurm.py": "launched",
    "tests/launch/test_ranks.py": "launched",
    "tests/launch/test_scripts.py": "launched",
    "tests/launch/test_wrong.py": "launched",
    "tests/runs/test_kill.py": "disturbed",
    "tests/distributed/test_signals.py": "disturbed",
    "tests/test_spine.py": "",
    "tests/test_remedies.py": "",
    "tests/cli/test_sweep_recovery.py": "",
    "tests/cli/test_sweep_refused.py": "",
    "tests/training/test_images.py": "",
    "tests/training/test_same_bytes.py": "disturbed",
    "tests/cli/test_memory.py": "",
    "tests/models/norms/test_ranks.py": "",
    "tests/models/norms/test_triton.py": "",
    "tests/test_gpu_bench.py": "",
    "tests/test_examples.py": "examples",
    "tests/test_site.py": "site",
    "tests/training/test_nonfinite.py": "",
    "tests/detection/test_detection_runs.py": "disturbed",
    "tests/detection/test_detection_networks.py": "",
    "tests/detection/test_coco_scores.py::test_an_interval": "",
    "tests/data/decode/test_fuzz.py": "",
    "tests/cli/test_convert.py": "",
    "tests/training/test_portable.py": "exported",
    "tests/config/test_compose.py::test_a_ready_made_sweep": "",
    "tests/distributed/test_launcher.py": "",
    "tests/data/datasets/test_synthetic.py": "",
    "tests/report/show/test_notebooks.py": "",
    "tests/report/show/test_page_in_browser.py": "page",
    "tests/data/tools/test_get.py::test_a_killed": "",
    "tests/data/loading/test_loader_faults.py": "",
    "tests/data/datasets/test_manifest.py::test_240000": "",
    "tests/cli/test_sweep_list.py::test_sweeps_started_at_once": "",
    "tests/cli/test_predict.py": "",
    "tests/cli/test_predict_windows.py": "",
    "tests/data/clips/test_windows.py": "",
    "tests/config/test_fingerprint.py::test_the_experiment_is_in": "",
    "tests/config/test_fingerprint.py::test_what_may_change": "",
    "tests/data/decode/test_parity.py": "parity",
    "tests/training/test_resume.py": "",
    "tests/training/test_convergence.py": "",
    "tests/test_results.py": "published",
    "tests/models/test_activation_memory.py": "",
    "tests/test_api.py": "",
    "tests/runs/test_kept_rows.py": "",
    "tests/runs/test_lock.py": "",
    "tests/data/clips/test_sampling.py::test_balanced": "",
    "tests/data/tools/test_index.py": "",
    "tests/data/decode/test_openings.py": "",
    "tests/data/decode/test_cached.py": "",
    "tests/data/loading/test_map_in_workers.py": "",
    "tests/report/show/test_page.py": "",
    "tests/cli/test_evaluate.py": "",
}


class Scheduler(LoadScopeScheduling):
    """Gives pytest-xdist's processes a group at a time, or a test that has none."""

    def _split_scope(self, nodeid: str) -> str:
        return next((group for path, group in _SLOW.items() if group and nodeid.startswith(path)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    config.option.loadscopereorder = False
    return Scheduler(config, log)


def _no_gpu() -> bool:
    import torch

    return not torch.cuda.is_available()


def _no_torchcodec() -> bool:
    from vidgn.data.decode.guided import import_torchcodec

    try:
        import_torchcodec()
    except ImportError:
        return True
    return False


# marker -> whether what it needs is missing, what brings it
_NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "shared": (lambda: not SHARED_DATA.is_dir(), "../shared/data beside the checkout"),
    "gpu": (_no_gpu, "a GPU that torch can use"),
    "no_gpu": (lambda: not _no_gpu(), "CUDA_VISIBLE_DEVICES="),
    "slurm": (lambda: bool(missing_programs()), "apt-get install slurm-wlm munge"),
    "torchcodec": (_no_torchcodec, "apt-get install ffmpeg, whose libraries it loads"),
    "decord": (lambda: importlib.util.find_spec("decord") is None, "pip install decord, on Linux on x86-64"),
    "browser": (
        lambda: not (shutil.which("chromium") and shutil.which("chromedriver")),
        "apt-get install chromium chromium-driver",
    ),
    "loggers": (
        lambda: not all(importlib.util.find_spec(name) for name in ("wandb", "mlflow", "sqlalchemy")),
        "pip install wandb mlflow-skinny sqlalchemy alembic",
    ),
    "root": (lambda: os.geteuid() != 0, "root, to mount a file system and to make process namespaces"),
}
_is_missing = functools.cache(lambda marker: _NEEDS[marker][0]())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, and puts it first."""
    order = {}
    for item in items:
        place = next((i for i, path in enumerate(_SLOW) if item.nodeid.startswith(path)), len(_SLOW))
        if place < len(_SLOW):
            item.add_marker(pytest.mark.slow)
        order[item] = place
    items.sort(key=lambda item: order[item])


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (_, remedy) in _NEEDS.items():
        if item.get_closest_marker(marker) and _is_missing(marker):
            pytest.skip(f"needs {remedy}")


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        _left_out["long" if item.get_closest_marker("long") else "slow"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist: told to the process that prints
        session.config.workeroutput["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if not _left_out:  # every process has collected, and left out, the same
        _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was shown here and what was not, and what brings the rest."""
    done = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    left = terminalreporter.getreports("skipped")
    lines = []
    for marker, (_, remedy) in _NEEDS.items():
        ran = sum(marker in report.keywords for report in done)
        skipped = sum(report.longrepr[2].endswith(f"needs {remedy}") for report in left)
        if skipped:
            lines.append(f"{skipped:5} tests of `{marker}` not run, {ran} run: needs {remedy}")
        elif ran:
            lines.append(f"{ran:5} tests of `{marker}` run, all there are")
    known = tuple(f"needs {remedy}" for _, remedy in _NEEDS.values())
    others = Counter(report.longrepr[2] for report in left if not report.longrepr[2].endswith(known))
    lines += [f"{number:5} tests not run: {reason}" for reason, number in others.items()]
    for marker, remedy in {"slow": "make test", "long": "make test-long"}.items():
        if _left_out[marker]:
            lines.append(f"{_left_out[marker]:5} tests of `{marker}` not run: {remedy}")
    if lines:
        terminalreporter.section("what this machine has shown, and has not")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos beside the repository; see the `shared` marker."""
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A generated set: 24 training and 9 validation videos of 3 motions, 12 frames of 32 x 32. No processes."""
    return DataConfig(
        name="tiny",
        format="synthetic",
        root=str(tmp_path_factory.mktemp("videos")),
        train=None,
        val=None,
        classes=None,
        separator=" ",
        decoder="pyav",
        workers=0,
        missing="error",
        max_unreadable=0,
        timeout_seconds=30,
        flip=True,
        short_side=(28, 32),
        crop=28,
        augment="video",
        clips_per_video=1,
        mean=(114.75, 114.75, 114.75),
        std=(57.375, 57.375, 57.375),
        synthetic=SyntheticConfig(
            num_train=24, num_val=9, num_classes=3, num_frames=12, size=32, speed=1, distractors=1, noise=8, seed=0
        ),
    )


@pytest.fixture(scope="session")
def all_views() -> dict[str, ViewsConfig]:
    """Every view, by name."""
    return {
        "paper": ViewsConfig("paper", clips=10, crops=3, crop="scaled", plan="uniform"),
        "center": ViewsConfig("center", clips=10, crops=1, crop="training", plan="uniform"),
        "curve": ViewsConfig("curve", clips=1, crops=1, crop="training", plan="training"),
        "image": ViewsConfig("image", clips=1, crops=1, crop="training", plan="uniform"),
    }


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A server that starts commands without their imports; see tests/warm.py."""
    server = Warm()
    yield server
    server.close()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    """A set of one file of every kind; see tests/data/encoded_videos.py."""
    folder = write_set(tmp_path_factory.mktemp("videos"))
    return Videos(folder, folder / "train.csv", folder / "val.csv")


@pytest.fixture(scope="session")
def real_videos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Videos:
    """A real set of 264 files, tested on every third of its validation files."""
    folder = shared_data / "egogestar"
    header, *rows = (folder / "128_val.csv").read_text().splitlines(keepends=True)
    few = tmp_path_factory.mktemp("real") / "val.csv"
    few.write_text(header + "".join(rows[::3]))
    return Videos(folder, folder / "128_train.csv", few)


@pytest.fixture(scope="session")
def undisturbed(warm: Warm, videos: Videos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a 2-rank run that ran from start to end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = warm.start(overrides(videos), folder=folder)
    assert started.wait(300) == 0, started.log.read_text()
    started.assert_no_orphans()
    return run_dir(folder)
