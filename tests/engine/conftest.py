"""One server of warm starts, and one run that nothing disturbed, for all tests that disturb one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.killing import overrides, run_dir
from tests.engine.warm import Warm


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
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
