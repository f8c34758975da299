"""What tests of starts share: a free port, and one run to compare with."""

import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.launch.commands import tiny
from tests.warm import Warm


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
