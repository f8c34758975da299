"""Fixtures of all rooms."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.killing import overrides, run_dir
from tests.warm import Warm
from vidgn.config.schema import DataConfig, SyntheticConfig, ViewsConfig

# A shell that starts the tests in the background has them ignore Ctrl-C, and so every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parent.parent

_TOGETHER = {  # folder or file of tests -> group, run by one of pytest-xdist's workers: what it shares is made once
    "tests/launch/": "launched",
    "tests/runs/test_kill.py": "disturbed",
    "tests/distributed/test_signals.py": "disturbed",
    "tests/training/test_one_experiment.py": "one_experiment",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what takes long to make stay together, and come first: short ones fill up the end."""
    for item in items:
        for path, group in _TOGETHER.items():
            if item.nodeid.startswith(path):
                item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos beside the repository; see the `shared` marker."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real videos in {folder}")
    return folder


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
            num_train=24, num_val=9, num_classes=3, num_frames=12, size=32, distractors=1, noise=8, seed=0
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
def undisturbed(warm: Warm, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a 2-rank run on real files that ran from start to end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = warm.start(overrides(shared_data), folder=folder)
    assert started.wait(300) == 0, started.log.read_text()
    started.assert_no_orphans()
    return run_dir(folder)
