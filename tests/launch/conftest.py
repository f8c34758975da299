"""A server that starts commands without their imports; see tests/engine/warm.py."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.engine.warm import Warm
from tests.launch.commands import tiny


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    server = Warm()
    yield server
    server.close()


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="session")
def one_node(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cell, trained by two ranks that one process launched: its folder, with the data beside the runs."""
    folder = tmp_path_factory.mktemp("one_node")
    started = warm.start(["train", *tiny(folder / "data")], folder=folder)
    assert started.wait(200) == 0, started.log.read_text()
    started.assert_no_orphans()
    return folder
